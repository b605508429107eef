"""Recipes: each that comes along is whole, resolves and builds its model; a new model is what is asked for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
from safetensors.torch import load_file
from torch import nn

import vitkit
from vitkit.api.runs import RunSpec
from vitkit.api.train import train
from vitkit.cli import main
from vitkit.data.sources.arrays import read_arrays
from vitkit.model.build import build_empty
from vitkit.training.recipes import list_recipes, read_recipe

NAMES = list_recipes()


def data(size: int = 8, classes: int = 2, channels: tuple[int, ...] = ()) -> Any:
    pixels = np.random.default_rng(0).integers(0, 256, (5 * classes, size, size, *channels), dtype=np.uint8)
    return read_arrays(pixels, np.arange(5 * classes) % classes, [f"c{at:04}" for at in range(classes)])


class Stopped(Exception):  # noqa: N818
    """A run got as far as its settings."""


def resolved(source: Any, **options: Any) -> RunSpec:
    """What a run would be made from."""
    told: list[RunSpec] = []

    def stop(run: RunSpec, folder: Path) -> None:
        told.append(run)
        raise Stopped

    with pytest.raises(Stopped):
        train(source, on_start=stop, **options)
    return told[0]


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_says_what_it_is_for_and_resolves(name: str, tmp_path: Path) -> None:
    text = Path(vitkit.__path__[0], "recipes", f"{name}.toml").read_text(encoding="utf-8")
    header = text.partition("\n\n")[0]
    entries = dict(re.findall(r"^# (command|hardware|time|expected|source): +(.+)$", header, re.MULTILINE))
    assert entries.keys() == {"command", "hardware", "time", "expected", "source"}
    assert f"--recipe {name}" in entries["command"] or entries["command"].startswith("vitkit learning-curve ")
    if name == "flowers":
        return  # from a checkpoint: below
    size = {"digits": 8, "fashion-mnist": 28, "cifar10": 32}.get(name.removesuffix("-gpu"), 64)
    source = data(size, channels=() if name.startswith(("digits", "fashion-mnist")) else (3,))
    run = resolved(source, recipe=name, output=tmp_path / "run")
    written = read_recipe(name)
    assert run.train.epochs == written.settings["epochs"] and run.train.lr == written.settings["lr"]
    assert build_empty(run.spec).spec == run.spec.spec
    for key, value in written.model.items():
        stored = run.preset if key == "preset" else run.spec.arch if key == "arch" else getattr(run.spec.spec, key)
        assert stored == (tuple(value) if isinstance(value, list) else value)


def test_the_flowers_recipe_fine_tunes_at_its_size(tmp_path: Path) -> None:
    model = vitkit.VisionTransformer(image_size=32, patch_size=16, embed_dim=32, depth=1, num_heads=1, mlp_dim=32)
    preprocess = vitkit.Preprocess(
        size=32, resize="shortest", resize_size=36, crop="center_round", interpolation="bicubic", mean=(0.5,) * 3,
        std=(0.5,) * 3,
    )  # fmt: skip
    model.save_pretrained(tmp_path / "start", preprocess=preprocess)
    run = resolved(data(140, channels=(3,)), model=tmp_path / "start", recipe="flowers", output=tmp_path / "run")
    assert (run.spec.spec.image_size, run.train.epochs) == ((128, 128), 25)
    flag = resolved(
        data(140, channels=(3,)), model=tmp_path / "start", recipe="flowers", image_size=64, output=tmp_path / "flag"
    )
    assert flag.spec.spec.image_size == (64, 64)


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}


@pytest.mark.peer
@pytest.mark.parametrize(
    ("recipe", "timm_name", "changes"),
    [
        ("imagenet-deit-small", "deit_small_patch16_224", {}),
        ("imagenet-deit3-base", "deit3_base_patch16_224", {}),
        ("imagenet-plain-s16", "vit_small_patch16_224", {"class_token": False, "global_pool": "avg", "fc_norm": False}),
    ],
)
def test_recipes_for_imagenet_train_timms_architectures(
    recipe: str, timm_name: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    run = resolved(data(16, classes=7, channels=(3,)), recipe=recipe, output=tmp_path / "run")
    assert run.spec.spec.image_size == (224, 224)
    theirs = shapes(timm.create_model(timm_name, num_classes=7, **changes))
    ours = shapes(build_empty(run.spec))
    if recipe == "imagenet-plain-s16":
        del theirs["pos_embed"]  # fixed sines here
    assert ours == theirs


def test_a_preset_without_a_checkpoint_is_the_shape_of_a_new_model(tmp_path: Path) -> None:
    run = resolved(data(16, channels=(3,)), preset="vit_tiny_patch16_224", image_size=32, output=tmp_path / "run")
    spec: Any = run.spec.spec
    assert (spec.embed_dim, spec.depth, spec.class_token, spec.num_classes) == (192, 12, True, 2)
    assert (run.model, run.preset, spec.image_size) == (None, "vit_tiny_patch16_224", (32, 32))


def test_a_new_model_of_ones_own_sizes_resumes_without_its_recipe_to_the_same_bits(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        'epochs = 2\nbatch_size = 4\n\n[model]\narch = "resnet"\nblock = "basic"\nwidth = 4\ndepths = [1, 1]\n'
    )
    whole = train(data(16), recipe=recipe, output=tmp_path / "whole")
    stopped = tmp_path / "stopped"
    with pytest.raises(Stopped):
        train(data(16), recipe=recipe, output=stopped, on_start=_stop)
    assert not (stopped / "checkpoints").exists()  # so that the start itself is made anew
    resumed = train(data(16), resume=stopped)
    spec = json.loads((stopped / "run.json").read_text())["run"]["spec"]
    assert (spec["arch"], spec["spec"]["width"], spec["spec"]["depths"]) == ("resnet", 4, [1, 1])
    first, second = (load_file(each.model / "model.safetensors") for each in (whole, resumed))
    assert first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def _stop(run: RunSpec, folder: Path) -> None:
    raise Stopped


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        ("[model]\ndepht = 3\n", [], "mine.toml: VitSpec has no key 'depht'; nearest: depth"),
        ('[model]\narch = "resnt"\n', [], "arch 'resnt' is unknown; nearest: resnet"),
        (
            '[model]\narch = "vit"\npreset = "vit_tiny_patch16_224"\n',
            [],
            "model has both a preset and an arch; give one",
        ),
        ('[model]\npreset = "vit_tin"\n', [], "preset 'vit_tin' is unknown; nearest: vit_"),
        ('[model]\npreset = "clip-vit-base-patch32"\n', [], "is a clip; a new model to train is a vit, swin or resnet"),
        ("[model]\nnum_classes = 3\n", [], "num_classes comes from the pictures; leave it out"),
        (
            "[model]\nembed_dim = 64\n",
            ["-m", "start"],
            "embed_dim is the checkpoint's own; leave it out, or start anew",
        ),
        ("model = 3\n", [], "mine.toml: model is 3, not a table"),
    ],
)
def test_what_a_new_model_cant_be_is_one_line(
    text: str, options: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(text)
    assert main(["train", "digits", "--recipe", "mine.toml", *options, "-o", "run"]) == 2
    assert says in " ".join(capsys.readouterr().err.split())
    assert not Path("run").exists()


def test_an_unknown_recipe_is_told_the_nearest(capsys: Any) -> None:
    assert main(["train", "digits", "--recipe", "cifar"]) == 2
    known = "recipe 'cifar' is unknown; nearest: cifar10; give a TOML file, or: cifar10, cifar10-gpu, digits,"
    assert known in capsys.readouterr().err

"""The same weights here and in timm or transformers agree in every stage; what is planted there is found there."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

import vitkit
from peers.families import ROWS
from peers.families.row import Row
from peers.test_families import load
from small import PREPROCESS, picture, picture_file, randomise
from vitkit import CheckpointError, ConfigError, EngineError, ImageError
from vitkit.cli import main
from vitkit.evaluation.stages import BLOCK
from vitkit.model.resnet_spec import ResNetSpec
from vitkit.model.spec import VitSpec

pytestmark = pytest.mark.peer

COMPARED = [
    row
    for row in ROWS
    # Visual words of patches are no logits of a picture.
    if row.layout in ("transformers", "timm") and row.family != "BEiT, pre-trained"
]
BY_NAME = {row.name: row for row in ROWS}


def lacking(spec: Any, family: str) -> set[str]:
    """The stages within a block that the other library doesn't name, or that do nothing on either side."""
    if isinstance(spec, ResNetSpec):
        return set(BLOCK) - {""}
    if not isinstance(spec, VitSpec):
        return {name for name in BLOCK if name not in ("attn", "mlp.fc1", "mlp.hidden", "mlp", "")}
    names = {"ls1", "ls2"} if not spec.layer_scale else set()
    return names | ({"mlp.fc1"} if spec.gated_mlp or family == "DINOv3" else set())


@pytest.mark.parametrize("row", COMPARED, ids=lambda row: row.name)
def test_equal_models_agree_in_every_stage(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = row.write(tmp_path / "m")
    checkpoint = load(foreign, tmp_path / "m", monkeypatch)
    assert checkpoint.card.preprocess is not None
    found = vitkit.diff((checkpoint.module(), checkpoint.card.preprocess), foreign.module)
    assert found.agrees, str(found)
    names = {stage.name for stage in found.stages}
    expected = {name for name in BLOCK if name not in lacking(checkpoint.model.spec, row.family)}
    assert {f"blocks.1.{name}".rstrip(".") for name in expected} <= names
    assert "pixels" in names and names & {"stem", "patch_embed"}
    assert names & {"norm", "logits"} or row.family.endswith((", without a head", ", without a last norm"))


LOADED = [
    ("hf", "ViT | transformers"),
    ("hf", "DeiT distilled | transformers"),
    ("hf", "BEiT | transformers"),
    ("hf", "DINOv2 | transformers"),
    ("hf", "CLIP | transformers"),
    ("hf", "Swin | transformers"),
    ("timm", "ViT | timm"),
    ("timm", "DeiT III | timm"),
    ("timm", "BEiT | timm"),
    ("timm", "DINOv2 with registers | timm"),
    ("timm", "Swin v2 | timm"),
]


@pytest.mark.parametrize(("library", "name"), LOADED, ids=lambda value: value)
def test_a_folder_run_by_its_own_library_agrees_from_the_picture_on(library: str, name: str, tmp_path: Path) -> None:
    BY_NAME[name].write(tmp_path / "m")
    shown = [picture(70, 90), picture_file(tmp_path / "p.jpg", 61, 44)]
    # timm's folders say 224 for pictures, whatever size the model in them was made for.
    size = 56 if "DINOv2" in name else 48
    sizes: dict[str, Any] = {"image_size_a": size, "image_size_b": size} if library == "timm" else {}
    found = vitkit.diff(tmp_path / "m", f"{library}:{tmp_path / 'm'}", shown, **sizes)
    assert found.agrees, str(found)
    assert [stage.name for stage in found.stages[:3]] == ["picture", "resized", "pixels"]
    assert found.pictures == 6 and found.same_top1 in (6, None)


def set_eps(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, nn.LayerNorm):
            part.eps = 1e-6


def set_tanh(module: Any) -> None:
    for block in module.blocks:
        block.mlp.act = nn.GELU(approximate="tanh")


def swap_q_and_k(module: Any) -> None:
    for layer in module.vit.layers:
        layer.attention.q_proj, layer.attention.k_proj = layer.attention.k_proj, layer.attention.q_proj


def drop_scale(*names: str) -> Callable[[nn.Module], None]:
    def drop(module: nn.Module) -> None:
        for name, parameter in module.named_parameters():
            if name.endswith(names):
                nn.init.ones_(parameter)

    return drop


def pool_patches(module: Any) -> None:
    module.global_pool = "avg"


PLANTED: list[tuple[str, Callable[[Any], None], str, str]] = [
    ("ViT | transformers", set_eps, "blocks.0.norm1", "LayerNorm eps: 1e-12 against 1e-06"),
    ("BEiT | transformers", set_eps, "blocks.0.norm1", "LayerNorm eps: 1e-12 against 1e-06"),
    ("ViT | timm", set_tanh, "blocks.0.mlp.hidden", "activation gelu against gelu_tanh"),
    ("BEiT | timm", set_tanh, "blocks.0.mlp.hidden", "activation gelu against gelu_tanh"),
    ("ViT | transformers", swap_q_and_k, "blocks.0.attn.q", "queries and keys are swapped"),
    ("DINOv2 | transformers", drop_scale(".lambda1"), "blocks.0.ls1", "the branch is scaled by about 0."),
    ("BEiT | transformers", drop_scale("lambda_1"), "blocks.0.ls1", "the branch is scaled by about 0."),
    ("BEiT | timm", drop_scale("gamma_2"), "blocks.0.ls2", "the branch is scaled by about 0."),
    ("DeiT III | timm", drop_scale("ls2.gamma"), "blocks.0.ls2", "the branch is scaled by about 0."),
    ("ViT | timm", pool_patches, "pooled", "pooling: the class token against the mean of the patch tokens"),
]


@pytest.mark.parametrize(("name", "plant", "stage", "hint"), PLANTED)
def test_what_is_planted_in_another_library_is_found_there(
    name: str, plant: Callable[[Any], None], stage: str, hint: str, tmp_path: Path
) -> None:
    foreign = BY_NAME[name].write(tmp_path / "m")
    plant(foreign.module)
    found = vitkit.diff(tmp_path / "m", foreign.module)
    assert found.departure is not None and found.departure.name == stage
    assert found.hint.startswith(hint)
    assert all(before.relative < 1e-12 for before in found.stages[: found.stages.index(found.departure)])


def test_positions_resampled_by_another_policy_are_found(tmp_path: Path) -> None:
    """DINOv2's classifier at another size than its own: transformers doesn't antialias."""
    foreign = BY_NAME["DINOv2 | transformers"].write(tmp_path / "m")
    ours = vitkit.load(tmp_path / "m", device="cpu")
    smaller = dataclasses.replace(ours.card.preprocess, size=(28, 28), resize_size=(28, 28))  # type: ignore[type-var]
    assert vitkit.diff((ours.module, smaller), foreign.module).agrees
    ours.module.spec = dataclasses.replace(ours.module.spec, position_resample="bicubic_antialias")
    found = vitkit.diff((ours.module, smaller), foreign.module)
    assert found.departure is not None and found.departure.name == "embedded"


def test_another_mean_in_a_processor_is_named(tmp_path: Path) -> None:
    BY_NAME["ViT | transformers"].write(tmp_path / "m")
    shutil.copytree(tmp_path / "m", tmp_path / "other")
    file = tmp_path / "other" / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "image_mean": [0.5, 0.5, 0.5]}))
    found = vitkit.diff(tmp_path / "m", f"hf:{tmp_path / 'other'}")
    assert [stage.name for stage in found.stages if not stage.agrees] == ["pixels"]
    assert found.hint == "mean: (0.4, 0.5, 0.6) against (0.5, 0.5, 0.5)"


def test_a_picture_that_timm_does_not_turn_departs_at_once(tmp_path: Path) -> None:
    BY_NAME["ViT | timm"].write(tmp_path / "m")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(40, 60).save(tmp_path / "turned.jpg", exif=exif)
    sizes: dict[str, Any] = {"image_size_a": 48, "image_size_b": 48}
    found = vitkit.diff(tmp_path / "m", f"timm:{tmp_path / 'm'}", [tmp_path / "turned.jpg"], **sizes)
    assert [stage.name for stage in found.stages if not stage.agrees] == ["picture"]
    assert str(found).startswith("departs first at picture: [60, 40, 3] against [40, 60, 3]")


def test_timm_at_another_size_resamples_as_we_do(tmp_path: Path) -> None:
    BY_NAME["ViT | timm"].write(tmp_path / "m")
    size: dict[str, Any] = {"image_size_a": 80, "image_size_b": 80}
    found = vitkit.diff(tmp_path / "m", f"timm:{tmp_path / 'm'}", **size)
    assert found.agrees, str(found)
    assert {stage.name: stage.shape_a for stage in found.stages}["embedded"] == (26, 40)


def test_a_checkpoint_without_a_processor_is_shown_the_others_pixels(tmp_path: Path) -> None:
    BY_NAME["ViT | transformers"].write(tmp_path / "m")
    shutil.copytree(tmp_path / "m", tmp_path / "other")
    (tmp_path / "other" / "preprocessor_config.json").unlink()
    assert vitkit.diff(tmp_path / "m", f"hf:{tmp_path / 'other'}").agrees
    with pytest.raises(ConfigError, match="neither .* says how pictures become pixels"):
        vitkit.diff(f"hf:{tmp_path / 'other'}", f"hf:{tmp_path / 'other'}")


@pytest.mark.parametrize(("library", "name"), [("hf", "ViT | transformers"), ("timm", "ViT | timm")])
def test_pictures_that_can_not_be_read_are_named(library: str, name: str, tmp_path: Path) -> None:
    BY_NAME[name].write(tmp_path / "m")
    theirs = f"{library}:{tmp_path / 'm'}"
    (tmp_path / "text.png").write_text("no picture")
    for bad in ("nothing.png", "text.png"):
        with pytest.raises(ImageError, match=bad):
            vitkit.diff(theirs, theirs, [tmp_path / bad])


def test_a_timm_folder_runs_in_transformers_too(tmp_path: Path) -> None:
    size = {"image_size": 48, "embed_dim": 40, "depth": 2, "num_heads": 5, "mlp_dim": 160, "num_classes": 3}
    model = randomise(vitkit.VisionTransformer(**size))  # type: ignore[arg-type]
    preprocess = dataclasses.replace(PREPROCESS, size=(48, 48), resize_size=(53, 53))
    vitkit.save(model, tmp_path / "m", preprocess=preprocess)  # type: ignore[arg-type]
    found = vitkit.diff(f"timm:{tmp_path / 'm'}", f"hf:{tmp_path / 'm'}")
    assert found.agrees and found.same_top1 == 4, str(found)


def test_the_command_takes_both_libraries(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    BY_NAME["ViT | transformers"].write(tmp_path / "m")
    vitkit.convert(tmp_path / "m", tmp_path / "native")
    folder, theirs = str(tmp_path / "native"), f"hf:{tmp_path / 'm'}"
    assert main(["diff", folder, theirs]) == 0
    assert capsys.readouterr().out.startswith(f"{folder} against {theirs}: 5")


def test_a_file_that_lacks_weights_is_no_side(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    BY_NAME["ViT | transformers"].write(tmp_path / "m")
    state = load_file(tmp_path / "m" / "model.safetensors")
    del state["classifier.bias"]
    save_file(state, tmp_path / "m" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"transformers fills classifier\.bias with random numbers"):
        vitkit.diff(f"hf:{tmp_path / 'm'}", f"hf:{tmp_path / 'm'}")


@pytest.mark.parametrize("library", ["timm", "hf"])
def test_what_a_library_can_not_load_is_said_in_a_line(library: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="empty: (timm|transformers) can't load it: "):
        vitkit.diff(f"{library}:{tmp_path / 'empty'}", tmp_path)


def test_options_that_a_library_does_not_take_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="image_size_a, parity_a: transformers takes it from the checkpoint alone"):
        vitkit.diff("hf:x", "hf:x", image_size_a=32, parity_a="timm")
    (tmp_path / "w.safetensors").touch()
    with pytest.raises(ConfigError, match=r"w\.safetensors: a bare weight file; name what it is with a preset"):
        vitkit.diff(f"timm:{tmp_path / 'w.safetensors'}", "hf:x")


@pytest.mark.parametrize(("library", "package"), [("timm", "timm"), ("hf", "transformers")])
def test_a_library_that_is_not_there_is_named(library: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(EngineError, match=f"{package} isn't installed here; pip install {package}"):
        vitkit.diff(f"{library}:x", f"{library}:x")


def test_real_weights_agree_with_timm(shared: Path) -> None:
    name, photo = "vit_tiny_patch16_224", next((shared / "data/photos").glob("*.JPEG"))
    weights = shared / f"weights/{name}.safetensors"
    found = vitkit.diff(weights, f"timm:{weights}", [photo], preset_a=name, preset_b=name)
    assert found.agrees and found.same_top1 == 5
    lower = vitkit.diff(weights, weights, [photo], preset_a=name, preset_b=name, dtype_b="bfloat16")
    assert lower.agrees and max(stage.relative for stage in lower.stages) > 1e-3
    assert torch.get_default_dtype() == torch.float32

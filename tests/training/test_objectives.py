"""Objectives plug into the one loop: a masked autoencoder and a teacher, each a class and a row of the table."""

import copy
import json
import math
import re
import signal
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import vitkit
from small import small_model
from training.mae_sketch import MaskedAutoencoder, encode
from vitkit.api.objectives import OBJECTIVES
from vitkit.api.train import train
from vitkit.data.augment import Augmentation, AugmentSpec
from vitkit.data.batch import Batch
from vitkit.data.samples import Samples
from vitkit.data.sources.arrays import read_arrays
from vitkit.data.sources.digits import read_digits
from vitkit.data.split import split
from vitkit.errors import Interrupted
from vitkit.training import loop
from vitkit.training.log import read_log
from vitkit.training.objective import Loss, Objective
from vitkit.training.optim import build_optimizer
from vitkit.training.spec import TrainSpec


class SelfDistillation(Objective):
    """From a small view, say what a slowly following teacher says of the whole one: DINO without its own loss."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.teacher = copy.deepcopy(model).requires_grad_(False)
        self.project = nn.Linear(64, 64)

    @classmethod
    def make(cls, model: nn.Module, spec: TrainSpec, samples: Samples) -> Self:
        return cls(model)

    def views(self, augment: AugmentSpec, held: tuple[int, int], size: tuple[int, int]) -> list[Augmentation]:
        return [Augmentation(augment, held, size), Augmentation(augment, held, (size[0] // 2, size[1] // 2), view=1)]

    def forward(self, model: nn.Module, batch: Batch, step: int) -> Loss:
        whole, small = batch.views
        assert whole.shape[2:] == (8, 8) and small.shape[2:] == (4, 4)
        with torch.no_grad():
            target = self.teacher.eval().embed(whole)
        agreement = torch.cosine_similarity(self.project(model.embed(small)), target)
        return Loss(1 - agreement.mean(), {"agreement": agreement.detach().mean()})

    @torch.no_grad()
    def after_step(self, model: nn.Module, step: int, steps: int) -> None:
        follow = 0.05 * (1 + math.cos(math.pi * step / steps))
        torch._foreach_lerp_(list(self.teacher.parameters()), list(model.parameters()), follow)


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OBJECTIVES, "mae", MaskedAutoencoder)  # type: ignore[arg-type]
    monkeypatch.setitem(OBJECTIVES, "self_distillation", SelfDistillation)  # type: ignore[arg-type]


def few_digits() -> Samples:
    digits = read_digits()
    return read_arrays(digits.pictures[:200], digits.labels[:200], digits.class_names, name="few")


def test_the_loop_and_an_objective_are_read_in_one_sitting() -> None:
    def length(file: str | None) -> int:
        assert file is not None
        return len(Path(file).read_text(encoding="utf-8").splitlines())

    assert length(loop.__file__) <= 300
    assert length(str(Path(__file__).with_name("mae_sketch.py"))) <= 150


def errors_of_knowing_nothing() -> tuple[float, float]:
    """What the masked autoencoder's loss is for painting grey, and for painting each place's mean training patch."""
    splits = split(read_digits(), val_fraction=0.2, seed=0)

    def patches(samples: Samples) -> np.ndarray:
        pixels = np.stack(samples.pictures)[..., 0] / 127.5 - 1  # type: ignore[arg-type]
        cut = pixels.reshape(-1, 4, 2, 4, 2).swapaxes(2, 3).reshape(-1, 16, 4)
        return (cut - cut.mean(-1, keepdims=True)) / np.sqrt(cut.var(-1, ddof=1, keepdims=True) + 1e-6)

    held_out, mean = patches(splits.val), patches(splits.train).mean(axis=0)
    return float((held_out**2).mean()), float(((held_out - mean) ** 2).mean())


@pytest.mark.slow
def test_a_masked_autoencoder_learns_the_digits(tmp_path: Path) -> None:
    result = train("digits", settings={"objective": "mae", "epochs": 22, "dtype": "float32"}, output=tmp_path / "run")
    log = read_log(result.folder / "log.jsonl")
    losses = [row["loss"] for row in log if row["kind"] == "evaluation"]
    grey, mean = errors_of_knowing_nothing()
    assert result.scores.keys() == {"loss"} and result.scores["loss"] == pytest.approx(losses[-1], rel=1e-4)
    assert losses[-1] < 0.8 * losses[0] and losses[-1] < 0.75 * grey and losses[-1] < 0.9 * mean


def test_an_encoder_is_what_an_objective_without_classes_leaves(tmp_path: Path) -> None:
    samples = few_digits()
    result = train(samples, settings={"objective": "mae", "epochs": 1}, output=tmp_path / "mae")
    page = (result.folder / "report.html").read_text(encoding="utf-8")
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", page)
    assert {"How it learned", "What it saw", "How it knows where things are", "Settings"} <= set(headings)
    assert not {"What it confuses", "What its answers rest on"} & set(headings)
    assert "vitkit embed" in page and "vitkit classify" not in page
    assert not (result.folder / "confusion.png").exists() and not (result.folder / "mistakes.png").exists()
    stored = json.loads((result.folder / "results.json").read_text(encoding="utf-8"))
    assert stored["loss"] == result.scores["loss"] and stored["count"] == 40
    encoder = vitkit.load(result.model)
    assert encoder.module.spec.num_classes == 0 and encoder.embed(list(samples.pictures[:3])).shape == (3, 64)
    tuned = train(samples, model=result.model, settings={"epochs": 1, "dtype": "float32"}, output=tmp_path / "tuned")
    assert "accuracy" in tuned.scores and vitkit.load(tuned.model).class_names == samples.class_names


def ending(folder: Path) -> dict[str, Tensor]:
    last = max((folder / "checkpoints").glob("step-*"), key=lambda path: int(path.name[5:]))
    tensors = load_file(folder / "model/model.safetensors")
    for file in last.glob("*.safetensors"):
        tensors |= {f"{file.stem}/{name}": tensor for name, tensor in load_file(file).items()}
    return tensors


@pytest.mark.parametrize(("name", "trained"), [("mae", "predict.bias"), ("self_distillation", "project.weight")])
def test_what_an_objective_owns_is_trained_and_resumes_to_the_bit(name: str, trained: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"objective": name, "epochs": 4, "batch_size": 32}
    samples = few_digits()

    def interrupt(progress: Any, row: dict[str, float]) -> None:
        if progress.step == 8:
            signal.raise_signal(signal.SIGINT)

    whole = train(samples, settings=settings, output=tmp_path / "whole")
    with pytest.raises(Interrupted, match="stopped after step 8"):
        train(samples, settings=settings, output=tmp_path / "cut", on_step=interrupt)
    cut = train(samples, resume=tmp_path / "cut")
    expected, found = ending(whole.folder), ending(cut.folder)
    assert found.keys() == expected.keys() and f"optimizer/exp_avg/objective.{trained}" in found
    assert [key for key, value in expected.items() if not torch.equal(found[key], value)] == []
    assert cut.scores == whole.scores


def test_a_teacher_follows_and_is_not_trained(tmp_path: Path) -> None:
    settings = {"objective": "self_distillation", "epochs": 4, "batch_size": 32, "ema_decay": 0.0}
    result = train(few_digits(), settings=settings, output=tmp_path / "run")
    tensors = ending(result.folder)
    assert not [name for name in tensors if name.startswith("optimizer/") and "teacher" in name]
    name = "blocks.0.mlp.fc1.weight"
    torch.manual_seed(0)
    start = vitkit.VisionTransformer(**vars(vitkit.load(result.model).module.spec)).state_dict()[name]
    student, teacher = tensors[f"model/{name}"], tensors[f"objective/teacher.{name}"]
    assert 0 < (teacher - student).norm() < 0.9 * (start - student).norm()
    rows = [row for row in read_log(result.folder / "log.jsonl") if row["kind"] == "step"]
    assert rows[-1]["agreement"] > rows[0]["agreement"] + 0.1 and result.scores == {}


def test_an_unknown_objective_is_an_error_before_any_work(tmp_path: Path) -> None:
    known = r"objective 'mea' is unknown; nearest: mae; allowed: classification, distillation, mae, self_distillation"
    with pytest.raises(vitkit.ConfigError, match=known):
        train("no such data", settings={"objective": "mea"}, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_settings_of_labels_are_refused_where_none_are_read(tmp_path: Path) -> None:
    settings = {"objective": "mae", "label_smoothing": 0.1, "mix": {"mixup": 0.2}}
    said = r"label_smoothing is 0.1; mix.mixup is 0.2: the objective 'mae' reads no labels"
    with pytest.raises(vitkit.ConfigError, match=said):
        train(few_digits(), settings=settings, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_objectives_biases_norms_and_tokens_do_not_decay() -> None:
    model = small_model()
    objective = MaskedAutoencoder(model.spec)
    names = {id(parameter): name for name, parameter in objective.named_parameters()}
    groups = build_optimizer(model, objective, TrainSpec(weight_decay=0.3)).param_groups
    decays = {names[id(p)]: group["weight_decay"] for group in groups for p in group["params"] if id(p) in names}
    assert decays.keys() == set(names.values())
    assert {name for name, decay in decays.items() if decay} == {
        name for name in decays if name.endswith(".weight") and "norm" not in name
    }


def test_the_sketchs_encoder_sees_no_hidden_patch() -> None:
    model = small_model(num_classes=0).eval()
    pixels = torch.randn(2, 3, 32, 32)
    visible = torch.tensor([[5, 0, 9], [15, 1, 2]])
    hidden = torch.ones(2, 16).scatter(1, visible, 0.0).reshape(2, 1, 4, 4)
    noise = torch.randn_like(pixels) * torch.nn.functional.interpolate(hidden, scale_factor=8.0)
    assert torch.equal(encode(model, pixels, visible), encode(model, pixels + noise, visible))
    every = torch.arange(16).expand(2, -1)
    torch.testing.assert_close(encode(model, pixels, every), model.features(pixels).patch_tokens)


@pytest.mark.peer
def test_the_sketchs_mask_and_loss_are_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = ViTMAEConfig(
        image_size=32, patch_size=8, norm_pix_loss=True, **sizes, **{f"decoder_{name}": n for name, n in sizes.items()}
    )
    pixels, noise = torch.randn(3, 3, 32, 32), torch.rand(3, 16)
    theirs = ViTMAEForPreTraining(config)(pixels, noise=noise)
    model = small_model(num_classes=0)
    objective = MaskedAutoencoder(model.spec)
    painted = theirs.logits.unflatten(-1, (8, 8, 3)).movedim(-1, 2).flatten(2)  # [B, N, p*p*C] to [B, N, C*p*p]
    monkeypatch.setattr(objective, "decode", lambda encoded, visible: painted)
    torch.testing.assert_close(objective.losses(model, pixels, noise).mean(), theirs.loss)

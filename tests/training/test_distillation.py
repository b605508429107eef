"""Distillation: timm's losses, DeiT's two heads, a teacher shown what the student sees, and runs that resume."""

import dataclasses
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import vitkit
from small import NAMES, PREPROCESS, randomise, small_folder, small_model
from vitkit import ConfigError, Preprocess, ResNet
from vitkit.api.teachers import open_teacher
from vitkit.api.train import train
from vitkit.checkpoint.adapt import with_distillation_token
from vitkit.checkpoint.card import Card
from vitkit.checkpoint.read import read
from vitkit.checkpoint.save import save_native
from vitkit.data.batch import Batch
from vitkit.data.mix import MixSpec, draw_mix
from vitkit.data.samples import Samples
from vitkit.data.sources.arrays import read_arrays
from vitkit.errors import Interrupted
from vitkit.model.base import ImageModel
from vitkit.training.distill_spec import DistillSpec
from vitkit.training.distillation import Distillation
from vitkit.training.log import read_log
from vitkit.training.spec import TrainSpec
from vitkit.training.state import Progress, find_checkpoint

CPU = torch.device("cpu")
SHOWN = Preprocess(size=32, resize="squash", crop="none", interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3)
BRIGHT = ("bright", "dark")


def resnet(folder: Path, class_names: tuple[str, ...] = NAMES, *, size: int = 32) -> Path:
    """A teacher of another family than its student, with other normalisation."""
    model = ResNet(image_size=size, num_classes=len(class_names), block="basic", width=32, depths=(1, 1))
    preprocess = Preprocess(
        size=size, resize="squash", crop="none", interpolation="bicubic", mean=PREPROCESS.mean, std=PREPROCESS.std
    )
    randomise(model).save_pretrained(folder, preprocess=preprocess, class_names=class_names)
    return folder


def objective(model: ImageModel, teacher: Path, **settings: Any) -> Distillation:
    spec = TrainSpec(objective="distillation", distill=DistillSpec(**settings), label_smoothing=0.0)
    made = Distillation.make(model, spec, pictures())
    made.teacher, _ = open_teacher(str(teacher), NAMES, SHOWN, CPU, soft=True)
    return made


def batch(count: int = 5, **targets: torch.Tensor) -> Batch:
    labels = torch.arange(count) % 7
    return Batch((torch.randn(count, 3, 32, 32),), {"label": labels, **targets}, torch.arange(count), torch.ones(count))


@pytest.mark.peer
@pytest.mark.parametrize(
    ("token", "kind", "alpha", "temperature"),
    [(True, "hard", 0.5, 1.0), (True, "soft", 0.1, 3.0), (False, "soft", 0.9, 1.5)],  # what timm has
)
def test_loss_and_gradients_are_timms(token: bool, kind: str, alpha: float, temperature: float, tmp_path: Path) -> None:
    from timm.models.deit import VisionTransformerDistilled
    from timm.models.vision_transformer import VisionTransformer
    from timm.task import LogitDistillationTask, TokenDistillationTask

    ours = small_model(distillation_token=token)
    sizes = {"img_size": 32, "patch_size": 8, "num_classes": 7, "embed_dim": 32, "depth": 2, "num_heads": 4}
    theirs = (VisionTransformerDistilled if token else VisionTransformer)(**sizes, mlp_ratio=2)
    theirs.load_state_dict(ours.state_dict())
    teacher = vitkit.load(resnet(tmp_path / "teacher"), device="cpu").module
    teacher.pretrained_cfg = {"mean": PREPROCESS.mean, "std": PREPROCESS.std}  # type: ignore[assignment]
    theirs.pretrained_cfg = {"mean": SHOWN.mean, "std": SHOWN.std}
    task = (TokenDistillationTask if token else LogitDistillationTask)(
        theirs,
        teacher,
        torch.nn.CrossEntropyLoss(),
        task_loss_weight=1 - alpha,
        temperature=temperature,
        verbose=False,
        **({"distill_type": kind} if token else {}),
    )
    seen = batch()
    found = objective(ours, tmp_path / "teacher", kind=kind, alpha=alpha, temperature=temperature)(ours, seen, 0)
    expected = task(seen.views[0], seen.targets["label"])
    torch.testing.assert_close(found.total, expected["loss"], rtol=1e-5, atol=1e-6)
    found.total.backward()
    expected["loss"].backward()
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(ours.get_parameter(name).grad, parameter.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.parts["label_loss"], expected["task_loss"].detach())
    torch.testing.assert_close(found.parts["teacher_loss"], expected["distill_loss" if token else "kd_loss"].detach())


@pytest.mark.parametrize("size", [32, 64])
def test_a_teacher_says_of_a_view_what_it_says_of_the_picture(size: int, tmp_path: Path) -> None:
    order = NAMES[::-1]
    source = resnet(tmp_path / "teacher", order, size=size)
    teacher, _ = open_teacher(str(source), NAMES, SHOWN, CPU, soft=True)
    plain = vitkit.load(source, device="cpu")
    # Smooth pictures: how they are made larger hardly matters.
    rows, columns = np.mgrid[0:32, 0:32]
    pictures = [np.stack([4 * rows + 3 * columns, 200 - 2 * rows, 40 + at + 5 * columns], -1) for at in range(4)]
    pixels = np.stack(pictures).astype(np.uint8)
    view = torch.from_numpy((pixels / 255.0 - 0.5) / 0.5).permute(0, 3, 1, 2).float()
    expected = [{each.class_name: each.probability for each in plain.classify(p, top=7)} for p in pixels]
    found = teacher(view).softmax(dim=-1)
    for answer, row in zip(expected, found, strict=True):
        said = torch.tensor([answer[name] for name in NAMES])
        torch.testing.assert_close(row, said, rtol=0, atol=1e-5 if size == 32 else 2e-2)


def test_a_teacher_must_know_the_classes(tmp_path: Path) -> None:
    source = str(resnet(tmp_path / "teacher", ("rose", "tulip", "tulip", "daisy")))
    teacher, digest = open_teacher(source, ("daisy", "rose"), SHOWN, CPU, soft=True)
    assert teacher.outputs.tolist() == [3, 0]
    assert digest != open_teacher(source, ("rose", "daisy"), SHOWN, CPU, soft=True)[1]
    with pytest.raises(ConfigError, match=r"doesn't know classes of the data: 'roses'; nearest: rose; 'elm'"):
        open_teacher(source, ("roses", "elm", "daisy"), SHOWN, CPU, soft=True)
    with pytest.raises(ConfigError, match="has several classes of the same name: 'tulip'"):
        open_teacher(source, ("rose", "tulip"), SHOWN, CPU, soft=True)
    with pytest.raises(ConfigError, match="reads 3 channels, the pictures have 1"):
        grey = Preprocess(size=32, resize="squash", crop="none", interpolation="bicubic", mean=(0.5,), std=(0.5,))
        open_teacher(source, ("rose",), grey, CPU, soft=True)
    small_model().save_pretrained(tmp_path / "nameless", preprocess=PREPROCESS)
    with pytest.raises(ConfigError, match="has no names for its classes"):
        open_teacher(str(tmp_path / "nameless"), NAMES, SHOWN, CPU, soft=True)


def test_soft_answers_are_a_softmaxs_and_hard_ones_any_teachers(tmp_path: Path) -> None:
    source = str(tmp_path / "teacher")
    save_native(small_model(), source, card=Card(preprocess=PREPROCESS, class_names=NAMES, scores="sigmoid"))
    with pytest.raises(ConfigError, match=r"a probability of its own \(sigmoid\), .* distill.kind 'hard'"):
        open_teacher(source, NAMES, SHOWN, CPU, soft=True)
    open_teacher(source, NAMES, SHOWN, CPU, soft=False)


def test_an_added_token_is_a_second_class_token(tmp_path: Path) -> None:
    start = read(small_folder(tmp_path / "m", num_registers=2))
    student = with_distillation_token(start)
    assert student.model.spec.num_prefix_tokens == 4 and with_distillation_token(student) is student  # type: ignore[union-attr]
    module = student.module()
    first, second, *registers = module.features(torch.randn(2, 3, 32, 32)).prefix_tokens.unbind(1)
    torch.testing.assert_close(first, second)
    assert not torch.allclose(first, registers[0])
    assert torch.equal(module.head.weight, module.head_dist.weight)  # type: ignore[union-attr]
    assert torch.equal(module.pos_embed[:, 2:], start.state["pos_embed"][:, 1:])  # type: ignore[index]


def pictures(*, labels: str = "true") -> Samples:
    """Left halves bright or dark, by turns; with labels that are right, or right half of the time."""
    pixels = np.random.default_rng(0).integers(0, 60, (60, 8, 8, 3), dtype=np.uint8)
    pixels[::2, :, :4] += 150
    told = np.arange(60) % 2
    told = told if labels == "true" else told ^ (np.arange(60) // 2 % 2)
    return read_arrays(pixels, told, BRIGHT)


STILL: dict[str, Any] = {"flip": 0.0, "crop_scale": None}
SETTINGS: dict[str, Any] = {"epochs": 4, "batch_size": 8, "lr": 3e-3, "ema_decay": 0.5, "augment": STILL}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose model tells the halves, its classes in the data's order."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    mix = {"mixup": 0.0, "cutmix": 0.0}
    result = train(pictures(), settings={**SETTINGS, "mix": mix}, output=folder, baseline=False)
    assert result.scores["accuracy"] == 1
    return folder


def distil(teacher: Path, samples: Samples, output: Path, **settings: Any) -> Any:
    distill = {"teacher": str(teacher), **settings.pop("distill", {})}
    settings = {**SETTINGS, "objective": "distillation", "distill": distill, **settings}
    return train(samples, settings=settings, output=output, baseline=False)


@pytest.mark.parametrize(("kind", "cache"), [("hard", False), ("soft", False), ("soft", True)])
def test_a_student_learns_what_only_its_teacher_knows(kind: str, cache: bool, teacher: Path, tmp_path: Path) -> None:
    """Of the labels, half are wrong: they say nothing."""
    samples = pictures(labels="noise")
    told = distil(teacher, samples, tmp_path / "run", distill={"kind": kind, "alpha": 1.0, "cache": cache})
    student = vitkit.load(told.model, device="cpu")
    answers = [student.classify(picture)[0].class_name for picture in samples.pictures]  # type: ignore[arg-type]
    assert answers.count("bright") == 30 and answers[::2].count("bright") >= 29
    assert student.module.spec.distillation_token  # type: ignore[union-attr]
    rows = [row for row in read_log(tmp_path / "run" / "log.jsonl") if row["kind"] == "step"]
    assert rows[-1]["teacher_loss"] < rows[0]["teacher_loss"] / 2 and rows[-1]["loss"] == rows[-1]["teacher_loss"]


def test_remembered_answers_are_of_the_picture_as_evaluated_and_mixed_as_labels(teacher: Path, tmp_path: Path) -> None:
    from vitkit.data.loader import Loader
    from vitkit.data.store import make_store

    samples, mix, shown = pictures(), MixSpec(mixup=0.5), dataclasses.replace(SHOWN, size=8, resize_size=8)
    store = make_store(samples, shown, training=True)
    made = Distillation()
    made.settings = DistillSpec(teacher="", kind="soft", temperature=2.0)
    made.teacher, _ = open_teacher(str(teacher), BRIGHT, shown, CPU, soft=True)
    loader = Loader(store, samples.labels, 2, shown, batch_size=8, shuffle=True, drop_last=True, mix=mix)
    read: list[tuple[int, int]] = []
    answers = made.all_answers(loader, lambda done, total: read.append((done, total)))
    assert read[-1] == (60, 60)
    plain = vitkit.load(teacher / "model", device="cpu")
    for at in (0, 1, 58):
        said = {each.class_name: each.probability for each in plain.classify(samples.pictures[at], top=2)}  # type: ignore[arg-type]
        expected = torch.tensor([said[name] for name in BRIGHT]).sqrt()  # softmax at the temperature 2
        torch.testing.assert_close(answers[at], expected / expected.sum(), rtol=0, atol=1e-5)
    found = loader.with_answers(answers).batch(3)
    weight = draw_mix(mix, 0, 3, (8, 8)).weight
    own = answers[found.index]
    torch.testing.assert_close(found.targets["answers"], weight * own + (1 - weight) * own.flip(0))
    assert 0.01 < weight < 0.99 and "answers" not in loader.batch(3).targets


def ending(run: Path) -> dict[str, torch.Tensor]:
    last = find_checkpoint(run / "checkpoints")
    assert last is not None
    files = [*last.glob("*.safetensors"), run / "model" / "model.safetensors"]
    return {f"{file.stem}/{name}": value for file in files for name, value in load_file(file).items()}


@pytest.mark.parametrize("cache", [False, True])
def test_a_run_resumes_to_the_bit_and_keeps_no_teacher(cache: bool, teacher: Path, tmp_path: Path) -> None:
    shutil.copytree(teacher, tmp_path / "teacher")
    settings: dict[str, Any] = {"distill": {"kind": "soft", "cache": cache}, "mix": {"mixup": 0.4, "cutmix": 1.0}}
    settings |= {"augment": {"crop_scale": [0.3, 1.0], "flip": 0.5}, "drop_path": 0.2, "epochs": 2}

    def interrupt(progress: Progress, row: dict[str, float]) -> None:
        if progress.step == 4:
            signal.raise_signal(signal.SIGINT)

    whole = distil(tmp_path / "teacher", pictures(), tmp_path / "whole", **settings)
    distill = {"teacher": str(tmp_path / "teacher"), **settings.pop("distill")}
    settings = {**SETTINGS, "objective": "distillation", "distill": distill, **settings}
    with pytest.raises(Interrupted):
        train(pictures(), settings=settings, output=tmp_path / "cut", baseline=False, on_step=interrupt)
    train(pictures(), resume=tmp_path / "cut", baseline=False)
    expected, found = ending(whole.folder), ending(tmp_path / "cut")
    assert found.keys() == expected.keys()
    assert [name for name, value in expected.items() if not torch.equal(found[name], value)] == []
    assert {name.partition("/")[0] for name in found} == {"model", "ema", "optimizer"}

    recorded = json.loads((tmp_path / "cut" / "run.json").read_text())["run"]
    assert recorded["train"]["distill"]["teacher"] == str(tmp_path / "teacher") and len(recorded["teacher"]) == 64
    weights = tmp_path / "teacher" / "model"
    other = vitkit.load(weights, device="cpu").module
    shutil.rmtree(weights)
    randomise(other).save_pretrained(weights)  # nothing but its numbers differs
    with pytest.raises(ConfigError, match=f"started otherwise: teacher: {recorded['teacher']}, now [0-9a-f]{{64}};"):
        train(pictures(), resume=tmp_path / "cut", baseline=False)


def test_students_without_a_token_learn_on_their_class_head(teacher: Path, tmp_path: Path) -> None:
    start = resnet(tmp_path / "start", BRIGHT)
    settings = {**SETTINGS, "epochs": 1, "objective": "distillation"}
    said = "a distillation token can't be added: a ResNet has none; set distill.token to false"
    with pytest.raises(ConfigError, match=said):
        train(
            pictures(), model=start, settings={**settings, "distill": {"teacher": str(teacher)}}, output=tmp_path / "a"
        )
    small_folder(tmp_path / "mean", class_token=False, pool="mean")
    said = "a distillation token can't be added: distillation_token has a head of its own: it needs pool 'cls'"
    with pytest.raises(ConfigError, match=said):
        distill = {"teacher": str(teacher)}
        train(pictures(), model=tmp_path / "mean", settings={**settings, "distill": distill}, output=tmp_path / "a")
    distill = {"teacher": str(teacher), "token": False, "kind": "soft"}
    result = train(
        pictures(), model=start, settings={**settings, "distill": distill}, output=tmp_path / "b", baseline=False
    )
    assert "accuracy" in result.scores and vitkit.load(result.model, device="cpu").module.spec.title == "ResNet"


def test_contradictions_are_named_before_any_work(tmp_path: Path) -> None:
    for settings, said in (
        ({"objective": "distillation"}, "objective 'distillation' needs distill.teacher"),
        (
            {"distill": {"teacher": "x"}},
            "distill is set, but objective is 'classification'; name a --teacher, or set 'distillation'",
        ),
        ({"distill": {"alpha": 0.0, "temperature": -1}}, "alpha is 0.0; allowed: above 0 to 1; temperature is -1.0"),
        (
            {"objective": "distillation", "distill": {"teacher": "x"}, "tune": "lora"},
            "distill.token adds a token, which tune 'lora' freezes",
        ),
        (
            {"objective": "distillation", "distill": {"teacher": "x"}, "loss": "bce"},
            "a teacher's answers are of one class a picture: loss is 'bce', and arrays .train. has one label a picture",
        ),
        (
            {"objective": "distillation", "distill": {"teacher": "no such"}},
            "the teacher 'no such' is neither a file or folder",
        ),
    ):
        with pytest.raises(vitkit.VitkitError, match=said):
            train(pictures(), model=None, settings=settings, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()

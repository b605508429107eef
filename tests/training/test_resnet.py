"""A ResNet in training: batch norms in the loop, in its checkpoints, in the moving average and in the result."""

import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import vitkit
from vitkit import Preprocess, ResNet
from vitkit.api.train import train
from vitkit.errors import Interrupted
from vitkit.training.state import Progress, find_checkpoint

HALF = (0.5, 0.5, 0.5)
PREPROCESS = Preprocess(size=16, resize="squash", crop="none", interpolation="bicubic", mean=HALF, std=HALF)
SETTINGS = {"epochs": 8, "batch_size": 8, "lr": 0.01, "ema_decay": 0.5, "drop_path": 0.1}


def start(folder: Path, block: str) -> Path:
    """A new model, untrained, as a checkpoint to start from."""
    torch.manual_seed(0)
    model = ResNet(image_size=16, num_classes=0, block=block, width=32, depths=(1, 1))  # type: ignore[arg-type]
    model.eval().save_pretrained(folder, preprocess=PREPROCESS)
    return folder


def pictures(folder: Path) -> Path:
    """Stripes that lie or stand, which no crop or flip makes the other."""
    rng = np.random.default_rng(0)
    for number in range(30):
        pixels = rng.integers(0, 60, (16, 16, 3), dtype=np.uint8)
        pixels[2::4] += 150
        pixels[3::4] += 150
        pixels = pixels if number % 2 else pixels.swapaxes(0, 1)
        file = folder / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    return folder


def weights(run: Path) -> dict[str, torch.Tensor]:
    last = find_checkpoint(run / "checkpoints")
    assert last is not None
    return {
        f"{name}/{key}": value
        for name in ("model", "ema", "optimizer")
        for key, value in load_file(last / f"{name}.safetensors").items()
    }


@pytest.mark.parametrize("block", ["basic", "bottleneck", "preactivation"])
def test_it_learns_resumes_to_the_bit_and_is_used(block: str, tmp_path: Path) -> None:
    data, model = pictures(tmp_path / "data"), start(tmp_path / "start", block)
    whole = train(data, model=model, settings=SETTINGS, output=tmp_path / "whole")
    assert whole.scores["accuracy"] == 1

    def interrupt(progress: Progress, row: dict[str, float]) -> None:
        if progress.step == 4:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        train(data, model=model, settings=SETTINGS, output=tmp_path / "cut", on_step=interrupt)
    train(resume=tmp_path / "cut")
    expected, found = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert vitkit.verify(whole.model).agrees
    trained = vitkit.load(whole.model, device="cpu")
    assert isinstance(trained.module, ResNet)
    assert trained.classify(data / "b/1.png", top=1)[0].class_name == "b"
    explained = trained.explain(data / "b/1.png")
    assert explained.method == "Grad-CAM, last stage" and explained.map.shape == (2, 2)


def test_its_norms_have_seen_every_batch_and_the_average_knows(tmp_path: Path) -> None:
    run = train(
        pictures(tmp_path / "d"), model=start(tmp_path / "s", "basic"), settings=SETTINGS, output=tmp_path / "r"
    )
    found, before = weights(run.folder), load_file(tmp_path / "s/model.safetensors")
    for name, tensor in before.items():
        if name.endswith("num_batches_tracked"):
            assert tensor == 0 and found[f"model/{name}"] == found[f"ema/{name}"] == 24
        if name.endswith(("running_mean", "running_var")):
            assert not torch.equal(found[f"ema/{name}"], tensor)

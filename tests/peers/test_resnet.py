"""What is done to a ResNet beyond reading it: other channels as in timm, and training as torchvision's does."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

import vitkit
from peers.families.resnet import ROWS
from peers.families.row import Foreign, Row
from small import relative
from vitkit.checkpoint.families import LAYOUTS
from vitkit.checkpoint.namemap import apply
from vitkit.model.build import build, model_spec
from vitkit.model.resnet_spec import ResNetSpec

pytestmark = pytest.mark.peer

WRITERS = {row.name: row.write for row in ROWS if row.layout == "timm"}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("channels", [1, 5])
def test_other_channels_are_timms(write: Callable[[Path], Foreign], channels: int, tmp_path: Path) -> None:
    import timm

    write(tmp_path / "timm")
    vitkit.convert(tmp_path / "timm", tmp_path / "ours", to="timm")
    ours = vitkit.load(tmp_path / "timm", in_channels=channels, device="cpu").module
    pixels = torch.randn(2, channels, 64, 64)
    for folder in ("timm", "ours"):
        theirs = timm.create_model(f"local-dir:{tmp_path / folder}", pretrained=True, in_chans=channels).eval()
        with torch.no_grad():
            assert relative(ours(pixels), theirs(pixels)) < 1e-5


@pytest.mark.parametrize("row", [row for row in ROWS if row.layout.startswith("torchvision")], ids=lambda row: row.name)
def test_in_training_it_is_torchvisions(row: Row, tmp_path: Path) -> None:
    """Answers, gradients and what the norms remember, of two batches."""
    foreign = row.write(tmp_path / "m")
    theirs, layout = foreign.module.double().train(), LAYOUTS["timm/resnet"]
    assert isinstance(foreign.spec, ResNetSpec)
    ours = build(model_spec(foreign.spec)).double()
    shapes = {name: tensor.shape for name, tensor in ours.state_dict().items()}

    def in_our_words(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return apply(layout.rules, tensors, foreign.spec, shapes, origin="torchvision").state

    ours.load_state_dict(in_our_words(theirs.state_dict()))
    for _ in range(2):
        pixels = torch.randn(4, 3, 48, 48, dtype=torch.float64)
        found, expected = ours(pixels), theirs(pixels)
        torch.testing.assert_close(found, expected)
        found.square().sum().backward()
        expected.square().sum().backward()
    after = in_our_words(theirs.state_dict())
    assert after.keys() == ours.state_dict().keys()
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, after[name])
    learned = {name: parameter.grad for name, parameter in theirs.named_parameters() if parameter.grad is not None}
    slopes = in_our_words({**theirs.state_dict(), **learned})
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, slopes[name], rtol=1e-6, atol=1e-9)

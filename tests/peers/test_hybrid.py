"""What is done to a hybrid beyond reading it: other channels enter its stem, as in timm."""

from pathlib import Path

import pytest
import torch

import vitkit
from peers.families.hybrid import R50, ROOT, write_timm
from small import relative

pytestmark = pytest.mark.peer


@pytest.mark.parametrize("architecture", [R50, ROOT])
@pytest.mark.parametrize("channels", [1, 5])
def test_other_channels_are_timms(architecture: str, channels: int, tmp_path: Path) -> None:
    import timm

    write_timm(architecture, tmp_path / "timm", img_size=64)
    vitkit.convert(tmp_path / "timm", tmp_path / "ours")
    ours = vitkit.load(tmp_path / "timm", in_channels=channels, device="cpu").module
    pixels = torch.randn(2, channels, 64, 64)
    for folder in ("timm", "ours"):
        theirs = timm.create_model(f"local-dir:{tmp_path / folder}", pretrained=True, in_chans=channels).eval()
        with torch.no_grad():
            assert relative(ours(pixels), theirs(pixels)) < 1e-5

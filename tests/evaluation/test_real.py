"""A published model on real photos is right exactly as often as it was measured elsewhere."""

from pathlib import Path

import pytest

import vitkit

pytestmark = pytest.mark.shared


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [8, 1])
def test_vit_tiny_names_172_of_200_photos(shared: Path, batch_size: int) -> None:
    weights = shared / "weights" / "vit_tiny_patch16_224.safetensors"
    labels = shared / "data" / "photos" / "labels.csv"
    scores = vitkit.evaluate(weights, labels, preset="vit_tiny_patch16_224", device="cpu", batch_size=batch_size)
    assert (scores.correct, scores.count, scores.failed) == (172, 200, ())
    assert scores.top1 == 0.86
    assert scores.top5 > scores.top1

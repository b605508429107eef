"""Swin adapted to another size, and to other windows, is what timm makes of the same weights."""

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from peers.families.row import timm_folder
from peers.families.swin import ARCHITECTURES, Version, lively, timm_answer
from small import relative
from vitkit.checkpoint.adapt import adapt
from vitkit.checkpoint.read import read
from vitkit.model.swin import SwinTransformer
from vitkit.model.swin_spec import SwinSpec

pytestmark = pytest.mark.peer

SIZES: dict[str, Any] = {"img_size": 64, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4}


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("size", "window"), [((24, 24), None), ((24, 40), None), ((96, 96), 6), ((32, 32), 3)])
def test_tables_follow_windows_as_in_timm(
    version: Version, size: tuple[int, int], window: int | None, tmp_path: Path
) -> None:
    import timm
    from timm.models import save_for_hf

    theirs: Any = lively(timm_folder(tmp_path, timm.create_model(ARCHITECTURES[version], **SIZES)))
    save_for_hf(theirs, tmp_path, safe_serialization=True)
    checkpoint = read(tmp_path)
    with warnings.catch_warnings():  # how its interpolation indexes
        warnings.simplefilter("ignore")
        theirs.set_input_size(img_size=size, window_size=window or 4)
    if window is None:  # the windows are asked to stay, and shrink with the last grid
        module = adapt(checkpoint, image_size=size).module()
        shrunk = module.spec.bias_window(1)  # type: ignore[union-attr]
        assert shrunk == tuple(min(4, -(-side // 8)) for side in size) and shrunk != (4, 4)
    else:
        old = checkpoint.model.spec
        assert isinstance(old, SwinSpec)
        new = dataclasses.replace(old, image_size=size, window_size=(window, window))
        module = SwinTransformer(**vars(new)).eval()
        module.load_state_dict(SwinTransformer.resized_state(checkpoint.state, old, new))
    pixels = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected, found = timm_answer(theirs, pixels), module.features(pixels)
        assert relative(found.patch_tokens, expected["tokens"]) < 1e-5
        assert relative(module(pixels), expected["logits"]) < 1e-5

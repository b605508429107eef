"""DINOv2 and DINOv3 files that aren't what the preset or their layout says, and what they can't be written as."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import vitkit
from small import PREPROCESS, small_model
from vitkit import CheckpointError
from vitkit.checkpoint.read import read
from vitkit.model.position import rotation_periods

ROTARY = {"position": "rope", "num_registers": 2, "layer_scale": 1e-5, "norm_eps": 1e-5, "qkv_bias": "qv"}


@pytest.mark.parametrize(
    ("periods", "faulty"),
    [
        (rotation_periods(64), False),
        (rotation_periods(64).bfloat16(), False),
        (rotation_periods(64) ** 1.5, True),  # base 1000
        (rotation_periods(32), True),
    ],
)
def test_rotary_periods_other_than_the_models_are_a_fault(tmp_path: Path, periods: Tensor, faulty: bool) -> None:
    marks = {"storage_tokens": torch.zeros(1, 4, 384), "blocks.0.ls1.gamma": torch.ones(384)}
    save_file({**marks, "rope_embed.periods": periods}, tmp_path / "meta.safetensors")
    with pytest.raises(CheckpointError, match="missing: cls_token") as error:
        read(tmp_path / "meta.safetensors", preset="vit_small_patch16_dinov3")
    assert ("rope_embed.periods (not as the model computes it)" in str(error.value)) == faulty


def test_a_preset_without_registers_is_refused_for_a_file_with_them(tmp_path: Path) -> None:
    marks = {"mask_token": torch.zeros(1, 384), "pos_embed": torch.zeros(1, 1370, 384)}
    registers = {"blocks.0.ls1.gamma": torch.ones(384), "register_tokens": torch.zeros(1, 4, 384)}
    save_file({**marks, **registers}, tmp_path / "meta.safetensors")
    with pytest.raises(CheckpointError, match="1 unexpected: register_tokens"):
        read(tmp_path / "meta.safetensors", preset="vit_small_patch14_dinov2")


@pytest.mark.parametrize(
    ("to", "changes", "says"),
    [
        ("hf", {**ROTARY, "num_classes": 7}, "it has no class with a head"),
        ("hf", {**ROTARY, "num_classes": 0, "pool": "mean"}, "pool is 'mean', it knows 'cls'"),
        ("timm", {**ROTARY, "activation": "relu"}, "activated by gelu, a gated one by silu, not relu"),
        (
            "hf",
            {"layer_scale": 1e-5, "num_classes": 0, "mlp_dim": 100},
            "no whole mlp_ratio gives its MLP a width of 100",
        ),
        ("hf", {"layer_scale": 1e-5, "pool": "cls", "mlp_dim": 64}, "it pools by 'cls_mean' for a classifier"),
        ("hf", {"layer_scale": 1e-5, "num_classes": 0, "gated_mlp": True}, "activated by silu, not gelu"),
        (
            "hf",
            {"layer_scale": 1e-5, "num_classes": 0, "image_size": (16, 32)},
            "positions are those of square pictures",
        ),
    ],
)
def test_what_a_library_cant_hold_is_refused_with_the_reason(
    tmp_path: Path, to: str, changes: dict[str, object], says: str
) -> None:
    vitkit.save(small_model(**changes), tmp_path / "native", preprocess=PREPROCESS)
    with pytest.raises(CheckpointError) as error:
        vitkit.convert(tmp_path / "native", tmp_path / "there", to=to)
    assert says in str(error.value)

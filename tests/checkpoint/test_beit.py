"""What of BEiT's configurations isn't supported is an error that says so; what its files hold beside is reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import vitkit
from small import PREPROCESS, small_model
from vitkit import CheckpointError
from vitkit.checkpoint.card import Card
from vitkit.checkpoint.dialect import Outputs
from vitkit.checkpoint.families.beit import TIMM_BEIT, TRANSFORMERS_BEIT
from vitkit.checkpoint.presets import PRESETS
from vitkit.checkpoint.save import save_transformers
from vitkit.checkpoint.weights import read_tensors

OUTPUTS = Outputs(num_classes=11, pre_logits_dim=0, final_norm="pooled")
BEIT = {
    "image_size": 32,
    "patch_size": 8,
    "position": "relative",
    "position_resample": "bilinear",
    "qkv_bias": "qv",
    "pool": "mean",
    "final_norm": "pooled",
}


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"image_size": [32, 64]}, "mixes up rows and columns"),
        ({"use_absolute_position_embeddings": True}, "use_absolute_position_embeddings True isn't supported"),
        (
            {"use_relative_position_bias": True, "use_shared_relative_position_bias": True},
            "use_relative_position_bias and use_shared_relative_position_bias together",
        ),
        ({"hidden_act": "mish"}, "hidden_act 'mish' isn't supported"),
    ],
)
def test_a_configuration_that_is_not_supported_is_named(config: dict[str, Any], says: str) -> None:
    with pytest.raises(CheckpointError, match=f"config.json: .*{says}"):
        TRANSFORMERS_BEIT.spec_fields(config, OUTPUTS, origin="config.json")


@pytest.mark.parametrize("argument", ["use_abs_pos_emb", "swiglu_mlp", "scale_mlp", "use_shared_rel_pos_bias", "new"])
def test_an_argument_of_timm_that_is_not_supported_is_named(argument: str) -> None:
    arguments = TIMM_BEIT.config(PRESETS["beit_base_patch16_224"].model.spec)
    assert TIMM_BEIT.spec_fields(arguments, OUTPUTS, origin="config.json")["position"] == "relative"
    with pytest.raises(CheckpointError, match=f"config.json: .*{argument}.* supported"):
        TIMM_BEIT.spec_fields({**arguments, argument: True}, OUTPUTS, origin="config.json")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"image_size": (32, 64)}, "mixes up rows and columns"),
        ({"final_norm": "tokens"}, "reading mean, its last norm is on pooled, not tokens"),
        ({"pool": "cls"}, "reading cls, its last norm is on tokens, not pooled"),
        ({"num_registers": 2, "position": "none"}, "num_registers is 2"),
    ],
)
def test_a_model_that_transformers_beit_would_compute_otherwise_is_not_written(
    changes: dict[str, Any], says: str, tmp_path: Path
) -> None:
    module = small_model(**{**BEIT, **changes})
    with pytest.raises(CheckpointError, match=f"transformers' BEiT .*{says}"):
        save_transformers(module, tmp_path / "hf", card=Card(preprocess=PREPROCESS))


def test_indices_and_the_head_of_pre_training_are_left_out_and_reported(tmp_path: Path) -> None:
    module = small_model(**BEIT)
    save_transformers(module, tmp_path / "hf", card=Card(preprocess=PREPROCESS))
    tensors = dict(read_tensors([tmp_path / "hf" / "model.safetensors"]))
    # transformers 4 kept the indices in its files.
    index = "beit.encoder.layer.0.attention.attention.relative_position_bias.relative_position_index"
    extra = {index: torch.zeros(17, 17, dtype=torch.int64), "beit.embeddings.mask_token": torch.zeros(1, 1, 32)}
    torch.save({**tensors, **extra}, tmp_path / "hf" / "pytorch_model.bin")
    (tmp_path / "hf" / "model.safetensors").unlink()
    conversion = vitkit.convert(tmp_path / "hf", tmp_path / "native")
    assert set(conversion.checkpoint.report.dropped) == set(extra)
    pixels = torch.randn(2, 3, 32, 32)
    assert torch.equal(conversion.checkpoint.module()(pixels), module(pixels))

"""Fifty random mixes of faults in a weight file: every one is named at once, and nothing loads."""

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from peers.families.row import Foreign
from small import small_model
from vitkit import CheckpointError
from vitkit.checkpoint.presets import PRESETS
from vitkit.checkpoint.read import read

MARKS = ("patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight")
"""By which the layout is told: a file without them is of no known layout, which is another error."""


@pytest.mark.parametrize("seed", range(50))
def test_every_fault_of_a_mix_is_named(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(seed)
    model = small_model()
    preset = Foreign(model, lambda module, pixels: {}, "weights.safetensors", model.spec).preset()
    monkeypatch.setitem(PRESETS, "made_by_a_test", preset)  # type: ignore[arg-type]
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    free = [name for name in tensors if name not in MARKS]
    chance.shuffle(free)
    missing = [free.pop() for _ in range(chance.randint(0, 3))]
    misshapen = [free.pop() for _ in range(chance.randint(0, 3))]
    prefixed = [free.pop() for _ in range(chance.randint(0, 3))]
    strange = [chance.choice(("head_dist.weight", "fc.bias", "blocks.9.norm1.bias", "decoder.weight"))]
    for name in missing:
        del tensors[name]
    for name in misshapen:
        tensors[name] = torch.cat([tensors[name], tensors[name]])
    prefix = chance.choice(("module.", "model.", "_orig_mod."))
    for name in prefixed:
        tensors[prefix + name] = tensors.pop(name)
    for name in strange:
        tensors[name] = torch.zeros(3)
    save_file(tensors, tmp_path / "weights.safetensors")
    with pytest.raises(CheckpointError, match="nothing was loaded") as raised:
        read(tmp_path / "weights.safetensors", preset="made_by_a_test")
    said = str(raised.value)
    for name in (*missing, *misshapen, *prefixed, *(prefix + name for name in prefixed), *strange):
        assert name in said
    assert f"{len(missing) + len(prefixed)} missing" in said or not missing + prefixed
    assert f"{len(prefixed) + len(strange)} unexpected" in said
    assert f"{len(misshapen)} of another shape" in said or not misshapen

"""Weight files: which part of a training checkpoint is taken, and arrays of a type that NumPy doesn't know."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vitkit import CheckpointError
from vitkit.checkpoint.weights import read_tensors, read_weights


@pytest.mark.parametrize(
    ("holders", "note"),
    [
        (["model"], "the weights under 'model' were taken"),
        (["state_dict"], "the weights under 'state_dict' were taken"),
        (["model", "model_ema"], "the weights under 'model_ema' were taken, not 'model'"),
        (["state_dict", "state_dict_ema"], "the weights under 'state_dict_ema' were taken, not 'state_dict'"),
    ],
)
def test_averaged_weights_are_taken_first_and_it_is_said(holders: list[str], note: str, tmp_path: Path) -> None:
    weights = {holder: {"w": torch.full((2,), float(number))} for number, holder in enumerate(holders)}
    torch.save({"epoch": 3, "optimizer": {"state": {}}, **weights}, tmp_path / "c.pth")
    found = read_weights([tmp_path / "c.pth"], allow_pickle=True)
    assert found.notes == (f"c.pth: {note}",)
    assert found.tensors["w"].tolist() == [float(len(holders) - 1)] * 2


def test_a_bare_state_dict_needs_no_note(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "c.pth")
    assert read_weights([tmp_path / "c.pth"], allow_pickle=True).notes == ()


@pytest.mark.peer
@pytest.mark.parametrize("holders", [["model"], ["model", "model_ema"], ["state_dict", "state_dict_ema", "model"]])
def test_timm_takes_the_same(holders: list[str], tmp_path: Path) -> None:
    from timm.models import load_state_dict

    weights = {holder: {"w": torch.full((2,), float(number))} for number, holder in enumerate(holders)}
    torch.save({"epoch": 3, **weights}, tmp_path / "c.pth")
    expected = load_state_dict(str(tmp_path / "c.pth"))["w"]
    assert torch.equal(read_tensors([tmp_path / "c.pth"], allow_pickle=True)["w"], expected)


def test_bfloat16_arrays_keep_their_bits(tmp_path: Path) -> None:
    values = torch.tensor([[1.0, -2.5, 3e38], [1e-40, float("inf"), 0.1]]).bfloat16()
    transposed = np.asfortranarray(values.view(torch.int16).numpy()).view("V2")
    np.savez(tmp_path / "a.npz", w=transposed, scalar=transposed[0, 1])
    found = read_tensors([tmp_path / "a.npz"])
    assert found["w"].dtype == torch.bfloat16 and torch.equal(found["w"], values)
    assert found["scalar"].tolist() == [-2.5]


def test_arrays_of_other_unknown_types_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", w=np.zeros(3, "V3"))
    with pytest.raises(CheckpointError, match="damaged, or not plain arrays"):
        read_tensors([tmp_path / "a.npz"])

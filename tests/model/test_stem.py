"""A ViT's stem of plain convolutions: the paper's counts, its equations in torch's functions, and its checkpoints."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import vitkit
from small import NAMES, PREPROCESS, small_model
from vitkit import ConfigError, VitSpec
from vitkit.cli import main
from vitkit.model.embed import ConvStem
from vitkit.model.stem_spec import plain_stem

PUBLISHED: dict[str, tuple[dict[str, Any], float, float]] = {  # Xiao et al., 2021, table 2: millions, GMACs
    "ViT_C-1GF": ({"embed_dim": 192, "mlp_dim": 576, "num_heads": 3, "stem_channels": (24, 48, 96, 192)}, 4.6, 1.1),
    "ViT_C-4GF": ({"embed_dim": 384, "mlp_dim": 1152, "num_heads": 6, "stem_channels": (48, 96, 192, 384)}, 17.8, 4.0),
    "ViT_C-18GF": ({"stem_channels": (64, 128, 128, 256, 256, 512)}, 81.6, 17.7),
}
STEM: dict[str, Any] = {"stem_channels": (6, 6, 12), "patch_size": 8, "in_channels": 2}


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_the_published_ones(name: str) -> None:
    fields, millions, gmacs = PUBLISHED[name]
    spec = VitSpec(depth=11, **fields)
    assert round(spec.num_parameters() / 1e6, 1) == millions
    assert round(spec.macs() / 1e9, 1) == gmacs


@pytest.mark.parametrize("channels", [(8,), (8, 8), (4, 8, 8, 16), (3, 2)])
def test_a_stems_output_and_macs_are_those_of_its_spec(channels: tuple[int, ...]) -> None:
    shape = plain_stem(channels, 3)  # whose first convolution halves the grid, also into 3 channels
    with FlopCounterMode(display=False) as counter:
        out = ConvStem(3, channels)(torch.randn(2, 3, 32, 16))
    assert out.shape == (2, shape.channels, 32 // shape.stride, 16 // shape.stride)
    assert 2 * 2 * shape.macs((32, 16)) == counter.get_total_flops()


def test_tokens_are_those_of_torchs_functions() -> None:
    model = small_model(**STEM).double()
    state = model.state_dict()
    for layer in range(3):
        state[f"patch_embed.backbone.{layer}.norm.running_mean"].normal_()
        state[f"patch_embed.backbone.{layer}.norm.running_var"].uniform_(0.5, 2.0)
    x = pixels = torch.randn(2, 2, 32, 48, dtype=torch.float64)
    for layer, stride in enumerate((2, 1, 2)):
        of = {
            name: state[f"patch_embed.backbone.{layer}.{name}"] for name in ("conv.weight", "norm.weight", "norm.bias")
        }
        mean, variance = (state[f"patch_embed.backbone.{layer}.norm.running_{word}"] for word in ("mean", "var"))
        x = F.conv2d(F.pad(x, (1, 1, 1, 1)), of["conv.weight"])[:, :, ::stride, ::stride]
        x = (x - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
        x = (x * of["norm.weight"][:, None, None] + of["norm.bias"][:, None, None]).clamp(min=0)
    patches = F.unfold(x, 2, stride=2)  # [B, 12 * 2 * 2, N]: what is left of patches of 8
    kernels, bias = state["patch_embed.proj.weight"].flatten(1), state["patch_embed.proj.bias"]
    tokens, grid = model.patch_embed(pixels)
    assert grid == (4, 6)
    torch.testing.assert_close(tokens, patches.mT @ kernels.T + bias)


def test_a_checkpoint_comes_back_at_any_size_and_isnt_written_for_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = small_model(**{**STEM, "in_channels": 3}).train()
    model(torch.randn(4, 3, 32, 32))  # statistics that aren't those of the start
    model.eval().save_pretrained(tmp_path / "model", preprocess=PREPROCESS, class_names=NAMES)
    assert not (tmp_path / "model" / "config.json").exists()
    again = vitkit.load(tmp_path / "model", device="cpu")
    pixels = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(again.module(pixels), model(pixels))
        larger = vitkit.load(tmp_path / "model", image_size=48, device="cpu").module
        pixels = torch.randn(2, 3, 48, 48)
        assert torch.equal(larger(pixels), model(pixels))
    grey = vitkit.load(tmp_path / "model", in_channels=1, device="cpu").module
    first = "patch_embed.backbone.0.conv.weight"
    torch.testing.assert_close(grey.state_dict()[first][:, 0], model.state_dict()[first].sum(1))
    for library in ("hf", "timm"):
        out = str(tmp_path / library)
        assert main(["convert", str(tmp_path / "model"), "-o", out, "--to", library]) == 2
        assert "stem_channels is (6, 6, 12), it knows None" in capsys.readouterr().err


def test_contradictions_are_said() -> None:
    for fields, said in (
        (
            {"stem_channels": (8, 16, 32), "patch_size": 4, "image_size": 32},
            "patch_size 4 is not a multiple of 8, the stri",
        ),
        ({"stem_channels": (8,), "stem_depths": ()}, "there are stem_depths and stem_channels; a model has one stem"),
        ({"stem_channels": (8,), "ragged_edges": True}, "stem_channels read every pixel: no ragged_edges"),
        ({"stem_channels": ()}, r"stem_channels is \(\), not whole numbers from 1"),
    ):
        with pytest.raises(ConfigError, match=said):
            VitSpec(**fields)  # type: ignore[arg-type]


def test_the_spec_says_its_stem() -> None:
    said = VitSpec(stem_channels=(64, 128, 128, 256, 256, 512)).facts()["picture"]
    assert "patches of 16 behind convolutions of 64, 128, 128, 256, 256, 512 channels, grid 14x14" in said

"""`vitkit models --code`: one file per model, which needs torch alone, and answers as the encoder it was made from."""

import dataclasses
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from small import PREPROCESS, SMALL, randomise, small_folder
from vitkit import CheckpointError, VisionTransformer
from vitkit.api.code import code, write_code
from vitkit.checkpoint.presets import PRESETS
from vitkit.cli import main
from vitkit.model.build import build
from vitkit.model.spec import ClipSpec, ModelSpec, VitSpec
from vitkit.model.text_spec import TextSpec

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
NARROW = {"embed_dim": 128, "num_heads": 2, "mlp_dim": 96, "depth": 2}
"""Sizes for models that are large only to be large: the structure stays."""

MODELS: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {},
    "vit_b_32": NARROW,
    "deit_tiny_distilled_patch16_224": {},
    "deit3_small_patch16_224": {},
    "beit_base_patch16_224": NARROW,
    "beitv2_base_patch16_224": NARROW,
    "data2vec_vision_base_patch16_224": NARROW,
    "vit_small_patch16_224.dino": {},
    "vit_small_patch14_reg4_dinov2": {"image_size": (70, 84)},
    "vit_giant_patch14_dinov2": {**NARROW, "image_size": (70, 84)},
    "vit_small_patch16_dinov3": {},
    "vit_base_patch32_clip_quickgelu_224": NARROW,
    "vit_base_patch16_siglip_224": NARROW,
    "mae_pretrain_vit_base": NARROW,
    "mae_visualize_vit_base": {**NARROW, "decoder_dim": 64, "decoder_heads": 2, "decoder_depth": 1},
    "swin_tiny_patch4_window7_224": {},
    "swin_s3_tiny_224": {},
    "swinv2_tiny_window8_256": {},
    "vit_tiny_r_s16_p8_224": {},
    "vit_small_r26_s32_224": {},
    "resnet50": {"depths": (1, 2, 1, 1)},
    "resnetv2_50x1_bit": {"depths": (1, 2, 1, 1)},
}
LONGER = {"swinv2_tiny_window8_256": 215}
"""Lines of the files that aren't held to 200."""


def printed(model: ModelSpec) -> str:
    return write_code(model, PREPROCESS, name="model", origin="a paper")


def noise(model: ModelSpec) -> Tensor:
    spec = model.spec
    return torch.randn(2, spec.in_channels, *spec.image_size, generator=torch.Generator().manual_seed(1))


def answers(text: str, model: nn.Module, run: Callable[[Any], Any]) -> Any:
    """What `run` gives on the printed file's model, with the weights of `model`, where vitkit can't be imported."""
    names = [name for name in sys.modules if name.split(".")[0] == "vitkit"]
    with mock.patch.dict(sys.modules, dict.fromkeys(["vitkit", *names])), torch.inference_mode():
        written = ModuleType("written")
        exec(compile(text, "written.py", "exec"), written.__dict__)
        made = getattr(written, type(model).__name__)().eval()
        made.load_state_dict(model.state_dict(), strict=True)
        assert list(made.state_dict()) and made.state_dict().keys() == model.state_dict().keys()
        return run(made.to(next(model.parameters()).dtype))


def alike(given: Tensor, expected: Tensor) -> bool:
    assert expected.std() > 0
    return float((given - expected).abs().max()) <= 1e-6 * float(expected.abs().max())


def ruff(folder: Path, text: str) -> None:
    """The project's own linter and formatter have nothing to say."""
    file = folder / "printed.py"
    file.write_text(text, encoding="utf-8")
    for verb in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *verb, "--no-cache", "--config", PYPROJECT, file],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", MODELS)
def test_the_printed_file_answers_as_the_encoder(tmp_path: Path, name: str) -> None:
    preset = PRESETS[name].model
    ruff(tmp_path, whole := code(name))
    assert len(whole.splitlines()) <= LONGER.get(name, 200)
    spec = ModelSpec(arch=preset.arch, spec=dataclasses.replace(preset.spec, **MODELS[name]))
    model, pixels = randomise(build(spec)), noise(spec)
    given = answers(printed(spec) if MODELS[name] else whole, model, lambda written: written(pixels))
    with torch.inference_mode():
        assert alike(given, model(pixels))


@pytest.mark.parametrize("seed", range(8))
def test_any_mixture_is_printed(tmp_path: Path, seed: int) -> None:
    """Specs that no family has, drawn at random."""
    draw = random.Random(seed)
    kind = draw.choice(["learned", "sincos", "relative", "relative_shared", "rope", "none"])
    pool = draw.choice(["cls", "mean", "cls_mean", "attention"])
    relative = kind.startswith("relative")
    fields: dict[str, Any] = {
        "position": kind,
        "pool": pool,
        "class_token": relative or pool.startswith("cls") or draw.random() < 0.5,
        "num_registers": 0 if relative else draw.choice([0, 3]),
        "prefix_positions": draw.random() < 0.5,
        "stem_depths": draw.choice([None, (), (1, 2)]),
        "qkv_bias": draw.choice(["qkv", "qv", "none"]),
        "layer_scale": draw.choice([0.0, 0.1]),
        "gated_mlp": draw.random() < 0.5,
        "activation": draw.choice(["gelu", "gelu_tanh", "quick_gelu", "silu", "relu"]),
        "norm_eps": draw.choice([1e-6, 1e-5]),
        "final_norm": draw.choice(["tokens", "none"] if pool in ("cls_mean", "attention") else ["tokens", "pooled"]),
        "pre_logits_dim": draw.choice([0, 16]),
        "pre_norm": draw.random() < 0.5,
        "num_classes": draw.choice([0, 7]),
        "image_size": draw.choice([32, (32, 48)]),
    }
    fields["stem_channels"] = draw.choice([None, (8, 8, 16)]) if fields["stem_depths"] is None else None
    spec = ModelSpec(arch="vit", spec=VitSpec(**{**SMALL, "patch_size": 16, **fields}))
    ruff(tmp_path, text := printed(spec))
    model, pixels = randomise(build(spec)), noise(spec)
    given = answers(text, model, lambda written: written(pixels))
    with torch.inference_mode():
        assert alike(given, model(pixels)), fields


def test_a_whole_autoencoder_is_printed() -> None:
    name = "mae_visualize_vit_base"
    spec = ModelSpec(arch="mae", spec=dataclasses.replace(PRESETS[name].model.spec, **MODELS[name]))
    model, pixels, order = randomise(build(spec)), noise(spec), torch.rand(2, 196)
    given = answers(printed(spec), model, lambda written: written.reconstruct(pixels, noise=order))
    with torch.inference_mode():
        expected = model.reconstruct(pixels, noise=order)  # type: ignore[operator]
    assert torch.equal(given.mask, expected.mask)
    assert alike(given.patches, expected.patches)


@pytest.mark.parametrize("bias", [False, True])
def test_both_towers_are_printed(tmp_path: Path, bias: bool) -> None:
    text = TextSpec(embed_dim=32, depth=2, num_heads=4, mlp_dim=64, vocab_size=50, context_length=9, end_token=49)
    vit = {key: value for key, value in SMALL.items() if key != "num_classes"}
    spec = ModelSpec(arch="clip", spec=ClipSpec(**vit, projection_dim=24, text=text, logit_bias=bias, pre_norm=True))
    ruff(tmp_path, source := printed(spec))
    model, pixels, tokens = randomise(build(spec)), noise(spec), torch.randint(1, 50, (3, 9))

    def compared(clip: Any) -> Tensor:
        return clip.similarity(clip(pixels), clip.embed_text(tokens))  # type: ignore[no-any-return]

    given = answers(source, model, compared)
    with torch.inference_mode():
        assert alike(given, compared(model))


def test_half_precision_follows() -> None:
    """What changes nothing in float32 stays where it does in another precision: without a rotation's way back,
    queries and values were of two kinds, which is an error.
    """
    spec = ModelSpec(arch="vit", spec=VitSpec(**SMALL, position="rope", num_registers=2, pool="mean"))
    model, pixels = randomise(build(spec)).to(torch.bfloat16), noise(spec).to(torch.bfloat16)
    given = answers(printed(spec), model, lambda written: written(pixels))
    with torch.inference_mode():
        expected = model(pixels)
    # On CPUs the encoder has its own way to compute attention in this precision.
    assert given.dtype == torch.bfloat16
    assert float((given - expected).abs().max()) <= 0.05 * float(expected.abs().max())


def test_a_folder_is_printed_and_run_as_a_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = small_folder(tmp_path / "checkpoint", drop_path=0.2, dropout=0.1, layer_scale=0.1, final_norm="pooled")
    assert main(["models", "--code", str(folder)]) == 0
    text = capsys.readouterr().out
    assert text == code(folder)
    assert text.startswith('"""checkpoint: ViT, ')
    assert "mean 0.5, 0.4, 0.3, std 0.2, 0.25, 0.3" in text
    ruff(tmp_path, text)
    (folder / "written.py").write_text(text, encoding="utf-8")
    script = (
        "import runpy, sys; sys.modules['vitkit'] = None\n"
        "print(*runpy.run_path('written.py', run_name='__main__')['answers'].flatten().tolist())"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with torch.inference_mode():
        expected = VisionTransformer.from_pretrained(folder)(torch.zeros(1, 3, 32, 32))
    assert alike(torch.tensor([float(word) for word in done.stdout.split()]), expected[0])


def test_the_file_says_what_it_is_and_no_more() -> None:
    text = code("vit_tiny_patch16_224")
    assert text.startswith('"""vit_tiny_patch16_224: ViT, 5,717,416 parameters')
    for word in ("arXiv:2106.10270", "248 bicubic", "224x224", "std 0.5, 0.5, 0.5", "Apache-2.0", "vitkit"):
        assert word in text
    body = text.partition('"""\n\n')[2]
    assert "vitkit" not in body
    for absent in ("Identity", "Dropout", "training", "relative", "spec", "register", "is None"):
        assert absent not in body, absent
    assert "# [B, D, h, w]" in body


def test_what_a_model_leaves_out_isnt_printed() -> None:
    """The counter-proof: each axis of the spec appears in the file once the spec asks for it."""
    plain = printed(ModelSpec(arch="vit", spec=VitSpec(**SMALL)))
    for field, value, word in (
        ("layer_scale", 0.1, "gamma"),
        ("num_registers", 2, "reg_token"),
        ("gated_mlp", True, "gate"),
        ("position", "relative", "RelativeBias"),
        ("position", "sincos", "sincos_positions"),
        ("activation", "quick_gelu", "quick_gelu"),
        ("pre_logits_dim", 8, "torch.tanh"),
        ("stem_depths", (), "SameStdConv"),
        ("stem_channels", (8, 16), "BatchNorm2d"),
    ):
        assert word not in plain
        assert word in printed(ModelSpec(arch="vit", spec=VitSpec(**{**SMALL, field: value}))), field


@pytest.mark.parametrize("more", [["vit*"], ["--json"], ["--show", "vit_tiny_patch16_224"], ["--tensors"]])
def test_code_stands_alone(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--code", "vit_tiny_patch16_224", *more]) == 2
    assert "--code goes with" in capsys.readouterr().err


def test_an_unknown_name_is_said() -> None:
    with pytest.raises(CheckpointError, match="vit_tiny_patch16_224"):
        code("vit_tiny_patch16_22")

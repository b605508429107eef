"""What is said about a Swin Transformer that another library can't hold, and about files that are none."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

import vitkit
from small import PREPROCESS, randomise, small_model
from vitkit import CheckpointError, ConfigError, SwinTransformer
from vitkit.checkpoint.identify import presets_that_fit
from vitkit.checkpoint.presets import PRESETS
from vitkit.model.build import build_empty

SMALL: dict[str, Any] = {
    "image_size": 48,
    "num_classes": 7,
    "embed_dim": 16,
    "depths": (2, 2),
    "num_heads": (2, 4),
    "window_size": 3,
    "mlp_ratio": 2.0,
}


def small_swin(**changes: Any) -> SwinTransformer:
    model = SwinTransformer(**{**SMALL, **changes})
    randomise(model)
    return model


@pytest.mark.parametrize(
    ("changes", "to", "says"),
    [
        ({"window_size": (3, 6)}, "hf", "one window_size for all stages, not (3, 6)"),
        ({"window_size": 7}, "hf", "it fails where grids are smaller than windows"),
        ({"window_size": 6, "window_fit": "never"}, "hf", "cuts grids of 6x6 into other windows"),
        ({"version": 2, "image_size": 36, "window_size": 5}, "hf", "it cuts grids of 5x5 into other windows"),
        ({"version": 2, "window_fit": "never", "window_size": 6}, "hf", "cuts grids of 6x6 into other windows"),
        ({"norm_eps": 1e-6}, "timm", "LayerNorm with eps 1e-5, these weights need 1e-06"),
        ({"activation": "silu"}, "timm", "activation is 'silu', it knows 'gelu'"),
        ({"window_size": 5}, "timm", "cuts grids of 12x12 and 6x6 into other windows"),
    ],
)
def test_what_another_library_cant_hold_is_refused(changes: dict[str, Any], to: str, says: str, tmp_path: Path) -> None:
    model = small_swin(**changes)
    with pytest.raises(CheckpointError) as error:
        vitkit.save(model, tmp_path / "m", preprocess=PREPROCESS, layout=to)
    assert says in str(error.value) and not (tmp_path / "m").exists()


def test_what_it_does_otherwise_at_other_sizes_is_said(tmp_path: Path) -> None:
    model = small_swin(position_resample="geometric")
    assert vitkit.save(model, tmp_path / "timm", preprocess=PREPROCESS, layout="timm") == [
        "at other sizes timm pads grids after_shift, not before_shift"
    ]
    notes = vitkit.save(model, tmp_path / "hf", preprocess=PREPROCESS, layout="hf")
    assert notes[1:] == [
        "at other sizes transformers resamples biases by bicubic, not geometric",
        "at other sizes transformers fits windows to the grid: each_call, not trained",
    ]


def test_a_preset_of_another_architecture_is_refused(tmp_path: Path) -> None:
    save_file(small_swin().state_dict(), tmp_path / "swin.safetensors")
    save_file(small_model().state_dict(), tmp_path / "vit.safetensors")
    for file, preset, says in (
        ("swin", "vit_tiny_patch16_224", "is a ViT, the file's tensors are of a Swin Transformer"),
        ("vit", "swin_tiny_patch4_window7_224", "is a Swin Transformer, the file's tensors are of a ViT"),
    ):
        with pytest.raises(CheckpointError, match=f"preset {preset} {says}; list: vitkit models"):
            vitkit.load(tmp_path / f"{file}.safetensors", preset=preset)


def test_a_bare_file_is_told_which_presets_fit_it() -> None:
    for name in ("swin_tiny_patch4_window7_224", "swin_s3_base_224", "swinv2_large_window12to24_192to384"):
        tensors = build_empty(PRESETS[name].model).state_dict()
        fits = presets_that_fit(tensors, "timm/swin")
        assert name in fits and all(PRESETS[other].model.arch == "swin" for other in fits)


def test_a_damaged_description_is_an_error(tmp_path: Path) -> None:
    small_swin().save_pretrained(tmp_path / "m", preprocess=PREPROCESS)
    file = tmp_path / "m/vitkit.json"
    for old, new, says in (
        ('"arch": "swin"', '"arch": "vit"', "has no key 'version'"),
        ('"arch": "swin"', '"arch": "swim"', "model.arch is 'swim', allowed: 'vit', "),
        ('"embed_dim": 16', '"embed_dim": 15', "width 15 is not a multiple of its num_heads 2"),
    ):
        text = file.read_text(encoding="utf-8")
        assert old in text
        file.write_text(text.replace(old, new), encoding="utf-8")
        with pytest.raises(ConfigError) as error:
            vitkit.load(tmp_path / "m")
        assert says in str(error.value) and "vitkit.json" in str(error.value)
        file.write_text(text, encoding="utf-8")


def test_a_size_that_transformers_cuts_in_a_way_of_its_own_is_refused(tmp_path: Path) -> None:
    small_swin(version=2).save_pretrained(tmp_path / "m", preprocess=PREPROCESS)
    vitkit.convert(tmp_path / "m", tmp_path / "hf", to="hf")
    file = tmp_path / "hf/config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**config, "image_size": 36, "window_size": 5}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="this image_size isn't supported: transformers' class cuts grids of 5x5"):
        vitkit.load(tmp_path / "hf")

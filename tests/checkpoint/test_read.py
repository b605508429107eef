"""Reading: what is complete loads, what isn't is one error that names every fault; nothing depends on a file's name."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import vitkit
from small import NAMES, PREPROCESS, SMALL, small_folder, small_model
from vitkit import CheckpointError, ConfigError, VisionTransformer
from vitkit.checkpoint.card import imagenet1k
from vitkit.checkpoint.read import read


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small_folder(tmp_path / "model")


@pytest.fixture
def tiny_file(tmp_path: Path) -> Path:
    """A bare file of the preset ViT-Ti/16's shapes, in timm's names, but called something else."""
    model = VisionTransformer(embed_dim=192, num_heads=3, mlp_dim=768)
    save_file(model.state_dict(), tmp_path / "anything.bin")
    return tmp_path / "anything.bin"


def edit(folder: Path, **changes: Any) -> None:
    file = folder / "vitkit.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_native_folder_reads_back_equal(folder: Path) -> None:
    model = small_model()
    found = read(folder)
    assert found.model.spec == model.spec
    assert found.card.class_names == NAMES and found.card.preprocess == PREPROCESS
    state = model.state_dict()
    assert found.state.keys() == state.keys()
    assert all(torch.equal(found.state[name], state[name]) for name in state)


def test_a_renamed_folder_is_the_same_model(folder: Path, tmp_path: Path) -> None:
    pixels = torch.randn(1, 3, 32, 32)
    expected = read(folder).module()(pixels)
    folder.rename(tmp_path / "vit_large_patch32_384")
    assert torch.equal(read(tmp_path / "vit_large_patch32_384").module()(pixels), expected)


def test_missing_unexpected_and_misshapen_tensors_are_named_together(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    for name in ("cls_token", "norm.bias", "blocks.1.mlp.fc2.weight"):
        del state[name]
    state |= {"dist_token": torch.ones(1), "head_dist.weight": torch.ones(1)}
    state["pos_embed"] = torch.ones(1, 5, 32)
    save_file(state, folder / "model.safetensors")
    shutil.rmtree(folder / "never", ignore_errors=True)
    edit(folder, sha256={})
    with pytest.raises(CheckpointError) as error:
        vitkit.load(folder)
    text = str(error.value)
    assert "3 missing: cls_token; blocks.1.mlp.fc2.weight; norm.bias" in text
    assert "2 unexpected: dist_token; head_dist.weight" in text
    assert "1 of another shape: pos_embed [1, 5, 32], the model needs [1, 17, 32]" in text
    assert "\n" not in text


def test_a_changed_byte_is_noticed(folder: Path) -> None:
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"changed since they were written: model.safetensors"):
        read(folder)


@pytest.mark.parametrize("name", ["proof.safetensors", "config.json"])
def test_a_missing_part_is_noticed(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"missing or changed since they were written: {name}"):
        read(folder)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 100, 5_000])
def test_a_truncated_file_is_one_line(folder: Path, length: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(CheckpointError, match="model.safetensors") as error:
        read(file, preset="vit_tiny_patch16_224")
    assert "\n" not in str(error.value)


def test_a_bare_file_needs_a_preset_and_gets_a_suggestion(tiny_file: Path) -> None:
    fits = "vit_tiny_patch16_224 or deit_tiny_patch16_224"
    with pytest.raises(CheckpointError, match=f"--preset NAME .* its shapes fit {fits}$"):
        vitkit.load(tiny_file)
    vit = vitkit.load(tiny_file, preset="vit_tiny_patch16_224")
    assert vit.class_names == imagenet1k()[1] and vit.spec.position_resample == "bicubic_antialias"
    with pytest.raises(ConfigError, match="preset 'vit_tiny_patch16_22' is unknown; nearest: vit_tiny_patch16_224"):
        vitkit.load(tiny_file, preset="vit_tiny_patch16_22")
    with pytest.raises(CheckpointError, match="151 of another shape"):
        vitkit.load(tiny_file, preset="vit_small_patch16_224")


def test_another_class_count_is_an_explicit_request(tiny_file: Path, tmp_path: Path) -> None:
    state = load_file(tiny_file)
    state["head.weight"], state["head.bias"] = torch.ones(10, 192), torch.ones(10)
    save_file(state, tmp_path / "ten.safetensors")
    with pytest.raises(CheckpointError, match=r"head.weight \[10, 192\], the model needs \[1000, 192\]"):
        vitkit.load(tmp_path / "ten.safetensors", preset="vit_tiny_patch16_224")
    vit = vitkit.load(tmp_path / "ten.safetensors", preset="vit_tiny_patch16_224", num_classes=10)
    assert vit.module.head.weight.min() == 1 and vit.class_names is None  # type: ignore[operator, union-attr]
    other = vitkit.load(tmp_path / "ten.safetensors", preset="vit_tiny_patch16_224", num_classes=3)
    assert other.module.head.weight.shape == (3, 192) and other.module.head.weight.abs().max() == 0  # type: ignore[operator, union-attr]
    assert "head: 10 outputs replaced by 3, on request" in other.report.notes
    headless = {name: tensor for name, tensor in state.items() if not name.startswith("head")}
    save_file(headless, tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="2 missing: head.weight; head.bias"):
        vitkit.load(tmp_path / "none.safetensors", preset="vit_tiny_patch16_224")
    assert (
        vitkit.load(tmp_path / "none.safetensors", preset="vit_tiny_patch16_224", num_classes=0).spec.feature_dim == 192
    )


def test_unknown_names_are_of_no_layout(tmp_path: Path) -> None:
    save_file({"conv1.weight": torch.ones(2), "fc.bias": torch.ones(1)}, tmp_path / "resnet.safetensors")
    with pytest.raises(CheckpointError, match="no layout vitkit knows .* the file has conv1.weight; fc.bias"):
        read(tmp_path / "resnet.safetensors", preset="vit_tiny_patch16_224")


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (__import__("os").system, ("touch evil",))


def test_pickles_are_read_by_convert_alone_and_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    state = VisionTransformer(embed_dim=192, num_heads=3, mlp_dim=768).state_dict()
    torch.save({"epoch": 3, "model": state}, tmp_path / "checkpoint.pth")
    with pytest.raises(CheckpointError, match=r"pickled, which can run code; .* vitkit convert .*checkpoint.pth -o"):
        vitkit.load(tmp_path / "checkpoint.pth", preset="vit_tiny_patch16_224")
    vitkit.convert(tmp_path / "checkpoint.pth", tmp_path / "out", preset="vit_tiny_patch16_224")
    assert torch.equal(read(tmp_path / "out").state["pos_embed"], state["pos_embed"])
    for name in ("evil.pth", "evil.bin"):
        if name == "evil.pth":
            torch.save({"model": Evil()}, tmp_path / name)
        else:
            (tmp_path / name).write_bytes(pickle.dumps(Evil()))
        with pytest.raises(CheckpointError, match="can't be read as plain weights"):
            vitkit.convert(tmp_path / name, tmp_path / "no", preset="vit_tiny_patch16_224")
    assert not (tmp_path / "evil").exists() and not (tmp_path / "no").exists()


def test_arrays_with_objects_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", cls=np.array([Evil()], dtype=object))
    with pytest.raises(CheckpointError, match="not plain arrays"):
        read(tmp_path / "a.npz", preset="vit_tiny_patch16_224")


def transformers_config(**changes: Any) -> dict[str, Any]:
    return {
        "model_type": "vit",
        "image_size": 32,
        "patch_size": 8,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        **changes,
    }


@pytest.fixture
def theirs(folder: Path, tmp_path: Path) -> Path:
    vitkit.convert(folder, tmp_path / "hf", to="hf")
    return tmp_path / "hf"


def test_a_folder_without_preprocessing_is_not_guessed(theirs: Path) -> None:
    (theirs / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"preprocessor_config.json is missing.*--preset"):
        vitkit.load(theirs)
    vit = vitkit.load(theirs, preprocess=PREPROCESS)
    assert vit.card.preprocess == PREPROCESS and vit.report.origins["preprocess"] == "the caller"
    other = vitkit.load(theirs, preset="vit_tiny_patch16_224", image_size=32)
    assert other.report.origins["preprocess"] == "preset vit_tiny_patch16_224"


def test_a_preprocessor_that_names_no_class_is_the_model_types(theirs: Path) -> None:
    """As google/vit-base-patch16-224's."""
    (theirs / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5], "size": 32}')
    preprocess = vitkit.load(theirs).card.preprocess
    assert preprocess is not None and preprocess.size == (32, 32) and preprocess.mean == (0.5, 0.5, 0.5)
    assert (preprocess.resize, preprocess.interpolation, preprocess.crop) == ("squash", "bilinear", "none")
    config = json.loads((theirs / "config.json").read_text())
    assert config["model_type"] == "vit"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "mobilevit"}, "model_type 'mobilevit' isn't supported"),
        ({"hidden_act": "mish"}, "hidden_act 'mish' isn't supported"),
        ({"patch_size": [8, 4]}, "patches must be square"),
        ({"num_attention_heads": 5}, "embed_dim 32 is not a multiple of num_heads 5"),
        ({"num_hidden_layers": 3}, "16 missing"),
        ({"id2label": {"0": "a", "2": "b"}}, "id2label doesn't count from 0 to 1"),
        ({"id2label": {"0": "a", "1": "b"}}, "2 class names for 7 outputs"),
    ],
)
def test_a_config_that_contradicts_is_named(theirs: Path, changes: dict[str, Any], says: str) -> None:
    (theirs / "config.json").write_text(json.dumps(transformers_config(**changes)))
    with pytest.raises(CheckpointError, match=says):
        vitkit.load(theirs)


def test_labels_nobody_named_are_no_names(theirs: Path) -> None:
    labels = {str(index): f"LABEL_{index}" for index in range(7)}
    (theirs / "config.json").write_text(json.dumps(transformers_config(id2label=labels)))
    assert vitkit.load(theirs).class_names is None


def test_multi_label_models_score_each_class_alone(theirs: Path) -> None:
    (theirs / "config.json").write_text(json.dumps(transformers_config(problem_type="multi_label_classification")))
    assert vitkit.load(theirs).card.scores == "sigmoid"


def test_unsupported_timm_arguments_are_named(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "vitkit.json").unlink()
    assert vitkit.load(folder).class_names == NAMES
    config["model_args"] |= {"qk_norm": True, "final_norm": False, "global_pool": "max", "mystery": 1}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError) as error:
        vitkit.load(folder)
    for word in ("qk_norm True", "final_norm False", "global_pool 'max'", "'mystery'"):
        assert word in str(error.value)
    for name, nearest in (("vit_tiny_patch16_rope", "vit_tiny_patch16"), ("vit_b_16", "vit_")):  # torchvision's
        (folder / "config.json").write_text(json.dumps({**config, "architecture": name}))
        with pytest.raises(CheckpointError, match=f"architecture {name!r} isn't supported; nearest: {nearest}"):
            vitkit.load(folder)


def test_a_folder_with_nothing_to_load_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no weights there"):
        read(tmp_path)
    for name in ("a", "b"):
        save_file({"x": torch.ones(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match=r"several weight files, say which one: a.safetensors; b.safetensors"):
        read(tmp_path)


def test_a_missing_shard_is_named(theirs: Path) -> None:
    shards = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (theirs / "model.safetensors").rename(theirs / "model-1.safetensors")
    (theirs / "model.safetensors.index.json").write_text(json.dumps(shards))
    with pytest.raises(CheckpointError, match="1 of 2 shards are missing: model-2.safetensors"):
        read(theirs)
    (theirs / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../model.safetensors"}}))
    with pytest.raises(CheckpointError, match="names no files of this folder"):
        read(theirs)


def test_a_damaged_description_is_one_line(folder: Path) -> None:
    edit(folder, format="one", mystery=3)
    with pytest.raises(ConfigError, match=r"vitkit.json: NativeFile has no key 'mystery'; NativeFile.format is 'one'"):
        read(folder)
    (folder / "vitkit.json").write_text("{")
    with pytest.raises(CheckpointError, match="can't be read as JSON"):
        read(folder)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("nowhere/else/folder", "neither a file or folder here nor a Hub id"),
        ("vit_tiny_patch16_224", "is a preset's name, not weights"),
        ("vit_tiny_patch16_22", "nearest: vit_tiny_patch16_224"),
    ],
)
def test_a_source_that_is_nothing_says_what_is_allowed(source: str, says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        vitkit.load(source)


def test_options_are_checked_before_anything_is_read(tmp_path: Path) -> None:
    for options, says in (
        ({"device": "cuda:99"}, "device 'cuda:99'"),
        ({"device": "tpu"}, "device 'tpu' is unknown"),
        ({"dtype": "int8"}, "dtype 'int8' is unknown"),
        ({"engine": "magic"}, "engine 'magic' is unknown"),
    ):
        with pytest.raises(ConfigError, match=says):
            vitkit.load(tmp_path / "missing", **options)  # type: ignore[arg-type]


def test_a_revision_of_a_path_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="belongs to a Hub id"):
        vitkit.load(folder, revision="main")


def test_a_checkpoint_of_another_size_keeps_its_share_of_the_picture(folder: Path) -> None:
    vit = vitkit.load(folder, image_size=(64, 32))
    assert vit.spec.image_size == (64, 32) and vit.spec.grid == (8, 4)
    preprocess = vit.card.preprocess
    assert preprocess is not None and preprocess.size == (64, 32) and preprocess.resize_size == (72, 36)
    with pytest.raises(ConfigError, match="image_size 60x60 is not a multiple of patch_size 8"):
        vitkit.load(folder, image_size=60)


def test_grey_models_read_the_mean_of_the_statistics(folder: Path) -> None:
    vit = vitkit.load(folder, in_channels=1)
    preprocess = vit.card.preprocess
    assert preprocess is not None and preprocess.mean == pytest.approx((0.4,)) and vit.spec.in_channels == 1
    assert vit.embed([np.zeros((9, 9), np.uint8)]).shape == (1, 32)


def test_half_precision_files_become_float32(tmp_path: Path) -> None:
    model = small_model().to(torch.bfloat16)
    model.save_pretrained(tmp_path / "m", preprocess=PREPROCESS)
    assert load_file(tmp_path / "m" / "model.safetensors")["pos_embed"].dtype == torch.bfloat16
    vit = vitkit.load(tmp_path / "m")
    assert vit.module.pos_embed is not None and vit.module.pos_embed.dtype == torch.float32
    assert vitkit.verify(tmp_path / "m").agrees
    half = vitkit.load(tmp_path / "m", dtype="bfloat16")
    assert half.module.pos_embed is not None and half.module.pos_embed.dtype == torch.bfloat16


def test_from_pretrained_gives_the_module_with_its_card(folder: Path) -> None:
    model = VisionTransformer.from_pretrained(folder)
    assert not model.training and model.spec.num_classes == 7
    model.save_pretrained(folder.parent / "again")
    assert read(folder.parent / "again").card.class_names == NAMES
    model.reset_head(3).save_pretrained(folder.parent / "three")
    assert read(folder.parent / "three").card.class_names is None
    assert VisionTransformer.from_pretrained(folder, num_classes=4).spec.num_classes == 4


def test_saved_models_keep_every_axis_of_the_spec(tmp_path: Path) -> None:
    for number, changes in enumerate(
        (
            {"pool": "mean", "final_norm": "pooled", "class_token": False},
            {"position": "sincos", "pre_logits_dim": 12},
            {"position": "none", "activation": "quick_gelu", "norm_eps": 1e-12, "qkv_bias": "none"},
            {"image_size": (16, 40), "num_classes": 0, "dropout": 0.1, "drop_path": 0.2},
        )
    ):
        model = small_model(**changes)
        vitkit.save(model, tmp_path / str(number), preprocess=PREPROCESS)
        again = read(tmp_path / str(number))
        assert again.model.spec == model.spec
        pixels = torch.randn(2, 3, *SMALL_SIZE(model))
        assert torch.equal(again.module()(pixels), model(pixels))


def SMALL_SIZE(model: VisionTransformer) -> tuple[int, int]:  # noqa: N802
    assert SMALL["patch_size"] == 8
    return model.spec.image_size

"""ResNets on disk: any size, what other libraries can't hold, counts of batches, other channels, and damaged files."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import vitkit
from small import PREPROCESS, picture, randomise, small_model
from vitkit import CheckpointError, ConfigError, Preprocess, ResNet
from vitkit.checkpoint.families import LAYOUTS
from vitkit.checkpoint.identify import presets_that_fit
from vitkit.checkpoint.namemap import invert
from vitkit.checkpoint.presets import PRESETS
from vitkit.checkpoint.read import read
from vitkit.model.build import build_empty

SMALL: dict[str, Any] = {"image_size": 32, "num_classes": 7, "width": 32, "depths": (2, 1)}
BLOCKS = ("basic", "bottleneck", "preactivation")


def small_resnet(**changes: Any) -> ResNet:
    model = ResNet(**{**SMALL, **changes})
    randomise(model)
    return model


@pytest.mark.parametrize("block", BLOCKS)
def test_a_native_folder_gives_the_model_back_and_proves_it(block: str, tmp_path: Path) -> None:
    model = small_resnet(block=block)
    model.train()(torch.randn(8, 3, 32, 32))  # norms that remember something
    model.eval().save_pretrained(tmp_path / "m", preprocess=PREPROCESS)
    loaded = ResNet.from_pretrained(tmp_path / "m")
    assert loaded.spec == model.spec
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor) and loaded.state_dict()[name].dtype == tensor.dtype, name
    assert vitkit.verify(tmp_path / "m").agrees
    assert "no config.json for timm: timm's " in (tmp_path / "m/README.md").read_text()


def test_counts_of_batches_stay_whole_numbers_in_any_precision(tmp_path: Path) -> None:
    model = small_resnet()
    model.train()(torch.randn(2, 3, 32, 32))
    model.save_pretrained(tmp_path / "m", preprocess=PREPROCESS)
    half = vitkit.load(tmp_path / "m", dtype="bfloat16", device="cpu")
    kinds = {name.rpartition(".")[2]: tensor.dtype for name, tensor in half.module.state_dict().items()}
    assert kinds["num_batches_tracked"] == torch.int64 and kinds["running_var"] == kinds["weight"] == torch.bfloat16
    assert half.embed(picture()).shape == (256,)


@pytest.mark.parametrize(
    ("changes", "to", "says"),
    [
        (
            {},
            "timm",
            "timm's ResNet of Bottlenecks can't hold this model: width is 32, it knows 64; it has 4 stages, not 2",
        ),
        (
            {"block": "basic", "width": 64},
            "timm",
            "ResNet of BasicBlocks can't hold this model: it has 4 stages, not 2",
        ),
        ({"block": "preactivation"}, "timm", "depths is (2, 1), it knows (3, 4, 6, 3)"),
    ],
)
def test_what_another_library_cant_hold_is_refused(changes: dict[str, Any], to: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        vitkit.save(small_resnet(**changes), tmp_path / "m", preprocess=PREPROCESS, layout=to)
    assert says in str(error.value) and not (tmp_path / "m").exists()


@pytest.mark.parametrize("block", BLOCKS)
def test_through_transformers_layout_and_back_nothing_is_lost(block: str, tmp_path: Path) -> None:
    model = small_resnet(block=block)
    preprocess = Preprocess(**{**vars(PREPROCESS), "crop": "center_floor"})
    assert vitkit.save(model, tmp_path / "hf", preprocess=preprocess, layout="hf") == []
    config = json.loads((tmp_path / "hf/config.json").read_text())
    assert "image_size" not in config and config["layer_type"] == block
    back = read(tmp_path / "hf")
    assert back.model.spec == model.spec  # its size is that of the prepared pictures
    assert all(torch.equal(back.state[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("block", "changes", "says"),
    [
        ("bottleneck", {"downsample_in_bottleneck": True}, "downsample_in_bottleneck True isn't supported"),
        ("bottleneck", {"hidden_sizes": [128, 512]}, "hidden_sizes (128, 512) isn't supported; supported: (128, 256)"),
        ("bottleneck", {"layer_type": "preactivation"}, "layer_type 'preactivation' isn't supported"),
        ("bottleneck", {"hidden_act": "gelu"}, "hidden_act 'gelu' isn't supported; supported: relu"),
        ("preactivation", {"global_padding": "SAME"}, "global_padding 'SAME' isn't supported"),
        ("preactivation", {"num_groups": 16, "width_factor": 3}, "num_groups 16 isn't supported; supported: 32; width"),
        ("preactivation", {"embedding_size": 48}, "width 48 is not a multiple of 32"),
    ],
)
def test_what_this_library_cant_hold_is_refused(block: str, changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    vitkit.save(small_resnet(block=block), tmp_path / "m", preprocess=PREPROCESS, layout="hf")
    file = tmp_path / "m/config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(CheckpointError) as error:
        read(tmp_path / "m")
    assert says in str(error.value) and "config.json" in str(error.value)


def test_a_bare_file_is_told_which_presets_fit_it() -> None:
    for name, layout in (("resnet18", "timm/resnet"), ("resnetv2_101x1_bit", "timm/resnetv2")):
        model = PRESETS[name].model
        tensors = invert(LAYOUTS[layout].rules, build_empty(model).state_dict(), model.spec)
        fits = presets_that_fit(tensors, layout)
        assert name in fits and all(PRESETS[other].model.spec.depths == model.spec.depths for other in fits)  # type: ignore[union-attr]


def test_an_old_files_norms_have_seen_no_batch_that_it_tells_of(tmp_path: Path) -> None:
    model = ResNet(block="basic", depths=(1, 1, 1, 1), num_classes=7)
    vitkit.save(model, tmp_path / "new", preprocess=PREPROCESS, layout="timm")
    tensors = load_file(tmp_path / "new/model.safetensors")
    old = {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
    assert len(tensors) - len(old) == 12
    for folder, content in (("old", old), ("torn", {**old, "bn1.num_batches_tracked": torch.tensor(3)})):
        (tmp_path / folder).mkdir()
        save_file(content, tmp_path / folder / "model.safetensors")
        (tmp_path / folder / "config.json").write_text((tmp_path / "new/config.json").read_text())
    found = read(tmp_path / "old")
    assert found.report.layout == "torchvision/resnet-uncounted"
    assert found.state["stem.norm.num_batches_tracked"] == 0
    assert all(torch.equal(found.state[name], tensor) for name, tensor in model.state_dict().items())
    with pytest.raises(CheckpointError, match="11 missing: layer1.0.bn1.num_batches_tracked"):
        read(tmp_path / "torn")


def test_a_published_size_other_than_the_presets_is_the_models(tmp_path: Path) -> None:
    """timm's other tags of an architecture, in whose configuration no size is fixed."""
    model = ResNet(block="basic", depths=(1, 1, 1, 1), num_classes=7, image_size=32)
    vitkit.save(model, tmp_path / "m", preprocess=PREPROCESS, layout="timm")
    config = json.loads((tmp_path / "m/config.json").read_text())
    assert config["architecture"] == "resnet18" and config["pretrained_cfg"]["fixed_input_size"] is False
    assert read(tmp_path / "m").model.spec == model.spec
    config["pretrained_cfg"]["input_size"] = [3, 160, 160]
    (tmp_path / "m/config.json").write_text(json.dumps(config))
    found = read(tmp_path / "m")
    assert found.card.preprocess is not None
    assert found.model.spec.image_size == found.card.preprocess.size == (160, 160)


def test_another_size_is_another_preparation_alone(tmp_path: Path) -> None:
    model = small_resnet()
    model.save_pretrained(tmp_path / "m", preprocess=PREPROCESS)
    larger = vitkit.load(tmp_path / "m", image_size=(64, 48), num_classes=3, device="cpu")
    assert larger.spec.image_size == (64, 48) and larger.preprocess(picture()).shape == (3, 64, 48)
    assert "size: 32x32 changed to 64x48, on request" in larger.report.notes
    assert larger.module(torch.randn(1, 3, 64, 48)).shape == (1, 3)
    with pytest.raises(ConfigError, match="a ResNet has no patches"):
        vitkit.load(tmp_path / "m", patch_size=8)


def test_a_preset_of_another_architecture_is_refused(tmp_path: Path) -> None:
    model = ResNet(block="basic", depths=(1, 1, 1, 1), num_classes=7)
    vitkit.save(model, tmp_path / "resnet", preprocess=PREPROCESS, layout="timm")
    save_file(small_model().state_dict(), tmp_path / "vit.safetensors")
    for file, preset, says in (
        ("resnet/model", "vit_tiny_patch16_224", "is a ViT, the file's tensors are of a ResNet"),
        ("vit", "resnet50", "is a ResNet, the file's tensors are of a ViT"),
    ):
        with pytest.raises(CheckpointError, match=f"preset {preset} {says}; list: vitkit models"):
            vitkit.load(tmp_path / f"{file}.safetensors", preset=preset)

"""Logits of the same random weights in transformers, timm and here: equal to 1e-5 of the largest.

Every parameter is drawn from N(0, 0.2). The files are written by the other library, read by vitkit's own reader.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from peers.families.google import google_arrays
from small import randomise, relative
from vitkit.checkpoint.read import read
from vitkit.image.preprocess import Preprocess

pytestmark = pytest.mark.peer

TOLERANCE = 1e-5
EXACT, NOTICED = 1e-12, 1e-7
"""In float64: what the two libraries may differ by, and what a changed element must change."""


def transformers_folder(folder: Path, *, model: str = "ViTForImageClassification", **changes: Any) -> nn.Module:
    import transformers

    config = transformers.ViTConfig(
        **{
            "image_size": 48,
            "patch_size": 16,
            "hidden_size": 40,
            "num_hidden_layers": 3,
            "num_attention_heads": 5,
            "intermediate_size": 96,
            "num_labels": 11,
            **changes,
        }
    )
    made = randomise(getattr(transformers, model)(config))
    made.save_pretrained(folder)
    size = config.image_size if isinstance(config.image_size, int) else list(config.image_size)
    channels = config.num_channels
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "size": size if isinstance(size, int) else {"height": size[0], "width": size[1]},
        "image_mean": [0.4] * channels,
        "image_std": [0.3] * channels,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return made


TRANSFORMERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "1 channel": {"num_channels": 1},
    "no qkv bias": {"qkv_bias": False},
    "not square": {"image_size": (32, 64)},
    "patches of 14": {"image_size": 56, "patch_size": 14},
    "tanh GELU and a large eps": {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-2},
    "quick GELU": {"hidden_act": "quick_gelu"},
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_transformers_classifier_gives_equal_logits(name: str, tmp_path: Path) -> None:
    theirs = transformers_folder(tmp_path / "m", **TRANSFORMERS[name])
    found = read(tmp_path / "m")
    height, width = found.model.spec.image_size
    pixels = torch.randn(3, found.model.spec.in_channels, height, width)
    with torch.no_grad():
        assert relative(found.module()(pixels), theirs(pixels).logits) < TOLERANCE


@pytest.mark.parametrize("size", [(64, 64), (32, 32), (80, 48)])
def test_another_size_follows_transformers_own_interpolation(size: tuple[int, int], tmp_path: Path) -> None:
    theirs = transformers_folder(tmp_path / "m", image_size=64)
    pixels = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = theirs(pixels, interpolate_pos_encoding=True).logits
        assert relative(read(tmp_path / "m").module()(pixels), expected) < TOLERANCE


def test_a_transformers_model_with_pooler_gives_equal_tokens_and_pooled_output(tmp_path: Path) -> None:
    theirs = transformers_folder(tmp_path / "m", model="ViTModel", pooler_output_size=24)
    ours = read(tmp_path / "m").module()
    pixels = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        expected = theirs(pixels)
        features = ours.features(pixels)
        tokens = torch.cat([features.prefix_tokens, features.patch_tokens], dim=1)
        assert relative(tokens, expected.last_hidden_state) < TOLERANCE
        assert ours.spec.pre_logits_dim == 24
        assert relative(ours(pixels), expected.pooler_output) < TOLERANCE


def test_a_model_without_pooler_embeds_the_normed_class_token(tmp_path: Path) -> None:
    import transformers

    config = transformers.ViTConfig(
        image_size=48, hidden_size=40, num_hidden_layers=2, num_attention_heads=5, intermediate_size=96
    )
    theirs = randomise(transformers.ViTModel(config, add_pooling_layer=False))
    theirs.save_pretrained(tmp_path / "m")
    pixels = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        expected = theirs(pixels).last_hidden_state[:, 0]
        assert relative(read(tmp_path / "m").module()(pixels), expected) < TOLERANCE


def test_intermediate_layers_are_transformers_hidden_states(tmp_path: Path) -> None:
    theirs = transformers_folder(tmp_path / "m")
    pixels = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        expected = theirs(pixels, output_hidden_states=True).hidden_states
        found = read(tmp_path / "m").module().features(pixels, layers=[0, 1])
    assert relative(found.layers[0], expected[1]) < TOLERANCE
    assert relative(found.layers[1], expected[2]) < TOLERANCE


@pytest.mark.parametrize("model", ["ViTForImageClassification", "ViTModel"])
def test_the_names_transformers_5_has_in_memory_are_read_too(model: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    theirs = transformers_folder(tmp_path / "m", model=model)
    on_disk = load_file(tmp_path / "m" / "model.safetensors")
    in_memory = theirs.state_dict()
    assert not any("encoder.layer" in name for name in in_memory) and set(on_disk) != set(in_memory)
    pixels = torch.randn(2, 3, 48, 48)
    expected = read(tmp_path / "m").module()(pixels)
    save_file(in_memory, tmp_path / "m" / "model.safetensors")
    found = read(tmp_path / "m")
    assert found.report.layout.startswith("transformers5/")
    assert torch.equal(found.module()(pixels), expected)


def test_shards_are_read_as_one(tmp_path: Path) -> None:
    theirs = transformers_folder(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    theirs.save_pretrained(tmp_path / "m", max_shard_size="20KB")
    assert len(list((tmp_path / "m").glob("model-*.safetensors"))) > 2
    pixels = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        assert relative(read(tmp_path / "m").module()(pixels), theirs(pixels).logits) < TOLERANCE


def timm_model(**changes: Any) -> Any:
    import timm

    arguments = {"img_size": 48, "embed_dim": 40, "depth": 3, "num_heads": 5, "num_classes": 11, **changes}
    return randomise(timm.create_model("vit_tiny_patch16_224", **arguments))


def timm_folder(folder: Path, model: Any) -> None:
    from timm.models import save_for_hf

    save_for_hf(model, folder, safe_serialization=True)


TIMM: dict[str, dict[str, Any]] = {
    "class token": {},
    "mean pooling": {"global_pool": "avg"},
    "mean pooling, norm before": {"global_pool": "avg", "fc_norm": False},
    "mean pooling without class token": {"global_pool": "avg", "class_token": False},
    "no positions": {"pos_embed": "none"},
    "no qkv bias": {"qkv_bias": False},
    "not square": {"img_size": (32, 64)},
    "1 channel": {"in_chans": 1},
    "MLP ratio 2.5": {"mlp_ratio": 2.5},
    "no head": {"num_classes": 0},
}


@pytest.mark.parametrize("name", TIMM)
def test_a_timm_folder_gives_equal_logits(name: str, tmp_path: Path) -> None:
    theirs = timm_model(**TIMM[name])
    timm_folder(tmp_path / "m", theirs)
    found = read(tmp_path / "m")
    spec = found.model.spec
    pixels = torch.randn(3, spec.in_channels, *spec.image_size)
    with torch.no_grad():
        assert relative(found.module()(pixels), theirs(pixels)) < TOLERANCE
    assert found.card.preprocess is not None and found.card.preprocess.interpolation == "bicubic"


@pytest.mark.parametrize("size", [(64, 64), (32, 32), (80, 48)])
@pytest.mark.parametrize("pool", ["token", "avg"])
def test_another_size_follows_timms_own_interpolation(size: tuple[int, int], pool: str, tmp_path: Path) -> None:
    theirs = timm_model(img_size=64, global_pool=pool, dynamic_img_size=True)
    timm_folder(tmp_path / "m", theirs)
    pixels = torch.randn(2, 3, *size)
    with torch.no_grad():
        assert relative(read(tmp_path / "m").module()(pixels), theirs(pixels)) < TOLERANCE


def test_resampling_on_load_is_timms(tmp_path: Path) -> None:
    """image_size= makes the same table as timm's create_model with another img_size and the same checkpoint."""
    import timm

    from vitkit.checkpoint.adapt import adapt

    theirs = timm_model(img_size=64)
    timm_folder(tmp_path / "m", theirs)
    larger = timm.create_model(f"local-dir:{tmp_path / 'm'}", pretrained=True, img_size=112).eval()
    ours = adapt(read(tmp_path / "m"), image_size=112).module()
    pixels = torch.randn(2, 3, 112, 112)
    with torch.no_grad():
        assert relative(ours(pixels), larger(pixels)) < TOLERANCE


def test_grey_from_rgb_is_timms(tmp_path: Path) -> None:
    import timm

    from vitkit.checkpoint.adapt import adapt

    timm_folder(tmp_path / "m", timm_model())
    for channels in (1, 2, 5):
        theirs = timm.create_model(f"local-dir:{tmp_path / 'm'}", pretrained=True, in_chans=channels).eval()
        ours = adapt(read(tmp_path / "m"), in_channels=channels).module()
        pixels = torch.randn(2, channels, 48, 48)
        with torch.no_grad():
            assert relative(ours(pixels), theirs(pixels)) < TOLERANCE


def test_google_arrays_give_the_logits_that_timms_own_reader_gives(tmp_path: Path) -> None:
    import timm

    source = randomise(timm.create_model("vit_tiny_patch16_224"))
    np.savez(tmp_path / "Ti_16.npz", **google_arrays(source))
    theirs = timm.create_model("vit_tiny_patch16_224").eval()
    theirs.load_pretrained(str(tmp_path / "Ti_16.npz"))
    found = read(tmp_path / "Ti_16.npz", preset="vit_tiny_patch16_224")
    assert found.report.layout == "google/vit" and found.model.spec.position_resample == "bilinear_align_corners"
    pixels = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        assert relative(theirs(pixels), source(pixels)) == 0
        assert relative(found.module()(pixels), theirs(pixels)) < TOLERANCE


def noticed(
    read_again: Callable[[dict[str, Tensor]], nn.Module], state: dict[str, Tensor], pixels: Tensor
) -> list[str]:
    """Names of tensors one element of which can change by 10 % without the answer changing."""
    with torch.no_grad():
        before = read_again(state)(pixels)
        unseen = []
        for name, tensor in state.items():
            changed = tensor.clone().flatten()
            largest = changed.abs().argmax()
            changed[largest] *= 1.1
            after = read_again({**state, name: changed.reshape(tensor.shape)})(pixels)
            if relative(after, before) <= NOTICED:
                unseen.append(name)
    return unseen


def test_one_element_changed_by_a_tenth_is_noticed_in_every_tensor(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    theirs = transformers_folder(tmp_path / "m", num_hidden_layers=2).double()
    file = tmp_path / "m" / "model.safetensors"
    pixels = torch.randn(4, 3, 48, 48, dtype=torch.float64)

    def read_again(state: dict[str, Tensor]) -> nn.Module:
        save_file(state, file)
        return read(tmp_path / "m").module(dtype=torch.float64)

    state = load_file(file)
    with torch.no_grad():
        assert relative(read_again(state)(pixels), theirs(pixels).logits) < EXACT
    # The key bias adds the same to all attention logits of a query, which softmax doesn't see.
    unseen = noticed(read_again, state, pixels)
    assert sorted(unseen) == [f"vit.encoder.layer.{i}.attention.attention.key.bias" for i in range(2)]


@pytest.mark.parametrize("name", ["class token", "mean pooling", "no head"])
def test_the_native_folder_is_timms_and_transformers_as_it_is(name: str, tmp_path: Path) -> None:
    import timm
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    from vitkit.checkpoint.card import Card
    from vitkit.checkpoint.save import save_native

    theirs = timm_model(**TIMM[name])
    timm_folder(tmp_path / "theirs", theirs)
    found = read(tmp_path / "theirs")
    preprocess = Preprocess(
        size=48, resize="shortest", resize_size=53, crop="center_round", interpolation="bilinear",
        mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6),
    )  # fmt: skip
    names = tuple(f"class {index}" for index in range(found.model.spec.num_classes)) or None
    save_native(found.module(), tmp_path / "ours", card=Card(preprocess=preprocess, class_names=names))
    pixels = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        again = timm.create_model(f"local-dir:{tmp_path / 'ours'}", pretrained=True).eval()
        assert relative(again(pixels), theirs(pixels)) < TOLERANCE
        assert again.pretrained_cfg["mean"] == [0.1, 0.2, 0.3] and again.pretrained_cfg["interpolation"] == "bilinear"
        if name == "no head":
            return
        wrapped, info = AutoModelForImageClassification.from_pretrained(tmp_path / "ours", output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
        assert relative(wrapped.eval()(pixels).logits, theirs(pixels)) < TOLERANCE
        assert wrapped.config.id2label[3] == "class 3"
    processor = AutoImageProcessor.from_pretrained(tmp_path / "ours")
    assert processor.data_config["crop_pct"] == pytest.approx(48 / 53, abs=0.01)


def test_to_hf_loads_as_vit_with_equal_logits(tmp_path: Path) -> None:
    from transformers import AutoImageProcessor, ViTForImageClassification

    from vitkit.checkpoint.save import save_transformers

    timm_folder(tmp_path / "timm", timm_model())
    found = read(tmp_path / "timm")
    notes = save_transformers(found.module(), tmp_path / "hf", card=found.card)
    assert any("rounds down" in note for note in notes) and any("bicubic" in note for note in notes)
    theirs, info = ViTForImageClassification.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    pixels = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        assert relative(theirs.eval()(pixels).logits, found.module()(pixels)) < TOLERANCE
    assert AutoImageProcessor.from_pretrained(tmp_path / "hf").size["shortest_edge"] == 53
    assert read(tmp_path / "hf").report.layout == "transformers/vit"


def test_a_pooled_model_survives_the_way_to_transformers_and_back(tmp_path: Path) -> None:
    from transformers import ViTModel

    from vitkit.checkpoint.save import save_transformers

    theirs = transformers_folder(tmp_path / "a", model="ViTModel", pooler_output_size=24)
    found = read(tmp_path / "a")
    save_transformers(found.module(), tmp_path / "b", card=found.card)
    again = ViTModel.from_pretrained(tmp_path / "b").eval()
    pixels = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        assert relative(again(pixels).pooler_output, theirs(pixels).pooler_output) < TOLERANCE


def test_imagenet_names_are_timms() -> None:
    from timm.data import ImageNetInfo

    from vitkit.checkpoint.card import imagenet1k

    info = ImageNetInfo()
    ids, names = imagenet1k()
    assert list(ids) == info.label_names()
    assert names == tuple(info.label_name_to_description(wnid, detailed=False) for wnid in ids)

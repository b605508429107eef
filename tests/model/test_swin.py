"""The Swin Transformer: published counts, windows that follow every grid, and the rules of every image model.

That it computes what the papers' code does is checked against foreign code in tests/peers/families/swin.py.
"""

import copy
import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from small import PREPROCESS, randomise, relative
from vitkit import ConfigError, ModelSpec, SwinSpec, SwinTransformer, VitSpec
from vitkit.checkpoint import proof
from vitkit.config import from_dict, to_dict
from vitkit.model.build import build, build_empty
from vitkit.model.swin_spec import SwinFields

SMALL: dict[str, Any] = {
    "image_size": 32,
    "num_classes": 7,
    "embed_dim": 16,
    "depths": (2, 3),
    "num_heads": (2, 4),
    "window_size": 4,
    "mlp_ratio": 2.0,
}
FITS = ("trained", "each_call", "never")
BASE: dict[str, Any] = {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)}
SECOND: dict[str, Any] = {"version": 2, "image_size": 256}
PUBLISHED = {  # parameters and GMACs; the papers' tables, timm's exact counts
    "T": ({}, 28_288_354, 4.5),
    "S": ({"depths": (2, 2, 18, 2)}, 49_606_258, 8.7),
    "B": (BASE, 87_768_224, 15.4),
    "B/384": ({**BASE, "image_size": 384, "window_size": 12}, 87_903_584, 47.0),
    "T2/8": ({**SECOND, "window_size": 8}, 28_347_154, 5.9),
    "T2/16": ({**SECOND, "window_size": 16}, 28_347_154, 6.6),
}


def small_swin(**changes: Any) -> SwinTransformer:
    model = SwinTransformer(**{**SMALL, **changes})
    randomise(model)
    return model


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_the_published_ones(name: str) -> None:
    fields, count, gmacs = PUBLISHED[name]
    spec = SwinSpec(**fields)
    model = build_empty(ModelSpec(arch="swin", spec=spec))
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    assert spec.macs() / 1e9 == pytest.approx(gmacs, abs=0.1)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"version": 2},
        {"num_classes": 0, "qkv_bias": False},
        {"version": 2, "qkv_bias": False, "in_channels": 1},
        {"window_size": (4, 7)},
        {"window_size": 7, "window_fit": "each_call", "image_size": (32, 64)},
        {"depths": (1, 1, 2), "num_heads": (1, 2, 4), "mlp_ratio": 3.3},
    ],
)
def test_the_closed_form_count_is_the_modules(changes: dict[str, Any]) -> None:
    model = small_swin(**changes)
    assert model.spec.num_parameters() == sum(parameter.numel() for parameter in model.parameters())


def test_constructor_keywords_are_the_fields_of_the_spec() -> None:
    assert {field.name for field in dataclasses.fields(SwinSpec)} == set(SwinFields.__annotations__)
    assert SwinTransformer(num_classes=2).spec == SwinSpec(num_classes=2)


def test_foreign_keywords_name_ours() -> None:
    with pytest.raises(ConfigError) as error:
        SwinTransformer(img_size=224, dim=64, depth=3, windows=7)  # type: ignore[call-arg]
    for word in ("'img_size' is called image_size", "embed_dim", "nearest: depths", "nearest: window_size"):
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"image_size": 33}, "33x33 is not a multiple of patch_size 4"),
        ({"num_heads": (3, 4)}, "width 16 is not a multiple of its num_heads 3"),
        ({"num_heads": (2,)}, "num_heads has 1 entries for 2 stages"),
        ({"window_size": (4, 4, 4)}, "window_size has 3 entries for 2 stages"),
        ({"window_size": 0}, "window_size is (0, 0), not whole numbers from 1"),
        ({"depths": ()}, "depths is ()"),
        ({"depths": (1,) * 9}, "depths has 9 stages; at most 8"),
        ({"version": 3}, "version is 3, allowed: 1, 2"),
        ({"mlp_ratio": 0}, "mlp_ratio is 0, not a number above 0"),
        ({"qkv_bias": 1}, "qkv_bias is 1, not true or false"),
        ({"window_fit": "always"}, "window_fit is 'always', allowed: 'trained'"),
        ({"pretrained_window_size": 3}, "(3, 3) is for version 2"),
        ({"norm_eps": 2, "dropout": -1}, "dropout is -1"),
    ],
)
def test_a_wrong_spec_names_the_value(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        SwinSpec(**{**SMALL, **fields})
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_spec_survives_json_and_its_architecture_says_what_it_is() -> None:
    spec = ModelSpec(arch="swin", spec=SwinSpec(**{**SMALL, "version": 2, "pretrained_window_size": (3, 2)}))
    written = to_dict(spec)
    assert from_dict(ModelSpec, written, origin="test") == spec
    for changes, says in (
        ({"arch": "vit"}, "ModelSpec.spec has no key 'depths'; nearest: depth"),
        ({"arch": "swim"}, "ModelSpec.arch is 'swim', allowed: "),
        ({"arch": ["swin"]}, "ModelSpec.arch is ['swin'], allowed: "),
        ({"spec": {**written["spec"], "depths": [2, "3"]}}, "ModelSpec.spec.depths[1] is '3', not a whole number"),
        ({"spec": {**written["spec"], "embed_dim": 0}}, "x.json: embed_dim is 0"),
    ):
        with pytest.raises(ConfigError) as error:
            from_dict(ModelSpec, {**written, **changes}, origin="x.json")
        assert says in str(error.value)
    with pytest.raises(ConfigError, match="arch is 'swin' with a VitSpec; allowed: .*'swin' with a SwinSpec"):
        ModelSpec(arch="swin", spec=VitSpec())


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("fit", FITS)
def test_no_size_changes_the_model(version: int, fit: str) -> None:
    model = small_swin(version=version, window_fit=fit)
    pixels = torch.randn(2, 3, 32, 32)
    before, state = model(pixels), copy.deepcopy(model.state_dict())
    for size in ((64, 64), (4, 4), (20, 52), (36, 8)):
        assert model(torch.randn(2, 3, *size)).shape == (2, 7)
    assert torch.equal(model(pixels), before)
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def test_pictures_of_a_batch_dont_see_each_other() -> None:
    model = small_swin()
    pixels = torch.randn(3, 3, 40, 24)
    alone = torch.cat([model(picture[None]) for picture in pixels])
    assert relative(model(pixels), alone) < 1e-6


@pytest.mark.parametrize(
    ("fit", "grid", "size", "shift"),
    [
        ("trained", (16, 16), (7, 7), (3, 3)),
        ("trained", (4, 4), (7, 7), (3, 3)),
        ("each_call", (16, 16), (7, 7), (3, 3)),
        ("each_call", (7, 16), (7, 7), (0, 0)),
        ("each_call", (16, 5), (5, 5), (0, 0)),
        ("never", (4, 4), (7, 7), (3, 3)),
    ],
)
def test_windows_fit_a_grid_larger_than_them_or_not(
    fit: str, grid: tuple[int, int], size: tuple[int, int], shift: tuple[int, int]
) -> None:
    spec = SwinSpec(**{**SMALL, "image_size": 64, "window_size": 7, "window_fit": fit})
    assert spec.window(0, grid) == (size, shift)
    assert spec.bias_window(0) == (7, 7)


def test_windows_larger_than_the_trained_grid_are_learned_as_large_as_it_is() -> None:
    spec = SwinSpec(**{**SMALL, "image_size": (16, 64), "window_size": 7})
    assert [spec.window(stage, grid) for stage, grid in enumerate(spec.grids())] == [((4, 7), (0, 3)), ((2, 7), (0, 3))]
    assert spec.bias_window(0) == (4, 7)


def test_a_window_that_shrinks_reads_the_middle_of_its_table() -> None:
    large = small_swin(depths=(2,), num_heads=(2,), window_size=5, window_fit="each_call")
    small = small_swin(depths=(2,), num_heads=(2,), window_size=3, window_fit="each_call")
    table = large.state_dict()["layers.0.blocks.0.attn.relative_position_bias_table"]
    assert table.shape == (9 * 9, 2)
    state = {
        name: tensor.view(9, 9, 2)[2:-2, 2:-2].flatten(0, 1) if name.endswith("table") else tensor
        for name, tensor in large.state_dict().items()
    }
    small.load_state_dict(state)
    pixels = torch.randn(2, 3, 12, 12)  # a grid of 3x3 patches
    assert relative(large(pixels), small(pixels)) < 1e-6


def test_where_zeros_are_added_matters_only_where_they_are() -> None:
    first, last = small_swin(), small_swin(window_padding="after_shift")
    last.load_state_dict(first.state_dict())
    for size, same in (((32, 32), True), ((64, 32), True), ((36, 32), False)):
        pixels = torch.randn(2, 3, *size)
        assert torch.equal(first(pixels), last(pixels)) == same


def test_features_number_the_blocks_through_all_stages() -> None:
    model = small_swin()
    pixels = torch.randn(2, 3, 32, 40)
    found = model.features(pixels, layers=[4, 0, 1, 2, -1])
    assert [layer.shape for layer in found.layers] == [(2, 20, 32), (2, 80, 16), (2, 80, 16), (2, 20, 32), (2, 20, 32)]
    assert found.grid == (4, 5) and found.prefix_tokens.shape == (2, 0, 32)
    assert torch.equal(found.layers[0], found.layers[-1])
    torch.testing.assert_close(model.norm(found.layers[0]), found.patch_tokens)
    torch.testing.assert_close(model.embed(pixels), found.patch_tokens.mean(1))
    torch.testing.assert_close(model.head(model.embed(pixels)), model(pixels))
    with pytest.raises(ConfigError, match="layer 5 .* blocks 0 to 4"):
        model.features(pixels, layers=[5])


def test_every_parameter_has_its_layer() -> None:
    model = small_swin()
    assert [
        model.layer_of(name)
        for name in (
            "patch_embed.norm.weight",
            "layers.0.blocks.1.attn.qkv.weight",
            "layers.1.downsample.reduction.weight",
            "layers.1.blocks.0.norm1.bias",
            "layers.1.blocks.2.mlp.fc1.weight",
            "norm.weight",
            "head.fc.bias",
        )
    ] == [0, 2, 3, 3, 5, 6, 6]
    groups = model.parameter_groups(1.0, layer_decay=0.5)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    assert {group["lr"] for group in groups} == {0.5**layer for layer in range(7)}


def test_biases_norms_positions_and_temperatures_dont_decay() -> None:
    for version in (1, 2):
        model = small_swin(version=version)
        held = {
            name.rpartition("attn.")[2] if "attn." in name else name.split(".")[-2]
            for group in model.parameter_groups(1.0)
            if group["weight_decay"]
            for name in group["names"]
        }
        assert held == {"proj", "qkv.weight", "proj.weight", "fc1", "fc2", "reduction", "fc"}


def test_reset_head_changes_the_head_alone() -> None:
    model = small_swin()
    pixels = torch.randn(2, 3, 32, 32)
    before = model.embed(pixels)
    assert model.reset_head(5) is model
    assert model.spec.num_classes == 5 and model(pixels).abs().max() == 0 and model(pixels).shape == (2, 5)
    assert torch.equal(model.embed(pixels), before)
    assert model.reset_head(0)(pixels).shape == (2, 32)


def test_another_window_resamples_the_tables() -> None:
    old, new = SwinSpec(**SMALL), SwinSpec(**{**SMALL, "image_size": 64, "window_size": (7, 4)})
    state = small_swin().state_dict()
    resized = SwinTransformer.resized_state(state, old, new)
    name = "layers.0.blocks.1.attn.relative_position_bias_table"
    plane = state[name].T.view(1, 2, 7, 7)  # as the authors' load_pretrained does it
    expected = F.interpolate(plane, size=(13, 13), mode="bicubic").view(2, -1).T
    torch.testing.assert_close(resized[name], expected)
    assert all((resized[key] is state[key]) == (not key.startswith(name[:8]) or "table" not in key) for key in state)
    build(ModelSpec(arch="swin", spec=new)).load_state_dict(resized)


def test_the_proof_names_the_blocks_of_every_stage() -> None:
    model = small_swin()
    made = proof.make(model, PREPROCESS)
    with torch.no_grad():
        model.get_parameter("layers.1.blocks.1.norm2.weight").mul_(1.1)
    departed = proof.first_departure(proof.check(model, PREPROCESS, made))
    assert departed is not None and departed.name == "layers.1.blocks.1"


@pytest.mark.parametrize("version", [1, 2])
def test_it_compiles_without_a_graph_break(version: int) -> None:
    model = small_swin(version=version)
    compiled = torch.compile(model, backend="eager", fullgraph=True, dynamic=False)
    for size in ((32, 32), (48, 24)):
        pixels = torch.randn(2, 3, *size)
        torch.testing.assert_close(compiled(pixels), model(pixels))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_half_precision_stay_near(version: int, dtype: torch.dtype) -> None:
    model = small_swin(version=version)
    pixels = torch.randn(4, 3, 32, 32)
    expected = model(pixels)
    with torch.autocast("cpu", dtype=dtype):
        assert relative(model(pixels).float(), expected) < 0.05
    assert relative(model.to(dtype)(pixels.to(dtype)).float(), expected) < 0.05


@pytest.mark.parametrize("version", [1, 2])
def test_gradients_reach_every_parameter(version: int) -> None:
    model = small_swin(version=version)
    model(torch.randn(2, 3, 32, 32)).square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_dropout_and_drop_path_act_in_training_only() -> None:
    model = small_swin(dropout=0.5, attention_dropout=0.5, drop_path=0.5)
    pixels = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(pixels), small_swin()(pixels))
    model.train()
    assert not torch.equal(model(pixels), model(pixels))
    rates = [part.rate for part in model.modules() if type(part).__name__ == "DropPath"]
    assert rates == pytest.approx([0, 0.125, 0.25, 0.375, 0.5])


def test_a_fresh_model_starts_as_the_authors_code_does() -> None:
    first, second = (build(ModelSpec(arch="swin", spec=SwinSpec(version=v, num_classes=10))) for v in (1, 2))
    for model in (first, second):
        assert model.get_parameter("head.fc.weight").abs().max() == 0
        assert model.get_parameter("layers.2.blocks.0.attn.qkv.weight").std().item() == pytest.approx(0.02, rel=0.05)
    assert first.get_parameter("layers.0.blocks.0.norm1.weight").min() == 1
    assert second.get_parameter("layers.0.blocks.0.norm1.weight").max() == 0
    assert second.get_parameter("layers.0.blocks.0.attn.logit_scale").exp().mean().item() == pytest.approx(10)


@pytest.mark.gpu
def test_it_runs_on_a_gpu() -> None:
    for version in (1, 2):
        model = small_swin(version=version)
        pixels = torch.randn(2, 3, 40, 32)
        expected = model(pixels)
        assert relative(model.cuda()(pixels.cuda()).cpu(), expected) < 1e-4

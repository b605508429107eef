"""ResNets and the hybrid's stem: plain convolutions with each library's padding, published counts, norms in training.

That ResNets compute what the papers' code does is checked against foreign code in tests/peers/families/resnet.py.
"""

import copy
import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from small import PREPROCESS, randomise, relative
from vitkit import ConfigError, ModelSpec, ResNet, ResNetSpec, VitSpec
from vitkit.checkpoint import proof
from vitkit.config import from_dict, to_dict
from vitkit.model.build import build_empty
from vitkit.model.resnet import HYBRID, Conv, SameStdConv, StdConv, root, stem, zero_padded_pool
from vitkit.model.resnet_spec import ResNetFields
from vitkit.model.stem_spec import Counts, resnet_stem

DEPTHS: list[Counts] = [None, (), (1,), (2, 1, 3)]
SMALL: dict[str, Any] = {"image_size": 32, "num_classes": 7, "width": 32, "depths": (2, 1)}
BLOCKS = ("basic", "bottleneck", "preactivation")
R50, R101, R152 = (3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3)
PUBLISHED: dict[str, tuple[dict[str, Any], int, float]] = {  # parameters and GMACs in torchvision's table of weights
    "18": ({"block": "basic", "depths": (2, 2, 2, 2)}, 11_689_512, 1.814),
    "34": ({"block": "basic", "depths": R50}, 21_797_672, 3.664),
    "50": ({"depths": R50}, 25_557_032, 4.089),
    "101": ({"depths": R101}, 44_549_160, 7.801),
    "152": ({"depths": R152}, 60_192_808, 11.514),
}


def small_resnet(**changes: Any) -> ResNet:
    model = ResNet(**{**SMALL, **changes})
    randomise(model)
    return model


@pytest.mark.parametrize(("side", "stride"), [(7, 2), (3, 1), (3, 2), (1, 1), (1, 2)])
@pytest.mark.parametrize("kind", [Conv, StdConv, SameStdConv])
def test_a_convolution_standardises_its_kernels_and_pads_as_its_library_does(
    kind: type[Conv], side: int, stride: int
) -> None:
    conv = kind(3, 4, side, stride)
    randomise(conv)
    x = torch.randn(2, 3, 8, 12)
    if kind is SameStdConv:  # tf.nn's formula for "SAME"
        pads = [max((size // stride - 1) * stride + side - size, 0) for size in (12, 8)]
        padded = F.pad(x, [edge for pad in pads for edge in (pad // 2, pad - pad // 2)])
    else:
        padded = F.pad(x, (side // 2,) * 4)
    kernels = conv.weight
    if kind is not Conv:
        kernels = torch.stack([(k - k.mean()) / (k.var(correction=0) + 1e-8).sqrt() for k in conv.weight])
    expected = torch.einsum("bcxyij,ocij->boxy", padded.unfold(2, side, stride).unfold(3, side, stride), kernels)
    assert relative(conv(x), expected) < 1e-5


def test_the_hybrids_pooling_reaches_over_the_far_edge_alone() -> None:
    picture = torch.zeros(1, 1, 8, 8)
    picture[0, 0, 7, 7] = picture[0, 0, 1, 2] = 1
    pooled = root(HYBRID, 3, 64, activated=True).pool(picture)  # type: ignore[operator]
    expected = torch.zeros(4, 4)
    expected[3, 3] = expected[0, 0] = expected[0, 1] = 1
    assert torch.equal(pooled[0, 0], expected)


def test_at_an_edge_bits_pooling_sees_zeros() -> None:
    pooled = zero_padded_pool()(torch.full((1, 1, 5, 5), -1.0))
    expected = torch.zeros(3, 3)
    expected[1, 1] = -1
    assert torch.equal(pooled[0, 0], expected)


@pytest.mark.parametrize("depths", DEPTHS)
def test_a_stems_output_has_the_stride_and_channels_of_its_spec(depths: Counts) -> None:
    shape = resnet_stem(depths, 3)
    assert stem(3, depths)(torch.randn(1, 3, 64, 32)).shape == (
        1,
        shape.channels,
        64 // shape.stride,
        32 // shape.stride,
    )


@pytest.mark.parametrize("depths", DEPTHS)
def test_a_stems_macs_are_those_that_torch_counts(depths: Counts) -> None:
    for size in ((64, 32), (32, 48)):
        with FlopCounterMode(display=False) as counter:
            stem(2, depths)(torch.randn(1, 2, *size))
        assert 2 * resnet_stem(depths, 2).macs(size) == counter.get_total_flops()


def test_macs_of_a_hybrid_are_the_stems_and_those_of_patches_of_its_output() -> None:
    after = VitSpec(image_size=28, patch_size=4, in_channels=512)
    assert VitSpec(patch_size=32, stem_depths=(2, 1)).macs() == resnet_stem((2, 1), 3).macs((224, 224)) + after.macs()


@pytest.mark.parametrize("depths", DEPTHS)
def test_a_spec_with_a_stem_survives_json_and_says_it(depths: Counts) -> None:
    spec = ModelSpec(arch="vit", spec=VitSpec(stem_depths=depths))
    assert from_dict(ModelSpec, to_dict(spec), origin="test") == spec
    said = {None: "patches of 16, grid", (): "of no blocks", (1,): "of 1 blocks", (2, 1, 3): "ResNet of 2, 1, 3 blocks"}
    assert said[depths] in spec.spec.facts()["picture"]


def test_a_stem_that_cant_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="patch_size 16 is not a multiple of 32, the stride of stem_depths"):
        VitSpec(stem_depths=(2, 2, 2, 2))
    with pytest.raises(ConfigError, match=r"stem_depths is \(3, 0\)"):
        VitSpec(stem_depths=(3, 0))


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_the_published_ones(name: str) -> None:
    fields, count, gmacs = PUBLISHED[name]
    spec = ResNetSpec(**fields)
    model = build_empty(ModelSpec(arch="resnet", spec=spec))
    assert sum(parameter.numel() for parameter in model.parameters()) == count == spec.num_parameters()
    assert spec.macs() / 1e9 == pytest.approx(gmacs, abs=1e-3)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("changes", [{}, {"num_classes": 0, "in_channels": 1}, {"width": 64, "depths": (1, 3, 2)}])
def test_the_closed_form_counts_are_the_modules(block: str, changes: dict[str, Any]) -> None:
    model = small_resnet(block=block, **changes)
    assert model.spec.num_parameters() == sum(parameter.numel() for parameter in model.parameters())
    for size in ((32, 32), (33, 47), (1, 70)):
        with FlopCounterMode(display=False) as counter:
            model(torch.randn(1, model.spec.in_channels, *size))
        assert 2 * model.spec.macs(size) == counter.get_total_flops()


def test_constructor_keywords_are_the_fields_of_the_spec() -> None:
    assert {field.name for field in dataclasses.fields(ResNetSpec)} == set(ResNetFields.__annotations__)
    assert ResNet(num_classes=2).spec == ResNetSpec(num_classes=2)


def test_foreign_keywords_name_ours() -> None:
    with pytest.raises(ConfigError) as error:
        ResNet(img_size=224, depth=3, blocks="basic")  # type: ignore[call-arg]
    for word in ("'img_size' is called image_size", "nearest: depths", "nearest: block"):
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"block": "bottle"}, "block is 'bottle', allowed: 'basic', 'bottleneck', 'preactivation'"),
        ({"depths": ()}, "depths is ()"),
        ({"depths": (1,) * 9}, "depths has 9 stages; at most 8"),
        ({"depths": (1, 0)}, "depths is (1, 0), not whole numbers from 1 to 1,000"),
        ({"width": 0, "drop_path": 1}, "drop_path is 1, not a number from 0 to below 1"),
        ({"block": "preactivation", "width": 48}, "width 48 is not a multiple of 32, the groups of the norms"),
    ],
)
def test_a_wrong_spec_names_the_value(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        ResNetSpec(**{**SMALL, **fields})
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_spec_survives_json(block: str) -> None:
    spec = ModelSpec(arch="resnet", spec=ResNetSpec(**{**SMALL, "block": block}))
    assert from_dict(ModelSpec, to_dict(spec), origin="test") == spec
    assert block in spec.spec.facts()["encoder"] and "grid 4x4 at the end" in spec.spec.facts()["picture"]


@pytest.mark.parametrize("block", BLOCKS)
def test_any_size_is_answered_and_none_changes_the_model(block: str) -> None:
    model = small_resnet(block=block)
    pixels = torch.randn(2, 3, 32, 32)
    before, state = model(pixels), copy.deepcopy(model.state_dict())
    for height, width in ((64, 64), (1, 1), (45, 17)):
        found = model.features(torch.randn(2, 3, height, width))
        assert found.grid == dataclasses.replace(model.spec, image_size=(height, width)).grid
        assert found.patch_tokens.shape == (2, found.grid[0] * found.grid[1], model.spec.feature_dim)
    assert torch.equal(model(pixels), before)
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    with pytest.raises(ConfigError, match=r"the shape \[2, 1, 32, 32\]; allowed: \[B, 3, H, W\]"):
        model(pixels[:, :1])


@pytest.mark.parametrize("block", BLOCKS)
def test_pictures_of_a_batch_dont_see_each_other(block: str) -> None:
    model = small_resnet(block=block)
    pixels = torch.randn(3, 3, 40, 24)
    alone = torch.cat([model(picture[None]) for picture in pixels])
    assert relative(model(pixels), alone) < 1e-5


@pytest.mark.parametrize("block", BLOCKS)
def test_features_number_the_blocks_through_all_stages(block: str) -> None:
    model = small_resnet(block=block)
    pixels = torch.randn(2, 3, 32, 40)
    found = model.features(pixels, layers=[2, 0, 1, -1])
    first, last = model.spec.widths
    assert [layer.shape for layer in found.layers] == [(2, 20, last), (2, 80, first), (2, 80, first), (2, 20, last)]
    assert found.grid == (4, 5) and found.prefix_tokens.shape == (2, 0, last)
    assert torch.equal(found.layers[0], found.layers[-1])
    normed = model.norm(found.layers[0].mT) if block == "preactivation" else found.layers[0].mT
    torch.testing.assert_close(normed.mT.relu(), found.patch_tokens)
    torch.testing.assert_close(model.embed(pixels), found.patch_tokens.mean(1))
    torch.testing.assert_close(model.head(model.embed(pixels)), model(pixels))
    with pytest.raises(ConfigError, match="layer 3 .* blocks 0 to 2"):
        model.features(pixels, layers=[3])


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_in_training_norms_learn_from_the_batch_and_in_use_only_remember(block: str) -> None:
    model = small_resnet(block=block)
    pixels = 2 * torch.randn(4, 3, 32, 32) + 1
    convolved = model.stem.conv(pixels)  # type: ignore[operator]
    norm = model.stem.norm
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
    model(pixels)
    assert norm.running_mean.abs().max() == 0 and norm.num_batches_tracked == 0
    model.train()(pixels)
    flat = convolved.transpose(0, 1).flatten(1)
    torch.testing.assert_close(norm.running_mean, 0.1 * flat.mean(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * flat.var(1), rtol=1e-4, atol=1e-5)
    assert norm.num_batches_tracked == 1
    normed = norm(convolved).transpose(0, 1).flatten(1)
    torch.testing.assert_close(normed.mean(1), norm.bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_new_blocks_are_the_identity_behind_their_shortcut(block: str) -> None:
    model = ResNet(**{**SMALL, "block": block}).eval()
    x = torch.rand(1, model.spec.widths[0], 8, 8)
    torch.testing.assert_close(model.stages[0].blocks[1](x), x)  # type: ignore[operator, index, union-attr]


def test_a_dropped_block_is_its_shortcut() -> None:
    for block in BLOCKS:
        model = small_resnet(block=block, drop_path=0.9).train()
        last = model.stages[0].blocks[1]  # type: ignore[index, union-attr]
        assert last.drop_path.rate == pytest.approx(0.45)  # the middle one of three
        last.drop_path.rate = 1 - 1e-9
        x = torch.rand(2, model.spec.widths[0], 8, 8)
        torch.testing.assert_close(last(x), x)


def test_every_parameter_has_its_layer() -> None:
    model = small_resnet()
    assert [
        model.layer_of(name)
        for name in (
            "stem.norm.weight",
            "stages.0.blocks.0.downsample.conv.weight",
            "stages.0.blocks.1.conv2.weight",
            "stages.1.blocks.0.norm3.bias",
            "norm.weight",
            "head.bias",
        )
    ] == [0, 1, 2, 3, 4, 4]
    groups = model.parameter_groups(1.0, layer_decay=0.5)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    assert {group["lr"] for group in groups} == {0.5**layer for layer in range(5)}


@pytest.mark.parametrize("block", BLOCKS)
def test_kernels_alone_decay(block: str) -> None:
    groups = small_resnet(block=block).parameter_groups(1.0)
    held = [name for group in groups if group["weight_decay"] for name in group["names"]]
    free = [name for group in groups if not group["weight_decay"] for name in group["names"]]
    assert all("conv" in name or name == "head.weight" for name in held)
    assert all("norm" in name or name == "head.bias" for name in free)


def test_reset_head_changes_the_head_alone() -> None:
    model = small_resnet()
    pixels = torch.randn(2, 3, 32, 32)
    before = model.embed(pixels)
    assert model.reset_head(5) is model
    assert model.spec.num_classes == 5 and model(pixels).abs().max() == 0 and model(pixels).shape == (2, 5)
    assert torch.equal(model.embed(pixels), before)
    assert model.reset_head(0)(pixels).shape == (2, model.spec.feature_dim)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_proof_names_the_block_that_departs(block: str) -> None:
    model = small_resnet(block=block)
    made = proof.make(model, PREPROCESS)
    assert proof.first_departure(proof.check(model, PREPROCESS, made)) is None
    with torch.no_grad():
        model.get_parameter("stages.0.blocks.1.norm2.weight").mul_(1.1)
    departed = proof.first_departure(proof.check(model, PREPROCESS, made))
    assert departed is not None and departed.name == "stages.0.blocks.1"

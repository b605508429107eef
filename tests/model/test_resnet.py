"""The hybrid's stem against a plain convolution with TensorFlow's padding, counted by torch, and its spec."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from small import randomise, relative
from vitkit import ConfigError, ModelSpec, VitSpec
from vitkit.config import from_dict, to_dict
from vitkit.model.resnet import Root, StdConv, stem
from vitkit.model.stem_spec import Depths, stem_channels, stem_macs, stem_stride

DEPTHS: list[Depths] = [None, (), (1,), (2, 1, 3)]


@pytest.mark.parametrize(("side", "stride"), [(7, 2), (3, 1), (3, 2), (1, 1), (1, 2)])
def test_a_convolution_has_standardised_kernels_and_pads_as_tensorflow_does(side: int, stride: int) -> None:
    conv = StdConv(3, 4, side, stride)
    randomise(conv)
    x = torch.randn(2, 3, 8, 12)
    pads = [max((size // stride - 1) * stride + side - size, 0) for size in (12, 8)]  # tf.nn's formula for "SAME"
    padded = F.pad(x, [edge for pad in pads for edge in (pad // 2, pad - pad // 2)])
    kernels = torch.stack([(k - k.mean()) / (k.var(correction=0) + 1e-8).sqrt() for k in conv.weight])
    expected = torch.einsum("bcxyij,ocij->boxy", padded.unfold(2, side, stride).unfold(3, side, stride), kernels)
    assert relative(conv(x), expected) < 1e-5


def test_the_roots_pooling_reaches_over_the_far_edge_alone() -> None:
    picture = torch.zeros(1, 1, 8, 8)
    picture[0, 0, 7, 7] = picture[0, 0, 1, 2] = 1
    pooled = Root(3).pool(picture)
    expected = torch.zeros(4, 4)
    expected[3, 3] = expected[0, 0] = expected[0, 1] = 1
    assert torch.equal(pooled[0, 0], expected)


@pytest.mark.parametrize("depths", DEPTHS)
def test_its_output_has_the_stride_and_channels_of_its_spec(depths: Depths) -> None:
    stride, channels = stem_stride(depths), stem_channels(depths, 3)
    assert stem(3, depths)(torch.randn(1, 3, 64, 32)).shape == (1, channels, 64 // stride, 32 // stride)


@pytest.mark.parametrize("depths", DEPTHS)
def test_macs_are_those_that_torch_counts(depths: Depths) -> None:
    for size in ((64, 32), (32, 48)):
        with FlopCounterMode(display=False) as counter:
            stem(2, depths)(torch.randn(1, 2, *size))
        assert 2 * stem_macs(depths, 2, size) == counter.get_total_flops()


def test_macs_of_a_hybrid_are_the_stems_and_those_of_patches_of_its_output() -> None:
    after = VitSpec(image_size=28, patch_size=4, in_channels=512)
    assert VitSpec(patch_size=32, stem_depths=(2, 1)).macs() == stem_macs((2, 1), 3, (224, 224)) + after.macs()


@pytest.mark.parametrize("depths", DEPTHS)
def test_a_spec_with_a_stem_survives_json_and_says_it(depths: Depths) -> None:
    spec = ModelSpec(arch="vit", spec=VitSpec(stem_depths=depths))
    assert from_dict(ModelSpec, to_dict(spec), origin="test") == spec
    said = {None: "patches of 16, grid", (): "of no blocks", (1,): "of 1 blocks", (2, 1, 3): "ResNet of 2, 1, 3 blocks"}
    assert said[depths] in spec.spec.facts()["picture"]


def test_a_stem_that_cant_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="patch_size 16 is not a multiple of 32, the stride of stem_depths"):
        VitSpec(stem_depths=(2, 2, 2, 2))
    with pytest.raises(ConfigError, match=r"stem_depths is \(3, 0\)"):
        VitSpec(stem_depths=(3, 0))

"""Differences planted into one of two equal models are found where they are, by their amount, with their cause."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import vitkit
from small import PREPROCESS, picture, small_model
from vitkit import ConfigError, Preprocess, VisionTransformer
from vitkit.evaluation import diff as diffs
from vitkit.evaluation.diff import Compared, Difference, compare, generated
from vitkit.evaluation.sides import Ours, Side
from vitkit.evaluation.stages import BLOCK
from vitkit.image.decode import Pixels
from vitkit.image.preprocess import apply
from vitkit.model.attention import Attention
from vitkit.model.block import gelu_tanh
from vitkit.model.position import resample_positions

SCALED: dict[str, Any] = {"layer_scale": 0.1}


def plain(preprocess: Preprocess = PREPROCESS, **changes: Any) -> Side:
    return Side("plain", small_model(**changes).double(), Ours(preprocess))


def changed(change: Callable[[Any], None], **changes: Any) -> Side:
    side = plain(**changes)
    change(side.module)
    return dataclasses.replace(side, name="changed")


def inputs(preprocess: Preprocess = PREPROCESS) -> list[Tensor]:
    """What both models are shown, float64 [1, C, H, W] each."""
    return [torch.from_numpy(apply(preprocess, rgb))[None].double() for rgb in generated(preprocess)]


def taken(module: nn.Module, path: str, pixels: Tensor, *, enters: bool = False) -> Tensor:
    """What leaves, or enters, a part of `module`."""
    found: list[Tensor] = []
    part = module.get_submodule(path)
    if enters:
        handle = part.register_forward_pre_hook(lambda _, args: found.append(args[0]))
    else:
        handle = part.register_forward_hook(lambda _, args, result: found.append(result))
    module(pixels)
    handle.remove()
    return found[0]


def largest(pairs: list[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """Of several pictures the largest relative difference, and that picture's largest absolute one."""
    return max(
        (float((x - y).norm() / torch.maximum(x.norm(), y.norm())), float((x - y).abs().max())) for x, y in pairs
    )


def set_eps(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, nn.LayerNorm):
            part.eps = 1e-12


def set_tanh(module: VisionTransformer) -> None:
    for block in module.blocks:
        block.mlp.activation = gelu_tanh  # type: ignore[union-attr]


def swap_q_and_k(module: VisionTransformer) -> None:
    for part in module.modules():
        if isinstance(part, Attention):
            for tensor in (part.qkv.weight, part.qkv.bias):
                q, k, v = tensor.data.chunk(3)
                tensor.data = torch.cat([k, q, v])


def drop_scale(module: VisionTransformer) -> None:
    for block in module.blocks:
        block.ls1, block.ls2 = nn.Identity(), nn.Identity()


class ByColumns(nn.Module):
    """Patch tokens column by column."""

    def __init__(self, embed: nn.Module) -> None:
        super().__init__()
        self.embed = embed

    def forward(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        tokens, (h, w) = self.embed(pixels)
        return tokens.unflatten(1, (h, w)).transpose(1, 2).flatten(1, 2), (h, w)


def turn_patches(module: VisionTransformer) -> None:
    module.patch_embed = ByColumns(module.patch_embed)  # type: ignore[assignment]


@dataclass(frozen=True)
class WithoutAntialiasing(Ours):
    """Resizes as F.interpolate does: each value from its neighbours alone, also where a picture shrinks."""

    def fit(self, rgb: Pixels) -> Pixels:
        planes = torch.from_numpy(rgb).permute(2, 0, 1)[None].float()
        resized = F.interpolate(planes, size=self.preprocess.size, mode="bilinear")
        return resized[0].permute(1, 2, 0).round().to(torch.uint8).numpy()

    def apply(self, rgb: Pixels) -> Any:
        return apply(dataclasses.replace(self.preprocess, resize="none", resize_size=None), self.fit(rgb))


@dataclass(frozen=True)
class Planted:
    """A difference, where it is, what it comes to by another computation, and what is said of it."""

    a: Callable[[], Side]
    b: Callable[[], Side]
    stage: str
    amount: Callable[[Any, Any, Tensor], tuple[Tensor, Tensor]]
    hint: str
    preprocess: Preprocess = PREPROCESS


def other_eps(a: nn.Module, b: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
    norm = a.get_submodule("blocks.0.norm1")
    x = taken(a, "blocks.0", pixels, enters=True)
    one, other = (F.layer_norm(x, (32,), norm.weight, norm.bias, eps) for eps in (1e-6, 1e-12))  # type: ignore[arg-type]
    return one, other


def other_gelu(a: nn.Module, b: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
    x = taken(a, "blocks.0.mlp.fc1", pixels)
    return F.gelu(x), F.gelu(x, approximate="tanh")


def other_positions(a: VisionTransformer, b: VisionTransformer, pixels: Tensor) -> tuple[Tensor, Tensor]:
    patches, grid = a.patch_embed(pixels)
    assert a.pos_embed is not None and a.cls_token is not None
    x = torch.cat([a.cls_token, patches], dim=1)
    table = a.pos_embed.data.float()
    one, other = (
        resample_positions(table, (4, 4), grid, policy, num_prefix=1) for policy in ("bicubic_antialias", "bicubic")
    )
    return x + one, x + other


def queries_and_keys(a: nn.Module, b: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
    q, k, _ = taken(a, "blocks.0.attn.qkv", pixels).chunk(3, dim=-1)
    return q, k


def scaled_or_not(a: nn.Module, b: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
    x = taken(a, "blocks.0.attn", pixels)
    return x * a.get_parameter("blocks.0.ls1.gamma"), x


def class_or_mean(a: VisionTransformer, b: VisionTransformer, pixels: Tensor) -> tuple[Tensor, Tensor]:
    features = a.features(pixels)
    return features.prefix_tokens[:, 0], features.patch_tokens.mean(dim=1)


def turned(a: VisionTransformer, b: VisionTransformer, pixels: Tensor) -> tuple[Tensor, Tensor]:
    x = taken(a, "patch_embed.proj", pixels)  # [B, D, h, w]
    return x, x.transpose(2, 3)


SMALLER = dataclasses.replace(PREPROCESS, size=(24, 16), resize_size=(27, 18))
OTHER_MEAN = dataclasses.replace(PREPROCESS, mean=(0.5, 0.4, 0.25))
SQUASHED = dataclasses.replace(PREPROCESS, resize="squash", resize_size=None, interpolation="bilinear", crop="none")

PLANTED = {
    "eps 1e-12 for 1e-6": Planted(
        plain, lambda: changed(set_eps), "blocks.0.norm1", other_eps, "LayerNorm eps: 1e-06 against 1e-12"
    ),
    "tanh GELU": Planted(
        plain, lambda: changed(set_tanh), "blocks.0.mlp.hidden", other_gelu, "activation gelu against gelu_tanh"
    ),
    "no antialiasing of positions": Planted(
        lambda: plain(SMALLER),
        lambda: plain(SMALLER, position_resample="bicubic"),
        "embedded",
        other_positions,
        "position_resample: 'bicubic_antialias' against 'bicubic'",
        SMALLER,
    ),
    "swapped q and k": Planted(
        plain, lambda: changed(swap_q_and_k), "blocks.0.attn.q", queries_and_keys, "queries and keys are swapped"
    ),
    "no layer scale": Planted(
        lambda: plain(**SCALED),
        lambda: changed(drop_scale, **SCALED),
        "blocks.0.ls1",
        scaled_or_not,
        "the branch is scaled by about ",
    ),
    "mean for class token": Planted(
        plain,
        lambda: plain(pool="mean"),
        "pooled",
        class_or_mean,
        "pooling: the class token against the mean of the patch tokens",
    ),
    "patches by columns": Planted(
        plain,
        lambda: changed(turn_patches),
        "patch_embed",
        turned,
        "the same patches, row by row against column by column",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_difference_is_named_and_measured(name: str) -> None:
    planted = PLANTED[name]
    a, b = planted.a(), planted.b()
    found = compare(a, b)
    assert found.departure is not None and found.departure.name == planted.stage
    before = found.stages[: found.stages.index(found.departure)]
    assert [stage.relative for stage in before] == [0.0] * len(before)
    with torch.no_grad():
        expected = largest([planted.amount(a.module, b.module, pixels) for pixels in inputs(planted.preprocess)])
    assert (found.departure.relative, found.departure.absolute) == pytest.approx(expected, rel=1e-6)
    assert expected[0] > 2 * found.departure.limit
    assert found.hint.startswith(planted.hint)
    assert planted.hint in str(found) and planted.stage in str(found)


def test_another_mean_is_found_in_the_pixels_alone() -> None:
    found = compare(plain(), plain(OTHER_MEAN))
    assert [stage.name for stage in found.stages if not stage.agrees] == ["pixels"]  # both are shown the first's
    assert found.departure is not None
    assert found.departure.absolute == pytest.approx(0.05 / 0.3, rel=1e-5)
    assert found.hint == "mean: (0.5, 0.4, 0.3) against (0.5, 0.4, 0.25)"


def test_preparation_and_models_are_told_apart() -> None:
    other = dataclasses.replace(changed(set_eps), preparing=Ours(OTHER_MEAN))
    found = compare(plain(), other)
    assert [stage.name for stage in found.departures] == ["pixels", "blocks.0.norm1"]
    assert dict(found.causes) == {"pixels": found.hint, "blocks.0.norm1": "LayerNorm eps: 1e-06 against 1e-12"}
    assert ". Shown the same pixels, the models depart first at blocks.0.norm1: " in str(found)
    smaller = dataclasses.replace(changed(set_eps), preparing=Ours(SMALLER))
    assert [stage.name for stage in compare(plain(), smaller).departures] == ["resized"]


def test_resizing_without_antialiasing_is_found_in_the_resized_picture() -> None:
    a = plain(SQUASHED)
    found = compare(a, dataclasses.replace(a, preparing=WithoutAntialiasing(SQUASHED)))
    assert found.departure is not None and found.departure.name == "resized"
    shrunk = [
        np.asarray(Image.fromarray(rgb).resize((32, 32), Image.Resampling.BILINEAR)) for rgb in generated(SQUASHED)
    ]
    plainly = [WithoutAntialiasing(SQUASHED).fit(rgb) for rgb in generated(SQUASHED)]
    levels = [np.abs(x.astype(int) - y).max() for x, y in zip(shrunk, plainly, strict=True)]
    assert found.departure.absolute == max(levels) > 50
    assert f"resized: up to {max(levels)} levels of 255" in str(found)
    assert [stage.name for stage in found.stages if not stage.agrees] == ["resized", "pixels"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"position": "relative", "qkv_bias": "qv", "layer_scale": 0.1, "final_norm": "pooled", "pool": "mean"},
        {"position": "rope", "num_registers": 2, "gated_mlp": True},
        {"pool": "attention", "class_token": False, "pre_logits_dim": 8},
        {"distillation_token": True, "pre_norm": True},
        {"num_classes": 0},
    ],
)
def test_a_model_agrees_with_itself_in_every_stage(changes: dict[str, Any]) -> None:
    found = compare(plain(**changes), plain(**changes), [picture(), picture(70, 31, seed=1)])
    assert found.agrees and found.departure is None and found.unnamed == () and found.hint == ""
    assert {stage.relative for stage in found.stages} == {0.0}
    assert (found.pictures, found.same_top1) == (6, 6 if changes.get("num_classes", 7) else None)
    names = [stage.name for stage in found.stages]
    scaled = "layer_scale" in changes
    for block in range(2):
        inside = [f"blocks.{block}.{name}".rstrip(".") for name in BLOCK if scaled or not name.startswith("ls")]
        assert [name for name in names if name.startswith(f"blocks.{block}")] == inside
    first = ["picture", "resized", "pixels", "patch_embed", "embedded"]
    assert names[:5] == first and names[-1] == "logits" and names[-2] == "embedding"
    shapes = {stage.name: stage.shape_a for stage in found.stages}
    assert shapes["pixels"] == (3, 32, 32) and shapes["logits"] == (changes.get("num_classes", 7) or 32,)
    assert shapes["blocks.0.attn.q"][0] == 4 and shapes["blocks.0.attn.q"][2] == 8


@pytest.mark.parametrize("name", ["attn.proj.weight", "mlp.fc2.bias", "mlp.fc1.bias", "norm2.bias", "attn.qkv.bias"])
def test_one_changed_weight_is_found_in_its_own_layer(name: str) -> None:
    def change(module: nn.Module) -> None:
        module.get_parameter(f"blocks.1.{name}").data.view(-1)[-1] += 1e-5

    stages = {"attn.proj": "attn", "mlp.fc2": "mlp", "mlp.fc1": "mlp.fc1", "norm2": "norm2", "attn.qkv": "attn.v"}
    found = compare(plain(), changed(change))
    assert found.departure is not None
    assert found.departure.name == f"blocks.1.{stages[name.rpartition('.')[0]]}"
    assert found.hint == ""
    assert found.same_top1 == found.pictures == 4


def test_what_does_not_fit_in_memory_at_once_is_walked_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> Difference:
        return compare(plain(), changed(set_eps))

    whole = found()
    monkeypatch.setattr(diffs, "HELD_BYTES", 3000)
    assert found() == whole
    monkeypatch.setattr(diffs, "HELD_BYTES", 1)
    assert found() == whole


def test_values_that_are_no_numbers_depart() -> None:
    def change(module: nn.Module) -> None:
        module.get_parameter("blocks.1.norm2.weight").data[3] = torch.nan

    broken = changed(change)
    found = compare(broken, broken)
    assert found.departure is not None and found.departure.name == "blocks.1.norm2"
    assert found.departure.absolute == float("inf")


def test_another_size_departs_by_its_shape() -> None:
    other = dataclasses.replace(PREPROCESS, size=(48, 40), resize_size=(54, 45))
    found = vitkit.diff((small_model(), PREPROCESS), (small_model(), other))
    assert found.departure is not None and str(found).startswith(
        "departs first at resized: [32, 32, 3] against [48, 40, 3]; everything before agrees to 0. size: "
    )
    assert found.departure.absolute == float("inf")
    assert {stage.name for stage in found.stages if stage.shape_a == stage.shape_b} >= {"pooled", "logits"}


@pytest.mark.parametrize(("dtype", "at_least"), [("float32", 1e-8), ("bfloat16", 1e-4), ("float16", 1e-5)])
def test_a_lower_precision_agrees_within_its_own_limits(dtype: str, at_least: float) -> None:
    model = small_model(depth=4)
    found = vitkit.diff((model, PREPROCESS), (model, PREPROCESS), dtype_b=dtype)
    assert found.agrees
    assert all(at_least < s.relative <= s.limit for s in found.stages if s.name.startswith("blocks."))
    strict = vitkit.diff((model, PREPROCESS), (model, PREPROCESS), dtype_b=dtype, rtol=1e-9).departure
    assert strict is not None and strict.name == "patch_embed" and strict.limit == 1e-9


def test_the_callers_module_stays_as_it_is() -> None:
    model = small_model().train()
    before = copy.deepcopy(model.state_dict())
    vitkit.diff((model, PREPROCESS), model)
    assert model.training and all(p.dtype == torch.float32 for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_a_module_alone_is_shown_the_others_pixels() -> None:
    model = small_model()
    for found in (vitkit.diff(model, (model, PREPROCESS)), vitkit.diff((model, PREPROCESS), model)):
        assert found.agrees and found.stages[2].name == "pixels"
    with pytest.raises(ConfigError, match="neither a nor b says how pictures become pixels"):
        vitkit.diff(model, model)


def test_a_module_of_nobody_knows_is_compared_by_its_logits() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5))
    found = vitkit.diff((model, PREPROCESS), model)
    assert [stage.name for stage in found.stages] == ["picture", "resized", "pixels", "logits"]


def test_swin_is_walked_through_all_its_stages() -> None:
    fields: dict[str, Any] = {"image_size": 64, "patch_size": 4, "embed_dim": 8, "depths": (2, 2), "num_heads": (2, 4)}
    model = vitkit.SwinTransformer(**fields, window_size=4, num_classes=5)
    other = copy.deepcopy(model)
    other.get_parameter("layers.1.blocks.0.mlp.fc2.bias").data[0] += 1
    preprocess = dataclasses.replace(PREPROCESS, size=(64, 64), resize_size=(64, 64))
    found = vitkit.diff((model, preprocess), other)
    assert found.departure is not None and found.departure.name == "blocks.2.mlp"
    assert [stage.name for stage in found.stages].count("blocks.3") == 1


def test_limits_and_options_are_checked(tmp_path: Any) -> None:
    model = small_model()
    with pytest.raises(ConfigError, match=r"rtol is 0; it must be larger than 0"):
        vitkit.diff(model, model, rtol=0)
    with pytest.raises(ConfigError, match="preset_b, image_size_b: the model is loaded already"):
        vitkit.diff(model, model, preset_b="vit_tiny_patch16_224", image_size_b=32)
    with pytest.raises(ConfigError, match="dtype 'int8' is unknown"):
        vitkit.diff(model, model, dtype_a="int8")


def test_compared_says_what_it_found() -> None:
    stage = Compared("norm", (5, 4), (5, 4), absolute=2.0, relative=0.25, limit=0.5)
    assert stage.agrees and str(stage) == "norm: 0.25 relative (limit 5e-01)"
    assert not dataclasses.replace(stage, relative=float("nan")).agrees

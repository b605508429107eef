"""The Vision Transformer against the paper's equations, written out plainly, and against published counts."""

import copy
import dataclasses
import inspect

import pytest
import torch
from torch import Tensor

from small import SMALL, randomise, relative, small_model
from vitkit import ConfigError, ModelSpec, VisionTransformer, VitSpec
from vitkit.config import from_dict, to_dict
from vitkit.model.build import build, build_empty
from vitkit.model.fields import FOREIGN_WORDS
from vitkit.model.spec import VitFields

PUBLISHED = {  # with 1,000 classes; timm's and the papers' counts
    "Ti/16": (dict(embed_dim=192, num_heads=3, mlp_dim=768), 5_717_416),
    "S/16": (dict(embed_dim=384, num_heads=6, mlp_dim=1536), 22_050_664),
    "B/16": ({}, 86_567_656),
    "L/16": (dict(embed_dim=1024, depth=24, num_heads=16, mlp_dim=4096), 304_326_632),
    "H/14": (dict(patch_size=14, embed_dim=1280, depth=32, num_heads=16, mlp_dim=5120), 632_045_800),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_the_published_ones(name: str) -> None:
    fields, count = PUBLISHED[name]
    model = build_empty(ModelSpec(arch="vit", spec=VitSpec(**fields)))
    assert sum(parameter.numel() for parameter in model.parameters()) == count


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_classes": 0},
        {"class_token": False, "pool": "mean"},
        {"qkv_bias": "none"},
        {"position": "sincos"},
        {"position": "none"},
        {"pre_logits_dim": 20},
        {"pool": "mean", "final_norm": "pooled"},
        {"in_channels": 5, "image_size": (16, 48)},
        {"distillation_token": True},
        {"num_registers": 4, "prefix_positions": False, "layer_scale": 1e-5},
        {"position": "relative", "qkv_bias": "qv", "layer_scale": 0.1, "pool": "mean", "final_norm": "pooled"},
        {"position": "relative_shared", "image_size": (16, 48), "final_norm": "none", "pool": "mean"},
        {"position": "rope", "num_registers": 3, "gated_mlp": True},
        {"pre_norm": True, "activation": "quick_gelu"},
        {"pool": "cls_mean"},
        {"pool": "cls_mean", "pre_logits_dim": 20},
        {"pool": "attention", "class_token": False},
        {"stem_depths": ()},
        {"stem_depths": (2, 1, 3), "patch_size": 16, "in_channels": 2},
        {"stem_channels": (8, 8, 16), "in_channels": 2},
    ],
)
def test_the_closed_form_count_is_the_modules(changes: dict[str, object]) -> None:
    model = small_model(**changes)
    assert model.spec.num_parameters() == sum(parameter.numel() for parameter in model.parameters())


def test_macs_of_base_16_are_the_published_17_6_billion() -> None:
    assert VitSpec().macs() / 1e9 == pytest.approx(17.56, abs=0.01)


def plain_forward(model: VisionTransformer, pixels: Tensor) -> Tensor:
    """Equations 1 to 4 of the paper, one head and one patch at a time, in float64."""
    spec, state = model.spec, {name: tensor.double() for name, tensor in model.state_dict().items()}
    p, D, A = spec.patch_size, spec.embed_dim, spec.num_heads

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        deviation = (centred.pow(2).mean(-1, keepdim=True) + spec.norm_eps).sqrt()
        return centred / deviation * state[f"{name}.weight"] + state[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state.get(f"{name}.bias", 0)

    logits = []
    for picture in pixels.double():
        kernel = state["patch_embed.proj.weight"].flatten(1)
        rows = [
            kernel @ picture[:, y : y + p, x : x + p].flatten() + state["patch_embed.proj.bias"]
            for y in range(0, picture.shape[1], p)
            for x in range(0, picture.shape[2], p)
        ]
        z = torch.stack(rows)
        if spec.class_token:
            z = torch.cat([state["cls_token"][0], z])
        z = z + state["pos_embed"][0]
        for i in range(spec.depth):
            q, k, v = linear(norm(z, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv").split(D, dim=-1)
            heads = []
            for a in range(A):
                one = slice(a * D // A, (a + 1) * D // A)
                weights = (q[:, one] @ k[:, one].T / (D / A) ** 0.5).softmax(-1)
                heads.append(weights @ v[:, one])
            z = z + linear(torch.cat(heads, -1), f"blocks.{i}.attn.proj")
            hidden = linear(norm(z, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1")
            hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
            z = z + linear(hidden, f"blocks.{i}.mlp.fc2")
        if spec.final_norm == "tokens":
            z = norm(z, "norm")
        pooled = z[0] if spec.pool == "cls" else z[spec.num_prefix_tokens :].mean(0)
        if spec.final_norm == "pooled":
            pooled = norm(pooled, "fc_norm")
        if spec.pre_logits_dim:
            pooled = linear(pooled, "pre_logits.fc").tanh()
        logits.append(linear(pooled, "head"))
    return torch.stack(logits)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pool": "mean", "final_norm": "pooled"},
        {"pool": "mean", "class_token": False},
        {"pre_logits_dim": 24, "qkv_bias": "none"},
        {"image_size": (16, 48), "in_channels": 2},
    ],
)
def test_the_forward_pass_is_the_papers(changes: dict[str, object]) -> None:
    model = small_model(**changes)
    pixels = torch.randn(3, model.spec.in_channels, *model.spec.image_size)
    assert relative(model(pixels).double(), plain_forward(model, pixels)) < 1e-5


def test_constructor_keywords_are_the_fields_of_the_spec() -> None:
    fields = {field.name for field in dataclasses.fields(VitSpec)}
    assert fields == set(VitFields.__annotations__)
    assert not fields & set(FOREIGN_WORDS)
    assert VisionTransformer().spec == VitSpec()


def test_foreign_keywords_name_ours() -> None:
    with pytest.raises(ConfigError) as error:
        VisionTransformer(img_size=224, dim=64, heads=2, num_layers=3, d_ff=7, d_model=9, pach_size=4)  # type: ignore[call-arg]
    for word in ("image_size", "embed_dim", "num_heads", "depth", "mlp_dim", "nearest: patch_size"):
        assert word in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"image_size": 33}, "33x33 is not a multiple of patch_size 8"),
        ({"num_heads": 5}, "embed_dim 32 is not a multiple of num_heads 5"),
        ({"class_token": False}, "use pool='mean'"),
        ({"depth": 0}, "depth is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"pool": "max"}, "pool is 'max', allowed: 'cls', 'mean'"),
        ({"image_size": (32,)}, "image_size is (32,)"),
        ({"norm_eps": 0}, "norm_eps is 0"),
        ({"depth": 0, "num_heads": -1}, "num_heads is -1"),
        ({"position": "learned", "position_resample": "geometric"}, "'geometric' is for tables of relative positions"),
    ],
)
def test_a_wrong_spec_names_the_value(fields: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match="^(?s:.)*" + __import__("re").escape(says)):
        VitSpec(**{**SMALL, **fields})


def test_a_spec_survives_json() -> None:
    spec = ModelSpec(arch="vit", spec=VitSpec(**{**SMALL, "image_size": (16, 32), "norm_eps": 1e-12}))
    assert from_dict(ModelSpec, to_dict(spec), origin="test") == spec


def test_any_multiple_of_the_patch_runs_and_other_sizes_are_refused() -> None:
    model = small_model()
    assert model(torch.randn(2, 3, 48, 24)).shape == (2, 7)
    for shape in ((2, 3, 33, 32), (2, 1, 32, 32), (3, 32, 32)):
        with pytest.raises(ConfigError, match="multiples of the patch size 8"):
            model(torch.randn(shape))


def test_features_give_tokens_grid_and_layers() -> None:
    model = small_model()
    pixels = torch.randn(2, 3, 32, 48)
    found = model.features(pixels, layers=[1, 0, -1])
    assert found.grid == (4, 6)
    assert found.prefix_tokens.shape == (2, 1, 32)
    assert found.patch_tokens.shape == (2, 24, 32)
    last, first, again = found.layers
    assert torch.equal(last, again) and not torch.equal(last, first)
    torch.testing.assert_close(model.norm(last)[:, 1:], found.patch_tokens)
    torch.testing.assert_close(model.head(found.prefix_tokens[:, 0]), model(pixels))
    with pytest.raises(ConfigError, match="layer 2 .* blocks 0 to 1"):
        model.features(pixels, layers=[2])


def test_embed_is_what_the_last_linear_layer_reads() -> None:
    for changes in ({}, {"pool": "mean", "final_norm": "pooled"}, {"pre_logits_dim": 9}):
        model = small_model(**changes)
        read: list[Tensor] = []
        hook = model.head.register_forward_hook(lambda part, inputs, output, read=read: read.append(inputs[0]))
        pixels = torch.randn(2, 3, 32, 32)
        model(pixels)
        hook.remove()
        assert torch.equal(model.embed(pixels), read[0])


def test_reset_head_changes_the_head_alone() -> None:
    model = small_model()
    pixels = torch.randn(2, 3, 32, 32)
    before = model.embed(pixels)
    assert model.reset_head(5) is model
    assert model.spec.num_classes == 5 and model(pixels).shape == (2, 5)
    assert model(pixels).abs().max() == 0
    assert torch.equal(model.embed(pixels), before)
    assert model.reset_head(0)(pixels).shape == (2, 32)


def test_a_deep_copy_is_equal_and_apart() -> None:
    model = small_model()
    twin = copy.deepcopy(model)
    pixels = torch.randn(1, 3, 32, 32)
    assert torch.equal(model(pixels), twin(pixels)) and twin.spec == model.spec
    randomise(twin, seed=1)
    assert not torch.equal(model(pixels), twin(pixels))


def test_it_compiles_without_a_graph_break() -> None:
    model = small_model()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for size in ((32, 32), (48, 24)):
        pixels = torch.randn(2, 3, *size)
        torch.testing.assert_close(compiled(pixels), model(pixels))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_half_precision_stay_near(dtype: torch.dtype) -> None:
    model = small_model()
    pixels = torch.randn(4, 3, 32, 32)
    expected = model(pixels)
    with torch.autocast("cpu", dtype=dtype):
        assert relative(model(pixels).float(), expected) < 0.05
    assert relative(model.to(dtype)(pixels.to(dtype)).float(), expected) < 0.05


def test_dropout_and_drop_path_act_in_training_only() -> None:
    model = small_model(dropout=0.5, attention_dropout=0.5, drop_path=0.5)
    pixels = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(pixels), small_model()(pixels))
    model.train()
    assert not torch.equal(model(pixels), model(pixels))


def test_drop_path_keeps_the_expectation_and_drops_whole_pictures() -> None:
    model = VisionTransformer(**{**SMALL, "depth": 5, "drop_path": 0.4})
    assert [round(block.drop_path.rate, 3) for block in model.blocks] == [0.0, 0.1, 0.2, 0.3, 0.4]  # type: ignore[union-attr]
    drop = model.blocks[-1].drop_path.train()  # type: ignore[union-attr]
    out = drop(torch.ones(20_000, 2, 3))  # type: ignore[operator]
    assert sorted(set(out.flatten().tolist())) == pytest.approx([0.0, 1 / 0.6])
    assert torch.equal(out.amin((1, 2)), out.amax((1, 2)))
    assert out.mean().item() == pytest.approx(1, abs=0.02)


def test_gradients_reach_every_parameter() -> None:
    for changes in ({}, {"pool": "mean", "final_norm": "pooled", "pre_logits_dim": 8}):
        model = small_model(**changes)
        model(torch.randn(2, 3, 32, 32)).square().sum().backward()
        dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        # The key bias shifts all attention logits of a query alike: softmax doesn't see it.
        assert [name for name in dead if "qkv.bias" not in name and name != "cls_token"] == []


def test_a_fresh_model_starts_as_the_paper_says() -> None:
    model = build(ModelSpec(arch="vit", spec=VitSpec(**{**SMALL, "embed_dim": 64, "mlp_dim": 256})))
    assert model.head.weight.abs().max() == 0  # type: ignore[union-attr, operator]
    assert model.pos_embed is not None and model.pos_embed.std().item() == pytest.approx(0.02, rel=0.1)
    q = model.blocks[0].attn.qkv.weight[:64]  # type: ignore[union-attr, index]
    assert q.abs().max().item() == pytest.approx((6 / 128) ** 0.5, rel=0.02)  # type: ignore[operator]


def test_the_model_forward_fits_a_screen() -> None:
    assert len(inspect.getsource(VisionTransformer.forward).splitlines()) <= 20


@pytest.mark.gpu
def test_it_runs_on_a_gpu() -> None:
    model = small_model()
    pixels = torch.randn(2, 3, 32, 32)
    expected = model(pixels)
    assert relative(model.cuda()(pixels.cuda()).cpu(), expected) < 1e-4

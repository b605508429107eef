"""Maps follow their papers' formulas, are shares of one, and depend on the class where they say so."""

from typing import Any

import numpy as np
import pytest
import torch

from small import SMALL, randomise, small_model
from vitkit import ConfigError, EngineError, ResNet, SwinTransformer, VisionTransformer
from vitkit.explain.maps import attention_rollout, class_token_attention, explain, gradient_weighted, patch_attention
from vitkit.model.clip import Clip
from vitkit.model.text_spec import TextSpec

MEAN: dict[str, Any] = {"class_token": False, "pool": "mean"}
POOLED: dict[str, Any] = {"class_token": False, "pool": "attention"}


def draw_layers(depth: int = 3, *, tokens: int = 5) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Attention weights and gradients [B, A, N, N] per layer."""
    weights = torch.randn(depth, 2, 4, tokens, tokens).softmax(-1)
    return list(weights), list(torch.randn(depth, 2, 4, tokens, tokens))


def test_class_token_attention_is_the_last_layers_row_and_patch_attention_the_mean_of_the_others() -> None:
    layers, _ = draw_layers()
    for picture in range(2):
        last = layers[-1][picture].mean(0)
        torch.testing.assert_close(class_token_attention(layers, 1)[picture], last[0, 1:])
        torch.testing.assert_close(patch_attention(layers, 1)[picture], last[1:, 1:].mean(0))


@pytest.mark.parametrize(("pool", "prefix"), [("cls", 1), ("mean", 0), ("mean", 1)])
def test_rollout_and_gradient_weighting_equal_the_papers_recursions_written_out(pool: Any, prefix: int) -> None:
    layers, gradients = draw_layers()
    rolled, weighted = attention_rollout(layers, pool, prefix), gradient_weighted(layers, gradients, pool, prefix)
    for picture in range(2):
        rollout = relevance = np.eye(5)
        for weights, gradient in zip(layers, gradients, strict=True):
            attention, change = weights[picture].numpy(), gradient[picture].numpy()
            rollout = (0.5 * attention.mean(0) + 0.5 * np.eye(5)) @ rollout
            relevance = relevance + np.maximum(attention * change, 0).mean(0) @ relevance
        relevance = relevance - np.eye(5)
        for found, matrix in ((rolled, rollout), (weighted, relevance)):
            expected = matrix[0, prefix:] if pool == "cls" else matrix[prefix:, prefix:].mean(0)
            np.testing.assert_allclose(found[picture], expected, rtol=1e-5)


@pytest.mark.parametrize("prefix", [0, 1])
def test_a_pooling_query_is_one_more_token_that_only_takes(prefix: int) -> None:
    layers, gradients = draw_layers(2)
    query, slope = torch.randn(2, 4, 1, 5 - prefix).softmax(-1), torch.randn(2, 4, 1, 5 - prefix)
    rolled = attention_rollout([*layers, query], "attention", prefix)
    weighted = gradient_weighted([*layers, query], [*gradients, slope], "attention", prefix)
    for picture in range(2):
        # Written out with the query as the last of six tokens, which no other one looks at.
        rollout = relevance = np.eye(6)
        for weights, gradient in zip(layers, gradients, strict=True):
            attention, change = np.zeros((6, 6)), np.zeros((6, 6))
            attention[:5, :5] = weights[picture].mean(0)
            change[:5, :5] = (gradient[picture] * weights[picture]).relu().mean(0)
            attention[5, 5] = 1
            rollout = (0.5 * attention + 0.5 * np.eye(6)) @ rollout
            relevance = relevance + change @ relevance
        looks, change = np.zeros(6), np.zeros(6)
        looks[prefix:5] = query[picture].mean(0)[0]
        change[prefix:5] = (slope[picture] * query[picture]).relu().mean(0)[0]
        np.testing.assert_allclose(rolled[picture], (looks @ rollout)[prefix:5], rtol=1e-5)
        np.testing.assert_allclose(weighted[picture], (change @ relevance)[prefix:5], rtol=1e-5)


def test_the_pooling_querys_attention_is_what_the_pooling_computed_with() -> None:
    model, pixels = small_model(**POOLED), torch.randn(1, 3, 32, 32)
    maps = explain(model, pixels)
    assert maps.method == "attention of the pooling query"
    assert model.attn_pool is not None
    tokens = model.features(pixels).patch_tokens
    keys = model.attn_pool.kv(tokens).chunk(2, dim=-1)[0].unflatten(-1, (4, 8)).transpose(1, 2)
    query = model.attn_pool.q(model.attn_pool.latent).unflatten(-1, (4, 8)).transpose(1, 2)
    expected = (query @ keys.mT / 8**0.5).softmax(-1).mean(1)[0, 0].detach()
    np.testing.assert_allclose(maps.values.flatten(), expected, rtol=1e-4)


def test_a_text_tower_has_no_part_in_the_map() -> None:
    text = TextSpec(vocab_size=9, context_length=4, embed_dim=8, depth=1, num_heads=2, mlp_dim=8, end_token=8)
    clip = Clip(**{**SMALL, "num_classes": 0, "text": text})
    clip.load_state_dict(small_model(num_classes=0).state_dict(), strict=False)
    pixels = torch.randn(1, 3, 32, 32)
    for method in ("auto", "rollout", "gradient"):
        alone = explain(small_model(num_classes=0), pixels, method=method)
        np.testing.assert_allclose(explain(clip, pixels, method=method).values, alone.values, rtol=1e-5)


@pytest.mark.parametrize("changes", [{}, MEAN, POOLED, {"num_classes": 0}, {**MEAN, "num_classes": 0}])
@pytest.mark.parametrize("method", ["auto", "attention", "rollout", "gradient"])
def test_every_map_is_a_share_of_one_over_the_grid(changes: dict[str, Any], method: str) -> None:
    maps = explain(small_model(**changes), torch.randn(2, 3, 32, 48), method=method)
    assert maps.values.shape == (2, 4, 6) and maps.values.dtype == np.float32
    assert (maps.values >= 0).all() and maps.values.std() > 1e-4
    np.testing.assert_allclose(maps.values.sum((1, 2)), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "target", "said"),
    [
        ({}, None, "class-token attention, last block"),
        ({}, 3, "gradient-weighted attention"),
        (MEAN, None, "gradient-weighted attention"),
        ({"num_classes": 0}, None, "class-token attention, last block"),
        ({**MEAN, "num_classes": 0}, None, "gradient-weighted attention of the embedding's norm"),
    ],
)
def test_auto_takes_the_method_that_fits_pooling_and_question(
    changes: dict[str, Any], target: int | None, said: str
) -> None:
    assert explain(small_model(**changes), torch.randn(1, 3, 32, 32), target=target).method == said


def test_without_a_target_the_predicted_classes_are_explained() -> None:
    model, pixels = small_model(), torch.randn(5, 3, 32, 32)
    maps = explain(model, pixels, method="gradient")
    assert maps.targets is not None
    predicted = model(pixels).argmax(1).tolist()
    assert maps.targets.tolist() == predicted
    for row, index in enumerate(predicted):  # and a batch is nothing but its pictures
        alone = explain(model, pixels[row : row + 1], target=index)
        np.testing.assert_allclose(alone.values[0], maps.values[row], rtol=1e-3, atol=1e-6)
    other = explain(model, pixels, target=[(index + 1) % 7 for index in predicted])
    assert np.abs(other.values - maps.values).max() > 1e-3


def test_a_patch_that_alone_reaches_the_head_has_the_whole_map() -> None:
    """One block that looks at patch 5 alone: keys answer to a feature that only its position has."""
    model = VisionTransformer(**{**SMALL, **MEAN, "depth": 1, "num_heads": 1})
    torch.nn.init.normal_(model.head.weight)  # type: ignore[arg-type]
    attention = model.blocks[0].attn
    with torch.no_grad():
        model.pos_embed.zero_()[0, 5, 0] = 30.0
        attention.qkv.weight[:64].zero_()
        attention.qkv.bias[:32].fill_(10.0)
        attention.qkv.weight[32:64, 0] = 1.0
    maps = explain(model, torch.randn(4, 3, 32, 32))
    assert (maps.values.reshape(4, -1)[:, 5] > 0.99).all()


def test_where_nothing_stands_out_all_patches_are_equal() -> None:
    untrained = VisionTransformer(**{**SMALL, **MEAN})  # its head is zero, and so is every gradient
    assert (explain(untrained, torch.randn(2, 3, 32, 32)).values == np.float32(1 / 16)).all()


def test_the_module_is_left_as_it_was_and_asked_in_eval_mode() -> None:
    model = small_model(dropout=0.5, drop_path=0.5).train()
    model.blocks[0].eval()
    modes = [part.training for part in model.modules()]
    pixels = torch.randn(1, 3, 32, 32)
    first, second = explain(model, pixels, method="gradient"), explain(model, pixels, method="gradient")
    assert (first.values == second.values).all()
    assert [part.training for part in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())


def test_maps_come_out_of_frozen_models_and_where_gradients_are_off() -> None:
    model, pixels = small_model(**MEAN), torch.randn(2, 3, 32, 32)
    expected = explain(model, pixels).values
    assert (explain(small_model(**MEAN).requires_grad_(False), pixels).values == expected).all()
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            assert (explain(model, pixels + 0).values == expected).all()


def test_calls_that_make_no_sense_are_refused_in_one_line() -> None:
    pixels = torch.randn(2, 3, 32, 32)
    for options, said in [
        ({"method": "gradeint"}, "method 'gradeint' is unknown.*nearest: gradient"),
        ({"method": "rollout", "target": 1}, "one map for all classes; for class 1 use 'gradient'"),
        ({"target": 7}, "class 7 .* 0 to 6"),
        ({"target": [1]}, "1 classes .* 2 pictures"),
    ]:
        with pytest.raises(ConfigError, match=said):
            explain(small_model(), pixels, **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no head"):
        explain(small_model(num_classes=0), pixels, target=1)
    with pytest.raises(EngineError, match="aren't finite"):
        explain(small_model(), pixels * float("nan"))


@pytest.mark.parametrize("block", ["basic", "preactivation"])
@pytest.mark.parametrize("num_classes", [7, 0])
def test_of_a_resnet_the_map_is_where_features_speak_for_the_score(block: Any, num_classes: int) -> None:
    model = ResNet(image_size=32, num_classes=num_classes, block=block, width=32, depths=(1, 1))
    randomise(model)
    pixels = torch.randn(3, 3, 40, 28)
    tokens = model.features(pixels).patch_tokens.detach()
    # Behind a mean, the gradient of a logit is its row of the head, that of the squared norm the embedding.
    slopes = model.get_parameter("head.weight")[[2]] if num_classes else tokens.mean(1)
    expected = torch.einsum("bnd,bd->bn", tokens, slopes.expand(3, -1)).relu().detach()
    expected = expected / expected.sum(1, keepdim=True)
    maps = explain(model, pixels, target=2 if num_classes else None)
    assert maps.method == "Grad-CAM, last stage" + ("" if num_classes else " of the embedding's norm")
    np.testing.assert_allclose(maps.values, expected.view(3, 5, 4), rtol=1e-3, atol=1e-6)
    with torch.inference_mode():
        model.requires_grad_(False)
        assert (explain(model, pixels + 0, target=2 if num_classes else None).values == maps.values).all()
    assert not any(part._forward_pre_hooks for part in model.modules())


def test_what_a_model_has_no_map_for_is_said() -> None:
    resnet, pixels = ResNet(image_size=32, depths=(1,), width=8), torch.randn(1, 3, 32, 32)
    for method in ("attention", "rollout"):
        with pytest.raises(ConfigError, match=f"method '{method}' needs attention, and a ResNet has none; use 'grad"):
            explain(resnet, pixels, method=method)
    with pytest.raises(ConfigError, match="maps need attention over the whole picture; SwinTransformer has none"):
        explain(SwinTransformer(image_size=32, depths=(1,), num_heads=(3,)), pixels)

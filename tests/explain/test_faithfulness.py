"""The deletion test praises maps that point at what matters, and neither noise nor an untrained model's."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from small import SMALL, randomise, small_model
from vitkit import ConfigError, VisionTransformer
from vitkit.explain.faithfulness import deletion, sign_flip_test
from vitkit.explain.maps import explain


class SumOfOnePatch(nn.Module):
    """A "model" of 4x4 patches whose class 1 depends on the patch in row 1, column 2 alone."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = SimpleNamespace(num_classes=2, patch_size=8)
        self.patch_embed = SimpleNamespace(proj=SimpleNamespace(weight=torch.zeros(1)))

    def forward(self, pixels: Tensor) -> Tensor:
        level = pixels[:, :, 8:16, 16:24].mean(dim=(1, 2, 3))
        return torch.stack([torch.zeros_like(level), 4 * level], dim=1)


def point_at(row: int, column: int, count: int) -> Any:
    maps = np.full((count, 4, 4), 0.01, np.float32)
    maps[:, row, column] = 1
    return maps


def test_a_map_of_the_one_patch_that_matters_passes_and_a_map_of_another_fails() -> None:
    model: Any = SumOfOnePatch()
    pixels = torch.rand(20, 3, 32, 32) + 0.5
    baseline = torch.zeros(1)
    right = deletion(model, pixels, point_at(1, 2, 20), share=0.05, baseline=baseline)
    level = pixels[:, :, 8:16, 16:24].double().mean((1, 2, 3))
    np.testing.assert_allclose(right.map_drops, torch.sigmoid(4 * level) - 0.5, atol=1e-6)
    assert right.patches == 1 and right.p < 0.001 and right.mean_difference > 0.3
    wrong = deletion(model, pixels, point_at(0, 0, 20), share=0.05, baseline=baseline)
    assert (wrong.map_drops == 0).all() and wrong.mean_difference < 0 and wrong.p > 0.5


def test_equal_values_are_hidden_at_random() -> None:
    model: Any = SumOfOnePatch()
    flat = np.full((400, 4, 4), 1 / 16, np.float32)
    found = deletion(model, torch.rand(400, 3, 32, 32) + 0.5, flat, share=0.25, baseline=torch.zeros(1))
    assert abs((found.map_drops > 0).mean() - 0.25) < 0.1
    assert found.p > 0.01


def test_the_statistics_are_scipys() -> None:
    model = randomise(VisionTransformer(**SMALL))
    pixels = torch.randn(30, 3, 32, 32)
    assert isinstance(model, VisionTransformer)
    found = deletion(model, pixels, explain(model, pixels).values)
    t, _ = stats.ttest_rel(found.map_drops, found.random_drops)
    assert found.t == pytest.approx(t)
    differences = np.random.default_rng(3).normal(0.3, 1, 30)
    expected = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", alternative="greater", rng=np.random.default_rng(0)
    ).pvalue
    assert sign_flip_test(differences, np.random.default_rng(1)) == pytest.approx(expected, abs=0.01)
    assert sign_flip_test(np.zeros(5), np.random.default_rng(1)) == 1
    assert found.summary()["pictures"] == 30


def test_the_same_seed_gives_the_same_figures() -> None:
    model, pixels = small_model(), torch.randn(6, 3, 32, 32)
    maps = explain(model, pixels).values
    first, second, other = (deletion(model, pixels, maps, seed=seed).summary() for seed in (1, 1, 2))
    assert first == second != other


@pytest.mark.slow
def test_maps_of_a_trained_model_matter_on_held_out_digits_and_those_of_untrained_ones_do_not() -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = torch.from_numpy(digits.images[:, None] / 16 - 0.3).float() / 0.35
    labels = torch.from_numpy(digits.target)
    shape: dict[str, Any] = {"image_size": 8, "patch_size": 2, "in_channels": 1, "num_classes": 10, "mlp_dim": 64}
    shape |= {"embed_dim": 32, "depth": 2, "num_heads": 4, "class_token": False, "pool": "mean"}
    model = VisionTransformer(**shape)
    torch.nn.init.normal_(model.pos_embed, std=0.3)  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3)
    for _ in range(150):
        chosen = torch.randint(0, 1400, (128,))
        loss = nn.functional.cross_entropy(model(pixels[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    held_out, mean = pixels[1400:], pixels[:1400].mean(0)
    meant = deletion(model, held_out, explain(model, held_out).values, baseline=mean)
    assert meant.mean_difference > 0.15 and meant.p < 0.001
    # An untrained model may favour a corner where strokes happen to be: one alone differs from chance either way.
    untrained = [randomise(VisionTransformer(**shape), seed=seed) for seed in range(3)]
    maps = [explain(other, held_out).values for other in untrained]  # type: ignore[arg-type]
    noise = [deletion(model, held_out, values, baseline=mean, draws=2).mean_difference for values in maps]
    assert abs(np.mean(noise)) < 0.05


def test_calls_that_make_no_sense_are_refused() -> None:
    pixels, maps = torch.randn(3, 3, 32, 32), np.zeros((3, 4, 4), np.float32)
    for changes, options, said in [
        ({"num_classes": 0}, {}, "no head"),
        ({}, {"share": 1.0}, "share is 1.0"),
        ({}, {"maps": maps[:2]}, r"\[2, 4, 4\]; these 3 pictures .* \[3, 4, 4\]"),
    ]:
        with pytest.raises(ConfigError, match=said):
            deletion(small_model(**changes), pixels, options.pop("maps", maps), **options)  # type: ignore[arg-type]

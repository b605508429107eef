"""MixUp and CutMix: the draws follow their laws, labels say what the pixels hold."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from vitkit.data.mix import Mix, MixSpec, draw_mix, mix_labels, mix_pictures
from vitkit.errors import ConfigError

SIZE = (24, 32)


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0, 5.0])
def test_lambda_follows_beta(alpha: float) -> None:
    weights = [draw_mix(MixSpec(mixup=alpha), 0, step, SIZE).weight for step in range(4000)]
    assert stats.kstest(weights, stats.beta(alpha, alpha).cdf).pvalue > 1e-3


@pytest.mark.parametrize("alpha", [1e-3, 0.01, 50.0])
def test_lambda_stays_within_0_and_1(alpha: float) -> None:
    weights = [draw_mix(MixSpec(mixup=alpha), 0, step, SIZE).weight for step in range(4000)]
    assert min(weights) >= 0 and max(weights) <= 1 and abs(sum(weights) / 4000 - 0.5) < 0.05


def test_both_are_drawn_as_often_as_said() -> None:
    spec = MixSpec(mixup=0.8, cutmix=1.0, probability=0.7, switch_probability=0.25)
    mixes = [draw_mix(spec, 3, step, SIZE) for step in range(4000)]
    plain = sum(mix == Mix() for mix in mixes)
    cut = sum(mix.box is not None for mix in mixes)
    assert stats.binomtest(plain, 4000, 0.3).pvalue > 1e-3
    assert stats.binomtest(cut, 4000 - plain, 0.25).pvalue > 1e-3
    assert all(mix.box is not None for mix in (draw_mix(MixSpec(cutmix=1.0), 0, step, SIZE) for step in range(100)))


def test_a_draw_depends_on_seed_and_step_alone() -> None:
    spec = MixSpec(mixup=0.8, cutmix=1.0)
    assert draw_mix(spec, 1, 5, SIZE) == draw_mix(spec, 1, 5, SIZE)
    assert len({(draw_mix(spec, seed, step, SIZE)) for seed in range(10) for step in range(10)}) == 100


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.booleans())
def test_labels_say_what_the_pixels_hold(step: int, batch: int, cut: bool) -> None:
    # Picture i is i everywhere, so the mean pixel tells the mixture.
    pictures = torch.arange(batch, dtype=torch.float64)[:, None, None, None].expand(batch, 3, *SIZE).clone()
    mix = draw_mix(MixSpec(cutmix=1.0) if cut else MixSpec(mixup=0.4), 0, step, SIZE)
    weights = mix_labels(mix, torch.arange(batch), batch, 0.0).double()
    torch.testing.assert_close(
        mix_pictures(mix, pictures).mean((1, 2, 3)), weights @ torch.arange(batch).double(), atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(weights.sum(1), torch.ones(batch).double())


def test_smoothed_labels_are_torchs() -> None:
    logits, labels = torch.randn(6, 5, dtype=torch.float64), torch.tensor([0, 4, 2, 2, 1, 3])
    weights = mix_labels(Mix(), labels, 5, 0.1).double()
    ours = -(weights * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(
        ours, torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1), rtol=1e-6, atol=0
    )


def test_the_centre_of_a_cut_is_uniform() -> None:
    boxes = [draw_mix(MixSpec(cutmix=0.3), 2, step, (1000, 1000)).box for step in range(3000)]
    small = [box for box in boxes if box and box[0] > 0 and box[1] < 1000 and box[1] - box[0] < 100]
    middles = [(top + bottom) / 2 for top, bottom, *_ in small if 50 <= (top + bottom) / 2 < 950]
    assert len(middles) > 300 and stats.kstest(middles, stats.uniform(50, 900).cdf).pvalue > 1e-3


def test_no_mixing_leaves_the_batch_alone() -> None:
    pictures = torch.randn(4, 3, *SIZE)
    assert draw_mix(MixSpec(label_smoothing=0.1), 0, 0, SIZE) == Mix()
    assert draw_mix(MixSpec(mixup=1.0, probability=0), 0, 0, SIZE) == Mix()
    assert torch.equal(mix_pictures(Mix(), pictures), pictures)


def test_faults_are_said_together() -> None:
    with pytest.raises(
        ConfigError, match="mixup is -1; allowed: 0 or more; probability is 2; allowed: 0 to 1; label_sm"
    ):
        MixSpec(mixup=-1, probability=2, label_smoothing=float("nan"))

"""Schedule, groups, average and loss against timm, torch and closed forms."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from small import small_model
from vitkit.config import from_dict, to_dict
from vitkit.data.batch import Batch
from vitkit.errors import ConfigError
from vitkit.training.ema import Ema
from vitkit.training.objective import Classification
from vitkit.training.optim import build_optimizer
from vitkit.training.schedule import lr_scale
from vitkit.training.spec import TrainSpec, differences


def batch_of(pixels: torch.Tensor, **targets: torch.Tensor) -> Batch:
    count = len(pixels)
    return Batch((pixels,), targets, torch.arange(count), torch.ones(count))


def test_the_rate_rises_linearly_then_falls_along_half_a_cosine() -> None:
    rates = [lr_scale(step, steps=100, warmup_steps=10, final=0.1) for step in range(101)]
    assert rates[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert rates[10] == 1
    assert rates[55] == pytest.approx(0.1 + 0.9 * 0.5)
    assert rates[100] == pytest.approx(0.1)
    assert all(a > b for a, b in pairwise(rates[10:]))


@pytest.mark.peer
def test_the_cosine_is_timms() -> None:
    from timm.scheduler import CosineLRScheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.4)
    theirs = CosineLRScheduler(optimizer, t_initial=90, lr_min=0.04, warmup_t=0, t_in_epochs=False)
    for step in range(90):
        theirs.step_update(step)
        ours = 0.4 * lr_scale(step + 10, steps=100, warmup_steps=10, final=0.1)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(ours, rel=1e-9)


def test_biases_norms_tokens_and_positions_do_not_decay() -> None:
    model = small_model(pre_logits_dim=8)
    groups = model.parameter_groups(1e-3, weight_decay=0.3)
    assert len(groups) == 2 and all(group["lr"] == 1e-3 for group in groups)
    free = {name for group in groups if group["weight_decay"] == 0 for name in group["names"]}
    held = {name for group in groups if group["weight_decay"] == 0.3 for name in group["names"]}
    assert free | held == {name for name, _ in model.named_parameters()} and not free & held
    assert {"cls_token", "pos_embed", "norm.weight", "head.bias", "blocks.0.norm1.weight"} <= free
    assert held == {name for name, p in model.named_parameters() if p.ndim > 1} - {"cls_token", "pos_embed"}


@pytest.mark.peer
@pytest.mark.parametrize("layer_decay", [0.75, 0.5])
def test_layer_decay_groups_are_timms(layer_decay: float) -> None:
    import timm
    from timm.optim import param_groups_layer_decay

    theirs = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4)
    expected = {}
    names = {id(parameter): name for name, parameter in theirs.named_parameters()}
    for group in param_groups_layer_decay(
        theirs, weight_decay=0.05, no_weight_decay_list=theirs.no_weight_decay(), layer_decay=layer_decay
    ):
        for parameter in group["params"]:
            expected[names[id(parameter)]] = (group["lr_scale"], group["weight_decay"])
    model = small_model(num_classes=1000)
    ours = {
        name: (group["lr"], group["weight_decay"])
        for group in model.parameter_groups(1.0, weight_decay=0.05, layer_decay=layer_decay)
        for name in group["names"]
    }
    assert ours.keys() == expected.keys()
    for name, (rate, decay) in expected.items():
        # timm counts the last norm to the last block; BEiT, where the rule comes from, to the layer of the head.
        expected_rate = 1.0 if name.startswith("norm.") else rate
        assert ours[name] == (pytest.approx(expected_rate), decay), name
    assert len(model.parameter_groups(1.0, layer_decay=layer_decay)) <= 2 * (model.spec.depth + 2)


def test_frozen_parameters_are_in_no_group() -> None:
    model = small_model()
    model.patch_embed.requires_grad_(False)
    names = [name for group in model.parameter_groups(1e-3) for name in group["names"]]
    assert not any(name.startswith("patch_embed") for name in names)


@pytest.mark.parametrize("kind", ["adamw", "adam"])
def test_the_optimiser_steps_as_torchs_own(kind: str) -> None:
    # In float64: the key bias has no gradient but rounding, which Adam would blow up to full steps.
    model, twin = small_model().double(), small_model().double()
    spec = TrainSpec(optimizer=kind, lr=1e-2, weight_decay=0.1)  # type: ignore[arg-type]
    ours = build_optimizer(model, Classification(), spec)
    decays = {name for g in twin.parameter_groups(1.0, weight_decay=1.0) if g["weight_decay"] for name in g["names"]}
    reference = torch.optim.AdamW if kind == "adamw" else torch.optim.Adam
    theirs = reference(
        [
            {
                "params": [parameter],
                "weight_decay": 0.1 if kind == "adamw" and name in decays else 0.0,
            }
            for name, parameter in twin.named_parameters()
        ],
        lr=1e-2,
        foreach=False,
        fused=False,
    )
    for _ in range(3):
        pixels = torch.randn(4, 3, 32, 32, dtype=torch.float64)
        for module, optimizer in ((model, ours), (twin, theirs)):
            optimizer.zero_grad()
            module(pixels).square().sum().backward()
            optimizer.step()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_the_average_is_its_closed_form() -> None:
    model = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(model.weight, 0.0)
    ema = Ema(model, decay=0.9)
    expected = 0.0
    for step in range(200):
        torch.nn.init.constant_(model.weight, float(step))
        ema.update(model, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert float(ema.module.weight.detach()) == pytest.approx(expected, rel=1e-5)  # type: ignore[operator, union-attr]
    assert not any(parameter.requires_grad for parameter in ema.module.parameters())


def test_hard_labels_are_torchs_cross_entropy() -> None:
    model = small_model()
    pixels, labels = torch.randn(5, 3, 32, 32), torch.tensor([0, 3, 6, 2, 2])
    loss = Classification(label_smoothing=0.1)(model, batch_of(pixels, label=labels), 0)
    torch.testing.assert_close(loss.total, F.cross_entropy(model(pixels), labels, label_smoothing=0.1))


def test_soft_labels_are_torchs_cross_entropy_with_probabilities() -> None:
    model = small_model()
    pixels, weights = torch.randn(5, 3, 32, 32), torch.rand(5, 7).softmax(-1)
    batch = batch_of(pixels, label=torch.zeros(5, dtype=torch.int64), label_weights=weights)
    torch.testing.assert_close(
        Classification(label_smoothing=0.1)(model, batch, 0).total, F.cross_entropy(model(pixels), weights)
    )


def test_pictures_count_by_their_weight() -> None:
    model = small_model()
    pixels, labels = torch.randn(3, 3, 32, 32), torch.tensor([0, 1, 2])
    batch = Batch((pixels,), {"label": labels}, torch.arange(3), torch.tensor([1.0, 0.0, 3.0]))
    losses = F.cross_entropy(model(pixels), labels, reduction="none")
    torch.testing.assert_close(Classification()(model, batch, 0).total, (losses[0] + 3 * losses[2]) / 4)


def test_validation_counts_right_answers() -> None:
    model = small_model()
    pixels = torch.randn(6, 3, 32, 32)
    answers = model(pixels).argmax(-1)
    labels = answers.clone()
    labels[:2] = (labels[:2] + 1) % 7
    scores = Classification().validate(
        model, [batch_of(pixels[:4], label=labels[:4]), batch_of(pixels[4:], label=labels[4:])]
    )
    assert scores["accuracy"] == pytest.approx(4 / 6)
    assert scores["loss"] == pytest.approx(float(F.cross_entropy(model(pixels), labels).detach()), rel=1e-5)


def test_a_spec_survives_json_and_names_its_faults() -> None:
    spec = TrainSpec(epochs=3, minutes=2.5)
    assert from_dict(TrainSpec, to_dict(spec), origin="test") == spec
    with pytest.raises(ConfigError, match=r"lr is -1; .*warmup is 2; .*minutes is 0"):
        TrainSpec(lr=-1, warmup=2, minutes=0)
    with pytest.raises(ConfigError, match="no key 'epoch'; nearest: epochs"):
        from_dict(TrainSpec, {"epoch": 3}, origin="recipe.toml")


def test_differences_name_each_field() -> None:
    old, new = TrainSpec(), TrainSpec(lr=2e-3, epochs=21)
    assert differences(old, new) == ["epochs: 20, now 21", "lr: 0.001, now 0.002"]
    assert differences(old, old) == [] and not math.isnan(old.lr)

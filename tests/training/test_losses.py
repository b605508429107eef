"""Losses and class weights are torch's, scikit-learn's and the papers'."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor

from small import small_model
from vitkit.config import from_dict
from vitkit.data.batch import Batch
from vitkit.data.mix import soften_labels
from vitkit.data.samples import Samples
from vitkit.data.sources.arrays import read_arrays
from vitkit.errors import ConfigError
from vitkit.training.losses import class_weights, sigmoid_loss, softmax_loss
from vitkit.training.objective import Classification
from vitkit.training.spec import TrainSpec

LABELS = torch.tensor([3, 0, 6, 6, 1, 2])
SEVERAL = torch.tensor([[1, 0, 1, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0]] * 3).float()
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 3.0, 0.0, 1.5, 0.7])


@pytest.fixture
def logits() -> Tensor:
    return 3 * torch.randn(6, 7, dtype=torch.float64)


def samples_of(labels: np.ndarray) -> Samples:  # type: ignore[type-arg]
    return read_arrays(np.zeros((len(labels), 1, 1, 1), np.uint8), labels, ["ant", "bee", "cat"])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS.double()])
def test_softmax_loss_is_torchs(logits: Tensor, smoothing: float, weights: Tensor | None) -> None:
    theirs = F.cross_entropy(logits, LABELS, weights, label_smoothing=smoothing, reduction="none")
    found = softmax_loss(logits, soften_labels(LABELS, 7, smoothing).double(), weights)
    torch.testing.assert_close(found, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("weights", [None, WEIGHTS.double()])
def test_sigmoid_loss_is_torchs(logits: Tensor, weights: Tensor | None) -> None:
    theirs = F.binary_cross_entropy_with_logits(logits, SEVERAL.double(), pos_weight=weights, reduction="none")
    torch.testing.assert_close(sigmoid_loss(logits, SEVERAL.double(), weights), theirs.mean(dim=1))


@pytest.mark.peer
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_bce_of_one_label_is_timms(logits: Tensor, smoothing: float) -> None:
    from timm.loss import BinaryCrossEntropy

    found = sigmoid_loss(logits.float(), soften_labels(LABELS, 7, smoothing)).mean()
    torch.testing.assert_close(found, BinaryCrossEntropy(smoothing=smoothing)(logits.float(), LABELS))


@pytest.mark.peer
@pytest.mark.parametrize("gamma", [0.5, 2.0, 5.0])
def test_focal_loss_of_several_labels_is_torchvisions(logits: Tensor, gamma: float) -> None:
    from torchvision.ops import sigmoid_focal_loss

    theirs = sigmoid_focal_loss(logits, SEVERAL.double(), alpha=-1, gamma=gamma, reduction="none").mean(dim=1)
    torch.testing.assert_close(sigmoid_loss(logits, SEVERAL.double(), gamma=gamma), theirs)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_of_one_label_is_the_papers(logits: Tensor, gamma: float) -> None:
    found = softmax_loss(logits, soften_labels(LABELS, 7, 0.0).double(), WEIGHTS.double(), gamma)
    for row, label, loss in zip(logits.softmax(dim=1), LABELS, found, strict=True):
        expected = -float(WEIGHTS[label]) * (1 - float(row[label])) ** gamma * float(row[label].log())
        assert float(loss) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("loss", [softmax_loss, sigmoid_loss])
def test_certain_answers_have_finite_gradients(loss: object, gamma: float) -> None:
    logits = torch.tensor([[200.0, -200.0, 0.0], [-200.0, 200.0, 0.0]], requires_grad=True)
    loss(logits, torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]), None, gamma).sum().backward()  # type: ignore[operator]
    assert logits.grad is not None and logits.grad.isfinite().all()
    assert logits.grad[1].abs().max() > 0.1


def test_smoothing_of_one_label_and_of_several() -> None:
    torch.testing.assert_close(soften_labels(torch.tensor([1]), 4, 0.2), torch.tensor([[0.05, 0.85, 0.05, 0.05]]))
    torch.testing.assert_close(soften_labels(torch.tensor([[1.0, 0.0]]), 2, 0.2), torch.tensor([[0.9, 0.1]]))


def test_balanced_weights_are_scikit_learns() -> None:
    labels = np.array([0] * 7 + [1] * 2 + [2])
    weights = class_weights(TrainSpec(class_weights="balanced"), samples_of(labels))
    np.testing.assert_allclose(weights, compute_class_weight("balanced", classes=np.arange(3), y=labels), rtol=1e-6)


def test_balanced_weights_of_several_labels_weigh_each_yes_against_its_no() -> None:
    labels = np.random.default_rng(0).random((50, 3)) < (0.1, 0.4, 0.8)
    weights = class_weights(TrainSpec(class_weights="balanced"), samples_of(labels))
    for weight, column in zip(weights.tolist(), labels.T, strict=True):  # type: ignore[union-attr]
        no, yes = compute_class_weight("balanced", classes=np.array([False, True]), y=column)
        assert weight == pytest.approx(yes / no, rel=1e-6)


def test_weights_go_by_name() -> None:
    samples = samples_of(np.array([0, 1, 2]))
    assert class_weights(TrainSpec(), samples) is None
    weights = class_weights(TrainSpec(class_weights={"cat": 3.0, "ant": 0.0}), samples)
    assert weights is not None and weights.tolist() == [0, 1, 3]
    with pytest.raises(ConfigError, match="'beee'; nearest: bee"):
        class_weights(TrainSpec(class_weights={"beee": 1.0}), samples)
    with pytest.raises(ConfigError, match="class_weights is 'rare', not 'balanced' or a table or none"):
        from_dict(TrainSpec, {"class_weights": "rare"}, origin="settings")
    with pytest.raises(ConfigError, match=r"class_weights.bee is -1"):
        TrainSpec(class_weights={"bee": -1.0})


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, lambda logits, weights: F.cross_entropy(logits, LABELS)),
        (
            {"loss": "bce"},
            lambda logits, weights: F.binary_cross_entropy_with_logits(logits, F.one_hot(LABELS, 7) + 0.0),
        ),
        (
            {"loss": "focal", "focal_gamma": 0.0, "class_weights": "balanced"},
            lambda logits, weights: F.cross_entropy(logits, LABELS, weights, reduction="none").mean(),
        ),
    ],
    ids=["softmax", "bce", "focal"],
)
def test_settings_choose_the_loss(settings: dict[str, object], expected: object) -> None:
    samples = read_arrays(np.zeros((9, 1, 1, 1), np.uint8), [0, 1, 2, 3, 4, 5, 6, 6, 6], list("abcdefg"))
    model, pixels = small_model(), torch.randn(6, 3, 32, 32)
    spec = TrainSpec(label_smoothing=0.0, **settings)  # type: ignore[arg-type]
    objective = Classification.make(model, spec, samples)
    batch = Batch((pixels,), {"label": LABELS}, torch.arange(6), torch.ones(6))
    found = objective(model, batch, 0).total
    torch.testing.assert_close(found, expected(model(pixels), objective.weights))  # type: ignore[operator]
    assert objective.per_class == (spec.loss == "bce")

"""The baseline's two judges: a linear probe equal to scikit-learn's regression, a k-NN vote equal to the plain one."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from vitkit.evaluation.probe import PENALTIES, fit_probe, knn_votes


@pytest.fixture(scope="module")
def digits():
    bundle = load_digits()
    return torch.from_numpy(bundle.data).float(), torch.from_numpy(bundle.target).long()


@pytest.mark.parametrize("penalty", [1e-2, 1.0])
def test_the_probe_is_scikit_learns_logistic_regression_on_standardised_features(digits, penalty):
    features, labels = digits[0][:600], digits[1][:600]
    probe = fit_probe(features, labels, 10, penalty=penalty)
    # Its C weighs the sum of the losses; ours is the penalty beside their mean.
    peer = LogisticRegression(C=1 / (penalty * 600), tol=1e-8, max_iter=5000)
    standard = ((features - probe.mean) / probe.std).numpy().astype(np.float64)
    expected = peer.fit(standard, labels.numpy()).predict_proba(standard)
    got = probe.logits(features).softmax(1).numpy()
    assert np.abs(got - expected).max() < 2e-3


def test_the_penalty_is_chosen_and_features_that_never_vary_do_no_harm(digits):
    features, labels = digits[0][:900], digits[1][:900]
    assert (features.std(0) == 0).any()
    probe = fit_probe(features, labels, 10)
    each = [fit_probe(features, labels, 10, penalty=penalty) for penalty in PENALTIES]
    assert any(torch.equal(probe.weight, other.weight) for other in each)
    right = (probe.logits(digits[0][900:]).argmax(1) == digits[1][900:]).float().mean()
    assert right > 0.88


def test_votes_are_those_of_weighted_neighbours_by_cosine(digits):
    features, labels = digits[0][:1200], digits[1][:1200]
    queries = digits[0][1200:]
    votes = knn_votes(features, labels, queries, 10, neighbours=7, temperature=0.1)

    def weigh(distances):
        return np.exp(-distances / 0.1)

    peer = KNeighborsClassifier(7, metric="cosine", algorithm="brute", weights=weigh).fit(features, labels)
    expected = peer.predict_proba(queries)
    got = (votes / votes.sum(1, keepdim=True)).numpy()
    assert np.abs(got - expected).max() < 1e-3


def test_fewer_pictures_than_neighbours_vote_all():
    votes = knn_votes(torch.eye(3), torch.tensor([0, 1, 1]), torch.eye(3)[:1], 2)
    assert votes.shape == (1, 2)
    assert votes[0, 0] > votes[0, 1] > 0


def test_of_several_labels_the_probe_is_a_logistic_regression_of_each(digits):
    features, labels = digits[0][:400], torch.stack([digits[1][:400] % 2, digits[1][:400] // 7], 1).float()
    probe = fit_probe(features, labels, 2, penalty=1e-2)
    standard = ((features - probe.mean) / probe.std).numpy().astype(np.float64)
    for column in range(2):
        peer = LogisticRegression(C=1 / (1e-2 * 400), tol=1e-8, max_iter=5000).fit(standard, labels[:, column].numpy())
        got = probe.logits(features)[:, column].sigmoid().numpy()
        assert np.abs(got - peer.predict_proba(standard)[:, 1]).max() < 2e-3
    chosen = fit_probe(features, labels, 2)
    each = [fit_probe(features, labels, 2, penalty=penalty) for penalty in PENALTIES]
    assert any(torch.equal(chosen.weight, other.weight) for other in each)


def test_of_several_labels_votes_are_the_shares_of_the_neighbours(digits):
    features, queries = digits[0][:1200], digits[0][1200:]
    labels = torch.stack([digits[1][:1200] % 2, digits[1][:1200] // 7], 1).float()
    votes = knn_votes(features, labels, queries, 2, neighbours=7, temperature=0.1)
    for column in range(2):
        of_one = knn_votes(features, labels[:, column].long(), queries, 2, neighbours=7, temperature=0.1)
        torch.testing.assert_close(votes[:, column], of_one[:, 1] / of_one.sum(1))

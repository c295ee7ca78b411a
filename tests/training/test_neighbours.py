"""k nearest neighbours and nearest class means equal scikit-learn's."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.preprocessing import normalize

from frostline.training import neighbours
from frostline.training.evaluation import evaluate
from frostline.training.neighbours import Neighbours
from small import Samples

TEMPERATURE = 0.07


def digits(first: int, last: int) -> Samples:
    pixels, labels = load_digits(return_X_y=True)
    return Samples(torch.from_numpy(pixels).float()[first:last], torch.from_numpy(labels)[first:last])


TRAIN, VAL = digits(0, 500), digits(500, 800)


def sklearn_knn(k: int, data: Samples) -> KNeighborsClassifier:
    def weights(distances: Any) -> Any:
        return np.exp((1 - distances) / TEMPERATURE)

    found = KNeighborsClassifier(k, metric="cosine", weights=weights)
    return found.fit(data.tensor.double().numpy(), data.labels.numpy())


@pytest.mark.parametrize("k", [1, 10, 200])
def test_votes_equal_sklearn(k: int) -> None:
    voters = Neighbours(TRAIN, 10, k=k, temperature=TEMPERATURE)
    expected = sklearn_knn(k, TRAIN).predict_proba(VAL.tensor.double().numpy())
    assert voters(VAL.tensor).exp().numpy() == pytest.approx(expected, abs=2e-5)
    assert (voters(VAL.tensor).argmax(1).numpy() == expected.argmax(1)).mean() > 0.995
    assert torch.equal(voters(VAL.tensor), Neighbours(TRAIN, 10, k=k, temperature=TEMPERATURE)(VAL.tensor))


def test_all_images_vote_if_k_is_larger() -> None:
    few = digits(0, 30)
    all_of_them, more = (Neighbours(few, 10, k=k, temperature=TEMPERATURE)(VAL.tensor) for k in (30, 200))
    assert torch.equal(all_of_them, more)


def test_multi_label_neighbours_vote_for_all_their_classes() -> None:
    def several(labels: torch.Tensor) -> torch.Tensor:
        return torch.stack([labels % 2 == 0, labels > 6], 1)

    voters = Neighbours(Samples(TRAIN.tensor, several(TRAIN.labels)), 2, k=10, temperature=TEMPERATURE)
    for number in range(2):
        wanted = several(TRAIN.labels)[:, number].long()
        expected = sklearn_knn(10, Samples(TRAIN.tensor, wanted)).predict_proba(VAL.tensor.double().numpy())[:, 1]
        assert voters(VAL.tensor)[:, number].sigmoid().numpy() == pytest.approx(expected, abs=2e-5)


def test_best_k_is_chosen_on_validation() -> None:
    options = (1, 5, 100, 400)
    voters = Neighbours(TRAIN, 10, k=max(options), temperature=TEMPERATURE)
    scores = {k: sklearn_knn(k, TRAIN).score(VAL.tensor.double().numpy(), VAL.labels.numpy()) for k in options}
    assert max(scores.values()) > min(scores.values())
    for sign, chosen in ((-1, max), (1, min)):
        found = neighbours.best_k(voters, VAL, options, lambda found, sign=sign: (sign * found.accuracy,))
        assert scores[found] == chosen(scores.values())


def test_leave_one_out_excludes_the_image_itself() -> None:
    few = digits(500, 560)
    scored = neighbours.leave_one_out(Neighbours(few, 10, k=5, temperature=TEMPERATURE), few, 30)
    for row, left_out in enumerate(range(0, 60, 2)):
        kept = [number for number in range(60) if number != left_out]
        theirs = sklearn_knn(5, Samples(few.tensor[kept], few.labels[kept]))
        expected = theirs.predict_proba(few.tensor[left_out : left_out + 1].double().numpy())[0]
        assert scored.logits[row].exp().numpy() == pytest.approx(expected, abs=2e-5)
    right = (scored.logits.argmax(1) == few.labels[::2]).sum().item()
    assert scored.accuracy == right / 30 < 1


def test_centroid_head_predicts_the_nearest_mean_by_cosine() -> None:
    train, val = digits(0, 1400), digits(1400, 1797)  # more than are read at once
    with warnings.catch_warnings(action="ignore"):  # about constant dimensions
        means = NearestCentroid().fit(normalize(train.tensor.numpy()), train.labels.numpy())
    means.centroids_ = normalize(means.centroids_)  # for normalised vectors the nearest has the largest cosine
    weight, bias = neighbours.centroids(train, 10, temperature=TEMPERATURE)
    head = torch.nn.Linear(64, 10)
    head.load_state_dict({"weight": weight, "bias": bias})
    scored = evaluate(head, val, batch_size=64, autocast=None)
    assert (scored.logits.argmax(1).numpy() == means.predict(normalize(val.tensor.numpy()))).all()
    length = train.tensor.norm(dim=1).mean()
    cosine = torch.nn.functional.cosine_similarity(val.tensor[:1], weight)
    assert torch.allclose(scored.logits[0], cosine * val.tensor[0].norm() / length / TEMPERATURE, atol=1e-4)


def test_empty_class_is_never_predicted() -> None:
    weight, bias = neighbours.centroids(TRAIN, 11, temperature=TEMPERATURE)
    assert not ((-VAL.tensor @ weight.T + bias).argmax(1) == 10).any()


def test_one_image_is_a_class() -> None:
    labels = TRAIN.labels.clone()
    labels[0] = 10
    weight, bias = neighbours.centroids(Samples(TRAIN.tensor, labels), 11, temperature=TEMPERATURE)
    assert (TRAIN.tensor[:1] @ weight.T + bias).argmax(1) == 10

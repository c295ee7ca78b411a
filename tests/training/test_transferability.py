"""Transferability scores."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits

from frostline.training import transferability
from frostline.training.dataset import InMemory
from frostline.training.logme import logme


def test_scores_are_of_the_best_probe_knn_and_logme() -> None:
    pixels, labels = (torch.from_numpy(values) for values in load_digits(return_X_y=True))
    train, val = (InMemory(pixels[part].float(), labels[part]) for part in (slice(200), slice(200, 300)))
    found = transferability.scores(train, val, 10, strengths=(10.0, 0.01), k=(1, 100), temperature=0.07)
    said = (val.tensor @ found.head.weight.T + found.head.bias).argmax(1)
    assert torch.equal(found.right, said == val.labels) and found.probe == found.right.double().mean().item()
    assert found.head.l2 == 0.01 and found.probe > 0.85
    unit = torch.nn.functional.normalize
    nearest = train.labels[(unit(val.tensor) @ unit(train.tensor).T).argmax(1)]
    assert found.knn >= (nearest == val.labels).double().mean().item() > 0.85
    assert found.logme == logme(train.tensor, train.labels)

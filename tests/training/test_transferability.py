"""Activations become vectors whichever way they lie, and are scored as their parts score them."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits

from frostline.training import transferability
from frostline.training.dataset import InMemory
from frostline.training.logme import logme


@pytest.mark.parametrize(
    ("shape", "dims", "how"),
    [
        ((2, 7, 5, 5), (2, 3), "mean over space"),
        ((2, 5, 5, 7), (1, 2), "mean over space"),
        ((2, 4, 4, 4), (2, 3), "mean over space"),
        ((2, 5, 7), (1,), "mean over tokens"),
        ((2, 7), (), "as it is"),
    ],
)
def test_every_place_counts_the_same_and_channels_stay(shape: tuple[int, ...], dims: tuple[int, ...], how: str) -> None:
    activations = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    expected = activations.mean(dims) if dims else activations
    assert torch.equal(transferability.pooled(activations), expected)
    assert transferability.pooling(activations) == how
    assert transferability.pooled(activations.bfloat16()).dtype == torch.float32


def test_the_scores_are_those_of_the_best_probe_of_neighbours_and_of_the_evidence() -> None:
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

"""The order in which samples come."""

from __future__ import annotations

import torch

from frostline.training import dataset

LABELS = torch.tensor([0] * 95 + [1] * 5 + [3] * 7)  # class 2 has none


def test_shuffled_shows_each_once_and_another_order_in_every_epoch() -> None:
    orders = [dataset.sampled(LABELS, "shuffled", 0, epoch) for epoch in (1, 2, 1)]
    assert all(torch.equal(order.sort().values, torch.arange(len(LABELS))) for order in orders)
    assert torch.equal(orders[0], orders[2]) and not torch.equal(orders[0], orders[1])


def test_balanced_shows_as_many_of_each_class_and_of_a_class_all_before_any_comes_again() -> None:
    seen = torch.zeros(len(LABELS), dtype=torch.long)
    for epoch in range(1, 21):
        order = dataset.sampled(LABELS, "balanced", 0, epoch)
        assert len(order) == len(LABELS)
        counts = LABELS[order].bincount()
        assert counts[2] == 0 and all(35 <= count <= 36 for count in counts[[0, 1, 3]].tolist())
        of_each = order.bincount(minlength=len(LABELS))
        for label in (0, 1, 3):
            times = of_each[label == LABELS]
            assert times.max() - times.min() <= 1
        seen += of_each
    assert (seen[LABELS == 0] > 0).all()  # of the large class others come in other epochs
    assert torch.equal(order, dataset.sampled(LABELS, "balanced", 0, 20))
    assert not torch.equal(order, dataset.sampled(LABELS, "balanced", 1, 20))


def test_balanced_shows_each_of_several_classes_as_often_and_images_of_none_as_one_more() -> None:
    labels = torch.zeros(60, 2, dtype=torch.bool)
    labels[:30, 0] = labels[27:33, 1] = True  # 3 images are of both, and 27 of none
    order = dataset.sampled(labels, "balanced", 0, 1)
    assert len(order) == 60
    assert [int(labels[order, k].sum()) for k in (0, 1)] > [20, 19]
    assert int((~labels[order].any(1)).sum()) == 20
    assert len(order[labels[order, 1]].unique()) == 6


def test_balanced_of_fewer_images_than_classes_shows_some_classes_alone() -> None:
    labels = torch.eye(3, dtype=torch.bool).repeat(1, 3)  # an image of three classes each
    order = dataset.sampled(labels, "balanced", 0, 1)
    assert len(order) == 3 and labels[order].any(1).all()

"""The order of samples in an epoch."""

from __future__ import annotations

import torch

from frostline.training import dataset

LABELS = torch.tensor([0] * 95 + [1] * 5 + [3] * 7)  # class 2 is empty


def test_shuffled_order_differs_per_epoch() -> None:
    orders = [dataset.sampled(LABELS, "shuffled", 0, epoch) for epoch in (1, 2, 1)]
    assert all(torch.equal(order.sort().values, torch.arange(len(LABELS))) for order in orders)
    assert torch.equal(orders[0], orders[2]) and not torch.equal(orders[0], orders[1])


def test_balanced_sampling_is_even_over_classes_and_images() -> None:
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
    assert (seen[LABELS == 0] > 0).all()  # the large class is covered over several epochs
    assert torch.equal(order, dataset.sampled(LABELS, "balanced", 0, 20))
    assert not torch.equal(order, dataset.sampled(LABELS, "balanced", 1, 20))


def test_balanced_sampling_of_multi_label_data() -> None:
    labels = torch.zeros(60, 2, dtype=torch.bool)
    labels[:30, 0] = labels[27:33, 1] = True  # 3 images have both labels, 27 have none
    order = dataset.sampled(labels, "balanced", 0, 1)
    assert len(order) == 60
    assert [int(labels[order, k].sum()) for k in (0, 1)] > [20, 19]
    assert int((~labels[order].any(1)).sum()) == 20
    assert len(order[labels[order, 1]].unique()) == 6


def test_balanced_sampling_with_fewer_images_than_classes() -> None:
    labels = torch.eye(3, dtype=torch.bool).repeat(1, 3)  # three images of each class
    order = dataset.sampled(labels, "balanced", 0, 1)
    assert len(order) == 3 and labels[order].any(1).all()

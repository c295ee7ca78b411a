"""Write the test results of a run: predictions, scores per class and group, confusions, and images of mistakes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from frostline.core import files
from frostline.core.labels import cross_entropies, multi_label, right
from frostline.data import duplicates
from frostline.data.splits import Split
from frostline.records import layout
from frostline.records.layout import PREDICTIONS
from frostline.report import confusion_matrix, confusion_plot, group_scores, label_scores, mistakes
from frostline.store import tensorfile

_LOGITS = 2**20  # logits that are written in full, 4 MB: 10,000 images of 100 classes
_FIRST = 5  # most probable classes written per image otherwise
_AT_ONCE = 2**20  # logits per computation, 4 MB; results are preallocated, to avoid memory fragments


def write(
    folder: Path,
    logits: Tensor,
    test: Split,
    classes: Sequence[str],
    images_at: Callable[[Tensor], Tensor],
    group_names: Mapping[int, str] = {},
) -> None:
    """Write the predictions for the test split, the scores of each class and named group, and images of mistakes.

    `logits` is `(N, classes)` float32 in the order of `test`. `images_at` returns images `(B, 3, H, W)` uint8 by row.
    """
    if test.groups is not None and group_names:
        of_groups = group_scores.rows(right(logits, test.labels).numpy(), test.groups.numpy(), group_names)
        files.write_json(folder / layout.PER_GROUP, of_groups)
    how = _of_several if multi_label(test.labels) else _of_one
    wrong = how(folder, logits, test, classes)
    if len(wrong):
        mistakes.write(folder, images_at(wrong).numpy(), test.ids[wrong].numpy())


def _of_several(folder: Path, logits: Tensor, test: Split, classes: Sequence[str]) -> Tensor:
    """Write all logits, and precision, recall and F1 of each class; return the rows of mistakes to show."""
    tensorfile.save(folder / PREDICTIONS, {**_images(test), "logits": logits}, {})
    files.write_json(folder / layout.PER_CLASS, label_scores.rows(test.labels.numpy(), logits.numpy(), classes))
    loss = cross_entropies(logits, test.labels).where(~right(logits, test.labels), -1.0)
    return loss.argsort(descending=True, stable=True)[: min(mistakes.MOST, int((loss >= 0).sum()))]


def _of_one(folder: Path, logits: Tensor, test: Split, classes: Sequence[str]) -> Tensor:
    """Write predictions, the scores of each class, and the confusion matrix; return the rows of mistakes to show.

    Predictions are the logits of every image. If those take more than 4 MB, they are the five most probable classes
    with their log-probabilities, and the log-probability of the true class.
    """
    first, chances = most_probable(logits, min(_FIRST, len(classes)))
    said = {"logits": logits}
    if logits.numel() > _LOGITS:
        said = {"top_classes": first, "top_log_probabilities": chances}
        said["label_log_probabilities"] = _of_labels(logits, test.labels)
    tensorfile.save(folder / PREDICTIONS, {**_images(test), **said}, {})
    matrix = confusion_matrix.count(classes, test.labels.numpy(), first[:, 0].numpy())
    confusion_matrix.write(folder, matrix)
    files.write_json(folder / layout.PER_CLASS, label_scores.rows_of_one(matrix))
    confusion_plot.draw(matrix, folder / Path(layout.CONFUSION).with_suffix(".svg"))
    margin = chances[:, 0] - chances[:, -1 if len(classes) == 1 else 1]
    return torch.from_numpy(mistakes.choose(first[:, 0].numpy(), test.labels.numpy(), margin.numpy()))


def _images(test: Split) -> dict[str, Tensor]:
    """Return labels and ids of the test images, and their groups if there are any."""
    groups = {} if test.groups is None else {"groups": _narrow(test.groups)}
    return {"labels": test.labels, "ids": _narrow(test.ids), **groups}


def _narrow(ids: Tensor) -> Tensor:
    """Return ids as int32 if they fit; torch accepts no smaller integers as an index."""
    return ids.int() if len(ids) and ids.max() <= torch.iinfo(torch.int32).max else ids


def most_probable(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` most probable classes of each row of `(N, classes)` logits, and their log-probabilities.

    Both are `(N, count)`, int32 and float32, most probable first; the first agrees with `argmax`, also in ties.
    """
    classes, chances = (logits.new_empty(len(logits), count, dtype=kind) for kind in (torch.int32, torch.float32))
    rows = max(1, _AT_ONCE // logits.shape[1])
    for part, said, chance in zip(*(every.split(rows) for every in (logits, classes, chances)), strict=True):
        first = part.argmax(1, keepdim=True)
        others = part.scatter(1, first, -torch.inf).topk(count - 1, 1).indices
        found = torch.cat([first, others], 1)
        said.copy_(found)
        chance.copy_(part.log_softmax(1).gather(1, found))
    return classes, chances


def _of_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the log-probabilities `(N,)` of the true classes."""
    rows = max(1, _AT_ONCE // logits.shape[1])
    pairs = zip(logits.split(rows), labels.split(rows), strict=True)
    return torch.cat([-cross_entropies(part, those) for part, those in pairs])


def without_shared(test: Split, train: Split, logits: Tensor) -> tuple[int, float | None]:
    """Return the number of test images that are also in train, and the accuracy on all others; None if there are none.

    `logits` is `(N, classes)` in the order of `test`.
    """
    new = duplicates.shared(test.digests, train.digests) < 0
    others = right(logits, test.labels)[new]
    return int((~new).sum()), others.float().mean().item() if len(others) else None

"""Sums over the steps of an epoch: loss and number of correct predictions, of one network or of several heads.

They stay on the device until they are read, so that no step waits for the device; those of a head are computed for many
steps at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor

from frostline.core.labels import right
from frostline.training import gradient
from frostline.training.steps import Step

_WAITING = 1_000_000  # logits of pending steps, at most


class Sums:
    """Loss and number of correct predictions, summed over the steps of an epoch."""

    def __init__(self, loss: float, right: float, smoothing: float) -> None:
        """Begin with a loss summed over images and a number of correct predictions; `smoothing` is of labels."""
        self._loss, self._right, self._smoothing = loss, right, smoothing
        self._waiting: list[Step] = []
        self._done: list[tuple[Tensor, int, Tensor]] = []

    def add(self, step: Step) -> None:
        """Add a step; its loss is computed later, together with those of steps of the same shape."""
        if self._waiting and not self._joins(step):
            self._compute()
        self._waiting.append(step)

    def add_computed(self, losses: Tensor, right: Tensor) -> None:
        """Add steps with known losses `(steps, B)`, and the total number of correct predictions, `right`."""
        self._done.append((losses, 1, right))

    def read(self) -> tuple[float, float]:
        """Return the loss summed over images, and the number of correct predictions so far; waits for the device.

        Steps are added in order, in float64, and those of a head image by image: so a resumed epoch has the same bits,
        wherever it was interrupted.
        """
        self._compute()
        if self._done:  # one transfer, in float64, which holds losses and counts exactly
            parts = [part.flatten().double() for losses, _, right in self._done for part in (losses, right)]
            told = iter(torch.cat(parts).tolist())
            for losses, weight, _ in self._done:
                for _ in range(len(losses)):
                    self._loss += math.fsum(islice(told, losses.shape[1])) * weight
                self._right += next(told)
        self._done.clear()
        return self._loss, self._right

    def _joins(self, step: Step) -> bool:
        last = self._waiting[-1]
        room = len(self._waiting) * last.logits.numel() < _WAITING
        return room and step.logits.shape == last.logits.shape and (step.loss is None) == (last.loss is None)

    def _compute(self) -> None:
        """Compute losses and correct predictions of the pending steps, on the device."""
        if not self._waiting:
            return
        logits = torch.stack([step.logits for step in self._waiting])
        labels = torch.stack([step.labels for step in self._waiting])
        hits = right(logits, labels).sum()
        means = [step.loss for step in self._waiting if step.loss is not None]
        if means:
            self._done.append((torch.stack(means)[:, None], labels.shape[1], hits))
        else:
            self.add_computed(gradient.losses(logits, labels, self._smoothing), hits)
        self._waiting.clear()


class SumsPerHead:
    """The sums of several heads that train together, computed for many steps and all heads at once."""

    def __init__(self, smoothings: Sequence[float]) -> None:
        """Begin at zero; `smoothings` has the label smoothing of each head."""
        self._smoothings = smoothings
        self._sums = [Sums(0.0, 0.0, smoothing) for smoothing in smoothings]
        self._waiting: list[tuple[Tensor, Tensor]] = []

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Add a step with logits `(heads, classes, B)` and labels `(heads, B, ...)`."""
        if self._waiting:
            last = self._waiting[-1][0]
            if last.shape != logits.shape or len(self._waiting) * last.numel() >= _WAITING:
                self._compute()
        self._waiting.append((logits, labels))

    def each(self) -> Sequence[Sums]:
        """Return the sums of each head over the steps so far."""
        self._compute()
        return self._sums

    def _compute(self) -> None:
        if not self._waiting:
            return
        logits, labels = (torch.stack(several, 1) for several in zip(*self._waiting, strict=True))
        logits = logits.transpose(2, 3).contiguous()  # (heads, steps, B, classes)
        hits = right(logits, labels).sum((1, 2))
        for number, (smoothing, one) in enumerate(zip(self._smoothings, self._sums, strict=True)):
            one.add_computed(gradient.losses(logits[number], labels[number], smoothing), hits[number])
        self._waiting.clear()

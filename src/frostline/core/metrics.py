"""The metrics that `select` may name to choose the best epoch and cell, and the formatting of their values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A measure of a network's quality on a split."""

    name: str
    """Last part of its recorded names, e.g. `macro_f1` in `test/macro_f1`."""
    words: str
    """Its name for people."""
    sign: int = 1
    """1 if higher is better, -1 if lower is."""
    share: bool = True
    """Whether it is in 0..1 and shown in percent."""

    @property
    def epoch(self) -> str:
        """Its name as a metric of an epoch, on the validation split; also its name in `select`."""
        return f"val/{self.name}"

    @property
    def val(self) -> str:
        """Its name as a metric of a run, on the validation split in the best epoch."""
        return f"best/val_{self.name}"

    @property
    def test(self) -> str:
        """Its name as a metric of a run, on the test split."""
        return f"test/{self.name}"

    def better(self, value: float, other: float) -> bool:
        """Return whether `value` is better than `other`."""
        return self.sign * value > self.sign * other

    def number(self, value: float, digits: int = 2) -> str:
        """Return a value without its unit, with `digits` decimals of a percent, e.g. `97.50`; a loss e.g. `0.1234`."""
        return f"{100 * value:.{digits}f}" if self.share else f"{value:.{digits + 2}f}"

    def text(self, value: float, digits: int = 2) -> str:
        """Return a value for people, e.g. `97.50%`."""
        return self.number(value, digits) + ("%" if self.share else "")

    def span(self, low: float, high: float, digits: int = 1) -> str:
        """Return the ends of an interval, of values or differences, e.g. `0.8 to 4.7`; shares are clipped to -1..1."""
        if self.share:
            low, high = max(-1.0, low), min(1.0, high)
        return f"{self.number(low, digits)} to {self.number(high, digits)}"

    def gap(self, value: float, digits: int = 2) -> str:
        """Return a difference of two values for people, e.g. `+1.30 points`."""
        return f"{100 * value:+.{digits}f} points" if self.share else f"{value:+.{digits + 2}f}"


ACCURACY = Metric("accuracy", "accuracy")
LOSS = Metric("loss", "loss", sign=-1, share=False)
BALANCED_ACCURACY = Metric("balanced_accuracy", "balanced accuracy")
MACRO_F1 = Metric("macro_f1", "macro F1")
AUROC = Metric("auroc", "AUROC", share=False)
MAP = Metric("map", "mAP")
METRICS = {one.epoch: one for one in (ACCURACY, BALANCED_ACCURACY, MACRO_F1, MAP, AUROC, LOSS)}
"""By the value of `select`."""
GROUP_IMAGES = 10
"""Fewest test images of a group whose accuracy is recorded; its 95% interval is then up to 53 points wide."""

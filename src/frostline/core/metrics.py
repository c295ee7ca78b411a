"""What the best epoch and the best cell are chosen by (`select`), and how its values are shown."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A measure of how a network does on a split."""

    name: str
    """As in the names of metrics, e.g. `macro_f1` in `test/macro_f1`."""
    words: str
    """For people."""
    sign: int = 1
    """1 where more is better, -1 where less is."""
    share: bool = True
    """Whether it lies in 0..1 and is shown in percent."""

    @property
    def epoch(self) -> str:
        """Its name where a metric is of the validation split in every epoch, which is its name in `select`."""
        return f"val/{self.name}"

    @property
    def val(self) -> str:
        """Its name as a metric of a run: of the validation split, in the best epoch."""
        return f"best/val_{self.name}"

    @property
    def test(self) -> str:
        """Its name as a metric of a run: of the test split."""
        return f"test/{self.name}"

    def better(self, value: float, other: float) -> bool:
        """Return whether `value` is better than `other`."""
        return self.sign * value > self.sign * other

    def number(self, value: float, digits: int = 2) -> str:
        """Return a value with so many decimals of a percent, without its unit, e.g. `97.50`; a loss e.g. `0.1234`."""
        return f"{100 * value:.{digits}f}" if self.share else f"{value:.{digits + 2}f}"

    def text(self, value: float, digits: int = 2) -> str:
        """Return a value for people, e.g. `97.50%`."""
        return self.number(value, digits) + ("%" if self.share else "")

    def span(self, low: float, high: float, digits: int = 1) -> str:
        """Return the ends of an interval for people, e.g. `96.8 to 99.4`; no shares are further apart than 0 and 1."""
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
"""By what stands in `select`."""

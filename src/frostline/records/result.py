"""The result of a run, as written in its folder, and the formatting of its numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from frostline.core import files
from frostline.core.metrics import ACCURACY, METRICS, Metric
from frostline.records import journal
from frostline.records.journal import is_number
from frostline.records.layout import RESULT

VAL, TEST = ACCURACY.val, ACCURACY.test
ECE = "test/calibration_error"
"""Expected calibration error; see `report.calibration`."""
SHARED, WITHOUT = "test/shared_images", "test/accuracy_without_shared"
"""Number of test images that are also in train, and the accuracy on the others."""
GROUPS, EFFECTIVE, VAL_EFFECTIVE = "test/groups", "test/effective_images", "best/val_effective_images"
"""Only if images come in groups (patients, plates, videos): the number of groups of the test images, and the number of
independent images that they, and the validation images in the best epoch, are worth for an interval of accuracy.

See `report.statistics.effective_images`.
"""
VAL_MARGIN = "best/val_margin_of_error"
"""Half of the 95% interval over validation images of the score in the best epoch; not for accuracy."""
PRUNED = "search/pruned_after"
"""Of a trial that was stopped early: its last epoch."""
SECONDS = "cost/train_seconds"
EPOCHS = "cost/epochs"
"""Trained epochs, including an unfinished one."""
PARAMETERS = "cost/trainable_parameters"
IMAGES = "cost/backbone_images"
BYTES = "cost/bytes_per_task"
"""Bytes that a task adds to a backbone shared by many tasks."""
SPEED = "cost/inference_images_per_second"
ADAPTER_PARAMETERS, ADAPTER_BYTES = "cost/adapter_parameters", "cost/adapter_bytes"
"""Parameters of adapters without the head, and size of the adapter file, which includes the head."""
MERGE_ERROR = "test/merge_error"
"""Largest change of a logit by merging the adapters, as a fraction of the largest logit."""
_SHARES = {name for one in METRICS.values() if one.share for name in (one.val, one.test)}
_COUNTS = ("best/epoch", SHARED, GROUPS, EFFECTIVE, VAL_EFFECTIVE, VAL_MARGIN, PRUNED)
_ROUNDED = 1e-9  # rounding by which a mean of shares may lie outside 0..1
_TYPED = 10  # most digits of a typed number; values drawn by a search have more


@dataclass(frozen=True)
class Result:
    """The result of a run."""

    job: int
    name: str
    folder: str
    run_id: str | None
    status: str
    """`FINISHED`, `FAILED`, `KILLED`; `PLANNED` for a dry run; `WAITING` before and `RUNNING` while it is carried out.

    `PAUSED` is a trial that waits for the decision whether it is good enough to continue.
    """
    reason: str | None
    """Why it failed or was killed, in one line."""
    choices: dict[str, Any]
    """Choices by short name: model, freeze_mode, optimizer, data, lr, seed, and other keys that the sweep varies."""
    metrics: dict[str, float]
    """The metrics logged once per run: `best/...`, `test/...`, `cost/...`."""
    images: dict[str, int] = field(default_factory=dict)
    """Number of images per split; empty where the run ended before its data was read."""
    command: list[str] | None = None
    """The options typed for it in this sweep, which may not be the one that ran it; None if only its provenance has it.
    """

    @property
    def selected_by(self) -> Metric:
        """The metric that chose its best epoch, and in which it is compared."""
        return METRICS.get(str(self.choices.get("select")), ACCURACY)

    @classmethod
    def of(cls, values: Any) -> Result:
        """Return the result in plain values from a file; raises ValueError if they are not a valid result."""
        try:
            found = cls(**values)
        except TypeError as problem:
            raise ValueError(f"not the result of a run ({problem})") from None
        tables = (found.choices, found.metrics, found.images)
        if not isinstance(found.command, list | None) or not all(isinstance(table, dict) for table in tables):
            raise ValueError("not the result of a run")
        texts = (found.name, found.folder, found.status, found.run_id or "", found.reason or "", *(found.command or ()))
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("not the result of a run")
        counts = {"job": found.job, **found.images}
        odd: dict[str, object] = {name: one for name, one in found.metrics.items() if not is_possible(name, one)}
        odd |= {name: one for name, one in counts.items() if type(one) is not int or not _is_count(one)}
        if found.status == "FINISHED":
            odd |= dict.fromkeys({VAL, TEST} - found.metrics.keys())
        for name, value in odd.items():
            raise ValueError(f"not the result of a run: its {name} is {value!r:.50}")
        for repeat in ("seed", "data.fold", "data.subset_seed"):
            if isinstance(found.choices.get(repeat), float | list | dict):
                raise ValueError(f"not the result of a run: its {repeat} is not valid")
        json.dumps(found.choices, allow_nan=False)  # which raises ValueError
        return found


def is_possible(metric: str, value: object) -> bool:
    """Return whether a run can have this value of a metric; if not, the file is damaged or from another program.

    nan stands for a score that the test split does not define; the loss of a diverged run may be any number.
    """
    if metric.startswith("cost/") or metric in _COUNTS:
        return _is_count(value)
    if metric in (VAL, TEST):
        return is_number(value) and 0 <= value <= 1
    if metric in _SHARES:
        return is_number(value) and (math.isnan(value) or abs(value - 0.5) <= 0.5 + _ROUNDED)
    return is_number(value)


def _is_count(value: object) -> bool:
    """Return whether a value can be a count, or a number of seconds or bytes: finite and not negative."""
    return is_number(value) and 0 <= value < math.inf


def percent(fraction: float) -> str:
    """Return an accuracy as text, e.g. `97.50%`."""
    return f"{100 * fraction:.2f}%"


def size(count: int) -> str:
    """Return a number of bytes as text, in powers of 1,000 like `store.budget_gb`."""
    value, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "bytes" or value >= 100 else f"{value:.3g} {unit}"


def number_of(count: int, what: str) -> str:
    """Return a count with its noun, e.g. `1 run`, `12 runs`."""
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def value_text(value: object) -> str:
    """Return a choice as text: a float as it was typed, a float drawn by a search to six digits, others by `str`."""
    if not isinstance(value, float):
        return str(value)
    short, typed = f"{value:g}", f"{value:.{_TYPED}g}"
    return typed if float(short) != value == float(typed) else short


def listed(texts: Sequence[str]) -> str:
    """Return texts as in a sentence, e.g. `a, b and c`."""
    *others, last = texts
    return f"{', '.join(others)} and {last}" if others else last


def choices_text(choices: Mapping[str, Any], names: Sequence[str]) -> str:
    """Return the present ones of the choices `names` as on a command line, e.g. `lr=0.001 augment=none`."""
    return " ".join(f"{name}={value_text(choices[name])}" for name in names if name in choices)


def write_result(folder: Path, result: Result) -> None:
    """Write the result of the run in `folder` atomically."""
    files.write(folder / RESULT, json.dumps(asdict(result), indent=1), sync=True)


def read_result(folder: Path) -> Result | None:
    """Return the result of the run in `folder`; None if it has none, or a damaged one."""
    try:
        result = Result.of(files.read_json(folder / RESULT))
    except (OSError, ValueError):
        return None
    return replace(result, run_id=journal.run_id(folder) or result.run_id)  # it may have reached MLflow later

"""What a run came to, as it stands in its folder, and how its numbers are shown."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeGuard

from frostline.core import files
from frostline.core.metrics import ACCURACY, METRICS, Metric
from frostline.records import journal
from frostline.records.layout import RESULT

VAL, TEST = ACCURACY.val, ACCURACY.test
SHARED, WITHOUT = "test/shared_images", "test/accuracy_without_shared"
"""How many test images are in train, too, and the accuracy on the others."""
GROUPS, EFFECTIVE, VAL_EFFECTIVE = "test/groups", "test/effective_images", "best/val_effective_images"
"""Where images come in groups (patients, plates, videos): of how many groups those of test are, and how many
independent images they, and those of validation in the best epoch, are worth for an interval of accuracy.

See `report.statistics.effective_images`. There are no such metrics where each image is its own.
"""
PRUNED = "search/pruned_after"
"""Of a trial that was stopped early: the epoch after which."""
SECONDS = "cost/train_seconds"
EPOCHS = "cost/epochs"
"""Epochs that were trained, one that was not finished among them."""
PARAMETERS = "cost/trainable_parameters"
IMAGES = "cost/backbone_images"
BYTES = "cost/bytes_per_task"
"""What a task adds to a backbone that many tasks share."""
SPEED = "cost/inference_images_per_second"
ADAPTER_PARAMETERS, ADAPTER_BYTES = "cost/adapter_parameters", "cost/adapter_bytes"
"""Of what was put beside frozen layers, without the head; of the file that has it alone, with the head."""
MERGE_ERROR = "test/merge_error"
"""By how much of 1 the network's answers changed as that was merged into its weights."""
_SHARES = {name for one in METRICS.values() if one.share for name in (one.val, one.test)}
_COUNTS = ("best/epoch", SHARED, GROUPS, EFFECTIVE, VAL_EFFECTIVE, PRUNED)
_ROUNDED = 1e-9  # by which a mean of shares may be beyond 0 to 1
_TYPED = 10  # digits that somebody may have typed; what a search draws has more


@dataclass(frozen=True)
class Result:
    """What a run ends with."""

    job: int
    name: str
    folder: str
    run_id: str | None
    status: str
    """`FINISHED`, `FAILED`, `KILLED`; `PLANNED` for a dry run; `RUNNING` while somebody has it; `WAITING` before.

    `PAUSED` is a trial that waits for whether it is good enough to go on.
    """
    reason: str | None
    """Why it failed or was killed, in one line."""
    choices: dict[str, Any]
    """What was chosen, by short name: model, freeze_mode, optimizer, data, lr, seed and what else the sweep varies."""
    metrics: dict[str, float]
    """The metrics logged once per run: `best/...`, `test/...`, `cost/...`."""
    images: dict[str, int] = field(default_factory=dict)
    """Number of images per split; empty where the run ended before its data was read."""

    @property
    def selected_by(self) -> Metric:
        """What its best epoch was chosen by, and it is compared by."""
        return METRICS.get(str(self.choices.get("select")), ACCURACY)

    @classmethod
    def of(cls, values: Any) -> Result:
        """Return the result that plain values from a file say; raises ValueError where they say none."""
        try:
            found = cls(**values)
        except TypeError as problem:
            raise ValueError(f"not the result of a run ({problem})") from None
        texts = (found.name, found.folder, found.status, found.run_id or "", found.reason or "")
        tables = (found.choices, found.metrics, found.images)
        if not all(isinstance(text, str) for text in texts) or not all(isinstance(table, dict) for table in tables):
            raise ValueError("not the result of a run")
        counts = {"job": found.job, **found.images}
        odd: dict[str, object] = {name: one for name, one in found.metrics.items() if not is_possible(name, one)}
        odd |= {name: one for name, one in counts.items() if type(one) is not int or not _is_count(one)}
        if found.status == "FINISHED":
            odd |= dict.fromkeys({VAL, TEST} - found.metrics.keys())
        for name, value in odd.items():
            raise ValueError(f"not the result of a run: its {name} is {value!r:.50}")
        if any(isinstance(found.choices.get(repeat), float | list | dict) for repeat in ("seed", "data.fold")):
            raise ValueError("not the result of a run: its seed or fold is none")
        json.dumps(found.choices, allow_nan=False)  # which raises ValueError
        return found


def is_possible(metric: str, value: object) -> bool:
    """Return whether a run can have this value of a metric; else a file was damaged, or somebody else wrote it.

    Nan is what a test split does not define; a loss of a run that diverged may be anything.
    """
    if metric.startswith("cost/") or metric in _COUNTS:
        return _is_count(value)
    if metric in (VAL, TEST):
        return _is_number(value) and 0 <= value <= 1
    if metric in _SHARES:
        return _is_number(value) and (math.isnan(value) or abs(value - 0.5) <= 0.5 + _ROUNDED)
    return _is_number(value)


def _is_number(value: object) -> TypeGuard[float]:
    """Return whether a value is a number that fits into a float; JSON's whole numbers may be larger."""
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**300)


def _is_count(value: object) -> bool:
    """Return whether a value is a number of things, or of seconds or bytes."""
    return _is_number(value) and 0 <= value < math.inf


def percent(fraction: float) -> str:
    """Return an accuracy for people, e.g. `97.50%`."""
    return f"{100 * fraction:.2f}%"


def size(count: int) -> str:
    """Return a number of bytes for people, in powers of 1,000 as `store.budget_gb` is."""
    value, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "bytes" or value >= 100 else f"{value:.3g} {unit}"


def number_of(count: int, what: str) -> str:
    """Return how many there are of something, for people: `1 run`, `12 runs`."""
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def value_text(value: object) -> str:
    """Return a choice for people: a float as somebody types it, one that was drawn to six digits, else as it prints."""
    if not isinstance(value, float):
        return str(value)
    short, typed = f"{value:g}", f"{value:.{_TYPED}g}"
    return typed if float(short) != value == float(typed) else short


def choices_text(choices: Mapping[str, Any], names: Sequence[str]) -> str:
    """Return those of the choices that are there as they are given on a command line, e.g. `lr=0.001 augment=none`."""
    return " ".join(f"{name}={value_text(choices[name])}" for name in names if name in choices)


def write_result(folder: Path, result: Result) -> None:
    """Write the result of the job in `folder`, whole or not at all."""
    files.write(folder / RESULT, json.dumps(asdict(result), indent=1), sync=True)


def read_result(folder: Path) -> Result | None:
    """Return the result that the job in `folder` wrote, None if it never came to that, or damaged since."""
    try:
        result = Result.of(files.read_json(folder / RESULT))
    except (OSError, ValueError):
        return None
    return replace(result, run_id=journal.run_id(folder) or result.run_id)  # MLflow may have heard of it since

"""The data behind the report page, as plain values for JSON: rounded numbers, thinned curves, no duplicates."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from frostline.records import journal, trial_tags
from frostline.records.result import BYTES, IMAGES, PARAMETERS, SECONDS, SPEED, TEST, Result, value_text
from frostline.report import adapter_words, group_scores, image_details, search_page, style
from frostline.report.cell_intervals import test_interval, validation_interval
from frostline.report.cells import REPEATS, Cell, cells, varying
from frostline.report.command_line import rerun
from frostline.report.contest import Contender, Contest, compared_key
from frostline.report.page_assets import ends, shortened
from frostline.report.pareto import front
from frostline.report.train_sizes import TrainSizes, images, train_sizes
from frostline.report.verdict import verdict

MEMORY = "cost/peak_memory_bytes"
_COSTS = (SECONDS, PARAMETERS, MEMORY, IMAGES, BYTES, SPEED)
_CURVES = ("train/accuracy", "val/accuracy", "train/loss", "val/loss")
_POINTS = 40_000  # of all curves together, which a browser reads in a fraction of a second
_LOCAL_UI = "http://127.0.0.1:5000"  # where `mlflow ui` listens


def collect(
    results: Sequence[Result],
    found: Sequence[Contest],
    *,
    page: Path,
    tracker: Mapping[str, str] | None,
    scratch: Path | None = None,
) -> dict[str, Any]:
    """Return the data of the page at `page` on `results`, which are compared in the contests `found`.

    Links are relative to the page; none leads into the folder `scratch`.
    """
    swept, key = [name for name in varying(results) if name not in REPEATS], compared_key(results)
    swept.sort(key=lambda name: (name != "freeze_mode", name != "lr"))  # these two first
    points = max(12, min(200, _POINTS // (4 * max(1, len(results)))))
    numbers = {id(result): number for number, result in enumerate(results)}
    repeated = [name for name in REPEATS if len({repr(result.choices.get(name)) for result in results}) > 1]
    places = [_link(Path(result.folder), page, scratch) for result in results]
    return {
        "key": key,
        "keys": [name for name in swept if name != key],
        "swept": swept,
        "looks": style.numbers(results, key),
        "palette": style.COLOURS,
        "models": list(style.numbers(results, "model")) if key != "model" and "model" in swept else [],
        "sizes": [_sizes(one, found) for one in train_sizes(found)],
        "groups": [_group(contest, key, swept, numbers) | _search(contest, key, numbers) for contest in found],
        "runs": [
            _run(run, swept, key, tracker)
            | {"repeat": [_plain(run.choices.get(name)) for name in repeated], "folder": folder}
            for run, folder in zip(results, places, strict=True)
        ],
        "curves": [_curve(result, points) for result in results],
        "repeated": repeated,
    }


def _sizes(sizes: TrainSizes, found: Sequence[Contest]) -> dict[str, Any]:
    """Return a series of contests: training images, and the numbers of the page's groups."""
    return {
        "sentence": sizes.sentence,
        "images": [images(contest) for contest in sizes.contests],
        "groups": [found.index(contest) for contest in sizes.contests],
    }


def _group(contest: Contest, key: str, swept: Sequence[str], numbers: Mapping[int, int]) -> dict[str, Any]:
    best = contest.contenders
    return {
        "where": contest.where,
        "by": asdict(contest.by),
        "verdict": verdict(contest),
        "outcome": contest.outcome,
        "cells": [_cell(cell, key, swept, numbers) for cell in cells(contest.results)],
        "contenders": [_contender(one, key, swept, numbers) for one in best],
        "folds": bool(best) and best[0].cell.folds,
        "groups": group_scores.of_cells([one.cell for one in best]),
        "disagreements": image_details.disagreements(best[0].cell, best[1].cell) if len(best) > 1 else None,
    }


def _search(contest: Contest, key: str, numbers: Mapping[int, int]) -> dict[str, Any]:
    """Return the data of the search section; empty for a grid."""
    if not contest.studies:
        return {}
    weighed = front(contest.results)
    more = {"front": search_page.of_front(weighed, numbers)} if weighed else {}
    return {"search": search_page.collect(contest.studies, key, numbers) | more}


def _contender(one: Contender, key: str, swept: Sequence[str], numbers: Mapping[int, int]) -> dict[str, Any]:
    return {
        "name": one.name,
        "run": numbers[id(one.cell.finished[0])],
        "accuracy_of_test": shortened(one.cell.mean(TEST)),
        **_cell(one.cell, key, swept, numbers),
        **image_details.of_cell(one.cell),
    }


def _cell(cell: Cell, key: str, swept: Sequence[str], numbers: Mapping[int, int]) -> dict[str, Any]:
    return {
        "series": value_text(cell.choices.get(key)),
        "at": {name: _plain(cell.choices.get(name)) for name in swept if name != key},
        "val": [shortened(cell.mean(cell.by.val)), *ends(validation_interval(cell))],
        "test": [shortened(cell.mean(cell.by.test)), *ends(test_interval(cell))],
        "cost": _costs({name: cell.mean(name) for name in _COSTS}),
        "runs": [numbers[id(result)] for result in cell.results],
        "seeds": [len(cell.finished), len(cell.results)],
    }


def _run(result: Result, swept: Sequence[str], key: str, tracker: Mapping[str, str] | None) -> dict[str, Any]:
    by = result.selected_by
    return {
        "name": result.name,
        "series": value_text(result.choices.get(key)),
        "status": "PRUNED" if trial_tags.state(result) == trial_tags.STOPPED else result.status,
        "reason": result.reason,
        "at": [_plain(result.choices.get(name)) for name in swept],
        "share": by.share,
        "val": shortened(result.metrics.get(by.val, math.nan)),
        "test": shortened(result.metrics.get(by.test, math.nan)),
        "epoch": shortened(result.metrics.get("best/epoch", math.nan)),
        "cost": _costs(result.metrics),
        "adapter": adapter_words.full(result),
        "mlflow": _mlflow(result, tracker),
        "again": rerun(result) if result.status != "WAITING" else None,
    }


def _costs(metrics: Mapping[str, float]) -> list[float | int | None]:
    """Return the costs of a run or cell in the order of the page; the last is seconds per image, from the speed."""
    *values, speed = (metrics.get(name, math.nan) for name in _COSTS)
    return [shortened(value, 6) for value in [*values, 1 / speed if speed > 0 else math.nan]]


def _link(folder: Path, page: Path, scratch: Path | None) -> str | None:
    """Return the address of a run's folder; relative if it lies below the page's folder, so that both can be moved."""
    if not folder.is_dir() or (scratch and folder.is_relative_to(scratch)):
        return None
    if folder.is_relative_to(page.parent):
        return folder.relative_to(page.parent).as_posix()
    return Path(os.path.abspath(folder)).as_uri()  # noqa: PTH100 - resolve() would follow links


def _mlflow(result: Result, tracker: Mapping[str, str] | None) -> str | None:
    if not tracker or not {"uri", "experiment_id"} <= tracker.keys() or result.run_id is None:
        return None
    served = urlsplit(tracker["uri"]).scheme in ("http", "https")
    base = tracker["uri"].rstrip("/") if served else _LOCAL_UI
    run = f"{base}/#/experiments/{tracker['experiment_id']}/runs/{result.run_id}"
    return f"{run}?workflowType=machine_learning"  # else MLflow shows menus for chatbots; see `commands.ui`


def _curve(result: Result, points: int) -> dict[str, Any]:
    """Return a run's learning curves: at most about `points` epochs, the best and the last one included."""
    lines = journal.epochs(Path(result.folder))
    best = result.metrics.get("best/epoch")
    step = -(-len(lines) // points) if lines else 1
    kept = [line for i, line in enumerate(lines) if i % step == 0 or i == len(lines) - 1 or line.get("epoch") == best]
    starts = [now["epoch"] for before, now in pairwise(lines) if now.get("phase") != before.get("phase")]
    names = dict.fromkeys([*_CURVES, result.selected_by.epoch])
    values = {name: [shortened(line.get(name, math.nan)) for line in kept] for name in names}
    return {"epoch": [line["epoch"] for line in kept], "starts": starts, **values}


def _plain(value: object) -> Any:
    """Return a choice as a JSON value; None stays None and stands for a key that a run does not read."""
    if value is None:
        return None
    return value if isinstance(value, int | float | str | bool) and value == value else value_text(value)

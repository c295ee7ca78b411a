"""The search section of the report page: its data as plain values for JSON, and its table of cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import combinations
from string import Template
from typing import Any

import numpy as np
import numpy.typing as npt

from frostline.records import trial_tags
from frostline.records.result import value_text
from frostline.report import page_assets
from frostline.report.contest import Contest
from frostline.report.page_assets import ends, shortened
from frostline.report.pareto import Front
from frostline.report.search_words import alike_text
from frostline.report.studies import StudyResults, is_choice, short_text

_MAPPED = 4  # number of the most important keys that get contour maps in pairs
_SIDE = 24  # fields along each side of a map
_LEAST_MAPPED = 8  # least number of trials for a map


def collect(found: Sequence[StudyResults], compared: str, numbers: Mapping[int, int]) -> dict[str, Any]:
    """Return the data of the studies: `compared` is the key of the page's series, `numbers` run numbers by `id`."""
    keys = _keys(found)
    return {
        "keys": {key: _key(next(study.space[key] for study in found if key in study.space)) for key in keys},
        "studies": [_study(study, keys, compared, numbers) for study in found],
    }


def _keys(found: Sequence[StudyResults]) -> list[str]:
    """Return the searched keys, in the order of their importance where that is known."""
    return list(dict.fromkeys(key for study in found for key in (*study.importances, *study.space)))


def _series(study: StudyResults, compared: str) -> str:
    return value_text(study.trials[0].run.choices.get(compared))


def of_front(found: Front, numbers: Mapping[int, int]) -> dict[str, Any]:
    """Return the data of the Pareto front: run and values of each complete trial, and the hypervolumes of cells."""
    best = {id(point) for point in found.best}
    return {
        "objectives": [{"words": one.words, "share": one.share, "sign": one.sign} for one in found.objectives],
        "points": [
            [point.study.name, numbers[id(point.trial.run)], id(point) in best, *map(shortened, point.values)]
            for point in found.points
        ],
        "hypervolume": {name: [*map(shortened, values)] for name, values in found.hypervolume.items()},
    }


def _key(distribution: Any) -> dict[str, Any]:
    choices = [_plain(choice) for choice in distribution.choices] if is_choice(distribution) else None
    return {"log": bool(getattr(distribution, "log", False)), "choices": choices}


def _study(study: StudyResults, keys: Sequence[str], compared: str, numbers: Mapping[int, int]) -> dict[str, Any]:
    own, best, error = [key for key in keys if key in study.space], study.best, study.error
    then = best.value if best else None
    return {
        "name": study.name,
        "series": _series(study, compared),
        "number": [trial.number for trial in study.trials],
        "run": [numbers[id(trial.run)] for trial in study.trials],
        "state": [trial_tags.STATES.index(trial.state) for trial in study.trials],
        "value": [shortened(trial.value) for trial in study.trials],
        "at": {key: [_plain(trial.at[key]) for trial in study.trials] for key in own},
        "best": study.trials.index(best) if best else None,
        "least": None if then is None or error is None else shortened(then - study.by.sign * error),
        "fresh": _fresh(study),
        "as_good": {key: [*map(_plain, study.as_good[key])] for key in own if key in study.as_good},
        "importances": {key: shortened(share) for key, share in study.importances.items()},
        "maps": [*_maps(study, own)],
    }


def _fresh(study: StudyResults) -> list[float | None] | None:
    """Return the mean of the fresh seeds, the ends of its interval, and their number; None without fresh seeds."""
    if (found := study.optimism) is None:
        return None
    return [shortened(found.now), *ends(found.interval), found.seeds]


def _maps(study: StudyResults, keys: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield a map per pair of numeric keys: values interpolated linearly between trials, within their convex hull."""
    known = [trial for trial in study.trials if trial.value is not None]
    drawn = [key for key in keys if not is_choice(study.space[key])][:_MAPPED]
    if len(known) < _LEAST_MAPPED or len(drawn) < 2:
        return
    from scipy.interpolate import griddata
    from scipy.spatial import QhullError

    values = np.array([trial.value for trial in known])
    places = {key: _places(study.space[key], [trial.at[key] for trial in known]) for key in drawn}
    side = np.linspace(0, 1, _SIDE)
    for across, up in combinations(drawn, 2):
        try:
            points = np.column_stack([places[across], places[up]])
            field = griddata(points, values, (side[None, :], side[:, None]), method="linear")
        except QhullError:  # all on one line
            continue
        yield {
            "x": across,
            "y": up,
            "xs": _side(study.space[across]),
            "ys": _side(study.space[up]),
            "z": [[shortened(value, 4) for value in row] for row in field],
        }


def _side(distribution: Any) -> list[float | int | None]:
    """Return the values along a side of a map, spaced evenly on the linear or logarithmic scale of their search."""
    spaced = np.geomspace if distribution.log else np.linspace
    return [*map(shortened, spaced(distribution.low, distribution.high, _SIDE))]


def _places(distribution: Any, values: Sequence[float]) -> npt.NDArray[np.float64]:
    """Return the positions between 0 and 1 of `values` on that scale."""
    ends_and_values = np.array([distribution.low, distribution.high, *values], np.float64)
    low, high, *scaled = np.log(ends_and_values) if distribution.log else ends_and_values
    return (np.array(scaled) - low) / (high - low)


def _plain(value: Any) -> Any:
    return shortened(value) if isinstance(value, float) else value


def section(contests: Sequence[Contest], compared: str) -> str:
    """Return the section as HTML, with a table of cells for each contest between searches; empty for a grid."""
    tables = [_table(number, contest, compared) for number, contest in enumerate(contests) if contest.studies]
    return Template(page_assets.text("search.html")).substitute(tables="\n".join(tables)) if tables else ""


def script(contests: Sequence[Contest]) -> str:
    """Return the script that draws the section; empty for a grid."""
    return page_assets.text("search.js") if any(contest.studies for contest in contests) else ""


def _table(number: int, contest: Contest, compared: str) -> str:
    """Return the table with a row per cell: its trials, the best one, its fresh seeds, and settings that do as well."""
    found, by, keys = contest.studies, contest.by, _keys(contest.studies)
    ended = {"stopped early": trial_tags.STOPPED, "failed": trial_tags.FAILED}
    ended = {name: state for name, state in ended.items() if any(study.count(state) for study in found)}
    names = ("", "trials", *ended, "best trial", "on validation", "its fresh seeds", "by chance", "as good")
    heads = [(name, name not in ("", "best trial", "as good")) for name in names]
    rows = [
        [
            page_assets.swatch(_series(study, compared), study.name),
            str(len(study.trials)),
            *(str(study.count(state)) for state in ended.values()),
            _settings(study, keys),
            by.text(study.best.value) if study.best and study.best.value is not None else "-",
            *_fresh_seeds(study),
            _as_good(study, keys),
        ]
        for study in found
    ]
    return page_assets.of_group(number, page_assets.table(heads, rows))


def _settings(study: StudyResults, keys: Sequence[str]) -> str:
    """Return the searched values of the best trial, as HTML."""
    values = study.best.at if study.best else {}
    return "<br>".join(escape(f"{key}={short_text(values[key])}") for key in keys if key in values) or "-"


def _fresh_seeds(study: StudyResults) -> tuple[str, str]:
    """Return the mean of the fresh seeds with its interval, and how much better the best trial looked, as HTML."""
    if (found := study.optimism) is None:
        return "-", "-"
    within = f"<br>{study.by.span(found.interval.low, found.interval.high)}" if found.interval else ""
    return study.by.text(found.now) + within, study.by.gap(found.gap)


def _as_good(study: StudyResults, keys: Sequence[str]) -> str:
    """Return the values of trials within a standard error of the best, of the keys in which these differ, as HTML."""
    own = [key for key in keys if key in study.as_good]
    spans = [alike_text(key, study.as_good[key], choice=is_choice(study.space[key])) for key in own]
    return "<br>".join(escape(span) for span in spans if span) or "-"

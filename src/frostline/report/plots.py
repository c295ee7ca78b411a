"""Plots for papers, as PNG and SVG; markers and line styles differ as well as colours, for print in grey."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.core import files
from frostline.core.metrics import Metric
from frostline.records import journal
from frostline.records.result import SECONDS, Result, value_text
from frostline.records.trial_tags import is_trial
from frostline.report.cell_intervals import repeats, validation_interval
from frostline.report.cells import Cell, cells
from frostline.report.contest import Contender, Contest, contests
from frostline.report.statistics import Interval
from frostline.report.style import COLOURS, numbers
from frostline.report.train_sizes import TrainSizes, images, train_sizes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = ("o", "s", "D", "^", "P", "X", "*", "v", "p", "h", "<", ">", "d", "H", "8", "$+$", r"$\#$", "$=$", "$/$")
_LINES: tuple[Any, ...] = (
    *("-", "--", ":", "-."),
    *((0, dashes) for dashes in ((3, 1, 1, 1, 1, 1), (1, 3), (8, 2), (5, 1), (3, 3), (8, 2, 1, 2), (1, 1), (6, 3))),
    *((0, dashes) for dashes in ((4, 1, 1, 1), (2, 2), (10, 3), (7, 1, 2, 1), (2, 4), (4, 4), (9, 1, 1, 1))),
)
_SCATTERED = {"linestyle": "none", "markersize": 4, "alpha": 0.7}
"""Style of the trials of a search, which no line joins, since they may differ in keys that are not drawn."""
_WIDTH, _HEIGHT = 4.8, 3.4  # inches, a column of a paper
_AXES = (0.72, 0.48, 3.98, 2.65)  # left, bottom, width, height, in inches
_LINE = 0.17  # inches, a line of the legend


def write(folder: Path, results: Sequence[Result]) -> list[Path]:
    """Write plots of accuracy against cost, response to the lr, and learning curves into `folder`; return their paths.

    A plot without data is left out. Runs on different data get separate plots; if they differ in the number of training
    images alone, one more shows accuracy against it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = [contest for contest in contests(results) if contest.contenders]
    plots: tuple[tuple[str, Callable[[Axes, Any], bool], Sequence[Contest | TrainSizes]], ...] = (
        ("accuracy_cost", _cost, found),
        ("lr_response", _response, found),
        ("curves", _curves, found),
        ("train_sizes", _sizes, train_sizes(found)),
    )
    written = []
    for name, draw, subjects in plots:
        for number, subject in enumerate(subjects):
            stem = name if len(subjects) == 1 else f"{name}_{number}"
            written += _save(folder / stem, draw, subject)
    return written


def _save(stem: Path, draw: Callable[[Axes, Any], bool], subject: Contest | TrainSizes) -> list[Path]:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.size": 9, "svg.fonttype": "none", "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(_WIDTH, _HEIGHT))
        axes = figure.add_axes((0, 0, 1, 1))
        if not draw(axes, subject):
            return []
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.set_title(subject.where, fontsize=9, parse_math=False)
        _legend(figure, axes)
        written = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg")]
        for file in written:
            figure.savefig(drawn := io.BytesIO(), format=file.suffix[1:], dpi=200)
            files.write(file, drawn.getvalue())  # into a file, Pillow ignores that a full disk took only a part
    return written


def _legend(figure: Figure, axes: Axes) -> None:
    """Put the legend above the axes, where it hides no interval, and make the figure higher by the legend's lines.

    Positions are set explicitly: matplotlib's layout engine takes longer than all the rest.
    """
    handles, labels = axes.get_legend_handles_labels()
    columns = max(1, 100 // (13 + max(map(len, labels))))  # in letters, with the line and the space beside a name
    height = _HEIGHT + _LINE * -(-len(labels) // columns) + (0.1 if axes.get_title() else -_LINE)
    figure.set_size_inches(_WIDTH, height)
    left, bottom, width, high = _AXES
    axes.set_position((left / _WIDTH, bottom / height, width / _WIDTH, high / height))
    figure.legend(handles, labels, loc="upper center", ncols=columns, fontsize=8, frameon=False, labelspacing=0.3)


def _cells(contest: Contest) -> dict[str, list[Cell]]:
    """Return the cells that have a test score, by value of the compared key."""
    groups: dict[str, list[Cell]] = {name: [] for name in numbers(contest.results, contest.key)}
    for cell in cells(contest.results):
        if repeats(cell):
            groups[value_text(cell.choices.get(contest.key))].append(cell)
    return {name: group for name, group in groups.items() if group}


def _cost(axes: Axes, contest: Contest) -> bool:
    styles, groups = numbers(contest.results, contest.key), _cells(contest)
    costs = [cell.mean(SECONDS) for group in groups.values() for cell in group]
    models = numbers(contest.results, "model")
    several = len(models) > 1 and contest.key != "model"
    for name, group in groups.items():
        for model in models if several else [None]:  # colours for the compared values, markers for backbones
            own = [cell for cell in group if model in (None, value_text(cell.choices.get("model")))]
            look = _look(styles[name]) | {"linestyle": "none"}
            if model is not None:
                look["marker"] = _MARKERS[models[model] % len(_MARKERS)]
            label = name if model is None else f"{name}, {model}"
            if own:
                _bars(axes, contest.by, [cell.mean(SECONDS) for cell in own], own, label=label, **look)
    axes.set_xlabel("training time (s)")
    if costs and 0 < 5 * min(costs) < max(costs):
        _log(axes)
    return bool(costs)


def _response(axes: Axes, contest: Contest) -> bool:
    styles, lines = numbers(contest.results, contest.key), dict[str, dict[float, Cell]]()
    for name, group in _cells(contest).items():
        best = lines.setdefault(name, {})
        for cell in sorted(group, key=lambda cell: is_trial(cell.choices)):  # best first, trials after fresh seeds
            if isinstance(lr := cell.choices.get("lr"), float):
                best.setdefault(lr, cell)
    lines = {name: best for name, best in lines.items() if best}  # a solved head has no lr
    rates = sorted({rate for best in lines.values() for rate in best})
    for number, (name, best) in enumerate(lines.items()):
        beside = _beside(sorted(best), rates, number - (len(lines) - 1) / 2)
        drawn = [best[rate] for rate in sorted(best)]
        look = _look(styles[name]) | (_SCATTERED if any(is_trial(cell.choices) for cell in drawn) else {})
        _bars(axes, contest.by, beside, drawn, label=name, **look)
    axes.set_xlabel("learning rate")
    if rates and rates[-1] < 100 * rates[0]:
        _log(axes)
    elif rates:
        axes.set_xscale("log")
    return len(rates) > 1


def _beside(xs: Sequence[float], every: Sequence[float], place: float) -> list[float]:
    """Return positions on a logarithmic axis from the first to the last of `every`, shifted so that no intervals meet.

    `place` is that of the line among all, 0 in the middle.
    """
    step = (every[-1] / every[0]) ** (0.012 * place)
    return [x * step for x in xs]


def _sizes(axes: Axes, sizes: TrainSizes) -> bool:
    by, key, every = sizes.contests[0].by, sizes.contests[0].key, [images(contest) for contest in sizes.contests]
    styles = numbers([result for contest in sizes.contests for result in contest.results], key)
    lines: dict[str, list[tuple[int, Contender]]] = {}
    for size, contest in zip(every, sizes.contests, strict=True):
        for one in contest.contenders:
            lines.setdefault(value_text(one.value), []).append((size, one))
    for number, (name, line) in enumerate(lines.items()):
        beside = _beside([size for size, _ in line], every, number - (len(lines) - 1) / 2)
        scores = [(one.cell.mean(by.test), one.interval) for _, one in line]
        _errorbar(axes, by, beside, scores, label=name, **_look(styles[name]))
    axes.set_xlabel("training images")
    axes.set_ylabel(_score_label("test", by))
    axes.set_xscale("log")
    axes.set_xticks(every, [f"{size:,}" for size in every])
    axes.minorticks_off()
    return True


def _bars(axes: Axes, by: Metric, xs: Sequence[float], group: Sequence[Cell], **look: Any) -> None:
    """Draw the cells with their 95% intervals; a trial of a search has none."""
    within = [None if is_trial(cell.choices) else validation_interval(cell) for cell in group]
    _errorbar(axes, by, xs, [(cell.mean(by.val), one) for cell, one in zip(group, within, strict=True)], **look)
    axes.set_ylabel(_score_label("validation", by))


def _errorbar(
    axes: Axes, by: Metric, xs: Sequence[float], scores: Sequence[tuple[float, Interval | None]], **look: Any
) -> None:
    # At 0% and 100% the mean is an end of the interval, up to rounding.
    down = [max(0.0, mean - one.low) if one else math.nan for mean, one in scores]
    up = [max(0.0, one.high - mean) if one else math.nan for mean, one in scores]
    axes.errorbar(xs, [mean for mean, _ in scores], yerr=[down, up], capsize=2, elinewidth=0.8, **look)
    if by.share:
        axes.yaxis.set_major_formatter(_percent)


def _score_label(split: str, by: Metric) -> str:
    return f"{split} {by.words}{' (%)' if by.share else ''}, 95% interval"


def _percent(value: float, _: object) -> str:
    return f"{100 * value:g}"


def _log(axes: Axes) -> None:
    """Make the x axis logarithmic, with plain numbers at 1, 2 and 5 of each decade."""
    from matplotlib.ticker import LogLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")


def _curves(axes: Axes, contest: Contest) -> bool:
    styles, drawn = numbers(contest.results, contest.key), False
    for one in contest.contenders:
        lines = journal.epochs(Path(one.cell.finished[0].folder))
        look = _look(styles[value_text(one.value)]) | {"markersize": 4}
        epochs = [line["epoch"] for line in lines]
        for split, width in (("val", 1.6), ("train", 0.8)):
            accuracy = [line.get(f"{split}/accuracy", math.nan) for line in lines]
            axes.plot(epochs, accuracy, label=f"{one.name}, {split}", linewidth=width, alpha=width / 1.6, **look)
        drawn = drawn or bool(lines)
    axes.locator_params(axis="x", integer=True)
    axes.yaxis.set_major_formatter(_percent)
    axes.set_xlabel("epoch")
    axes.set_ylabel("accuracy (%)")
    return drawn


def _look(style: int) -> dict[str, Any]:
    kind = style % len(COLOURS)
    return {"color": COLOURS[kind], "marker": _MARKERS[kind], "linestyle": _LINES[kind]}

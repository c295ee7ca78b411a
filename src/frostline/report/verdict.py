"""The verdict of a sweep in plain sentences: which freeze mode wins, how surely, at what cost, and what to try next."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from frostline.core.metrics import ACCURACY
from frostline.records.result import GROUPS, SHARED, WITHOUT, Result, choices_text, listed, number_of, value_text
from frostline.records.trial_tags import is_diverged_trial
from frostline.report import backbones, search_words
from frostline.report.baseline import Baseline
from frostline.report.cells import Cell, varying
from frostline.report.contest import PLAIN, Contender, Contest, capital, contests
from frostline.report.difference_words import NAMES, beaten, comparison, digits_of, gap_text, within_text
from frostline.report.next_lrs import edges
from frostline.report.next_step import next_step, once_more, rival
from frostline.report.studies import short_text
from frostline.report.train_sizes import train_sizes


def answer(results: Sequence[Result]) -> str:
    """Return the verdicts as plain sentences, one per data set, then the outcomes by size of train.

    Commands stand between backticks.
    """
    if all(result.status == "PLANNED" for result in results):
        return (
            f"Nothing was trained: this is a plan of {number_of(len(results), 'run')}{search_words.planned(results)}."
        )
    found = contests(results)
    each = [f"With {one.where}: {verdict(one)}" if one.where else verdict(one) for one in found]
    return " ".join([*each, *(sizes.sentence for sizes in train_sizes(found))])


def verdict(contest: Contest) -> str:
    """Return the outcome of a contest in plain sentences, and what it takes to know more."""
    key, found, results = contest.key, contest.contenders, contest.results
    if not found and any(run.status == "FINISHED" for run in results):
        return f"No answer: {contest.by.words} is not defined on the test split."
    if not found:
        return f"No answer: none of {number_of(len(results), 'run')} finished."
    tuned = [name for name in varying(results) if name not in ("seed", "select", key) and not name.startswith("data")]
    of_search, untested = search_words.sentences(contest, digits_of(found[0].cell)), _untested(contest.baseline)
    if contest.difference is None:
        lead = [_majority(contest), *next_step(contest, tuned)] if contest.lead else []
        return " ".join([*lead, _alone(key, found[0], results, tuned), *_by_chance(contest), *of_search, *untested])
    first = _majority(contest) if contest.lead else comparison(contest, contest.difference)
    coming, is_search = _coming(results), search_words.is_search(results)
    best = (found, tuned, short_text) if is_search else (found[:2], tuned, value_text)
    parts = [
        f"So far, with {_to_come(results)}: {_small(first)}" if coming else first,
        *_by_chance(contest),
        *([] if coming else next_step(contest, tuned)),
        *beaten(contest),
        *_without_shared(found[:2]),
        *([] if contest.lead else _best_settings(*best)),
        *backbones.sentences(contest, digits_of(found[0].cell)),
        *of_search,
        *([] if coming or is_search else edges(key, found[:2], results, tuned)),
        *([] if is_search else _budget(found)),
        *_unfinished(key, found, results),
        *untested,
    ]
    return " ".join(parts)


def _majority(contest: Contest) -> str:
    """Return the sentence on a contest in which no contender surely beats the largest class."""
    assert contest.baseline and contest.lead
    first, digits = contest.contenders[0], digits_of(contest.contenders[0].cell)
    share, score = (contest.by.text(value, digits) for value in (contest.baseline.share, contest.lead.scores[0]))
    return (
        f"No result surely beats always naming the largest class: {contest.baseline.name} is {share} of the test "
        f"split, and {first.name} reaches {score} {gap_text(contest.lead, contest.by, digits)}."
    )


def _by_chance(contest: Contest) -> list[str]:
    """Return the warning that no contender surely beats the largest class in a metric other than accuracy.

    Intervals are those of the contenders' own scores, and the score of the largest class counts as known.
    """
    value = contest.baseline.value(contest.by) if contest.baseline and contest.by != ACCURACY else math.nan
    within = [one.interval for one in contest.contenders]
    if math.isnan(value) or not all(one and one.low <= value for one in within):
        return []
    assert contest.baseline
    score = f"{contest.by.text(value, digits_of(contest.contenders[0].cell))} {contest.by.words}"
    return [f"No result surely beats always naming the largest class, {contest.baseline.name} ({score})."]


def _untested(baseline: Baseline | None) -> list[str]:
    """Return the warning that the accuracies say nothing about some classes, which have no test image."""
    names = baseline.untested if baseline else ()
    more = f" and {len(names) - NAMES:,} more" if len(names) > NAMES else ""
    return [f"Not tested, for lack of test images: {', '.join(names[:NAMES])}{more}."] if names else []


def _without_shared(found: Sequence[Contender]) -> list[str]:
    """Return the sentence on accuracy without the test images that are also in train; empty if there are none."""
    if not (count := found[0].cell.mean(SHARED)) > 0:
        return []
    digits = digits_of(found[0].cell)
    scores = [100 * one.cell.mean(WITHOUT) for one in found]
    if not all(score == score for score in scores):  # nan where no other image is left
        return ["Every test image is also in train: this says nothing about new images."]
    each = " against ".join(f"{score:.{digits}f}%" for score in scores)
    what = "it is" if found[0].cell.by == ACCURACY else "accuracy is"
    shared = "test image that is" if count == 1 else f"{count:,.0f} test images that are"
    return [f"Without the {shared} also in train, {what} {each}."]


def _best_settings(found: Sequence[Contender], tuned: Sequence[str], text: Callable[[object], str]) -> list[str]:
    """Return a sentence per tuned key on its value in the best cells."""
    parts = []
    for name in tuned:
        best = {one.short: text(one.cell.choices[name]) for one in found if name in one.cell.choices}
        if len(best) == len(found) and len(set(best.values())) == 1:
            parts.append(f"{name} {next(iter(best.values()))} is best in {'both' if len(best) == 2 else 'all'}.")
        elif best:
            parts.append(f"The best {name} is {listed([f'{value} for {of}' for of, value in best.items()])}.")
    return parts


def _budget(found: Sequence[Contender]) -> list[str]:
    """Return the warning that a contender had more cells to choose its best from, which favours it.

    Solved heads have no lr to tune, so contenders without an lr are not counted.
    """
    tuned = [one for one in found if "lr" in one.cell.choices]
    if len({one.tried for one in tuned}) < 2:
        return []
    counts = ", ".join(f"{one.short} {one.tried}" for one in tuned)
    return [f"The tuning budgets differ (cells tried: {counts})."]


def _unfinished(key: str, found: Sequence[Contender], results: Sequence[Result]) -> list[str]:
    """Return the sentences on what the answer lacks: values without any finished run, and runs that did not finish."""
    there = {repr(one.value) for one in found} | {repr(r.choices.get(key)) for r in results if r.status == "FINISHED"}
    coming = _coming(results)
    missing = {repr(value): value for run in results if repr(value := run.choices.get(key)) not in there}
    ended = "has finished yet" if any(repr(run.choices.get(key)) in missing for run in coming) else "finished"
    of = "" if key == "freeze_mode" else f"{key}="
    names = " and ".join(f"{of}{value_text(value)}" for value in missing.values())
    parts = [f"No run of {names} {ended}."] if missing else []
    well = ("FINISHED", "RUNNING", "WAITING")
    lost = [run for run in results if run.status not in well and not is_diverged_trial(run)]
    if any(repr(run.choices.get(key)) in there for run in lost):
        parts.append(f"{number_of(len(lost), 'run')} of {len(results):,} did not finish.")
    return parts


def _to_come(results: Sequence[Result]) -> str:
    return f"{number_of(len(_coming(results)), 'run')} of {len(results):,} still to come"


def _coming(results: Sequence[Result]) -> list[Result]:
    return [run for run in results if run.status in ("RUNNING", "WAITING")]


def _alone(key: str, only: Contender, results: Sequence[Result], tuned: Sequence[str]) -> str:
    """Return the sentence on the score of the only contender, and a command that adds one to compare it with."""
    missing = _unfinished(key, [only], results)
    digits, within, count, by = digits_of(only.cell), only.interval, len(only.cell.finished), only.cell.by
    sure = f"{within_text(by, within, digits)}; " if within else ""
    of = "one seed" if count == 1 or not only.cell.depends_on_seed else f"{count} seeds"
    of += _over_groups(only.cell) if of == "one seed" else ""
    how = f"({sure}{of if only.cell.repeat == 'seed' else number_of(count, 'run')})"
    inside = choices_text(only.cell.choices, tuned)
    settings = f" with {inside}" if inside else ""
    name = only.name if missing or _coming(results) else capital(only.name)
    what = "" if by == ACCURACY else f" {by.words}"
    score = f"{name} reached {by.text(only.cell.mean(by.test), digits)}{what} on the test split{settings} {how}"
    if missing or _coming(results):
        then = [f"{_to_come(results)}."] if _coming(results) else once_more(key, only, results)
        return " ".join([f"No comparison: {score}.", *missing, *then])
    aside = "".join(f" {sentence}" for sentence in [*_without_shared([only]), *rival(only)])
    return f"{score}; there was nothing to compare it with.{aside}"


def _over_groups(cell: Cell) -> str:
    """Return the clause on the images and groups behind the interval of one seed; empty unless images have groups."""
    groups, images = round(cell.finished[0].metrics.get(GROUPS, 0)), cell.finished[0].images.get("test", 0)
    where = ", all of one group" if groups == 1 else f" in {groups:,} groups"
    return f", over {number_of(images, 'test image')}{where}" if groups else ""


def _small(sentence: str) -> str:
    """Return a sentence in lower case for use after a colon; a name at its beginning is left as it is."""
    ours = sentence.startswith(("A tie", "No clear", "Undecided", "No result", *map(str.capitalize, PLAIN.values())))
    return sentence[0].lower() + sentence[1:] if ours else sentence

"""Coverage of the confidence intervals of a confirmed best trial."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import fmean

import numpy as np
import pytest

from frostline.records.result import TEST, VAL, Result
from frostline.report.contest import contests
from frostline.report.studies import studies

TRIALS, FRESH = 12, 5
VAL_IMAGES, TEST_IMAGES = 500, 1000
SEARCHES = 1000  # the shares are then known to +-1.4 points; of 6,000 they are 94.8 to 95.2%
MEAN, NOISE = 0.85, 0.018
LRS = np.logspace(-4, -1, TRIALS)


def search_results(
    random: np.random.Generator, mode: str, truths: np.ndarray, easier: Mapping[str, float]
) -> Iterator[Result]:
    """Yield the runs of a search whose settings have these true accuracies, with noise by seed.

    All runs are scored on the same images, which are easier than average by `easier`.
    """

    def run(at: int, seed: int, marks: Mapping[str, int]) -> Result:
        accuracy = random.normal(truths[at], NOISE)
        sizes = ((VAL, VAL_IMAGES), (TEST, TEST_IMAGES))
        metrics = {name: round(float(np.clip(accuracy + easier[name], 0, 1)) * n) / n for name, n in sizes}
        choices = {"freeze_mode": mode, "data": "digits", "lr": float(LRS[at]), "seed": seed, "search": "random"}
        choices |= {"study": mode, "space": {}, **marks}
        images = {"val": VAL_IMAGES, "test": TEST_IMAGES}
        return Result(seed, f"{mode} {at} {seed}", "", None, "FINISHED", None, choices, metrics, images)

    trials = [run(at, 0, {"trial": at}) for at in range(TRIALS)]
    yield from trials
    best = max(range(TRIALS), key=lambda at: trials[at].metrics[VAL])
    yield from (run(best, seed, {"confirms": best}) for seed in range(1, FRESH + 1))


@pytest.mark.slow
def test_confirmed_intervals_cover_the_true_accuracy() -> None:
    random = np.random.default_rng(0)
    covered: dict[str, list[bool]] = {"test": [], "validation": [], "difference": []}
    bias_before, bias_after = list[float](), list[float]()
    for _ in range(SEARCHES):
        truths = {mode: random.normal(MEAN, 0.01, TRIALS) for mode in ("head", "full")}
        sizes = ((VAL, VAL_IMAGES), (TEST, TEST_IMAGES))
        easier = {name: random.binomial(n, MEAN) / n - MEAN for name, n in sizes}
        results = [run for mode in truths for run in search_results(random, mode, truths[mode], easier)]
        (contest,) = contests(results)
        true = {}
        for one in contest.contenders:
            chosen = true[one.value] = truths[one.value][one.cell.choices["confirms"]]
            assert one.interval is not None and len(one.cell.finished) == FRESH
            covered["test"].append(chosen in one.interval)
        for study in studies(results):
            assert study.optimism is not None and study.optimism.interval is not None
            chosen = true[study.name]
            covered["validation"].append(chosen in study.optimism.interval)
            bias_before.append(study.optimism.then - chosen)
            bias_after.append(study.optimism.now - chosen)
        assert contest.difference is not None and contest.difference.interval is not None
        first, second = (true[one.value] for one in contest.contenders)
        covered["difference"].append(first - second in contest.difference.interval)
    for name, one in covered.items():
        assert 0.93 <= fmean(one) <= 0.97, name
    assert fmean(bias_before) > 0.02 and abs(fmean(bias_after)) < 0.001

"""The verdict selects on validation, reports on test, and admits what it does not know."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frostline.results import TEST, VAL, Result, cells, varying
from frostline.verdict import answer


def result(
    job: int, mode: str, val: float, test: float, *, seconds: float = 1.0, status: str = "FINISHED", **choices: Any
) -> Result:
    """Return a faked result on 1,000 test images; one that is not FINISHED has no metrics."""
    metrics = {VAL: val, TEST: test, "cost/train_seconds": seconds} if status == "FINISHED" else {}
    chosen = {"freeze_mode": mode, "data": "digits", "lr": 0.001, "seed": 0} | choices
    return Result(job, f"run {job}", "", None, status, None, chosen, metrics, {"test": 1000})


def test_a_cell_holds_all_seeds_of_one_point_of_the_grid():
    results = [result(seed, "head", 0.9 + seed / 100, 0.8 + seed / 10, seed=seed) for seed in range(2)]
    (cell,) = cells([*results, result(2, "head", 0.0, 0.0, status="FAILED", seed=2)])
    assert "seed" not in cell.choices
    assert len(cell.results) == 3 and len(cell.finished) == 2
    assert cell.mean(TEST) == pytest.approx(0.85)
    assert cell.spread(TEST) == pytest.approx(0.1 / math.sqrt(2))


def test_one_seed_has_no_spread():
    (cell,) = cells([result(0, "head", 0.9, 0.9)])
    assert cell.spread(VAL) is None
    assert math.isnan(cell.mean("cost/peak_memory_bytes"))


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=8), st.randoms())
def test_cells_are_ordered_by_validation_with_failed_ones_last_however_the_results_arrive(runs, random):
    results = [
        result(job, "full", val, 0.5, lr=job, status="FINISHED" if ok else "FAILED")
        for job, (val, ok) in enumerate(runs)
    ]
    ranked = cells(results)
    finished = [bool(cell.finished) for cell in ranked]
    assert finished == sorted(finished, reverse=True)
    scores = [cell.mean(VAL) for cell in ranked if cell.finished]
    assert scores == sorted(scores, reverse=True)
    random.shuffle(results)
    assert cells(results) == ranked


def test_a_diverged_cell_never_ranks_first():
    assert (
        cells([result(0, "full", math.nan, math.nan), result(1, "head", 0.2, 0.2)])[0].choices["freeze_mode"] == "head"
    )


def test_varying_names_what_differs():
    assert varying([result(0, "head", 0, 0, lr=1e-3), result(1, "full", 0, 0, lr=1e-4)]) == ["freeze_mode", "lr"]
    assert varying([result(0, "head", 0, 0)]) == []


def test_the_winner_is_the_one_of_validation_with_gap_lr_and_cost():
    results = [
        result(0, "head", 0.80, 0.80, lr=1e-2, seconds=2),
        result(1, "head", 0.70, 0.99, lr=1e-3, seconds=2),
        result(2, "full", 0.90, 0.91, lr=1e-3, seconds=7),
    ]
    assert answer(results) == (
        "full (lr=0.001) wins by 11.00 points over head (lr=0.01), 91.00% against 80.00% on test; "
        "full took 3.5 times the training time of head."
    )


def test_a_winner_that_is_behind_on_test_is_said_to_be():
    text = answer([result(0, "head", 0.80, 0.95), result(1, "full", 0.90, 0.80)])
    assert text.startswith("full wins on validation, but is 15.00 points behind head on test")


def test_a_gap_that_the_test_split_cannot_resolve_is_not_called_a_win():
    text = answer([result(0, "head", 0.90, 0.95), result(1, "full", 0.91, 0.96)])
    assert "full is 1.00 points ahead of head" in text
    assert "a gap that 1,000 images cannot tell from chance" in text
    assert "wins" not in text


@pytest.mark.parametrize("gap", [0.0, 0.0005, -0.0009])
def test_less_than_one_image_is_a_tie(gap):
    assert "full and head tie on test" in answer([result(0, "full", 0.9, 0.8 + gap), result(1, "head", 0.8, 0.8)])


def test_means_over_seeds_are_compared_and_said_to_be():
    results = [
        result(2 * m + s, mode, 0.9, 0.8 - m / 5 + s / 10, seed=s) for m, mode in enumerate(("a", "b")) for s in (0, 1)
    ]
    assert answer(results).startswith("a (mean of 2 seeds) wins by 20.00 points over b (mean of 2 seeds), 85.00%")


def test_different_data_get_a_sentence_each():
    results = [
        result(job, mode, acc, acc, **{"data.fraction": part})
        for job, (mode, acc, part) in enumerate(
            [("head", 0.8, 0.1), ("full", 0.5, 0.1), ("head", 0.8, 1.0), ("full", 0.9, 1.0)]
        )
    ]
    first, second = answer(results).split(" With ")
    assert first.startswith("With data.fraction=0.1: head wins by 30.00 points over full")
    assert second.startswith("data.fraction=1: full wins by 10.00 points over head")


@pytest.mark.parametrize(
    ("results", "start"),
    [
        ([result(0, "head", 0, 0, status="FAILED")], "No answer: none of 1 run finished."),
        (
            [result(0, "head", 0, 0, status="KILLED"), result(1, "full", 0, 0, status="FAILED")],
            "No answer: none of 2 runs",
        ),
        ([result(0, "head", 0, 0, status="PLANNED")] * 2, "Nothing was trained: a plan of 2 runs."),
        ([], "Nothing was trained: a plan of 0 runs."),
        (
            [result(0, "head", 0.9, 0.8)],
            "No comparison, as only one freeze mode was tried: head reached 80.00% on test.",
        ),
        (
            [result(0, "head", 0.9, 0.8, lr=0.1), result(1, "head", 0.8, 0.9, lr=1.0)],
            "No comparison, as only one freeze mode was tried: head (lr=0.1) reached 80.00% on test, the best of",
        ),
        (
            [result(0, "head", 0.9, 0.8), result(1, "full", 0, 0, status="FAILED")],
            "No comparison, as no run of full finished: head reached 80.00% on test.",
        ),
    ],
)
def test_an_answer_that_cannot_be_given_is_not(results, start):
    assert answer(results).startswith(start)


def test_a_mode_that_never_finished_is_mentioned():
    results = [result(0, "head", 0.9, 0.8), result(1, "full", 0.8, 0.5), result(2, "norm", 0, 0, status="FAILED")]
    assert answer(results).endswith("; no run of norm finished.")


def test_a_result_survives_a_launcher():
    original = result(0, "head", 0.9, 0.8)
    assert pickle.loads(pickle.dumps(original)) == original

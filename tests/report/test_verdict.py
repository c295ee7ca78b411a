"""The verdict: it selects on validation, reports on test, and states its uncertainty."""

from __future__ import annotations

import io
import json
import math
import pickle
import re
import shlex
from dataclasses import replace
from pathlib import Path
from statistics import stdev
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from safetensors.numpy import load_file, save_file
from scipy import stats
from sklearn import metrics as sklearn_metrics

import written_sweeps
from frostline.core import project
from frostline.core.metrics import ACCURACY, AUROC, BALANCED_ACCURACY, LOSS, MACRO_F1, MAP, Metric
from frostline.records import journal, sweep_record
from frostline.records.result import TEST, VAL, VAL_MARGIN, Result
from frostline.report import answer_data, backbones, baseline, next_step, page_data, predictions, statistics
from frostline.report.cell_intervals import repeats as repeats_of
from frostline.report.cell_intervals import standard_error, validation_interval
from frostline.report.cells import cells, metrics, varying
from frostline.report.contest import compared_key, contests
from frostline.report.paired_difference import Difference
from frostline.report.result_tables import cells_table, pairs_table, rows
from frostline.report.terminal import Screen
from frostline.report.verdict import answer

IMPOSSIBLE_COUNTS = [f', "images": {count}' for count in ("-1", "0", "1e999")]
OTHER_COUNTS = (
    '[{"class": "big", "images": 30}, {"class": "small", "images": -1}]',
    '[{"class": "big", "images": 30, "recall": 0.5}]',  # of images that may have several classes
)
MORE_SEEDS = "More seeds may decide it, or show that it takes more test images"


def result(
    job: int, mode: str, val: float, test: float, *, seconds: float = 1.0, status: str = "FINISHED", **choices: Any
) -> Result:
    """Return a faked result on 1,000 test images; one that is not FINISHED has no metrics."""
    metrics = {VAL: val, TEST: test, "cost/train_seconds": seconds} if status == "FINISHED" else {}
    chosen = {"freeze_mode": mode, "data": "digits", "lr": 0.001, "seed": 0} | choices
    return Result(job, f"run {job}", "", None, status, None, chosen, metrics, {"test": 1000})


def test_cell_holds_all_seeds_of_a_grid_point():
    results = [result(seed, "head", 0.9 + seed / 100, 0.8 + seed / 10, seed=seed) for seed in range(2)]
    results[1] = replace(results[1], choices=dict(reversed(results[1].choices.items())))
    (cell,) = cells([*results, result(2, "head", 0.0, 0.0, status="FAILED", seed=2)])
    assert "seed" not in cell.choices
    assert len(cell.results) == 3 and len(cell.finished) == 2
    assert cell.mean(TEST) == pytest.approx(0.85)
    assert cell.spread(TEST) == pytest.approx(0.1 / math.sqrt(2))


def test_only_common_folds_are_compared():
    head = [result(fold, "head", 0.9, 0.8 + fold / 100, **{"data.fold": fold}) for fold in range(3)]
    full = [result(fold, "full", 0.8, 0.7, seconds=9, **{"data.fold": fold}) for fold in range(2, 5)]
    text = answer([*head, *full[1:]])
    assert "Undecided: " in text and "points, no fold in common)" in text and "seed=" not in text
    assert "more images to tell them apart, rather than more folds. Feature extraction (head) is the cheaper." in text
    assert "; fold 2 alone, " in answer([*head, full[0]])
    difference = contests([*head, *(result(fold, "full", 0.8, 0.7, **{"data.fold": fold}) for fold in (1, 2, 3))])[
        0
    ].difference
    assert difference.scores == (pytest.approx(0.815), pytest.approx(0.7)) and difference.seeds == 2
    whole = [
        result(n, mode, 0.9, 0.8, **{"data.folds": "null", "data.fold": 0}) for n, mode in enumerate(("head", "full"))
    ]
    assert "; one seed, " in answer(whole)


def test_perfect_validation_keeps_a_standard_error():
    """Without it, a trial that is one image behind the best would count as worse."""
    (sure,) = [replace(run, images={"val": 144}) for run in [result(0, "head", 1.0, 0.9)]]
    assert standard_error(ACCURACY, [sure]) == pytest.approx(math.sqrt(143 / 144) / 144)
    nearly = replace(sure, metrics=sure.metrics | {VAL: 143 / 144})
    assert standard_error(ACCURACY, [nearly]) == pytest.approx(standard_error(ACCURACY, [sure]))
    never = replace(sure, metrics=sure.metrics | {VAL: 0.0})
    assert standard_error(ACCURACY, [never]) == standard_error(ACCURACY, [sure])


def test_standard_error_of_other_metrics_is_that_of_images():
    runs = [result(seed, "head", 0.9, 0.9, seed=seed) for seed in range(3)]
    assert standard_error(LOSS, runs) is None
    runs = [replace(run, metrics=run.metrics | {VAL_MARGIN: 0.1 * run.job}, images={"val": 144}) for run in runs]
    assert standard_error(LOSS, runs) == pytest.approx(0.1 / 1.959964)
    assert standard_error(LOSS, [runs[0], result(1, "head", 0.9, 0.9)]) is None


def test_one_seed_has_no_spread():
    (cell,) = cells([result(0, "head", 0.9, 0.9)])
    assert cell.spread(VAL) is None
    assert math.isnan(cell.mean("cost/peak_memory_bytes"))


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=8), st.randoms())
def test_cells_are_ordered_by_validation_with_failed_last(runs, random):
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


def test_of_equal_cells_the_one_with_fewer_parameters_is_first():
    runs = [result(job, mode, 0.9, 0.9) for job, mode in enumerate(("full", "lora", "head", "norm"))]
    for run, parameters in zip(runs[1:], (30, 10, 10), strict=True):
        run.metrics["cost/trainable_parameters"] = parameters
    assert [cell.choices["freeze_mode"] for cell in cells(runs[::-1])] == ["head", "norm", "lora", "full"]


def test_diverged_cell_never_ranks_first():
    assert (
        cells([result(0, "full", math.nan, math.nan), result(1, "head", 0.2, 0.2)])[0].choices["freeze_mode"] == "head"
    )


def test_varying_returns_the_keys_that_differ():
    assert varying([result(0, "head", 0, 0, lr=1e-3), result(1, "full", 0, 0, lr=1e-4)]) == ["freeze_mode", "lr"]
    assert varying([result(0, "head", 0, 0)]) == []


def test_name_of_an_option_is_one_key_and_suggested_as_typed():
    results = [
        replace(
            result(job, "head", 0.9, 0.9 - job / 50, **{"model": name, "model.name": name}),
            command=["model=timm", f"model.name={name}"],
        )
        for job, name in enumerate(["tiny_vit", "tiny_resnet"])
    ]
    assert varying(results) == ["model"]
    assert "`python train.py -m model=timm model.name=tiny_vit,tiny_resnet seed=0,1,2,3,4`" in answer(results)


def test_winner_has_gap_lr_cost_and_command():
    results = [
        result(0, "head", 0.80, 0.80, lr=1e-2, seconds=2),
        result(1, "head", 0.70, 0.99, lr=1e-3, seconds=2),
        result(2, "full", 0.90, 0.91, lr=1e-3, seconds=7),
    ]
    assert answer(results) == (
        "Fine-tuning (full) wins: 91.0% against 80.0% for feature extraction (head) on the test split (+11.0 points, "
        "95% interval 7.9 to 14.1; one seed, 1,000 test images each, not paired), for 3.5 times the training time. "
        "The best lr is 0.001 for full and 0.01 for head. The best lr of `head` is the larger of the two tried; larger "
        "may be better still. To try more (what is finished is not run again): "
        "`python train.py -m freeze=full,head lr=0.001,0.01,0.03,0.1`. "
        "The tuning budgets differ (cells tried: full 1, head 2)."
    )


def write_predictions(folder: Path, right: np.ndarray, labels: np.ndarray | None = None, **more: np.ndarray) -> str:
    """Write predictions on images of which `right` are classified correctly, and return the folder.

    All images are of class 0 unless `labels`, of classes 0 and 1, are given. `more` holds `ids` or `groups`.
    """
    folder.mkdir()
    if labels is None:
        labels = np.zeros(len(right), np.int64)
    else:
        write_counts(folder, a=int((labels == 0).sum()), b=int(labels.sum()))
    tensors = {"top_classes": np.where(right, labels, 1 - labels).astype(np.int32)[:, None], "labels": labels}
    tensors |= {"top_log_probabilities": np.zeros((len(right), 1), np.float32), "ids": np.arange(len(right)), **more}
    tensors["label_log_probabilities"] = np.zeros(len(right), np.float32)
    save_file(tensors, folder / "test_predictions.safetensors")
    return str(folder)


def write_counts(folder: Path, **images: int) -> None:
    """Write how many test images each class has."""
    rows = [{"class": name, "images": count} for name, count in images.items()]
    (folder / "per_class.json").write_text(json.dumps(rows))


def test_one_seed_is_compared_image_by_image(tmp_path):
    right = np.ones((2, 1000), bool)
    right[0, :20], right[1, :50] = False, False  # the second errs in 30 more images, the first in no others
    runs = [result(0, "full", 0.9, 0.98), result(1, "head", 0.8, 0.95)]
    runs = [replace(run, folder=write_predictions(tmp_path / str(run.job), right[run.job])) for run in runs]
    text = answer(runs)
    assert "one seed, paired bootstrap over 1,000 test images" in text
    low, high = map(float, re.search(r"95% interval (\S+) to (\S+);", text).groups())
    assert 1.9 <= low <= 2.1 and 3.9 <= high <= 4.2  # binomial: 3.0 +- 1.96 * 0.54
    other = replace(runs[1], folder=write_predictions(tmp_path / "3", right[1], ids=np.arange(1000) + 7))
    assert "1,000 test images each, not paired" in answer([runs[0], other])


def with_groups(run: Result, folder: Path, right: np.ndarray, groups: np.ndarray, **more: np.ndarray) -> Result:
    """Return `run` with predictions on images in groups, of which `right` are classified correctly."""
    worth = statistics.effective_images(right, groups)
    metrics = {"test/groups": float(len(set(groups))), "test/effective_images": worth, "best/val_effective_images": 9.0}
    folder_name = write_predictions(folder, right, groups=groups, **more)
    return replace(run, folder=folder_name, metrics=run.metrics | metrics)


def test_grouped_images_are_compared_group_by_group(tmp_path):
    right, patients = np.ones((2, 1000), bool), np.arange(1000) // 50 * 50
    right[0, :20], right[1, :50] = False, False  # the 30 more errors of the second are of one patient of 20
    runs = [result(0, "full", 0.9, 0.98), result(1, "head", 0.8, 0.95)]
    runs = [with_groups(run, tmp_path / str(run.job), row, patients) for run, row in zip(runs, right, strict=True)]
    within = statistics.paired_jackknife(*right, patients)
    assert answer(runs).startswith(
        "Undecided: fine-tuning (full) 98.0%, feature extraction (head) 95.0% on the test split (+3.0 points, 95% "
        f"interval {100 * within.low:.1f} to {100 * within.high:.1f}; one seed, paired jackknife over 1,000 test "
        "images in 20 groups)"
    )
    worth = runs[0].metrics["test/effective_images"]
    alone = statistics.wilson(0.98 * worth, worth)
    assert (
        f"(95% interval {100 * alone.low:.1f} to {100 * alone.high:.1f}; one seed, over 1,000 test images in 20 groups)"
    ) in answer(runs[:1])
    found = validation_interval(cells(runs[:1])[0])
    assert found == statistics.wilson(0.9 * 9, 9)
    assert standard_error(ACCURACY, runs[:1]) == pytest.approx(0.1)
    moved = [replace(run, folder="") for run in runs]
    assert "one seed, 1,000 test images in 20 groups each, not paired)" in answer(moved)
    one, two = contests(moved)[0].contenders
    unpaired = statistics.unpaired((0.98 * worth, worth), (0.95 * (n := runs[1].metrics["test/effective_images"]), n))
    assert contests(moved)[0].difference.interval == unpaired and one.interval == alone and two.interval.low < 0.9


def test_seeds_on_grouped_images_are_compared_group_by_group(tmp_path):
    runs, patients = [], np.arange(400) // 20 * 20
    wrong = np.random.default_rng(0).random((2, 2, 20)).repeat(20, axis=2) < 0.1
    for job, (mode, seed) in enumerate((mode, seed) for mode in range(2) for seed in range(2)):
        right = ~wrong[mode, seed]
        run = result(job, ("full", "head")[mode], 0.9 - mode / 10, right.mean(), seed=seed)
        runs.append(with_groups(run, tmp_path / str(job), right, patients))
    found = contests(runs)[0].difference
    apart = wrong[1].astype(float) - wrong[0]
    within = statistics.by_influence(found.gap, apart - apart.mean(1, keepdims=True), 1 / 400, patients)
    assert found.over_images == within and found.how.endswith("jackknife over 400 test images in 20 groups")
    for run in runs:
        file = Path(run.folder) / "test_predictions.safetensors"
        save_file(load_file(file) | {"groups": patients * 0}, file)
    found = contests(runs)[0].difference
    assert found.interval is not None and found.how == "2 seeds, paired t-interval"


def test_metric_without_its_predictions_has_no_interval(tmp_path):
    runs = [result(n, mode, 0.9, 0.9, select="val/auroc") for n, mode in enumerate(("full", "head"))]
    for run in runs:
        run.metrics.update({AUROC.val: 0.9 - run.job / 10, AUROC.test: 0.8 - run.job / 2000})
    runs = [replace(run, folder=write_predictions(tmp_path / str(run.job), np.arange(9) > 2)) for run in runs]
    (found,) = contests(runs)
    assert [one.interval for one in (found.difference, *found.contenders)] == [None] * 3
    assert found.outcome == "undecided"  # a gap below one image of 1,000 is a tie of accuracies only


def test_macro_f1_and_baseline_are_compared_group_by_group(tmp_path):
    runs, patients = [], np.arange(400) // 20 * 20
    for job, mode in enumerate(("full", "head")):
        wrong = np.random.default_rng(job).random(20).repeat(20) < 0.1 + 0.05 * job  # by whole patients
        run = result(job, mode, 0.9 - job / 10, 1 - wrong.mean(), select="val/macro_f1")
        run = replace(run, metrics=run.metrics | {"best/val_macro_f1": 0.9})
        labels = (np.arange(400) % 20 < 6).astype(np.int64)
        run = with_groups(run, tmp_path / mode, ~wrong, patients, labels=labels)
        score = predictions.read(run.folder).measured(MACRO_F1)
        runs.append(replace(run, metrics=run.metrics | {"test/macro_f1": score.value}))
    one, two = (predictions.read(run.folder).measured(MACRO_F1) for run in runs)
    found = contests(runs)[0].difference
    assert found.how == "one seed, paired jackknife over 400 test images in 20 groups"
    within = statistics.by_influence(found.gap, one.influence - two.influence, one.least, patients)
    assert found.interval == within and within.high - within.low > 3 * (
        statistics.by_influence(found.gap, one.influence - two.influence, one.least).high - found.gap
    )
    alone = statistics.by_influence(one.value, one.influence, one.least, patients)
    assert contests(runs)[0].contenders[0].interval == statistics.clamped(alone)
    repeats = repeats_of(cells(runs)[0])
    largest = baseline.of(repeats)
    ahead = baseline.lead(repeats, largest)
    right = predictions.read(runs[0].folder).right
    first = predictions.read(runs[0].folder).labels == 0
    assert ahead.interval == statistics.paired_jackknife(right, first, patients)
    assert ahead.how == "paired jackknife over 400 test images in 20 groups"
    several = [repeats[0], replace(repeats[0], seed=1, folders=(runs[1].folder,))]
    apart = np.array([right, predictions.read(runs[1].folder).right], float) - first
    gaps, both = apart.mean(1), baseline.lead(several, largest)
    over_seeds = statistics.t_interval(gaps, statistics.rounding_deviation(400))
    over_images = statistics.by_influence(gaps.mean(), apart - gaps[:, None], 1 / 400, patients)
    within = statistics.added(gaps.mean(), over_seeds, over_images)
    assert (both.interval.low, both.interval.high) == pytest.approx((within.low, within.high))
    assert both.how == "2 seeds, paired t-interval and paired jackknife over 400 test images in 20 groups"
    solved = [replace(repeats[0], seed=seed, depends_on_seed=False) for seed in range(2)]  # one result for both
    assert baseline.lead(solved, largest) == ahead
    for run in runs:
        file = Path(run.folder) / "test_predictions.safetensors"
        save_file(load_file(file) | {"groups": patients * 0}, file)
    assert baseline.lead(several, largest).interval is None  # of one group nothing is known about others


def test_images_of_one_group_are_undecided(tmp_path):
    right, patient = np.arange(2000).reshape(2, 1000) % 1000 >= [[20], [500]], np.zeros(1000, np.int64)
    runs = [result(0, "full", 0.9, 0.98), result(1, "head", 0.8, 0.5)]
    runs = [with_groups(run, tmp_path / str(run.job), row, patient) for run, row in zip(runs, right, strict=True)]
    gap = "(+48.0 points, one seed, paired jackknife over 1,000 test images, all of one group)"
    assert answer(runs).startswith(
        f"Undecided: fine-tuning (full) 98.0%, feature extraction (head) 50.0% on the test split {gap}"
    )
    assert "It takes more than 1 group of test images to tell them apart: data.folds=5" in answer(runs)
    alone = "full) reached 98.0% on the test split (one seed, over 1,000 test images, all of one group)"
    assert alone in answer(runs[:1])
    assert contests([replace(run, folder="") for run in runs])[0].difference.interval is None


def imbalanced(folder: Path, predicted: list[int], job: int = 0, mode: str = "full", **choices: Any) -> Result:
    """Return a result with predictions on 30 test images of `big`, one of `small` and none of `none`."""
    (own := folder / str(job)).mkdir()
    labels = np.array([0] * 30 + [1])
    tensors = {"labels": labels, "ids": np.arange(31), "top_classes": np.array(predicted, np.int32)[:, None]}
    tensors |= {"top_log_probabilities": np.zeros((31, 1), np.float32), "label_log_probabilities": np.zeros(31)}
    save_file(tensors, own / "test_predictions.safetensors")
    write_counts(own, big=30, small=1, none=0)
    right = float(np.mean(labels == predicted))
    return replace(result(job, mode, right, right, **choices), folder=str(own), images={"test": 31})


def test_largest_class_baseline_is_not_beaten(tmp_path):
    always, worse = [0] * 31, [0] * 29 + [1, 0]
    runs = [imbalanced(tmp_path, always), imbalanced(tmp_path, worse, 1, "head")]
    text, missing = answer(runs), "Not tested, for lack of test images: none."
    assert re.fullmatch(
        r"No result surely beats always naming the largest class: big is 96\.8% of the test split, and fine-tuning "
        r"\(full\) reaches "
        r"96\.8% \(\+0\.0 points, 95% interval \S+ to \S+; paired bootstrap over 31 test images\)\. " + missing,
        text,
    )
    assert contests(runs)[0].outcome == "majority"
    alone = answer(runs[:1])
    assert alone.startswith("No result surely beats always naming the largest class: big") and alone.endswith(missing)
    several = [imbalanced(tmp_path, always, 2 + seed, seed=seed) for seed in range(2)]
    assert answer([*several, runs[1]]).startswith(
        "No result surely beats always naming the largest class: big is 96.8%"
    )
    waiting = result(9, "norm", 0, 0, status="WAITING")
    assert answer([*runs, waiting]).startswith("So far, with 1 run of 3 still to come: no result surely beats")
    (tmp_path / "1" / "test_predictions.safetensors").unlink()
    assert answer(runs).startswith("Undecided: ")  # whether the second one beats the largest class is not known


def test_other_metrics_are_not_compared_with_the_share_of_the_largest_class(tmp_path):
    runs = [
        imbalanced(tmp_path, [0] * 31, job, mode, select="val/macro_f1") for job, mode in enumerate(("full", "head"))
    ]
    runs = [replace(run, metrics=run.metrics | {MACRO_F1.val: 0.5, MACRO_F1.test: 0.5}) for run in runs]
    assert contests(runs)[0].lead is None and answer(runs).startswith("A tie: ")


def test_score_of_the_largest_class_is_named_if_no_result_surely_beats_it(tmp_path):
    def scored(job: int, mode: str, predicted: list[int], score: float, by: Metric = BALANCED_ACCURACY) -> Result:
        run = imbalanced(tmp_path, predicted, job, mode, select=by.epoch)
        return replace(run, metrics=run.metrics | {by.val: score, by.test: score})

    warning = "No result surely beats always naming the largest class, big (50.0% balanced accuracy)."
    runs = [scored(job, mode, [0] * 31, 0.5) for job, mode in enumerate(("full", "head"))]
    assert warning in answer(runs) and warning in answer(runs[:1])
    assert contests(runs)[0].outcome == "tie"
    better = scored(2, "norm", [0] * 30 + [1], 1.0)
    assert "always naming" not in answer([*runs, better])
    assert "always naming" not in answer([scored(3, "full", [0] * 31, 0.5, LOSS)])


@pytest.mark.parametrize(
    ("right", "sentence"),
    [
        (
            0.97,
            "has 97% right, hardly more: more epochs, another lr or pretrained weights may help; `select=val/macro_f1",
        ),
        (0.99, "has 99% right, hardly more: "),
        (None, None),
    ],
)
def test_what_was_learned_is_told_if_the_largest_class_is_not_beaten(right, sentence, tmp_path):
    run = imbalanced(tmp_path, [0] * 31)
    run = replace(run, metrics=run.metrics | {"best/epoch": 2.0})
    for epoch, value in ((1, 0.0), (2, right), (3, 0.0)):
        journal.append_epoch(Path(run.folder), {"epoch": epoch, "train/accuracy": value})
    for runs in ([run], [run, imbalanced(tmp_path, [0] * 29 + [1, 0], 1, "head")]):
        text = answer(runs)
        assert text.count("Of its training images it") == bool(sentence) and (sentence or "") in text


@pytest.mark.parametrize(
    ("right", "told"),
    [(0.2, "right, no more: more epochs"), (0.52, "hardly more"), (0.8, None), (0.95, "rather than more epochs")],
)
def test_network_that_only_learned_its_training_images_needs_more_of_them(right, told, tmp_path):
    labels = (np.arange(1000) >= 500).astype(np.int64)
    folder = write_predictions(tmp_path / "0", labels == 0, labels)
    run = replace(result(0, "full", 0.5, 0.5), folder=folder)
    journal.append_epoch(Path(folder), {"epoch": 1, "train/accuracy": right})
    text = answer([replace(run, metrics=run.metrics | {"best/epoch": 1.0})])
    assert text.startswith("No result surely beats always naming the largest class: ")
    assert ("Of its training images" in text) == bool(told) and (told or "") in text and "macro_f1" not in text


@pytest.mark.parametrize(("right", "told"), [(0.52, "another network may help."), (0.95, "more images may help.")])
def test_solved_head_is_not_advised_on_training_steps(right, told, tmp_path):
    labels = (np.arange(1000) >= 500).astype(np.int64)
    folder = write_predictions(tmp_path / "0", labels == 0, labels)
    run = replace(result(0, "knn", 0.5, 0.5), folder=folder, choices={"freeze_mode": "knn", "seed": 0})
    journal.append_epoch(Path(folder), {"epoch": 1, "train/accuracy": right})
    text = answer([replace(run, metrics=run.metrics | {"best/epoch": 1.0})])
    assert told in text and "epochs" not in text and "another lr" not in text


def test_lead_over_the_largest_class_contains_the_spread_of_seeds(tmp_path):
    """Of three seeds, one learned something and two did not, which further seeds may do as well."""
    runs, labels = [], (np.arange(1000) >= 700).astype(np.int64)
    for seed, shown in enumerate((200, 0, 0)):  # images of the smaller class that are found
        folder = write_predictions(tmp_path / str(seed), (labels == 0) | (np.arange(1000) >= 1000 - shown), labels)
        runs.append(replace(result(seed, "full", 0.9, 0.7 + shown / 1000, seed=seed), folder=folder))
    text = answer(runs)
    assert text.startswith(
        "No result surely beats always naming the largest class: a is 70.0% of the test split, and fine-tuning (full) "
        "reaches 76.7% (+6.7 points, 95% interval -22.0 to 35.4; 3 seeds, paired t-interval and paired jackknife over "
        "1,000 test images)."
    )
    assert answer(runs[:1]).startswith("Fine-tuning (full) reached 90.0%")


def test_largest_class_of_folds_counts_all_test_images(tmp_path):
    runs = [imbalanced(tmp_path, [0] * 31, fold, **{"data.fold": fold}) for fold in range(3)]
    whole = repeats_of(cells(runs)[0])
    write_counts(Path(runs[0].folder), big=10, small=21, none=0)
    found = baseline.of(whole)
    assert (found.name, found.label, found.share) == ("big", 0, pytest.approx(70 / 93))
    assert (found.tested, found.untested) == (2, ("none",))
    assert baseline.of([replace(repeat, overlap=None) for repeat in whole]).name == "small"  # seeds have one test split
    (Path(runs[2].folder) / "per_class.json").unlink()
    assert baseline.of(whole) is None


def test_baseline_and_untested_classes_cover_all_folds(tmp_path):
    """A class without test images in one fold alone is tested. The reported share belongs to the reported gap."""
    runs = [imbalanced(tmp_path, [0] * 31, fold, **{"data.folds": 2, "data.fold": fold}) for fold in range(2)]
    write_counts(tmp_path / "1", big=10, small=20, none=1)
    tensors = load_file(tmp_path / "1" / "test_predictions.safetensors")
    tensors |= {"labels": np.array([0] * 10 + [1] * 20 + [2]), "ids": np.arange(31, 62)}
    save_file(tensors, tmp_path / "1" / "test_predictions.safetensors")
    text = answer(runs)
    assert "big is 64.5% of the test split, and fine-tuning (full) reaches 64.5% (+0.0 points" in text
    within = contests(runs)[0].lead.interval  # the network always names that class, too
    assert within.high == -within.low == pytest.approx(stats.norm.ppf(0.975) / 62)
    assert "Not tested" not in text


def fold_runs(folder: Path, mode: str, rights: list[list[float]], sizes: list[int], **choices: Any) -> list[Result]:
    """Return the runs of a mode on folds of these sizes, half of class 1. `rights[fold][seed]` is an accuracy."""
    runs = []
    for fold, (shares, size) in enumerate(zip(rights, sizes, strict=True)):
        for seed, share in enumerate(shares):
            right = np.arange(size) < round(share * size)
            own, ids = folder / f"{mode}{fold}{seed}", np.arange(size) + 1000 * fold
            where = write_predictions(own, right, np.arange(size) % 2, ids=ids)
            at = {"data.fold": fold, "seed": seed, "data.folds": len(sizes)} | choices
            run = result(len(runs), mode, right.mean(), right.mean(), **at)
            runs.append(replace(run, folder=where, images={"train": 300, "val": 100, "test": size}))
    return runs


def test_baseline_metrics_equal_those_of_sklearn():
    labels, guess = np.array([0] * 6 + [1] * 3 + [2]), np.zeros(10, int)
    found = baseline.Baseline("a", 0, 0.6, 3, ())
    assert found.value(ACCURACY) == 0.6 and found.value(AUROC) == 0.5 and math.isnan(found.value(LOSS))
    assert found.value(BALANCED_ACCURACY) == pytest.approx(sklearn_metrics.balanced_accuracy_score(labels, guess))
    assert found.value(MACRO_F1) == pytest.approx(sklearn_metrics.f1_score(labels, guess, average="macro"))
    every = [sklearn_metrics.average_precision_score(labels == kind, np.zeros(10)) for kind in range(3)]
    assert found.value(MAP) == pytest.approx(np.mean(every))


def table_of(runs: list[Result]) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(*rows(runs))
    return console.file.getvalue()


def test_accuracy_over_folds_is_the_same_everywhere(tmp_path):
    """With folds of different sizes and seeds, it is the mean over folds of the mean over seeds."""
    runs = fold_runs(tmp_path, "full", [[0.50, 0.60], [0.40]], [200, 100])
    score = (0.55 + 0.40) / 2
    (cell,), (found,) = cells(runs), contests(runs)
    assert cell.mean(TEST) == pytest.approx(score) == found.lead.scores[0]
    sentence = "largest class: a is 50.0% of the test split, and fine-tuning (full) reaches 47.5% (-2.5 points"
    assert sentence in answer(runs)
    assert table_of(runs).count("47.50% ±") == 2  # val and test
    (contender,) = page_data.collect(runs, [found], page=tmp_path / "r.html", tracker=None)["groups"][0]["contenders"]
    assert contender["accuracy_of_test"] == contender["test"][0] == pytest.approx(score)
    assert contender["over_classes"]["balanced accuracy"] == pytest.approx(score, abs=1e-3)
    of_compare = answer_data.of_results(runs)
    assert of_compare["cells"][0]["mean"][TEST] == pytest.approx(score)
    assert metrics(runs)["full/test_accuracy"] == pytest.approx(score)
    right = [np.array([np.arange(200) < 100, np.arange(200) < 120]).mean(0), np.arange(100) < 40]
    differences = [one * 1.0 - (np.arange(len(one)) % 2 == 0) for one in right]
    error = math.sqrt(sum(one.var() / len(one) for one in differences)) / 2
    half = stats.norm.ppf(0.975) * math.hypot(error, 1 / 300)
    within = found.lead.interval
    assert (within.low, within.high) == pytest.approx((-0.025 - half, -0.025 + half))
    for run in runs[:2]:  # in the other fold, no two images are of one group
        file = Path(run.folder) / "test_predictions.safetensors"
        save_file(load_file(file) | {"groups": np.arange(200) // 4 * 4}, file)
    influence = np.concatenate([(one - one.mean()) * 150 / len(one) for one in differences])
    groups = np.concatenate([np.arange(200) // 4 * 4, np.arange(1000, 1100)])
    within, (found,) = statistics.by_influence(-0.025, influence, 1 / 300, groups), contests(runs)
    assert (found.lead.interval.low, found.lead.interval.high) == pytest.approx((within.low, within.high))
    assert found.lead.how == "paired jackknife over 300 test images in 150 groups"


def test_seeds_of_deterministic_modes_add_no_spread(tmp_path):
    runs = fold_runs(tmp_path, "knn", [[0.90] * 3, [0.80] * 3], [100, 100])
    for run in runs:
        del run.choices["lr"]
    (cell,) = cells(runs)
    assert cell.spread(TEST) == pytest.approx(stdev([0.9, 0.8])) and len(cell.finished) == 6
    over_folds, ends = statistics.t_interval([0.9, 0.8], overlap=100 / 400), contests(runs)[0].contenders[0].interval
    assert (ends.low, ends.high) == (pytest.approx(over_folds.low), 1.0)
    plain = [result(seed, "knn", 0.9, 0.9, seed=seed) for seed in range(3)]
    for run in plain:
        del run.choices["lr"]
    assert "±" not in table_of(plain) and "90.00%" in table_of(plain)


@pytest.mark.parametrize("weights", [None, "null"])
def test_seeds_with_random_weights_are_repeats(weights):
    runs = [result(seed, "probe", 0.5, 0.5 + seed / 10, seed=seed, **{"model.weights": weights}) for seed in range(3)]
    for run in runs:
        del run.choices["lr"]
    (found,) = contests(runs)
    within = statistics.added(0.6, statistics.t_interval([0.5, 0.6, 0.7]), statistics.wilson(600, 1000))
    ends = found.contenders[0].interval
    assert (ends.low, ends.high) == pytest.approx((within.low, within.high)) and "3 seeds)" in answer(runs)
    assert table_of(runs).count("60.00% ±10.00") == 1


def test_single_common_fold_is_compared_over_seeds(tmp_path):
    runs = [
        *fold_runs(tmp_path, "full", [[0.9, 0.7]], [100]),
        *fold_runs(tmp_path, "head", [[0.6, 0.6]], [100]),
    ]
    (found,) = contests([replace(run, metrics=run.metrics | {VAL: 0.9}) for run in runs])
    assert found.difference.gap == pytest.approx(0.2)
    assert found.difference.how == "fold 0 alone, paired jackknife over 100 test images"
    differences = (np.arange(100) < 90) / 2 + (np.arange(100) < 70) / 2 - (np.arange(100) < 60)
    half = stats.norm.ppf(0.975) * math.hypot(differences.std() / 10, 1 / 100)
    assert found.difference.interval.high - 0.2 == pytest.approx(half)


def test_folds_overlap_in_all_images_except_test(tmp_path):
    """Validation images count too, because they choose the epoch and are training images in the other folds."""
    runs = [
        *fold_runs(tmp_path, "full", [[0.9], [0.8], [0.9]], [100] * 3),
        *fold_runs(tmp_path, "head", [[0.7], [0.7], [0.5]], [100] * 3),
    ]
    found = contests(runs)[0].difference
    assert found.gap == pytest.approx(0.7 / 3) and (found.folds, found.paired, found.seeds) == (True, True, 3)
    within = statistics.t_interval([0.2, 0.1, 0.4], overlap=100 / 400)
    assert (found.interval.low, found.interval.high) == pytest.approx((within.low, within.high))
    ends, alone = contests(runs)[0].contenders[0].interval, statistics.t_interval([0.9, 0.8, 0.9], overlap=100 / 400)
    assert (ends.low, ends.high) == (pytest.approx(alone.low), 1.0)


def test_results_above_the_baseline_are_compared(tmp_path):
    runs = []
    for job, mode in enumerate(("full", "head")):
        folder = write_predictions(tmp_path / mode, np.arange(1000) >= 20 + 60 * job, np.arange(1000) % 2)
        score = 0.98 - 0.06 * job
        runs.append(replace(result(job, mode, score, score), folder=folder))
    assert answer(runs).startswith("Fine-tuning (full) wins: 98.0% against 92.0%")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 10**5,
        "{}",
        "[]",
        "[1]",
        *OTHER_COUNTS,
        *(f'[{{"class": "a"{more}}}]' for more in ("", *IMPOSSIBLE_COUNTS)),
    ],
)
def test_malformed_class_counts_are_ignored(tmp_path, text):
    runs = [imbalanced(tmp_path, [0] * 31), imbalanced(tmp_path, [0] * 31, 1, "head")]
    (tmp_path / "0" / "per_class.json").write_text(text)
    assert answer(runs).startswith("A tie: ")


def test_validation_winner_behind_on_test_is_no_clear_winner():
    text = answer([result(0, "head", 0.80, 0.95), result(1, "full", 0.91, 0.80)])
    assert text.startswith(
        "No clear winner: fine-tuning (full) is best on validation, yet behind feature extraction (head) on the test "
        "split, 80.0% against 95.0% (-15.0 points"
    )
    assert "wins" not in text and f"{MORE_SEEDS}: `python train.py -m freeze=full,head seed=0,1,2,3,4`" in text


@pytest.mark.parametrize(("val", "sure"), [(1000, True), (20, False)])
def test_contradicting_splits_need_no_more_seeds(val, sure):
    runs = [result(0, "head", 0.80, 0.95), result(1, "full", 0.95, 0.80)]
    text = answer([replace(run, images=run.images | {"val": val}) for run in runs])
    assert text.startswith("No clear winner: ") and ("seed=" in text) != sure
    assert (
        "Each split is sure of its order, so the splits differ by more than chance: check how they were made." in text
    ) == sure


def test_other_metrics_do_not_know_whether_validation_is_sure():
    """Their validation intervals are over seeds alone, and what the same images show is no evidence about others."""
    runs = []
    for mode, val, test in (("head", 0.8, 0.9), ("full", 0.9, 0.8)):
        for seed in range(3):
            run = result(len(runs), mode, val, test, seed=seed, select="val/auroc")
            runs.append(replace(run, metrics=run.metrics | {AUROC.val: val, AUROC.test: test + seed / 1e4}))
    text = answer(runs)
    assert text.startswith("No clear winner: ") and "Each split is sure" not in text and "To decide it" in text


def test_unresolved_gap_is_undecided_and_asks_for_seeds():
    text = answer([result(0, "head", 0.90, 0.95), result(1, "full", 0.91, 0.96)])
    assert text.startswith("Undecided: fine-tuning (full) 96.0%, feature extraction (head) 95.0%")
    assert text.endswith(f"{MORE_SEEDS}: `python train.py -m freeze=full,head seed=0,1,2,3,4`.")
    assert "wins" not in text


@pytest.mark.parametrize("gap", [0.0, 0.0005, -0.0009])
def test_gap_below_one_image_is_a_tie(gap):
    text = answer([result(0, "full", 0.9, 0.8 + gap, seconds=9), result(1, "head", 0.8, 0.8)])
    assert text.startswith("A tie: ")
    assert "Feature extraction (head) is the cheaper." in text and "To decide" not in text
    several = [*seed_runs("full", [0.81 + gap, 0.79 + gap]), *seed_runs("head", [0.8, 0.8], val=0.8)]
    assert answer(several).startswith("A tie: ")  # all seeds have the same images


def test_small_sure_gap_over_folds_is_a_win():
    folds = [[{"data.fold": fold} for fold in range(20)]] * 2
    runs = [
        replace(
            result(20 * m + f, mode, 0.9 - m / 10, 0.9 - 0.009 * m * (f > 1), **fold),
            images={"test": 100, "train": 1900},
        )
        for m, mode in enumerate(("head", "full"))
        for f, fold in enumerate(folds[m])
    ]
    text = answer(runs)
    assert text.startswith("Feature extraction (head) wins: 90.0% against 89.2%") and "20 folds" in text


def seed_runs(mode: str, accuracies: list[float], first: int = 0, val: float = 0.9, **more: Any) -> list[Result]:
    return [result(first + s, mode, val, a, seed=first + s, **more) for s, a in enumerate(accuracies)]


def test_common_seeds_use_a_paired_t_interval():
    text = answer([*seed_runs("a", [0.80, 0.90, 0.85]), *seed_runs("b", [0.75, 0.86, 0.80], val=0.8)])
    half = 4.302653 * stdev([0.05, 0.04, 0.05]) / math.sqrt(3)  # Student's t for two degrees of freedom
    low, high = 100 * (0.14 / 3 - half), 100 * (0.14 / 3 + half)
    assert text.startswith(
        f"a wins: 85.0% against 80.3% for b on the test split (+4.7 points, 95% interval {low:.1f} to {high:.1f}; "
        "3 seeds, paired t-interval)"
    )


def test_common_seeds_are_paired_in_whatever_order_they_ran():
    one, two = seed_runs("a", [0.80, 0.90, 0.85]), seed_runs("b", [0.75, 0.86, 0.80], val=0.8)
    found = contests([*one, *(replace(run, job=-run.job) for run in two)])[0].difference
    assert found.interval == contests([*one, *two])[0].difference.interval and found.paired


def test_rival_of_full_is_head():
    assert answer([result(0, "full", 0.9, 0.8)]).endswith("Try: `python train.py -m freeze=full,head`.")


def test_suggested_rival_uses_the_same_seeds():
    assert answer(seed_runs("head", [0.8, 0.9], first=3)).endswith(
        "Try: `python train.py -m freeze=head,full seed=3,4`."
    )


def test_seeds_of_deterministic_modes_count_as_one(tmp_path):
    right = np.ones((2, 16), bool)
    right[0, :2] = False
    runs = [
        result(5 * m + s, mode, 0.9 - m / 10, right[m].mean(), seed=s, seconds=9 - 8 * m)
        for m, mode in enumerate("ab")
        for s in range(5)
    ]
    folders = {mode: write_predictions(tmp_path / mode, row) for mode, row in zip("ab", right, strict=True)}
    for run in runs:
        del run.choices["lr"]
    runs = [replace(run, folder=folders[run.choices["freeze_mode"]], images={"test": 16, "val": 16}) for run in runs]
    text = answer(runs)
    assert text.startswith("Undecided: a 87.5%, b 100.0%") and "one seed, paired bootstrap over 16 test images" in text
    assert "would not tell them apart, since neither depends on the seed. b is the cheaper." in text
    assert "seed=" not in text
    trained = replace(runs[5], choices=runs[5].choices | {"lr": 0.1})
    assert f"{MORE_SEEDS}: `python train.py -m freeze=a,b seed=0,1,2,3,4`." in answer([runs[0], trained])
    worse = replace(trained, choices=trained.choices | {"lr": 0.2}, metrics=trained.metrics | {VAL: 0.1})
    assert f"{MORE_SEEDS}: `python train.py -m freeze=a,b lr=0.1 seed=0,1,2,3,4`." in answer([runs[0], trained, worse])
    assert "5 seeds, paired t-interval" in answer(
        [*runs[:5], *(replace(run, choices=run.choices | {"lr": 0.1}) for run in runs[5:])]
    )
    assert "95% interval 64.0 to 96.5; one seed)" in answer(runs[:5])  # Wilson's
    assert validation_interval(cells(runs)[0]) == validation_interval(cells(runs[:1])[0])


def test_undefined_test_metric_gives_no_answer():
    """AUROC is nan on a test split of one class, and nan must not be compared."""
    runs = [result(n, m, 0.9, 0.9, seed=s, select="val/auroc") for n, m in enumerate("ab") for s in range(3)]
    runs = [replace(run, metrics=run.metrics | {AUROC.val: 0.9, AUROC.test: math.nan}) for run in runs]
    assert answer(runs) == "No answer: AUROC is not defined on the test split."
    known = [replace(run, metrics=run.metrics | {AUROC.test: 0.8 + run.choices["seed"] / 100}) for run in runs[:3]]
    assert answer([*known, *runs[3:]]).startswith("a reached 0.810 AUROC")
    by_augment = [
        replace(run, choices={**run.choices, "freeze_mode": "full", "augment": run.choices["freeze_mode"]})
        for run in (*known, *runs[3:])
    ]
    assert contests(by_augment)[0].key == "augment"
    assert answer(by_augment).endswith("Try: `python train.py -m freeze=full,head seed=0,1,2`.")


def test_lead_over_the_second_alone_is_not_a_win():
    """An equally good mode may be third on validation by chance, so a winner must beat all of them."""
    runs = [result(0, "full", 0.95, 0.95), result(1, "head", 0.94, 0.90), result(2, "lora", 0.93, 0.955)]
    runs.append(result(3, "norm", 0.92, 0.89))
    (found,) = contests(runs)
    assert found.outcome == "ahead" and [one.value for one, _ in found.unbeaten] == ["lora"]
    text, against = answer(runs), statistics.unpaired((950, 1000), (955, 1000))
    assert text.startswith("Fine-tuning (full) is ahead of feature extraction (head), not surely of all: 95.0% against")
    within = f"95% interval {100 * against.low:.1f} to {100 * against.high:.1f}"
    assert (
        f". The difference is -0.5 points ({within}) against lora. {MORE_SEEDS}: `python train.py -m freeze=full,lora "
        in text
    )
    assert answer_data.of_results(runs)["contests"][0]["unbeaten"][0]["value"] == "lora"
    second = replace(runs[2], metrics=runs[2].metrics | {VAL: 0.945})
    third = replace(runs[2], choices=runs[2].choices | {"freeze_mode": "norm"})
    undecided = "Undecided: fine-tuning (full) 95.0%, lora 95.5% on the test split"
    assert answer([runs[0], second, third]).startswith(undecided)
    won = answer([runs[0], runs[1], runs[3]])
    assert won.startswith("Fine-tuning (full) wins: 95.0% against 90.0% for feature extraction (head)")
    many = [*runs[:3], *(replace(runs[2], job=n, choices=runs[2].choices | {"freeze_mode": f"m{n}"}) for n in range(9))]
    assert " against lora and 7 more in the report." in answer(many)


def test_sure_lead_over_others_is_said_where_the_first_two_are_undecided():
    """Whether to freeze may be decided although the two best frozen modes cannot be told apart."""
    probe, head = result(0, "probe", 0.95, 0.95), result(1, "head", 0.94, 0.945)
    behind = [result(2 + n, mode, 0.9 - n / 10, 0.9 - n / 10) for n, mode in enumerate(("full", "lora"))]
    near = result(9, "norm", 0.93, 0.94)
    text, against = answer([probe, head, near, behind[0]]), statistics.unpaired((950, 1000), (900, 1000))
    within = f"95% interval {100 * against.low:.1f} to {100 * against.high:.1f}"
    assert text.startswith("Undecided: probe 95.0%, feature extraction (head) 94.5%")
    assert f" probe has a sure lead of +5.0 points ({within}) over fine-tuning (full)." in text and "norm" not in text
    assert "probe has a sure lead, taken one at a time, of +5.0 points" in answer([probe, head, *behind])
    (found,) = answer_data.of_results([probe, head, near, behind[0]])["contests"]
    assert [[one["value"] for one in found[name]] for name in ("beaten", "unbeaten")] == [["full"], ["norm"]]
    assert "sure lead" not in answer([probe, behind[0], behind[1]]) + answer([probe, head, near])


def test_interval_adds_seeds_and_shared_test_images(tmp_path):
    """Five seeds with nearly the same errors differ little, but say little about other test images."""
    random, runs = np.random.default_rng(0), []
    for job, (mode, wrong, seed) in enumerate((m, w, s) for m, w in (("full", 8), ("head", 12)) for s in range(5)):
        right = ~np.isin(np.arange(200), random.choice(13, wrong, replace=False) + 60 * (mode == "head"))
        run = result(job, mode, 0.96 - (mode == "head") / 10, right.mean(), seed=seed, seconds=wrong)
        run = replace(run, folder=write_predictions(tmp_path / str(job), right), images={"test": 200})
        runs.append(run)
    (found,) = contests(runs)
    difference, text = found.difference, answer(runs)
    over_seeds, over_images = difference.over_seeds, difference.over_images
    assert 0 in difference.interval and 0 in over_images and 0 not in over_seeds
    assert difference.interval == statistics.added(difference.gap, over_seeds, over_images)
    how = "; 5 seeds, paired t-interval and paired jackknife over 200 test images)"
    assert text.startswith("Undecided: ") and how in text
    more = "It takes more test images to tell them apart, rather than more seeds. Fine-tuning (full) is the cheaper."
    assert more in text and "seed=" not in text
    of_groups = answer([replace(run, metrics=run.metrics | {"test/groups": 20.0}) for run in runs])
    assert "It takes test images of more groups to tell them apart, rather than more seeds." in of_groups
    expected = statistics.t_interval([0.96] * 5, statistics.rounding_deviation(200))
    assert found.contenders[0].interval == statistics.added(0.96, expected, statistics.wilson(192, 200))
    (on_these,) = contests([replace(run, folder="") for run in runs])
    assert on_these.difference.how == "5 seeds, paired t-interval" and on_these.outcome == "win"


@pytest.mark.parametrize("main", [0.0, 0.2])
def test_interval_over_seeds_and_images_has_95_percent_coverage(main):
    """Two modes are equally good, on different images. Seeds differ by image or in mean accuracy (`main`)."""
    random, covered, alone = np.random.default_rng(0), [], []
    for _ in range(400):
        hard, own = random.normal(size=(3, 200)) * np.sqrt([[0.6], [0.2], [0.2]]), random.normal(size=(2, 8, 200))
        latent = hard[0] + hard[1:, None] + own * np.sqrt(0.2) + random.normal(size=(2, 8, 1)) * main
        differences = np.subtract(*(latent < 1.3).astype(float))
        gaps = differences.mean(1)
        over_seeds = statistics.t_interval(gaps, statistics.rounding_deviation(200))
        images = statistics.by_influence(gaps.mean(), differences - gaps[:, None], 1 / 200)
        covered.append(0 in statistics.added(gaps.mean(), over_seeds, images))
        alone.append(0 in over_seeds)
    assert 0.94 <= np.mean(covered) <= 0.99 and np.mean(alone) < (0.94 if main else 0.8)


def test_different_seeds_use_welch_and_estimate_more_seeds():
    one, two = [0.78, 0.92, 0.85], [0.76, 0.87, 0.82]
    text = answer([*seed_runs("a", one, seconds=9), *seed_runs("b", two, first=5, val=0.8)])
    assert text.startswith("Undecided: ") and "3 and 3 seeds, Welch's t-interval" in text
    error = math.hypot(stdev(one), stdev(two))  # of a difference of single seeds; t is 2.00 with 58 to 64 degrees
    estimate = int(re.search(r"about (\d+) seeds to tell them apart\. b is the cheaper\.", text)[1])
    assert estimate == pytest.approx((2.0 * error / (0.1 / 3)) ** 2, rel=0.1)


def test_seed_estimate_uses_the_quantile_of_its_count():
    text = answer([*seed_runs("a", [0.930, 0.960]), *seed_runs("b", [0.930, 0.940], val=0.8)])  # 1.0 +- 1.4 points
    assert "interval -11.7 to 13.7; 2 seeds" in text
    assert "To decide it: `python train.py -m freeze=a,b seed=0,1,2,3,4,5,6,7,8,9,10`." in text  # t(10) 2.228


@pytest.mark.parametrize(
    ("gap", "ends", "over_seeds", "over_images", "seeds", "needed"),
    [
        (-0.10, (-0.15, -0.05), None, None, 2, 5),  # sure on the test split, unlike on validation
        (-0.10, (-0.15, -0.05), None, None, 4, 8),
        (0.05, (-0.16, 0.26), (-0.15, 0.25), (0.02, 0.08), 3, 19),  # root(0.05^2 - 0.03^2) is 0.04
        (-0.04, (-0.24, 0.16), None, None, 3, 19),
    ],
)
def test_suggested_seeds_leave_out_the_error_of_images(gap, ends, over_seeds, over_images, seeds, needed):
    within, of_seeds, of_images = (pair and statistics.Interval(*pair) for pair in (ends, over_seeds, over_images))
    found = Difference(gap, (0.5, 0.5), within, "", seeds, True, over_seeds=of_seeds, over_images=of_images)
    (contest,) = contests([result(0, "head", 0.90, 0.95), result(1, "full", 0.91, 0.96)])
    command = f"`python train.py -m freeze=full,head lr=0.001 seed={','.join(map(str, range(needed)))}`."
    assert next_step.next_step(replace(contest, difference=found), ("lr",)) == [f"To decide it: {command}"]


def test_interval_is_clamped_to_100_points():
    text = answer([*seed_runs("a", [0.5, 0.9]), *seed_runs("b", [0.6, 0.4], val=0.8)])
    assert "95% interval -100.0 to 100.0; 2 seeds" in text


def test_single_seed_is_compared_with_one_seed():
    text = answer([*seed_runs("a", [0.96]), *seed_runs("b", [0.90, 0.80, 0.70], val=0.8)])
    assert "96.0% against 90.0% for b on the test split (+6.0 points" in text
    assert "; seed 0 alone, 1,000 test images each, not paired)" in text
    text = answer([*seed_runs("a", [0.96], first=3), *seed_runs("b", [0.90, 0.80, 0.70], val=0.8)])
    assert "; seed 3 against seed 0, " in text
    text = answer([*seed_runs("a", [0.96], first=2), *seed_runs("b", [0.90, 0.80, 0.70], val=0.8)])
    assert "96.0% against 70.0% for b on the test split" in text and "; seed 2 alone, " in text


@pytest.mark.parametrize(
    ("first", "second", "cost"),
    [(9.0, 1.0, "; full takes 9.0 times the training time."), (1.0, 9.0, "; full trains 9.0 times as fast.")],
)
def test_tie_names_the_slower_or_faster_mode(first, second, cost):
    runs = [result(0, "full", 0.9, 0.80, seconds=first), result(1, "norm", 0.8, 0.80, seconds=second)]
    assert cost.replace("full", "fine-tuning (full)") in answer(runs)


@pytest.mark.parametrize(("first", "second", "alike"), [(0.1, 0.15, True), (0.3, 0.1, True), (0.1, 0.9, False)])
def test_small_time_differences_count_as_equal(first, second, alike):
    for test in (0.9, 0.70):
        runs = [result(0, "full", 0.9, test, seconds=first), result(1, "norm", 0.8, 0.70, seconds=second)]
        text = answer(runs)
        assert (", for about the same training time" in text) == alike == ("times" not in text)
        assert not (alike and "is the cheaper" in text)


def test_missing_rival_suggests_a_command():
    runs = [result(0, "head", 0.9, 0.8), result(1, "head", 0.8, 0.7, lr=0.1)]
    runs += [result(2, "full", 0, 0, status="FAILED"), result(3, "full", 0, 0, lr=0.1, status="KILLED")]
    text = answer(runs)
    assert text.endswith(
        "No run of full finished. To try them again: `python train.py -m freeze=head,full lr=0.001,0.1`."
    )


def test_interrupted_rival_continues():
    found = [result(0, "head", 0.9, 0.8), result(1, "full", 0, 0, status="KILLED")]
    resumes = "No run of full finished. To continue (finished runs are skipped, interrupted ones resumed): `python"
    assert resumes in answer(found)
    anew = answer([replace(run, command=["resume=false"]) for run in found])
    assert resumes in anew and "resume=false" not in anew  # a suggested command takes what there is


def test_solved_heads_have_no_lr_to_try_again():
    runs = [result(0, "probe", 0.9, 0.8), *(result(n, "full", 0, 0, status="FAILED", lr=0.1**n) for n in (1, 2))]
    del runs[0].choices["lr"]
    assert f"To try them again: `python train.py -m freeze=probe,full lr=0.1,{0.1**2!r}`." in answer(runs)


def test_failed_fresh_seed_of_a_search_is_tried_again_by_the_same_command():
    search = {"search": "tpe", "study": "head", "space": {}, "budget": "2 trials"}
    runs = [result(n, "head", 0.9, 0.8, lr=0.1**n, trial=n, **search) for n in range(2)]
    runs.append(result(2, "head", 0, 0, status="FAILED", seed=1, confirms=0, **search))
    text = answer(runs)
    assert " 1 run of 3 did not finish. The same command tries them again. The budget was 2 trials" in text
    assert "`" not in text


def test_undecided_search_gets_more_fresh_seeds_by_the_same_command():
    runs = []
    for mode, lr, test in (("head", 0.1, 0.81), ("full", 0.01, 0.8)):
        search = {"search": "tpe", "study": mode, "space": {}, "budget": "1 trials", "lr": lr}
        runs += [result(len(runs), mode, 0.9, 0.8, trial=0, **search)]
        runs += [result(len(runs), mode, 0.9, test, seed=1, confirms=0, **search)]
    text = answer(runs)
    assert "More seeds may decide it, or show that it takes more test images: the same command with " in text
    assert "search.confirm=5. " in text and "`" not in text


def test_search_of_one_mode_is_extended_by_a_rival_with_the_same_command():
    search = {"search": "tpe", "study": "head", "space": {}, "budget": "2 trials"}
    runs = [result(n, "head", 0.9, 0.8, lr=0.1**n, trial=n, **search) for n in range(2)]
    runs.append(result(2, "head", 0.9, 0.8, seed=1, confirms=0, **search))
    text = answer(runs)
    assert "nothing to compare it with. Try the same command with freeze=head,full." in text and "`" not in text


def test_search_in_which_one_mode_diverged_needs_smaller_learning_rates():
    search = {"search": "tpe", "space": {}, "budget": "1 trials", "trial": 0}
    runs = [*lr_runs("head", {0.137: 0.9}), *lr_runs("full", {12.9: None}, first=1)]
    runs = [replace(run, choices={**run.choices, **search, "study": run.choices["freeze_mode"]}) for run in runs]
    text = answer(runs)
    assert "No run of full finished. Try the same command with smaller learning rates." in text and "`" not in text


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("gaps", "far", "begins"),
    [([0.007, -0.002, 0.005, 0.0], 0.0092, "A tie: "), ([0.008, -0.002, 0.006, 0.0], 0.0106, "Undecided: ")],
)
def test_interval_within_one_point_of_zero_is_a_tie(gaps, far, begins, sign):
    second = [0.899, 0.903, 0.897, 0.901]
    first = [one + sign * gap for one, gap in zip(second, gaps, strict=True)]
    runs = [*seed_runs("a", first), *seed_runs("b", second, val=0.8)]
    within = contests(runs)[0].difference.interval
    assert max(within.high, -within.low) == pytest.approx(far, abs=1e-4) and answer(runs).startswith(begins)


def test_one_freeze_mode_compares_other_keys():
    grid = [("none", 0.1, 0.7), ("none", 0.01, 0.6), ("standard", 0.1, 0.8), ("standard", 0.01, 0.9)]
    runs = [result(job, "head", val, val, augment=name, lr=lr) for job, (name, lr, val) in enumerate(grid)]
    text = answer(runs)
    assert text.startswith("augment=standard wins: 90.0% against 70.0% for augment=none on the test split")
    assert "The best lr is 0.01 for standard and 0.1 for none." in text


def test_numbers_of_other_keys_are_named_with_their_key():
    grid = [(16, 0.1, 0.7), (16, 0.01, 0.6), (32, 0.1, 0.8), (32, 0.01, 0.9)]
    text = answer([result(job, "head", val, val, batch_size=size, lr=lr) for job, (size, lr, val) in enumerate(grid)])
    assert "The best lr is 0.01 for batch_size=32 and 0.1 for batch_size=16." in text
    assert "The best lr of `batch_size=16` is the larger of the two tried" in text


def test_searched_keys_and_the_selection_are_not_compared():
    runs = []
    for augment, val in (("none", 0.7), ("standard", 0.9)):
        for n in range(3):
            marks = {"search": "tpe", "study": f"augment={augment}", "trial": n, "space": {}}
            runs.append(result(len(runs), "head", val, val, **marks, lr=0.1**n, rank=n, augment=augment))
    assert answer(runs).startswith("augment=standard wins: 90.0% against 70.0% for augment=none on the test split")
    selected = [result(n, "head", 0.9, 0.9, select=select) for n, select in enumerate(("val/accuracy", "val/loss"))]
    assert compared_key(selected) == "freeze_mode"


def test_lr_alone_compares_learning_rates():
    text = answer([result(0, "head", 0.9, 0.9, lr=0.1), result(1, "head", 0.5, 0.5, lr=0.01)])
    assert text.startswith("lr=0.1 wins: 90.0% against 50.0% for lr=0.01 on the test split")
    assert "The best lr is the larger of the two tried; larger may be better still." in text
    assert text.endswith(": `python train.py -m lr=0.01,0.1,0.3,1`.")


def test_failed_runs_bound_the_lr_edge():
    lrs = [("head", 0.1), ("head", 0.01), ("full", 0.1), ("full", 0.01), ("full", 0.001)]
    runs = [result(job, mode, 0.9 - (lr - 0.01) ** 2, 0.9, lr=lr) for job, (mode, lr) in enumerate(lrs)]
    runs[0] = result(0, "head", 0, 0, status="FAILED", lr=0.1)
    text = answer(runs)
    assert "The tuning budgets differ (cells tried: head 2, full 3)." in text  # failed ones were tried
    assert "The best lr of `head` is the smaller of the two tried; smaller may be better still." in text
    assert "`python train.py -m freeze=head,full lr=0.001,0.003,0.01,0.1`" in text
    assert "of `full`" not in text and "1 run of 5 did not finish." in text
    killed = result(5, "full", 0, 0, status="KILLED", lr=0.05)
    assert "lr=0.001,0.003,0.01,0.1`" in answer([*runs, killed])  # only what is finished is included


def lr_runs(mode: str, accuracies: dict[float, float | None], first: int = 0) -> list[Result]:
    """Return a run per lr; None stands for one that diverged."""
    runs = [result(first + n, mode, acc or 0, acc or 0, lr=lr) for n, (lr, acc) in enumerate(accuracies.items())]
    lost = {"status": "FAILED", "reason": "Diverged: the training loss is nan in epoch 1", "metrics": {}}
    return [run if accuracies[run.choices["lr"]] is not None else replace(run, **lost) for run in runs]


@pytest.mark.parametrize(
    ("head", "full", "sentence", "suggested"),
    [
        (
            {0.01: 0.9, 1e30: 0.6},
            {0.01: 0.8, 1e30: None},
            "`full` between 0.01 and 1e+30, which diverged",
            "0.001,0.003,0.01,0.03,0.1",
        ),
        (
            {0.01: 0.5, 1e30: 0.6},
            {0.01: 0.8, 1e30: None},
            "`full` between 0.01 and 1e+30, which diverged",
            "0.001,0.003,0.01,0.03,0.1,1e+30",
        ),
        (
            {0.1: 0.9, 0.01: 0.6},
            {0.001: 0.7, 0.01: 0.8, 0.1: 0.7, 1.0: None},
            "`head` is the larger",
            "0.001,0.01,0.1,0.3",
        ),
        ({0.1: 0.9, 0.01: 0.6}, {0.01: 0.8, 0.1: None}, "`full` between 0.01 and 0.1", "0.001,0.003,0.01,0.03,0.1"),
        ({0.001: 0.8, 0.01: 0.9, 0.03: None}, {0.001: 0.5, 0.01: 0.6, 0.1: 0.5}, "", None),
        ({0.01: 0.6, 0.1: 0.9}, {0.1: 0.7, 1.0: 0.8}, "`head` and `full` is the larger", "0.01,0.1,1,3,10"),
        (
            {0.01: 0.9, 0.1: 0.6},
            {0.001: 0.8, 0.1: 0.7},
            "`head` and `full` is the smaller",
            "0.0001,0.0003,0.001,0.01,0.1",
        ),
        ({0.1: 0.9, 0.01: 0.6}, {0.001: 0.7, 0.01: 0.8, 0.1: 0.7, 0.2: None}, "`head` is the larger", None),
        ({0.1: 0.9, 0.01: 0.6}, {0.001: 0.7, 0.01: 0.8, 0.1: 0.7, 0.3: None}, "`head` is the larger", None),
        (
            {0.001: None, 0.01: 0.6, 0.1: 0.9},
            {0.01: 0.8, 0.1: 0.7},
            "`head` lies at the edge",
            "0.001,0.003,0.01,0.1,0.3,1",
        ),
    ],
)
def test_no_lr_beyond_a_diverged_one_is_suggested(head, full, sentence, suggested):
    text = answer([*lr_runs("head", head), *lr_runs("full", full, first=len(head))])
    assert sentence in text and ("may be better still" in text) == bool(sentence)
    found = re.search(r"To try more .*? lr=(\S+)`", text)
    assert (found and found[1]) == suggested


def test_diverged_runs_are_not_suggested_again():
    text = answer(lr_runs("head", {0.01: 0.9, 1e25: None, 1e30: None}))
    assert "An lr between 0.01 and 1e+25, which diverged, may be better still." in text
    assert text.endswith("`python train.py -m lr=0.001,0.003,0.01,0.03,0.1`.") and "try them again" not in text
    text = answer([*lr_runs("head", {10.0: 0.9}), *lr_runs("full", {10.0: None}, first=1)])
    assert text.endswith(
        "No run of full finished. To try smaller learning rates (`full` diverges again with lr 10, the best of "
        "`head`): `python train.py -m freeze=head,full lr=1,3,10`."
    )
    both = lr_runs("head", {10.0: 0.9}) + lr_runs("full", {20.0: None, 90.0: None}, first=1)
    both = [replace(run, choices=run.choices | {"seed": seed}) for run in both for seed in (0, 4)]
    assert answer(both).endswith(" learning rates: `python train.py -m freeze=head,full lr=2,7,10 seed=0,4`.")
    for run in both[:2]:
        del run.choices["lr"]
    assert answer(both).endswith(" learning rates: `python train.py -m freeze=head,full lr=2,7 seed=0,4`.")
    for run in both[2:]:
        del run.choices["lr"]  # a solved head, whose features are not finite
    assert answer(both).endswith("No run of full finished.")


def test_lr_that_diverges_again_is_told_beside_the_command():
    head, full = {0.01: 0.5, 0.1: 0.9}, {0.01: 0.8, 0.1: None}
    text = answer([*lr_runs("head", head), *lr_runs("full", full, first=2)])
    told = "not run again; `full` diverges again with lr 0.1, the best of `head`): `python train.py -m freeze=head,full"
    assert told in text
    text = answer([*lr_runs("head", head | {1.0: None}), *lr_runs("full", full, first=3)])
    assert told in text and text.count("diverges again") == 1
    text = answer([*lr_runs("head", {0.01: 0.95, 0.1: 0.9}), *lr_runs("full", full, first=2)])
    assert "not run again): " in text
    third = lr_runs("norm", {0.01: 0.4, 0.1: None}, first=4)  # not in the command
    text = answer([*lr_runs("head", head), *lr_runs("full", {0.01: 0.6, 0.1: 0.8}, first=2), *third])
    assert "To try more (what is finished is not run again): " in text


def test_following_lr_suggestions_ends_inside_the_grid():
    """A suggested grid must keep the rates already tried, or the next answer would suggest them again."""

    def accuracy(lr: float) -> float:
        return 0.9 - abs(math.log10(lr / 0.003)) / 10

    lrs = [1e-4, 1e-3]
    for _ in range(3):
        runs = [result(job, "head", accuracy(lr), accuracy(lr), lr=lr) for job, lr in enumerate(lrs)]
        if not (again := re.search(r"To try more .*?`(.*?)`", answer(runs))):
            break
        lrs = [float(lr) for lr in re.search(r"lr=(\S+)", again[1])[1].split(",")]
    assert lrs == [0.0001, 0.001, 0.003, 0.01]


def test_one_command_extends_both_lr_edges():
    grid = [("head", 0.1, 0.8), ("head", 0.01, 0.7), ("head", 0.001, 0.6)]
    grid += [("full", 0.1, 0.5), ("full", 0.01, 0.6), ("full", 0.001, 0.9)]
    text = answer([result(job, mode, acc, acc, lr=lr) for job, (mode, lr, acc) in enumerate(grid)])
    assert "The best lr of `full` lies at the edge of the grid; smaller may be better still." in text
    assert "The best lr of `head` lies at the edge of the grid; larger may be better still." in text
    assert text.count("python train.py") == 1
    assert "`python train.py -m freeze=full,head lr=0.0001,0.0003,0.001,0.01,0.1,0.3,1`" in text


def test_suggestion_keeps_both_rivals_choices():
    runs = [result(0, "head", 0.8, 0.8, lr=0.1, augment="none"), result(1, "head", 0.7, 0.7, lr=0.01, augment="none")]
    runs += [result(2, "full", 0.9, 0.9, lr=0.1, augment="flip"), result(3, "full", 0.6, 0.6, lr=0.01, augment="none")]
    assert "`python train.py -m freeze=full,head augment=flip,none lr=0.01,0.1,0.3,1`" in answer(runs)


def test_equal_seeds_keep_a_validation_interval():
    runs = [replace(run, images={"val": 100, "test": 1000}) for run in seed_runs("head", [0.8, 0.8])]
    alone, within = statistics.wilson(90, 100), validation_interval(cells(runs)[0])  # all have the same images
    assert within.low < alone.low < within.low + 0.01
    scores = {MACRO_F1.val: 0.9, VAL_MARGIN: 0.03}
    by = {"choices": runs[0].choices | {"select": "val/macro_f1"}, "metrics": runs[0].metrics | scores}
    runs = [replace(run, **(by | {"choices": by["choices"] | {"seed": run.job}})) for run in runs]
    within = validation_interval(cells(runs)[0])
    of_seeds = 12.706205 * 0.01 / math.sqrt(12 * 2)  # Student's t for one degree of freedom, and a hundred images
    half = math.hypot(of_seeds, 0.03)
    assert within is not None and (within.low, within.high) == pytest.approx((0.9 - half, min(1.0, 0.9 + half)))


def test_times_with_stored_features_are_marked():
    def cost(run: Result, images: float) -> Result:
        return replace(run, metrics={**run.metrics, "cost/backbone_images": images})

    full = cost(result(0, "full", 0.9, 0.9, seconds=8), 5000)
    stored, computed = (cost(result(1, "head", 0.8, 0.8, seconds=1), images) for images in (0, 1000))
    assert ", for 8.0 times the training time (head found its features in the store)." in answer([full, stored])
    assert ", for 8.0 times the training time." in answer([full, computed])
    better = replace(stored, metrics={**stored.metrics, VAL: 0.95, TEST: 0.95})
    assert ", and trains 8.0 times as fast (head found its features in the store)." in answer([full, better])
    first = cost(result(2, "head", 0.7, 0.7, seconds=1, lr=0.1), 1000)  # of the same lockstep
    assert ", for 8.0 times the training time." in answer([full, stored, first])


@pytest.mark.parametrize(("images", "clear"), [(1000, False), (1001, True), (0, True)])
def test_features_that_another_run_computed_make_no_mode_the_cheaper(images, clear):
    def cost(run: Result, images: float) -> Result:
        return replace(run, metrics={**run.metrics, "cost/backbone_images": images})

    one, other = (result(job, mode, 0.9, 0.9, seconds=9 - 8 * job) for job, mode in enumerate(("probe", "centroid")))
    text = answer([cost(one, images), cost(other, 0)])
    assert text.startswith("A tie: ") and ("centroid is the cheaper." in text) == clear


def test_installed_package_suggests_the_module_command(tmp_path, monkeypatch):
    monkeypatch.setattr(project, "project_root", lambda: tmp_path)
    assert "Try: `python -m frostline -m freeze=head,full`." in answer([result(0, "head", 0.9, 0.8)])


def test_lr_suggestion_keeps_the_seeds():
    grid = [(0.1, 0.9, 0), (0.1, 0.91, 7), (0.01, 0.5, 0), (0.01, 0.5, 7)]
    runs = [result(job, "head", acc, acc, lr=lr, seed=seed) for job, (lr, acc, seed) in enumerate(grid)]
    assert answer(runs).endswith(": `python train.py -m lr=0.01,0.1,0.3,1 seed=0,7`.")


def test_suggestion_repeats_finished_lr_exactly():
    runs = [result(job, "head", acc, acc, lr=lr) for job, (lr, acc) in enumerate([(10**-2.5, 0.9), (1e-4, 0.5)])]
    assert answer(runs).endswith(f": `python train.py -m lr=0.0001,{10**-2.5!r},0.009,0.03`.")


def test_suggestion_repeats_typed_overrides(tmp_path):
    runs = [result(0, "head", 0.90, 0.95, lr=0.01), result(1, "full", 0.91, 0.96, lr=0.01)]
    for run in runs:
        (folder := tmp_path / str(run.job)).mkdir()
        typed = ["freeze=head", "lr=0.01", "data.root='/my images'", "epochs=2"]
        typed += ["hydra/launcher=joblib", "+hydra.launcher.n_jobs=2"]
        (folder / "provenance.json").write_text(json.dumps({"command": typed}))
    runs = [replace(run, folder=str(tmp_path / str(run.job))) for run in runs]
    command = re.search(r"More seeds may decide it, [^`]*: `(.*?)`", answer(runs))[1]
    typed = [*typed[1:], "freeze=full,head", "seed=0,1,2,3,4"]
    assert shlex.split(command) == ["python", "train.py", "-m", *typed]


@pytest.mark.parametrize(
    ("key", "values", "last"), [("data.fraction", (0.1, 1.0), "1"), ("data", ("cifar10", "digits"), "digits")]
)
def test_each_data_set_has_its_own_sentence(key, values, last):
    results = [
        result(job, mode, acc, acc, **{key: values[which]})
        for job, (mode, acc, which) in enumerate(
            [("head", 0.8, 0), ("full", 0.5, 0), ("head", 0.8, 1), ("full", 0.9, 1)]
        )
    ]
    first, second = answer(results).split(" With ")
    assert first.startswith(f"With {key}={values[0]}: Feature extraction (head) wins: 80.0% against 50.0%")
    assert second.startswith(f"{key}={last}: Fine-tuning (full) wins: 90.0% against 80.0%")


@pytest.mark.parametrize(
    ("results", "start"),
    [
        ([result(0, "head", 0, 0, status="FAILED")], "No answer: none of 1 run finished."),
        (
            [result(0, "head", 0, 0, status="KILLED"), result(1, "full", 0, 0, status="FAILED")],
            "No answer: none of 2 runs",
        ),
        ([result(0, "head", 0, 0, status="PLANNED")] * 2, "Nothing was trained: this is a plan of 2 runs."),
        ([], "Nothing was trained: this is a plan of 0 runs."),
        (
            [result(0, "head", 0, 0, status="PLANNED", trial=0, budget="12 trials")],
            "Nothing was trained: this is a plan of 1 run, the first trial of each cell, whose budget is 12 trials.",
        ),
        (
            [result(0, "head", 0.9, 0.8)],
            "Feature extraction (head) reached 80.0% on the test split (95% interval 77.4 to 82.4; one seed); there "
            "was nothing to compare it with. Try: `python train.py -m freeze=head,full`.",
        ),
        (
            [result(0, "head", 0.9, 0.8), result(1, "full", 0, 0, status="FAILED")],
            "No comparison: feature extraction (head) reached 80.0% on the test split (95% interval 77.4 to 82.4; one "
            "seed). No run of full finished.",
        ),
    ],
)
def test_answer_without_comparison_states_why(results, start):
    assert answer(results).startswith(start)


def test_mode_without_finished_runs_is_mentioned():
    results = [result(0, "head", 0.9, 0.8), result(1, "full", 0.8, 0.5), result(2, "norm", 0, 0, status="FAILED")]
    assert answer(results).endswith("No run of norm finished.")


def test_value_without_finished_runs_is_named_with_its_key():
    results = [result(0, "head", 0.9, 0.8), result(1, "head", 0, 0, lr=1e30, status="FAILED")]
    assert "No run of lr=1e+30 finished." in answer(results)


def test_running_and_waiting_runs_are_not_failures():
    runs = [result(0, "head", 0.9, 0.8), result(1, "full", 0, 0, status="RUNNING"), result(2, "norm", 0.8, 0.7)]
    runs += [result(job, "full", 0, 0, status="WAITING", seed=job) for job in range(3, 5)]
    text = answer(runs)
    assert text.startswith("So far, with 3 runs of 5 still to come: ")
    assert text.endswith("No run of full has finished yet.")
    assert "did not finish" not in text


def test_interim_answer_says_so_and_suggests_nothing():
    runs = [result(0, "head", 0.9, 0.8, lr=0.1), result(1, "full", 0.95, 0.9, lr=0.1)]
    runs.append(result(2, "full", 0, 0, status="WAITING", lr=0.01))
    text = answer(runs)
    assert text.startswith("So far, with 1 run of 3 still to come: fine-tuning (full) wins: 90.0% against")
    assert "`" not in text and text.count("to come") == 1


def test_result_can_be_pickled():
    original = result(0, "head", 0.9, 0.8)
    assert pickle.loads(pickle.dumps(original)) == original


@pytest.fixture(scope="module", params=[BALANCED_ACCURACY, MACRO_F1, AUROC, LOSS], ids=lambda by: by.name)
def metric_and_results(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweeps") / request.param.name
    grid = {"freeze_mode": ["head", "full"], "lr": [1e-3, 1e-2], "select": [request.param.epoch]}
    return request.param, sweep_record.read(written_sweeps.sweep(folder, grid)).results


def test_selection_metric_ranks_compares_and_shows_cells(metric_and_results):
    by, results = metric_and_results
    best = [cell.choices["freeze_mode"] for cell in cells(results)]
    assert best[0] == "full"
    values = [cell.mean(by.val) for cell in cells(results)]
    assert values == sorted(values, reverse=by.sign > 0)
    (contest,) = contests(results)
    assert contest.key == "freeze_mode" and contest.by == by
    first, second = (one.cell for one in contest.contenders)
    assert contest.difference.scores == (first.mean(by.test), second.mean(by.test))
    assert contest.difference.gap in contest.difference.interval
    assert all(one.cell.mean(by.test) in one.interval for one in contest.contenders)
    one, two = (by.text(cell.mean(by.test), 1) for cell in (first, second))
    names = "ine-tuning (full)", "feature extraction (head)"
    sentences = {
        "win": f"F{names[0]} wins: {one} against {two} for {names[1]} in {by.words} on the test split",
        "undecided": f"Undecided: f{names[0]} {one}, {names[1]} {two} in {by.words} on the test split",
    }
    assert contest.outcome == ("undecided" if 0 in contest.difference.interval else "win")
    gap = by.gap(contest.difference.gap, 1)
    assert answer(results).startswith(f"{sentences[contest.outcome]} ({gap}, 95% interval ")
    assert "; one seed, paired jackknife over 200 test images)" in answer(results)
    table = cells_table(cells(results), varying(results))
    assert [f"val {by.words}", f"test {by.words}"] == [c.header for c in table.columns if " " in str(c.header)]


def test_row_of_the_best_compared_cell_is_bold():
    search = {"study": "head", "space": {}}
    trials = [result(n, "head", 0.9 - n / 100, 0.8, lr=0.1**n, trial=n, **search) for n in range(3)]
    fresh = [result(3 + n, "head", 0.885, 0.8, seed=n, lr=1.0, confirms=0, **search) for n in range(2)]
    for runs, best in ((trials, 0), ([*trials, *fresh], 2)):
        table = cells_table(cells(runs), ["lr"])
        assert [row.style for row in table.rows] == ["bold" if n == best else "" for n in range(len(table.rows))]


def test_cells_of_a_data_set_stand_together_and_the_best_of_each_is_bold():
    scores = [("head", "easy", 0.9), ("head", "hard", 0.5), ("full", "easy", 0.8), ("full", "hard", 0.6)]
    runs = [result(job, mode, val, 0.7, data=data) for job, (mode, data, val) in enumerate(scores)]
    table = next(rows(runs))
    by_column = {str(column.header): [*map(str, column.cells)] for column in table.columns}
    assert by_column["data"] == ["easy", "easy", "hard", "hard"]
    assert by_column["freeze_mode"] == ["head", "full", "full", "head"]
    assert [row.style for row in table.rows] == ["bold", "", "bold", ""]


def test_cells_and_contests_show_what_they_are_in_one_line():
    runs = [result(job, "head", 0.9, 0.9, seed=job) for job in range(2)]
    runs += [result(2, "full", 0.8, 0.8), result(3, "full", 0.0, 0.0, status="FAILED", seed=1)]
    of_head, of_full = map(repr, cells(runs))
    assert of_head == "<Cell freeze_mode=head data=digits lr=0.001: 2 finished>"
    assert of_full == "<Cell freeze_mode=full data=digits lr=0.001: 1 of 2 finished>"
    (of_all,) = map(repr, contests(runs))
    assert of_all == "<Contest freeze_mode: win, of feature extraction (head), fine-tuning (full)>"


def test_loss_over_seeds_is_paired_by_seed(tmp_path):
    grid = {"freeze_mode": ["head", "full"], "select": ["val/loss"]}
    (contest,) = contests(sweep_record.read(written_sweeps.sweep(tmp_path / "s", grid, seeds=3)).results)
    assert contest.outcome == "win" and contest.difference.gap < 0 and contest.difference.seeds == 3
    runs = [{run.choices["seed"]: run.metrics[LOSS.test] for run in one.cell.finished} for one in contest.contenders]
    gaps = [runs[0][seed] - runs[1][seed] for seed in range(3)]
    half = stats.t.ppf(0.975, 2) * np.std(gaps, ddof=1) / math.sqrt(3)
    finished = [one.cell.finished for one in contest.contenders]
    measured = [[predictions.read(run.folder).measured(LOSS) for run in runs] for runs in finished]
    differences = np.array([one.influence - two.influence for one, two in zip(*measured, strict=True)])
    own = ((differences - differences.mean(0)) ** 2).mean(1).sum() / 2  # by seed and image, already in `half`
    images = stats.norm.ppf(0.975) * math.sqrt((differences.mean(0).var() - own / 3) / differences.shape[1])
    best = contest.contenders[0]
    of_seeds = [statistics.t_interval(best.cell.values(metric)) for metric in (LOSS.test, LOSS.val)]
    of_images = statistics.by_influence(best.cell.mean(LOSS.test), np.array([one.influence for one in measured[0]]))
    assert best.interval == statistics.added(best.cell.mean(LOSS.test), of_seeds[0], of_images)
    middle = best.cell.mean(LOSS.val)
    within, margin = validation_interval(best.cell), math.hypot(of_seeds[1].half, 0.05)
    assert within is not None and (within.low, within.high) == pytest.approx((middle - margin, middle + margin))
    assert contest.difference.interval.high == pytest.approx(np.mean(gaps) + math.hypot(half, images))
    for one in contest.contenders:
        for run in one.cell.finished:
            (Path(run.folder) / "test_predictions.safetensors").unlink()
    (contest,) = contests([run for one in contest.contenders for run in one.cell.finished])
    assert contest.difference.interval.high == pytest.approx(np.mean(gaps) + half)


def test_interval_of_a_loss_may_be_above_1():
    runs = [result(seed, "head", 0.9, 0.9, seed=seed, select="val/loss") for seed in range(3)]
    runs = [
        replace(run, metrics=run.metrics | dict.fromkeys((LOSS.val, LOSS.test), 2.4 + run.job / 10)) for run in runs
    ]
    (one,) = contests(runs)[0].contenders
    within = statistics.t_interval([2.4, 2.5, 2.6])
    assert (one.interval.low, one.interval.high) == pytest.approx((within.low, within.high))


def test_runs_selected_by_other_metrics_are_not_compared(tmp_path):
    grid = {"freeze_mode": ["head", "full"], "select": ["val/accuracy", "val/loss"]}
    found = contests(sweep_record.read(written_sweeps.sweep(tmp_path / "s", grid)).results)
    assert [contest.where for contest in found] == ["select=val/accuracy", "select=val/loss"]
    assert [contest.key for contest in found] == ["freeze_mode"] * 2


@pytest.fixture(scope="module")
def backbone_results(tmp_path_factory):
    grid = {"model": ["net_a", "net_b"], "freeze_mode": ["head", "full", "lp_ft"], "lr": [1e-3, 1e-2]}
    return sweep_record.read(written_sweeps.sweep(tmp_path_factory.mktemp("sweeps") / "s", grid)).results


def test_answer_names_best_backbone_and_mode_pair(backbone_results):
    (contest,) = contests(backbone_results)
    pairs = backbones.grid(contest)
    first = cells(backbone_results)[0]
    model, mode = (str(first.choices[name]) for name in ("model", "freeze_mode"))
    assert next(iter(pairs.cells)) == (model, mode) and (pairs.models[0], pairs.modes[0]) == (model, mode)
    assert len(pairs.cells) == 6 and all(cell.choices["lr"] == 1e-3 for cell in pairs.cells.values())
    text = answer(backbone_results)
    assert f"Best pair on validation: `{mode}` on `{model}`." in text
    gaps = []
    for name in pairs.models:
        one, two = (pairs.cells[name, of] for of in pairs.modes[:2])
        gap = pairs.of_modes(name)
        assert gap.gap == pytest.approx(one.mean(TEST) - two.mean(TEST)) and gap.gap in gap.interval
        low, high = 100 * gap.interval.low, 100 * gap.interval.high
        gaps.append(f"{100 * gap.gap:+.1f} ({low:.1f} to {high:.1f}) on {name}")
    assert f"`{pairs.modes[0]}` against `{pairs.modes[1]}` in points: {', '.join(gaps)}." in text
    assert f"`{pairs.models[0]}` against `{pairs.models[1]}` in points: " in text
    table = pairs_table(pairs, "data=digits")
    assert [str(column.header) for column in table.columns[:-1]] == ["test data=digits", *pairs.modes]
    assert [str(cell) for cell in table.columns[0].cells] == [*pairs.models, " - ".join(pairs.models)]


def test_grid_needs_several_backbones_and_modes(backbone_results):
    for name, value in (("model", "net_a"), ("freeze_mode", "head")):
        some = [run for run in backbone_results if run.choices[name] == value]
        assert [backbones.grid(contest) for contest in contests(some)] == [None]
        assert "Best pair" not in answer(some)


def test_single_run_suggests_a_rival_unless_rerun(tmp_path):
    for typed, suggestion in (("lr=0.1", True), ("rerun=abc", False)):
        (folder := tmp_path / typed[:2]).mkdir()
        (folder / "provenance.json").write_text(json.dumps({"command": [typed]}))
        text = answer([replace(result(0, "head", 0.9, 0.9), folder=str(folder))])
        assert "there was nothing to compare it with." in text
        assert (" Try: `python train.py -m lr=0.1 freeze=head,full`." in text) == suggestion == ("Try" in text)


@pytest.mark.parametrize(
    ("runs", "begins", "suggestion"),
    [
        ([result(0, "head", 0.9, 0.95), result(1, "full", 0.91, 0.96)], "Undecided", "More seeds may decide it"),
        ([result(n, "head", 0.9 - n / 10, 0.9, lr=0.01 - n / 200) for n in range(2)], "A tie", "To try more"),
        ([result(0, "head", 0.9, 0.9), result(1, "full", 0, 0, status="FAILED")], "No comparison", "To try them again"),
        ([*lr_runs("head", {0.1: 0.9}), *lr_runs("full", {0.1: None}, first=1)], "No comparison", "To try smaller"),
    ],
)
def test_reruns_get_no_suggested_command(tmp_path, runs, begins, suggestion):
    for typed, can in (("lr=0.1", True), ("rerun=abc", False)):
        (tmp_path / "provenance.json").write_text(json.dumps({"command": [typed]}))
        text = answer([replace(run, folder=str(tmp_path)) for run in runs])
        assert text.startswith(begins) and (suggestion in text) == ("python train.py -m" in text) == can


def test_grid_follows_the_table_if_both_keys_differ(backbone_results):
    def shown(results):
        out = io.StringIO()
        Screen(Console(file=out, width=200, _environ={})).outcome(rows(results))
        return out.getvalue()

    (contest,) = contests(backbone_results)
    pairs = backbones.grid(contest)
    heading = " - ".join(pairs.modes[:2])
    assert heading in shown(backbone_results)
    assert backbones.difference_text(pairs.of_modes(pairs.models[0]), contest.by) in shown(backbone_results)
    assert heading not in shown([run for run in backbone_results if run.choices["model"] == "net_a"])

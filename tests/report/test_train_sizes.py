"""Sweeps over the size of train: an outcome for each size, and accuracy against the number of training images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from frostline.records.result import TEST, VAL, Result
from frostline.report import answer_data, html, page_data, plots, train_sizes
from frostline.report.contest import contests
from frostline.report.verdict import answer

HEAD = {1: 0.5, 3: 0.6, 10: 0.7, "null": 0.8}
FULL = {1: 0.2, 3: 0.5, 10: 0.7, "null": 0.9}
"""Accuracy by images per class."""
IMAGES = {1: 10, 3: 30, 10: 100, "null": 5_000}


def runs(seeds: int = 3, **more: Any) -> list[Result]:
    """Return results on 1,000 test images whose accuracy depends on the seed a little."""
    return [
        Result(
            *(job, mode, "", None, "FINISHED", None),
            {"freeze_mode": mode, "data": "digits", "lr": 1e-3, "seed": seed, "data.shots": shots, **more},
            dict.fromkeys((VAL, TEST), accuracy[shots] + 0.001 * seed),
            {"train": IMAGES[shots], "val": 100, "test": 1_000},
        )
        for job, (seed, (mode, accuracy), shots) in enumerate(
            (seed, mode, shots)
            for shots in (3, "null", 1, 10)
            for mode in (("head", HEAD), ("full", FULL))
            for seed in range(seeds)
        )
    ]


def test_sentence_names_the_outcome_at_each_size() -> None:
    said = "By data.shots: feature extraction (head) wins at 1 and 3; a tie at 10; fine-tuning (full) wins at null."
    assert said in answer(runs()) and answer(runs()).endswith(" so that intervals contain the luck of the draw.")
    redrawn = [replace(run, choices=run.choices | {"data.subset_seed": run.choices["seed"]}) for run in runs()]
    assert answer(redrawn).endswith(said)


def test_sentence_names_the_undecided_ones_of_several_contenders() -> None:
    third = [
        replace(run, choices=run.choices | {"freeze_mode": "bias"}, metrics=dict.fromkeys((VAL, TEST), 0.1))
        for run in runs()
        if run.choices["freeze_mode"] == "head"
    ]
    assert "; a tie between feature extraction (head) and fine-tuning (full) at 10; " in answer([*runs(), *third])


def test_sizes_of_different_data_are_apart() -> None:
    found = train_sizes.train_sizes(contests([*runs(), *runs(data="flowers")]))
    assert [one.where for one in found] == ["data=digits", "data=flowers"]
    assert [[train_sizes.images(contest) for contest in one.contests] for one in found] == [[10, 30, 100, 5_000]] * 2
    assert found[1].sentence.startswith("With data=flowers, by data.shots: feature extraction (head) wins at 1 and 3;")


@pytest.mark.parametrize(
    "other",
    [
        [run for run in runs() if run.choices["data.shots"] == 1],
        [run for run in runs() if run.choices["freeze_mode"] == "head"],
        [replace(run, images={}) for run in runs()],
        [replace(run, choices=run.choices | {"data.split_seed": IMAGES[run.choices["data.shots"]]}) for run in runs()],
        [replace(run, choices=run.choices | {"data.limit": IMAGES[run.choices["data.shots"]]}) for run in runs()],
        [
            replace(run, choices=run.choices | {"freeze_mode": "head", "augment": run.choices["freeze_mode"]})
            if run.choices["data.shots"] == 3
            else run
            for run in runs()
            if run.choices["data.shots"] in (1, 3)
        ],
    ],
    ids=["one size", "one mode", "unknown sizes", "other splits", "two keys", "other contenders"],
)
def test_what_differs_in_more_than_its_size_is_no_series(other: list[Result]) -> None:
    assert train_sizes.train_sizes(contests(other)) == []


def test_runs_of_an_unknown_size_are_left_out() -> None:
    lost = [run for run in runs() if run.choices["data.shots"] == "null"]  # their config cannot be read
    for run in lost:
        del run.choices["data.shots"]
    (sizes,) = train_sizes.train_sizes(contests([*runs(), *lost]))
    assert [train_sizes.images(contest) for contest in sizes.contests] == [10, 30, 100, 5_000]
    assert "fine-tuning (full) wins at null." in sizes.sentence


def test_plot_shows_test_scores_with_intervals_by_training_images() -> None:
    axes = Figure().add_axes((0, 0, 1, 1))
    (sizes,) = train_sizes.train_sizes(contests(runs()))
    assert plots._sizes(axes, sizes)
    assert axes.get_legend_handles_labels()[1] == ["head", "full"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["10", "30", "100", "5,000"]
    head, full = axes.containers
    for line, scores in ((head, HEAD), (full, FULL)):
        assert [*line.lines[0].get_xdata()] == pytest.approx([*IMAGES.values()], rel=0.05)
        assert [*line.lines[0].get_ydata()] == pytest.approx([score + 0.001 for score in scores.values()])


def test_data_for_programs_has_the_outcome_at_each_size() -> None:
    (series,) = answer_data.of_results(runs())["train_sizes"]
    assert (series["key"], series["where"]) == ("data.shots", "")
    assert [(one["train_images"], one["outcome"]) for one in series["sizes"]] == [
        *((10, "win"), (30, "win"), (100, "tie"), (5_000, "win"))
    ]


def test_page_points_to_the_groups_of_each_series(tmp_path: Path) -> None:
    results = runs()
    found = contests(results)
    (sizes,) = page_data.collect(results, found, page=tmp_path / "page.html", tracker=None)["sizes"]
    assert sizes["images"] == [10, 30, 100, 5_000]
    assert [found[number].where for number in sizes["groups"]] == [f"data.shots={shots}" for shots in IMAGES]
    assert 'id="sizes"' in html.write(tmp_path / "page.html", results, title="sizes").read_text()

"""Sweeps over the folds of a cross-validation."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import frostline
import warm
from frostline.records import sweep_record
from frostline.records.result import IMAGES
from frostline.report import predictions
from frostline.report.cells import cells
from frostline.report.contest import contests
from frostline.report.verdict import answer
from whole_sweeps import QUICK, CompletedSweep, command, environment, places, sweep, without_costs

FOLDS = 3
SAMPLES = 60
GRID = ("freeze=knn,centroid", f"data.folds={FOLDS}", "data=image_folder", "data.limit=null")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Return the override for a folder of noise images of two classes, one brighter than the other."""
    root, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number in range(SAMPLES):
        (folder := root / ("dark", "bright")[number % 2]).mkdir(exist_ok=True)
        noise = random.normal((80, 150)[number % 2], 40, (32, 32, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    return f"data.root={root}"


@pytest.fixture(scope="module")
def folds(tmp_path_factory, store, images):
    return sweep(tmp_path_factory.mktemp("sweeps") / "folds", store, *GRID, images)


def test_each_mode_tests_every_image_once(folds: CompletedSweep) -> None:
    results = sweep_record.read(folds.folder).results
    assert len(results) == 2 * FOLDS and {run.status for run in results} == {"FINISHED"}
    for mode in ("knn", "centroid"):
        ids = [predictions.read(run.folder).ids for run in results if run.choices["freeze_mode"] == mode]
        every = sorted(int(one) for several in ids for one in several)
        assert every == list(range(SAMPLES))


def test_every_image_is_listed_with_what_its_fold_said_of_it(folds: CompletedSweep) -> None:
    listed = frostline.open(folds.folder).test_images()
    best = [run for run in sweep_record.read(folds.folder).results if run.choices["freeze_mode"] == "centroid"]
    assert sorted(listed["image"]) == sorted(f"{('dark', 'bright')[n % 2]}/{n}.png" for n in range(SAMPLES))
    assert (listed["image"].str.split("/").str[0] == listed["label"]).all()
    assert ((listed["class"] == listed["label"]) == listed["right"]).all()
    own = listed.groupby("data.fold")["right"].mean().to_dict()
    assert own == pytest.approx({run.choices["data.fold"]: run.metrics["test/accuracy"] for run in best})
    chance = listed[["probability of bright", "probability of dark"]]
    assert ((chance["probability of bright"] > 0.5) == (listed["class"] == "bright")).all()
    assert chance.sum(axis=1).to_numpy() == pytest.approx(1)


def test_images_of_one_run_are_written_wherever_they_and_the_run_are_now(folds, images, tmp_path) -> None:
    place = Path(images.removeprefix("data.root="))
    (run, *_) = (run for run in sweep_record.read(folds.folder).results if run.choices["freeze_mode"] == "centroid")
    moved = shutil.copytree(run.folder, tmp_path / "run")
    shutil.copytree(place, tmp_path / "images")
    asked = [sys.executable, "-m", "frostline", "predictions", str(moved), f"data.root={tmp_path / 'images'}"]
    done = warm.run([*asked, "-o", str(tmp_path / "t.csv")], env=environment())
    written = pd.read_csv(tmp_path / "t.csv")
    wrong = len(written) - round(run.metrics["test/accuracy"] * len(written))
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 't.csv'}: 20 rows, {wrong} of them wrong\n")
    assert written.to_csv(index=False) == warm.run(asked, env=environment()).stdout
    assert [*written.columns[:2]] == ["image", "label"]
    next((tmp_path / "images" / "dark").iterdir()).unlink()
    done = warm.run(asked, env=environment())
    assert done.returncode == 2 and "was tested on, and these are others or have changed" in done.stderr


def test_folds_share_features_and_equal_single_runs(folds: CompletedSweep, store, images) -> None:
    results = sweep_record.read(folds.folder).results
    assert sum(run.metrics[IMAGES] for run in results) == SAMPLES
    alone = sweep(
        folds.folder.parent / "alone", store, *GRID, images, "data.fold=1", "freeze=knn", "features.enabled=false"
    )
    (one,) = sweep_record.read(alone.folder).results
    (same,) = (run for run in results if run.choices["freeze_mode"] == "knn" and run.choices["data.fold"] == 1)
    assert without_costs(one.metrics) == without_costs(same.metrics)


def test_fold_with_corrupted_images(folds: CompletedSweep, store, images) -> None:
    here, one = folds.folder.parent, (*GRID, images, "data.fold=1", "freeze=knn", "eval.shift=true")
    done = sweep(here / "shift", store, *one, "features.enabled=true,false")
    found, other = (run.metrics for run in sweep_record.read(done.folder).results)
    shifts = {key: value for key, value in found.items() if key.startswith("shift/")}
    assert shifts == {key: value for key, value in other.items() if key.startswith("shift/")}
    assert len(shifts) > 1 and set(shifts.values()) != {found["test/accuracy"]}


def test_folds_are_one_cell_in_the_verdict(folds: CompletedSweep) -> None:
    results = sweep_record.read(folds.folder).results
    assert [len(cell.results) for cell in cells(results)] == [FOLDS, FOLDS]
    (contest,) = contests(results)
    assert contest.difference.folds and contest.difference.seeds == FOLDS
    assert f"; {FOLDS} folds, paired t-interval corrected for their overlap)" in answer(results)
    assert "could not be written" not in folds.out and " runs " in folds.out
    assert "data.fold=" not in answer(results)


def test_finished_folds_are_skipped(folds: CompletedSweep, store, images) -> None:
    again = [argument for argument in command("-m", *QUICK, *GRID, images) if argument != "resume=false"]
    done = warm.run([*again, *places(folds.folder.parent / "again", store)], env=environment())
    assert done.returncode == 0 and done.stdout.count("skipped, finished in ") == 2 * FOLDS, done.stdout

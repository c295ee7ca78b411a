"""Selection of the best epoch by different metrics on imbalanced data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score

import warm
from frostline.records import sweep_record
from frostline.report import predictions
from frostline.report.verdict import answer
from small import compose, execute_run
from whole_sweeps import CompletedSweep, command, environment, places, sweep

RARE, OFTEN = 12, 228
SELECT = ("accuracy", "macro_f1", "balanced_accuracy", "auroc")
SKEWED = ("train.loss=bce", "train.class_weights=balanced")
WHAT = ("freeze=head", "lr=1e-2", "epochs=8", "data=image_folder", "data.limit=null")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with 95% `often` and 5% `rare`: noise with stripes, mostly stronger ones in `rare`."""
    root, random = tmp_path_factory.mktemp("skewed"), np.random.default_rng(0)
    stripes = 40 * np.sign(np.sin(np.arange(32) * np.pi / 4))[:, None]
    for split, share in (("train", 2), ("val", 1), ("test", 1)):
        for name, count, strongest in (("often", OFTEN * share, 0.6), ("rare", RARE * share, 1.0)):
            (folder := root / split / name).mkdir(parents=True)
            for number in range(count):
                noise = random.normal(120, 25, (32, 32, 1)) + random.uniform(0, strongest) * stripes
                Image.fromarray(np.repeat(noise.clip(0, 255), 3, 2).astype(np.uint8)).save(folder / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def selected(images: Path, tmp_path_factory: pytest.TempPathFactory) -> CompletedSweep:
    folder = tmp_path_factory.mktemp("sweeps") / "selected"
    chosen = "select=" + ",".join(f"val/{name}" for name in SELECT)
    return sweep(folder, folder.parent / "mlflow.db", *WHAT, *SKEWED, chosen, f"data.root={images}")


def run_of(done: CompletedSweep, name: str) -> dict[str, Any]:
    return next(run for run in done.results() if run["choices"]["select"] == f"val/{name}")


def epochs(run: dict[str, Any]) -> list[dict[str, float]]:
    return [json.loads(line) for line in (Path(run["folder"]) / "metrics.jsonl").read_text().splitlines()]


def test_each_metric_selects_its_best_epoch(selected: CompletedSweep) -> None:
    for name in SELECT:
        values = [line[f"val/{name}"] for line in epochs(run_of(selected, name))]
        metrics = run_of(selected, name)["metrics"]
        assert metrics["best/epoch"] == 1 + values.index(max(values))
        assert metrics[f"best/val_{name}"] == max(values)
    assert (
        run_of(selected, "accuracy")["metrics"]["best/epoch"] != run_of(selected, "macro_f1")["metrics"]["best/epoch"]
    )


def test_test_metrics_equal_scikit_learn(selected: CompletedSweep) -> None:
    for name in SELECT[1:]:
        run = run_of(selected, name)
        said = predictions.read(run["folder"])
        assert said is not None and said.logits is not None
        ahead = said.logits[:, 1].astype(float) - said.logits[:, 0]
        theirs = {
            "macro_f1": f1_score(said.labels, said.predicted, average="macro"),
            "balanced_accuracy": balanced_accuracy_score(said.labels, said.predicted),
            "auroc": roc_auc_score(said.labels, ahead),
        }
        assert run["metrics"][f"test/{name}"] == pytest.approx(theirs[name], abs=1e-6)


def test_verdict_compares_within_one_selection_metric(selected: CompletedSweep) -> None:
    said = answer(sweep_record.read(selected.folder).results)
    for name in SELECT:
        assert f"With select=val/{name}: " in said
    assert "could not be written" not in selected.out
    assert "macro F1 on the test split" in selected.out and "  macro F1 " in selected.out


LOSSES = {
    "plain": (),
    "weighted": ("train.class_weights=balanced",),
    "named": ("train.class_weights={rare: 19}",),
    "sampled": ("train.sampling=balanced",),
    "focal": ("train.loss=focal", "train.class_weights=balanced"),
    "bce": SKEWED,
    "probe": ("freeze=probe", "freeze_mode.l2=[1]"),
    "probe, weighted": ("freeze=probe", "freeze_mode.l2=[1]", "train.class_weights=balanced"),
}


def rare_recall(folder: Path, *how: str) -> float:
    """Return the test recall of the class `rare` of a single run."""
    execute_run(
        compose(*WHAT, "model.image_size=32", "batch_size=50", "threads=1", "select=val/macro_f1", *how), folder
    )
    said = predictions.read(str(folder))
    assert said is not None
    return float((said.predicted == said.labels)[said.labels == 1].mean())


def test_class_weights_and_sampling_raise_rare_recall(images: Path, tmp_path: Path) -> None:
    found = {
        name: rare_recall(tmp_path / str(number), f"data.root={images}", *how)
        for number, (name, how) in enumerate(LOSSES.items())
    }
    assert min(found[name] for name in found if name not in ("plain", "probe")) > found["plain"], found
    assert found["probe, weighted"] > found["probe"], found


def test_plan_notes_class_imbalance(images: Path, tmp_path: Path) -> None:
    note = "note: accuracy hides the results of other classes, since 95% of train is often: select=val/macro_f1"
    for by, noted in (("val/accuracy", True), ("val/macro_f1", False)):
        how = (*WHAT, f"data.root={images}", "dry_run=true", f"select={by}", "freeze=head,knn")
        shown = sweep(tmp_path / by[4:], tmp_path / "x.db", *how).out
        assert shown.count(note) == 2 * noted
        assert shown.count("and train.class_weights=balanced") == noted  # knn has no loss to weigh


def test_unknown_class_in_weights_is_refused(images: Path, tmp_path: Path) -> None:
    done = warm.run(
        command(*WHAT, f"data.root={images}", "train.class_weights={rair: 2}", *places(tmp_path, tmp_path / "x.db")),
        env=environment(),
    )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "train.class_weights=rair: expected classes of the data, often, rare" in done.stderr
    assert "did you mean rare" in done.stderr

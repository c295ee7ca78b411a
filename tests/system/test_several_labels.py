"""Multi-label data from a table: training, selection, test, report and predictions."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, log_loss, roc_auc_score

import frostline
import warm
from frostline.commands.predict import main
from frostline.records import sweep_record
from frostline.records.result import Result
from frostline.report import predictions
from frostline.runs import export, predict
from small import read_image
from whole_sweeps import CompletedSweep, command, environment, places, sweep

CLASSES = ("bright", "red", "striped")
IMAGES = 160
GRID = ("data=table", "data.limit=null", "data.options.label=[bright,red,striped]", "select=val/map")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, random = tmp_path_factory.mktemp("table"), np.random.default_rng(0)
    lines = ["path," + ",".join(CLASSES)]
    for number in range(IMAGES):
        bright, red, striped = own = random.random(3) < (0.5, 0.4, 0.15)
        pixels = random.normal(90 + 60 * bright, 25, (32, 32, 3))
        pixels[..., 0] += 70 * red
        pixels[::8] += 80 * striped
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / f"{number}.png")
        lines.append(f"{number}.png," + ",".join(str(int(one)) for one in own))
    (root / "labels.csv").write_text("\n".join(lines))
    return root / "labels.csv"


@pytest.fixture(scope="module")
def done(table: Path, tmp_path_factory: pytest.TempPathFactory) -> CompletedSweep:
    folder = tmp_path_factory.mktemp("sweeps") / "several"
    modes = (
        "freeze=head,probe,knn",
        "lr=3e-2",
        "epochs=4",
        "train.class_weights=balanced",
        "freeze_mode.l2=[0.3,0.03]",
    )
    return sweep(folder, folder.parent / "mlflow.db", *GRID, *modes, f"data.root={table}")


def run_of(done: CompletedSweep, mode: str) -> Result:
    return next(run for run in sweep_record.read(done.folder).results if run.choices["freeze_mode"] == mode)


def test_images_are_listed_with_all_their_classes(done: CompletedSweep, table: Path) -> None:
    run = next(one for one in frostline.open(done.folder).runs if one.choices["freeze_mode"] == "head")
    listed, found = run.test_images(), run.predictions()
    labels = pd.read_csv(table, index_col="path").loc[listed["image"]].to_numpy()
    assert (labels == found.labels).all()
    assert [*listed["label"]] == ["|".join(np.array(CLASSES)[row == 1]) for row in labels]
    assert [*listed["class"]] == ["|".join(np.array(CLASSES)[row]) for row in found.predicted]
    chances = listed[[f"probability of {name}" for name in CLASSES]].to_numpy()
    assert chances == pytest.approx(1 / (1 + np.exp(-found.logits)), abs=1e-6)


@pytest.mark.parametrize("mode", ["head", "probe", "knn"])
def test_recorded_metrics_equal_scikit_learn(done: CompletedSweep, mode: str) -> None:
    run = run_of(done, mode)
    found = predictions.read(run.folder)
    assert found and found.logits is not None
    chances = torch.from_numpy(found.logits).double().sigmoid().numpy()
    losses = [log_loss(found.labels[:, k], chances[:, k], labels=[False, True]) for k in range(3)]
    assert run.metrics["test/accuracy"] == pytest.approx(accuracy_score(found.labels, found.predicted))
    assert run.metrics["test/map"] == pytest.approx(average_precision_score(found.labels, found.logits))
    assert run.metrics["test/macro_f1"] == pytest.approx(f1_score(found.labels, found.predicted, average="macro"))
    assert run.metrics["test/auroc"] == pytest.approx(roc_auc_score(found.labels, found.logits))
    assert "test/balanced_accuracy" not in run.metrics
    assert run.metrics["test/loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert found.loss.mean() == pytest.approx(np.mean(losses), rel=1e-5)
    rows = json.loads((Path(run.folder) / "per_class.json").read_text())
    assert [row["class"] for row in rows] == [*CLASSES]
    assert [row["f1"] for row in rows] == pytest.approx(f1_score(found.labels, found.predicted, average=None))
    assert run.metrics["test/map"] > 0.6 and (Path(run.folder) / "mistakes.jpg").exists()


def test_map_selects_epoch_and_cell(done: CompletedSweep) -> None:
    head = run_of(done, "head")
    lines = [json.loads(line) for line in (Path(head.folder) / "metrics.jsonl").read_text().splitlines()]
    assert head.metrics["best/val_map"] == max(line["val/map"] for line in lines)
    assert "in mAP on the test split" in done.out and "any number of them in an image" in done.out
    best = max(sweep_record.read(done.folder).results, key=lambda run: run.metrics["best/val_map"])
    assert done.out.index(f"  {best.choices['freeze_mode']} ") < done.out.index("Report:")


def test_report_shows_recall_and_disagreements(done: CompletedSweep) -> None:
    page = (done.folder / "report.html").read_text()
    embedded = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert embedded
    (group,) = json.loads(embedded[1])["groups"]
    one = group["contenders"][0]
    found = predictions.read(run_of(done, one["series"]).folder)
    assert found
    right, all_of_them = (found.labels & found.predicted).sum(0), found.labels.sum(0)
    assert one["accuracy"] == pytest.approx(right / all_of_them, abs=1e-5)
    assert set(one["over_classes"]) == {"mAP", "macro F1"}
    assert "confusion" not in one
    for _, *labels in group["disagreements"]["tiles"]:
        assert all(isinstance(label, list) for label in labels)


def test_each_class_has_a_probability(done: CompletedSweep, table: Path, tmp_path: Path) -> None:
    network = predict.load(Path(run_of(done, "probe").folder), device="cpu")
    files = [table.parent / f"{number}.png" for number in range(8)]
    chances = predict.probabilities(network, files)
    views = torch.stack([predict.view(network, read_image(file, network.levels)) for file in files])
    assert torch.equal(chances, predict.logits(network, views).sigmoid())
    assert not torch.allclose(chances.sum(1), torch.ones(8))
    assert export.export(network, "safetensors", tmp_path / "net.safetensors") < 1e-5


def test_predict_names_all_probable_classes(
    done: CompletedSweep, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(run_of(done, "probe").folder)
    files = [table.parent / f"{number}.png" for number in range(IMAGES)]
    chances = predict.probabilities(predict.load(run, device="cpu"), files)
    expected = [[CLASSES[k] for k in row.nonzero()[:, 0].tolist()] for row in chances > 0.5]
    assert main([str(run), str(table), "--output", str(tmp_path / "said.parquet")]) == 0
    said = pd.read_parquet(tmp_path / "said.parquet")
    assert [list(names) for names in said["classes"]] == expected and [] in expected
    assert said["class"].tolist() == [CLASSES[k] for k in chances.argmax(1).tolist()]
    capsys.readouterr()
    assert main([str(run), *map(str, files[:9])]) == 0
    rows = [line.split(",") for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["file", "classes", "class", "probability"]
    assert [row[1] for row in rows[1:]] == ["|".join(names) for names in expected[:9]]


def test_single_label_options_are_refused(table: Path, tmp_path: Path) -> None:
    for grid, expected in (
        (("freeze=centroid",), "freeze_mode=centroid: expected probe, knn or another mode"),
        (
            ("freeze=head", "select=val/balanced_accuracy"),
            "select=val/balanced_accuracy: expected val/map, val/macro_f1",
        ),
    ):
        arguments = command("-m", *GRID, f"data.root={table}", *grid, *places(tmp_path / "no", tmp_path / "no.db"))
        refused = warm.run(arguments, env=environment())
        assert refused.returncode == 2 and expected in refused.stderr

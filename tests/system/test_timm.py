"""A network of timm in a whole sweep, with stored features, rerun, prediction and export."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch

import stores
import warm
from frostline.runs import export, predict
from frostline.runs.export_formats import SUFFIXES
from frostline.store import hashing
from lab import CHECKOUT, Lab
from whole_sweeps import environment

pytestmark = pytest.mark.slow
CHOSEN = ("model=timm", "model.name=test_vit.r160_in1k", "model.weights=null", "freeze=head,last_stage", "lr=1e-2")


def run_command(*typed: str) -> None:
    """Run a command of frostline."""
    done = warm.run([sys.executable, str(CHECKOUT / "train.py"), *typed], env=environment())
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Return a lab with a sweep."""
    lab = Lab(tmp_path_factory.mktemp("timm"))
    stores.put(lab.root / "mlflow.db")
    run_command(*lab.arguments("kept", *CHOSEN))
    return lab


def weight_hashes(folder: Path) -> dict[str, str]:
    """Return the sha256 of the best weights of each run of a sweep."""
    runs = json.loads((folder / "results.json").read_text())
    files = {run["choices"]["freeze_mode"]: folder / str(run["job"]) / "best.safetensors" for run in runs}
    return {mode: hashing.of_file(file) for mode, file in files.items()}


def test_stored_features_do_not_change_weights(lab: Lab) -> None:
    run_command(*lab.arguments("anew", *CHOSEN, "features.enabled=false", "resume=false"))
    assert weight_hashes(lab.root / "anew") == weight_hashes(lab.root / "kept")


def test_timm_run_can_be_rerun(lab: Lab) -> None:
    _, *places = lab.arguments("again")
    places = [one for one in places if one.startswith(("tracking.uri", "store.path", "hydra.sweep.dir"))]
    run_command(f"rerun={lab.root / 'kept' / '1'}", *places)


@pytest.mark.parametrize("kind", ["safetensors", "torchscript", "pt2"])
def test_timm_network_predicts_and_is_exported(lab: Lab, kind: str, tmp_path: Path) -> None:
    network = predict.load(lab.root / "kept" / "1", device="cpu")
    assert network.model.library == "timm"
    assert predict.probabilities(network, [torch.zeros(3, 20, 20, dtype=torch.uint8)]).sum() == pytest.approx(1)
    if kind != "safetensors":
        del cast(Any, network.model.module).blocks[2:]  # makes writing the graph faster
    assert export.export(network, kind, tmp_path / f"net{SUFFIXES[kind]}") <= export.TOLERANCE

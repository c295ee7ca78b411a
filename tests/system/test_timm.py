"""A network of timm through a whole sweep: kept features make no difference, and the record is used as any other."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from test_sweep import environment

import stores
import warm
from frostline.runs import export, predict
from frostline.store import hashing
from lab import CHECKOUT, Lab

pytestmark = pytest.mark.slow
CHOSEN = ("model=timm", "model.name=test_vit.r160_in1k", "model.weights=null", "freeze=head,last_stage", "lr=1e-2")


def ran(*typed: str) -> None:
    """Carry out a command of frostline."""
    done = warm.run([sys.executable, str(CHECKOUT / "train.py"), *typed], env=environment())
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A lab with a sweep in it."""
    lab = Lab(tmp_path_factory.mktemp("timm"))
    stores.put(lab.root / "mlflow.db")
    ran(*lab.arguments("kept", *CHOSEN))
    return lab


def best(folder: Path) -> dict[str, str]:
    """Return the sha256 of the weights that each run of a sweep left."""
    runs = json.loads((folder / "results.json").read_text())
    files = {run["choices"]["freeze_mode"]: folder / str(run["job"]) / "best.safetensors" for run in runs}
    return {mode: hashing.of_file(file) for mode, file in files.items()}


def test_features_that_are_kept_and_those_that_are_not_give_the_same_bits(lab: Lab) -> None:
    ran(*lab.arguments("anew", *CHOSEN, "features.enabled=false", "resume=false"))
    assert best(lab.root / "anew") == best(lab.root / "kept")


def test_a_record_runs_again(lab: Lab) -> None:
    _, *places = lab.arguments("again")
    places = [one for one in places if one.startswith(("tracking.uri", "store.path", "hydra.sweep.dir"))]
    ran(f"rerun={lab.root / 'kept' / '1'}", *places)


@pytest.mark.parametrize("kind", ["safetensors", "torchscript"])
def test_a_trained_network_predicts_and_is_exported(lab: Lab, kind: str, tmp_path: Path) -> None:
    network = predict.load(lab.root / "kept" / "1", device="cpu")
    assert network.model.library == "timm"
    assert predict.probabilities(network, [torch.zeros(3, 20, 20, dtype=torch.uint8)]).sum() == pytest.approx(1)
    assert export.export(network, kind, tmp_path / f"net{export.SUFFIXES[kind]}") <= export.TOLERANCE

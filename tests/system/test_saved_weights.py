"""Runs with save_weights=learned can be opened like other runs, from every place."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import frostline
import warm
from frostline.commands import export, predict, register
from frostline.commands import rerun as command
from frostline.core.errors import UserError
from frostline.models import base_weights, weights
from frostline.records import journal, layout
from frostline.runs import predict as network_of
from frostline.store import hashing
from frostline.sweeps.find_weights import found
from frostline.tracking import server
from whole_sweeps import environment, places, sweep

GRID = ("freeze=head", "lr=1e-2,1e-3", "save_weights=learned")
IMAGE = torch.randint(0, 256, (3, 40, 40), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Any:
    """Return a sweep with save_weights=learned."""
    return sweep(tmp_path_factory.mktemp("sweeps") / "learned", store, *GRID)


@pytest.fixture(scope="module")
def expected(learned: Any) -> Any:
    """Return the probabilities of its best run for an image."""
    return frostline.load(learned.folder, device="cpu").probabilities([IMAGE])


@pytest.fixture(scope="module")
def remote(learned: Any, expected: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return an equal sweep that exists only in an MLflow of its own, as on another machine, and its best run's id."""
    root = tmp_path_factory.mktemp("remote")
    done = sweep(root / "sweep", root / "mlflow.db", *GRID)
    best = max(done.results(), key=lambda result: result["metrics"]["best/val_accuracy"])
    shutil.move(done.folder, root / "kept")
    return done, best["run_id"]


@pytest.fixture(autouse=True)
def tracking_uri(monkeypatch: pytest.MonkeyPatch, store: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")


def equal_probabilities(network: Any, expected: torch.Tensor) -> bool:
    """Return whether a network gives these probabilities, up to last bits, which depend on memory alignment."""
    return torch.allclose(network.probabilities([IMAGE]), expected, atol=1e-6)


def base_file(folder: Path) -> Path:
    (file,) = (folder / "weights").glob("*.safetensors")
    return file


def test_common_weights_are_stored_once(learned: Any) -> None:
    client, base = learned.client(), base_file(learned.folder)
    (parent,) = (run for run in learned.runs() if "mlflow.parentRunId" not in run.data.tags)
    artifacts = Path(parent.info.artifact_uri.removeprefix("file://"))
    assert (artifacts / "weights" / base.name).samefile(base)
    for result in learned.results():
        file = Path(result["folder"], layout.BEST)
        assert base_weights.named(file) == base.stem and 20 * file.stat().st_size < base.stat().st_size
        assert not client.list_artifacts(result["run_id"], "weights")
        tags = client.get_run(result["run_id"]).data.tags
        assert tags[layout.FINAL_TAG] == hashing.of_file(file)


def test_learned_weights_equal_whole_weights(learned: Any, expected: Any, tmp_path: Path) -> None:
    whole = sweep(tmp_path / "whole", tmp_path / "mlflow.db", "freeze=head", "lr=1e-2,1e-3")
    assert equal_probabilities(frostline.load(whole.folder, device="cpu"), expected)
    for number in ("0", "1"):
        put_together = weights.whole(learned.folder / number / layout.BEST, tmp_path)
        assert put_together.read_bytes() == (whole.folder / number / layout.BEST).read_bytes()


def test_moved_sweep_can_be_loaded(learned: Any, expected: Any, tmp_path: Path) -> None:
    moved = shutil.copytree(learned.folder, tmp_path / "elsewhere")
    assert equal_probabilities(frostline.load(moved, device="cpu"), expected)
    base_file(moved).unlink()
    with pytest.raises(UserError) as refused:
        frostline.load(moved, device="cpu")
    assert f"weights/{base_file(learned.folder).name}" in str(refused.value) and "\n" not in str(refused.value)


def test_commands_accept_learned_weights(learned: Any, tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(IMAGE.permute(1, 2, 0).numpy()).save(tmp_path / "one.png")
    arguments = [str(learned.folder / "0"), str(tmp_path / "one.png"), "--output", str(tmp_path / "said.csv")]
    with contextlib.redirect_stdout(io.StringIO()):
        assert predict.main(arguments) == 0
        for kind, name in (("safetensors", "a.safetensors"), ("torchscript", "a.pt")):
            options = ["--format", kind, "--output", str(tmp_path / name)]
            assert export.main([str(learned.folder / "0"), *options]) == 0
    assert "one.png" in (tmp_path / "said.csv").read_text()
    assert load_file(tmp_path / "a.safetensors").keys() == weights.read(learned.folder / "0" / layout.BEST).keys()


def test_registered_model_has_whole_weights(learned: Any, tmp_path: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        assert register.main([str(learned.folder / "0"), "--name", "learned"]) == 0
    run_id = learned.results()[0]["run_id"]
    model = Path(learned.client().download_artifacts(run_id, "model", str(tmp_path)))
    (served,) = (path.parent for path in model.rglob(layout.BEST))
    assert base_weights.named(served / layout.BEST) is None
    own = frostline.load(learned.folder / "0", device="cpu").probabilities([IMAGE])
    network = network_of.load(served, device="cpu")  # as `runs.serve` does
    assert torch.allclose(network_of.probabilities(network, [IMAGE]), own, atol=1e-6)


def again(target: object, folder: Path, store: Path, *more: str) -> str:
    with contextlib.redirect_stdout(said := io.StringIO()):
        assert command.main([str(target), *places(folder, store), *more]) == 0, said.getvalue()
    return said.getvalue()


def test_rerun_keeps_learned_weights_identically(learned: Any, store: Path, tmp_path: Path) -> None:
    assert "verdict: identical" in again(learned.folder / "0", tmp_path / "again", store)
    own = (tmp_path / "again" / "0" / layout.BEST).read_bytes()
    assert own == (learned.folder / "0" / layout.BEST).read_bytes()
    assert base_file(tmp_path / "again").read_bytes() == base_file(learned.folder).read_bytes()
    with pytest.raises(UserError, match=r"^save_weights=whole: expected nothing but"):
        command.main([str(learned.folder / "0"), "save_weights=whole"])


def test_weights_are_downloaded_from_mlflow(
    remote: Any, expected: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, best = remote
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{done.store}")
    parent = done.client().get_run(best).data.tags["mlflow.parentRunId"]
    for name in (f"runs:/{best}", best, parent):
        assert equal_probabilities(frostline.load(name, device="cpu"), expected)
    assert equal_probabilities(frostline.load(frostline.open(parent), device="cpu"), expected)
    assert "verdict: identical" in again(best, tmp_path / "again", done.store)


def test_skipped_runs_can_be_loaded(learned: Any, remote: Any, store: Path, expected: Any, tmp_path: Path) -> None:
    here = sweep(tmp_path / "here", store, "freeze=head", "lr=1e-2,1e-3", "resume=true")
    assert here.out.count("skipped, finished in") == 2 and not (here.folder / "weights").exists()
    assert equal_probabilities(frostline.load(here.folder, device="cpu"), expected)
    downloaded = sweep(tmp_path / "downloaded", remote[0].store, *GRID, "resume=true")
    assert downloaded.out.count("skipped, finished in") == 2 and not list(downloaded.folder.glob("*/best.safetensors"))
    assert equal_probabilities(frostline.load(downloaded.folder, device="cpu"), expected)


def test_learned_weights_can_initialize_a_run(learned: Any, remote: Any, tmp_path: Path) -> None:
    """Given by folder, by file, and by MLflow run id."""
    done, best = remote
    run = learned.folder / "0"
    sources = f"model.weights={run},{run / layout.BEST},runs:/{best}"
    begun = sweep(tmp_path / "begun", done.store, "freeze=head", "lr=1e-2", "epochs=1", sources, *GRID[2:])
    assert base_file(begun.folder).name == base_file(learned.folder).name  # only the head learned
    began = [json.loads((begun.folder / n / layout.PROVENANCE).read_text())["weights"]["initial"] for n in "012"]
    assert began[:2] == [hashing.of_tensors(weights.read(run / layout.BEST))] * 2
    kept = (done.folder.parent / "kept").glob(f"*/{layout.BEST}")
    assert began[2] in {hashing.of_tensors(weights.read(file)) for file in kept}


def test_sync_sends_common_weights_of_a_killed_sweep(learned: Any, tmp_path: Path) -> None:
    """The sweep's process ended before it sent anything to MLflow."""
    copy = shutil.copytree(learned.folder, tmp_path / "copy")
    record = copy / layout.RECORD
    lines = record.read_text().splitlines(keepends=True)
    record.write_text("".join(line for line in lines if "weights/" not in line))
    for file in copy.rglob(layout.MIRRORED):
        file.unlink()
    arguments = [sys.executable, "-m", "frostline", "sync", str(copy), "--uri", f"sqlite:///{tmp_path}/mlflow.db"]
    done = warm.run(arguments, env=environment())
    assert done.returncode == 0, done.stdout + done.stderr
    run_id, base = journal.run_id(copy), base_file(copy)
    artifacts = server.client_of(f"sqlite:///{tmp_path}/mlflow.db").list_artifacts(run_id, "weights")
    assert [file.path for file in artifacts] == [f"weights/{base.name}"]


def test_loaded_digest_is_the_recorded_one(learned: Any) -> None:
    with found(str(learned.folder / "0")) as run:
        network = network_of.load(run.folder, device="cpu")
    assert network.digest == json.loads((learned.folder / "0" / layout.PROVENANCE).read_text())["weights"]["final"]


def test_dry_run_writes_no_weights(tmp_path: Path) -> None:
    planned = sweep(tmp_path / "planned", tmp_path / "none.db", *GRID, "dry_run=true")
    assert not (planned.folder / "weights").exists()

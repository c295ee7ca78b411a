"""Provenance records what a rerun needs, without secrets of the environment."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
import torch

import stores
import warm
from frostline.core import credentials, machine, project
from frostline.records import layout, provenance
from small import network

CHECKOUT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def test_facts_are_merged_by_topic(tmp_path):
    assert provenance.read(tmp_path) == {}
    provenance.write(tmp_path, {"weights": {"initial": "a", "final": None}, "python": "é"})
    provenance.write(tmp_path, {"weights": {"initial": "a", "final": "b"}})
    assert provenance.read(tmp_path) == {"weights": {"initial": "a", "final": "b"}, "python": "é"}


def test_hardware_and_settings_are_recorded():
    machine.prepare_torch(deterministic=True, threads=1)
    hardware, settings = provenance.hardware(CPU)["hardware"], provenance.settings(torch.bfloat16)["settings"]
    assert hardware["threads"] == 1 and hardware["cpu"] and hardware["instructions"]
    assert settings["deterministic"] and settings["cudnn_deterministic"] and not settings["cudnn_benchmark"]
    assert settings["autocast"] == "bfloat16"
    machine.prepare_torch(deterministic=False, threads=1)
    assert not provenance.settings(None)["settings"]["deterministic"]
    json.dumps([hardware, settings])


def test_packages_and_command_are_recorded_without_passwords(tmp_path):
    command = ["lr=0.1", r"tracking.uri=http\://me:hunter2@server", "x=http://h/?api_token=hunter2&a=1"]
    provenance.write_software(tmp_path, command)
    facts, packages = provenance.read(tmp_path), json.loads((tmp_path / "packages.json").read_text())
    assert packages["torch"] == torch.__version__.partition("+")[0]
    installed = importlib.metadata.distributions()
    assert packages == {package.metadata["Name"]: package.version for package in installed}
    assert facts["command"] == ["lr=0.1", r"tracking.uri=http\://server", "x=http://h/?api_token=...&a=1"]


def test_untracked_source_is_recorded(tmp_path, monkeypatch):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    for name, content in {
        "src/frostline/new.py": b"a = 1\n",
        "conf/data/new.yaml": b"x: 1\n",
        "src/large.txt": b"x" * 200_000,
        "src/image.png": b"\xff\xd8",
        "multirun/result.json": b"{}",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(project, "PACKAGE", tmp_path / "src" / "frostline")
    provenance.untracked.cache_clear()
    kept = provenance.untracked()
    provenance.untracked.cache_clear()
    texts = {name: file["text"] for name, file in kept.items()}
    assert texts == {
        "conf/data/new.yaml": "x: 1\n",
        "src/frostline/new.py": "a = 1\n",
        "src/large.txt": None,
        "src/image.png": None,
    }
    assert all(len(file["sha256"]) == 64 for file in kept.values())


@pytest.fixture
def secret_variable(monkeypatch):
    monkeypatch.setenv("MY_SECRET", "hunter2")
    monkeypatch.setattr(credentials, "_taken", {})


def test_environment_values_are_not_recorded(secret_variable):
    raw = {
        "data": {"root": "${oc.env:MY_SECRET}/x", "options": {"list": ["a", "${data.root}"]}},
        "lr": "${oc.env:NOT_SET,0.1}",
        "plain": "hunter2",
        "epochs": 5,
        "hydra": {"more": 1},
    }
    values = {
        "data": {"root": "hunter2/x", "options": {"list": ["a", "hunter2/x"]}},
        "lr": 0.1,
        "plain": "hunter2",
        "epochs": 5,
    }
    shown = credentials.unresolved(values, raw)
    assert shown["data"] == {"root": "${oc.env:MY_SECRET}/x", "options": {"list": ["a", "${data.root}"]}}
    assert shown["lr"] == "${oc.env:NOT_SET,0.1}"
    assert (shown["plain"], shown["epochs"]) == ("hunter2", 5)
    assert credentials.scrubbed("no such file: hunter2/x") == "no such file: ${oc.env:MY_SECRET}/x"


@pytest.mark.parametrize("way", ['"MY_SECRET"', "'MY_SECRET'", " MY_SECRET ", "MY_SECRET,x", "${name}"])
def test_all_spellings_of_a_variable_are_recognised(monkeypatch, way):
    monkeypatch.setenv("MY_SECRET", "hunter2")
    raw = {"lr": f"${{oc.env:{way}}}", "name": "MY_SECRET"}
    assert credentials.unresolved({"lr": "hunter2", "name": "MY_SECRET"}, raw) == raw


@pytest.mark.slow
@pytest.mark.parametrize("broken", [False, True])
def test_secret_appears_in_no_file_of_a_sweep(tmp_path, broken):
    """Including the reason and traceback of a run that fails with it."""
    from safetensors.torch import save_file

    secret = uuid.uuid4().hex  # random, so that no patch of the source has it
    weights = tmp_path / secret / "w.safetensors"
    weights.parent.mkdir()
    save_file(network("shufflenet_v2_x0_5", classes=10).module.state_dict(), weights)
    code = """
import os, sys
from frostline import cli
from frostline.runs import run
if {broken}:
    def assemble(*arguments, **options):
        raise OSError(os.environ["MY_SECRET"])
    run.assemble = assemble
cli.main()
"""
    overrides = [
        "model.weights=${oc.env:MY_SECRET}",
        "data.limit=100",
        "epochs=1",
        "hydra/launcher=basic",  # in this process
        "model.image_size=32",
        f"hydra.sweep.dir={tmp_path}/sweep",
        f"tracking.uri=sqlite:///{stores.put(tmp_path / 'mlflow.db')}",
    ]
    env = {**os.environ, "MY_SECRET": str(weights), "PYTHONPATH": str(CHECKOUT / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code.format(broken=broken), *overrides]
    done = warm.run(command, env=env)
    assert done.returncode == broken, done.stdout + done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path != weights]
    assert {"config.yaml", "provenance.json", "train.log", "mlflow.db", "record.jsonl"} <= {path.name for path in files}
    assert [path for path in files if secret.encode() in path.read_bytes()] == []
    facts = provenance.read(tmp_path / "sweep" / "0")
    if not broken:
        assert len(facts["weights"]["initial"]) == len(facts["weights"]["final"]) == 64


def test_truncated_provenance_is_replaced(tmp_path: Path) -> None:
    (tmp_path / layout.PROVENANCE).write_text('{"data": {"na')
    provenance.write(tmp_path, {"weights": {"final": None}})
    assert provenance.read(tmp_path) == {"weights": {"final": None}}
    assert [path.name for path in tmp_path.iterdir()] == [layout.PROVENANCE]

"""Planned runs: resolution of `auto`, digests, choices and names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from frostline.core import machine
from frostline.core.config_keys import choices, digest
from frostline.core.errors import UserError
from frostline.records import journal
from frostline.records.result import value_text
from frostline.records.sweep_facts import SweepFacts
from frostline.sweeps import compose as composing
from frostline.sweeps.compose import PlannedRun, to_check
from small import compose

CPU, CARD = {"precision": "fp32", "compile": "off"}, {"precision": "bf16"}


def cell(*overrides: str) -> PlannedRun:
    config = compose("freeze=head", *overrides)
    return PlannedRun(config, " ".join(overrides), choices(config), "0")


def meanings(meaning: dict[str, str], *cells: PlannedRun) -> dict[str, dict[str, str]]:
    """Return the result of checking the cells if `auto` has the same meaning in all of them."""
    return dict.fromkeys(to_check(cells), meaning)


def resolved_digest(meaning: dict[str, Any], *overrides: str) -> str:
    """Return the digest of a run on a device on which `auto` has this meaning."""
    return digest(composing.resolve_auto([cell(*overrides)], meanings(meaning, cell(*overrides)))[0].config)


def test_auto_on_cpu_and_gpu_are_different_runs() -> None:
    assert resolved_digest(CPU) != resolved_digest(CARD)
    assert resolved_digest(CPU) == digest(cell("precision=fp32", "compile=off").config)
    assert resolved_digest(CARD) == digest(cell("precision=bf16").config)
    explicit = ("precision=bf16", "compile=off")
    assert resolved_digest(CPU, *explicit) == resolved_digest(CARD, *explicit) == digest(cell(*explicit).config)


def test_equivalent_overrides_are_the_same_cell() -> None:
    cells = [cell("precision=auto"), cell("precision=fp32")]
    assert len(composing.resolve_auto(cells, meanings(CARD, *cells))) == 2
    with pytest.raises(UserError, match="its runs 0 and 1 are both this one"):
        composing.resolve_auto(cells, meanings(CPU, *cells))


def test_source_of_random_crops_changes_the_digest() -> None:
    stored, exact = ({**CPU, "data.pixels": kept} for kept in ("stored", "exact"))
    assert resolved_digest(stored, "augment=standard") != resolved_digest(exact, "augment=standard")
    assert resolved_digest(stored, "data.pixels=exact") == resolved_digest(exact, "data.pixels=exact")


def test_replaced_weights_file_changes_the_digest() -> None:
    first, second = ({**CPU, "model.sha256": letter * 64} for letter in "ab")
    assert resolved_digest(first) != resolved_digest(second)
    assert resolved_digest(first, f"model.sha256={'c' * 64}") == resolved_digest(second, f"model.sha256={'c' * 64}")


def test_meaning_of_auto_depends_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.meaning_of_auto("auto") == machine.meaning_of_auto("cpu") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for fast in (True, False):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, fast=fast: (8 if fast else 7, 5))
        assert machine.meaning_of_auto("auto") == {"precision": "bf16" if fast else "fp32"}
        assert machine.meaning_of_auto("cpu") == CPU


def test_records_contain_the_resolved_values(trained: Any) -> None:
    shared = SweepFacts.read(trained.folder)
    for number, facts in enumerate(shared.runs):
        folder: Path = trained.folder / str(number)
        written = yaml.safe_load((folder / "config.yaml").read_text())
        assert {key: written[key] for key in CPU} == CPU
        assert facts.settled == {**CPU, "data.pixels": "auto", "model.sha256": None}  # no random crops, no file
        assert journal.digest(folder) == facts.digest
        params = next(entry["values"] for entry, _ in journal.entries(folder) if entry["op"] == "params")
        assert {key: params[key] for key in CPU} == CPU
        assert json.loads((folder / "plan.json").read_text())["precision"] == "float32"


def test_grid_normalises_numbers_and_expands_folds() -> None:
    runs = composing.compose_grid(["freeze=head", "data.fraction=1e-1,0.5", "data.folds=3", "augment=none,standard"])
    assert len(runs) == 2 * 3 * 2
    first = runs[0].choices
    assert (first["data.fraction"], first["data.fold"], first["augment"]) == (0.1, 0, "none")
    assert [run.config.data.fold for run in runs] == [run.choices["data.fold"] for run in runs]
    (one,) = composing.compose_grid(["freeze=head", "data.folds=3", "data.fold=2"])
    assert one.config.data.fold == 2


@pytest.mark.parametrize("typed", ["batch_size", "++batch_size"])
def test_jobs_that_differ_in_unread_keys_are_one_run(typed: str) -> None:
    (run,) = composing.compose_grid(["freeze=probe", f"{typed}=8,16"])
    assert (run.jobs, run.unread) == (2, ("batch_size",))
    assert len(composing.compose_grid(["freeze=head", f"{typed}=8,16"])) == 2


def test_solved_head_on_random_weights_has_weights_as_choice() -> None:
    assert cell("freeze=probe", "model=resnet18", "model.weights=null").choices["model.weights"] is None
    for others in (("freeze=probe",), ("freeze=head", "model=resnet18", "model.weights=null")):
        assert "model.weights" not in cell(*others).choices


def test_run_names_keep_typed_digits_and_round_drawn_ones() -> None:
    names = [run.name for run in composing.compose_grid(["freeze=head", "lr=0.12345671,0.12345672,1e-3,1e8,3.0"])]
    assert [name.split()[1] for name in names] == ["lr=0.12345671", "lr=0.12345672", "lr=0.001", "lr=1e+08", "lr=3"]
    assert value_text(0.0012345678901234) == "0.00123457" and value_text(0.1 + 0.2) == "0.3"

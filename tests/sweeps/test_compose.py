"""What `auto` stands for is settled before anything is asked of a run: another precision is another run."""

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
from frostline.records import journal, sweep_record
from frostline.records.result import value_text
from frostline.sweeps import compose as composing
from frostline.sweeps.compose import PlannedRun, to_check
from small import compose

CPU, CARD = {"precision": "fp32", "compile": "off"}, {"precision": "bf16"}


def cell(*overrides: str) -> PlannedRun:
    config = compose("freeze=head", *overrides)
    return PlannedRun(config, " ".join(overrides), choices(config), "0")


def meant(meaning: dict[str, str], *cells: PlannedRun) -> dict[str, dict[str, str]]:
    """Return what checking the cells tells where `auto` means that to all of them."""
    return dict.fromkeys(to_check(cells), meaning)


def settled(meaning: dict[str, Any], *overrides: str) -> str:
    """Return the digest of a run on a device of which `auto` means that."""
    return digest(composing.resolve_auto([cell(*overrides)], meant(meaning, cell(*overrides)))[0].config)


def test_a_run_in_float32_does_not_count_as_the_run_in_bf16_that_a_card_makes_of_the_same_words() -> None:
    assert settled(CPU) != settled(CARD)
    assert settled(CPU) == digest(cell("precision=fp32", "compile=off").config)
    assert settled(CARD) == digest(cell("precision=bf16").config)
    told = ("precision=bf16", "compile=off")
    assert settled(CPU, *told) == settled(CARD, *told) == digest(cell(*told).config)


def test_words_that_mean_the_same_are_the_same_cell() -> None:
    cells = [cell("precision=auto"), cell("precision=fp32")]
    assert len(composing.resolve_auto(cells, meant(CARD, *cells))) == 2
    with pytest.raises(UserError, match="its runs 0 and 1 are both this one"):
        composing.resolve_auto(cells, meant(CPU, *cells))


def test_what_random_crops_are_cut_from_is_another_run_where_it_is_chosen() -> None:
    stored, exact = ({**CPU, "data.pixels": kept} for kept in ("stored", "exact"))
    assert settled(stored, "augment=standard") != settled(exact, "augment=standard")
    assert settled(stored, "data.pixels=exact") == settled(exact, "data.pixels=exact")


def test_weights_in_the_place_of_others_make_another_run() -> None:
    first, second = ({**CPU, "model.sha256": letter * 64} for letter in "ab")
    assert settled(first) != settled(second)
    assert settled(first, f"model.sha256={'c' * 64}") == settled(second, f"model.sha256={'c' * 64}")


def test_what_auto_means_is_what_the_device_does(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.meaning_of_auto("auto") == machine.meaning_of_auto("cpu") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for fast in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, fast=fast: fast)
        assert machine.meaning_of_auto("auto") == {"precision": "bf16" if fast else "fp32"}
        assert machine.meaning_of_auto("cpu") == CPU


def test_what_is_written_down_says_what_auto_was(trained: Any) -> None:
    shared = sweep_record.SweepFacts.read(trained.folder)
    for number, facts in enumerate(shared.runs):
        folder: Path = trained.folder / str(number)
        written = yaml.safe_load((folder / "config.yaml").read_text())
        assert {key: written[key] for key in CPU} == CPU
        assert facts.settled == {**CPU, "data.pixels": "auto", "model.sha256": None}  # no random crops, no file
        assert journal.digest(folder) == facts.digest
        params = next(entry["values"] for entry, _ in journal.entries(folder) if entry["op"] == "params")
        assert {key: params[key] for key in CPU} == CPU
        assert json.loads((folder / "plan.json").read_text())["precision"] == "float32"


def test_numbers_are_choices_however_they_are_typed_and_folds_are_one_more_thing_to_run_over() -> None:
    runs = composing.compose_grid(["freeze=head", "data.fraction=1e-1,0.5", "data.folds=3", "augment=none,standard"])
    assert len(runs) == 2 * 3 * 2
    first = runs[0].choices
    assert (first["data.fraction"], first["data.fold"], first["augment"]) == (0.1, 0, "none")
    assert [run.config.data.fold for run in runs] == [run.choices["data.fold"] for run in runs]
    (one,) = composing.compose_grid(["freeze=head", "data.folds=3", "data.fold=2"])
    assert one.config.data.fold == 2


def test_a_head_that_is_solved_on_weights_from_scratch_is_known_by_them_as_its_seed_draws_them() -> None:
    assert cell("freeze=probe", "model=resnet18", "model.weights=null").choices["model.weights"] is None
    for others in (("freeze=probe",), ("freeze=head", "model=resnet18", "model.weights=null")):
        assert "model.weights" not in cell(*others).choices


def test_a_run_is_called_by_all_digits_that_were_typed_and_by_six_of_what_was_drawn() -> None:
    names = [run.name for run in composing.compose_grid(["freeze=head", "lr=0.12345671,0.12345672,1e-3,1e8,3.0"])]
    assert [name.split()[1] for name in names] == ["lr=0.12345671", "lr=0.12345672", "lr=0.001", "lr=1e+08", "lr=3"]
    assert value_text(0.0012345678901234) == "0.00123457" and value_text(0.1 + 0.2) == "0.3"

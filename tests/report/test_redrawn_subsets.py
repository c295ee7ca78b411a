"""Runs that learned from different draws of training images are repeats of one cell."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

import written_sweeps
from frostline.records import sweep_record
from frostline.records.layout import PREDICTIONS
from frostline.records.result import TEST, VAL, Result
from frostline.report.cell_intervals import compare_cells, repeats
from frostline.report.cells import SUBSET, cells, repeats_typed
from frostline.report.combine import merged
from frostline.report.contest import contests
from frostline.report.predictions import read_alike, right_in
from frostline.report.statistics import by_influence
from frostline.report.verdict import answer


def run(job: int, mode: str, score: float, seed: int, subset: int | None, **choices: Any) -> Result:
    lr = {} if mode == "probe" else {"lr": 1e-3}
    chosen = {"freeze_mode": mode, "data": "digits", "seed": seed, **lr, **choices}
    chosen |= {} if subset is None else {SUBSET: subset}
    command = [f"freeze={mode}", f"seed={seed}", "data.shots=2", "data.subset_seed=$\\{seed\\}"]
    images = {"train": 20, "val": 100, "test": 1_000}
    return Result(job, mode, "", None, "FINISHED", None, chosen, {VAL: score, TEST: score}, images, command)


def test_each_seed_with_its_own_draw_is_a_repeat_also_of_a_solved_head() -> None:
    (same,) = cells([run(seed, "probe", 0.8 + 0.02 * seed, seed, None) for seed in range(3)])
    assert not same.depends_on_seed and same.spread(TEST) is None
    (redrawn,) = cells([run(seed, "probe", 0.8 + 0.02 * seed, seed, seed) for seed in range(3)])
    assert redrawn.depends_on_seed and redrawn.spread(TEST) == pytest.approx(0.02)
    assert [one.seed for one in repeats(redrawn)] == [0, 1, 2]
    assert repeats_typed([redrawn]) == {"seed": [0, 1, 2], SUBSET: ["${seed}"]}


def test_draws_are_averaged_over_their_seeds() -> None:
    (cell,) = cells([run(n, "head", 0.5 + 0.1 * (n // 2) + 0.01 * (n % 2), n % 2, n // 2) for n in range(6)])
    assert cell.values(TEST) == pytest.approx([0.505, 0.605, 0.705])
    assert [one.seed for one in repeats(cell)] == [0, 1, 2]
    assert repeats_typed([cell]) == {"seed": [0, 1], SUBSET: [0, 1, 2]}


def test_draws_are_compared_in_pairs_in_one_contest() -> None:
    head = [run(n, "head", score, n, n) for n, score in enumerate((0.60, 0.70, 0.80))]
    full = [run(3 + n, "full", score, n, n) for n, score in enumerate((0.70, 0.72, 0.95))]
    (contest,) = contests([*head, *full])
    assert contest.where == "" and contest.difference is not None
    assert contest.difference.paired and contest.difference.seeds == 3
    assert "'data.subset_seed=${seed}'" in answer([*head, *full])
    typed = [
        replace(one, command=[*(one.command or [])[:-1], f"{SUBSET}={one.choices[SUBSET]}"]) for one in head + full
    ]
    assert "'data.subset_seed=${seed}'" in answer(typed)  # else it would have one draw alone


def test_repeats_are_called_draws_unless_each_seed_has_its_own() -> None:
    for shift, kind, number in ((0, "seed", "3 seeds"), (5, "draw", "3 runs")):
        head, full = (
            [run(n, mode, score, n, shift + n) for n, score in enumerate(scores)]
            for mode, scores in (("head", (0.60, 0.70, 0.80)), ("full", (0.70, 0.61, 0.80)))
        )
        assert f"; 3 {kind}s, paired t-interval)" in answer([*head, *full]) and f"; {number})" in answer(head)
        assert f" {kind}s to tell them apart." in answer([*head, *full])
    assert "; one run of each, " in answer([*head[:1], *full])


def test_draws_of_several_seeds_are_compared_although_a_run_failed(tmp_path: Path) -> None:
    labels, draw = np.arange(60) % 3, np.random.default_rng(0)

    def tested(job: int, mode: str) -> Result:
        logits = (draw.normal(size=(60, 3)) + np.eye(3)[labels]).astype(np.float32)
        (tmp_path / str(job)).mkdir()
        save_file({"logits": logits, "labels": labels, "ids": np.arange(60)}, tmp_path / str(job) / PREDICTIONS)
        score = float((logits.argmax(1) == labels).mean())
        return replace(run(job, mode, score, job % 2, job // 2 % 2), folder=str(tmp_path / str(job)))

    head, full = [tested(job, "head") for job in range(4)], [tested(job, "full") for job in range(4, 8)]
    (one,), (other,) = cells(head), cells([*full[:3], replace(full[3], status="FAILED")])
    both = compare_cells(one, other)
    mine, theirs = (np.array([right_in(read_alike(each.folders)) for each in repeats(cell)]) for cell in (one, other))
    apart = mine - theirs
    expected = by_influence(both.gap, apart - apart.mean(1, keepdims=True), 1 / 60)
    assert both.over_images is not None and expected is not None
    assert (both.over_images.low, both.over_images.high) == pytest.approx((expected.low, expected.high))


def redrawn_sweep(folder: Path, mode: str, subsets: Sequence[int | None]) -> Path:
    """Write a sweep with a seed for each of `subsets`, the seeds of its draws."""
    written_sweeps.sweep(folder, {"freeze_mode": [mode]}, seeds=len(subsets))
    for seed, subset in enumerate(subsets):
        place = folder / str(seed)
        values = yaml.safe_load((place / "config.yaml").read_text())
        data = {"name": "digits", "shots": 2, "subset_seed": subset, "split_seed": 0}
        (place / "config.yaml").write_text(yaml.safe_dump(values | {"data": data}))
        (place / "provenance.json").write_text(json.dumps({"data": {"fingerprint": str(subset or 0) * 64}}))
        result = json.loads((place / "result.json").read_text())
        result["choices"] |= {} if subset is None else {SUBSET: subset}
        (place / "result.json").write_text(json.dumps(result))
    return folder


def test_merged_sweeps_keep_draws_in_one_contest(tmp_path: Path) -> None:
    folders = [redrawn_sweep(tmp_path / mode, mode, range(3)) for mode in ("head", "full")]
    (contest,) = contests(merged([sweep_record.read(folder) for folder in folders]))
    assert contest.where == "" and len(contest.results) == 6
    assert contest.difference is not None and contest.difference.seeds == 3 and contest.difference.paired


def test_draw_of_the_splits_is_not_another_draw_in_merged_sweeps(tmp_path: Path) -> None:
    folders = [redrawn_sweep(tmp_path / str(n), "head", subsets) for n, subsets in enumerate(([None] * 3, range(3)))]
    (cell,) = cells(merged([sweep_record.read(folder) for folder in folders]))
    assert [one.seed for one in repeats(cell)] == [0, 1, 2] and len(cell.results) == 5  # one run was done twice

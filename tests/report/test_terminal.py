"""Terminal output: plans, progress, tables and verdicts on a terminal and in a file."""

from __future__ import annotations

import io
import re
import time
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from frostline.core.metrics import ACCURACY, MACRO_F1
from frostline.records.result import Result
from frostline.report.cells import cells
from frostline.report.result_tables import cells_table, rows
from frostline.report.tables import duration
from frostline.report.terminal import Screen
from frostline.runs.plan import PhasePlan, Plan, StagePlan
from frostline.training.evaluation import Evaluation
from frostline.training.loop import EpochResult

LINE = {"epochs": 3, "phases": 1, "chosen_by": (ACCURACY, 0.975)}


def epoch_result(epoch: int) -> EpochResult:
    return EpochResult(epoch, 0, 0.5, 0.9, Evaluation(0.25, 0.975, torch.empty(0)), 1.5, 10)


class Terminal(io.StringIO):
    """A file that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def screen(width: int, file: io.StringIO) -> Screen:
    terminal = file.isatty()
    return Screen(Console(file=file, width=width, force_terminal=terminal, markup=False, highlight=False, _environ={}))


def show(shown: Screen, results: list[Result]) -> None:
    shown.outcome(rows(results, limit=shown.limit))


def outcome_text(results: list[Result], width: int, *, terminal: bool = False) -> str:
    """Return what the outcome of a sweep prints, without styles."""
    out = Terminal() if terminal else io.StringIO()
    show(screen(width, out), results)
    return re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())


def result(job: int, mode: str, val: float, **changes: object) -> Result:
    facts: dict = {
        "job": job,
        "name": f"{mode} lr=[0.1]",
        "folder": f"multirun/{job}",
        "run_id": "0" * 32,
        "status": "FINISHED",
        "reason": None,
        "choices": {"freeze_mode": mode, "lr": 0.001 if job else 0.01, "optimizer": "adamw", "seed": 0},
        "metrics": {"best/val_accuracy": val, "test/accuracy": 0.5, "cost/train_seconds": 75.0},
    }
    return Result(**facts | changes)


def plan() -> Plan:
    frozen = StagePlan("stem", 1_234_567, 0, None, None, "frozen")
    partly = StagePlan("stage1", 100, 40, (1e-5, 1e-3), (0.0, 0.01), "batch")
    head = StagePlan("head", 10, 10, (1e-3, 1e-3), (0.01, 0.01), "-")
    return Plan(
        name="gradual lr=0.001 seed=0",
        model="resnet50",
        weights="DEFAULT",
        loaded="head fc new",
        freeze_mode="gradual",
        adapter="",
        optimizer="adamw",
        schedule="cosine",
        loss="focal",
        select="val/macro_f1",
        augment="standard",
        data="digits",
        images={"train": 1078, "val": 359, "test": 360},
        classes=tuple(f"[class {i}]" for i in range(12)),
        multi_label=False,
        image_size=64,
        resized="a shorter side of 73",
        interpolation="bilinear",
        cut_from="the original pixels",
        batch_size=32,
        device="cpu",
        precision="fp32",
        deterministic=True,
        parameters=1_234_677,
        trainable_parameters=50,
        phases=(PhasePlan(1, 1, (frozen, head)), PhasePlan(2, 3, (frozen, partly, head))),
        uncut="",
    )


@pytest.mark.parametrize("width", [80, 140])
def test_plan_fits_the_width_and_lists_stages(width):
    out = io.StringIO()
    screen(width, out).plan(plan())
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    rows = [line.split() for line in lines]
    assert ["1", "stem", "1,234,567", "-", "-", "-", "frozen"] in rows
    assert ["2-3", "stem", "1,234,567", "-", "-", "-", "frozen"] in rows
    assert ["stage1", "100", "40", "1e-05..0.001", "0..0.01", "batch"] in rows
    assert ["head", "10", "all", "0.001", "0.01", "-"] in rows
    text = " ".join(out.getvalue().split())
    assert "1,078 train, 359 val, 360 test images, 12 classes ([class 0], [class 1]" in text
    assert "cpu, fp32, deterministic" in text


def test_later_plans_show_only_differences():
    out = io.StringIO()
    shown = screen(80, out)
    shown.plan(plan())
    whole = out.getvalue()

    def lines_for(of: Plan) -> list[str]:
        out.seek(0), out.truncate()
        shown.plan(of)
        return [" ".join(line.split()) for line in out.getvalue().splitlines()]

    first, second = plan().phases
    faster = replace(first.stages[1], lr=(0.2, 0.2))
    assert lines_for(plan()) == lines_for(replace(plan(), name="another seed")) == []
    assert lines_for(replace(plan(), batch_size=64)) == [
        "input 64x64 pixels of a shorter side of 73, bilinear; batches of 64"
    ]
    assert "; batches of 4096, one per epoch" in " ".join(lines_for(replace(plan(), batch_size=4096)))
    with_faster = replace(plan(), phases=(replace(first, stages=(first.stages[0], faster)), second))
    assert lines_for(with_faster) == ["head: lr 0.2, weight decay 0.01"]
    assert lines_for(replace(plan(), phases=(first,)))[1].split()[:2] == ["epochs", "stage"]
    assert len(lines_for(replace(plan(), freeze_mode="full"))) == len(whole.splitlines())
    out.seek(0), out.truncate()
    shown.plan(plan(), whole=True)
    assert out.getvalue() == whole


def test_quiet_prints_only_the_verdict(monkeypatch, capsys):
    monkeypatch.setenv("FROSTLINE_QUIET", "1")
    shown = Screen()
    shown.plan(plan())
    with shown.run("head lr=0.01", job=0, jobs=2, epochs=3):
        shown.epoch(epoch_result(1), **LINE)
    shown.say("a note")
    assert capsys.readouterr().out == ""
    shown.answer()
    shown.verdict("head wins. lr 0.1 is best.\nTry: `train.py data.root=. 'a. b'`. See `here`.")
    assert capsys.readouterr().out.splitlines() == [
        *("head wins.", "lr 0.1 is best.", "Try: `train.py data.root=. 'a. b'`.", "See `here`.")
    ]


def test_huge_loss_is_short():
    out = io.StringIO()
    screen(80, out).epoch(replace(epoch_result(1), train_loss=2.7e31), **LINE)
    assert out.getvalue() == "  epoch 1/3  train 2.700e+31  90.00%  val 0.2500  97.50%  1.5s\n"


def test_terminal_breaks_no_command_or_path_but_words():
    out = Terminal()
    shown = screen(30, out)
    command, path = "`python train.py -m freeze=head,full lr=0.1,0.01`", "/data/" + 30 * "x"
    shown.verdict(f"The best of all is head, as it seems. To try more: {command}. Report: {path}")
    told = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    assert [line.rstrip() for line in told.splitlines()] == [
        *("The best of all is head, as it", "seems.", f"To try more: {command}.", f"Report: {path}")
    ]


def test_table_fits_a_terminal_without_control_sequences(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("FORCE_COLOR", "1")
    out = Terminal()
    dumb = Console(file=out, force_terminal=True, markup=False, highlight=False, _environ={"TERM": "dumb"})
    found = [result(n, f"{n}_{'x' * 42}", n / 10) for n in range(1, 4)]
    show(Screen(dumb), [replace(one, choices={**one.choices, "lr": one.job / 3}) for one in found])
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80 and sum("x" * 42 in line and "50.00%" in line for line in lines) == len(found)
    assert "freeze_mode" in lines[1] and "val" in lines[1]  # a table


def test_file_output_has_plain_lines_without_bars():
    out = io.StringIO()
    shown = screen(80, out)
    with shown.run("head lr=0.01", job=0, jobs=2, epochs=3):
        shown.advance(0.5)
        shown.epoch(epoch_result(1), **LINE)
        shown.epoch(epoch_result(2), **{**LINE, "phases": 2, "chosen_by": (MACRO_F1, 0.5)})
    shown.say("a line " + 20 * "that is long ")
    assert out.getvalue().splitlines() == [
        "[1/2] head lr=0.01",
        "  epoch 1/3  train 0.5000  90.00%  val 0.2500  97.50%  1.5s",
        "  epoch 2/3  phase 1/2  train 0.5000  90.00%  val 0.2500  97.50%  macro F1 50.00%  1.5s",
        "a line " + 20 * "that is long ",
    ]


@pytest.mark.slow
def test_terminal_shows_bars_and_keeps_every_line():
    out = Terminal()
    shown = screen(80, out)
    for job in range(2):
        with shown.run(f"run {job}", job=job, jobs=2, epochs=3):
            for epoch in (1, 2, 3):
                shown.epoch(epoch_result(epoch), **LINE)
                time.sleep(0.11)  # rich redraws ten times a second
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    assert "run 2/2" in drawn and "epoch 2/3" in drawn and "left" in drawn
    kept = visible_lines(out.getvalue())
    assert [line.split()[0] for line in kept] == [
        "[1/2]",
        "epoch",
        "epoch",
        "epoch",
        "[2/2]",
        "epoch",
        "epoch",
        "epoch",
    ]


def visible_lines(written: str) -> list[str]:
    """Return the lines that stay visible, interpreting the few control sequences that rich uses."""
    lines, row = [""], 0
    for text, code in re.findall(r"([^\x1b\r\n]+)|(\x1b\[[0-9;?]*[A-Za-z]|\r|\n)", written):
        if text:
            lines[row] += text
        elif code == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif code.endswith("A"):
            row -= int(code[2:-1] or 1)
        elif code == "\x1b[2K":
            lines[row] = ""
    return [line for line in lines if line.strip()]


def test_progress_bars_end_with_a_failed_run():
    shown = screen(80, io.StringIO())
    with pytest.raises(ValueError, match="diverged"), shown.run("run", job=0, jobs=1, epochs=3):
        raise ValueError("diverged")
    shown.advance(1)


@pytest.mark.parametrize("width", [80, 140])
def test_table_is_sorted_and_shows_differing_choices(width):
    failed = result(2, "norm", 0, status="FAILED", reason="ValueError: loss is nan", metrics={})
    text = outcome_text([result(0, "head", 0.7), failed, result(1, "full", 0.9)], width)
    assert "adamw" not in text and "seeds" not in text
    assert text.index("full") < text.index("head")
    assert [row for row in map(str.split, text.splitlines()) if row[:1] == ["full"]] == [
        ["full", "0.001", "90.00%", "50.00%", "-", "1m15s"]
    ]
    assert text.splitlines()[-1] == "  failed  norm lr=[0.1]: ValueError: loss is nan (multirun/2)"


def test_table_shows_the_number_of_seeds():
    runs = [result(s, "head", 0.7 + s / 10, choices={"freeze_mode": "head", "lr": 0.1, "seed": s}) for s in range(2)]
    choices = {"freeze_mode": "head", "lr": 0.1, "seed": 2}
    failed = result(2, "head", 0, status="FAILED", choices=choices, metrics={})
    assert re.search(r"2 of 3 +75.00% ±7.07", outcome_text([*runs, failed], 80))


def test_sweep_without_results_prints_no_table():
    killed = result(0, "head", 0, status="KILLED", reason="KeyboardInterrupt", metrics={})
    assert outcome_text([killed], 80) == "  killed  head lr=[0.1]: KeyboardInterrupt (multirun/0)\n"


def test_runs_that_did_not_begin_share_a_line(tmp_path):
    interrupted = result(0, "head", 0.1, status="KILLED", reason="Ctrl-C", folder=str(tmp_path))
    others = [replace(interrupted, job=job, reason="not started", folder="gone") for job in range(1, 1_201)]
    assert outcome_text([*others, interrupted], 80).splitlines() == [
        f"  killed  {interrupted.name}: Ctrl-C ({tmp_path})",
        "  killed  1,200 runs: not started",
    ]
    assert outcome_text(others[:3], 80).count("not started (gone)") == 3


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.0s"),
        (0.04, "0.04s"),
        (0.096, "0.1s"),
        (9.96, "10s"),
        (59.6, "1m00s"),
        (185, "3m05s"),
        (3599.6, "1h00m"),
        (7620, "2h07m"),
    ],
)
def test_durations_are_rounded_and_formatted(seconds, text):
    assert duration(seconds) == text


def grid() -> list[Result]:
    """Return a sweep of three keys and two seeds."""
    points = [
        (mode, lr, augment) for mode in ("head", "full") for lr in (1e-3, 1e-4) for augment in ("none", "standard")
    ]
    return [
        result(2 * job + seed, mode, 0.9 + seed / 50, choices={**choices, "seed": seed})
        for job, (mode, lr, augment) in enumerate(points)
        for choices in [{"freeze_mode": mode, "lr": lr, "augment": augment}]
        for seed in range(2)
    ]


def test_heading_names_metric_only_if_all_use_it():
    by = {"select": "val/balanced_accuracy"}
    rare = result(1, "full", 0.9, choices={"freeze_mode": "full", **by}, metrics={"best/val_balanced_accuracy": 0.8})
    for found, heading in (([rare], "val balanced accuracy"), ([result(0, "head", 0.9), rare], "val")):
        headings = [str(column.header) for column in cells_table(cells(found), ["select"]).columns]
        assert heading in headings


@pytest.mark.parametrize(("width", "terminal", "costs"), [(80, False, True), (100, True, True), (72, True, False)])
def test_narrow_table_drops_costs_before_values(width, terminal, costs):
    text = outcome_text(grid(), width, terminal=terminal)
    rows = [line.split() for line in text.splitlines()]
    assert [row[:3] for row in rows].count(["full", "0.0001", "standard"]) == 1
    assert sum("91.00% ±1.41" in line for line in text.splitlines()) == 8
    assert all(("time" in row) == costs for row in rows if "freeze_mode" in row)
    assert not terminal or max(map(len, text.splitlines())) <= width


def test_table_in_a_file_exceeds_the_console_width():
    out = io.StringIO()
    shown = screen(40, out)
    show(shown, grid())
    assert "standard" in out.getvalue() and shown.console.width == 40


def test_long_search_table_has_best_trials_and_confirmation():
    marks = {"freeze_mode": "head", "search": "tpe", "study": "head", "seed": 0}
    trials = [result(n, "head", n / 100, choices={**marks, "lr": (n + 1) / 1e4, "trial": n}) for n in range(60)]
    fresh = result(60, "head", 0.01, choices={**marks, "lr": 0.006, "seed": 1, "confirms": 59})
    text = outcome_text([*trials, fresh], 100)
    rows = [line.split()[1] for line in text.splitlines() if line.split()[:1] == ["head"]]
    assert rows == [f"{(n + 1) / 1e4:g}" for n in range(59, 19, -1)] + ["0.006"]
    assert "20 more trials are in the report." in text


def test_search_table_tells_trials_and_fresh_seeds_apart():
    marks = {"freeze_mode": "full", "search": "tpe", "study": "full", "lr": 0.1, "seed": 0}
    trials = [result(n, "full", 0.9 + n / 100, choices={**marks, "trial": n}) for n in range(2)]
    assert "trial" not in [column.header for column in cells_table(cells(trials), ["lr"]).columns]
    fresh = [result(2 + n, "full", 0.85, choices={**marks, "seed": n, "confirms": 1}) for n in (1, 2)]
    (column,) = [one for one in cells_table(cells([*trials, *fresh]), ["lr"]).columns if one.header == "trial"]
    assert [str(text) for text in column.cells] == ["1", "0", "1, fresh seeds"]


def test_search_table_marks_trials_stopped_early():
    marks = {"freeze_mode": "head", "search": "tpe", "study": "head", "seed": 0}
    trials = [result(n, "head", 0.9 - n / 10, choices={**marks, "lr": 0.1**n, "trial": n}) for n in range(2)]
    assert "stopped" not in [column.header for column in cells_table(cells(trials), ["lr"]).columns]
    trials[1].metrics["search/pruned_after"] = 3.0
    (column,) = [one for one in cells_table(cells(trials), ["lr"]).columns if one.header == "stopped"]
    assert [*map(str, column.cells)] == ["-", "epoch 3"]


def test_narrow_terminal_shows_all_numbers_and_stages():
    out = Terminal()
    shown = screen(40, out)
    show(shown, grid())
    shown.plan(plan())
    lines = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()).splitlines()
    text = " ".join(" ".join(lines).split())
    assert max(map(len, lines)) <= 40 and "\N{HORIZONTAL ELLIPSIS}" not in text
    assert text.count("test 90.00% ±1.41") + text.count("val 91.00% ±1.41") >= 8, text
    for stage in plan().phases[0].stages:
        assert f"stage {stage.stage}, parameters {stage.parameters:,}" in text

"""The end of a sweep: whether it succeeded, which its exit status says, and what is shown."""

from __future__ import annotations

import pytest

from frostline.records.result import Result
from frostline.records.sweep_facts import Tracker
from frostline.report import outcome, terminal
from frostline.report.verdict import answer
from frostline.sweeps import closing
from frostline.sweeps.closing import succeeded
from frostline.tracking import session

DIVERGED = "Diverged: the training loss is nan in epoch 1"
TRIAL = {"search": "tpe", "study": "head", "trial": 0}


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([("FINISHED", None, {})], True),
        ([("PLANNED", None, {})], True),
        ([("FINISHED", None, {}), ("FAILED", DIVERGED, {})], False),
        ([("FINISHED", None, TRIAL), ("FAILED", DIVERGED, TRIAL)], True),
        ([("FAILED", DIVERGED, TRIAL), ("FAILED", DIVERGED, TRIAL)], False),
        ([("FINISHED", None, TRIAL), ("FAILED", "OSError: no space", TRIAL)], False),
    ],
)
def test_diverged_trials_are_no_failure_if_others_finished(runs, expected):
    results = [Result(number, "", "", None, *of, {}) for number, (*of,) in enumerate(runs)]
    assert succeeded(results) is expected


@pytest.fixture
def close(tmp_path, monkeypatch):
    """Close a sweep without its report, plots and record; return what it said, and what `close` returned."""
    lines = []
    monkeypatch.setattr(terminal, "say", lambda line, style="": lines.append(line))
    monkeypatch.setattr(closing, "show", lambda results, aside: lines.append(answer(results)) or lines[-1])
    monkeypatch.setattr(outcome, "write_page", lambda *a, **k: tmp_path / "report.html")
    monkeypatch.setattr(outcome, "draw_plots", lambda *a: [])
    monkeypatch.setattr(session, "close_sweep", lambda *a, **k: True)
    tracker = Tracker("http://nowhere", "e", str(tmp_path), None, None)
    return lambda *of, **more: (closing.close(tmp_path, tracker, *of, **more), lines)


def run(mode, status):
    metrics = {"best/val_accuracy": 0.9, "test/accuracy": 0.9} if status == "FINISHED" else {}
    return Result(0, mode, "/runs", None, status, None, {"freeze_mode": mode, "lr": 0.1, "seed": 0}, metrics)


ENDS = [("FINISHED", True, 1), ("KILLED", True, 1), ("KILLED", False, 0)]


@pytest.mark.parametrize(("first", "resume", "said"), ENDS)
def test_interrupted_sweep_says_once_how_to_continue(close, first, resume, said):
    _, lines = close([run("head", first), run("full", "KILLED")], KeyboardInterrupt(), resume=resume)
    told = "\n".join(lines)
    assert told.count("To continue") == said and "To try them again" not in told


@pytest.mark.parametrize(
    ("write", "named"), [("write_page", "`python -m frostline report "), ("draw_plots", " --plots` tries again")]
)
def test_sweep_without_its_report_or_plots_fails(write, named, close, monkeypatch):
    """The other files of it are written, and a line names the one that is not, and the command that writes it."""
    results = [run("head", "FINISHED")]
    assert close(results, None)[0]

    def full(folder, results, **more):
        raise OSError(28, "No space left on device", str(folder / "report.html"))

    monkeypatch.setattr(outcome, write, full)
    whole, lines = close(results, None)
    (line,) = [line for line in lines if "could not be written" in line]
    assert not whole and "report.html" in line and "`python -m frostline report " in line and named in line

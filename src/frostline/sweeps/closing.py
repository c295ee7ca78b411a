"""The end of a sweep: its answer on the screen, its report, and the end of its record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from frostline.core import project
from frostline.records import layout, search_marks
from frostline.records.recording import Record, reason_of
from frostline.records.result import Result
from frostline.records.sweep_record import Tracker
from frostline.report import cells as best
from frostline.report.verdict import answer
from frostline.sweeps import job
from frostline.tracking import session


def as_planned(result: Result) -> bool:
    """Return whether a run did what it should."""
    return result.status in ("FINISHED", "PLANNED") or search_marks.tells_a_search(result)


def close(
    folder: Path, tracker: Tracker | None, results: Sequence[Result], interrupt: KeyboardInterrupt | None
) -> bool:
    """Draw the results, and end the sweep's record; returns whether that can be completed, if it is not by now."""
    terminal, sentence = job.screen(), answer(results)
    terminal.say("")
    terminal.table(results)
    terminal.verdict(sentence)
    if tracker is None:
        return True
    page = _report(folder, tracker, results)
    statuses = {result.status for result in results}
    failed = interrupt is None and not statuses <= {"FINISHED", "RUNNING"}
    status = "FINISHED" if all(map(as_planned, results)) else "FAILED" if failed else "KILLED"
    recorded = session.close_sweep(
        tracker,
        status=status,
        description=sentence,
        results=results,
        metrics=best.metrics(results),
        tags=best.tags(results),
        say=terminal.say,
    )
    if page is not None:
        terminal.say(f"Report: {page}")
    terminal.say(f"See it in MLflow: {session.ui_command(tracker.uri, project.project_root())}")
    return recorded


def _report(folder: Path, tracker: Tracker, results: Sequence[Result]) -> Path | None:
    """Write the report and plots and keep them in the sweep's record; their failure must not cost the record its end.

    A sweep of one run is spared the plots, which show nothing that the report does not.
    """
    from frostline.report import html, plots

    record, title = Record(folder), f"Sweep {folder.parent.name} {folder.name}"
    try:
        page = html.write(folder / layout.REPORT, results, title=title, tracker=asdict(tracker))
        record.artifact(page)
        for file in plots.write(folder / layout.PLOTS, results) if len(results) > 1 else []:
            record.artifact(file, layout.PLOTS)
    except Exception as error:
        job.screen().say(f"The report could not be written: {reason_of(error)}", "yellow")
        return None
    return page

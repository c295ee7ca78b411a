"""What a screen cannot show, and a screen that is not there, never touch what is done."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

import written_sweeps
from frostline.core import streams
from frostline.report.terminal import Screen

SOURCE = Path(__file__).parents[2] / "src"
SAY = "from frostline.core import streams; streams.prepare(); print('97 ± 1 % 数字 é…')"


def shell(line, **environment):
    """Return what a shell that carries out `line` comes to; `$0` is this Python."""
    told = {**os.environ, "PYTHONPATH": str(SOURCE), **environment}
    return subprocess.run(["bash", "-c", line, sys.executable], env=told, capture_output=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii", rb"97 +/- 1 % \u6570\u5b57 \xe9..."),
        ("cp1252", "97 ± 1 % \\u6570\\u5b57 é…".encode("cp1252")),
        ("utf-8", "97 ± 1 % 数字 é…".encode()),
        ("ascii:replace", b"97 ? 1 % ?? ??"),
    ],
)
def test_a_sign_that_a_stream_lacks_is_spelled_unless_something_else_was_asked_for(encoding, shown):
    done = shell(f'"$0" -c "{SAY}"', PYTHONIOENCODING=encoding)
    assert (done.stdout.strip(), done.stderr, done.returncode) == (shown, b"", 0)


def test_a_closed_stream_is_nobody_and_its_number_is_no_files(tmp_path):
    program = (
        f"{SAY}; import sys; print('x', file=sys.stderr); open('{tmp_path}/file', 'w'); import os; os.write(1, b'y')"
    )
    done = shell(f'"$0" -c "{program}" >&- 2>&-')
    assert (done.stdout, done.stderr, done.returncode) == (b"", b"", 0)
    assert (tmp_path / "file").read_text() == ""


def test_the_screen_of_a_run_shows_what_it_can_on_whatever_stream(monkeypatch):
    kept = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(kept, encoding="cp1252"))
    Screen().say("classes: 数字, naïve")
    sys.stdout.flush()
    assert kept.getvalue().strip() == "classes: \\u6570\\u5b57, naïve".encode("cp1252")


@pytest.mark.slow
def test_every_stream_of_a_command_may_be_missing_or_narrow(tmp_path):
    folder = written_sweeps.sweep(tmp_path / "sweep", {"freeze_mode": ["head", "full"], "数": ["数字", "七"]}, seeds=2)
    narrow = shell(f'"$0" -m frostline compare "{folder}"', PYTHONIOENCODING="ascii")
    assert narrow.returncode == 0 and rb"\u6570\u5b57" in narrow.stdout and b" +/-" in narrow.stdout, narrow.stderr
    assert shell(f'"$0" -m frostline compare "{folder}" >&- 2>&-').returncode == 0


def test_what_is_prepared_twice_stays(capsys):
    streams.prepare()
    streams.prepare()
    sys.stdout.write("\ud800 naïve\n")
    assert capsys.readouterr().out == "\\ud800 naïve\n"

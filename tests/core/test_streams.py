"""Output streams that lack characters, or are closed, cause no errors."""

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
    """Run `line` in a shell, where `$0` is this Python."""
    env = {**os.environ, "PYTHONPATH": str(SOURCE), **environment}
    return subprocess.run(["bash", "-c", line, sys.executable], env=env, capture_output=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii", rb"97 +/- 1 % \u6570\u5b57 \xe9..."),
        ("cp1252", "97 ± 1 % \\u6570\\u5b57 é…".encode("cp1252")),
        ("utf-8", "97 ± 1 % 数字 é…".encode()),
        ("ascii:replace", b"97 ? 1 % ?? ??"),
    ],
)
def test_missing_characters_are_escaped_by_default(encoding, shown):
    done = shell(f'"$0" -c "{SAY}"', PYTHONIOENCODING=encoding)
    assert (done.stdout.strip(), done.stderr, done.returncode) == (shown, b"", 0)


def test_closed_stream_is_replaced_by_the_null_device(tmp_path):
    program = (
        f"{SAY}; import sys; print('x', file=sys.stderr); open('{tmp_path}/file', 'w'); import os; os.write(1, b'y')"
    )
    done = shell(f'"$0" -c "{program}" >&- 2>&-')
    assert (done.stdout, done.stderr, done.returncode) == (b"", b"", 0)
    assert (tmp_path / "file").read_text() == ""


def test_screen_escapes_missing_characters(monkeypatch):
    kept = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(kept, encoding="cp1252"))
    Screen().say("classes: 数字, naïve")
    sys.stdout.flush()
    assert kept.getvalue().strip() == "classes: \\u6570\\u5b57, naïve".encode("cp1252")


@pytest.mark.slow
def test_command_works_with_closed_and_ascii_streams(tmp_path):
    folder = written_sweeps.sweep(tmp_path / "sweep", {"freeze_mode": ["head", "full"], "数": ["数字", "七"]}, seeds=2)
    narrow = shell(f'"$0" -m frostline compare "{folder}"', PYTHONIOENCODING="ascii")
    assert narrow.returncode == 0 and rb"\u6570\u5b57" in narrow.stdout and b" +/-" in narrow.stdout, narrow.stderr
    assert shell(f'"$0" -m frostline compare "{folder}" >&- 2>&-').returncode == 0


def test_prepare_can_be_called_twice(capsys):
    streams.prepare()
    streams.prepare()
    sys.stdout.write("\ud800 naïve\n")
    assert capsys.readouterr().out == "\\ud800 naïve\n"

"""Run command lines that end before any run starts, one after the other in one process."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence

import warm

_TYPE = """
import json, sys
from frostline.cli import main
for typed in json.loads(sys.argv[1]):
    sys.argv[1:] = typed
    status = 0
    try:
        main()
    except SystemExit as end:
        status = end.code
    for stream in (sys.stdout, sys.stderr):
        print(end=f"\\0{status}\\0", file=stream, flush=True)
"""


def run_lines(lines: Sequence[Sequence[str]], environment: Mapping[str, str]) -> list[tuple[int, str, str]]:
    """Return the exit status, stdout and stderr of each command line."""
    done = warm.run([sys.executable, "-c", _TYPE, json.dumps(lines)], env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    (out, statuses), (err, _) = ((said[0::2], said[1::2]) for said in map(_parts, (done.stdout, done.stderr)))
    return [(int(status), *printed) for status, *printed in zip(statuses, out, err, strict=True)]


def _parts(said: str) -> list[str]:
    return said.split("\0")[:-1]

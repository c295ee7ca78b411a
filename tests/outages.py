"""A tracking server that is down, slow or broken while sweeps run: a real server behind a faulty proxy."""

from __future__ import annotations

import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from lab import CHECKOUT, LIMIT, Lab, Reference, Tally

PAUSE = 1.0
"""Seconds that each epoch sleeps, so that faults happen during it."""
EPOCHS = "epochs.txt"
BASIC = "hydra/launcher=basic"


@dataclass
class Server:
    """A real tracking server on the lab's database, and the proxy in front of it."""

    root: Path
    port: int
    behind: int
    process: subprocess.Popen[bytes] | None = None

    def up(self) -> None:
        """Start the server, and wait until it answers."""
        store = ("--backend-store-uri", f"sqlite:///{self.root}/mlflow.db")
        files = ("--artifacts-destination", str(self.root / "artifacts"), "--workers", "1")
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.behind)]
        quiet = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.root / "server.txt").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *store, *files], env=quiet, stdout=log, stderr=log, start_new_session=True
            )
        while not self._answers():
            time.sleep(0.1)

    def down(self) -> None:
        """Kill the server."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def manner(self, word: str) -> None:
        """Set how the proxy answers."""
        (self.root / ".manner").write_text(word)
        (self.root / ".manner").replace(self.root / "manner")

    def _answers(self) -> bool:
        with suppress(URLError, OSError):
            return bool(urlopen(f"http://127.0.0.1:{self.behind}/health", timeout=5).status == 200)
        return False


@contextmanager
def serving(lab: Lab) -> Iterator[Server]:
    """Yield a server that is not started, with its proxy running."""
    ports = [_free_port() for _ in range(2)]
    server = Server(lab.root, *ports)
    server.manner("well")
    command = [sys.executable, str(CHECKOUT / "tests" / "proxy.py"), *map(str, ports), str(lab.root / "manner")]
    with subprocess.Popen(command) as proxy:
        try:
            yield server
        finally:
            server.down()
            proxy.kill()


def _free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        return port


def slowed(root: Path, pause: float = PAUSE) -> Callable[[], None]:
    """Return a function that makes every epoch sleep, and logs when it ended."""

    def install() -> None:
        from frostline.runs import train

        record_epoch = train.record_epoch

        def slowed(epoch: Any, progress: Any, learner: Any, setup: Any, run: Any, record: Any) -> None:
            with (root / EPOCHS).open("a") as file:
                file.write(f"{run.folder} {time.monotonic()}\n")
            time.sleep(pause)
            record_epoch(epoch, progress, learner, setup, run, record)

        train.record_epoch = slowed

    return install


def gaps(root: Path) -> list[float]:
    """Return the seconds between the ends of consecutive epochs of a run."""
    ends: dict[str, list[float]] = {}
    for line in (root / EPOCHS).read_text().splitlines():
        folder, at = line.rsplit(" ", 1)
        ends.setdefault(folder, []).append(float(at))
    return [later - earlier for each in ends.values() for earlier, later in pairwise(each)]


def until_epoch(root: Path, count: int) -> None:
    """Wait until `count` epochs have ended, counted over all runs."""
    path, deadline = root / EPOCHS, time.monotonic() + LIMIT
    while time.monotonic() < deadline and not (path.exists() and path.read_text().count("\n") >= count):
        time.sleep(0.05)


def _start(server: Server, lab: Lab) -> None:
    until_epoch(lab.root, 3)
    server.up()


def _middle(server: Server, lab: Lab) -> None:
    until_epoch(lab.root, 2)
    server.down()
    until_epoch(lab.root, 5)
    server.up()


def _end(server: Server, lab: Lab) -> None:
    until_epoch(lab.root, 6)
    server.down()


def _flapping(server: Server, lab: Lab) -> None:
    for epoch in (1, 3, 5):
        until_epoch(lab.root, epoch)
        server.down()
        server.up()


def _manner(word: str) -> Callable[[Server, Lab], None]:
    def happen(server: Server, lab: Lab) -> None:
        until_epoch(lab.root, 2)
        server.manner(word)
        until_epoch(lab.root, 6)
        server.manner("well")

    return happen


SCENES: dict[str, tuple[bool, str, Callable[[Server, Lab], None]]] = {
    "nothing": (True, "well", lambda server, lab: None),
    "down at the start": (False, "well", _start),
    "down in the middle": (True, "well", _middle),
    "down at the end": (True, "well", _end),
    "down all the time": (False, "well", lambda server, lab: None),
    "killed three times": (True, "well", _flapping),
    "slow all the time": (True, "late", lambda server, lab: None),
    "half answers in the middle": (True, "well", _manner("half")),
    "half answers all the time": (True, "half", lambda server, lab: None),
    "errors in the middle": (True, "well", _manner("error")),
    "errors after the work in the middle": (True, "well", _manner("after")),
    "errors after the work all the time": (True, "after", lambda server, lab: None),
    "denied in the middle": (True, "well", _manner("denied")),
    "no answers in the middle": (True, "well", _manner("hang")),
    "no answers all the time": (True, "hang", lambda server, lab: None),
}
"""By name: whether the server is up at the start, the manner of its proxy, and what happens during the sweep."""


def outages(root: Path, numbers: Iterable[int], reference: Reference) -> Tally:
    """Run a sweep under each of `SCENES`; then, with the server working again, complete its record."""
    tally = Tally("tracking servers that are down or answer badly")
    usual = None
    for number in numbers:
        name, (up, manner, happen) = list(SCENES.items())[number]
        (place := root / f"outage-{number}").mkdir()
        with serving(Lab(place)) as server:
            lab = Lab(place, f"http://127.0.0.1:{server.port}")
            if up:
                server.up()
            server.manner(manner)
            began = time.monotonic()
            pid = lab.start(lab.arguments("sweep", BASIC), fault=slowed(place))
            happen(server, lab)
            status = lab.wait(pid, LIMIT)
            took = time.monotonic() - began
            server.manner("well")
            if server.process is None:
                server.up()
            at_once = status == 0 and lab.problem("sweep", reference.expected) is None
            code = _sync(lab)
            problem = lab.problem("sweep", reference.expected) if status == code == 0 else f"exit {status}, then {code}"
        between = gaps(place)
        usual = usual or statistics.median(between)
        delay = max(between) - min(usual, *between)
        tally.notes.append(
            f"{name}: the latest epoch {delay:.2f} s late, {took:.0f} s in all; complete"
            f" {'by itself' if at_once else 'by the next command'}"
        )
        tally.add(problem and f"{name}: {problem}")
        if delay >= 1:
            tally.notes.append(f"{name}: an epoch waited {delay:.2f} s")
            tally.survived -= problem is None
    return tally


def _sync(lab: Lab) -> int:
    """Return the exit status of `frostline sync`."""
    command = [sys.executable, "-m", "frostline", "sync", str(lab.root / "sweep")]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT / "src")}
    with (lab.root / "log.txt").open("ab") as log:
        return subprocess.run(command, env=environment, stdout=log, stderr=log, check=False).returncode

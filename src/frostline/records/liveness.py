"""Process identity: who has a folder or a run, and whether that process is still alive (host, id, start, heartbeat)."""

from __future__ import annotations

import functools
import getpass
import hashlib
import json
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from frostline.core import files
from frostline.records import cluster_jobs
from frostline.records.layout import BEAT, OWNER, OWNER_TAGS, SIGN_TAG

SILENT = 600.0
"""Seconds without a sign of life after which a process on another machine counts as gone."""
SILENT_WHEN_TOLD = 150.0
"""The same where a person says that this machine is gone: two of the signs that runs pass on to MLflow are missing."""

_PARTS = 3  # of what tells a machine, where it can be told from one that was started anew
_UNKNOWN = "?"  # a user, whom tags do not name


@dataclass(frozen=True)
class Owner:
    """A process, so that it is found again or known to be gone."""

    user: str
    host: str
    machine: str
    """What else tells whether process ids can be compared: the installation, its boot, the namespace of process ids."""
    pid: int
    started: float
    """Seconds since 1970."""

    def __str__(self) -> str:
        """Name the owner for people."""
        when = "at no time"  # of tags that a person has changed
        with suppress(ValueError, OverflowError, OSError):
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.started))
        who = self.host if self.user == _UNKNOWN else f"{self.user}@{self.host}"
        return f"{who} (process {self.pid}, started {when})"

    def tags(self) -> dict[str, str]:
        """Return the owner as tags of a run, a first sign of life among them."""
        own = dict(zip(OWNER_TAGS, (self.host, self.machine, str(self.pid), str(self.started)), strict=True))
        return {**own, SIGN_TAG: f"{time.time():.0f}"}

    @property
    def here(self) -> bool:
        """Whether its process id can be looked up in this process's surroundings."""
        return (self.host, self.machine) == (me().host, me().machine)

    def gone(self, sign: float | None = None, *, silent: float = SILENT) -> bool:
        """Return whether the process is no more.

        Of one elsewhere that is known by its last `sign` of life only, if that is more than `silent` seconds old.
        """
        import psutil

        if not self.here:
            return self._before_this_boot() or (sign is not None and time.time() - sign > silent)
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.started) > 1 or process.status() == psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, ValueError):  # below 0
            return True

    def _before_this_boot(self) -> bool:
        """Return whether it ran on this machine before it was started anew, as after a loss of power."""
        then, now = self.machine.split(), me().machine.split()
        same = self.host == me().host and len(then) == len(now) == _PARTS and then[0] == now[0]
        return same and then[1] != now[1]


Holder = Owner | cluster_jobs.Job
"""Who has a run: its text names it for people."""


@functools.cache
def me() -> Owner:
    """Return this process as an owner."""
    import psutil

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container without a passwd entry
        user = str(os.getuid())
    machine = f"{psutil.boot_time():.0f}"
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        machine = f"{boot} {Path('/proc/self/ns/pid').readlink()}"
        installed = Path("/etc/machine-id").read_bytes()  # not to be told to others as it is, see machine-id(5)
        if len(installed) > 30:  # 32 hex digits; an image of a container has none, or a word
            machine = f"{hashlib.sha256(b'frostline' + installed).hexdigest()[:16]} {machine}"
    return Owner(user, socket.gethostname(), machine, os.getpid(), psutil.Process().create_time())


os.register_at_fork(after_in_child=me.cache_clear)  # some launchers fork


def of_tags(tags: Mapping[str, str]) -> Owner | None:
    """Return the owner that a run's tags name, None where they name none."""
    try:
        host, machine, pid, started = (tags[key] for key in OWNER_TAGS)
        return Owner(_UNKNOWN, host, machine, int(pid), float(started))
    except (KeyError, ValueError):
        return None


def of_run(status: str, tags: Mapping[str, str], *, silent: float = SILENT) -> Owner | None:
    """Return who carries out a run that has this status and these tags; None where nobody does any more.

    Anybody can change tags: a sign of life that is no number is none.
    """
    owner, sign = of_tags(tags), None
    with suppress(KeyError, ValueError):
        sign = float(tags[SIGN_TAG])
    gone = status != "RUNNING" or owner is None or owner.gone(sign, silent=silent)
    return None if gone else owner


def write(path: Path) -> None:
    """Write this process as the owner into the file at `path`."""
    files.write(path, json.dumps(asdict(me())))


def read(path: Path) -> Owner | None:
    """Return the owner that the file at `path` names, None where it names none."""
    try:
        match files.read_json(path):
            case {"user": str(user), "host": str(host), "machine": str(machine), "pid": int(pid), "started": started}:
                return Owner(user, host, machine, pid, float(started))
    except (OSError, ValueError, TypeError, OverflowError):
        pass
    return None


def living(path: Path, *, silent: float = SILENT) -> Owner | None:
    """Return the owner that the file at `path` names, if that gives signs of life (see `gone`); None otherwise."""
    owner = read(path)
    try:
        return None if owner is None or owner.gone(path.stat().st_mtime, silent=silent) else owner
    except OSError:
        return None


def holder(folder: Path, *, silent: float = SILENT) -> Holder | None:
    """Return who has the run or sweep in `folder`; None where nobody does.

    That is who gives signs of life there, or the job of a cluster that its engine says runs or will.
    """
    alive = living(folder / BEAT, silent=silent) or living(folder / OWNER, silent=silent)
    return alive or cluster_jobs.holding(folder)


def let_go(folder: Path) -> None:
    """Have nobody hold the run or sweep in `folder` any more, whose process is known to be gone."""
    for name in (BEAT, OWNER):
        with suppress(OSError):
            (folder / name).unlink(missing_ok=True)

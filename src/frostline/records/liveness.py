"""Owner processes of folders and runs, and whether they are alive: by host, process id, start time and heartbeat."""

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
from frostline.records.layout import ALIVE_TAG, BEAT, OWNER, OWNER_TAGS

SILENT = 600.0
"""Seconds without a heartbeat after which a process on another machine counts as gone."""
SILENT_WHEN_TOLD = 150.0
"""The same if the user says that the other machine is gone: at least two heartbeats in MLflow are then missing."""

_PARTS = 3  # parts of `Owner.machine` where all are known: installation, boot, namespace
_UNKNOWN = "?"  # the user of an owner from tags, which do not name him


@dataclass(frozen=True)
class Owner:
    """The identity of a process, by which it can be found again or known to be gone."""

    user: str
    host: str
    machine: str
    """Installation, boot and namespace of process ids; process ids are comparable only if it is equal."""
    pid: int
    started: float
    """Start of the process in seconds since 1970."""

    def __str__(self) -> str:
        """Return a name for messages."""
        when = "at no time"  # for tags that were edited
        with suppress(ValueError, OverflowError, OSError):
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.started))
        who = self.host if self.user == _UNKNOWN else f"{self.user}@{self.host}"
        return f"{who} (process {self.pid}, started {when})"

    def tags(self) -> dict[str, str]:
        """Return the owner as tags of a run, with a first heartbeat."""
        own = dict(zip(OWNER_TAGS, (self.host, self.machine, str(self.pid), str(self.started)), strict=True))
        return {**own, ALIVE_TAG: f"{time.time():.0f}"}

    @property
    def here(self) -> bool:
        """Whether its process id can be looked up by this process: same machine, boot and namespace."""
        return (self.host, self.machine) == (this_process().host, this_process().machine)

    def gone(self, beat: float | None = None, *, silent: float = SILENT) -> bool:
        """Return whether the process is gone.

        A process on another machine counts as gone if its last heartbeat, at `beat` seconds since 1970, is more than
        `silent` seconds old.
        """
        import psutil

        if not self.here:
            return self._before_this_boot() or (beat is not None and time.time() - beat > silent)
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.started) > 1 or process.status() == psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, ValueError):  # a negative process id
            return True

    def _before_this_boot(self) -> bool:
        """Return whether it ran on this machine before its last reboot."""
        then, now = self.machine.split(), this_process().machine.split()
        same = self.host == this_process().host and len(then) == len(now) == _PARTS and then[0] == now[0]
        return same and then[1] != now[1]


Holder = Owner | cluster_jobs.Job
"""The owner of a run; its `str` is a name for messages."""


@functools.cache
def this_process() -> Owner:
    """Return this process as an owner."""
    import psutil

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container without a passwd entry
        user = str(os.getuid())
    machine = f"{psutil.boot_time():.0f}"
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        machine = f"{boot} {Path('/proc/self/ns/pid').readlink()}"
        installed = Path("/etc/machine-id").read_bytes()  # confidential, so it is hashed; see machine-id(5)
        if len(installed) > 30:  # 32 hex digits; in a container it may be empty or a word
            machine = f"{hashlib.sha256(b'frostline' + installed).hexdigest()[:16]} {machine}"
    return Owner(user, socket.gethostname(), machine, os.getpid(), psutil.Process().create_time())


os.register_at_fork(after_in_child=this_process.cache_clear)  # some launchers fork


def of_tags(tags: Mapping[str, str]) -> Owner | None:
    """Return the owner in a run's tags; None where they state none."""
    try:
        host, machine, pid, started = (tags[key] for key in OWNER_TAGS)
        return Owner(_UNKNOWN, host, machine, int(pid), float(started))
    except (KeyError, ValueError):
        return None


def of_run(status: str, tags: Mapping[str, str], *, silent: float = SILENT) -> Owner | None:
    """Return the living owner of a run with this status and these tags; None if it is not running or its owner is gone.

    Tags may have been edited: a heartbeat that is not a number is ignored.
    """
    owner, beat = of_tags(tags), None
    with suppress(KeyError, ValueError):
        beat = float(tags[ALIVE_TAG])
    return owner if status == "RUNNING" and owner and not owner.gone(beat, silent=silent) else None


def write(path: Path) -> None:
    """Write this process as the owner into the file at `path`."""
    files.write(path, json.dumps(asdict(this_process())))


def read(path: Path) -> Owner | None:
    """Return the owner in the file at `path`; None where there is none."""
    with suppress(OSError, ValueError, TypeError, OverflowError):
        match files.read_json(path):
            case {"user": str(user), "host": str(host), "machine": str(machine), "pid": int(pid), "started": started}:
                return Owner(user, host, machine, pid, float(started))
    return None


def living(path: Path, *, silent: float = SILENT) -> Owner | None:
    """Return the owner in the file at `path` if it is alive (see `Owner.gone`); None otherwise."""
    owner = read(path)
    with suppress(OSError):
        return None if owner is None or owner.gone(path.stat().st_mtime, silent=silent) else owner
    return None


def holder(folder: Path, *, silent: float = SILENT) -> Holder | None:
    """Return the owner of the run or sweep in `folder`; None where it has none.

    That is the living process named there, or a cluster job that is running or queued.
    """
    alive = living(folder / BEAT, silent=silent) or living(folder / OWNER, silent=silent)
    return alive or cluster_jobs.holding(folder)


def release(folder: Path) -> None:
    """Remove the ownership of the run or sweep in `folder`, whose process is known to be gone."""
    for name in (BEAT, OWNER):
        with suppress(OSError):
            (folder / name).unlink(missing_ok=True)

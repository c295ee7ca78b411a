"""The memory that control groups leave this process: the limit of a container or a job, which no machine tells.

Linux has two kinds side by side: https://docs.kernel.org/admin-guide/cgroup-v2.html and
https://docs.kernel.org/admin-guide/cgroup-v1/memory.html.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

_GROUPS, _MOUNT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def free_memory(groups: Path = _GROUPS, mount: Path = _MOUNT) -> int | None:
    """Return the bytes that the narrowest group of this process has left, None where no group has a limit.

    What a group counts holds the pages of files that were read, which it gives up before it refuses anything.
    """
    return min(_left(groups, mount), default=None)


def _left(groups: Path, mount: Path) -> Iterator[int]:
    """Yield the bytes that are left in every group that this process is in and that has a limit."""
    with suppress(OSError):
        for line in groups.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if "memory" in controllers.split(","):
                top, limit, usage = mount / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            elif not controllers:
                top, limit, usage = mount, "memory.max", "memory.current"
            else:
                continue
            for folder in _upwards(top, path):
                with suppress(OSError, ValueError):  # no such file at the top; `max` is no number
                    yield _free(int((folder / limit).read_text()), folder, usage)


def _upwards(top: Path, path: str) -> Iterator[Path]:
    """Yield the folders of a group and of those that it is in; in a container its own may be `top` itself."""
    inner = PurePosixPath(path.lstrip("/"))
    yield from (top / part for part in (inner, *inner.parents))


def _free(limit: int, folder: Path, usage: str) -> int:
    used = int((folder / usage).read_text())
    told = dict(line.split(" ", 1) for line in (folder / "memory.stat").read_text().splitlines())
    prefix = "total_" if "total_inactive_file" in told else ""  # of the first kind: with the groups below
    pages = sum(int(told.get(f"{prefix}{kind}_file", 0)) for kind in ("inactive", "active"))
    return max(0, limit - used + pages)

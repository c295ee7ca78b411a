"""Free memory under the limits of control groups, e.g. of a container or a cluster job.

Linux has two versions side by side: https://docs.kernel.org/admin-guide/cgroup-v2.html and
https://docs.kernel.org/admin-guide/cgroup-v1/memory.html.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

_GROUPS, _MOUNT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def free_memory(groups: Path = _GROUPS, mount: Path = _MOUNT) -> int | None:
    """Return the bytes left in the narrowest control group of this process, None if no group has a limit.

    The page cache, which a group counts as used but gives up before it refuses memory, counts as free.
    """
    return min(_left(groups, mount), default=None)


def _left(groups: Path, mount: Path) -> Iterator[int]:
    """Yield the bytes left in every group of this process that has a limit."""
    with suppress(OSError):
        for line in groups.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            _, controllers, path = line.split(":", 2)
            if "memory" in controllers.split(","):
                top, limit, usage = mount / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            elif not controllers:
                top, limit, usage = mount, "memory.max", "memory.current"
            else:
                continue
            inner = PurePosixPath(path.lstrip("/"))
            for folder in (top / part for part in (inner, *inner.parents)):  # a container's own group may be `top`
                with suppress(OSError, ValueError):  # no such file in the root group; `max` is not a number
                    yield _free(int((folder / limit).read_text()), folder, usage)


def _free(limit: int, folder: Path, usage: str) -> int:
    used = int((folder / usage).read_text())
    told = dict(line.split(" ", 1) for line in (folder / "memory.stat").read_text().splitlines())
    prefix = "total_" if "total_inactive_file" in told else ""  # in version 1, these include subgroups
    pages = sum(int(told.get(f"{prefix}{kind}_file", 0)) for kind in ("inactive", "active"))
    return max(0, limit - used + pages)

"""Memory limits of containers and jobs, by control groups of version 1 and 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from frostline.core import cgroups

GIB = 1 << 30
V2 = ("memory.max", "memory.current", "")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
NO_LIMIT = 9_223_372_036_854_771_712
"""The value of version 1 without a limit."""


def group(folder: Path, kind: tuple[str, str, str], limit: object, used: int, cached: int) -> None:
    """Write the files of a control group, with half of its file cache active."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / kind[0]).write_text(f"{limit}\n")
    (folder / kind[1]).write_text(f"{used}\n")
    pages = f"{kind[2]}inactive_file {cached // 2}\n{kind[2]}active_file {cached // 2}\n"
    (folder / "memory.stat").write_text(f"anon {used - cached}\n{pages}")


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    return tmp_path / "cgroup"


def free(mount: Path, *lines: str) -> int | None:
    (said := mount.with_name("self")).write_text("".join(f"{line}\n" for line in lines))
    return cgroups.free_memory(said, mount)


def test_file_cache_does_not_count_as_used(mount: Path) -> None:
    group(mount / "job", V2, 2 * GIB, used=GIB, cached=GIB // 2)
    assert free(mount, "0::/job") == 3 * GIB // 2


def test_smallest_limit_of_all_parents_counts(mount: Path) -> None:
    group(mount / "slice" / "job", V2, "max", used=0, cached=0)
    group(mount / "slice", V2, 3 * GIB, used=GIB, cached=0)
    assert free(mount, "0::/slice/job") == 2 * GIB
    group(mount / "slice" / "job", V2, GIB, used=0, cached=0)
    assert free(mount, "0::/slice/job") == GIB


def test_version_1_is_read(mount: Path) -> None:
    group(mount / "memory" / "job", V1, GIB, used=GIB // 2, cached=GIB // 4)
    group(mount / "memory", V1, NO_LIMIT, used=5 * GIB, cached=0)
    assert free(mount, "4:cpu,cpuacct:/job", "3:memory:/job", "0::/") == 3 * GIB // 4


def test_container_finds_its_group_at_the_mount(mount: Path) -> None:
    group(mount / "memory", V1, GIB, used=0, cached=0)
    assert free(mount, "4:memory:/docker/0123456789abcdef") == GIB


def test_usage_above_the_limit_leaves_nothing(mount: Path) -> None:
    group(mount, V2, GIB, used=2 * GIB, cached=0)
    assert free(mount, "0::/") == 0


def test_without_control_groups_there_is_no_limit(mount: Path) -> None:
    assert free(mount) is None and free(mount, "0::/") is None
    assert cgroups.free_memory(mount / "none", mount) is None

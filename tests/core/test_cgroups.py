"""What a container or a job may have of the memory is known, by whichever kind of control groups its limit is set."""

from __future__ import annotations

from pathlib import Path

import pytest

from frostline.core import cgroups

GIB = 1 << 30
SECOND = ("memory.max", "memory.current", "")
FIRST = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
NO_LIMIT = 9_223_372_036_854_771_712
"""What the first kind says where there is none."""


def group(folder: Path, kind: tuple[str, str, str], limit: object, used: int, cached: int) -> None:
    """Write the files of a control group, half of whose pages of files were used more than once."""
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


def test_pages_of_files_are_not_what_a_limit_is_used_up_by(mount: Path) -> None:
    group(mount / "job", SECOND, 2 * GIB, used=GIB, cached=GIB // 2)
    assert free(mount, "0::/job") == 3 * GIB // 2


def test_the_narrowest_group_counts_however_far_up_it_is(mount: Path) -> None:
    group(mount / "slice" / "job", SECOND, "max", used=0, cached=0)
    group(mount / "slice", SECOND, 3 * GIB, used=GIB, cached=0)
    assert free(mount, "0::/slice/job") == 2 * GIB
    group(mount / "slice" / "job", SECOND, GIB, used=0, cached=0)
    assert free(mount, "0::/slice/job") == GIB


def test_the_first_kind_is_read_too(mount: Path) -> None:
    group(mount / "memory" / "job", FIRST, GIB, used=GIB // 2, cached=GIB // 4)
    group(mount / "memory", FIRST, NO_LIMIT, used=5 * GIB, cached=0)
    assert free(mount, "4:cpu,cpuacct:/job", "3:memory:/job", "0::/") == 3 * GIB // 4


def test_a_container_finds_its_group_where_the_mount_begins(mount: Path) -> None:
    group(mount / "memory", FIRST, GIB, used=0, cached=0)
    assert free(mount, "4:memory:/docker/0123456789abcdef") == GIB


def test_what_is_used_beyond_a_limit_that_was_lowered_leaves_nothing(mount: Path) -> None:
    group(mount, SECOND, GIB, used=2 * GIB, cached=0)
    assert free(mount, "0::/") == 0


def test_without_groups_there_is_no_limit(mount: Path) -> None:
    assert free(mount) is None and free(mount, "0::/") is None
    assert cgroups.free_memory(mount / "none", mount) is None

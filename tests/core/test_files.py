"""Small files, and their paths as people type them."""

from __future__ import annotations

import re
import resource
from pathlib import Path

import pytest

from frostline.core import files
from frostline.core.files import expanded, write_alike


def test_a_home_that_nobody_has_is_a_name_like_any_other() -> None:
    assert expanded("~/images") == Path.home() / "images"
    assert expanded("~nobody-has-it/images") == Path("~nobody-has-it/images")


def test_a_disk_that_is_full_is_said_by_the_name_of_the_file_which_stays_as_it_was(tmp_path: Path) -> None:
    files.write(file := tmp_path / "page.html", "before")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError, match=re.escape(f": {str(file)!r}")):
            files.write(file, "after" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [one.read_text() for one in tmp_path.iterdir()] == ["before"]


def test_what_many_folders_have_alike_lies_once_on_a_disk(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
        for _ in range(2):  # also where it is there
            write_alike(folder / "alike.json", "[1]")
    assert [[*folder.iterdir()] for folder in folders] == [[folder / "alike.json"] for folder in folders]
    assert len({(folder / "alike.json").stat().st_ino for folder in folders}) == 1
    write_alike(folders[1] / "alike.json", "[2]")
    assert [(folder / "alike.json").read_text() for folder in folders] == ["[1]", "[2]", "[1]"]


def refused(*_: Path) -> None:
    raise PermissionError("no links here")


@pytest.mark.parametrize("change", ["edited", "gone", "no links"])
def test_what_is_alike_is_written_anew_where_it_cannot_be_a_link(
    tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = tmp_path / "one.json", tmp_path / "other" / "one.json"
    other.parent.mkdir()
    write_alike(one, "[1]")
    if change == "edited":
        one.write_text("[1, 2]")
    elif change == "gone":
        one.unlink()
    else:
        monkeypatch.setattr(files.Path, "hardlink_to", refused)
    write_alike(other, "[1]")
    assert other.read_text() == "[1]" and [*other.parent.iterdir()] == [other]

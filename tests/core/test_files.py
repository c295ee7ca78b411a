"""Small files and their paths."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from disk import file_size_limit
from frostline.core import files, project
from frostline.core.errors import UserError
from frostline.core.files import expanded, write_alike


def test_tilde_of_an_unknown_user_is_kept() -> None:
    assert expanded("~/images") == Path.home() / "images"
    assert expanded("~nobody-has-it/images") == Path("~nobody-has-it/images")


def test_a_user_without_a_home_gets_that_of_container_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    home = Path.home()
    project.ensure_home()
    assert Path.home() == home
    monkeypatch.setenv("HOME", str(home))  # which is restored
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 5)  # without an entry in /etc/passwd
    project.ensure_home()
    assert Path.home() == Path("/")


def test_full_disk_names_the_file_and_keeps_it(tmp_path: Path) -> None:
    files.write(file := tmp_path / "page.html", "before")
    with file_size_limit(100), pytest.raises(OSError, match=re.escape(f": {str(file)!r}")):
        files.write(file, "after" * 100)
    assert [one.read_text() for one in tmp_path.iterdir()] == ["before"]


def test_file_that_cannot_be_read_is_not_taken_for_the_one_written(tmp_path: Path) -> None:
    for read, named in (("a.png", "a.png"), ("list.partial", "list")):
        with pytest.raises(FileNotFoundError) as absent, files.naming(tmp_path / "list", tmp_path / "list.partial"):
            (tmp_path / read).read_bytes()
        assert absent.value.filename == str(tmp_path / named)


def test_equal_files_are_hard_links(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
        for _ in range(2):  # also if it exists
            write_alike(folder / "alike.json", "[1]")
    assert [[*folder.iterdir()] for folder in folders] == [[folder / "alike.json"] for folder in folders]
    assert len({(folder / "alike.json").stat().st_ino for folder in folders}) == 1
    write_alike(folders[1] / "alike.json", "[2]")
    assert [(folder / "alike.json").read_text() for folder in folders] == ["[1]", "[2]", "[1]"]


def refused(*_: Path) -> None:
    raise PermissionError("no links here")


@pytest.mark.parametrize("change", ["edited", "gone", "no links"])
def test_file_is_written_if_it_cannot_be_linked(tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_path_is_absolute_without_the_dots_it_begins_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a" / "b")
    monkeypatch.chdir(tmp_path / "link")
    here = tmp_path.resolve() / "a" / "b"
    assert files.absolute("x/../y") == here / "x/../y" and files.absolute(str(here / "../y")) == here / "../y"
    assert (
        files.absolute("../x") == here.parent / "x"
        and files.absolute("./../../b/../x") == here.parent.parent / "b/../x"
    )
    assert files.absolute(".") == here and files.absolute("~") == Path.home()


def test_device_or_pipe_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    for path in (pipe, Path(os.devnull), Path("/dev/stdout")):
        with pytest.raises(UserError, match=f"^--output={path}: expected a file, and no device or pipe$"):
            files.require_place("--output", path)
    files.require_place("--output", tmp_path / "new.csv")

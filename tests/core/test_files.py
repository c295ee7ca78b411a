"""Small files, and their paths as people type them."""

from __future__ import annotations

from pathlib import Path

from frostline.core.files import expanded


def test_a_home_that_nobody_has_is_a_name_like_any_other() -> None:
    assert expanded("~/pictures") == Path.home() / "pictures"
    assert expanded("~nobody-has-it/pictures") == Path("~nobody-has-it/pictures")

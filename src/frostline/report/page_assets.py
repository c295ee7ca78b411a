"""What pages are made of: files beside the code, and values that can stand in a page's script."""

from __future__ import annotations

import json
from importlib import resources
from string import Template


def text(name: str) -> str:
    """Return a file of `assets/report`."""
    return resources.files("frostline.assets").joinpath("report", name).read_text(encoding="utf-8")


def template(name: str) -> Template:
    """Return a page of `assets/report` with the head of all, whose `$names` are still to be filled in."""
    return Template(text("head.html") + text(name))


def script_json(data: object) -> str:
    """Return `data` so that it can stand in a `script` element, whatever names it holds."""
    found = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return found.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")

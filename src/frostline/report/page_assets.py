"""What pages are made of: files beside the code, tables, and values that can stand in a page's script."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from importlib import resources
from string import Template


def text(name: str) -> str:
    """Return a file of `assets/report`."""
    return resources.files("frostline.assets").joinpath("report", name).read_text(encoding="utf-8")


def template(name: str) -> Template:
    """Return a page of `assets/report` with the head of all, whose `$names` are still to be filled in."""
    return Template(text("head.html") + text(name))


def table(heads: Sequence[tuple[str, bool]], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of these headings, each with whether numbers stand below it, and rows of cells, all of it HTML."""
    marks = [' class="number"' if number else "" for _, number in heads]

    def line(cells: Sequence[str], kind: str = "td") -> str:
        marked = zip(cells, marks or [""] * len(cells), strict=True)
        return "<tr>" + "".join(f"<{kind}{mark}>{cell}</{kind}>" for cell, mark in marked) + "</tr>"

    head, body = line([name for name, _ in heads], "th"), "\n".join(map(line, rows))
    return f'<table class="plain"><thead>{head}</thead><tbody>{body}</tbody></table>'


def of_group(number: int, content: str) -> str:
    """Return what the page shows of a group of its data, by number, and scrolls where it is too wide."""
    return f'<div class="scroll" data-group="{number}">{content}</div>'


def script_json(data: object) -> str:
    """Return `data` so that it can stand in a `script` element, whatever names it holds."""
    found = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return found.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")

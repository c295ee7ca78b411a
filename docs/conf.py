"""How Sphinx builds the pages, and what of them is made from the program itself: every key and every command."""

from __future__ import annotations

import ast
import contextlib
import io
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import frostline
from frostline import commands
from frostline.core import config
from frostline.core.config_keys import flatten

project, author, version = "frostline", "the authors of frostline", frostline.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_heading_anchors = 2
default_role = "code"
html_theme, html_title = "furo", "frostline"
html_copy_source = False
html_static_path, html_css_files = ["_static"], ["page.css"]
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "exclude-members": "__init__"}


def setup(app: Any) -> None:
    """Have Sphinx fill the places that pages leave for what is made from the program."""
    app.connect("source-read", lambda app, name, source: source.__setitem__(0, _filled(source[0])))


def _filled(page: str) -> str:
    for place, made in (("<!-- keys -->", keys), ("<!-- commands -->", helps)):
        page = page.replace(place, made()) if place in page else page
    return page


def keys() -> str:
    """Return a table for each section of the schema: key, type, default and meaning."""
    tree = ast.parse(Path(config.__file__).read_text(encoding="utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    defaults = flatten(asdict(frostline.compose()))
    return "\n\n".join(_tables("Config", "", classes, defaults))


def _tables(name: str, prefix: str, classes: dict[str, ast.ClassDef], defaults: dict[str, Any]) -> Iterator[str]:
    rows, deeper = [], []
    for field, meaning in _fields(classes[name]):
        kind, key = ast.unparse(field.annotation), f"{prefix}{ast.unparse(field.target)}"
        if kind in classes:
            deeper.append((kind, key))
            continue
        text = " ".join(meaning.split()).replace("|", "\\|")
        default = repr(defaults[key]) if key in defaults and not isinstance(defaults[key], list | dict) else ""
        rows.append(
            f"| `{key}` | `{kind}` | {f'`{default}`' if default else ''} | {text} |".replace("| None`", "\\| None`")
        )
    title = f"## `{prefix.rstrip('.')}`" if prefix else "## Of a run"
    yield "\n".join([title, "", "| key | type | default | |", "|---|---|---|---|", *rows])
    for kind, key in deeper:
        yield from _tables(kind, f"{key}.", classes, defaults)


def _fields(node: ast.ClassDef) -> Iterator[tuple[ast.AnnAssign, str]]:
    """Yield each field with the docstring below it."""
    for field, below in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign):
            said = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            yield field, str(below.value.value) if said else ""  # type: ignore[union-attr]


def helps() -> str:
    """Return the help of every command, as it prints it."""
    os.environ["COLUMNS"] = "80"
    return "\n\n".join(f"## {name}\n\n```text\n{_help(name)}\n```" for name in commands.names())


def _help(name: str) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        commands.run(name, ["--help"])
    return said.getvalue().strip()

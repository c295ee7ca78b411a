"""The documentation is correct: commands compose, Python names exist, and Sphinx builds without warnings."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

import frostline
from frostline import api, commands
from frostline.core.project import at_home
from frostline.sweeps import hydra_overrides

CHECKOUT = Path(__file__).parents[1]
PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, kind: str) -> Iterator[str]:
    yield from (text for found, text in BLOCK.findall(page.read_text()) if found == kind)


def commands_in_pages() -> Iterator[str]:
    """Yield the arguments of every `python train.py` in the pages, in blocks and in running text."""
    for page in PAGES:
        text = page.read_text()
        yield from re.findall(r"^python train\.py (.+)$", text, re.MULTILINE)
        yield from re.findall(r"`python train\.py ([^`…<]+)`", text.replace("\n", " "))


COMMANDS = sorted(set(commands_in_pages()))


@pytest.mark.slow
@pytest.mark.parametrize("line", COMMANDS)
def test_commands_in_pages_compose(line: str) -> None:
    arguments = [part for part in shlex.split(line, comments=True) if not part.startswith(("-", "hydra"))]
    arguments = [at_home(argument) for argument in arguments if "=" in argument]
    arguments = [re.sub("^cluster=.*", "cluster=local", argument) for argument in arguments]  # launchers are extras
    if "freeze=mine" in arguments:
        return  # the page tells the reader to write this mode first
    chosen = []
    for override in hydra_overrides.split(OverridesParser.create().parse_overrides(arguments))[0]:  # without ranges
        value = next(iter(override.sweep_string_iterator())) if override.is_sweep_override() else None
        chosen.append(str(override.input_line) if value is None else f"{override.get_key_element()}={value}")
    assert isinstance(frostline.compose(*chosen), frostline.Config)


def test_pages_contain_commands_and_python() -> None:
    assert len(COMMANDS) > 5 and sum(len(list(blocks(page, "python"))) for page in PAGES) >= 2


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_names_in_pages_exist(page: Path) -> None:
    of = {"frostline": frostline, "sweep": api.Sweep, "network": api.Classifier}
    for text in blocks(page, "python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in of:
                assert hasattr(of[node.value.id], node.attr), ast.unparse(node)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_command_names_in_pages_exist(page: Path) -> None:
    named = re.findall(r"python\s-m\sfrostline\s([a-z]+)", page.read_text())
    assert set(named) <= {*commands.names(), "audit"}  # an example of a plugin's command


def test_no_page_has_the_name_of_one_that_sphinx_writes() -> None:
    assert not {page.stem for page in PAGES} & {"search", "genindex", "modindex", "py-modindex"}  # it would be lost


@pytest.mark.slow
@pytest.mark.skipif(find_spec("sphinx") is None, reason="needs Sphinx, which `make docs` installs")
def test_sphinx_builds_every_key_and_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "-d", tmp_path / "doctrees", CHECKOUT / "docs", tmp_path / "site"],
        **{"capture_output": True, "text": True, "check": False, "timeout": 240},
    )
    assert done.returncode == 0, done.stderr
    keys = (tmp_path / "site" / "config.html").read_text()
    assert all(f">{key}<" in keys for key in ("data.max_pixels", "train.ema_decay", "lr", "store.budget_gb"))
    reference = (tmp_path / "site" / "python.html").read_text()
    assert all(f'id="frostline.{name}"' in reference for name in {*frostline.__all__} - {"Config", "UserError"})
    assert 'id="frostline.Sweep.to_pandas"' in reference
    shown = (tmp_path / "site" / "commands.html").read_text()
    assert all(f"usage: frostline {name}" in re.sub(r"<[^>]+>", "", shown) for name in commands.names())

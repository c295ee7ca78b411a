"""What another package brings is found by its name, and trained as if it had always been there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import stores
from frostline import commands
from frostline.core import plugins
from frostline.core.errors import UserError
from frostline.models import build
from small import load_data

CHECKOUT = Path(__file__).parents[2]
CODE = r'''"""Squares of two colours, a network for them, and a command."""

import numpy as np
import torch
from PIL import Image
from torch import nn

from frostline.data.sources import Source
from frostline.models.architecture import Architecture
from frostline.models.input_spec import InputSpec
from frostline.models.stages import Family, each


def splits(root, count=60):
    labels = torch.arange(count) % 2
    levels = np.random.default_rng(0).integers(0, 60, (count, 16, 16, 3), dtype=np.uint8)
    levels[..., 0] += (labels.numpy() * 150).astype(np.uint8)[:, None, None]
    return {"train": Source(labels, ("blue", "red"), lambda i: Image.fromarray(levels[i]), "square {}".format)}


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.layers = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 8, 3, stride=2))
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(self.layers(self.stem(x)).mean((2, 3)))


tiny = Architecture(
    network=lambda size: Tiny(),
    family=Family("fc", r"layers\.(\d+)", each, stem="stem"),
    input=InputSpec(16, 16, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "bilinear"),
)


def main(arguments):
    print("hello", *arguments)
    return 3
'''
ENTRIES = """[frostline.sources]
squares = squares:splits
lost = squares:lost
[frostline.models]
tiny = squares:tiny
[frostline.commands]
hello = squares
"""
MINE = """name: mine
norm_stats: learn
phases:
  - rules:
      - {match: head/*}
      - {match: stage2/*}
      - {match: "*", lr_scale: 0}
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that somebody else installed."""
    (tmp_path / "site" / "squares-1.2.dist-info").mkdir(parents=True)
    (tmp_path / "site" / "squares.py").write_text(CODE)
    (tmp_path / "site" / "squares-1.2.dist-info" / "METADATA").write_text("Name: squares\nVersion: 1.2\n")
    (tmp_path / "site" / "squares-1.2.dist-info" / "entry_points.txt").write_text(ENTRIES)
    monkeypatch.syspath_prepend(tmp_path / "site")
    plugins._points.cache_clear()
    yield tmp_path / "site"
    sys.modules.pop("squares", None)
    plugins._points.cache_clear()


def request(source: str) -> dict:
    return {"source": source, "root": "/nowhere", "options": {"count": 40}}


def test_a_source_a_network_and_a_command_are_found_by_name(package, capsys):
    opened = plugins.load(plugins.SOURCES, "squares")(root=Path("/nowhere"))
    assert opened["train"].classes == ("blue", "red") and len(opened["train"].labels) == 60
    model = build.build("tiny", weights=None, num_classes=3, seed=0)
    assert model.structure.stages == ("stem", "stage1", "stage2", "head")
    assert model.module(torch.zeros(2, 3, 16, 16)).shape == (2, 3) and model.input.size == 16
    assert "hello" in commands.names() and commands.run("hello", ["you"]) == 3
    assert capsys.readouterr().out == "hello you\n"


def test_the_code_of_a_network_is_part_of_what_its_features_are_found_by(package):
    before = plugins.identity(plugins.MODELS, "tiny")
    assert before is not None and before.startswith("1.2 ")
    (package / "squares.py").write_text(CODE + "# another\n")
    assert plugins.identity(plugins.MODELS, "tiny") != before
    assert plugins.identity(plugins.MODELS, "resnet50") is None


def test_what_is_not_there_or_cannot_be_loaded_is_one_line(package):
    with pytest.raises(UserError, match=r"^model\.name=tinny: expected one of .*; did you mean tiny\?$"):
        build.build("tinny", weights=None, num_classes=2, seed=0)
    with pytest.raises(UserError, match=r"^lost: expected a plugin of frostline\.sources that can be loaded"):
        plugins.load(plugins.SOURCES, "lost")
    with pytest.raises(UserError, match="did you mean squares"):
        load_data(**request("squarez"))


@pytest.mark.slow
def test_a_sweep_over_another_packages_data_and_network_and_a_freeze_mode_of_ones_own(package, tmp_path):
    (mode := tmp_path / "work" / "conf" / "freeze_mode" / "mine.yaml").parent.mkdir(parents=True)
    mode.write_text(MINE)
    path = f"{CHECKOUT / 'src'}{os.pathsep}{package}"
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "140"}
    chosen = ("freeze=head,mine", "data.source=squares", "model.name=tiny", "model.weights=null")
    quick = ("epochs=2", "batch_size=10", "lr=0.05", "resume=false")
    where = (f"hydra.sweep.dir={tmp_path / 'sweep'}", f"tracking.uri=sqlite:///{stores.put(tmp_path / 'mlflow.db')}")
    done = subprocess.run(
        [sys.executable, "-m", "frostline", "-m", *chosen, *quick, *where],
        **{"env": environment, "cwd": tmp_path / "work", "capture_output": True, "text": True, "check": False},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mine lr=0.05" in done.stdout and "blue, red" in done.stdout

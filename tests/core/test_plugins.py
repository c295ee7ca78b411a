"""Plugins of other packages: sources, networks and commands by entry points."""

from __future__ import annotations

import json
import os
import re
import sys
import tomllib
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import stores
import warm
from frostline import commands
from frostline.core import plugins
from frostline.core.errors import UserError
from frostline.data import plugin_source
from frostline.data.source import Source
from frostline.models import build, cut
from frostline.records import provenance
from frostline.runs import checks
from lab import Lab
from small import compose, load_data

CHECKOUT = Path(__file__).parents[2]
CODE = r'''"""Squares of two colours, a network for them, and a command."""

import numpy as np
import torch
from PIL import Image
from torch import nn

from frostline.data.source import Source
from frostline.models.architecture import Architecture
from frostline.core.input_spec import InputSpec
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


def none(root, count=60):
    return {}


five = 5


def main(arguments):
    print("hello", *arguments)
    return 3
'''
ENTRIES = """[frostline.sources]
squares = squares:splits
none = squares:none
lost = squares:lost
[frostline.models]
tiny = squares:tiny
five = squares:five
[frostline.commands]
hello = squares
none = squares:tiny
"""
MINE = """name: mine
norm_stats: learn
phases:
  - rules:
      - {match: head/*}
      - {match: stage2/*}
      - {match: "*", lr_scale: 0}
"""
FAKE_TRANSFORMERS = r'''"""The part of transformers that the plugin in docs/models.md uses, for machines without it."""

import torch
from torch import nn


class Dinov2Config:
    def __init__(self, *, num_hidden_layers, **options):
        self.hidden_size, self.num_hidden_layers = 16, num_hidden_layers


class Embeddings(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.cls_token, self.patches = nn.Parameter(torch.zeros(1, 1, width)), nn.Conv2d(3, width, 14, 14)

    def forward(self, images):
        tokens = self.patches(images).flatten(2).mT
        return torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], 1)


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x):
        mixed = nn.functional.scaled_dot_product_attention(self.q_proj(x), self.k_proj(x), self.v_proj(x))
        return self.o_proj(mixed), None


class Layer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm1, self.attention, self.mlp = nn.LayerNorm(width), Attention(width), nn.Linear(width, width)

    def forward(self, hidden_states, attention_mask=None, **options):
        attended, _ = self.attention(self.norm1(hidden_states))
        return hidden_states + attended + self.mlp(hidden_states)


class Dinov2Model(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, self.encoder = config.hidden_size, nn.Module()
        self.embeddings, self.layernorm = Embeddings(width), nn.LayerNorm(width)
        self.encoder.layer = nn.ModuleList(Layer(width) for _ in range(config.num_hidden_layers))
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Install a package with entry points; return the folder of installed packages."""
    (tmp_path / "site" / "squares-1.2.dist-info").mkdir(parents=True)
    (tmp_path / "site" / "squares.py").write_text(CODE)
    (tmp_path / "site" / "squares-1.2.dist-info" / "METADATA").write_text("Name: squares\nVersion: 1.2\n")
    (tmp_path / "site" / "squares-1.2.dist-info" / "entry_points.txt").write_text(ENTRIES)
    monkeypatch.syspath_prepend(tmp_path / "site")
    plugins._installed.cache_clear()
    yield tmp_path / "site"
    sys.modules.pop("squares", None)
    plugins._installed.cache_clear()
    provenance.packages.cache_clear()


def request(source: str) -> dict:
    return {"source": source, "root": "/nowhere", "options": {"count": 40}}


def test_plugins_are_found_by_name(package, capsys):
    opened = plugins.load(plugins.SOURCES, "squares")(root=Path("/nowhere"))
    assert opened["train"].classes == ("blue", "red") and len(opened["train"].labels) == 60
    model = build.build("tiny", weights=None, num_classes=3, seed=0)
    assert model.structure.stages == ("stem", "stage1", "stage2", "head")
    assert model.module(torch.zeros(2, 3, 16, 16)).shape == (2, 3) and model.input.size == 16
    assert [plugins.distribution(plugins.MODELS, name) for name in ("tiny", "resnet18")] == ["squares", None]
    assert commands.is_one("hello") and commands.run("hello", ["you"]) == 3
    assert capsys.readouterr().out == "hello you\n"


def test_models_command_lists_a_plugins_network(package, monkeypatch, capsys):
    monkeypatch.setattr(plugins, "names", lambda group: ["tiny"])
    assert commands.run("models", ["tiny", "--library", "torchvision"]) == 0
    (shown,) = (line for line in capsys.readouterr().out.splitlines() if "=tiny " in line)
    assert shown.split()[:3] == ["model.name=tiny", "model.weights=null", "model.image_size=null"]
    assert "16 px" in shown


@pytest.mark.parametrize("word", ["-m", "--help", "lr=1e-2"])
def test_overrides_do_not_search_installed_commands(word, monkeypatch):
    monkeypatch.setattr(commands, "names", lambda: pytest.fail("searched"))
    assert not commands.is_one(word)


def test_identity_of_a_network_includes_its_code(package):
    before = plugins.identity(plugins.MODELS, "tiny")
    assert before is not None and before.startswith("1.2 ")
    (package / "squares.py").write_text(CODE + "# another\n")
    assert (now := plugins.identity(plugins.MODELS, "tiny")) != before
    with (package / "squares-1.2.dist-info" / "METADATA").open("a") as file:
        file.write("Requires-Dist: torchvision>=0.20\nRequires-Dist: not-there; extra == 'more'\n")
    plugins._installed.cache_clear()
    assert plugins.identity(plugins.MODELS, "tiny") == f"{now} torchvision=={version('torchvision')}"
    assert plugins.identity(plugins.MODELS, "resnet50") is None


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (torch.tensor([0.0, 1.0]), ("a", "b"), "labels, .* not float32 of shape"),
        (torch.tensor([0, 2]), ("a", "b"), "from 0 to 2"),
        (torch.tensor([-1, 1]), ("a", "b"), "from -1 to 1"),
        (torch.tensor([0, 1], dtype=torch.int32), ("a", "b"), "not int32"),
        (torch.zeros(2, 3, dtype=torch.bool), ("a", "b"), r"not bool of shape \(2, 3\)"),
        (torch.tensor([], dtype=torch.int64), ("a", "b"), "at least one"),
        (["a", "b"], ("a", "b"), "labels, a tensor"),
        (torch.tensor([0, 0]), ("a",), "two or more names"),
        (torch.tensor([0, 1]), ("a", "a"), "names that differ"),
        (torch.tensor([0, 1]), (0, 1), "names that differ"),
        (torch.tensor([0, 1]), ["a", "b"], "a tuple"),
    ],
)
def test_invalid_labels_of_a_source_are_one_line(labels, classes, message):
    odd = Source(labels, classes, lambda index: None, str)
    with pytest.raises(UserError, match=f"^data.source=mine: expected a plugin whose train has .*{message}"):
        plugin_source.splits("mine", lambda root: {"train": odd}, Path(), {})


@pytest.mark.parametrize("groups", [[0, 1], torch.tensor([0])])
def test_groups_of_a_source_are_a_number_per_image(groups):
    odd = Source(torch.tensor([0, 1]), ("a", "b"), lambda index: None, str, groups=groups)
    with pytest.raises(UserError, match=r"whose train has groups, a tensor of a number per image$"):
        plugin_source.splits("mine", lambda root: {"train": odd}, Path(), {})


def test_what_is_no_image_of_pillow_is_told():
    arrays = Source(torch.tensor([0, 1]), ("a", "b"), lambda index: np.zeros((4, 4, 3)), str)
    found = plugin_source.splits("mine", lambda root: {"train": arrays}, Path(), {})
    with pytest.raises(TypeError, match=r"^an image of Pillow is expected from read, not ndarray$"):
        found["train"].read(0)


def test_splits_of_a_source_must_have_equal_classes():
    train, test = (Source(torch.tensor([0, 1]), names, lambda i: None, str) for names in (("a", "b"), ("b", "a")))
    with pytest.raises(UserError, match="whose test has the classes of train"):
        plugin_source.splits("mine", lambda root: {"train": train, "test": test}, Path(), {})


def test_missing_or_broken_plugin_is_one_line(package):
    with pytest.raises(UserError, match=r"^model\.name=tinny: expected one of .*; did you mean tiny\?$"):
        build.build("tinny", weights=None, num_classes=2, seed=0)
    with pytest.raises(UserError, match=r"^lost: expected a plugin of frostline\.sources that can be loaded"):
        plugins.load(plugins.SOURCES, "lost")
    with pytest.raises(UserError, match="did you mean squares"):
        load_data(**request("squarez"))
    with pytest.raises(UserError, match=r"^data\.options=.*: expected arguments that .* squares takes .*\(.*'coumt'"):
        load_data(**request("squares") | {"options": {"coumt": 40}})
    with pytest.raises(
        UserError, match=r"^data\.source=none: expected a plugin that returns a Source .*, not nothing$"
    ):
        load_data(**request("none"))
    with pytest.raises(UserError, match=r"^model\.name=five: expected .* an Architecture, not of type int$"):
        build.build("five", weights=None, num_classes=2, seed=0)
    with pytest.raises(UserError, match=r"^none: expected a plugin of frostline\.commands that is a module with main"):
        commands.run("none", [])


def test_name_conflicts_of_plugins_are_reported(package, capsys):
    entries = ENTRIES.replace("tiny =", "resnet18 =").replace("hello =", "store =").replace("squares =", "digits =")
    (package / "squares-1.2.dist-info" / "entry_points.txt").write_text(
        entries + "[frostline.sources]\nCIFAR10 = squares:none\n"
    )
    assert commands.run("store", ["--path", str(package / "none")]) == 0
    assert "store is a built-in command; the one of squares is ignored" in capsys.readouterr().err
    config = compose("model=resnet18")
    other = replace(config, data=replace(config.data, source="CIFAR10"))
    found = [finding.about for one in (config, other) for finding in checks._namesakes(one)]
    assert found == [
        "model.name=resnet18 is torchvision's: the one of squares is not used",
        "data.source=digits is frostline's: the one of squares is not used",
        "model.name=resnet18 is torchvision's: the one of squares is not used",
        "data.source=CIFAR10 is the one of squares, not torchvision's",
    ]
    (other := package / "other-1.dist-info").mkdir()
    (other / "METADATA").write_text("Name: other\nVersion: 1\n")
    (other / "entry_points.txt").write_text("[frostline.models]\nfive = squares:tiny\n")
    plugins._installed.cache_clear()
    with pytest.raises(UserError, match=r"^five: expected one plugin of frostline\.models .* but (other|squares) and "):
        build.build("five", weights=None, num_classes=2, seed=0)


def run_command(package: Path, *typed: str, cwd: Path = CHECKOUT) -> str:
    """Return the output of a command with `package` installed."""
    path = f"{CHECKOUT / 'src'}{os.pathsep}{package}"
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "140"}
    done = warm.run([sys.executable, "-m", "frostline", *typed], env=environment, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_sweep_with_plugins_and_an_own_freeze_mode(package, tmp_path):
    (mode := tmp_path / "work" / "conf" / "freeze_mode" / "mine.yaml").parent.mkdir(parents=True)
    mode.write_text(MINE)
    chosen = ("freeze=head,mine", "data.source=squares", "model.name=tiny", "model.weights=null")
    quick = ("epochs=2", "batch_size=10", "lr=0.05", "resume=false", "hydra.launcher.workers=1")
    where = (f"hydra.sweep.dir={tmp_path / 'sweep'}", f"tracking.uri=sqlite:///{stores.put(tmp_path / 'mlflow.db')}")
    said = run_command(package, "-m", *chosen, *quick, *where, cwd=tmp_path / "work")
    assert "mine lr=0.05" in said and "blue, red" in said


@pytest.fixture
def documented_plugin(tmp_path, monkeypatch):
    """Install the plugin of docs/models.md, and return a folder with weights for it."""
    page = (CHECKOUT / "docs" / "models.md").read_text()
    code = next(block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "Architecture(" in block)
    facts = tomllib.loads(next(iter(re.findall(r"```toml\n(.*?)```", page, re.DOTALL))))["project"]
    (info := tmp_path / "site" / f"{facts['name'].replace('-', '_')}-{facts['version']}.dist-info").mkdir(parents=True)
    (info / "METADATA").write_text(f"Name: {facts['name']}\nVersion: {facts['version']}\n")
    groups = facts["entry-points"].items()
    lines = [f"[{group}]\n{name} = {value}" for group, points in groups for name, value in points.items()]
    (info / "entry_points.txt").write_text("\n".join(lines))
    (tmp_path / "site" / "dinov2_hf.py").write_text(code)
    if find_spec("transformers") is None:
        (tmp_path / "site" / "transformers.py").write_text(FAKE_TRANSFORMERS)
    monkeypatch.syspath_prepend(tmp_path / "site")
    plugins._installed.cache_clear()

    model = build.build("dinov2_hf", weights=None, num_classes=2, seed=7)
    theirs = {
        "o_proj": "output.dense",
        **{f"{name[0]}_proj": f"attention.{name}" for name in ("query", "key", "value")},
    }
    tensors = {name: tensor for name, tensor in model.module.state_dict().items() if not name.startswith("head")}
    for ours, name in theirs.items():
        tensors = {key.replace(f"attention.{ours}.", f"attention.{name}."): one for key, one in tensors.items()}
    (folder := tmp_path / "weights").mkdir()
    (folder / "config.json").write_text("{}")
    save_file(tensors, folder / "model.safetensors")
    yield folder
    for name in ("dinov2_hf", "transformers"):
        if getattr(sys.modules.get(name), "__file__", "").startswith(str(tmp_path)):
            del sys.modules[name]
    plugins._installed.cache_clear()


def test_documented_plugin_loads_weights_with_hub_names(documented_plugin):
    model = build.build("dinov2_hf", weights=str(documented_plugin), num_classes=3, seed=0)
    first = build.build("dinov2_hf", weights=None, num_classes=2, seed=7)
    assert model.structure.stages == ("stem", "stage1", "stage2", "stage3", "stage4", "head") and model.new_head
    given = model.module.state_dict()
    below = [name for name in given if not name.startswith("head")]
    assert all(torch.equal(given[name], first.module.state_dict()[name]) for name in below)
    assert model.structure.stage_of("encoder.layer.11.mlp") == "stage4"
    lower, upper = cut.halves(model.module.eval(), model.structure, ("stem", "stage1"))
    images = torch.randn(2, 3, 28, 28)
    torch.testing.assert_close(upper(lower(images)), model.module(images))


@pytest.mark.slow
def test_documented_plugin_can_be_trained_and_rerun(documented_plugin, tmp_path):
    lab = Lab(tmp_path)
    stores.put(tmp_path / "mlflow.db")
    chosen = ("model.name=dinov2_hf", f"model.weights={documented_plugin}", "model.image_size=28", "lr=1e-2")
    run_command(tmp_path / "site", *lab.arguments("plan", *chosen, "freeze=head", "dry_run=true"))
    plan = json.loads((tmp_path / "plan" / "0" / "plan.json").read_text())
    assert [stage["learning"] > 0 for stage in plan["phases"][0]["stages"]] == [False] * 5 + [True]
    run_command(tmp_path / "site", *lab.arguments("sweep", *chosen))
    keys = ("tracking.uri", "store.path", "hydra.sweep.dir")
    places = [one for one in lab.arguments("again") if one.startswith(keys)]
    run_command(tmp_path / "site", f"rerun={tmp_path / 'sweep'}", *places)  # exits with 0 only for equal bits

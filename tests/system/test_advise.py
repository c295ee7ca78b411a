"""`frostline advise` through the command line and the API."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest
import torch

import frostline
from frostline import commands
from frostline.core.errors import UserError
from frostline.runs import costs
from frostline.sweeps import advice
from small import compose

QUICK = ("data.limit=100", "threads=1", "batch_size=20", "freeze=head,full")


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch):
    monkeypatch.setattr(costs, "_STEPS", 2)


@pytest.mark.slow
def test_pretrained_weights_rank_above_random_ones(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    typed = ("model=shufflenet_glyphs", "model.weights=null,glyphs", "--images", "100", *QUICK, "data.limit=40")
    assert commands.run("advise", [*typed, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    glyphs, random = said["backbones"]
    assert (glyphs["name"], random["name"]) == ("model.weights=glyphs", "model.weights=null")
    assert glyphs["best"]["probe"] > random["best"]["probe"] + 0.05 and not random["left"]
    assert glyphs["under_head"]["probe"] > random["under_head"]["probe"] + 0.2
    assert [cost["mode"] for cost in random["costs"]] == ["head", "full"]
    assert said["sample"] == {"train": 40, "val": 50, "classes": 10}
    assert "model.weights=glyphs " in said["next"] and "freeze=head,full" in said["next"]
    assert not list(tmp_path.iterdir())  # no record and no sweep folder


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (("model=resnt18,resnet50",), "model=resnt18: expected one of the .*; did you mean resnet18?"),
        (("lr=-1",), "lr=-1.0: expected a finite number above 0"),
        (("lrr=1",), "lrr=1: expected a key of the config"),
        (("data=digits,glyphs",), "data=digits,glyphs: expected one value, since backbones are compared on the same"),
        (("data.root=here",), "data.root=here: expected to be given with data=image_folder"),
        (("hydra.mode=RUN",), "hydra.mode=RUN: expected MULTIRUN"),
        (("model.weights=none.safetensors",), "model.weights=none.safetensors: expected a file"),
    ],
)
def test_mistake_is_one_line(typed, line):
    with pytest.raises(UserError) as mistake:
        frostline.advise(*typed, "freeze=head")
    assert re.match(line.replace("?", r"\?"), str(mistake.value)) and "\n" not in str(mistake.value)


def test_draws_of_training_images_are_one_data_set():
    drawn = [SimpleNamespace(config=compose("data.shots=2", f"data.subset_seed={seed}")) for seed in (0, 1)]
    advice._require_one_data_set(drawn, {"data.shots": "2", "data.subset_seed": "${seed}", "seed": "0,1"})


@pytest.mark.slow
def test_advice_has_tables_and_keeps_the_random_state():
    before = torch.get_rng_state()
    with torch.no_grad():
        found = frostline.advise("model=shufflenet_glyphs", *QUICK[:-1], "freeze=head", images=60)
    assert torch.equal(torch.get_rng_state(), before)
    assert list(found.to_pandas()["stage"]) == ["stem", "stage1", "stage2", "stage3"]
    assert list(found.costs()["mode"]) == ["head"] and found.command in found._repr_html_().replace("&#x27;", "'")
    assert repr(found) == "<Advice on shufflenet_v2_x0_5>" and found._repr_html_().count("<table") == 2

"""Runs whose head is solved: refused values, the keys they read, and reproducibility."""

from __future__ import annotations

import re
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from emulated_card import EmulatedMachine
from frostline.core.config_keys import choices, digest, with_values
from frostline.core.errors import UserError
from frostline.data import resize
from frostline.models import cut
from frostline.models.weights import GLYPHS
from frostline.runs import checks, run_data, solve
from frostline.runs.setup import Setup
from frostline.sweeps.lockstep_groups import shared_by
from frostline.training.dataset import InMemory
from frostline.training.evaluation import evaluate
from frostline.training.gradient import Head
from frostline.training.head_inputs import HeadInputs
from frostline.training.loop import Diverged
from frostline.training.steps import Recipe
from small import SMALL, TINY, FakeRecord, compose, execute_run


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ("freeze=probe", "freeze_mode.l2=[]"),
            "freeze_mode.l2=[]: expected a value: freeze_mode.solver=probe reads it",
        ),
        (("freeze=probe", "freeze_mode.l2=[-1]"), "freeze_mode.l2=[-1.0]: expected finite strengths above 0"),
        (("freeze=knn", "freeze_mode.k=[0]"), "freeze_mode.k=[0]: expected whole numbers of at least 1"),
        (("freeze=knn", "freeze_mode.temperature=0"), "freeze_mode.temperature=0.0: expected a finite number above 0"),
        (("freeze=centroid", "freeze_mode.temperature=null"), "freeze_mode.temperature=None: expected a value"),
        (
            ("freeze=full", "freeze_mode.solver=knn", "freeze_mode.k=[5]", "freeze_mode.temperature=1"),
            "freeze_mode.solver=knn: expected one phase in which only head/* learns",
        ),
        (("freeze=head", "freeze_mode.solver=prob"), "freeze_mode.solver=prob: expected one of probe, knn, centroid"),
        (("freeze=probe", "lr=-1"), "lr=-1.0: expected a finite number above 0"),
    ],
)
def test_invalid_solver_values_are_refused(overrides: tuple[str, ...], line: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(line)}"):
        compose(*overrides)


def test_convolutional_head_is_refused() -> None:
    line = "freeze_mode=probe: expected a model whose head is a linear layer with a bias, which squeezenet1_1"
    with pytest.raises(UserError, match=line):
        checks.check(compose("freeze=probe", "model=squeezenet1_1", "model.weights=null", "data.limit=24"))


def test_network_that_cannot_be_cut_below_its_head_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose(*SMALL, "freeze=probe", "model=timm", "model.name=test_vit", "model.weights=null")
    monkeypatch.setattr(cut, "_trace", None)  # calling it fails, like a forward pass that is not made for tracing
    line = "freeze_mode=probe: expected a model that can be cut directly below its head, which test_vit cannot be"
    with pytest.raises(UserError, match=f"^{line}$"):
        checks.check(config)


@pytest.mark.parametrize("mode", ["probe", "knn", "centroid"])
def test_training_keys_do_not_change_a_solved_run(mode: str) -> None:
    steps = ("lr=0.5", "epochs=9", "batch_size=7", "optimizer=sgd", "schedule=cosine", "augment=trivial")
    more = compose(f"freeze={mode}", *steps, "train.mixup=0.4", "features.views=2", "compile=off")
    plain = compose(f"freeze={mode}")
    assert digest(more) == digest(plain)
    assert choices(more) == choices(plain) and "lr" not in choices(more)
    assert not run_data.augment_policy(more).random and more.epochs == 1
    assert shared_by(more) is None
    for key, value in {"seed": 1, "data.limit": 50, "model.image_size": 32, "precision": "bf16"}.items():
        assert digest(with_values(plain, {key: value})) != digest(plain)


def test_solver_keys_change_only_modes_that_read_them() -> None:
    for mode, reads in {
        "head": (),
        "probe": ("l2",),
        "knn": ("k", "temperature"),
        "centroid": ("temperature",),
    }.items():
        plain = compose(f"freeze={mode}")
        for option, value in {"l2": [0.5], "k": [3], "temperature": 0.5}.items():
            other = with_values(plain, {f"freeze_mode.{option}": value})
            assert (digest(other) == digest(plain)) == (option not in reads)


def solved(solver: str, **options: list[Any]) -> tuple[dict[str, float], float, list[str]]:
    """Return the chosen settings of a solver on noisy features of two classes, the validation loss, and messages."""
    values = {"freeze_mode.temperature": 1.0, **{f"freeze_mode.{name}": value for name, value in options.items()}}
    config = with_values(compose(f"freeze={solver}", "select=val/loss"), values)
    random = torch.Generator().manual_seed(0)
    labels = [torch.arange(count) % 2 for count in (40, 200)]
    train, val = (InMemory(torch.randn(len(y), 12, generator=random) + 0.4 * y[:, None], y) for y in labels)
    recipe = Recipe(epochs=1, batch_size=8, eval_batch_size=64, seed=0)
    about = {"config": config, "recipe": recipe, "image_weights": None, "data": SimpleNamespace(val=val)}
    head, messages = Head((), nn.Linear(12, 2)), list[str]()
    parts = [HeadInputs(data, head) for data in (train, val)]
    chosen, voters = solve._SOLVERS[solver](cast(Setup, SimpleNamespace(**about)), head, *parts, messages.append)
    return chosen, evaluate(voters or head.linear, val, batch_size=64, autocast=None).loss, messages


@pytest.mark.parametrize(
    ("solver", "option", "values"), [("probe", "l2", [1e-3, 1e-1, 1.0, 10.0, 1e2]), ("knn", "k", [1, 3, 10, 20, 40])]
)
def test_setting_with_the_least_validation_loss_is_chosen(solver: str, option: str, values: list[float]) -> None:
    losses = {value: solved(solver, **{option: [value]})[1] for value in values}
    best = min(losses, key=losses.__getitem__)
    assert best not in (values[0], values[-1])
    chosen, loss, messages = solved(solver, **{option: values})
    assert chosen[f"{solver}/{option}"] == best and loss == pytest.approx(losses[best], rel=1e-3)
    assert messages[0].startswith(f"  {option} {best:g} is the best of 5 by validation")


def test_best_strength_at_the_edge_is_pointed_out() -> None:
    edges = {"weaker": [1e2, 3.0], "stronger": [1e-3, 3e-5], "": [1e-3, 1.0, 1e2]}
    for word, strengths in edges.items():
        (message,) = solved("probe", l2=strengths)[2]
        assert message.endswith(f"; a {word} one may be better still") if word else "better still" not in message
    assert "better still" not in solved("probe", l2=[1e2])[2][0]


def run(folder: Path, *overrides: str) -> list[Any]:
    """Return all recorded values of a run except its costs."""
    record = FakeRecord()
    metrics, _ = execute_run(compose(*SMALL, *TINY, *overrides), folder, record)
    return [point for point in (*record.points, *metrics.items()) if not point[0].startswith("cost/")]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["probe", "centroid"])
def test_moving_average_does_not_replace_a_solved_head(mode: str, tmp_path: Path) -> None:
    averaged = run(tmp_path / "averaged", f"freeze={mode}", "train.ema_decay=0.9")
    assert averaged == run(tmp_path / "plain", f"freeze={mode}")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["probe", "knn"])
def test_solved_run_is_equal_on_gpu_and_without_cache(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resize, "_as_pillow", lambda device: False)
    plain = ("precision=fp32", f"freeze={mode}", *(("freeze_mode.l2=[10]",) if mode == "probe" else ()))
    here = run(tmp_path / "here", *plain)
    assert {"val/accuracy", "test/loss"} <= {point[0] for point in here}
    for name, device, kept in (("again", "cpu", "false"), ("card", "cuda", "true")):
        with EmulatedMachine().running() if device == "cuda" else nullcontext():
            assert run(tmp_path / name, *plain, f"device={device}", f"features.enabled={kept}") == here


@pytest.mark.parametrize("mode", ["probe", "knn", "centroid"])
def test_features_with_infinity_fail_the_run(mode: str, tmp_path: Path) -> None:
    large = {key: tensor.clone() for key, tensor in load_file(GLYPHS).items()}
    large["conv5.1.weight"][:] = 3e38
    save_file(large, tmp_path / "large.safetensors")
    network = (
        "model=shufflenet_glyphs",
        "model.name=shufflenet_v2_x0_5",
        f"model.weights={tmp_path}/large.safetensors",
    )
    with pytest.raises(Diverged, match="contain nan or infinity"):
        run(tmp_path / "run", f"freeze={mode}", *network)

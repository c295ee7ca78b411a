"""Freeze guard: frozen tensors that change are detected."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from frostline.models import freezing
from frostline.models.build import Model
from frostline.models.freeze_guard import FrozenDrift, Guard, frozen_tensors
from frostline.training.loop import TrainingPosition
from frostline.training.schedule import Span
from small import images, mode, network, resolve, train


def watched() -> tuple[Model, Guard]:
    model = network()
    (only,) = resolve(model, mode("head"))
    freezing.freeze(model.module, model.structure, only, norm_stats="frozen")
    guard = Guard(model.module)
    guard.watch()
    return model, guard


@pytest.mark.parametrize("tensor", ["conv1.0.weight", "conv1.1.running_var", "stage4.0.branch1.1.num_batches_tracked"])
@pytest.mark.parametrize("look", ["check_if_written", "check"])
def test_guard_names_the_changed_tensor(tensor: str, look: str) -> None:
    model, guard = watched()
    guard.check()
    assert guard.compared == len(model.module.state_dict()) - 2
    flat = model.module.state_dict()[tensor].view(-1)
    with torch.no_grad():
        flat[0] = flat[0].nextafter(torch.tensor(9.0)) if flat.is_floating_point() else flat[0] + 1
    with pytest.raises(FrozenDrift, match=tensor):
        getattr(guard, look)()


def test_guard_compares_bits() -> None:
    model, guard = watched()
    with torch.no_grad():
        model.module.conv1[1].bias[0] = torch.nan
    guard.watch()  # keeps the first copy
    with pytest.raises(FrozenDrift):
        guard.check()
    second = Guard(model.module)
    second.watch()
    second.check()
    with torch.no_grad():
        model.module.conv1[1].bias[1] = -0.0
    with pytest.raises(FrozenDrift, match=r"conv1\.1\.bias"):
        second.check()


def test_guard_detects_statistics_updated_in_train_mode() -> None:
    model, guard = watched()
    model.module.train()
    model.module(images(4).tensor)
    with pytest.raises(FrozenDrift, match="running_mean"):
        guard.check_if_written()


def test_full_check_detects_writes_through_data() -> None:
    model, guard = watched()
    model.module.conv1[0].weight.data.add_(1)
    guard.check_if_written()  # cheap, and blind to this
    with pytest.raises(FrozenDrift, match=r"conv1\.0\.weight"):
        guard.check()


def test_guard_detects_a_replaced_tensor() -> None:
    module = nn.Linear(2, 2).requires_grad_(False)
    guard = Guard(module)
    guard.watch()
    guard.check_if_written()
    assert guard.verdict() == "2 tensors unchanged, bit for bit"
    other = nn.Parameter(module.weight + 1, requires_grad=False)
    for _ in range(module.weight._version - other._version):
        other.add_(0)
    module.weight = other
    with pytest.raises(FrozenDrift, match="weight"):
        guard.check_if_written()


def test_learning_parameters_and_moving_statistics_are_not_frozen() -> None:
    linear, norm = nn.Linear(2, 2), nn.BatchNorm1d(2)
    module = nn.Sequential(linear, norm, nn.BatchNorm1d(2).eval(), linear, norm).requires_grad_(False)
    module.register_buffer("positions", torch.ones(2))
    linear.bias.requires_grad_()
    moving = {f"{n}.{leaf}" for n in (1, 4) for leaf in ("running_mean", "running_var", "num_batches_tracked")}
    assert frozen_tensors(module).keys() == module.state_dict().keys() - moving - {"0.bias", "3.bias"}
    guard = Guard(linear.requires_grad_())
    guard.watch()
    guard.check()
    assert guard.verdict() == "nothing was frozen"


def test_guard_allows_the_head_to_change() -> None:
    model, guard = watched()
    with torch.no_grad():
        model.module.fc.weight.add_(1)
    guard.check()


def drift_of(model: Model) -> Callable[[int, object], None]:
    """Return what changes a frozen weight before each step."""

    def drift(step: int, span: object) -> None:
        with torch.no_grad():
            model.module.conv1[0].weight.add_(1e-3)

    return drift


@pytest.mark.parametrize(
    "start", [TrainingPosition(), TrainingPosition(1, 1), TrainingPosition(1, 2), TrainingPosition(2)]
)
def test_drift_fails_training_from_any_position(start: TrainingPosition) -> None:
    model = network()
    with pytest.raises(FrozenDrift, match=r"conv1\.0\.weight"):
        list(train(model, mode("head"), images(16), epochs=2, before_step=drift_of(model), start=start))


def test_uncounted_drift_is_detected_at_the_end_of_the_phase() -> None:
    """The next phase trains the weight that changed, so no later check would."""
    model = network()

    def drift(step: int, span: Span) -> None:
        model.module.conv1[0].weight.data.add_(1e-3 if span.phase == 0 else 0.0)

    with pytest.raises(FrozenDrift, match=r"conv1\.0\.weight"):
        list(train(model, mode("lp_ft"), images(8), epochs=2, before_step=drift))


def test_drift_is_detected_before_the_epoch_is_returned() -> None:
    """Early stopping must see only epochs whose frozen weights were verified."""
    model = network()
    with pytest.raises(FrozenDrift):
        next(train(model, mode("head"), images(8), epochs=3, before_step=drift_of(model)))

"""What is frozen and moves even so is noticed, whoever moved it."""

from __future__ import annotations

import pytest
import torch

from frostline.models import freezing
from frostline.models.build import Model
from frostline.models.freeze_guard import FrozenDrift, Guard
from frostline.training.loop import TrainingPosition
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
def test_the_guard_names_a_tensor_that_moved(tensor: str, look: str) -> None:
    model, guard = watched()
    guard.check()
    assert guard.compared == len(model.module.state_dict()) - 2
    flat = model.module.state_dict()[tensor].view(-1)
    with torch.no_grad():
        flat[0] = flat[0].nextafter(torch.tensor(9.0)) if flat.is_floating_point() else flat[0] + 1
    with pytest.raises(FrozenDrift, match=tensor):
        getattr(guard, look)()


def test_the_guard_tells_minus_zero_from_zero_and_lets_nan_be_nan() -> None:
    model, guard = watched()
    with torch.no_grad():
        model.module.conv1[1].bias[0] = torch.nan
    guard.watch()  # nothing is copied anew
    with pytest.raises(FrozenDrift):
        guard.check()
    again = Guard(model.module)
    again.watch()
    again.check()
    with torch.no_grad():
        model.module.conv1[1].bias[1] = -0.0
    with pytest.raises(FrozenDrift, match=r"conv1\.1\.bias"):
        again.check()


def test_the_guard_notices_statistics_that_move_because_somebody_called_train() -> None:
    model, guard = watched()
    model.module.train()
    model.module(images(4).tensor)
    with pytest.raises(FrozenDrift, match="running_mean"):
        guard.check_if_written()


def test_a_thorough_look_also_finds_what_was_written_behind_the_back_of_torch() -> None:
    model, guard = watched()
    model.module.conv1[0].weight.data.add_(1)
    with pytest.raises(FrozenDrift, match=r"conv1\.0\.weight"):
        guard.check()


def test_the_guard_lets_the_head_learn() -> None:
    model, guard = watched()
    with torch.no_grad():
        model.module.fc.weight.add_(1)
    guard.check()


@pytest.mark.parametrize(
    "start", [TrainingPosition(), TrainingPosition(1, 1), TrainingPosition(1, 2), TrainingPosition(2)]
)
def test_a_run_with_a_drift_fails_wherever_it_goes_on(start: TrainingPosition) -> None:
    model = network()

    def drift(step: int, span: object) -> None:
        with torch.no_grad():
            model.module.conv1[0].weight.add_(1e-3)

    with pytest.raises(FrozenDrift, match=r"conv1\.0\.weight"):
        list(train(model, mode("head"), images(16), epochs=2, before_step=drift, start=start))


def test_a_drift_is_noticed_before_its_epoch_counts() -> None:
    """Whoever stops early has seen epochs of proven frozen weights only."""
    model = network()

    def drift(step: int, span: object) -> None:
        with torch.no_grad():
            model.module.conv1[0].weight.add_(1e-3)

    with pytest.raises(FrozenDrift):
        next(train(model, mode("head"), images(8), epochs=3, before_step=drift))

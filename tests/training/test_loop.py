"""The training loop: phases and batches, equality with a plain PyTorch loop, results, and options of a step."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import count, pairwise
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from frostline.core.errors import UserError
from frostline.models import freeze_guard
from frostline.models.build import Model
from frostline.report.terminal import Screen
from frostline.runs import checks
from frostline.runs.setup import assemble
from frostline.training import loop, mixup, schedule
from frostline.training.dataset import batches
from frostline.training.evaluation import EvaluatedPart, evaluate
from frostline.training.loop import FIRST_STEP, Diverged, EpochResult, TrainingLoop, TrainingPosition
from frostline.training.schedule import Span, pieces, spans
from frostline.training.steps import PhaseParts, PlainStepper, Recipe, TrainedPart
from small import SMALL, TINY, Samples, compose, epochs_of, images, mode, network, resolve, train

# --- phases and batches

shares = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=8)


@given(shares, st.integers(1, 40), st.integers(1, 40))
def test_phases_cover_every_step_once_and_in_order(shares: list[float], epochs: int, steps: int) -> None:
    timeline = spans(shares, epochs=epochs, steps_per_epoch=steps)
    assert timeline[0].start == 0
    assert timeline[-1].end == epochs * steps
    assert all(a.end == b.start and a.phase < b.phase for a, b in pairwise(timeline))
    assert all(span.start < span.end for span in timeline)
    if epochs * steps >= len(shares):
        assert [span.phase for span in timeline] == list(range(len(shares)))
    if epochs >= len(shares):
        assert all(span.start % steps == span.end % steps == 0 for span in timeline)


@given(shares, st.integers(1, 20))
def test_phase_length_is_its_share(shares: list[float], times: int) -> None:
    epochs = times * len(shares)
    for span in spans(shares, epochs=epochs, steps_per_epoch=1):
        exact = epochs * shares[span.phase] / sum(shares)
        assert abs(span.end - span.start - exact) <= len(shares) + 1
    assert [span.end - span.start for span in spans([2.0] * len(shares), epochs=epochs, steps_per_epoch=3)] == (
        [3 * times] * len(shares)
    )


def test_phases_end_at_epochs_or_steps() -> None:
    assert spans([1.0, 2.0, 1.0], epochs=8, steps_per_epoch=10) == (Span(0, 0, 20), Span(1, 20, 60), Span(2, 60, 80))
    assert spans([1.0] * 4, epochs=2, steps_per_epoch=3) == (Span(0, 0, 2), Span(1, 2, 3), Span(2, 3, 4), Span(3, 4, 6))


@pytest.mark.slow
@pytest.mark.parametrize("freeze", ["full", "gradual"])
def test_batch_norm_refuses_batch_size_1(freeze: str) -> None:
    options = (*SMALL, f"freeze={freeze}", "batch_size=1")
    with pytest.raises(UserError, match=r"batch_size=1: expected at least 2, .* 32 pixels"):
        checks.check(compose(*options))
    checks.check(compose(*options, "model.image_size=64"))
    checks.check(compose(*SMALL, "freeze=head", "batch_size=1"))


def test_last_batch_of_one_is_merged() -> None:
    assert [batch.stop - batch.start for batch in batches(10, 1)] == [1] * 10
    assert batches(9, 4) == [slice(0, 4), slice(4, 9)]


def test_pieces_end_at_phases() -> None:
    timeline = (Span(0, 0, 20), Span(1, 20, 60), Span(2, 60, 80))
    assert list(pieces(timeline, 5, 10)) == [(timeline[0], range(5, 10))]
    assert list(pieces(timeline, 15, 60)) == [(timeline[0], range(15, 20)), (timeline[1], range(20, 60))]
    assert list(pieces(timeline, 60, 60)) == []


@given(st.integers(1, 500), st.integers(1, 70), st.booleans())
def test_batches_cover_every_sample_once(count: int, size: int, drop_last: bool) -> None:
    slices = batches(count, size, drop_last=drop_last)
    lengths = [part.stop - part.start for part in slices]
    assert slices[0].start == 0
    assert all(a.stop == b.start for a, b in pairwise(slices))
    assert all(length == size for length in lengths[:-1])
    assert len(slices) >= 1
    if len(slices) > 1 and size > 1:
        assert lengths[-1] > 1
    if drop_last and count >= size > 1:
        assert set(lengths) == {size}
        assert slices[-1].stop == count - count % size
    else:
        assert slices[-1].stop == count
        assert len(slices) in (ceil(count / size), ceil(count / size) - 1)


def test_each_epoch_sees_every_sample_once_in_a_new_order() -> None:
    data, val = images(21), images(7, seed=1)
    list(train(network(), mode("head"), data, val, epochs=3, batch_size=4))
    orders = [torch.cat([index for at, index in data.asked if at == epoch]).tolist() for epoch in (1, 2, 3)]
    assert all(sorted(order) == list(range(21)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert [len(index) for _, index in data.asked[:5]] == [4, 4, 4, 4, 5]
    assert [(epoch, index.tolist()) for epoch, index in val.asked] == [(0, list(range(7)))] * 3


# --- equality with a plain loop


def losses_of_plain_loop(model: Model, chosen: str, data: Samples, val: Samples, lr: float) -> list[list[float]]:
    """Train as in PyTorch's transfer learning tutorial, on the batches requested from `data`."""
    net, criterion = model.module, nn.CrossEntropyLoss()
    head = net.get_submodule(model.structure.heads[0])
    if chosen == "head":
        for parameter in net.parameters():
            parameter.requires_grad = False
        for parameter in head.parameters():
            parameter.requires_grad = True
    learning = head.parameters() if chosen == "head" else net.parameters()
    optimizer = torch.optim.Adam(learning, lr=lr, fused=True)  # as ours; the last bits differ otherwise
    history = []
    for epoch in sorted({epoch for epoch, _ in data.asked}):
        net.train(chosen != "head")  # unlike the tutorial, keep running statistics fixed
        running = 0.0
        for index in [index for at, index in data.asked if at == epoch]:
            optimizer.zero_grad()
            loss = criterion(net(data.tensor[index]), data.labels[index])
            loss.backward()
            optimizer.step()
            running += loss.item() * len(index)
        net.eval()
        with torch.no_grad():
            history.append([running / len(data.labels), criterion(net(val.tensor), val.labels).item()])
    return history


def losses(results: list[EpochResult]) -> list[list[float]]:
    return [[result.train_loss, result.val.loss] for result in results]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("chosen", "lr", "name"),
    [("head", 1e-2, "resnet18"), ("head", 1e-2, "shufflenet_v2_x0_5"), ("full", 1e-4, "shufflenet_v2_x0_5")],
)
def test_losses_equal_the_tutorials_loop(name: str, chosen: str, lr: float) -> None:
    model = network(name)
    twin = Model(**{**vars(model), "module": copy.deepcopy(model.module)})
    data, val = images(16), images(8, seed=1)
    ours = losses(list(train(model, mode(chosen), data, val, lr=lr, epochs=3, optimizer="adam")))
    theirs = losses_of_plain_loop(twin, chosen, data, val, lr)
    assert ours[-1][0] < ours[0][0]
    for mine, plain in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(plain, rel=1e-9)


@pytest.mark.slow
def test_all_options_together_equal_torch_and_timm() -> None:
    of_optim, of_data, of_loss = (pytest.importorskip(f"timm.{part}") for part in ("optim", "data.mixup", "loss"))
    model = network("test_convnext", library="timm", image_size=32)
    phases, twin = resolve(model, mode("gradual")), copy.deepcopy(model.module)
    data, lr, decay, spans_of_steps = images(16), 2e-3, 0.1, list[Span]()
    ours, theirs = (AveragedModel(one, multi_avg_fn=get_ema_multi_avg_fn(0.8)) for one in (model.module, twin))
    options = {"label_smoothing": 0.1, "clip_norm": 0.5, "mixup": 0.4, "optimizer": "adamw", "weight_decay": decay}
    every = {"epochs": len(phases), "before_step": lambda step, span: spans_of_steps.append(span)}
    list(train(model, mode("gradual"), data, lr=lr, ema=ours, **options, **every))

    names = {parameter: name for name, parameter in twin.named_parameters()}
    groups = of_optim.param_groups_weight_decay(twin, decay)
    each = [{**group, "params": [one]} for group in groups for one in group["params"]]
    optimizer = torch.optim.AdamW(each, lr=lr)
    indices = [index for epoch, index in data.asked if epoch]
    for step, (index, span) in enumerate(zip(indices, spans_of_steps, strict=True)):
        for group in optimizer.param_groups:
            scale = phases[span.phase].scales[names[group["params"][0]]]
            group["lr"] = lr * scale
            group["params"][0].requires_grad_(scale > 0)
        labels = data.labels[index]
        mixed, _, share = mixup.mix(data.tensor[index], labels, mixup=0.4, cutmix=0.0, seed=0, step=step)
        own, others = (of_data.mixup_target(one, 5, 1.0, 0.1) for one in (labels, labels.roll(1)))
        optimizer.zero_grad()
        of_loss.SoftTargetCrossEntropy()(twin(mixed), share * own + (1 - share) * others).backward()
        nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
        optimizer.step()
        theirs.update_parameters(twin)
    for mine, plain in ((model.module, twin), (ours.module, theirs.module)):
        torch.testing.assert_close(mine.state_dict(), plain.state_dict(), rtol=1e-4, atol=1e-5)


# --- heads


def digits(model: Model, count: int) -> tuple[Samples, Samples, Tensor, Tensor]:
    """Return digits at 32x32 pixels for training and validation, and their features below the head."""
    pixels, labels = load_digits(return_X_y=True)
    shown = torch.from_numpy(pixels).float().reshape(-1, 1, 8, 8).expand(-1, 3, -1, -1) / 8 - 1
    tensor = F.interpolate(shown[:count], size=32, mode="bilinear")
    model.module.train()
    for part in model.module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 1.0
    with torch.no_grad():
        model.module(tensor[:300])  # fits the running statistics to the data
        backbone = copy.deepcopy(model.module).eval()
        backbone.set_submodule(model.structure.heads[0], nn.Identity())
        features = torch.cat([backbone(part) for part in tensor.split(200)])
    labels, cut = torch.from_numpy(labels[:count]), count * 2 // 3
    train_split, val = Samples(tensor[:cut], labels[:cut]), Samples(tensor[cut:], labels[cut:])
    return train_split, val, features[:cut], features[cut:]


def fit_linear(
    layer: nn.Linear, data: Samples, val: Samples, *, lr: float, epochs: int, batch_size: int, weight_decay: float = 0.0
) -> list[EpochResult]:
    """Train a linear layer on features with the same loop."""
    steps = len(batches(len(data.labels), batch_size))
    optimizer = torch.optim.Adam(layer.parameters(), lr=lr, weight_decay=weight_decay)

    def lower(step: int, span: Span) -> None:
        optimizer.param_groups[0]["lr"] = lr * (1 - step / span.end) if weight_decay else lr

    recipe = Recipe(epochs=epochs, batch_size=batch_size, eval_batch_size=512, seed=0)
    training = TrainingLoop(
        labels=data.labels,
        stepper=PlainStepper(optimizer, recipe),
        timeline=spans([1.0], epochs=epochs, steps_per_epoch=steps),
        enter=lambda phase: PhaseParts(TrainedPart(layer, data, None), EvaluatedPart(layer, val, None)),
        before_step=lower,
        after_step=lambda: None,
        recipe=recipe,
        guard=freeze_guard.Guard(layer),
    )
    return list(training.fit())


@pytest.mark.slow
def test_head_equals_a_linear_layer_on_features() -> None:
    model = network(classes=10)
    data, val, features, val_features = digits(model, 300)
    layer = copy.deepcopy(model.module.fc)
    ours = list(train(model, mode("head"), data, val, lr=1e-2, epochs=4, batch_size=32, optimizer="adam"))
    theirs = fit_linear(
        layer, Samples(features, data.labels), Samples(val_features, val.labels), lr=1e-2, epochs=4, batch_size=32
    )
    for mine, lone in zip(losses(ours), losses(theirs), strict=True):
        assert mine == pytest.approx(lone, rel=1e-4)
    assert torch.allclose(model.module.fc.weight, layer.weight, atol=1e-4)
    assert ours[-1].val.accuracy == theirs[-1].val.accuracy


@pytest.mark.slow
def test_converged_head_equals_logistic_regression() -> None:
    data, val, features, val_features = digits(network("resnet18", classes=10), 1797)
    mean, scale = features.mean(0), features.std(0) + 1e-6
    features, val_features = (features - mean) / scale, (val_features - mean) / scale
    strength = 1.0
    reference = LogisticRegression(C=1 / strength, max_iter=1000).fit(features.numpy(), data.labels.numpy())
    layer = nn.Linear(features.shape[1], 10)
    options = {"lr": 3e-3, "epochs": 30, "batch_size": 256, "weight_decay": strength / len(features)}
    results = fit_linear(layer, Samples(features, data.labels), Samples(val_features, val.labels), **options)
    expected = reference.score(val_features.numpy(), val.labels.numpy())
    assert expected > 0.75  # an untrained network; chance is 0.1
    assert results[-1].val.accuracy == pytest.approx(expected, abs=0.01)


# --- results


def test_epoch_result_has_images_loss_and_accuracy() -> None:
    data, val = images(20), images(9, seed=1)
    results = list(train(network(), mode("full"), data, val, epochs=2, batch_size=8))
    assert [result.epoch for result in results] == [1, 2]
    assert [result.images for result in results] == [20, 20]
    assert all(result.seconds > 0 for result in results)
    for result in results:
        assert result.val.logits.shape == (9, 5)
        assert result.val.loss == pytest.approx(F.cross_entropy(result.val.logits, val.labels).item())
        assert result.val.accuracy == pytest.approx((result.val.logits.argmax(1) == val.labels).double().mean().item())
    (still,) = train(network(), mode("head"), data, data, lr=0.0, batch_size=8)
    assert (still.train_loss, still.train_accuracy) == (pytest.approx(still.val.loss), still.val.accuracy)
    dropped = list(train(network(), mode("head"), images(20), val, batch_size=8, drop_last=True))
    assert dropped[0].images == 16


def test_evaluation_is_independent_of_batches_and_changes_nothing() -> None:
    model, data = network(), images(33)
    before = copy.deepcopy(model.module.state_dict())
    found = [evaluate(model.module, data, batch_size=size, autocast=None) for size in (1, 8, 16, 64)]
    assert all(torch.allclose(one.logits, found[0].logits, atol=1e-5) for one in found)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.module.state_dict().items())
    assert not any(p.grad is not None for p in model.module.parameters())


@pytest.mark.parametrize(("chosen", "optimizer"), [("full", "sgd"), ("full", "adam"), ("lp_ft", "sgd")])
def test_non_finite_loss_raises_diverged(chosen: str, optimizer: str) -> None:
    seen = []
    with pytest.raises(Diverged, match=r"^the training loss is (nan|inf) in epoch \d") as caught:
        for result in train(network(), mode(chosen), images(24), lr=1e30, epochs=4, optimizer=optimizer):
            seen.append(result)
    assert "\n" not in str(caught.value)
    assert all(result.train_loss < float("inf") and result.val.loss < float("inf") for result in seen)
    assert f"epoch {len(seen) + 1}" in str(caught.value)


def test_divergence_in_the_last_step_is_found_in_validation() -> None:
    model = network()

    def spoil(step: int, span: Span) -> None:
        if step == 2:  # the last step: its loss is computed before its weights become nan
            model.module.fc.register_full_backward_hook(
                lambda part, below, above: tuple(g * torch.nan if g is not None else None for g in below)
            )

    with pytest.raises(Diverged, match="validation loss is nan"):
        list(train(model, mode("full"), images(24), before_step=spoil))


def fit_three_epochs(
    layer: nn.Linear, start: TrainingPosition = FIRST_STEP, **options: Any
) -> Iterator[EpochResult | TrainingPosition]:
    """Train a linear layer in three epochs of three steps."""
    made = torch.Generator().manual_seed(0)
    data = Samples(torch.randn(20, 6, generator=made), torch.arange(20) % 4)
    recipe = Recipe(epochs=3, batch_size=8, eval_batch_size=64, seed=0)
    fixed = {"before_step": lambda step, span: None, "after_step": lambda: None}
    training = TrainingLoop(
        labels=data.labels,
        stepper=PlainStepper(torch.optim.SGD([layer.weight], lr=0.1), recipe),
        timeline=spans([1.0], epochs=3, steps_per_epoch=3),
        enter=lambda phase: PhaseParts(TrainedPart(layer, data, None), EvaluatedPart(layer, data, None)),
        recipe=recipe,
        guard=freeze_guard.Guard(layer),
        **{**fixed, **options},
    )
    return training.fit(start)


def test_fit_resumes_within_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps and seconds before the pause are neither repeated nor lost; later epochs begin with their first step."""
    clock = count()  # each look at it takes a second
    monkeypatch.setattr(loop.time, "perf_counter", lambda: float(next(clock)))
    layer, pauses = nn.Linear(6, 4), iter((False, False, False, False, True))
    events = fit_three_epochs(layer, pause=lambda: next(pauses, False))
    next(events)
    position, twin = next(events), copy.deepcopy(layer)
    assert isinstance(position, TrainingPosition)
    assert (position.epoch, position.steps, position.seconds) == (2, 2, 1.0)
    next(clock)  # the caller's time
    whole = [vars(one) for one in events]
    again = [vars(one) for one in fit_three_epochs(twin, start=position)]
    for one, other in zip(whole, again, strict=True):
        assert all(one[key] == other[key] for key in ("epoch", "train_loss", "train_accuracy", "seconds", "images"))
    assert [one["seconds"] for one in whole] == [2.0, 1.0]
    assert torch.equal(layer.weight, twin.weight)


def test_fit_yields_no_position_after_drift_or_divergence() -> None:
    """Else a checkpoint would keep what they have done."""
    layer = nn.Linear(6, 4)
    layer.bias.requires_grad_(False)
    drift = fit_three_epochs(layer, pause=lambda: True, before_step=lambda step, span: layer.bias.data.add_(1))
    with pytest.raises(freeze_guard.FrozenDrift):
        next(drift)
    nn.init.constant_(layer.weight, torch.nan)
    with pytest.raises(Diverged):
        next(fit_three_epochs(layer, pause=lambda: True))


# --- options of a step


@pytest.mark.slow
@pytest.mark.parametrize(
    ("chosen", "options"),
    [
        ("head", {}),
        ("full", {"optimizer": "adamw", "weight_decay": 0.1, "label_smoothing": 0.1, "clip_norm": 1.0}),
        ("full", {"mixup": 0.2, "cutmix": 1.0}),
        ("full", {"autocast": torch.bfloat16}),
    ],
)
def test_training_is_reproducible(chosen: str, options: dict[str, Any]) -> None:
    runs = []
    for noise in (0, 1):
        torch.manual_seed(noise)  # independent of the global random state
        model = network("mobilenet_v3_small")
        results = list(train(model, mode(chosen), images(16), **options))
        runs.append((losses(results), [r.val.logits for r in results], model.module.state_dict()))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(a, b) for a, b in zip(runs[0][1], runs[1][1], strict=True))
    assert all(torch.equal(tensor, runs[1][2][name]) for name, tensor in runs[0][2].items())


def test_seeds_have_different_orders() -> None:
    first, second = images(16), images(16)
    for seed, data in ((0, first), (1, second)):
        list(train(network(), mode("head"), data, images(4), seed=seed))
    assert not all(torch.equal(a, b) for (_, a), (_, b) in zip(first.asked, second.asked, strict=True))


def first_loss(**options: Any) -> tuple[float, Tensor]:
    """Return the loss of a head's first step, and separately computed logits."""
    model, data = network(), images(8)
    logits = copy.deepcopy(model.module).eval()(data.tensor).detach()
    (result,) = train(model, mode("head"), data, **options)
    return result.train_loss, logits


def test_label_smoothing_equals_torch() -> None:
    loss, logits = first_loss(label_smoothing=0.2)
    expected = F.cross_entropy(logits, images(8).labels, label_smoothing=0.2).item()
    assert loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("options", [{"mixup": 0.4}, {"cutmix": 1.0}])
def test_mixed_batch_uses_both_labels(options: dict[str, float]) -> None:
    model, data = network("resnet18"), images(8)
    twin = copy.deepcopy(model.module).eval()
    (result,) = train(model, mode("head"), data, seed=3, label_smoothing=0.1, **options)
    order = data.asked[0][1]
    settings = {"mixup": 0.0, "cutmix": 0.0, **options}
    mixed, partners, share = mixup.mix(data.tensor[order], data.labels[order], seed=3, step=0, **settings)
    logits = twin(mixed)
    both = [F.cross_entropy(logits, labels, label_smoothing=0.1) for labels in (data.labels[order], partners)]
    assert 0 < share < 1
    assert result.train_loss == pytest.approx((share * both[0] + (1 - share) * both[1]).item(), rel=1e-5)


@pytest.mark.parametrize(("clip", "length"), [(1e-3, 1e-3), (None, None), (1e6, None)])
def test_clip_norm_bounds_the_step(clip: float | None, length: float | None) -> None:
    model = network()
    before = torch.cat([p.detach().flatten().clone() for p in model.module.parameters()])
    list(train(model, mode("full"), images(8), lr=1.0, clip_norm=clip))
    step = (torch.cat([p.detach().flatten() for p in model.module.parameters()]) - before).norm().item()
    assert step == pytest.approx(length, rel=1e-2) if length else step > 1e-2


def test_averaged_weights_are_evaluated() -> None:
    model = network()
    ema = AveragedModel(model.module, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    weights: list[Tensor] = []
    data, val = images(24), images(8, seed=1)

    def remember(step: int, span: Span) -> None:
        weights.append(model.module.fc.weight.detach().clone())

    (result,) = train(model, mode("full"), data, val, lr=0.05, ema=ema, before_step=remember)
    remember(3, Span(0, 0, 3))
    averaged = 0.5 * (0.5 * weights[1] + 0.5 * weights[2]) + 0.5 * weights[3]
    assert torch.allclose(ema.module.fc.weight, averaged, atol=1e-6)
    averaged_one, last = (evaluate(m, val, batch_size=64, autocast=None) for m in (ema.module, model.module))
    assert torch.equal(result.val.logits, averaged_one.logits)
    assert not torch.equal(result.val.logits, last.logits)


def test_average_keeps_frozen_weights() -> None:
    model = network()
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    ema = AveragedModel(model.module, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    list(train(model, mode("head"), images(16), epochs=2, ema=ema))
    changed = {name for name, tensor in ema.module.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"fc.weight", "fc.bias"}


def test_autocast_keeps_weights_and_logits_in_float32() -> None:
    model = network()
    (result,) = train(model, mode("full"), images(8), autocast=torch.bfloat16)
    assert {p.dtype for p in model.module.parameters()} == {torch.float32}
    assert result.val.logits.dtype == torch.float32
    assert result.val.logits.isfinite().all()


# --- schedules


@pytest.mark.slow
@pytest.mark.parametrize("span", ["phase", "run"])
def test_schedule_spans_a_phase_or_the_run(span: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = [*SMALL, *TINY, "freeze=lp_ft", "epochs=4"]
    config = compose(*overrides, "schedule=cosine", "schedule.warmup=0.25", f"schedule.span={span}")
    setup = assemble(config, tmp_path, meta=False, screen=Screen())
    factors: list[float] = []
    monkeypatch.setattr(schedule, "set_lr", lambda groups, *, lr, phase, factor: factors.append(factor))

    assert [*epochs_of(setup)]
    whole = [schedule.factor(config.schedule, step, 12) for step in range(12)]
    half = [schedule.factor(config.schedule, step, 6) for step in range(6)]
    assert factors == (whole if span == "run" else half + half)

"""Stored features: training on them equals computing everything, and nothing is computed twice."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from frostline.core import machine
from frostline.core.config import Config
from frostline.models import cut
from frostline.records import layout, provenance
from frostline.records.recording import Record
from frostline.report.terminal import Screen
from frostline.runs import frost_line, robustness, setup, train
from frostline.runs.announcement import announce, write_origin
from frostline.runs.frost_line import Line
from frostline.runs.run_context import RunContext
from frostline.runs.setup import Setup
from frostline.store import store as store_module
from frostline.store.device_budget import DeviceBudget
from frostline.store.rows import Rows
from frostline.store.store import Store
from frostline.training import features
from frostline.training.evaluation import evaluate
from frostline.training.loop import EpochResult
from small import TINY, compose, epochs_of, score

QUICK = (
    *("epochs=2", "batch_size=16", "threads=1"),
    *("data.limit=32", "data.val_fraction=0.01", "data.test_fraction=0.01"),
)
TRAIN, VAL, TEST = 32, 18, 18
"""Images in the splits."""
EVERY = TRAIN + VAL + TEST
SCRATCH = ("model.weights=null", "model.image_size=32")
SHIPPED = ("model=shufflenet_glyphs", "model.image_size=32")
FLIPPED = "data.flip=true"


def chosen(*overrides: str) -> Config:
    """Return the config of a quick run, with a small network unless another is chosen."""
    network = () if any(override.startswith("model=") for override in overrides) else TINY
    return compose(*QUICK, *network, *overrides)


def trained(folder: Path, store: Store, *overrides: str) -> tuple[list[EpochResult], torch.Tensor, int]:
    """Return a run's epochs, the final logits of the test split, and the number of backbone images."""
    run = replace(setup.assemble(chosen(*overrides), folder, meta=False, screen=Screen()), store=store)
    epochs = [*epochs_of(run)]
    return epochs, score(run, epochs[-1].phase).logits, run.views.seen


def whole_network(patch: pytest.MonkeyPatch) -> None:
    """Let runs compute the whole network in every step, as if nothing were frozen."""

    def draw(setup: Setup, phase: int, *, keep: bool = True) -> Line:
        setup.enter(phase)
        return frost_line._whole_network(setup, 0)

    patch.setattr(frost_line, "draw", draw)


def same(one: list[EpochResult], two: list[EpochResult]) -> bool:
    def facts(epoch: EpochResult) -> tuple[Any, ...]:
        return (epoch.phase, epoch.train_loss, epoch.train_accuracy, epoch.val.loss, epoch.val.accuracy)

    return [facts(epoch) for epoch in one] == [facts(epoch) for epoch in two]


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ("freeze=head", *SHIPPED),
        ("freeze=head", "augment=trivial", "train.label_smoothing=0.1", "optimizer=sgd"),
        ("freeze=last_stage", "augment=standard", FLIPPED),
        ("freeze=last_two_stages", "train.ema_decay=0.9"),
        ("freeze=lp_ft", "schedule=cosine"),
        ("freeze=gradual", "epochs=6"),
        ("freeze=head", "train.mixup=0.4"),
        ("freeze=head", "model=mobilenet_v3_small", *SCRATCH),
        ("freeze=last_stage", "channels_last=false"),
        ("freeze=head", "model=squeezenet1_1", "model.weights=null", "model.image_size=64"),  # dropout on a map
    ],
    ids=" ".join,
)
def test_training_on_features_equals_training_on_images(
    tmp_path: Path, overrides: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store", budget=1 << 30, say=print)
    options = ("epochs=2", *overrides)
    cached, logits, seen = trained(tmp_path, store, *options)
    whole_network(monkeypatch)
    whole, whole_logits, whole_seen = trained(tmp_path, store, *options)
    for one, two in zip(cached, whole, strict=True):
        assert one.train_loss == pytest.approx(two.train_loss, rel=1e-4)
        assert one.val.loss == pytest.approx(two.val.loss, rel=1e-4)
        assert (one.train_accuracy, one.val.accuracy) == (two.train_accuracy, two.val.accuracy)
    assert torch.allclose(logits, whole_logits, atol=1e-3, rtol=1e-3)  # fine-tuning amplifies the last bits
    assert seen <= whole_seen


FEW = ("data.limit=23", "data.test_fraction=0.02", "batch_size=10", "eval_batch_size=10", "epochs=2")
"""Batches of 10, 10 and 3, different from the batches of the frozen stages."""


def outcome(folder: Path, *overrides: str) -> tuple[list[float], list[torch.Tensor]]:
    """Return the metrics of all epochs; and the logits of all splits, one of them corrupted, and the weights."""
    run = setup.assemble(chosen(*FEW, *overrides), folder, meta=False, screen=Screen())
    test = run.data.test
    few = replace(test, pixels=Rows(test.pixels[:23], torch.arange(23)), sizes=test.sizes[:23], labels=test.labels[:23])
    few = replace(few, ids=test.ids[:23])
    run = replace(run, data=replace(run.data, val=few, test=few))
    epochs = [*epochs_of(run)]
    line = frost_line.draw(run, epochs[-1].phase, cache=robustness._caches(run, epochs[-1].phase))
    blurred = line.dataset(robustness._views(run, "blur", 1.0))
    under = evaluate(line.above(run.model.module), blurred, batch_size=10, autocast=line.autocast)
    numbers = [n for e in epochs for n in (e.train_loss, e.train_accuracy, e.val.loss, e.val.accuracy)]
    logits = [epochs[-1].val.logits, score(run, epochs[-1].phase).logits, under.logits]
    return numbers, [*logits, *run.model.module.state_dict().values()]


def equal_bits(one: tuple[list[float], list[torch.Tensor]], two: tuple[list[float], list[torch.Tensor]]) -> bool:
    """Return whether two outcomes have the same bits."""
    return one[0] == two[0] and all(torch.equal(a, b) for a, b in zip(one[1], two[1], strict=True))


REFROZEN = (
    "freeze=head",
    'freeze_mode.phases=[{rules:[{match:"*"}]},{rules:[{match:head/*},{match:"*",lr_scale:0}]}]',
    "freeze_mode.norm_stats=frozen",
    "epochs=4",
)
"""Everything learns, then only the head."""


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("train.ema_decay=0.9",), ("optimizer=sgd",)], ids=" ".join)
def test_features_of_a_trained_backbone_are_not_reused(tmp_path: Path, more: tuple[str, ...]) -> None:
    store = Store(tmp_path / "store", budget=1 << 30, say=print)
    plain = trained(tmp_path, store, "freeze=head", "epochs=2")[0]
    cached, logits, _ = trained(tmp_path, store, *REFROZEN, *more)
    with pytest.MonkeyPatch.context() as patch:
        whole_network(patch)
        whole, whole_logits, _ = trained(tmp_path, store, *REFROZEN, *more)
    for one, two in zip(cached, whole, strict=True):
        assert one.train_loss == pytest.approx(two.train_loss, rel=1e-5)
        assert one.val.loss == pytest.approx(two.val.loss, rel=1e-5)
    assert torch.allclose(logits, whole_logits, atol=1e-5, rtol=1e-5)
    assert same(plain, trained(tmp_path, store, "freeze=head", "epochs=2")[0])


def test_averaged_weights_are_evaluated_without_features(tmp_path: Path) -> None:
    """Averages of frozen stages still differ from their weights."""
    options = (*REFROZEN, "train.ema_decay=0.9")
    run = setup.assemble(chosen(*options, "store.enabled=false"), tmp_path, meta=False, screen=Screen())
    learner = train.learner_of(run)
    *_, last = epochs_of(run, learner)
    assert learner.ema is not None
    expected = evaluate(learner.ema.module, run.views.val, batch_size=64, autocast=None)
    assert last.val.loss == pytest.approx(expected.loss, rel=1e-5)


@pytest.mark.slow
def test_next_run_reuses_features(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", budget=1 << 30, say=print)
    first, logits, seen = trained(tmp_path, store, "freeze=head", "epochs=3")
    assert seen == EVERY
    again, logits_again, seen_again = trained(tmp_path, store, "freeze=head", "epochs=3")
    assert seen_again == 0
    assert same(first, again)
    assert torch.equal(logits, logits_again)
    _, _, other = trained(tmp_path, store, "freeze=head", "epochs=3", "lr=0.1", "optimizer=sgd", "batch_size=16")
    assert other == 0
    _, _, fewer = trained(tmp_path, store, "freeze=head", "epochs=3", "data.limit=48")
    assert fewer == 48  # validation and test split are unchanged
    _, _, shared = trained(tmp_path, store, "freeze=lp_ft", "epochs=2")
    assert shared == EVERY  # of its second phase only, and of the final test


SIMPLE = ("freeze=head", "epochs=1", *SHIPPED)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return a store with the features of a run."""
    folder = tmp_path_factory.mktemp("filled")
    store = Store(folder / "store", budget=1 << 30, say=print)
    trained(folder, store, *SIMPLE)
    assert trained(folder, store, *SIMPLE)[2] == 0
    return store


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        ("data.split_seed=1",),
        ("model.image_size=48",),
        ("model.weights=null",),
        ("model.weights=null", "seed=1"),
        ("precision=bf16",),
        ("channels_last=false",),
        ("deterministic=false",),
    ],
    ids=" ".join,
)
def test_changed_dependencies_recompute_features(filled: Store, tmp_path: Path, change: tuple[str, ...]) -> None:
    assert trained(tmp_path, filled, *SIMPLE, *change)[2] == EVERY


@pytest.mark.slow
def test_features_of_another_platform_are_recomputed(
    filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "platform", lambda device: "another")
    assert trained(tmp_path, filled, *SIMPLE)[2] == EVERY


@pytest.mark.slow
def test_random_views_are_shared_between_runs_of_a_seed(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", budget=1 << 30, say=print)
    options = (
        "freeze=head",
        "augment=trivial",
        "epochs=3",
        *SHIPPED,
    )  # pretrained: independent of the seed
    assert trained(tmp_path, store, *options)[2] == 3 * TRAIN + VAL + TEST
    assert trained(tmp_path, store, *options, "lr=0.1")[2] == 0
    assert trained(tmp_path, store, *options, "epochs=4")[2] == TRAIN
    assert trained(tmp_path, store, *options, "seed=1")[2] == 3 * TRAIN
    assert trained(tmp_path, store, *options, "features.views=2")[2] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("augment=trivial", "epochs=4", "features.views=2"), True),
        (("augment=trivial", "epochs=2", "features.views=2"), False),
        (("augment=none", "epochs=4", "features.views=2"), False),
        (("augment=trivial", "epochs=4"), False),
    ],
)
def test_reused_views_are_reported_as_an_approximation(tmp_path: Path, overrides: tuple[str, ...], said: bool) -> None:
    run = setup.assemble(chosen("freeze=head", *overrides), tmp_path, meta=False, screen=Screen())
    plan = announce(run, RunContext("run", tmp_path, screen := Screen(Console(file=StringIO()))))
    provenance.write(tmp_path, provenance.software([]))
    write_origin(run, plan, tmp_path, Record(tmp_path))
    assert ("an approximation, features.views=2" in screen.console.file.getvalue()) == said
    assert ('"frostline.approximation"' in (tmp_path / layout.RECORD).read_text()) == said


@pytest.mark.parametrize(("skipped", "said"), [(1, "1 broken image is left out"), (2, "2 broken images are left out")])
def test_screen_shows_the_number_of_broken_images(tmp_path: Path, skipped: int, said: str) -> None:
    run = setup.assemble(chosen("freeze=head"), tmp_path, meta=True, screen=Screen())
    run = replace(run, data=replace(run.data, counts={"skipped": skipped}))
    announce(run, RunContext("run", tmp_path, screen := Screen(Console(file=StringIO()))))
    assert f"note: {said}, since data.skip_bad=true" in screen.console.file.getvalue()


@pytest.mark.slow
def test_views_alternate_with_and_without_a_store(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", budget=1 << 30, say=print)
    options = ("freeze=head", "augment=trivial", "epochs=4", "features.views=2", "seed=3")
    cached, _, seen = trained(tmp_path, store, *options)
    assert seen == 2 * TRAIN + VAL + TEST
    whole, _, _ = trained(tmp_path, store, *options, "features.enabled=false")
    fresh, _, _ = trained(tmp_path, store, "freeze=head", "augment=trivial", "epochs=4", "seed=3")
    for one, two in zip(cached, whole, strict=True):
        assert one.train_loss == pytest.approx(two.train_loss, rel=1e-5)
    assert [a.train_loss == b.train_loss for a, b in zip(cached, fresh, strict=True)] == [True, True, False, False]


def test_features_without_room_are_not_kept(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", budget=1 << 30, say=print)
    assert (
        trained(tmp_path, store, "freeze=last_stage", "epochs=2", "store.memory_gb=1e-6")[2] == 2 * (TRAIN + VAL) + TEST
    )


NO_ROOM, NOTHING_KEPT = "store.memory_gb=1e-6", "features.enabled=false"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "rooms"),
    [
        (
            ("freeze=last_stage", "precision=bf16", "augment=standard"),
            (NO_ROOM, "store.memory_gb=1e-4", "store.budget_gb=1e-6", "store.enabled=false", NOTHING_KEPT),
        ),
        (("freeze=head", "precision=bf16", "train.mixup=0.4"), (NOTHING_KEPT,)),
        (("freeze=head", "model=mobilenet_v3_small", *SCRATCH), (NO_ROOM, NOTHING_KEPT)),
        (("freeze=last_stage", "model=regnet_y_400mf", *SCRATCH, "channels_last=false"), (NO_ROOM,)),
        (("freeze=gradual", "precision=bf16", "epochs=3", "train.ema_decay=0.9", "augment=trivial"), (NO_ROOM,)),
    ],
    ids=lambda values: " ".join(values),
)
def test_available_room_does_not_change_results(
    tmp_path: Path, overrides: tuple[str, ...], rooms: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = (*overrides, "eval_batch_size=8")
    roomy = outcome(tmp_path, *overrides, f"store.path={tmp_path / 'roomy'}", "store.memory_gb=1")
    for number, room in enumerate(rooms):
        tight = outcome(tmp_path, *overrides, f"store.path={tmp_path / str(number)}", room)
        assert equal_bits(roomy, tight), room


@pytest.mark.slow
def test_views_without_room_do_not_evict_other_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = (
        "freeze=head",
        "augment=standard",
        "data.limit=200",
        "epochs=3",
        *SHIPPED,
    )  # 819,200 bytes of features each
    roomy = outcome(tmp_path, *options, f"store.path={tmp_path / 'roomy'}")
    monkeypatch.setattr(store_module, "_memory", lambda: 700_000)  # twice the size of the pixels
    kept = []
    for _ in range(2):
        tight = outcome(tmp_path, *options, f"store.path={tmp_path / 'tight'}", "store.budget_gb=2.2e-3")
        assert equal_bits(roomy, tight)
        files = [(place, place.stat()) for place in (tmp_path / "tight").glob("features/*/*/features")]
        kept.append({(place, file.st_ino, file.st_ctime_ns) for place, file in files if file.st_size > 10**5})
    assert len(kept[0]) == 2 and kept[0] == kept[1]


def test_frozen_stages_get_batches_of_one_size(tmp_path: Path) -> None:
    run = setup.assemble(chosen("freeze=head"), tmp_path, meta=False, screen=Screen())
    views, sizes = run.views, list[int]()
    lower, _ = cut.halves(run.model.module, run.model.structure, run.model.structure.stages[:-1])
    lower.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    passing = frost_line.draw(run, 0, cache=False).dataset(views.train)
    sizes.clear()
    every = passing.inputs(torch.arange(TRAIN), 1)
    for index in torch.arange(TRAIN).flip(0).split(7):
        assert torch.equal(passing.inputs(index, 1), every[index])
    assert set(sizes) == {32}
    assert views.train.seen == 2 * TRAIN


def test_outputs_are_freed_once_they_are_collected() -> None:
    made: list[weakref.ref[torch.Tensor]] = []

    def outputs() -> Iterator[torch.Tensor]:
        for _ in range(3):
            assert len(made) < 2 or made[0]() is None
            made.append(weakref.ref(output := torch.ones(2, 3)))
            yield output

    found, _ = features._collect(outputs(), 5, lambda shape, dtype: torch.zeros(shape, dtype=dtype))
    assert found.shape == (5, 3) and found.all()


@pytest.mark.parametrize("channels_last", ["true", "false"])
def test_features_are_the_stages_outputs_in_their_memory_format(tmp_path: Path, channels_last: str) -> None:
    config = chosen("freeze=last_stage", f"channels_last={channels_last}", f"store.path={tmp_path}")
    run = setup.assemble(config, tmp_path, meta=False, screen=Screen())
    index, views = torch.tensor([5, 0, 31, 7]), run.views.train
    for cache in (False, True):
        line = frost_line.draw(run, 0, cache=cache)
        data = line.dataset(views)
        data.inputs(index.flip(0), 1)
        data.prefetch(index, 1)
        found, expected = data.inputs(index, 1), line.below()(views.inputs(index, 1))
        assert data.cached == cache and found.dim() == 4
        torch.testing.assert_close(found, expected)
        assert found.stride() == expected.stride()


@pytest.mark.parametrize("mode", ["full", "head"])
def test_compiled_network_sees_each_image_once(tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(torch, "compile", lambda network, dynamic: compiled.append(network) or network)
    store = Store(tmp_path / "store", budget=1 << 30, say=print)
    seen = trained(tmp_path, store, f"freeze={mode}", "epochs=1", "compile=on", "features.enabled=false")[2]
    assert seen == EVERY and len(compiled) == 1


def test_disabled_store_computes_features_once_per_run(tmp_path: Path) -> None:
    nothing = Store(None, budget=0, say=print)
    assert trained(tmp_path, nothing, "freeze=head", "epochs=3")[2] == EVERY
    assert trained(tmp_path, nothing, "freeze=head", "epochs=3")[2] == EVERY


def test_head_learns_in_float32_on_bfloat16_features(tmp_path: Path) -> None:
    config = chosen("freeze=head", "precision=bf16", "store.enabled=false")
    run = setup.assemble(config, tmp_path, meta=False, screen=Screen())
    part = frost_line.parts(run, 0, None).train
    inputs = part.data.inputs(torch.arange(4), 1)
    assert inputs.dtype == torch.float32
    assert torch.equal(inputs, inputs.bfloat16().float())
    assert part.network(inputs).dtype == torch.float32
    assert part.autocast is None


def test_pixels_and_features_share_one_budget(tmp_path: Path) -> None:
    assembled = setup.assemble(chosen("freeze=head"), tmp_path, meta=False, screen=Screen())
    first = torch.arange(4)

    def read(budget: int, name: str = "store") -> tuple[DeviceBudget, torch.Tensor, int]:
        """Return the budget after training, the training inputs, and the free bytes during training."""
        store = Store(tmp_path / name, budget=1 << 30, say=print)
        run = replace(assembled, store=store, device_budget=DeviceBudget(torch.device("cpu"), budget))
        parts = frost_line.parts(run, 0, None)
        inputs = [part.data.inputs(first, 1) for part in (parts.train, parts.val)]
        return run.device_budget, torch.cat(inputs), run.device_budget.free

    much, expected, free = read(1 << 30)
    train, val = (len(split) * expected[:1].nbytes for split in (assembled.data.train, assembled.data.val))
    pixels = assembled.data.train.pixels.nbytes + assembled.data.val.pixels.nbytes
    assert much.total - free == pixels + train + val, "pixels and features"
    assert much.free == much.total, "everything is released"
    assert much.total - read(1 << 30)[2] == train + val, "no pixels if features are stored"

    tight, inputs, free = read(train, "another")
    assert (free, tight.free) == (0, train), "features replace the pixels; those of val do not fit"
    assert torch.equal(inputs, expected)

"""Small data, networks, configs and fakes for the tests of several modules."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import hydra
import pytest
import torch
import yaml
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from PIL import Image
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from frostline.core.config import KEPT, AdapterConfig, Config, DataConfig, FreezeModeConfig, PhaseConfig, RuleConfig
from frostline.core.errors import UserError
from frostline.core.validation import parse
from frostline.data import loading
from frostline.data.bit_depth import FULL, Levels
from frostline.data.decode_image import convert, tensor_of
from frostline.data.open_image import open_image, why
from frostline.data.pixel_cache import ViewSpec
from frostline.data.resize import CenterCrop
from frostline.data.splits import Data
from frostline.models import freezing
from frostline.models.build import Model, build
from frostline.models.freeze_guard import Guard
from frostline.models.freezing import Phase
from frostline.records import provenance
from frostline.records.layout import CHECKPOINT
from frostline.records.recording import Record
from frostline.report.terminal import Screen
from frostline.runs import frost_line
from frostline.runs.run import execute
from frostline.runs.run_context import RunContext
from frostline.runs.setup import Setup
from frostline.runs.train import fit_phases, learner_of
from frostline.store.store import Store
from frostline.training import checkpoint, dataset, optim, schedule
from frostline.training.evaluation import EvaluatedPart, Evaluation
from frostline.training.loop import FIRST_STEP, EpochResult, TrainingLoop, TrainingPosition
from frostline.training.schedule import Span
from frostline.training.state import Learner, Progress
from frostline.training.steps import PhaseParts, PlainStepper, Recipe, TrainedPart

SMALL = (
    *("model.image_size=32", "data.limit=24", "data.test_fraction=0.01", "data.val_fraction=0.02", "batch_size=8"),
    *("epochs=2", "threads=1", "store.enabled=false"),
)
TINY = ("model=timm", "model.name=test_resnet", "model.weights=null", "model.image_size=32")
"""A ResNet with a quarter of the default network's operations, for tests that need any network."""
ONE_OF_EACH_FAMILY = (
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3"),
    *("maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "regnet_y_400mf"),
    *("resnet18", "shufflenet_v2_x0_5", "squeezenet1_0", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11", "vgg16_bn"),
    "vit_b_16",
)
CENTER = CenterCrop(size=64, resize=73, interpolation="bilinear")
CONF = Path(__file__).parents[1] / "conf"
_GROUPS = {"freeze", *(folder.name for folder in CONF.iterdir() if folder.is_dir())}
BASE = yaml.safe_load((CONF / "config.yaml").read_text())
"""Default values, which options override."""
_MODES = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((CONF / "freeze_mode").glob("*.yaml"))}
_KINDS = {name: values["adapter"]["kind"] for name, values in _MODES.items() if "adapter" in values}
ADAPTED = tuple(name for name, kind in _KINDS.items() if kind not in KEPT)
"""Modes with adapters that are merged into the frozen layers at the end."""
KEPT_MODES = tuple(name for name, kind in _KINDS.items() if kind in KEPT)
"""Modes with adapters that the network keeps."""
MODES = tuple(name for name, values in _MODES.items() if not values.keys() & {"adapter", "solver"})
"""Modes that train the network's own parameters in steps."""


@dataclass
class Samples:
    """A dataset that is the same in every epoch, and logs which inputs were requested."""

    tensor: Tensor
    labels: Tensor
    cached: bool = False
    fetch_size: int = 1
    asked: list[tuple[int, Tensor]] = field(default_factory=list)

    def prefetch(self, index: Tensor, epoch: int) -> None:
        pass

    def inputs(self, index: Tensor, epoch: int) -> Tensor:
        self.asked.append((epoch, index.clone()))
        return self.tensor[index.to(self.tensor.device, non_blocking=True)]


def last_checkpoint(folder: Path, say: Callable[[str], None]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return the newest intact checkpoint of the run in `folder`, None if there is none."""
    return next(checkpoint.intact(folder / CHECKPOINT, say), None)


@contextmanager
def raises_one_line(pattern: str) -> Iterator[pytest.ExceptionInfo[UserError]]:
    """Require a `UserError` whose message matches `pattern` and is one line."""
    with pytest.raises(UserError, match=pattern) as caught:
        yield caught
    assert "\n" not in str(caught.value)


@contextmanager
def no_progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show no progress."""
    yield lambda count: None


class FakeScreen:
    """A screen that keeps its lines."""

    progress = staticmethod(no_progress)

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str, style: str = "") -> None:
        self.lines.append(text)

    def plan(self, plan: object, *, whole: bool = False) -> None: ...

    def advance(self, epochs: float) -> None: ...

    def epoch(self, done: EpochResult, **facts: object) -> None: ...


class FakeRecord:
    """A record that keeps everything in memory."""

    def __init__(self) -> None:
        self.points: list[tuple[str, int, float]] = []
        self.tags: dict[str, str] = {}
        self.files: list[str] = []

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        self.points += [(key, step, value) for key, value in values.items()]

    def tag(self, key: str, value: str) -> None:
        self.tags[key] = value

    def artifact(self, path: Path, folder: str | None = None) -> None:
        self.files.append(f"{folder or '.'}/{path.name}")

    def dataset(self, **facts: object) -> None: ...


def execute_run(
    config: Config, folder: Path, record: FakeRecord | None = None, screen: FakeScreen | None = None, **around: Any
) -> tuple[dict[str, float], dict[str, int]]:
    """Return the result of `execute` for a run in `folder`, which is created; `around` completes its `RunContext`."""
    folder.mkdir(parents=True, exist_ok=True)
    provenance.write(folder, provenance.software([]))  # as jobs do
    run = RunContext("a run", folder, cast(Screen, screen or FakeScreen()), **around)
    return execute(config, run, cast(Record, record or FakeRecord()))


def epochs_of(run: Setup, learner: Learner | None = None) -> Iterator[EpochResult]:
    """Train an assembled run without showing progress, and yield its epochs."""
    learner = learner or learner_of(run)
    alone = PlainStepper(learner.optimizer, run.recipe)
    options: dict[str, Any] = {"progress": Progress(), "pause": lambda: False, "stepper": alone}
    events = fit_phases(run, learner, Guard(run.model.module), cast(Screen, FakeScreen()), **options)
    yield from (event for event in events if isinstance(event, EpochResult))


def score(run: Setup, phase: int) -> Evaluation:
    """Evaluate the model in its current state on the test split, with the frost line of `phase`."""
    return frost_line.score(run, frost_line.draw(run, phase), run.views.test)


def data_config(**fields: Any) -> DataConfig:
    """Return a data config with the defaults of `conf/config.yaml`."""
    return DataConfig(**{"name": "some", "flip": False, **BASE["data"], "max_pixels": 10**6, **fields})


def load_data(center: CenterCrop = CENTER, side: int | None = None, **fields: Any) -> Data:
    """Return data decoded in memory for a network with the view `center`; crops are cut at the shorter side `side`."""
    store = Store(None, budget=10**9, say=print)
    return loading.load(data_config(**fields), spec=ViewSpec(center, side), store=store, progress=no_progress)


def as_rgb(image: Image.Image, levels: Levels = FULL) -> Image.Image:
    """Return an opened image as networks see it, by Pillow alone."""
    return convert(image, levels)[0]


def read_image(file: Path, levels: Levels = FULL) -> Tensor:
    """Return the image in a file as `(3, H, W)` uint8; `OSError` names the file and the reason."""
    try:
        with open_image(file) as image:
            return tensor_of(image, levels)[0]
    except Exception as error:
        raise OSError(f"{file}: {why(error)}") from error


def image_in(file: Path, levels: Levels = FULL) -> Image.Image:
    """Return the image in a file as networks see it."""
    return Image.fromarray(read_image(file, levels).permute(1, 2, 0).numpy())


def images(count: int, *, side: int = 32, classes: int = 5, seed: int = 0) -> Samples:
    """Return noise whose class can be learned from the brightness of a channel's upper half."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    pixels = torch.randn(count, 3, side, side, generator=random)
    for pixel, label in zip(pixels, labels.tolist(), strict=True):
        pixel[label % 3, : side // 2] += 1 + label // 3
    return Samples(pixels, labels)


def mode(name: str) -> FreezeModeConfig:
    """Return `conf/freeze_mode/<name>.yaml`."""
    values = yaml.safe_load((CONF / "freeze_mode" / f"{name}.yaml").read_text())
    phases = [phase(**options) for options in values["phases"]]
    return FreezeModeConfig(**{**values, "phases": phases, "adapter": AdapterConfig(**values.get("adapter", {}))})


def phase(*, rules: list[dict[str, Any]], **options: Any) -> PhaseConfig:
    return PhaseConfig([RuleConfig(**rule) for rule in rules], **options)


def network(name: str = "shufflenet_v2_x0_5", *, classes: int = 5, seed: int = 0, **options: Any) -> Model:
    return build(name, weights=None, num_classes=classes, seed=seed, **options)


def resolve(model: Model, chosen: FreezeModeConfig) -> tuple[Phase, ...]:
    return freezing.resolve(model.module, model.structure, chosen.phases, chosen.name)


def train(
    model: Model,
    chosen: FreezeModeConfig,
    data: Samples,
    val: Samples | None = None,
    *,
    lr: float = 1e-2,
    epochs: int = 1,
    batch_size: int = 8,
    seed: int = 0,
    optimizer: str = "sgd",
    weight_decay: float = 0.0,
    options: dict[str, Any] | None = None,
    ema: AveragedModel | None = None,
    autocast: torch.dtype | None = None,
    entered: Callable[[int], None] = lambda phase: None,
    before_step: Callable[[int, Span], None] = lambda step, span: None,
    start: TrainingPosition = FIRST_STEP,
    **recipe: Any,
) -> Iterator[EpochResult]:
    """Train a model as a run does; `entered` is called after each start of a phase."""
    phases = resolve(model, chosen)
    groups = optim.param_groups(
        model.module, model.structure, phases, weight_decay=weight_decay, decay_norm_and_bias=False
    )
    built = optim.build(optimizer, groups, lr=lr, options=options or {})
    steps = len(dataset.batches(len(data.labels), batch_size, drop_last=recipe.get("drop_last", False)))

    def enter(number: int) -> PhaseParts:
        freezing.freeze(model.module, model.structure, phases[number], norm_stats=chosen.norm_stats)
        entered(number)
        scored = ema.module if ema else model.module
        return PhaseParts(TrainedPart(model.module, data, autocast), EvaluatedPart(scored, val or data, autocast))

    def after() -> None:
        if ema is not None:
            ema.update_parameters(model.module)

    def before(step: int, span: Span) -> None:
        schedule.set_lr(built.param_groups, lr=lr, phase=span.phase, factor=1.0)
        before_step(step, span)

    how = Recipe(epochs=epochs, batch_size=batch_size, eval_batch_size=64, seed=seed, **recipe)
    training = TrainingLoop(
        labels=data.labels.cpu(),
        stepper=PlainStepper(built, how),
        timeline=schedule.spans([p.share for p in phases], epochs=epochs, steps_per_epoch=steps),
        enter=enter,
        before_step=before,
        after_step=after,
        recipe=how,
        guard=Guard(model.module),
    )
    yield from training.fit(start)


def plain_config(*overrides: str) -> dict[str, Any]:
    """Return the config that Hydra composes for a command line, as plain values that the caller may change.

    Hydra reads every file each time; here each choice of groups is composed once, and values are put into a copy.
    """
    values = [one for one in map(_read, overrides) if _is_value(one)]
    taken = {one.input_line for one in values}
    try:
        config = _composed(tuple(one for one in overrides if one not in taken))
        for override in values:
            OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
    except OmegaConfBaseException:  # let Hydra raise its own error
        config = _composed(overrides)
    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True, throw_on_missing=True))


@functools.cache
def _read(override: str) -> Override:
    return OverridesParser.create().parse_override(override)


def _is_value(override: Override) -> bool:
    """Return whether it sets an existing key, not a group, to a value without interpolation."""
    return (
        override.type is OverrideType.CHANGE
        and override.key_or_group not in _GROUPS
        and isinstance(override.value(), int | float | str | list | dict | None)
        and "${" not in str(override.value())
    )


_APART = {"freeze": "freeze_mode", **{name: name for name in ("optimizer", "schedule", "augment", "data")}}
"""Groups whose options set one section only, by their name on the command line; those of a model may set more."""


def _composed(overrides: tuple[str, ...]) -> DictConfig:
    """Return a new copy of what Hydra composes; several choices of groups are composed one by one and joined."""
    return cast(DictConfig, pickle.loads(_pickled(overrides)))  # six times as fast as a deep copy


@functools.cache
def _pickled(overrides: tuple[str, ...]) -> bytes:
    groups = [one.partition("=")[0] for one in overrides]
    if len(groups) < 2 or len({*groups}) < len(groups) or not {"model", *_APART} >= {*groups}:
        return pickle.dumps(hydra_config(overrides))
    config = _composed(tuple(one for one in overrides if one.startswith("model=")))
    for group, override in zip(groups, overrides, strict=True):
        if group in _APART:
            config[_APART[group]] = _composed((override,))[_APART[group]]
    return pickle.dumps(config)


def hydra_config(overrides: Sequence[str]) -> DictConfig:
    """Return the config that Hydra composes for a command line, without a cache."""
    OmegaConf.register_new_resolver("project_root", lambda: str(CONF.parent), replace=True)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("config", overrides=[*overrides])


def compose(*overrides: str) -> Config:
    """Return the checked config of a command line."""
    return parse(plain_config(*overrides))

"""The splits as the network sees them: which views of which images, for training, selection and the test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from frostline import augment
from frostline.config import Config
from frostline.data import Split
from frostline.setup import Setup
from frostline.views import View, Views


@dataclass(frozen=True)
class Images:
    """The splits as the network sees them."""

    train: Views
    val: Views
    test: Views

    @property
    def seen(self) -> int:
        """Number of images that went through any part of the backbone."""
        return self.train.seen + self.val.seen + self.test.seen


def look(setup: Setup) -> Images:
    """Return the splits as the network sees them, on its device."""
    config, images = setup.config, setup.data
    spec: dict[str, Any] = asdict(setup.model.input)
    policy = augment_policy(config)

    def centre(pixels: Tensor, sizes: Tensor, ids: Tensor, view: int) -> Tensor:
        return augment.eval_views(pixels, sizes, **spec)

    def random(pixels: Tensor, sizes: Tensor, ids: Tensor, view: int) -> Tensor:
        return augment.train_views(pixels, sizes, ids, policy=policy, seed=config.seed, epoch=view, **spec)

    def views(name: str, split: Split, *, shown: View = centre, **facts: Any) -> Views:
        view_of = _view_of(config.features.views) if shown is random else lambda epoch: 0
        identity = {"split": name, **facts}
        return Views(split, shown, setup.room, setup.memory_format, view_of=view_of, identity=identity)

    if policy.random:
        train = views("train", images.train, shown=random, policy=asdict(policy), seed=config.seed)
    else:
        train = views("train", images.train)
    return Images(train, views("val", images.val), views("test", images.test))


def _view_of(distinct: int | None) -> Callable[[int], int]:
    """Return which random view of an image is shown in an epoch: a fresh one, or one of `distinct` in turn."""
    return lambda epoch: epoch if distinct is None else (epoch - 1) % distinct + 1


def approximation(config: Config) -> str | None:
    """Return in what a run with `features.views` is not the run without it; None where it is."""
    distinct = config.features.views
    if distinct is None or distinct >= config.epochs or not augment_policy(config).random:
        return None
    return f"features.views={distinct}: epochs take turns with {distinct:,} random views of each image"


def augment_policy(config: Config) -> augment.Policy:
    """Return how training views differ; images are mirrored only where the data allows it."""
    options = config.augment
    return augment.Policy(
        crop=options.crop,
        scale=(options.scale[0], options.scale[1]),
        ratio=(options.ratio[0], options.ratio[1]),
        padding=options.padding,
        flip=options.flip and config.data.flip,
        color=options.color,
        trivial=options.trivial,
    )

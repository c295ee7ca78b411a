"""The views of all splits: which crops and augmentations the network sees in training, validation and test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from frostline.core.input_spec import InputSpec
from frostline.data import augment
from frostline.data.augment import Crop
from frostline.data.resize import CenterCrop
from frostline.data.splits import Split
from frostline.data.views import View, Views
from frostline.runs.run_data import augment_policy

if TYPE_CHECKING:
    from frostline.runs.setup import Setup


@dataclass(frozen=True)
class SplitViews:
    """The views of all splits of a run."""

    train: Views
    val: Views
    test: Views
    whole: Views | None = None
    """All images together, for cross-validation without augmentation: features computed once serve all folds."""

    @property
    def train_and_val(self) -> tuple[Views, ...]:
        """The views that training and validation read."""
        return tuple(views for views in (self.train, self.val, self.whole) if views is not None)

    def of_split(self, name: str) -> Views | None:
        """Return the views of the split `name`; None if it is none of these."""
        return next((views for views in (*self.train_and_val, self.test) if views.identity["split"] == name), None)

    @property
    def seen(self) -> int:
        """Number of images that went through any part of the backbone."""
        return sum(views.seen for views in (*self.train_and_val, self.test))


def views_of(setup: Setup) -> SplitViews:
    """Return the views of all splits, on the device of `setup`."""
    config, data = setup.config, setup.data
    policy = augment_policy(config)
    if policy.random:
        view, number = random_view(setup.model.input, policy, config.seed), _view_of(config.features.views)
        facts = {"policy": asdict(policy), "seed": config.seed, "cut_from": data.cut_from}
        train = _views(setup, "train", data.train, view, view_of=number, **facts)
    else:
        train = centred(setup, "train", data.train)
    whole = centred(setup, "folds", data.whole) if data.whole is not None and not policy.random else None
    return SplitViews(train, centred(setup, "val", data.val), centred(setup, "test", data.test), whole)


def centred(setup: Setup, name: str, split: Split) -> Views:
    """Return the views of the split called `name` without augmentation, on the device of `setup`."""
    return _views(setup, name, split, centre_view(setup.model.input))


def _views(
    setup: Setup, name: str, split: Split, view: View, *, view_of: Callable[[int], int] = lambda epoch: 0, **facts: Any
) -> Views:
    identity = {"split": name, **facts}
    return Views(split, view, setup.device_budget, setup.memory_format, view_of=view_of, identity=identity)


def centre_view(spec: InputSpec) -> View:
    """Return the view of an image without augmentation: the weights' own preprocessing."""
    return View(CenterCrop.of(spec), None, lambda views, ids, number: spec.normalise(views))


def random_view(spec: InputSpec, policy: augment.Policy, seed: int) -> View:
    """Return the augmented view of an image by `policy`, random by image, `seed` and number."""
    how = CenterCrop.of(spec)

    def crop(sizes: Tensor, ids: Tensor, number: int) -> Crop:
        return augment.random_crop(sizes, ids, policy=policy, how=how, seed=seed, epoch=number)

    def finish(views: Tensor, ids: Tensor, number: int) -> Tensor:
        flip = augment.mirrored(ids, policy=policy, seed=seed, epoch=number) if policy.crop == "none" else None
        if flip is not None:
            views = torch.where(flip[:, None, None, None], views.flip(3), views)
        return spec.normalise(augment.recolor(views, ids, policy=policy, seed=seed, epoch=number))

    return View(how, None if policy.crop == "none" else crop, finish)


def _view_of(distinct: int | None) -> Callable[[int], int]:
    """Return a function from an epoch to the number of its random view: a new one, or one of `distinct` in turn."""
    return lambda epoch: epoch if distinct is None else (epoch - 1) % distinct + 1


def approximations(setup: Setup) -> list[str]:
    """Return in words how a run approximates exact training; empty if it does not.

    Exact means `features.views=null`, `data.pixels=exact`, and images as the network's authors preprocess them.
    """
    config, found = setup.config, []
    policy, distinct = augment_policy(config), config.features.views
    if setup.model.input.crop == "border":
        found.append("the centre of an image is shown, where timm shows all of it with a border (crop_mode=border)")
    if distinct is not None and distinct < config.epochs and policy.random:
        found.append(f"features.views={distinct}: epochs take turns with {distinct:,} random views of each image")
    if setup.data.reduced_to is not None:
        pixels = augment.surplus(policy, CenterCrop.of(setup.model.input), setup.data.reduced_to)
        told = f"the median crop has {pixels:.2f} pixels a side for each pixel of the network's input"
        found.append(f"random crops are cut from {setup.data.cut_from}: {told}")
    return found

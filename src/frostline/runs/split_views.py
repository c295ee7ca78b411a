"""The splits as the network sees them: which views of which images, for training, selection and the test."""

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
class Images:
    """The splits as the network sees them."""

    train: Views
    val: Views
    test: Views
    whole: Views | None = None
    """All of them, where they are folds of each other and nothing in them is random: what is computed of them once
    serves all folds."""

    @property
    def learnt_from(self) -> tuple[Views, ...]:
        """What training and selection read."""
        return tuple(views for views in (self.train, self.val, self.whole) if views is not None)

    def called(self, name: str) -> Views | None:
        """Return the views that say of themselves that they are of the split `name`, None where none here do."""
        return next((views for views in (*self.learnt_from, self.test) if views.identity["split"] == name), None)

    @property
    def seen(self) -> int:
        """Number of images that went through any part of the backbone."""
        return sum(views.seen for views in (*self.learnt_from, self.test))


def look(setup: Setup) -> Images:
    """Return the splits as the network sees them, on its device."""
    config, data = setup.config, setup.data
    policy = augment_policy(config)
    if policy.random:
        view, number = random_view(setup.model.input, policy, config.seed), _view_of(config.features.views)
        facts = {"policy": asdict(policy), "seed": config.seed, "cut_from": data.cut_from}
        train = _views(setup, "train", data.train, view, view_of=number, **facts)
    else:
        train = centred(setup, "train", data.train)
    whole = centred(setup, "folds", data.whole) if data.whole is not None and not policy.random else None
    return Images(train, centred(setup, "val", data.val), centred(setup, "test", data.test), whole)


def centred(setup: Setup, name: str, split: Split) -> Views:
    """Return the split called `name` as the network sees it where nothing is random, on its device."""
    return _views(setup, name, split, centre_view(setup.model.input))


def _views(
    setup: Setup, name: str, split: Split, view: View, *, view_of: Callable[[int], int] = lambda epoch: 0, **facts: Any
) -> Views:
    identity = {"split": name, **facts}
    return Views(split, view, setup.room, setup.memory_format, view_of=view_of, identity=identity)


def centre_view(spec: InputSpec) -> View:
    """Return the view of a picture in which nothing is random: the weights' own preprocessing."""
    return View(CenterCrop.of(spec), None, lambda views, ids, number: spec.normalise(views))


def random_view(spec: InputSpec, policy: augment.Policy, seed: int) -> View:
    """Return the views of `policy`, one for each number."""
    how = CenterCrop.of(spec)

    def crop(sizes: Tensor, ids: Tensor, number: int) -> Crop:
        return augment.random_crop(sizes, ids, policy=policy, how=how, seed=seed, epoch=number)

    def finish(views: Tensor, ids: Tensor, number: int) -> Tensor:
        if policy.crop == "none":
            views = _mirror(views, augment.mirrored(ids, policy=policy, seed=seed, epoch=number))
        return spec.normalise(augment.recolor(views, ids, policy=policy, seed=seed, epoch=number))

    return View(how, None if policy.crop == "none" else crop, finish)


def _mirror(views: Tensor, flip: Tensor | None) -> Tensor:
    return views if flip is None else torch.where(flip[:, None, None, None], views.flip(3), views)


def _view_of(distinct: int | None) -> Callable[[int], int]:
    """Return which random view of an image is shown in an epoch: a fresh one, or one of `distinct` in turn."""
    return lambda epoch: epoch if distinct is None else (epoch - 1) % distinct + 1


def approximations(setup: Setup) -> list[str]:
    """Return in what a run is not the one with `features.views=null` and `data.pixels=exact`; nothing where it is.

    Nor may its pictures be those that its network was made for.
    """
    config, found = setup.config, []
    policy, distinct = augment_policy(config), config.features.views
    if setup.model.input.crop == "border":
        found.append("the centre of a picture is shown, where timm shows all of it with a border (crop_mode=border)")
    if distinct is not None and distinct < config.epochs and policy.random:
        found.append(f"features.views={distinct}: epochs take turns with {distinct:,} random views of each image")
    if setup.data.reduced_to is not None:
        pixels = augment.surplus(policy, CenterCrop.of(setup.model.input), setup.data.reduced_to)
        told = f"for each pixel of the network the median crop has {pixels:.2f} of them a side"
        found.append(f"random crops are cut from {setup.data.cut_from}: {told}")
    return found

"""Robustness: the accuracy of a trained network on corrupted test images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import fmean

import PIL
from torch import Tensor, nn

from frostline.core import codehash
from frostline.data import corruptions
from frostline.data.views import Views
from frostline.models import cut
from frostline.records.result import percent
from frostline.runs import frost_line
from frostline.runs.setup import Setup
from frostline.runs.split_views import centre_view


def measure(
    setup: Setup, phase: int, say: Callable[[str], None], voters: nn.Module | None = None
) -> dict[str, list[float]]:
    """Return the accuracy on the test split under each corruption, fractions in 0..1 for severities 1 to 5.

    If only the head is above the frost line of `phase`, features of the corrupted images are cached in the store, like
    all features. The run's costs do not include this. `voters` classify instead of the layers above the line.
    """
    line = frost_line.draw(setup, phase, cache=_caches(setup, phase))
    found: dict[str, list[float]] = {}
    for name, strengths in corruptions.strengths(setup.model.input.size).items():
        views = (_views(setup, name, strength) for strength in strengths)
        found[name] = [frost_line.score(setup, line, each, voters).accuracy for each in views]
        say(f"  test with {name:8} {'  '.join(map(percent, found[name]))}")
    return found


def metrics(found: dict[str, list[float]]) -> dict[str, float]:
    """Return the metrics `shift/<corruption>`, each the mean over severities, and `shift/mean`, their mean."""
    means = {f"shift/{name}": fmean(accuracies) for name, accuracies in found.items()}
    return {**means, "shift/mean": fmean(means.values())}


def _caches(setup: Setup, phase: int) -> bool:
    """Return whether features of all corrupted splits are cached: only the small ones directly below the head."""
    structure = setup.model.structure
    return cut.head_alone(structure, cut.stages_below(structure, setup.phases[phase]))


def corrupted(setup: Setup, split: str) -> Views:
    """Return the corrupted test split whose views are called `split`."""
    every = corruptions.strengths(setup.model.input.size).items()
    pairs = ((name, strength) for name, strengths in every for strength in strengths)
    return _views(setup, *next(pair for pair in pairs if _called(*pair) == split))


def _called(name: str, strength: float) -> str:
    return f"test with {name} {strength}"


def _views(setup: Setup, name: str, strength: float) -> Views:
    """Return the test split with its centre views corrupted."""
    spec = setup.model.input

    def corrupted(views: Tensor, ids: Tensor, number: int) -> Tensor:
        return spec.normalise(corruptions.corrupt(name, strength, views, ids))

    identity = {
        "split": _called(name, strength),
        "corruptions": codehash.of("runs.robustness"),
        "pillow": PIL.__version__,
    }
    place = (setup.device_budget, setup.memory_format)
    view = replace(centre_view(spec), finish=corrupted)
    return Views(setup.data.test, view, *place, view_of=lambda epoch: 0, identity=identity)

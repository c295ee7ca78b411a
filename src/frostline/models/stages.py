"""Stages and heads of each architecture family: the only module that knows the layer names inside networks.

A stage is all layers at one resolution of the feature map, or a quarter of the blocks of a vision transformer. A single
tensor crosses its border, so that the forward pass can be cut there.
"""

from __future__ import annotations

import re
from bisect import bisect
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from torch import nn

from frostline.core.errors import user_error

Starts = Callable[[nn.Module, Sequence[int]], Sequence[int]]


@dataclass(frozen=True)
class Structure:
    """The stages of one network, bottom to top, and the head layers, which are replaced for new classes."""

    stages: tuple[str, ...]
    """`("stem", "stage1", ..., "stageN", "head")`."""
    heads: tuple[str, ...]
    """Dotted paths of the head layers, e.g. `fc`, `classifier.6`, `heads.head`; most networks have one."""
    _stage_by_name: dict[str, str] = field(repr=False)
    side: int | None = None
    """None if a single tensor is known to cross every border; else the side in pixels of the images with which
    `cut.cuttable` tests this."""

    def stage_of(self, name: str) -> str:
        """Return the stage of a parameter, buffer or module by its dotted path.

        KeyError for the root (`""`), for a container that spans several stages, and for unknown names.
        """
        return self._stage_by_name[name]

    def in_one_stage(self, name: str) -> bool:
        """Return whether a module or tensor lies within one stage; a container may span several."""
        return name in self._stage_by_name

    def with_stages(self, more: Mapping[str, str]) -> Structure:
        """Return the structure with the stages of further modules and parameters, by dotted path."""
        return replace(self, _stage_by_name=self._stage_by_name | dict(more))


@dataclass(frozen=True)
class Family:
    """Rules that assign parameter paths of one architecture family to stages.

    The units of a network form a chain and are numbered in their paths; units before the first start belong to the
    stem. A regular expression must match from the beginning of a path to a dot or to the end.
    """

    head: str
    """Dotted path of the head layer."""
    units: str
    """Regular expression of the units; its only group is the unit's number."""
    starts: Starts
    """Returns the numbers of the units at which stages begin, given the network and all unit numbers."""
    stem: str | None = None
    """Regular expression of layers of the stem that are not units."""
    top: str | None = None
    """The same for the last stage: last convolutions, the last norm before the head."""
    hidden: str | None = None
    """Hidden layers of a classifier with several; they form a stage of their own under the head."""


def each(module: nn.Module, numbers: Sequence[int]) -> Sequence[int]:
    """Return `numbers`: every unit is a stage."""
    return numbers


def at(*starts: int) -> Starts:
    """Return a rule with fixed starts."""
    return lambda module, numbers: starts


def in_parts(parts: int) -> Starts:
    """Return a rule that divides the units evenly into `parts` stages."""
    return lambda module, numbers: [numbers[i * len(numbers) // parts] for i in range(parts)]


def halving(module: nn.Module, numbers: Sequence[int]) -> Sequence[int]:
    """Return unit 1, and every unit of `features` that strides, i.e. halves the resolution."""
    return [n for n in numbers[1:] if n == 1 or _strides(module.get_submodule(f"features.{n}"))]


def after_pooling(module: nn.Module, numbers: Sequence[int]) -> Sequence[int]:
    """Return the unit after each max pooling of `features`; the pooling ends the stage below."""
    units = module.get_submodule("features").named_children()
    pools = [int(n) for n, unit in units if isinstance(unit, nn.MaxPool2d)]
    return [n + 1 for n in pools if n < numbers[-1]]


def _strides(unit: nn.Module) -> bool:
    return any(isinstance(layer, nn.Conv2d) and layer.stride[0] > 1 for layer in unit.modules())


FAMILIES = {
    "AlexNet": Family("classifier.6", r"features\.(\d+)", after_pooling, hidden=r"classifier\.[14]"),
    "ConvNeXt": Family("classifier.2", r"features\.(\d+)", halving, top=r"classifier\.0"),
    "DenseNet": Family(
        "classifier",
        r"features\.(?:denseblock|transition)(\d+)",
        each,
        stem=r"features\.(?:conv0|norm0)",
        top=r"features\.norm5",
    ),
    "EfficientNet": Family("classifier.1", r"features\.(\d+)", halving),
    "GoogLeNet": Family("fc", r"inception(\d)[a-e]", each, stem=r"conv[123]"),
    "Inception3": Family("fc", r"Mixed_(\d)[a-e]", each, stem=r"Conv2d_\w+"),
    "MNASNet": Family("classifier.1", r"layers\.(\d+)", at(8, 9, 10, 12)),
    "MaxVit": Family("classifier.5", r"blocks\.(\d+)", each, stem=r"stem", top=r"classifier\.[23]"),
    "MobileNetV2": Family("classifier.1", r"features\.(\d+)", halving),
    "MobileNetV3": Family("classifier.3", r"features\.(\d+)", halving, top=r"classifier\.0"),
    "RegNet": Family("fc", r"trunk_output\.block(\d+)", each, stem=r"stem"),
    "ResNet": Family("fc", r"layer(\d+)", each, stem=r"conv1|bn1"),
    "ShuffleNetV2": Family("fc", r"stage(\d+)", each, stem=r"conv1", top=r"conv5"),
    "SqueezeNet": Family("classifier.1", r"features\.(\d+)", after_pooling),
    "SwinTransformer": Family("head", r"features\.(\d+)", at(1, 2, 4, 6), top=r"norm"),
    "VGG": Family("classifier.6", r"features\.(\d+)", after_pooling, hidden=r"classifier\.[03]"),
    "VisionTransformer": Family(
        "heads.head",
        r"encoder\.layers\.encoder_layer_(\d+)",
        in_parts(4),
        stem=r"conv_proj|class_token|encoder\.pos_embedding",
        top=r"encoder\.ln",
    ),
}


def structure_of(module: nn.Module, family: Family | None = None) -> Structure:
    """Return the structure of a network, by default by the family of its class; UserError for an unknown class."""
    family = family or FAMILIES.get(type(module).__name__)
    if family is None:
        raise user_error("model", type(module).__name__, "an architecture of a known family", FAMILIES)
    names = [name for name, _ in chain(module.named_parameters(), module.named_buffers())]
    return of_levels(module, _levels(family, module, names), (family.head,))


def of_levels(
    module: nn.Module, levels: Mapping[str, int], heads: tuple[str, ...], *, side: int | None = None
) -> Structure:
    """Return the structure of a network from the level of each of its tensors: 0 is the stem, the highest the head."""
    highest = max(levels.values())
    stages = ("stem", *(f"stage{i}" for i in range(1, highest)), "head")
    by_name = {name: stages[level] for name, level in levels.items()}
    around = set() if side is None else {path for head in heads for path in _ancestors(head)}
    return Structure(stages, heads, by_name | _stages_of_modules(module, by_name, around), side)


def _levels(family: Family, module: nn.Module, names: Sequence[str]) -> dict[str, int]:
    """Return the level of every tensor: 0 is the stem, the highest the head."""
    numbers = sorted({int(found[1]) for name in names if (found := _match(family.units, name))})
    starts = family.starts(module, numbers)
    top = len(starts)
    head = top + (2 if family.hidden else 1)
    fixed = {family.stem: 0, family.top: top, family.hidden: top + 1, re.escape(family.head): head}

    def level(name: str) -> int:
        unit = _match(family.units, name)
        levels = {bisect(starts, int(unit[1]))} if unit else {fixed[p] for p in fixed if p and _match(p, name)}
        if len(levels) != 1:
            expected = f"a family that gives each tensor one stage, and {name} has {len(levels)}"
            raise user_error("model", type(module).__name__, expected)
        return levels.pop()

    return {name: level(name) for name in names}


def _match(pattern: str, path: str) -> re.Match[str] | None:
    return re.match(rf"(?:{pattern})(?:\.|$)", path)


def _stages_of_modules(module: nn.Module, by_tensor: dict[str, str], around: Collection[str]) -> dict[str, str]:
    """Return the stage of every module that lies within one stage, except the modules `around` a head.

    A layer without tensors belongs to its container or, if that has no stage, to the layer before it (poolings,
    activations); a dropout belongs to the layer after it, if there is one.
    """
    spans: dict[str, set[str]] = defaultdict(set)
    for name, stage in by_tensor.items():
        for container in _ancestors(name):
            spans[container].add(stage)
    found: dict[str, str] = {}
    fed: list[str] = []
    last = "stem"
    for path, layer in module.named_modules():
        parent = path.rpartition(".")[0]
        if path in around:
            continue
        if len(spans[path]) == 1:
            found[path] = last = next(iter(spans[path]))
            found.update(dict.fromkeys(fed, last))
            fed.clear()
        elif not spans[path] and parent in found:
            found[path] = found[parent]
        elif not spans[path] and isinstance(layer, nn.Dropout):
            fed.append(path)
        elif not spans[path]:
            found[path] = last
    return found | dict.fromkeys(fed, last)


def _ancestors(name: str) -> Iterator[str]:
    while name:
        name = name.rpartition(".")[0]
        yield name

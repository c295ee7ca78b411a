"""Find a network's state dict in another program's checkpoint: inside nested dicts, under prefixed names.

It is found if exactly one reading of the file has all tensors below the head, with names and shapes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from frostline.core.errors import user_error

Tensors = Mapping[str, Tensor]

_COUNTED = "num_batches_tracked"  # unknown to files from before torch 0.4.1
_RENAMED = (  # names in older files of torchvision, or of stages that were compiled -> names in its networks
    (re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\."), r"\1\2."),
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_1\."), r"\1.0."),
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_2\."), r"\1.3."),
    (re.compile(r"(?<=\.)_orig_mod\."), ""),
)


@dataclass(frozen=True)
class Reading:
    """One way to read a network's tensors from a file."""

    place: str
    """The keys that lead to the state dict, joined by dots; empty for the top level of the file."""
    prefix: str
    """Prefix of the tensor names there, e.g. `module.`."""
    tensors: Tensors
    """Tensors by the network's own names."""
    left_out: tuple[str, ...]
    """Names of other tensors there, which lack the prefix."""

    @property
    def plain(self) -> bool:
        """Whether the file itself is the state dict, with the network's own names."""
        return not (self.place or self.prefix)

    def __str__(self) -> str:
        parts = [self.place and f"under `{self.place}`", self.prefix and f"names after `{self.prefix}`"]
        return ", ".join(filter(None, parts)) or "the file as it is"


def tables(content: object) -> dict[str, dict[str, Tensor]]:
    """Return every dict of tensors in a file's content, by the keys that lead to it, joined by dots."""
    found: dict[str, dict[str, Tensor]] = {}
    waiting, seen = [("", content)], set()
    while waiting:
        place, value = waiting.pop(0)
        if not isinstance(value, Mapping) or id(value) in seen:
            continue
        seen.add(id(value))
        named = [(key, item) for key, item in value.items() if isinstance(key, str)]
        if dense := {key: item for key, item in named if isinstance(item, Tensor) and _dense(item)}:
            found[place] = dense
        waiting += [(f"{place}.{key}" if place else key, item) for key, item in named]
    return found


def _dense(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_meta


def find(
    content: Mapping[str, Tensors],
    own: Tensors,
    heads: Sequence[str],
    *,
    adapt: Callable[[Tensors], Tensors],
    source: str,
) -> Reading:
    """Return the reading of `content`, dicts by place, that has all of the network's `own` tensors below the heads.

    If none has, return the one with the most of them. `adapt` converts tensors to the network's input size. UserError
    if several readings fit and differ.
    """
    below = {name: t for name, t in own.items() if not within(name, heads) and not name.endswith(_COUNTED)}
    readings = [reading for place, table in content.items() for reading in _readings(place, table, below, adapt)]
    shapes = {name: tensor.shape for name, tensor in below.items()}
    fitting = [one for one in readings if shapes.items() <= {n: t.shape for n, t in one.tensors.items()}.items()]
    if not fitting:
        return max(readings, key=lambda one: sum(name in one.tensors for name in below))
    first = fitting[0]
    if all(torch.equal(first.tensors[name], other.tensors[name]) for other in fitting[1:] for name in below):
        return first
    ways = "; ".join(map(str, fitting))
    expected = f"one state dict of this network, but {len(fitting)} different ones fit: {ways}"
    raise user_error("model.weights", source, expected)


def _readings(place: str, table: Tensors, below: Tensors, adapt: Callable[[Tensors], Tensors]) -> Iterator[Reading]:
    """Yield the readings of a dict of tensors: without a prefix, and with each prefix that fits the most names."""
    given = {_current(name): tensor for name, tensor in table.items()}
    given = given if len(given) == len(table) else dict(table)
    counts: Counter[str] = Counter({"": 0})
    for name in given:
        parts = name.split(".")
        cuts = range(len(parts))
        counts.update(".".join([*parts[:i], ""]) for i in cuts if ".".join(parts[i:]) in below)
    most = max(counts.values())
    for prefix, count in counts.items():
        if count == most or not prefix:
            own = {name.removeprefix(prefix): t for name, t in given.items() if name.startswith(prefix)}
            yield Reading(place, prefix, adapt(own), tuple(name for name in given if not name.startswith(prefix)))


def _current(name: str) -> str:
    for pattern, replacement in _RENAMED:
        name = pattern.sub(replacement, name)
    return name


def within(name: str, places: Sequence[str]) -> bool:
    """Return whether a tensor lies in one of the modules at `places`."""
    return any(name.startswith(f"{place}.") for place in places)


def heads_in(heads: Sequence[str], own: Tensors, given: Tensors) -> tuple[dict[str, Tensor], list[str]]:
    """Return the heads found in `given`, by the network's names, and all names in `given` in the heads' place.

    The heads are empty unless all of them are found.
    """
    found = [_head_in(head, own, given) for head in heads]
    theirs = list(dict.fromkeys(name for _, names in found for name in names))
    taken = {name: tensor for one, _ in found for name, tensor in one.items()}
    return taken if all(one for one, _ in found) else {}, theirs


def _head_in(head: str, own: Tensors, given: Tensors) -> tuple[dict[str, Tensor], list[str]]:
    """Return the head found in `given`, by the network's names, and all names in `given` in the head's place.

    The head is empty if none has its shape. A single layer of its shape in the head's place is accepted as the head,
    such as `fc.1` for `fc` (after a dropout), or `classifier` for `classifier.1`.
    """
    region = head
    while "." in region and all(n.startswith(f"{head}.") for n in own if n.startswith(f"{_parent(region)}.")):
        region = _parent(region)
    there = [name for name in given if name.startswith(f"{region}.")]
    wanted = {name.removeprefix(f"{head}."): t.shape for name, t in own.items() if name.startswith(f"{head}.")}
    if all(f"{head}.{leaf}" in given and given[f"{head}.{leaf}"].shape == shape for leaf, shape in wanted.items()):
        return {f"{head}.{leaf}": given[f"{head}.{leaf}"] for leaf in wanted}, there
    layers = {_parent(name) for name in there}
    leaves = {name.rpartition(".")[2]: given[name] for name in there}
    if len(layers) != 1 or {leaf: t.shape for leaf, t in leaves.items()} != wanted:
        return {}, there
    return {f"{head}.{leaf}": tensor for leaf, tensor in leaves.items()}, there


def _parent(name: str) -> str:
    return name.rpartition(".")[0]

"""Load a state dict into a network: strictly, also from other programs' checkpoints, with a one-line error."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from frostline.core.errors import UserError, first_few, user_error
from frostline.models import state_dicts

_AUXILIARY = re.compile(r"(aux1|aux2|AuxLogits)\.")  # auxiliary heads of GoogLeNet, Inception v3: not built


@dataclass(frozen=True)
class Loaded:
    """What was loaded from a file."""

    names: Collection[str]
    """Parameters and buffers of the network that were overwritten."""
    said: str
    """A line for people: where the tensors were in the file, whether the head is new, which tensors were left out."""


def load_into(
    module: nn.Module,
    state: Mapping[str, Any],
    heads: Sequence[str],
    *,
    source: str,
    take_head: bool = True,
    adapt: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda tensors: tensors,
) -> Loaded:
    """Copy the tensors of `module` that `state` holds, at whatever depth, into it, and return which these were.

    The module keeps its own heads if those in `state` are missing or have another shape, or without `take_head`.
    `adapt` converts tensors to the network's input size.

    UserError if any other tensor is missing, unexpected or of another shape, if several different state dicts would
    fit, and if a number is nan or infinite. `source` names the weights in the message.
    """
    own, found = module.state_dict(), state_dicts.tables(state)
    if not found:
        raise user_error("model.weights", source, "a state dict: tensors by parameter name")
    reading = state_dicts.find(found, own, heads, adapt=adapt, source=source)
    given = {name: tensor for name, tensor in reading.tensors.items() if not _AUXILIARY.match(name)}
    taken, theirs = state_dicts.heads_in(heads, own, given)
    taken = taken if take_head else {}
    given = {name: tensor for name, tensor in given.items() if name not in theirs} | taken
    if not taken:
        own = {name: tensor for name, tensor in own.items() if not state_dicts.within(name, heads)}
    for name in own.keys() - given.keys():
        if name.endswith("num_batches_tracked"):  # unknown to files from before torch 0.4.1
            given[name] = torch.zeros_like(own[name])
    _check(own, given, source if reading.plain else f"{source} ({reading})")
    for name, tensor in own.items():
        tensor.copy_(given[name])
    if wrong := [name for name in own if not _is_finite(given[name])]:
        raise user_error("model.weights", source, f"finite numbers; nan or infinity is in {first_few(wrong)}")
    return Loaded(own.keys(), _said(reading, ", ".join(heads), theirs, taken))


def _said(reading: state_dicts.Reading, head: str, theirs: Sequence[str], taken: Mapping[str, Tensor]) -> str:
    """Return a line that says what was read from a file."""
    if taken:
        told = f"head {head} taken" + ("" if set(theirs) == taken.keys() else f" from {theirs[0].rpartition('.')[0]}")
    else:
        left = [f"{name} {_shape(reading.tensors[name])}" for name in theirs]
        told = f"head {head} new" + (f" (not {first_few(left)})" if left else "")
    beside = f"left out {len(reading.left_out):,}: {first_few(reading.left_out)}" if reading.left_out else ""
    return "; ".join(filter(None, ["" if reading.plain else str(reading), told, beside]))


def _is_finite(tensor: Tensor) -> bool:
    empty = not (tensor.is_floating_point() and tensor.numel())
    return empty or bool(torch.stack(torch.aminmax(tensor)).isfinite().all())


def _check(own: Mapping[str, Tensor], given: Mapping[str, Tensor], source: str) -> None:
    shapes = [n for n in own if n in given and own[n].shape != given[n].shape]
    problems = {
        "missing": [n for n in own if n not in given],
        "unexpected": [n for n in given if n not in own],
        "of another shape": [f"{n} {_shape(given[n])} instead of {_shape(own[n])}" for n in shapes],
    }
    report = "; ".join(f"{len(names)} {kind}: {first_few(names)}" for kind, names in problems.items() if names)
    if report:
        raise UserError(f"model.weights={source}: weights do not fit the network outside its head: {report}")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))

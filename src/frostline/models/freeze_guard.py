"""Verify that frozen tensors stay unchanged, bit for bit: keep copies and compare at the end of every phase."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from frostline.models.freezing import is_norm

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integer types by their number of bytes, used to compare the bits of other types."""


class FrozenDrift(RuntimeError):
    """A frozen parameter or buffer has changed."""


def frozen_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return by name the parameters that do not learn, and the buffers that no norm layer in train mode updates."""
    moving = {path for path, part in module.named_modules(remove_duplicate=False) if is_norm(part) and part.training}
    return {
        name: tensor
        for name, tensor in _every_tensor(module).items()
        if not (tensor.requires_grad if isinstance(tensor, nn.Parameter) else name.rpartition(".")[0] in moving)
    }


def _every_tensor(module: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers by name; tensors of a layer that is used twice appear under all their names."""
    every = module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False)
    return dict(chain(*every))


@dataclass(frozen=True)
class _Watched:
    """A frozen tensor, a copy of it, and torch's count of writes to it at that time."""

    tensor: Tensor
    copy: Tensor
    version: int

    def written(self, now: Tensor) -> bool:
        """Return whether torch has counted a write since: cheap, but blind to writes that bypass the count."""
        return now is not self.tensor or now._version != self.version


class Guard:
    """Keeps copies of the frozen tensors, and compares them bit for bit at the end of every phase."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._watched: dict[str, _Watched] = {}
        self.compared = 0
        """Number of tensors found unchanged, in the phase that froze the most."""

    def watch(self) -> None:
        """Copy newly frozen tensors, drop the copies of tensors that now learn, and keep all others."""
        self._watched = {
            name: self._watched.get(name) or _Watched(tensor, tensor.clone(), tensor._version)
            for name, tensor in frozen_tensors(self._module).items()
        }

    def check_if_written(self) -> None:
        """Run `check` if torch counted a write to a frozen tensor; uncounted changes are found by the next `check`."""
        now = _every_tensor(self._module)
        if any(one.written(now[name]) for name, one in self._watched.items()):
            self.check()
        self.compared = max(self.compared, len(self._watched))

    def check(self) -> None:
        """Compare with the copies; raises `FrozenDrift`, which names the first tensors that changed."""
        now = _every_tensor(self._module)
        drifted = _different({name: (now[name], one.copy) for name, one in self._watched.items()})
        if drifted:
            some = ", ".join(drifted[:3])
            raise FrozenDrift(f"{len(drifted)} of {len(self._watched)} frozen tensors changed: {some}")
        self.compared = max(self.compared, len(self._watched))

    def verdict(self) -> str:
        """Return the result of the checks in words; a drift raises before."""
        return f"{self.compared} tensors unchanged, bit for bit" if self.compared else "nothing was frozen"


def _different(pairs: Mapping[str, tuple[Tensor, Tensor]]) -> list[str]:
    """Return the names of pairs with different bytes: unlike with `==`, nan equals itself and -0.0 differs from 0.0.

    On a GPU all comparisons are launched before the host waits for their results.
    """
    differ = [(_bits(now) != _bits(before)).any() for now, before in pairs.values()]
    answers = torch.stack(differ).tolist() if differ else []
    return [name for name, differs in zip(pairs, answers, strict=True) if differs]


def _bits(tensor: Tensor) -> Tensor:
    """Return the bytes of a tensor viewed as integers."""
    plain = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
    return plain.view(_INTEGERS[plain.itemsize]) if plain.is_floating_point() else plain

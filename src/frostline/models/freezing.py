"""Freeze modes as data: which parameter learns in which phase, at which scale of the learning rate.

Every parameter has an address, `stage/layer kind/leaf/name`, e.g. `stage4/norm/bias/layer4.2.bn3.bias`. A rule is a
glob over addresses; stages can also be counted from the top (`stage-1` is the last one below the head). The first rule
that matches decides, every parameter must be covered, and a rule that can match nothing is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import chain

import torch
from torch import Tensor, nn

from frostline.core.config import PhaseConfig, RuleConfig
from frostline.core.errors import user_error
from frostline.models.stages import Structure

# torch keeps no common base of its norm layers; torchvision's own ones derive from these.
_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)

ADAPTER = "adapter"
"""What a layer calls what it was given to learn in its place, and the layer kind of that."""
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Whole numbers of so many bytes, as which the bits of other types can be compared."""


@dataclass(frozen=True)
class Phase:
    """A stretch of a run: which parameters learn, and how fast relative to `lr`."""

    share: float
    scales: dict[str, float]
    """Learning rate scale of every parameter by name; 0 is frozen."""

    @cached_property
    def learning(self) -> frozenset[str]:
        """The names of the parameters that learn in this phase."""
        return frozenset(name for name, scale in self.scales.items() if scale > 0)


class FrozenDrift(RuntimeError):
    """A parameter or buffer that was to stay as it was has changed."""


def resolve(module: nn.Module, structure: Structure, phases: Sequence[PhaseConfig], mode: str) -> tuple[Phase, ...]:
    """Return the phases of the freeze mode called `mode` for this network, with one scale per parameter.

    Raises `UserError` for a pattern that matches nothing and for a parameter that no pattern covers.
    """
    found = addresses(module, structure)
    plain = [step for phase in phases for step in _steps(phase, structure.stages)]
    return tuple(Phase(p.share, _scales(p, found, structure.stages, mode)) for p in plain)


def is_norm(module: nn.Module) -> bool:
    """Return whether `module` is a normalisation layer."""
    return isinstance(module, _NORMS)


def addresses(module: nn.Module, structure: Structure) -> dict[str, tuple[str, ...]]:
    """Return each parameter's addresses: with its stage counted from below and, for inner stages, from the top."""
    found = {}
    for name, _ in module.named_parameters():
        owner, _, leaf = name.rpartition(".")
        rest = f"{_kind(owner, module.get_submodule(owner))}/{_leaf(leaf)}/{name}"
        found[name] = tuple(f"{stage}/{rest}" for stage in _names_of_stage(structure, name))
    return found


def addresses_of_modules(module: nn.Module, structure: Structure) -> dict[str, tuple[str, ...]]:
    """Return the addresses, `stage/kind/path`, of each module that lies in one stage, by its path."""
    found = {}
    for path, part in module.named_modules():
        with suppress(KeyError):  # a container that spans stages
            stages = _names_of_stage(structure, path)
            found[path] = tuple(f"{stage}/{_kind(path, part)}/{path}" for stage in stages)
    return found


def _names_of_stage(structure: Structure, name: str) -> tuple[str, ...]:
    """Return the names of the stage of a tensor or module: an inner one is also counted from the top."""
    inner = [stage for stage in structure.stages if stage not in ("stem", "head")]
    stage = structure.stage_of(name)
    return (stage, f"stage-{len(inner) - inner.index(stage)}") if stage in inner else (stage,)


def _kind(path: str, module: nn.Module) -> str:
    if ADAPTER in path.split("."):
        return ADAPTER
    return "norm" if is_norm(module) else type(module).__name__.lower()


def _leaf(leaf: str) -> str:
    """Return `bias` or `weight` for `in_proj_bias` and the like, other names as they are."""
    for kind in ("bias", "weight"):
        if leaf == kind or leaf.endswith(f"_{kind}"):
            return kind
    return leaf


def _steps(phase: PhaseConfig, stages: Sequence[str]) -> list[PhaseConfig]:
    """Return the phase itself or, if it is stepwise, one phase per stage from the top, each with one stage more."""
    if not phase.stepwise:
        return [phase]
    below = [stage for stage in reversed(stages) if stage != "head"]
    return [replace(phase, rules=_reached(phase.rules, below[: n + 1])) for n in range(len(below))]


def _reached(rules: Iterable[RuleConfig], stages: Sequence[str]) -> list[RuleConfig]:
    """Return the rules with each `{stage}` rule repeated for every one of `stages`."""
    expanded = []
    for rule in rules:
        matches = [rule.match.replace("{stage}", s) for s in stages] if "{stage}" in rule.match else [rule.match]
        expanded += [replace(rule, match=match) for match in matches]
    return expanded


def _scales(
    phase: PhaseConfig, addresses: dict[str, tuple[str, ...]], stages: Sequence[str], mode: str
) -> dict[str, float]:
    every = [address for pair in addresses.values() for address in pair]
    for rule in phase.rules:
        if not any(fnmatchcase(address, rule.match) for address in every):
            parts = sorted({part for address in every for part in address.split("/")[:3]})
            expected = f"its pattern {rule.match} to match a parameter of this model ({', '.join(parts)})"
            raise user_error("freeze_mode", mode, expected)
    return {name: phase.lr_scale * _scale(name, pair, phase.rules, stages, mode) for name, pair in addresses.items()}


def _scale(name: str, pair: tuple[str, ...], rules: Sequence[RuleConfig], stages: Sequence[str], mode: str) -> float:
    """Return the scale that the first matching rule gives to one parameter."""
    below_head = len(stages) - 1 - stages.index(pair[0].split("/")[0])
    for rule in rules:
        if any(fnmatchcase(address, rule.match) for address in pair):
            return rule.lr_scale * rule.lr_decay**below_head
    raise user_error("freeze_mode", mode, f"a rule that covers {name} ({pair[0]}); end the rules with match: '*'")


def freeze(module: nn.Module, structure: Structure, phase: Phase, *, norm_stats: str) -> None:
    """Put `module` into the state of `phase`: `requires_grad` by parameter, train or eval mode by stage and norm layer.

    A stage in which nothing learns is in eval mode. A norm layer is in train mode only where its own parameters learn
    and `norm_stats` is `learn`; so running statistics of frozen layers never move. Gradients of what is frozen are
    dropped, lest an optimizer find them.
    """
    for name, parameter in module.named_parameters():
        if parameter.requires_grad != (learns := name in phase.learning):
            parameter.requires_grad_(learns)
        if not learns and parameter.grad is not None:
            parameter.grad = None
    active = {structure.stage_of(name) for name in phase.learning}
    for path, part in module.named_modules():
        mode = _trains(path, part, structure, phase, active, norm_stats)
        if part.training != mode:  # to set an attribute of a module takes as long as all else here
            part.training = mode


def _trains(path: str, part: nn.Module, structure: Structure, phase: Phase, active: set[str], norm_stats: str) -> bool:
    try:
        stage = structure.stage_of(path)
    except KeyError:
        return False  # a container that spans stages
    if is_norm(part):
        own = {f"{path}.{name}" for name, _ in part.named_parameters(recurse=False)}
        return norm_stats == "learn" and (bool(own & phase.learning) if own else stage in active)
    return stage in active


def frozen_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters that do not learn and the buffers that no layer in train mode updates, by name."""
    moving = {path for path, part in module.named_modules(remove_duplicate=False) if is_norm(part) and part.training}
    return {
        name: tensor
        for name, tensor in _every_tensor(module).items()
        if not (tensor.requires_grad if isinstance(tensor, nn.Parameter) else name.rpartition(".")[0] in moving)
    }


def _every_tensor(module: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers by name, by all names where one has several, as that of a layer used twice."""
    every = module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False)
    return dict(chain(*every))


@dataclass(frozen=True)
class _Watched:
    """A frozen tensor, its bits, and how often torch had written to it by then."""

    tensor: Tensor
    copy: Tensor
    version: int

    def written(self, now: Tensor) -> bool:
        """Return whether torch knows of any write since: cheap, but blind to what goes around its bookkeeping."""
        return now is not self.tensor or now._version != self.version


class Guard:
    """Owns copies of the tensors that are frozen, and compares them bit for bit at the end of every phase."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._watched: dict[str, _Watched] = {}
        self.compared = 0
        """Number of tensors that were found unchanged, in the phase that froze the most."""

    def watch(self) -> None:
        """Keep watching what is still frozen, let go of what now learns, and copy what is newly frozen."""
        self._watched = {
            name: self._watched.get(name) or _Watched(tensor, tensor.detach().clone(), tensor._version)
            for name, tensor in frozen_tensors(self._module).items()
        }

    def glance(self) -> None:
        """Check if torch wrote to any frozen tensor; running statistics that move without that wait for `check`."""
        now = _every_tensor(self._module)
        if any(one.written(now[name]) for name, one in self._watched.items()):
            self.check()
        self.compared = max(self.compared, len(self._watched))

    def check(self) -> None:
        """Compare with the copies; raises `FrozenDrift` naming the first tensors that moved."""
        now = _every_tensor(self._module)
        drifted = _different({name: (now[name], one.copy) for name, one in self._watched.items()})
        if drifted:
            some = ", ".join(drifted[:3])
            raise FrozenDrift(f"{len(drifted)} of {len(self._watched)} frozen tensors changed: {some}")
        self.compared = max(self.compared, len(self._watched))

    def verdict(self) -> str:
        """Return in words what the checks found; drift has raised by then."""
        return f"{self.compared} tensors unchanged, bit for bit" if self.compared else "nothing was frozen"


def _different(pairs: Mapping[str, tuple[Tensor, Tensor]]) -> list[str]:
    """Return which pairs of tensors do not hold the same bytes: unlike to `==`, nan is itself and -0.0 is not 0.0.

    On a card all are compared before the host waits for what came of it.
    """
    asked: dict[str, Tensor | bool] = {}
    for name, (now, before) in pairs.items():
        if now.shape != before.shape or now.dtype != before.dtype:
            asked[name] = True
        elif now.device.type == "cpu":
            asked[name] = not torch.equal(_bits(now), _bits(before))
        else:
            asked[name] = (_bits(now) != _bits(before)).any()
    there = [one for one in asked.values() if isinstance(one, Tensor)]
    answers = iter(torch.stack(there).tolist() if there else ())
    return [name for name, one in asked.items() if (next(answers) if isinstance(one, Tensor) else one)]


def _bits(tensor: Tensor) -> Tensor:
    """Return a tensor as whole numbers with the same bytes."""
    plain = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
    return plain.view(_INTEGERS[plain.itemsize]) if plain.is_floating_point() else plain

"""Freeze modes as data: which parameters learn in which phase, and at which scale of the learning rate.

Every parameter has an address, `stage/layer kind/leaf/name`, e.g. `stage4/norm/bias/layer4.2.bn3.bias`. A rule is a
glob over addresses; stages can also be counted from the top (`stage-1` is the last one below the head). The first rule
that matches decides, every parameter must be covered, and a rule that can match nothing is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property

from torch import nn

from frostline.core.config import PhaseConfig, RuleConfig
from frostline.core.errors import user_error
from frostline.models.stages import Structure

# torch keeps no common base of its norm layers; torchvision's own ones derive from these.
_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)

ADAPTER = "adapter"
"""Name of an adapter as a child of its layer, and its layer kind in addresses."""


@dataclass(frozen=True)
class Phase:
    """A phase of a run: which parameters learn, and how fast relative to `lr`."""

    share: float
    scales: dict[str, float]
    """Learning rate scale of every parameter by name; 0 means frozen."""

    @cached_property
    def learning(self) -> frozenset[str]:
        """The names of the parameters that learn in this phase."""
        return frozenset(name for name, scale in self.scales.items() if scale > 0)


def resolve(module: nn.Module, structure: Structure, phases: Sequence[PhaseConfig], mode: str) -> tuple[Phase, ...]:
    """Return the phases of the freeze mode called `mode` for this network, with one scale per parameter.

    UserError for a pattern that matches nothing, a parameter that no pattern covers, and a phase in which none learns.
    """
    found = addresses(module, structure)
    plain = [step for phase in phases for step in _steps(phase, structure.stages)]
    resolved = tuple(Phase(p.share, _scales(p, found, structure.stages, mode)) for p in plain)
    if not all(phase.learning for phase in resolved):
        raise user_error("freeze_mode", mode, "some parameter to learn in every phase, by a rule with lr_scale above 0")
    return resolved


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


def is_named(addresses: Iterable[str], patterns: Sequence[str]) -> bool:
    """Return whether one of the globs matches one of the addresses of a parameter or module."""
    return any(fnmatchcase(address, pattern) for address in addresses for pattern in patterns)


def addresses_of_modules(module: nn.Module, structure: Structure) -> dict[str, tuple[str, ...]]:
    """Return the addresses, `stage/kind/path`, of each module that lies in a single stage, by its path."""
    found = {}
    for path, part in module.named_modules():
        if structure.in_one_stage(path):
            stages = _names_of_stage(structure, path)
            found[path] = tuple(f"{stage}/{_kind(path, part)}/{path}" for stage in stages)
    return found


def _names_of_stage(structure: Structure, name: str) -> tuple[str, ...]:
    """Return the names of the stage of a tensor or module: inner stages have a second one, counted from the top."""
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
        if leaf.endswith(f"_{kind}"):
            return kind
    return leaf


def _steps(phase: PhaseConfig, stages: Sequence[str]) -> list[PhaseConfig]:
    """Return the phase itself or, if it is stepwise, a phase per stage from the top, each unfreezing one stage more."""
    if not phase.stepwise:
        return [phase]
    below = [stage for stage in reversed(stages) if stage != "head"]
    return [replace(phase, rules=_reached(phase.rules, below[: n + 1])) for n in range(len(below))]


def _reached(rules: Iterable[RuleConfig], stages: Sequence[str]) -> list[RuleConfig]:
    """Return the rules with each `{stage}` rule repeated for every one of `stages`."""
    return [replace(rule, match=rule.match.replace("{stage}", stage)) for rule in rules for stage in stages]


def _scales(
    phase: PhaseConfig, addresses: dict[str, tuple[str, ...]], stages: Sequence[str], mode: str
) -> dict[str, float]:
    every = [address for pair in addresses.values() for address in pair]
    for rule in phase.rules:
        if not is_named(every, [rule.match]):
            parts = sorted({part for address in every for part in address.split("/")[:3]})
            expected = f"its pattern {rule.match} to match a parameter of this model ({', '.join(parts)})"
            raise user_error("freeze_mode", mode, expected)
    return {name: phase.lr_scale * _scale(name, pair, phase.rules, stages, mode) for name, pair in addresses.items()}


def _scale(name: str, pair: tuple[str, ...], rules: Sequence[RuleConfig], stages: Sequence[str], mode: str) -> float:
    """Return the scale that the first matching rule gives to one parameter."""
    below_head = len(stages) - 1 - stages.index(pair[0].split("/")[0])
    for rule in rules:
        if is_named(pair, [rule.match]):
            return rule.lr_scale * rule.lr_decay**below_head
    raise user_error("freeze_mode", mode, f"a rule that covers {name} ({pair[0]}); end the rules with match: '*'")


def freeze(module: nn.Module, structure: Structure, phase: Phase, *, norm_stats: str) -> None:
    """Put `module` into the state of `phase`: `requires_grad` by parameter, train or eval mode by stage and norm layer.

    A stage in which nothing learns is in eval mode. A norm layer is in train mode only where its own parameters learn
    and `norm_stats` is `learn`, so running statistics of frozen layers never move. Gradients of frozen parameters are
    dropped, so that no optimizer applies them.
    """
    for name, parameter in module.named_parameters():
        if parameter.requires_grad != (learns := name in phase.learning):
            parameter.requires_grad_(learns)
        if not learns and parameter.grad is not None:
            parameter.grad = None
    active = {structure.stage_of(name) for name in phase.learning}
    for path, part in module.named_modules():
        mode = _trains(path, part, structure, phase, active, norm_stats)
        if part.training != mode:  # setting an attribute of a module takes as long as all else here
            part.training = mode


def _trains(path: str, part: nn.Module, structure: Structure, phase: Phase, active: set[str], norm_stats: str) -> bool:
    if not structure.in_one_stage(path):
        return False
    stage = structure.stage_of(path)
    if is_norm(part):
        own = {f"{path}.{name}" for name, _ in part.named_parameters(recurse=False)}
        return norm_stats == "learn" and (bool(own & phase.learning) if own else stage in active)
    return stage in active

"""Build optimizers by name, with param groups for all phases from the first step."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import increment_version

from frostline.core.errors import unknown_option, user_error
from frostline.models.freezing import Phase, is_norm
from frostline.models.stages import Structure
from frostline.training.sharding import optimized

# The base class; one that evaluates the loss several times per step; one for matrices only; one for sparse gradients.
_UNFIT = ("optimizer", "lbfgs", "muon", "sparseadam")

# What weight decay spares in torchvision's transformers and ConvNeXt, beside vectors: the same as in timm's.
_EMBEDDINGS = ("*class_token", "*pos_embedding", "*relative_position_bias_table", "*logit_scale", "*cpb_mlp*")
_SPARED = (*_EMBEDDINGS, "*layer_scale")


def optimizer_class(name: str) -> type[torch.optim.Optimizer]:
    """Return the optimizer class of `torch.optim` called `name`, case-insensitive; UserError for any other name."""
    found = {
        key.lower(): value
        for key, value in vars(torch.optim).items()
        if inspect.isclass(value) and issubclass(value, torch.optim.Optimizer) and key.lower() not in _UNFIT
    }
    if name.lower() not in found:
        raise user_error("optimizer.name", name, f"an optimizer of torch.optim ({', '.join(sorted(found))})", found)
    return found[name.lower()]


def check_options(
    name: str, options: Mapping[str, Any], *, weight_decay: float = 0.0, device: torch.device | None = None
) -> None:
    """Raise `UserError` for options that the optimizer called `name` does not have, or values that it refuses.

    If the parameters' `device` is a CPU, a step is tried, since some options do not work there.
    """
    taken = set(inspect.signature(optimizer_class(name)).parameters)
    if weight_decay and "weight_decay" not in taken:  # torch would ignore it in a param group
        raise user_error("optimizer.weight_decay", weight_decay, f"0, since {name} has no weight decay")
    known = sorted(taken - {"params", "lr", "weight_decay", "differentiable"})  # steps are never differentiated here
    for key, value in options.items():
        if key not in known:
            raise unknown_option(f"optimizer.options.{key}", value, name, known)
    try:
        parameter = nn.Parameter(torch.zeros(1))
        optimizer = _new(name, [parameter], lr=1.0, options=options)
        if device is not None and device.type == "cpu":
            parameter.grad = torch.zeros(1)
            optimizer.step()
    except (TypeError, ValueError, RuntimeError, AssertionError) as problem:
        raise user_error("optimizer.options", dict(options), f"values that {name} accepts ({problem})") from problem


def param_groups(
    module: nn.Module, structure: Structure, phases: Sequence[Phase], *, weight_decay: float, decay_norm_and_bias: bool
) -> list[dict[str, Any]]:
    """Return named param groups, one per stage, decay and scales, of the parameters that learn in at least one phase.

    Each group has `name`, `params`, `weight_decay` and `scales`: its learning rate scale in each phase. Unless
    `decay_norm_and_bias`, weight decay spares what timm's `param_groups_weight_decay` does: norm layers, biases, other
    vectors such as LayerScale, and parameters that the network's own `no_weight_decay()` names, such as embeddings of
    positions. torchvision's networks have no such method; theirs are spared by name.
    """
    spared = frozenset() if decay_norm_and_bias else _spared(module)
    groups: dict[tuple[str, bool, tuple[float, ...]], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        scales = tuple(phase.scales[name] for phase in phases)
        if any(scales):
            decays = bool(weight_decay) and name not in spared
            groups.setdefault((structure.stage_of(name), decays, scales), []).append(optimized(parameter))
    counts: Counter[str] = Counter()

    def numbered(name: str) -> str:
        counts[name] += 1
        return name if counts[name] == 1 else f"{name}.{counts[name]}"

    return [
        {
            "name": numbered(f"{stage}.{'decay' if decays else 'no_decay'}"),
            "params": params,
            "weight_decay": weight_decay if decays else 0.0,
            "scales": scales,
        }
        for (stage, decays, scales), params in groups.items()
    ]


def _spared(module: nn.Module) -> frozenset[str]:
    """Return the names of the parameters that weight decay spares."""
    patterns = (*_SPARED, *getattr(module, "no_weight_decay", tuple)())

    def spared(name: str, parameter: nn.Parameter) -> bool:
        owner, _, leaf = name.rpartition(".")
        vector = parameter.dim() <= 1 or leaf.endswith("bias") or is_norm(module.get_submodule(owner))
        return vector or any(fnmatchcase(name, pattern) for pattern in patterns)

    return frozenset(name for name, parameter in module.named_parameters() if spared(name, parameter))


def build(name: str, groups: list[dict[str, Any]], *, lr: float, options: Mapping[str, Any]) -> torch.optim.Optimizer:
    """Return the optimizer over `groups`, fused if torch supports it."""
    check_options(name, options, weight_decay=max(group.get("weight_decay", 0.0) for group in groups))
    optimizer = _new(name, groups, lr=lr, options=options)
    optimizer.register_step_post_hook(_count_writes)
    return optimizer


def _count_writes(optimizer: torch.optim.Optimizer, *_: object) -> None:
    """Count a step as a write to the parameters in torch, which fused kernels do not; hashes rely on the count."""
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    increment_version([parameter for parameter in parameters if parameter.grad is not None])


def _new(name: str, params: Sequence[Any], *, lr: float, options: Mapping[str, Any]) -> torch.optim.Optimizer:
    cls = optimizer_class(name)
    fused = {"fused": True} if "fused" in inspect.signature(cls).parameters else {}
    arguments: dict[str, Any] = {"lr": lr, **fused, **options}
    return cls(params, **arguments)

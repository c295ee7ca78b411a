"""Adapters: what little is added to a frozen network and learns in its place, and is merged into its weights at last.

Each kind says what the weight and the bias of a layer are while it is there, as functions of the frozen ones and of its
own parameters. So it works in whatever layer has a weight, also where torch reads that and never calls the layer, as in
attention, and the merged network is the plain one: same names, same shapes.

An adapter is a child of its layer, called `adapter`, so that its parameters have names, addresses and stages as all
others do (`stage2/adapter/lora_A/layer2.0.conv1.adapter.lora_A`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frostline.core.config import AdapterConfig
from frostline.core.errors import user_error
from frostline.core.randomness import generator
from frostline.models import freezing
from frostline.models.stages import Structure


class Adapter(nn.Module):
    """What changes the weight and the bias of one layer."""

    def weight(self, frozen: Tensor) -> Tensor:
        """Return the weight of the layer, whose own is `frozen`, of the same shape `(out, ...)`."""
        return frozen

    def bias(self, frozen: Tensor | None) -> Tensor | None:
        """Return the bias `(out,)` of the layer, whose own is `frozen`."""
        return frozen

    def start(self, frozen: Tensor, generator: torch.Generator) -> None:
        """Take new values, for a layer whose weight is `frozen`, with which it does what it did."""

    def exported(self) -> dict[str, Tensor]:
        """Return the parameters as other programs name and shape them."""
        return {name: parameter.detach() for name, parameter in self.named_parameters()}


class LoRA(Adapter):
    """Adds a product of two thin matrices (Hu et al. 2021, arXiv:2106.09685).

    A convolution is taken as the matrix of its output channels and all of its window, `(out, in * height * width)`.
    """

    def __init__(self, frozen: Tensor, how: AdapterConfig) -> None:
        super().__init__()
        out, inner = len(frozen), frozen[0].numel()
        rank = min(how.rank, out, inner)
        self.lora_A = nn.Parameter(frozen.new_empty(rank, inner))
        self.lora_B = nn.Parameter(frozen.new_empty(out, rank))
        self.window, self.scale, self.dropout = frozen.shape[2:], how.alpha / how.rank, how.dropout

    def start(self, frozen: Tensor, generator: torch.Generator) -> None:
        """Draw A as torch does the weight of a linear layer; B is 0."""
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5), generator=generator)
        nn.init.zeros_(self.lora_B)

    def exported(self) -> dict[str, Tensor]:
        """Return A `(rank, in, ...)` and B `(out, rank, ...)`, of a convolution with its window and one of a pixel."""
        window = self.window
        first, second = self.lora_A.detach(), self.lora_B.detach()
        return {
            "lora_A.weight": first.view(len(first), -1, *window),
            "lora_B.weight": second.view(*second.shape, *[1] * len(window)),
        }

    def weight(self, frozen: Tensor) -> Tensor:
        """Return the sum of the weight and the product."""
        return frozen + self.scale * (self.lora_B @ self.lora_A).view_as(frozen)

    def output(self, inputs: Tensor) -> Tensor:
        """Return what a linear layer's output gains for `inputs` `(..., in)`, without the product of A and B."""
        dropped = F.dropout(inputs, self.dropout, self.training)
        return self.scale * F.linear(F.linear(dropped, self.lora_A), self.lora_B)


class DoRA(LoRA):
    """LoRA for the direction of each output's weights, and a length of its own (Liu et al. 2024, arXiv:2402.09353)."""

    def __init__(self, frozen: Tensor, how: AdapterConfig) -> None:
        super().__init__(frozen, how)
        self.magnitude = nn.Parameter(frozen.new_empty(len(frozen)))

    def start(self, frozen: Tensor, generator: torch.Generator) -> None:
        """Let the lengths be those of the frozen weights."""
        super().start(frozen, generator)
        with torch.no_grad():
            self.magnitude.copy_(_lengths(frozen))

    def exported(self) -> dict[str, Tensor]:
        """Return what LoRA has, and the lengths `(out,)`."""
        lengths = self.magnitude.detach()
        return {**super().exported(), "lora_magnitude_vector": lengths.view(1, -1, 1, 1) if self.window else lengths}

    def weight(self, frozen: Tensor) -> Tensor:
        """Return the direction times the length; the gradient takes the norm as given (section 4.3 of the paper)."""
        direction = super().weight(frozen)
        return direction * _along(self.magnitude / _lengths(direction.detach()), direction)


class IA3(Adapter):
    """Scales keys, values and what enters a block's second linear layer (Liu et al. 2022, arXiv:2205.05638).

    Of a layer that makes queries, keys and values at once the queries stay as they are.
    """

    def __init__(self, frozen: Tensor, *, of_inputs: bool, queries: int) -> None:
        super().__init__()
        self.window, self.of_inputs, self.queries = frozen.shape[2:], of_inputs, queries
        self.scale = nn.Parameter(frozen.new_empty(frozen.shape[1] if of_inputs else len(frozen) - queries))

    def start(self, frozen: Tensor, generator: torch.Generator) -> None:
        """Scale by 1."""
        nn.init.ones_(self.scale)

    def exported(self) -> dict[str, Tensor]:
        """Return the scale of outputs `(out, 1)`, of inputs `(1, in)`, or of channels `(1, channels, 1, 1)`."""
        scale = (self.scale if self.of_inputs else self._of_outputs()).detach()
        return {"ia3_l": scale.view(1, -1, 1, 1) if self.window else scale[None] if self.of_inputs else scale[:, None]}

    def weight(self, frozen: Tensor) -> Tensor:
        """Return the weight with its rows scaled, or its columns."""
        if self.of_inputs:
            return frozen * self.scale.view(1, -1, *[1] * (frozen.dim() - 2))
        return frozen * _along(self._of_outputs(), frozen)

    def bias(self, frozen: Tensor | None) -> Tensor | None:
        """Return the bias scaled as the rows are."""
        return frozen if frozen is None or self.of_inputs else frozen * self._of_outputs()

    def _of_outputs(self) -> Tensor:
        return F.pad(self.scale, (self.queries, 0), value=1.0)


class SSF(Adapter):
    """Scales and shifts what a layer puts out (Lian et al. 2022, arXiv:2210.08823), where it has a bias to shift."""

    def __init__(self, frozen: Tensor) -> None:
        super().__init__()
        self.scale, self.shift = (nn.Parameter(frozen.new_empty(len(frozen))) for _ in range(2))

    def start(self, frozen: Tensor, generator: torch.Generator) -> None:
        """Scale by 1 and shift by 0: the paper's noise around them would change what the network knows."""
        nn.init.ones_(self.scale)
        nn.init.zeros_(self.shift)

    def weight(self, frozen: Tensor) -> Tensor:
        """Return the weight, its rows scaled."""
        return frozen * _along(self.scale, frozen)

    def bias(self, frozen: Tensor | None) -> Tensor | None:
        """Return the bias, scaled and shifted."""
        assert frozen is not None
        return frozen * self.scale + self.shift


def insert(module: nn.Module, structure: Structure, how: AdapterConfig, *, seed: int) -> Structure:
    """Give the layers of `module` that `how` names an adapter each, and return its structure with these in it.

    The head, which is new, gets none. The network computes what it did. UserError where no layer is named.
    """
    addresses = freezing.addresses(module, structure)
    stages: dict[str, str] = {}
    for path, layer in [*module.named_modules()]:
        name = f"{path}.{_tensors(layer)[0]}"
        if name not in addresses or not _fits(layer, how) or structure.stage_of(name) == structure.stages[-1]:
            continue
        if (adapter := _adapter_for(layer, path, addresses[name], how)) is None:
            continue
        frozen = layer.get_parameter(_tensors(layer)[0])
        if not frozen.is_meta:
            adapter.start(frozen.detach(), generator(seed, "init", "adapter", path))
        layer.add_module(freezing.ADAPTER, adapter)
        layer.__class__ = _with_adapter(layer.__class__)
        stages |= dict.fromkeys((f"{path}.{freezing.ADAPTER}", *named(path, adapter)), structure.stage_of(name))
    if not stages:
        kinds = sorted({address.split("/")[1] for pair in addresses.values() for address in pair})
        told = f"globs that match weights which {how.kind} can adapt, below the head ({', '.join(kinds)})"
        raise user_error("freeze_mode.adapter.where", how.where, told)
    return structure.with_stages(stages)


def named(path: str, adapter: nn.Module) -> list[str]:
    """Return the names in the network of the parameters of an adapter, whose layer is at `path`."""
    return [f"{path}.{freezing.ADAPTER}.{name}" for name, _ in adapter.named_parameters()]


def adapted(module: nn.Module) -> Iterator[tuple[str, nn.Module, Adapter]]:
    """Yield path, layer and adapter of the layers that have one."""
    for path, layer in [*module.named_modules()]:
        if isinstance(adapter := layer._modules.get(freezing.ADAPTER), Adapter):
            yield path, layer, adapter


def touched(module: nn.Module) -> frozenset[str]:
    """Return the names of the tensors that `merge` will change, and of those that it will remove."""
    own = {f"{path}.{name}" for path, layer, _ in adapted(module) for name in _tensors(layer)}
    return frozenset(own | {name for path, _, adapter in adapted(module) for name in named(path, adapter)})


def without(module: nn.Module) -> dict[str, Tensor]:
    """Return the state of `module` as it is named where no layer has an adapter."""
    theirs = {name for path, _, adapter in adapted(module) for name in named(path, adapter)}
    return {name: tensor for name, tensor in module.state_dict().items() if name not in theirs}


@torch.no_grad()
def merge(module: nn.Module) -> dict[str, Tensor]:
    """Make every adapter part of its layer's own tensors and remove it; return these tensors by name."""
    merged = {}
    for path, layer, _ in adapted(module):
        told = {name: getattr(layer, name) for name in _tensors(layer)}
        layer.__class__ = type(layer).__bases__[0]
        del layer._modules[freezing.ADAPTER]
        for name, value in told.items():
            if value is not None:
                merged[f"{path}.{name}"] = layer.get_parameter(name).copy_(value).detach()
    return merged


def alone(module: nn.Module, how: AdapterConfig, *, heads: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of the adapters and of the heads, and what `adapter_config.json` says of them.

    Names, shapes and keys are those of PEFT (https://huggingface.co/docs/peft/developer_guides/checkpoint), which has
    no SSF: of that the names alone are. It adds what it has for the projection behind an attention twice (as of 0.21).
    """
    found = {f"{head}.{key}": own for head in heads for key, own in module.get_submodule(head).state_dict().items()}
    targets, inputs, ranks = [], [], {}
    for path, layer, adapter in adapted(module):
        attention, _, own = path.rpartition(".")
        if attention in targets and isinstance(layer, nn.Linear):  # PEFT takes the projection with the attention
            path = f"{attention}.base_layer.{own}"
        else:
            targets.append(path)
        found |= {f"{path}.{name}": tensor for name, tensor in adapter.exported().items()}
        if isinstance(adapter, IA3) and adapter.of_inputs:
            inputs.append(path)
        if isinstance(adapter, LoRA) and len(adapter.lora_A) != how.rank:
            ranks[path] = len(adapter.lora_A)
    facts: dict[str, Any] = {
        "peft_type": "IA3" if how.kind == "ia3" else "SSF" if how.kind == "ssf" else "LORA",
        "target_modules": targets,
        "modules_to_save": [*heads],
        "inference_mode": True,
    }
    if how.kind == "ia3":
        facts["feedforward_modules"] = inputs
    if how.kind in ("lora", "dora"):
        alphas = {path: how.alpha * rank / how.rank for path, rank in ranks.items()}
        facts |= {"r": how.rank, "lora_alpha": how.alpha, "lora_dropout": how.dropout, "use_dora": how.kind == "dora"}
        facts |= {"rank_pattern": ranks, "alpha_pattern": alphas, "bias": "none"}
    return {f"base_model.model.{name}": tensor for name, tensor in found.items()}, facts


def _tensors(layer: nn.Module) -> tuple[str, str]:
    """Return what the weight and the bias of a layer are called."""
    return ("in_proj_weight", "in_proj_bias") if isinstance(layer, nn.MultiheadAttention) else ("weight", "bias")


def _fits(layer: nn.Module, how: AdapterConfig) -> bool:
    """Return whether the kind of adapter has a form for the layer: a matrix, for SSF anything with a bias."""
    weight, bias = (layer._parameters.get(name) for name in _tensors(layer))
    if how.kind == "ssf":
        return weight is not None and bias is not None
    if isinstance(layer, nn.Conv2d):  # each group of which has a matrix of its own, too small to be made of thin ones
        return layer.groups == 1 or how.kind == "ia3"
    return weight is not None and isinstance(layer, nn.Linear | nn.MultiheadAttention)


def _adapter_for(layer: nn.Module, path: str, addresses: Sequence[str], how: AdapterConfig) -> Adapter | None:
    def named_by(patterns: Sequence[str]) -> bool:
        return any(fnmatchcase(address, pattern) for address in addresses for pattern in patterns)

    frozen, of_inputs = layer.get_parameter(_tensors(layer)[0]), named_by(how.where_inputs)
    if not of_inputs and not named_by(how.where):
        return None
    if how.kind == "ia3":
        fused = isinstance(layer, nn.MultiheadAttention) or path.rpartition(".")[2] == "qkv"
        return IA3(frozen, of_inputs=of_inputs, queries=len(frozen) // 3 if fused and not of_inputs else 0)
    return SSF(frozen) if how.kind == "ssf" else {"lora": LoRA, "dora": DoRA}[how.kind](frozen, how)


@functools.cache
def _with_adapter(kind: type[nn.Module]) -> type[nn.Module]:
    """Return layers of a `kind` whose weight and bias are what their adapter makes of them.

    The class has the same name, so that addresses, tracing and what torch asks of types see the layer that it was.
    """

    def tensor(name: str, of: str) -> property:
        def effective(self: nn.Module) -> Tensor | None:
            frozen, adapter = self._parameters[name], self._modules[freezing.ADAPTER]
            device = next(iter(self._parameters.values()))
            assert device is not None
            with torch.autocast(device.device.type, enabled=False):
                value: Tensor | None = getattr(adapter, of)(frozen)
            return value

        return property(effective)

    def forward(self: nn.Linear, inputs: Tensor) -> Tensor:
        adapter = self._modules[freezing.ADAPTER]
        if type(adapter) is not LoRA:
            return nn.Linear.forward(self, inputs)
        weight, bias = self._parameters["weight"], self._parameters["bias"]
        assert weight is not None
        return F.linear(inputs, weight, bias) + adapter.output(inputs)

    weight, bias = ("in_proj_weight", "in_proj_bias") if issubclass(kind, nn.MultiheadAttention) else ("weight", "bias")
    more = {"forward": forward} if kind.forward is nn.Linear.forward else {}
    facts = {weight: tensor(weight, "weight"), bias: tensor(bias, "bias"), "__module__": kind.__module__, **more}
    return type(kind.__name__, (kind,), facts)


def _lengths(weight: Tensor) -> Tensor:
    """Return the norm `(out,)` of the weights of every output."""
    return torch.linalg.vector_norm(weight.flatten(1), dim=1)


def _along(scale: Tensor, weight: Tensor) -> Tensor:
    """Return a scale `(out,)` as it multiplies a weight `(out, ...)`."""
    return scale.view(-1, *[1] * (weight.dim() - 1))

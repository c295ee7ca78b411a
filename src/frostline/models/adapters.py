"""Insert adapters (LoRA, DoRA, IA3, SSF) into frozen layers, and merge them into the weights after training.

Adapters that cannot be merged are in `kept_adapters`. An adapter here computes weight and bias of its layer from the
frozen ones and its own parameters. So it works in every layer that has a weight, even where torch reads the weight
without calling the layer, as in attention; and the merged network is the plain one, with the same names and shapes.

An adapter is a child of its layer, called `adapter`, so that its parameters have names, addresses and stages like all
others (`stage2/adapter/lora_A/layer2.0.conv1.adapter.lora_A`).
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frostline.core.config import KEPT, AdapterConfig
from frostline.core.errors import user_error
from frostline.core.randomness import generator
from frostline.models import freezing, kept_adapters
from frostline.models.adapter_kinds import IA3, SSF, Adapter, DoRA, LoRA
from frostline.models.stages import Structure


def insert(module: nn.Module, structure: Structure, how: AdapterConfig, *, seed: int, side: int) -> Structure:
    """Add an adapter to each layer of `module` that `how` matches, and return the structure with the adapters.

    `side` is the side of the images in pixels. The head, which is new, gets no adapter. Outputs of the network do not
    change, except with prompts. UserError if no layer matches.
    """
    if how.kind in KEPT:
        return kept_adapters.insert(module, structure, how, seed=seed, side=side)
    addresses = freezing.addresses(module, structure)
    stages: dict[str, str] = {}
    for path, layer in [*module.named_modules()]:
        name = f"{path}.{_tensors(type(layer))[0]}"
        if name not in addresses or not _fits(layer, how) or structure.stage_of(name) == structure.stages[-1]:
            continue
        if (adapter := _adapter_for(layer, path, addresses[name], how)) is None:
            continue
        frozen = layer.get_parameter(_tensors(type(layer))[0])
        if not frozen.is_meta:
            adapter.start(frozen, generator(seed, "init", "adapter", path))
        layer.add_module(freezing.ADAPTER, adapter)
        layer.__class__ = _with_adapter(layer.__class__)
        stages |= dict.fromkeys((f"{path}.{freezing.ADAPTER}", *named(path, adapter)), structure.stage_of(name))
    if not stages:
        kinds = sorted({address.split("/")[1] for pair in addresses.values() for address in pair})
        told = f"globs that match weights which {how.kind} can adapt, below the head ({', '.join(kinds)})"
        raise user_error("freeze_mode.adapter.where", how.where, told)
    return structure.with_stages(stages)


def named(path: str, adapter: nn.Module) -> list[str]:
    """Return the names, in the network, of the parameters of an adapter whose layer is at `path`."""
    return [f"{path}.{freezing.ADAPTER}.{name}" for name, _ in adapter.named_parameters()]


def adapted(module: nn.Module) -> Iterator[tuple[str, nn.Module, Adapter]]:
    """Yield path, layer and adapter for each layer with an adapter."""
    for path, layer in [*module.named_modules()]:
        if isinstance(adapter := layer._modules.get(freezing.ADAPTER), Adapter):
            yield path, layer, adapter


def merge_targets(module: nn.Module) -> frozenset[str]:
    """Return the names of the tensors that `merge` will change or remove."""
    own = [layer._parameters[name] for _, layer, _ in adapted(module) for name in _tensors(type(layer))]
    return frozenset(_called(module, (*own, *_parameters(module))))


def without(module: nn.Module) -> dict[str, Tensor]:
    """Return the state dict of `module` without the parameters of adapters."""
    theirs = _called(module, _parameters(module))
    return {name: tensor for name, tensor in module.state_dict().items() if name not in theirs}


@torch.no_grad()
def merge(module: nn.Module) -> dict[str, Tensor]:
    """Merge every adapter into the tensors of its layer and remove it; return these tensors by name."""
    merged = []
    for _, layer, _ in adapted(module):
        told = {name: getattr(layer, name) for name in _tensors(type(layer))}
        layer.__class__ = type(layer).__bases__[0]
        del layer._modules[freezing.ADAPTER]
        merged += [layer.get_parameter(name).copy_(value) for name, value in told.items() if value is not None]
    return {name: tensor.detach() for name, tensor in _called(module, merged).items()}


def _parameters(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of all adapters."""
    return [parameter for _, _, adapter in adapted(module) for parameter in adapter.parameters()]


def _called(module: nn.Module, tensors: Collection[Tensor | None]) -> dict[str, Tensor]:
    """Return these tensors of a network by name; a tensor of a layer that is used twice appears under all its names."""
    ids = {id(tensor) for tensor in tensors}
    return {name: tensor for name, tensor in module.state_dict(keep_vars=True).items() if id(tensor) in ids}


def _tensors(kind: type[nn.Module]) -> tuple[str, str]:
    """Return the names of weight and bias in a kind of layer."""
    return ("in_proj_weight", "in_proj_bias") if issubclass(kind, nn.MultiheadAttention) else ("weight", "bias")


def _fits(layer: nn.Module, how: AdapterConfig) -> bool:
    """Return whether the kind of adapter applies to a layer with a weight: if it is a matrix; for SSF, with a bias."""
    if how.kind == "ssf":
        return layer._parameters.get(_tensors(type(layer))[1]) is not None
    if isinstance(layer, nn.Conv2d):  # the matrix of each group is too small for a low rank
        return layer.groups == 1 or how.kind == "ia3"
    return isinstance(layer, nn.Linear | nn.MultiheadAttention)


def _adapter_for(layer: nn.Module, path: str, addresses: Sequence[str], how: AdapterConfig) -> Adapter | None:
    frozen, of_inputs = layer.get_parameter(_tensors(type(layer))[0]), freezing.is_named(addresses, how.where_inputs)
    if not of_inputs and not freezing.is_named(addresses, how.where):
        return None
    if how.kind == "ia3":
        fused = isinstance(layer, nn.MultiheadAttention) or path.rpartition(".")[2] == "qkv"
        return IA3(frozen, of_inputs=of_inputs, queries=len(frozen) // 3 if fused else 0)
    return SSF(frozen) if how.kind == "ssf" else {"lora": LoRA, "dora": DoRA}[how.kind](frozen, how)


@functools.cache
def _with_adapter(kind: type[nn.Module]) -> type[nn.Module]:
    """Return a subclass of `kind` whose weight and bias are computed by the adapter.

    The subclass has the same name, so that addresses, tracing and torch's type checks see the original layer.
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

    weight, bias = _tensors(kind)
    more = {"forward": forward} if kind.forward is nn.Linear.forward else {}
    facts = {weight: tensor(weight, "weight"), bias: tensor(bias, "bias"), "__module__": kind.__module__, **more}
    return type(kind.__name__, (kind,), facts)

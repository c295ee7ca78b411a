"""Fuse the layers below the frost line for faster inference: a copy of the network with the same function.

Batch norm is folded into convolutions. On a CPU, a convolution, the following sum and the activation become one
operation of oneDNN, which writes its output once and does not read it again. torch has these operations under private
names, and uses them in torch.compile. A version of torch without them runs unfused networks. The benchmark `fused
convolutions` measures what they save.
"""

from __future__ import annotations

import copy
import operator
from collections import Counter
from collections.abc import Callable
from itertools import permutations
from typing import Any, TypeGuard

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights

from frostline.models.cut import graph_of, module_of

_ACTIVATIONS: dict[Any, tuple[str, tuple[float, ...]]] = {
    nn.ReLU: ("relu", ()),
    torch.relu: ("relu", ()),
    functional.relu: ("relu", ()),
    nn.ReLU6: ("hardtanh", (0.0, 6.0)),
    nn.Hardswish: ("hardswish", ()),
    nn.SiLU: ("swish", ()),
}
"""oneDNN's name of each activation, and its constants."""
_SUMS = (operator.add, operator.iadd, torch.add)


def fast_copy(
    below: nn.Module, dtype: torch.dtype, device: torch.device, memory_format: torch.memory_format
) -> nn.Module:
    """Return a fused copy of the network below the line, for inference in `dtype` on `device`.

    Its inputs are images in `memory_format`.
    """
    layers = copy.deepcopy(below).eval()
    traced = module_of(layers, graph_of(layers, _Careful()))
    fold(traced)
    # oneDNN fuses the sum only in bfloat16 with channels last, and only there is it faster.
    if (dtype, device.type, memory_format) == (torch.bfloat16, "cpu", torch.channels_last) and has_onednn():
        fuse(traced)
    traced._apply(lambda t: t.to(memory_format=memory_format) if t.dim() == 4 else t)  # masks may have five dimensions
    return traced.to(dtype)


def has_onednn() -> bool:
    """Return whether this torch and this CPU support the fused operations in bfloat16."""
    ops = torch.ops.mkldnn
    names = ("_convolution_pointwise", "_convolution_pointwise_", "_is_mkldnn_bf16_supported")
    there = torch.backends.mkldnn.is_available() and all(hasattr(ops, name) for name in names)
    return bool(there and ops._is_mkldnn_bf16_supported())


class _Careful(fx.Tracer):
    """Traces down to layers; a module whose forward pass cannot be traced stays one node."""

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Return the output of `m`, traced into its layers, or as one node if that fails."""
        last = next(iter(reversed(self.graph.nodes)))
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:  # code that expects tensors can raise anything for proxies
            for node in reversed(self.graph.nodes):
                if node is last:
                    break
                self.graph.erase_node(node)
            return self.create_proxy("call_module", self.path_of_module(m), args, kwargs)


def fold(traced: fx.GraphModule) -> None:
    """Fold each batch norm in eval mode into the convolution before it (arXiv:1712.05877, section 3.2)."""
    layers = _called_once(traced)
    for node in traced.graph.nodes:
        norm = layers.get(str(node.target))
        if type(norm) is not nn.BatchNorm2d or not _read_once(before := node.all_input_nodes[0]):
            continue
        if type(conv := layers.get(str(before.target))) is nn.Conv2d:  # others may compute more than their tensors say
            _replace(traced, (before, node), _folded(conv, norm))
    _finish(traced)


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """Return the same as torch's `fuse_conv_bn_eval`, which would first copy the weights that it replaces."""
    assert norm.running_mean is not None and norm.running_var is not None
    folded = copy.copy(conv)
    folded._parameters = {}
    statistics = (norm.running_mean, norm.running_var, norm.eps)
    folded.weight, folded.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics, norm.weight, norm.bias)
    return folded


def fuse(traced: fx.GraphModule) -> None:
    """Fuse each convolution, its sum with a shortcut and the following activation into one operation of oneDNN."""
    layers = _called_once(traced)
    for node in traced.graph.nodes:
        kind = type(traced.get_submodule(node.target)) if node.op == "call_module" else node.target
        if kind not in _ACTIVATIONS or not _read_once(before := node.all_input_nodes[0]):
            continue
        name, constants = _ACTIVATIONS[kind]
        if _is_plain(conv := layers.get(str(before.target))):
            layers[str(before.target)] = _replace(traced, (before, node), _Activated(conv, name, constants))
        elif name == "relu" and (residual := _residual(before, layers)) is not None:
            last, shortcut = residual
            last.args = (*last.args, shortcut)
            layers[str(last.target)] = _replace(traced, (last, before, node), _Added(layers[str(last.target)]))
    _finish(traced)


class _Fused(nn.Module):
    """A convolution fused with the operations after it."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self._how = (conv.padding, conv.stride, conv.dilation, conv.groups)


class _Activated(_Fused):
    """A convolution and its activation."""

    def __init__(self, conv: nn.Conv2d, name: str, constants: tuple[float, ...]) -> None:
        super().__init__(conv)
        self._activation = (name, constants, "")  # the last one is a variant of the activation

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated convolution of `x`."""
        found: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, *self._how, *self._activation
        )
        return found


class _Added(_Fused):
    """A convolution, its sum with a shortcut, and ReLU."""

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        """Return ReLU of the convolution of `x` plus `shortcut`; overwrites `shortcut`."""
        operation = torch.ops.mkldnn._convolution_pointwise_.binary
        found: Tensor = operation(shortcut, x, self.weight, self.bias, *self._how, "add", 1.0, "relu", (), "")
        return found


def _residual(node: fx.Node, layers: dict[str, nn.Module]) -> tuple[fx.Node, fx.Node] | None:
    """Return the convolution and the shortcut that `node` adds, if the sum may overwrite the shortcut.

    It may if the shortcut is the output of a layer and is read by layers only, all of them before the convolution.
    """
    if node.target not in _SUMS or node.kwargs:
        return None
    for conv, shortcut in permutations(node.args):
        if not _read_once(conv) or not isinstance(shortcut, fx.Node):
            continue
        if not _is_plain(layer := layers.get(str(conv.target))) or layer.groups > 1:
            continue
        around = [shortcut, *(reader for reader in shortcut.users if reader is not node)]
        if all(other < conv and isinstance(layers.get(str(other.target)), _COPYING) for other in around):
            return conv, shortcut
    return None


_COPYING = (nn.Conv2d, nn.MaxPool2d, _Fused)
"""Layers whose output shares no memory with their input."""


def _called_once(traced: fx.GraphModule) -> dict[str, Any]:
    """Return by path the layers called once; a fused layer would compute the same in every call."""
    calls = Counter(str(node.target) for node in traced.graph.nodes)
    return {path: layer for path, layer in traced.named_modules() if calls[path] == 1}


def _read_once(value: Any) -> TypeGuard[fx.Node]:
    return isinstance(value, fx.Node) and len(value.users) == 1


def _is_plain(layer: nn.Module | None) -> TypeGuard[nn.Conv2d]:
    """Return whether `layer` is a convolution that oneDNN supports."""
    return type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def _replace(traced: fx.GraphModule, nodes: tuple[fx.Node, ...], layer: nn.Module) -> nn.Module:
    """Replace consecutive `nodes` by the first one with `layer`, which computes the function of all; return `layer`."""
    first, *others = nodes
    traced.set_submodule(str(first.target), layer)
    for node in others:
        node.replace_all_uses_with(first)
        traced.graph.erase_node(node)
    return layer


def _finish(traced: fx.GraphModule) -> None:
    traced.graph.lint()
    traced.recompile()
    traced.delete_all_unused_submodules()

"""Cut a network at the frost line: the frozen half below is a pure function of the image, the half above learns.

Both halves share their layers with the whole network, and with them freezing, modes and weights.
"""

from __future__ import annotations

import inspect
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import fx, nn
from torch.fx.node import map_arg

from frostline.models import shapes
from frostline.models.freezing import Phase
from frostline.models.stages import Structure

_halves: WeakKeyDictionary[nn.Module, dict[tuple[str, ...], tuple[fx.GraphModule, fx.GraphModule]]] = (
    WeakKeyDictionary()
)
"""Cached halves of networks, by the stages below: tracing a network takes as long as an epoch of a head."""
_traces: WeakKeyDictionary[nn.Module, tuple[fx.Graph, set[fx.Node]]] = WeakKeyDictionary()
"""Cached graphs of networks, and the nodes of each that return a tensor."""


def stages_below(structure: Structure, phase: Phase) -> tuple[str, ...]:
    """Return the stages below the frost line of a phase: all below the lowest stage in which something learns."""
    active = {structure.stage_of(name) for name in phase.learning}
    first = next(level for level, stage in enumerate(structure.stages) if stage in active)
    return structure.stages[:first]


def head_alone(structure: Structure, below: tuple[str, ...]) -> bool:
    """Return whether only the head is above the stages `below`."""
    return len(below) == len(structure.stages) - 1


def cuttable(module: nn.Module, structure: Structure, below: tuple[str, ...]) -> tuple[str, ...]:
    """Return the stages `below` up to the highest one above which the network can be cut; perhaps none."""
    if structure.side is None:
        return below
    counts = range(len(below), 0, -1)
    return next((below[:count] for count in counts if _can_cut(module, structure, below[:count])), ())


def _can_cut(module: nn.Module, structure: Structure, below: tuple[str, ...]) -> bool:
    """Return whether the forward pass can be traced and only one tensor crosses the border above `below`."""
    try:
        halves(module, structure, below)
    except Exception:  # a forward pass that is not made for tracing can raise anything
        return False
    return True


def halves(module: nn.Module, structure: Structure, below: tuple[str, ...]) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Return the network up to the last layer of the stages `below`, and the rest, which takes its output.

    One tensor crosses the cut. The cut is as late as possible, i.e. after a pooling or flattening without parameters.
    ValueError if no tensor crosses alone.
    """
    known = _halves.setdefault(module, {})
    if below not in known:
        known[below] = _cut(module, structure, below)
    return known[below]


def segments(module: nn.Module, structure: Structure) -> dict[str, fx.GraphModule]:
    """Return the network below its head as consecutive parts: the first takes images, each other one the part before.

    A part has the name of its last stage. A stage above which the network cannot be cut is in the next stage's part.
    Empty if the forward pass cannot be traced.
    """
    try:
        graph, _ = _trace(module, structure)
    except Exception:  # a forward pass that is not made for tracing can raise anything
        return {}
    found, start = {}, next(iter(graph.nodes))
    for count in range(1, len(structure.stages)):
        if (cut := _crossing(module, structure, structure.stages[:count])) is not None:
            found[structure.stages[count - 1]] = module_of(module, _part(graph, start, cut))
            start = cut
    return found


def _cut(module: nn.Module, structure: Structure, below: tuple[str, ...]) -> tuple[fx.GraphModule, fx.GraphModule]:
    graph, _ = _trace(module, structure)
    if (cut := _crossing(module, structure, below)) is None:
        raise ValueError(f"several tensors cross the border above {below[-1]}")
    first, last = next(iter(graph.nodes)), next(iter(reversed(graph.nodes)))
    return module_of(module, _part(graph, first, cut)), module_of(module, _part(graph, cut, last))


def _crossing(module: nn.Module, structure: Structure, below: tuple[str, ...]) -> fx.Node | None:
    """Return the last node whose output alone crosses the border above `below`; None if there is none."""
    graph, tensors = _trace(module, structure)
    levels, varying, border = _levels(graph, structure), _varying(graph), len(below) - 1
    low = [node for node in reversed(graph.nodes) if levels[node] <= border and node in tensors]
    return next((node for node in low if _crosses_alone(node, border, levels, varying)), None)


def _trace(module: nn.Module, structure: Structure) -> tuple[fx.Graph, set[fx.Node]]:
    """Return the graph of the forward pass, and the nodes that return a tensor."""
    if module not in _traces:
        graph = graph_of(module, _Stages(structure))
        _traces[module] = graph, set(graph.nodes) if structure.side is None else _settle(module, graph, structure.side)
    return _traces[module]


def _settle(module: nn.Module, graph: fx.Graph, side: int) -> set[fx.Node]:
    """Replace nodes whose number is the same for every batch by a constant; return the nodes that return a tensor.

    Else a size that a network reads from its feature maps would have to cross the cut, too. Runs on the meta device.
    """
    one = _values(module, graph, 2, side)
    numbers = [node for node, value in one.items() if node.op != "placeholder" and _is_number(value)]
    two = _values(module, graph, 3, side) if numbers else {}
    for node in numbers:
        if one[node] == two[node]:
            for user in list(node.users):
                _put(user, node, one[node])
    return {node for node, value in one.items() if isinstance(value, torch.Tensor)}


def _is_number(value: Any) -> bool:
    """Return whether a value is an integer, or a tuple of integers."""
    return all(map(_is_number, value)) if isinstance(value, tuple) else isinstance(value, int)


def _put(user: fx.Node, node: fx.Node, value: Any) -> None:
    """Replace the input `node` of `user` by the constant `value`."""
    user.args, user.kwargs = map_arg((user.args, user.kwargs), lambda other: value if other is node else other)


def _values(module: nn.Module, graph: fx.Graph, count: int, side: int) -> dict[fx.Node, Any]:
    """Return the value of each node for `count` images; tensors are on the meta device, without values."""
    every = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node.op != "output":
            copies[node] = every.node_copy(node, copies.__getitem__)
    every.output(list(copies.values()))
    return dict(zip(copies, shapes.walk(module_of(module, every), count, side), strict=True))


def graph_of(module: nn.Module, tracer: fx.Tracer) -> fx.Graph:
    """Return the graph of a module, traced by `tracer` with its first argument as the only variable input.

    Neither this nor `module_of` leaves reference cycles: they would keep networks and their device memory until the
    garbage collector runs, perhaps several runs later.
    """
    _, *others = inspect.signature(module.forward).parameters.values()
    graph = tracer.trace(module, {one.name: one.default for one in others if one.default is not one.empty})
    vars(tracer).clear()
    return graph


def module_of(layers: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """Return a module that computes `graph` with the given layers."""
    module = fx.GraphModule(layers, graph)
    module.graph.owning_module = None
    return module


class _Stages(fx.Tracer):
    """Keeps modules that lie within one stage as leaves, so that their train or eval mode can still change."""

    def __init__(self, structure: Structure) -> None:
        super().__init__()
        self._structure = structure

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return self._structure.in_one_stage(module_qualified_name) or super().is_leaf_module(m, module_qualified_name)


def _levels(graph: fx.Graph, structure: Structure) -> dict[fx.Node, int]:
    """Return the level of each node: the highest level among its inputs and, for a layer, that of its stage."""
    levels: dict[fx.Node, int] = {}
    for node in graph.nodes:
        below = max((levels[other] for other in node.all_input_nodes), default=0)
        own = structure.stages.index(structure.stage_of(str(node.target))) if _is_layer(node) else 0
        levels[node] = max(own, below)
        if node.op == "output":
            levels[node] = len(structure.stages) - 1
    return levels


def _varying(graph: fx.Graph) -> set[fx.Node]:
    """Return the nodes that depend on the image; others, e.g. positions, can be computed on both sides of a cut."""
    found = {next(iter(graph.nodes))}
    for node in graph.nodes:
        if not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found


def _is_layer(node: fx.Node) -> bool:
    return node.op in ("call_module", "get_attr") and not str(node.target).startswith("_tensor_constant")


def _crosses_alone(cut: fx.Node, border: int, levels: dict[fx.Node, int], varying: set[fx.Node]) -> bool:
    """Return whether all data from below the border reaches the layers above it, and the output, through `cut`."""
    reached = [node for node in levels if levels[node] > border]
    for node in reached:
        inputs = [other for other in node.all_input_nodes if other is not cut and other in varying]
        if any(other.op == "placeholder" or (_is_layer(other) and levels[other] <= border) for other in inputs):
            return False
        reached.extend(other for other in inputs if other not in reached)
    return cut.op != "placeholder"


def _part(graph: fx.Graph, start: fx.Node, end: fx.Node) -> fx.Graph:
    """Return the graph that computes `end` from `start`, which becomes its input."""
    needed = [end]
    for node in needed:
        needed.extend(other for other in node.all_input_nodes if node is not start and other not in needed)
    part = fx.Graph()
    copies = {start: part.placeholder("x")}
    for node in graph.nodes:
        if node in needed and node is not start:
            copies[node] = part.node_copy(node, copies.__getitem__)
    if end.op != "output":
        part.output(copies[end])
    return part

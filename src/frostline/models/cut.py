"""A network cut at the frost line: what lies below is a pure function of the image, what lies above learns.

Both halves share their layers with the whole network, so freezing, modes and weights are those of the whole.
"""

from __future__ import annotations

from collections.abc import Collection
from weakref import WeakKeyDictionary

from torch import fx, nn

from frostline.models.freezing import Phase
from frostline.models.stages import Structure

_halves: WeakKeyDictionary[nn.Module, dict[tuple[str, ...], tuple[fx.GraphModule, fx.GraphModule]]] = (
    WeakKeyDictionary()
)
"""Those of a network by the stages below, since tracing it takes as long as an epoch of a head."""


def stages_below(structure: Structure, phase: Phase) -> tuple[str, ...]:
    """Return the stages below the frost line of a phase: the lowest ones, as long as nothing in them learns."""
    active = {structure.stage_of(name) for name in phase.learning}
    first = next(level for level, stage in enumerate(structure.stages) if stage in active)
    return structure.stages[:first]


def head_alone(structure: Structure, phase: Phase) -> bool:
    """Return whether only the head is above the frost line of a phase."""
    return len(stages_below(structure, phase)) == len(structure.stages) - 1


def halves(module: nn.Module, structure: Structure, below: Collection[str]) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Return the network up to the last layer of the stages `below`, and the rest, which takes the former's output.

    One tensor crosses the line, as late as possible, i.e. behind a pooling or flattening that learns nothing.
    """
    known = _halves.setdefault(module, {})
    if tuple(below) not in known:
        known[tuple(below)] = _cut(module, structure, below)
    return known[tuple(below)]


def _cut(module: nn.Module, structure: Structure, below: Collection[str]) -> tuple[fx.GraphModule, fx.GraphModule]:
    graph = graph_of(module, _Stages(structure))
    levels = _levels(graph, structure)
    border = len(below) - 1
    cut = next(
        node for node in reversed(graph.nodes) if levels[node] <= border and _crosses_alone(node, border, levels)
    )
    first, last = next(iter(graph.nodes)), next(reversed(graph.nodes))
    return module_of(module, _part(graph, first, cut)), module_of(module, _part(graph, cut, last))


def graph_of(module: nn.Module, tracer: fx.Tracer) -> fx.Graph:
    """Return the graph of a module as `tracer` sees it.

    Neither here nor in `module_of` is anything left that refers to itself in a circle: that would keep networks, and
    what memory they have on a device, until garbage is collected, which may be several runs later.
    """
    graph = tracer.trace(module)
    vars(tracer).clear()
    return graph


def module_of(layers: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """Return the module that computes `graph` with the layers of another module."""
    module = fx.GraphModule(layers, graph)
    module.graph.owning_module = None
    return module


class _Stages(fx.Tracer):
    """Traces down to modules that lie within one stage and no further, so that their modes can still change."""

    def __init__(self, structure: Structure) -> None:
        super().__init__()
        self._structure = structure

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        try:
            self._structure.stage_of(module_qualified_name)
        except KeyError:
            return super().is_leaf_module(m, module_qualified_name)
        return True


def _levels(graph: fx.Graph, structure: Structure) -> dict[fx.Node, int]:
    """Return the level of each node's stage; what is no layer belongs to the highest stage among its inputs."""
    levels: dict[fx.Node, int] = {}
    for node in graph.nodes:
        below = max((levels[other] for other in node.all_input_nodes), default=0)
        levels[node] = structure.stages.index(structure.stage_of(str(node.target))) if _is_layer(node) else below
        if node.op == "output":
            levels[node] = len(structure.stages) - 1
    return levels


def _is_layer(node: fx.Node) -> bool:
    return node.op in ("call_module", "get_attr") and not str(node.target).startswith("_tensor_constant")


def _crosses_alone(cut: fx.Node, border: int, levels: dict[fx.Node, int]) -> bool:
    """Return whether nothing from below the border reaches a layer above it, or the output, but through `cut`."""
    reached = [node for node in levels if levels[node] > border]
    for node in reached:
        inputs = [other for other in node.all_input_nodes if other is not cut]
        if any(other.op == "placeholder" or (_is_layer(other) and levels[other] <= border) for other in inputs):
            return False
        reached.extend(other for other in inputs if other not in reached)
    return cut.op != "placeholder"


def _part(graph: fx.Graph, start: fx.Node, end: fx.Node) -> fx.Graph:
    """Return what computes `end` from `start`, which becomes the part's input."""
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

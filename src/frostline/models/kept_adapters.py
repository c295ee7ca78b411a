"""Insert adapters that cannot be merged into weights and stay in the network: bottlenecks and visual prompts.

Each wraps a module, as its child `adapter`, and changes its input or output; the module's own tensors keep their names.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from frostline.core.config import AdapterConfig
from frostline.core.errors import user_error
from frostline.core.randomness import generator
from frostline.models import freezing, shapes
from frostline.models.kept_adapter_kinds import Bottleneck, KeptAdapter, Prompt
from frostline.models.stages import Structure

_PAPERS = {"bottleneck": "arXiv:1902.00751, arXiv:2205.13535", "prompt": "arXiv:2203.12119"}
_READ = {"bottleneck": ("rank", "parallel", "scale", "dropout"), "prompt": ("tokens", "deep", "dropout")}
"""Options of `AdapterConfig` that each kind reads, besides the place."""
_TRANSFORMERS = {
    "torchvision.models.vision_transformer.VisionTransformer": ("encoder.layers", "hidden_dim"),
    "timm.models.vision_transformer.VisionTransformer": ("blocks", "embed_dim"),
    "timm.models.eva.Eva": ("blocks", "embed_dim"),
}
"""Networks whose blocks accept any number of tokens in any order: path of the blocks, attribute of the token width."""


def insert(module: nn.Module, structure: Structure, how: AdapterConfig, *, seed: int, side: int) -> Structure:
    """Wrap the modules that `how` matches in adapters, and return the structure with the adapters.

    `side` is the side of the images in pixels. The head, which is new, gets no adapter. Bottlenecks do not change the
    network's outputs. UserError if no module matches, or if the network does not support prompts.
    """
    addresses = freezing.addresses_of_modules(module, structure)
    below_head = {path: own for path, own in addresses.items() if structure.stage_of(path) != structure.stages[-1]}
    made = dict((_prompts if how.kind == "prompt" else _bottlenecks)(module, below_head, how, side))
    if not made:
        kinds = sorted({address.split("/")[1] for pair in below_head.values() for address in pair})
        told = f"globs that match modules that {how.kind} fits, below the head ({', '.join(kinds)})"
        raise user_error("freeze_mode.adapter.where", how.where, told)
    stages: dict[str, str] = {}
    for path, adapter in made.items():
        layer: Any = module.get_submodule(path)
        if not next(layer.parameters()).is_meta:
            adapter.start(module, generator(seed, "init", "adapter", path))
        layer.add_module(freezing.ADAPTER, adapter.train(layer.training))
        layer.__class__ = _surrounded(layer.__class__)
        parts = (name for name, _ in chain(adapter.named_modules(), adapter.named_parameters()))
        names = (f"{path}.{freezing.ADAPTER}.{part}".rstrip(".") for part in parts)
        stages |= dict.fromkeys(names, structure.stage_of(path))
    return structure.with_stages(stages)


def alone(module: nn.Module, how: AdapterConfig, *, heads: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of adapters and heads by their names in the network, and a description of the adapters."""
    paths = [path for path, part in module.named_modules() if isinstance(part, KeptAdapter)]
    tensors = {
        f"{path}.{n}": t for path in (*paths, *heads) for n, t in module.get_submodule(path).state_dict().items()
    }
    told = {name: value for name, value in asdict(how).items() if name in _READ[how.kind]}
    around = [path.rpartition(".")[0] for path in paths]
    facts = {"kind": how.kind, "papers": _PAPERS[how.kind], **told, "around": around, "modules_to_save": [*heads]}
    return tensors, facts


def _bottlenecks(
    module: nn.Module, addresses: Mapping[str, Sequence[str]], how: AdapterConfig, side: int
) -> Iterator[tuple[str, KeptAdapter]]:
    """Yield path and bottleneck for each matched module whose output, or first output, is a tensor of features."""
    named = [path for path, own in addresses.items() if freezing.is_named(own, how.where)]
    for path, (taken, given) in _shapes(module, named, side).items():
        layer = module.get_submodule(path)
        maps = len(given) == 4 and given[2] == given[3] and (given[1] != given[2] or _convolves(layer))
        axis = 1 if maps else -1
        if how.parallel and (taken is None or _without(taken, axis) != _without(given, axis)):
            continue
        entering = taken if how.parallel and taken is not None else given
        like = next(layer.parameters())
        yield path, Bottleneck(entering[axis], given[axis], how, maps=maps, like=like)


def _convolves(layer: nn.Module) -> bool:
    """Return whether a module has a convolution, which maps with as many channels as rows leave open (Swin at 384)."""
    return any(isinstance(part, nn.Conv2d) for part in layer.modules())


def _without(shape: torch.Size, axis: int) -> tuple[int, ...]:
    return (*shape[:axis], *shape[axis:][1:])


def _shapes(module: nn.Module, paths: Sequence[str], side: int) -> dict[str, tuple[torch.Size | None, torch.Size]]:
    """Return input and output shapes of modules for two square images of `side` pixels, in the order of calls.

    Runs on the meta device. Modules that are not called, or whose output is not features, are left out.
    """
    found: dict[str, tuple[torch.Size | None, torch.Size]] = {}

    def look(path: str, inputs: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        taken = inputs[0].shape if inputs and isinstance(inputs[0], Tensor) else None
        if isinstance(first, Tensor) and first.dim() in (3, 4):
            found[path] = taken, first.shape

    wanted = [path for path in paths if _fits(module.get_submodule(path))]
    hooks = [
        module.get_submodule(path).register_forward_hook(
            lambda _, inputs, output, path=path: look(path, inputs, output)
        )
        for path in wanted
    ]
    modes = {part: part.training for part in module.modules()}
    try:
        shapes.walk(module.eval(), 2, side)
    finally:
        for hook in hooks:
            hook.remove()
        for part, training in modes.items():
            part.training = training
    return found


def _fits(layer: nn.Module) -> bool:
    """Return whether a module has parameters and can have a child that its forward pass ignores."""
    return not isinstance(layer, nn.ModuleDict | nn.ModuleList) and any(True for _ in layer.parameters())


def _prompts(
    module: nn.Module, addresses: Mapping[str, Sequence[str]], how: AdapterConfig, side: int
) -> Iterator[tuple[str, KeptAdapter]]:
    """Yield path and prompt adapter: with `deep` for every matched block, else for the first and the last."""
    ours = (_TRANSFORMERS.get(f"{kind.__module__}.{kind.__qualname__}") for kind in type(module).__mro__)
    known = next(filter(None, ours), None)
    if known is None:
        told = (
            "a VisionTransformer of torchvision or timm (ViT, DeiT, CLIP, SigLIP, DINOv2) or timm's Eva (EVA, DINOv3),"
            f" whose blocks take any number of tokens; {type(module).__name__} is not one (freeze=lora may fit it)"
        )
        raise user_error("freeze_mode.adapter.kind", "prompt", told)
    chained, length = known
    blocks = [f"{chained}.{name}" for name, _ in module.get_submodule(chained).named_children()]
    named = [path for path in blocks if freezing.is_named(addresses.get(path, ()), how.where)]
    for path in named if how.deep else _from_first_to_last(blocks, named):
        _without_position(module.get_submodule(path), how.tokens)
    for path in named if how.deep else dict.fromkeys((*named[:1], *named[-1:])):
        enter, leave = how.deep or path == named[0], how.deep or path == named[-1]
        like = next(module.get_submodule(path).parameters())
        yield path, Prompt(how, getattr(module, length), enter=enter, leave=leave, like=like)


def _from_first_to_last(blocks: Sequence[str], named: Sequence[str]) -> Sequence[str]:
    """Return the blocks from the first matched one to the last, which prompt tokens pass through."""
    return blocks[blocks.index(named[0]) : blocks.index(named[-1]) + 1] if named else ()


def _without_position(block: nn.Module, count: int) -> None:
    """Make rotary position embeddings of a block's attention skip `count` more tokens."""
    layer: Any
    for layer in block.modules():
        if hasattr(layer, "num_prefix_tokens"):
            layer.num_prefix_tokens += count


@functools.cache
def _surrounded(kind: type[nn.Module]) -> type[nn.Module]:
    """Return a subclass of `kind` whose forward pass goes through its adapter.

    The subclass has the same name, so that addresses, tracing and torch's type checks see the original module.
    """

    @functools.wraps(kind.forward)
    def forward(self: nn.Module, *inputs: Any, **options: Any) -> Any:
        adapter = self._modules[freezing.ADAPTER]
        assert isinstance(adapter, KeptAdapter)
        return adapter.around(functools.partial(kind.forward, self), *inputs, **options)

    def own(self: nn.Module) -> list[nn.Module | None]:
        return [part for name, part in self._modules.items() if name != freezing.ADAPTER]

    facts: dict[str, Any] = {"forward": forward, "__module__": kind.__module__}
    if issubclass(kind, nn.Sequential):  # its forward pass iterates over its children
        facts |= {"__iter__": lambda self: iter(own(self)), "__len__": lambda self: len(own(self))}
    return type(kind.__name__, (kind,), facts)

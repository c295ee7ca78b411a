"""Build a classifier: find the network by name, load its checked weights, and add a head for the classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from frostline.core.config import KEPT, AdapterConfig
from frostline.core.errors import UserError, one_line, user_error
from frostline.core.input_spec import InputSpec
from frostline.core.randomness import derive_seed
from frostline.core.validation import adapter_config
from frostline.models import adapters, pooling
from frostline.models.architecture import Architecture, Pretrained
from frostline.models.load_weights import Loaded, load_into
from frostline.models.lookup import architecture_of, file_of, input_spec, source_of
from frostline.models.meta_device import Weightless, empty, skeleton
from frostline.models.stages import Family, Structure, structure_of
from frostline.models.state_dicts import within
from frostline.models.weights import content, metadata_of, read
from frostline.store import hashing


@dataclass(frozen=True)
class Model:
    """A classifier with its structure, expected input and the origin of its weights."""

    name: str
    library: str
    """The library that defines the network: `torchvision` or `timm`."""
    module: nn.Module
    structure: Structure
    input: InputSpec
    weights_sha256: str | None
    """sha256 of the weights file, as hex; None from scratch and on the meta device."""
    loaded: str | None
    """What was read from the weights file, in one line: under which keys, whether the head is new; None as above."""
    new_head: bool
    """Whether the head has new weights, which depend on the seed, instead of those of the file."""
    trained_for: tuple[str, ...] | None = None
    """The classes for which the weights were trained, if the file says so."""
    kept_adapter: AdapterConfig | None = None
    """Adapters that cannot be merged and stay in the network."""

    @property
    def linear_head(self) -> nn.Linear | None:
        """Its head where that is one linear layer with a bias, which can be solved; else None."""
        head, *others = (self.module.get_submodule(name) for name in self.structure.heads)
        return head if not others and type(head) is nn.Linear and head.bias is not None else None


def build(
    name: str,
    *,
    library: str = "torchvision",
    weights: str | None,
    num_classes: int,
    seed: int,
    image_size: int | None = None,
    sha256: str | None = None,
    classes: Sequence[str] | None = None,
    memory_format: torch.memory_format = torch.contiguous_format,
    meta: bool = False,
) -> Model:
    """Return the network with `num_classes` outputs on the CPU, in training mode, its kernels in `memory_format`.

    `library` is `torchvision`, also for plugins, or `timm`. `weights` is None for training from scratch, `DEFAULT` or
    another name that the library offers, `glyphs`, a file, or a folder laid out as on timm's hub. The head is loaded if
    its shape fits and the file does not name other classes than `classes`; else it is new. New weights depend on `seed`
    alone; weights of a new head do not depend on the backbone. `meta` builds on the meta device and reads no weights,
    but adds the kept adapters that a file describes; tensors outside the state dict have values even then. UserError
    for anything unknown or unsuitable, such as fine-tuning weights with kept adapters.
    """
    found = architecture_of(name, library)
    source = source_of(found, weights)
    spec = input_spec(name, library, found, source, image_size)
    own_seed = None if meta or source else seed
    module, structure = _bare(name, found, spec.size, seed=own_seed, memory_format=memory_format)
    if meta:
        empty(module)
    elif source:
        module._apply(lambda one: torch.empty_strided(one.shape, one.stride(), dtype=one.dtype) if one.is_meta else one)
    with Weightless() if meta else _seeded(seed, "init", "head"):
        found.new_heads(module, structure.heads, num_classes)
    for head in structure.heads:
        module.get_submodule(head).to(memory_format=memory_format)
    digest, loaded = None, None
    if source and not meta:
        digest, loaded = _load(module, found, structure.heads, source, sha256, classes)
    said = metadata_of(source) if isinstance(source, Path) else {}
    model = Model(
        name=name,
        library=library,
        module=module,
        structure=structure,
        input=spec,
        weights_sha256=digest,
        loaded=loaded.said if loaded else None,
        new_head=loaded is None or not any(within(name, structure.heads) for name in loaded.names),
        trained_for=tuple(said["classes"]) if said else None,
    )
    return with_adapters(model, adapter_config(said["adapter"]), seed=seed) if said.get("adapter") else model


def trained(file: Path, name: str, library: str) -> Model:
    """Return the network whose weights a run wrote to `file`, with these, on the CPU; UserError if one is missing."""
    count = len(metadata_of(file)["classes"])
    model = build(name, library=library, weights=str(file), num_classes=count, seed=0, meta=True)
    try:
        model.module.load_state_dict(read(file), assign=True)
    except RuntimeError as error:
        raise UserError(f"{file}: expected all weights of {name} ({one_line(error)})") from None
    return model


def with_adapters(model: Model, how: AdapterConfig, *, seed: int) -> Model:
    """Insert the adapters that `how` describes and return the model with them; UserError if none fits the network."""
    structure = adapters.insert(model.module, model.structure, how, seed=seed, side=model.input.size)
    return replace(model, structure=structure, kept_adapter=how if how.kind in KEPT else None)


def metadata(model: Model, classes: Sequence[str]) -> dict[str, Any]:
    """Return the metadata that `tensorfile.save` must write beside the weights, so that `build` can read the file."""
    said = {"model": model.name, "library": model.library, "classes": list(classes)}
    return {**said, **asdict(model.input), **({"adapter": asdict(model.kept_adapter)} if model.kept_adapter else {})}


def _bare(
    name: str, found: Architecture, size: int, *, seed: int | None, memory_format: torch.memory_format
) -> tuple[nn.Module, Structure]:
    """Return the network as its library makes it, and its structure: with new weights from `seed`, None for none."""
    network = partial(_network, name, found, size)
    if seed is None:
        module = skeleton(network)
    else:
        with _seeded(seed, "init"):
            module = network()
    family = found.family
    structure = structure_of(module, family) if isinstance(family, Family) else family(module, size)
    return module.to(memory_format=memory_format), structure


def _network(name: str, found: Architecture, size: int) -> nn.Module:
    """Return the network for square inputs of `size` pixels, with deterministic gradients."""
    try:
        module = found.network(size)
    except (AssertionError, ValueError) as problem:
        raise user_error("model.image_size", size, f"a size that suits {name} ({one_line(problem)})") from problem
    pooling.replace_pools(module)
    return module


def new_head(model: Model, num_classes: int, seed: int) -> nn.Module:
    """Return the only head that `build` would create for this model and `seed`; `model` does not change."""
    (place,), module = model.structure.heads, model.module
    own = module.get_submodule(place)
    with _seeded(seed, "init", "head"):
        architecture_of(model.name, model.library).new_heads(module, (place,), num_classes)
    found = module.get_submodule(place)
    module.set_submodule(place, own)
    return found


def _load(
    module: nn.Module,
    found: Architecture,
    heads: tuple[str, ...],
    source: Pretrained | Path,
    sha256: str | None,
    classes: Sequence[str] | None,
) -> tuple[str, Loaded]:
    """Load weights into the module; return the sha256 of the file, which is checked first, and what was read."""
    path, digest = file_of(source, sha256)
    said = metadata_of(path)
    if said.get("adapter"):
        kind = adapter_config(said["adapter"]).kind
        told = f"weights of a plain network, not of one that keeps adapters ({kind})"
        raise user_error("model.weights", path, f"{told}; predict, export and register accept them")
    ours = classes is None or said.get("classes") in (None, list(classes))
    adapt = partial(found.adapt, module)
    loaded = load_into(module, content(path), heads, source=str(path), take_head=ours, adapt=adapt)
    hashing.remember_source({name: layer for name, layer in module.named_parameters() if name in loaded.names}, digest)
    return digest, loaded


@contextmanager
def _seeded(*parts: int | str) -> Iterator[None]:
    """Draw new weights from a derived seed; restore the CPU generator afterwards, and leave others untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(*parts))
        yield

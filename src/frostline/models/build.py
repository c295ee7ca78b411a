"""Build classifiers: the network that `lookup` finds by its name, its stages, its checked weights, a head."""

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
from frostline.core.errors import one_line, user_error
from frostline.core.input_spec import InputSpec
from frostline.core.randomness import address
from frostline.core.validation import adapter_config
from frostline.models import adapters, pooling
from frostline.models.architecture import Architecture, Pretrained
from frostline.models.load_weights import Loaded, load_into
from frostline.models.lookup import architecture_of, file_of, input_spec, source_of
from frostline.models.meta_device import Weightless, empty, skeleton
from frostline.models.stages import Family, Structure, structure_of
from frostline.models.state_dicts import within
from frostline.models.weights import content, metadata_of
from frostline.store import hashing


@dataclass(frozen=True)
class Model:
    """A classifier and what the rest of the program needs to know about it."""

    name: str
    library: str
    """Whose network it is: `torchvision` or `timm`."""
    module: nn.Module
    structure: Structure
    input: InputSpec
    weights_sha256: str | None
    """Of the weights file, as hex; None from scratch and on the meta device."""
    loaded: str | None
    """What was read of the weights file, in a line: where it was, whether the head is new; None as above."""
    new_head: bool
    """Whether the head has new weights, which depend on the seed, and not those of the file."""
    trained_for: tuple[str, ...] | None = None
    """The classes that a weights file says it was trained for."""
    kept: AdapterConfig | None = None
    """What it has that its library's network has not, and that can be made no part of that."""

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

    `library`: `torchvision`, which plugins count to, or `timm`. `weights`: None for from scratch, `DEFAULT` or another
    name that the library gives, `glyphs`, a file, or a folder as timm's hub has it. The head is the file's where its
    shape fits and it is not known to be for other classes than `classes`, else new. New weights depend on `seed` alone,
    those of the head not even on the backbone's. `meta` builds on the meta device and reads no weights, but has the
    adapters that a file says it kept; what is no part of the network's state has its values even so. UserError for
    anything unknown or unfitting, as is a network with adapters of its own that is to learn once more.
    """
    found = architecture_of(name, library)
    source = source_of(found, weights)
    spec = input_spec(name, library, found, source, image_size)
    network = partial(_network, name, found, spec.size)
    if meta or source:
        module = skeleton(network)
    else:
        with _seeded(seed, "init"):
            module = network()
    family = found.family
    structure = structure_of(module, family) if isinstance(family, Family) else family(module, spec.size)
    module.to(memory_format=memory_format)
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
    known = said.get("classes")
    model = Model(
        name=name,
        library=library,
        module=module,
        structure=structure,
        input=spec,
        weights_sha256=digest,
        loaded=loaded.said if loaded else None,
        new_head=loaded is None or not any(within(name, structure.heads) for name in loaded.names),
        trained_for=tuple(known) if known is not None else None,
    )
    return with_adapters(model, adapter_config(said["adapter"]), seed=seed) if said.get("adapter") else model


def with_adapters(model: Model, how: AdapterConfig, *, seed: int) -> Model:
    """Return the model, whose network has the adapters that `how` says from now on; UserError where none fits it."""
    structure = adapters.insert(model.module, model.structure, how, seed=seed, side=model.input.size)
    return replace(model, structure=structure, kept=how if how.kind in KEPT else None)


def metadata(model: Model, classes: Sequence[str]) -> dict[str, Any]:
    """Return what `tensorfile.save` shall keep beside the weights, so that `build` can read the file again."""
    said = {"model": model.name, "library": model.library, "classes": list(classes)}
    return {**said, **asdict(model.input), **({"adapter": asdict(model.kept)} if model.kept else {})}


def _network(name: str, found: Architecture, size: int) -> nn.Module:
    """Return the network for squares of `size` pixels, whose gradient is the same in every run."""
    try:
        module = found.network(size)
    except (AssertionError, ValueError) as problem:
        raise user_error("model.image_size", size, f"a size that suits {name} ({one_line(problem)})") from problem
    pooling.replace_pools(module)
    return module


def new_head(model: Model, num_classes: int, seed: int) -> nn.Module:
    """Return the layer that `build` makes the only head of such a network for a `seed`; `model` stays as it is."""
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
    """Fill the module from its source; return the sha256 of the file, which is checked first, and what was read."""
    path, digest = file_of(source, sha256)
    said = metadata_of(path)
    if said.get("adapter"):
        kind = adapter_config(said["adapter"]).kind
        told = f"weights of a plain network, and these are of one that keeps what was put into it ({kind})"
        raise user_error("model.weights", path, f"{told}: predict, export and register take it as it is")
    ours = classes is None or said.get("classes") in (None, list(classes))
    adapt = partial(found.adapt, module)
    loaded = load_into(module, content(path), heads, source=str(path), take_head=ours, adapt=adapt)
    hashing.come_from({name: layer for name, layer in module.named_parameters() if name in loaded.names}, digest)
    return digest, loaded


@contextmanager
def _seeded(*parts: int | str) -> Iterator[None]:
    """Draw new weights from an addressed seed; the CPU generator is as before afterwards, others stay untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(address(*parts))
        yield

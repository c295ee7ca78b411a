"""Build classifiers: the network, its stages, its checked weights and the input that they expect."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from frostline.core import plugins
from frostline.core.config import KEPT, AdapterConfig
from frostline.core.errors import user_error
from frostline.core.files import expanded
from frostline.core.randomness import address
from frostline.core.validation import adapter_config
from frostline.models import adapters, pooling, torchvision_models
from frostline.models.architecture import Architecture, Pretrained, Tensors
from frostline.models.input_spec import InputSpec
from frostline.models.stages import Family, Structure, structure_of
from frostline.models.state_dicts import within
from frostline.models.weights import (
    GLYPHS,
    GLYPHS_SHA256,
    SUFFIXES,
    Loaded,
    content,
    is_file_name,
    load_into,
    metadata_of,
    of_hub,
)
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
    source = _source(found, weights)
    spec = _input_spec(name, library, found, source, image_size)
    if meta or source:
        module = _skeleton(name, found, spec.size)
    else:
        with _seeded(seed, "init"):
            module = _network(name, found, spec.size)
    family = found.family
    structure = structure_of(module, family) if isinstance(family, Family) else family(module, spec.size)
    module.to(memory_format=memory_format)
    if meta:
        _forget(module)
    elif source:
        module._apply(lambda tensor: torch.empty_like(tensor, device="cpu") if tensor.is_meta else tensor)
    with _Weightless() if meta else _seeded(seed, "init", "head"):
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


def input_of(name: str, *, library: str = "torchvision", weights: str | None, image_size: int | None) -> InputSpec:
    """Return the picture that `build` with the same arguments makes its network for; UserError as there."""
    found = architecture_of(name, library)
    return _input_spec(name, library, found, _source(found, weights), image_size)


def architecture_of(name: str, library: str) -> Architecture:
    """Return the network called `name`, of timm, of torchvision or of a plugin."""
    if library == "timm":
        return _of_timm(name)
    if name in torchvision_models.NAMES:
        return torchvision_models.architecture(name)
    plugin: Architecture | None = plugins.load(plugins.MODELS, name)
    if plugin is None:
        theirs = torchvision_models.NAMES
        expected = f"one of torchvision's {len(theirs)} classification models, or a plugin"
        raise user_error("model.name", name, expected, (*theirs, *plugins.names(plugins.MODELS)))
    return plugin


def _of_timm(name: str) -> Architecture:
    try:
        from frostline.models import timm_models
    except ImportError as error:
        way = f"torchvision, or the package timm, as `pip install 'frostline[timm]'` brings it ({error})"
        raise user_error("model.library", "timm", way) from None
    return timm_models.architecture(name)


def _source(found: Architecture, weights: str | None) -> Pretrained | Path | None:
    """Return the library's weights or the existing file that `weights` names."""
    if weights is None:
        return None
    entries = dict(zip(("default",), found.weights.values(), strict=False)) | dict(found.weights)
    if weights.lower() in entries:
        return entries[weights.lower()]
    path = GLYPHS if weights == "glyphs" else expanded(weights)
    if found.folder is not None and of_hub(path):
        return found.folder(path)
    if not is_file_name(path.name):
        expected = f"null, glyphs, a {', '.join(SUFFIXES)} file or one of {', '.join(entries)}"
        raise user_error("model.weights", weights, expected, [*entries, "glyphs"])
    if not path.is_file():
        raise user_error("model.weights", weights, f"a file, and there is none at {path.absolute()}")
    return path


def _input_spec(
    name: str, library: str, found: Architecture, source: Pretrained | Path | None, image_size: int | None
) -> InputSpec:
    """Return what the weights expect; where they do not say it, what the architecture does."""
    saved = metadata_of(source) if isinstance(source, Path) else {}
    if saved and (saved["model"], saved.get("library", "torchvision")) != (name, library):
        theirs = f"{saved['model']} of {saved.get('library', 'torchvision')}"
        raise user_error("model.weights", source, f"weights of {name} of {library}, and these are of {theirs}")
    said = source.input if isinstance(source, Pretrained) else found.input
    spec = InputSpec.of(saved) if saved else said
    if image_size is None:
        return spec
    if image_size < found.smallest:
        raise user_error("model.image_size", image_size, f"at least {found.smallest} pixels for {name}")
    return replace(spec, size=image_size, resize=round(spec.resize * image_size / spec.size))


def _network(name: str, found: Architecture, size: int) -> nn.Module:
    """Return the network for squares of `size` pixels, whose gradient is the same in every run."""
    try:
        module = found.network(size)
    except (AssertionError, ValueError) as problem:
        reason = " ".join(str(problem).split())
        raise user_error("model.image_size", size, f"a size that suits {name} ({reason})") from problem
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


def weights_sha256(name: str, *, library: str, weights: str | None) -> str | None:
    """Return the sha256 of the file that `build` would read, None for from scratch."""
    found = weights_file(name, library=library, weights=weights)
    return None if found is None else found[1]


def weights_file(name: str, *, library: str, weights: str | None, sha256: str | None = None) -> tuple[Path, str] | None:
    """Return the file that `build` would read, fetched if need be, and its sha256; None for from scratch.

    UserError where it has another `sha256`.
    """
    source = _source(architecture_of(name, library), weights)
    return None if source is None else _file_of(source, sha256)


def _file_of(source: Pretrained | Path, sha256: str | None) -> tuple[Path, str]:
    path, digest = source.fetch() if isinstance(source, Pretrained) else (source, hashing.of_source(source))
    if sha256 is not None and sha256.lower() != digest:
        raise user_error("model.sha256", sha256, f"the sha256 of {path}, which is {digest}")
    return path, digest


def _load(
    module: nn.Module,
    found: Architecture,
    heads: tuple[str, ...],
    source: Pretrained | Path,
    sha256: str | None,
    classes: Sequence[str] | None,
) -> tuple[str, Loaded]:
    """Fill the module from its source; return the sha256 of the file, which is checked first, and what was read."""
    path, digest = _file_of(source, GLYPHS_SHA256 if source == GLYPHS and sha256 is None else sha256)

    def adapt(tensors: Tensors) -> Tensors:
        return found.adapt(module, tensors)

    said = metadata_of(path)
    if said.get("adapter"):
        kind = adapter_config(said["adapter"]).kind
        told = f"weights of a plain network, and these are of one that keeps what was put into it ({kind})"
        raise user_error("model.weights", path, f"{told}: predict, export and register take it as it is")
    known = said.get("classes") if classes is not None else None
    ours = known is None or known == list(classes or ())
    loaded = load_into(module, content(path), heads, source=str(path), take_head=ours, adapt=adapt)
    hashing.come_from({name: layer for name, layer in module.named_parameters() if name in loaded.names}, digest)
    return digest, loaded


@contextmanager
def _seeded(*parts: int | str) -> Iterator[None]:
    """Draw new weights from an addressed seed; the CPU generator is as before afterwards, others stay untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(address(*parts))
        yield


_FILLING = {
    *(Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_),
    *(Tensor.erfinv_, Tensor.mul_, Tensor.add_, Tensor.clamp_),  # of which timm makes a normal distribution that is cut
}


def _skeleton(name: str, found: Architecture, size: int) -> nn.Module:
    """Return the network before its state has values: on the meta device, unless it computes with more than its state.

    What else there is, such as positions that are computed, has its values.
    """
    with _Weightless():
        module = _network(name, found, size)
    if any(part._non_persistent_buffers_set for part in module.modules()):
        with _Unfilled():
            module = _network(name, found, size)
    return module


def _forget(module: nn.Module) -> None:
    """Move the state of a network to the meta device."""
    state = {id(tensor) for tensor in module.state_dict(keep_vars=True).values()}
    module._apply(lambda tensor: tensor.to("meta") if id(tensor) in state else tensor)


class _Unfilled(TorchFunctionMode):
    """New parameters get no values, which takes most of the time of building a large network."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        target = args[0] if args else given.get("tensor")
        name = getattr(func, "__name__", "")
        if isinstance(target, nn.Parameter) and name.endswith("_") and not name.endswith(("__", "requires_grad_")):
            return target
        return func(*args, **given)


class _Weightless(TorchFunctionMode):
    """New parameters and buffers lie on the meta device: no memory, no time for initial values.

    `torch.device("meta")` would do the same to tensors that RegNet only computes its widths with.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (torch.empty, torch.zeros, torch.ones):
            return func(*args, **kwargs | {"device": "meta"})
        if func in _FILLING:
            tensor: Tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:  # where torch goes through all of it in Python, to no effect
                return tensor
        return func(*args, **kwargs)

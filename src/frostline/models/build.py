"""Build torchvision's classifiers: the network, its stages, its checked weights and the input that they expect."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchvision.models import VisionTransformer, WeightsEnum, get_model, get_model_weights, list_models
from torchvision.models.vision_transformer import interpolate_embeddings

from frostline.core import plugins
from frostline.core.errors import user_error
from frostline.core.randomness import address
from frostline.models import pooling
from frostline.models.input_spec import InputSpec
from frostline.models.stages import Family, Structure, structure_of
from frostline.models.weights import (
    GLYPHS,
    GLYPHS_SHA256,
    SUFFIXES,
    Loaded,
    content,
    fetch,
    is_file_name,
    load_into,
    metadata_of,
)
from frostline.store import hashing

NAMES = tuple(list_models(module=torchvision.models))
"""torchvision's classification models, in alphabetical order."""

_HALF = (0.5, 0.5, 0.5)
_RENORMALISED = ("googlenet", "inception_v3")
"""Ported from TensorFlow, they expect mean and std of 0.5. torchvision feeds them ImageNet's normalisation and turns
one into the other inside (`transform_input`); we switch that off and normalise as they expect."""

_SIZED: dict[str, Callable[[int], dict[str, Any]]] = {
    "vit_": lambda size: {"image_size": size},
    "maxvit_": lambda size: {"input_size": (size, size)},
}
"""Networks that are built for one input size, and the argument that says it."""


@dataclass(frozen=True)
class Architecture:
    """A network that another package brings, as an entry point of the group `frostline.models`."""

    network: Callable[[int], nn.Module]
    """Returns it with new weights for squares of so many pixels; how many classes it has does not matter."""
    family: Family
    """Its stages, and its head: a linear layer or a convolution of 1x1."""
    input: InputSpec
    weights: Mapping[str, Path] = field(default_factory=dict)
    """Files of pretrained weights by name in lower case; the first is `default` too."""


@dataclass(frozen=True)
class Model:
    """A classifier and what the rest of the program needs to know about it."""

    name: str
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


def build(
    name: str,
    *,
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

    `weights`: None for from scratch, `DEFAULT` or another entry of torchvision, `glyphs`, or a file. The head is the
    file's where its shape fits and it is not known to be for other classes than `classes`, else new. New weights
    depend on `seed` alone, those of the head not even on the backbone's. `meta` builds on the meta device and reads no
    weights. UserError for anything unknown or unfitting.
    """
    source = _source(name, weights)
    spec = _input_spec(name, source, image_size)
    with _Weightless() if meta or source else _seeded(seed, "init"):
        module = _network(name, spec.size)
    plugin = _plugin(name)
    structure = structure_of(module, plugin.family if plugin else None)
    module.to(memory_format=memory_format)
    if meta or source:
        module.to_empty(device="meta" if meta else "cpu")
    with _Weightless() if meta else nullcontext():
        head = new_head(module.get_submodule(structure.head), num_classes, seed)
    module.set_submodule(structure.head, head.to(memory_format=memory_format))
    digest, loaded = _load(module, structure.head, source, sha256, classes) if source and not meta else (None, None)
    known = metadata_of(source).get("classes") if isinstance(source, Path) else None
    return Model(
        name=name,
        module=module,
        structure=structure,
        input=spec,
        weights_sha256=digest,
        loaded=loaded.said if loaded else None,
        new_head=loaded is None or f"{structure.head}.weight" not in loaded.names,
        trained_for=tuple(known) if known is not None else None,
    )


def metadata(model: Model, classes: Sequence[str]) -> dict[str, Any]:
    """Return what `tensorfile.save` shall keep beside the weights, so that `build` can read the file again."""
    return {"model": model.name, "classes": list(classes), **asdict(model.input)}


def input_of(name: str, *, weights: str | None, image_size: int | None) -> InputSpec:
    """Return the picture that `build` with the same arguments makes its network for; UserError as there."""
    return _input_spec(name, _source(name, weights), image_size)


def _plugin(name: str) -> Architecture | None:
    found: Architecture | None = None if name in NAMES else plugins.load(plugins.MODELS, name)
    return found


def _entries(name: str) -> Mapping[str, WeightsEnum | Path]:
    """Return the weights of the network by lower-case name, `default` among them.

    Those of torchvision without categories are left out: they have no values in VGG's hidden layers.
    """
    if (plugin := _plugin(name)) is not None:
        return dict(zip(("default",), plugin.weights.values(), strict=False)) | dict(plugin.weights)
    if name not in NAMES:
        known = (*NAMES, *plugins.names(plugins.MODELS))
        raise user_error(
            "model.name", name, f"one of torchvision's {len(NAMES)} classification models, or a plugin", known
        )
    members = get_model_weights(name).__members__
    return {key.lower(): entry for key, entry in members.items() if entry.meta["categories"]}


def _source(name: str, weights: str | None) -> WeightsEnum | Path | None:
    """Return the torchvision entry or the existing file that `weights` names."""
    entries = _entries(name)
    if weights is None:
        return None
    if weights.lower() in entries:
        return entries[weights.lower()]
    path = GLYPHS if weights == "glyphs" else Path(weights).expanduser()
    if not is_file_name(path.name):
        expected = f"null, glyphs, a {', '.join(SUFFIXES)} file or one of {', '.join(entries)}"
        raise user_error("model.weights", weights, expected, [*entries, "glyphs"])
    if not path.is_file():
        raise user_error("model.weights", weights, f"a file, and there is none at {path.absolute()}")
    return path


def _input_spec(name: str, source: WeightsEnum | Path | None, image_size: int | None) -> InputSpec:
    """Return what the weights expect (without weights of torchvision or ours, what its default ones do)."""
    saved = metadata_of(source) if isinstance(source, Path) else {}
    if saved.get("model", name) != name:
        raise user_error("model.weights", source, f"weights of {name}, and these are of {saved['model']}")
    if saved:
        spec = InputSpec.of(saved)
    elif (plugin := _plugin(name)) is not None:
        spec = plugin.input
    else:
        spec = _spec_of(source if isinstance(source, WeightsEnum) else get_model_weights(name).DEFAULT, name)
    if image_size is None:
        return spec
    smallest = (
        1
        if name not in NAMES or name.startswith(tuple(_SIZED))
        else get_model_weights(name).DEFAULT.meta["min_size"][0]
    )
    if image_size < smallest:
        raise user_error("model.image_size", image_size, f"at least {smallest} pixels for {name}")
    return replace(spec, size=image_size, resize=round(spec.resize * image_size / spec.size))


def _spec_of(entry: WeightsEnum, name: str) -> InputSpec:
    view = entry.transforms()
    mean, std = (_HALF, _HALF) if name in _RENORMALISED else (tuple(view.mean), tuple(view.std))
    return InputSpec(view.crop_size[0], view.resize_size[0], mean, std, view.interpolation.value)


def _network(name: str, size: int) -> nn.Module:
    """Return the network for squares of `size` pixels, without auxiliary heads."""
    plugin = _plugin(name)
    try:
        module: nn.Module = plugin.network(size) if plugin else get_model(name, weights=None, **_arguments(name, size))
    except (AssertionError, ValueError) as problem:
        reason = " ".join(str(problem).split())
        raise user_error("model.image_size", size, f"a size that suits {name} ({reason})") from problem
    pooling.replace_pools(module)
    return module


def _arguments(name: str, size: int) -> dict[str, Any]:
    if name in _RENORMALISED:
        return {"aux_logits": False, "transform_input": False, "init_weights": True}
    for prefix, arguments in _SIZED.items():
        if name.startswith(prefix):
            return arguments(size)
    return {}


def new_head(layer: nn.Module, num_classes: int, seed: int) -> nn.Module:
    """Return a layer with `layer`'s inputs and `num_classes` outputs, as torch initialises it from the run's `seed`."""
    with _seeded(seed, "init", "head"):
        if isinstance(layer, nn.Conv2d):
            assert layer.kernel_size == (1, 1)
            return nn.Conv2d(layer.in_channels, num_classes, 1, bias=layer.bias is not None)
        assert isinstance(layer, nn.Linear)
        return nn.Linear(layer.in_features, num_classes, bias=layer.bias is not None)


def _load(
    module: nn.Module, head: str, source: WeightsEnum | Path, sha256: str | None, classes: Sequence[str] | None
) -> tuple[str, Loaded]:
    """Fill the module from its source; return the sha256 of the file, which is checked first, and what was read."""
    path, digest = (source, hashing.of_source(source)) if isinstance(source, Path) else fetch(source.url)
    sha256 = GLYPHS_SHA256 if path == GLYPHS and sha256 is None else sha256
    if sha256 is not None and sha256.lower() != digest:
        raise user_error("model.sha256", sha256, f"the sha256 of {path}, which is {digest}")

    def adapt(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        if not isinstance(module, VisionTransformer) or "encoder.pos_embedding" not in state:
            return state
        try:
            return interpolate_embeddings(module.image_size, module.patch_size, OrderedDict(state))
        except ValueError:  # positions of no square: they are refused for their shape
            return state

    known = metadata_of(path).get("classes") if classes is not None else None
    ours = known is None or known == list(classes or ())
    loaded = load_into(module, content(path), head, source=str(path), take_head=ours, adapt=adapt)
    hashing.come_from({name: layer for name, layer in module.named_parameters() if name in loaded.names}, digest)
    return digest, loaded


@contextmanager
def _seeded(*parts: int | str) -> Iterator[None]:
    """Draw new weights from an addressed seed; the CPU generator is as before afterwards, others stay untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(address(*parts))
        yield


_DRAWING = (Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_)


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
        if func in _DRAWING:
            tensor: Tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:  # where torch goes through all of it in Python, to no effect
                return tensor
        return func(*args, **kwargs)

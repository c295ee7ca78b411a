"""timm's classifiers as architectures: their names, tags, input, stages and head, and where their weights are.

timm says of each network what is to be known here: its parameters in groups (`group_matcher`), its head
(`get_classifier`), and of each set of weights, by the tag behind the dot of a name, their input and their file
(`PretrainedCfg`). It is imported where one of its networks is named, since that takes half a second.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)
from timm.models import PretrainedCfg, get_pretrained_cfg, model_entrypoint
from timm.models._manipulate import group_with_matcher
from torch import nn

from frostline.core import files
from frostline.core.errors import UserError, user_error
from frostline.models import shapes, stages, weights
from frostline.models.architecture import Architecture, Pretrained, Tensors, new_layer
from frostline.models.input_spec import InputSpec
from frostline.models.stages import Structure
from frostline.models.state_dicts import within
from frostline.models.weights import HUB_FILES
from frostline.store import hashing

_FEW = 4  # stages of a network whose units all work at one resolution, as those of vision transformers do
_OF_HUB = ("hf-hub:", "hf_hub:", "local-dir:")
"""What names begin with in which timm looks for more than a name."""
_SEEN = ("input_size", "crop_pct", "crop_mode", "interpolation", "mean", "std")
"""What the config of a repository says of the picture that its weights expect."""


def architecture(name: str) -> Architecture:
    """Return the network `name`, an architecture of timm's with or without the tag of weights; UserError if none is."""
    if name.startswith(_OF_HUB):
        expected = "an architecture of timm's; its tags, or model.weights=<folder>, say which weights of the hub it has"
        raise user_error("model.name", name, expected, [name.rpartition("/")[2]])
    base, _, tag = name.partition(".")
    if not timm.is_model(base) or (tag and tag not in tags(base)):
        raise _unknown(name)
    given = {one: _pretrained(f"{base}.{one}") for one in ((tag,) if tag else ()) + tags(base)}
    config = get_pretrained_cfg(name)
    return Architecture(
        network=partial(_network, name),
        family=structure_of,
        input=_input(config),
        weights={one.lower(): found for one, found in given.items()},
        folder=partial(_in_folder, base),
        smallest=config.min_input_size[-1] if config.min_input_size else 1,
        new_heads=_new_heads,
        adapt=partial(_adapt, base),
    )


def tags(base: str) -> tuple[str, ...]:
    """Return the names of the weights that timm knows of an architecture, the default first."""
    return names().get(base, ())


@functools.cache
def names() -> dict[str, tuple[str, ...]]:
    """Return every architecture of timm with the tags of its weights, the default first."""
    found: dict[str, list[str]] = {name: [] for name in timm.list_models()}
    for name in timm.list_pretrained():
        base, _, tag = name.partition(".")
        found.setdefault(base, []).append(tag)
    return {base: tuple(sorted(tags, key=get_pretrained_cfg(base).tag.__ne__)) for base, tags in found.items()}


def _unknown(name: str) -> UserError:
    known = [f"{base}.{tag}" for base, tags in names().items() for tag in tags]
    expected = f"one of timm's {len(names()):,} architectures, with or without one of its tags behind a dot"
    return user_error("model.name", name, expected, [*names(), *known])


def _input(config: PretrainedCfg) -> InputSpec:
    """Return the picture that weights of timm expect, as its `create_transform` shows it outside of training."""
    size = config.input_size[-1]
    mean, std = tuple(config.mean), tuple(config.std)
    interpolation = config.interpolation if config.interpolation in ("bilinear", "bicubic") else "bilinear"
    return InputSpec(size, int(size / config.crop_pct), mean, std, interpolation, config.crop_mode)


def _network(name: str, size: int) -> nn.Module:
    """Return the network for squares of `size` pixels; ValueError where it cannot be for these."""
    config = get_pretrained_cfg(name)
    sized = {"img_size": size} if config.fixed_input_size else {}
    classes = config.num_classes or 1000
    module: nn.Module = timm.create_model(name, num_classes=classes, **sized)
    if getattr(module, "dynamic_img_size", False):  # positions are made for the size once, not in every forward pass
        module = timm.create_model(name, num_classes=classes, img_size=size, dynamic_img_size=False)
    if size != config.input_size[-1]:
        _try(module, size)
    return module


def _try(module: nn.Module, size: int) -> None:
    """Raise ValueError where pictures of another size than the usual do not go through; nothing is computed for it."""
    try:
        shapes.walk(module.eval(), 1, size)
    except (AssertionError, RuntimeError, TypeError) as problem:
        raise ValueError(str(problem).partition("\n")[0]) from problem
    finally:
        module.train()


def structure_of(module: nn.Module, side: int) -> Structure:
    """Return the stages and heads of a network for pictures of `side` pixels; UserError where it does not say them."""
    heads = _heads(module)
    tensors = [name for name, _ in chain(module.named_parameters(), module.named_buffers())]
    body = [name for name in tensors if not within(name, heads)]
    groups = _groups(module, body)
    ends = _ends(module, groups)
    levels = {name: _level(group, ends) for name, group in groups.items()}
    top = dict.fromkeys((name for name in tensors if name not in levels), len(ends) + 1)
    return stages.of_levels(module, levels | top, heads, side=side)


def _heads(module: Any) -> tuple[str, ...]:
    """Return the paths of what gives the logits: of several layers where a network has heads for distillation."""
    found = module.get_classifier() if hasattr(module, "get_classifier") else ()
    every = [*(found if isinstance(found, tuple | list) else (found,)), getattr(module, "aux_head", None)]
    paths = tuple(_layer(path, layer) for path, layer in module.named_modules() if any(layer is one for one in every))
    if not paths or not all(any(True for _ in module.get_submodule(path).parameters()) for path in paths):
        raise _lacks(module, "a head that learns (`get_classifier`)")
    return paths


def _layer(path: str, head: nn.Module) -> str:
    """Return the path of the one linear layer that learns in a head, that of the head where there is more."""
    owners = {name.rpartition(".")[0] for name, _ in chain(head.named_parameters(), head.named_buffers())}
    alone = len(owners) == 1 and isinstance(head.get_submodule(next(iter(owners))), nn.Linear | nn.Conv2d)
    return ".".join(filter(None, (path, *owners))) if alone else path


def _new_heads(module: Any, heads: tuple[str, ...], num_classes: int) -> None:
    """Put heads for `num_classes` in their places: one layer as everywhere, others as timm makes them."""
    if isinstance(module.get_submodule(heads[0]), nn.Linear | nn.Conv2d):
        new_layer(module, heads, num_classes)
    else:
        module.reset_classifier(num_classes)


def _lacks(module: nn.Module, what: str) -> UserError:
    return user_error("model.name", type(module).__name__, f"a network of timm's that has {what}")


def _groups(module: Any, names: Sequence[str]) -> dict[str, int]:
    """Return the group of every tensor, 0 for the stem, as timm numbers them from below.

    What timm puts into no group is behind all groups (norms, poolings), or, if it stands before them in the network,
    in the stem (positions that all blocks share).
    """
    found, last = _numbered(module, names)
    order = {name: place for place, (name, _) in enumerate(module.named_children())}
    inner = [order.get(name.partition(".")[0], -1) for name, group in found.items() if 0 < group < last]
    first = min(inner, default=len(order))

    def settled(name: str, group: int) -> int:
        return 0 if group == last and order.get(name.partition(".")[0], -1) < first else group

    return {name: settled(name, group) for name, group in found.items()}


def _ends(module: nn.Module, groups: Mapping[str, int]) -> list[int]:
    """Return the last group of every stage: one per resolution, or a quarter of the groups where there is but one."""
    units = sorted({group for group in groups.values() if group > 0})
    ends: dict[int, int] = {}
    for place in _places(module):
        inside = [group for name, group in groups.items() if name.startswith(f"{place['module']}.")]
        if inside and max(inside) > 0:
            ends[place["reduction"]] = max(inside)
    if len(ends) > 1:
        found = sorted(ends.values())
    elif len(units) <= _FEW:
        found = units
    else:
        found = [units[(part + 1) * len(units) // _FEW - 1] for part in range(_FEW)]
    return [*found[:-1], units[-1]] if units else []


def _places(module: nn.Module) -> Sequence[dict[str, Any]]:
    """Return where timm takes features from, and how much smaller than the picture they are there."""
    places = getattr(module, "feature_info", None)
    return getattr(places, "info", places) or ()


def _numbered(module: Any, names: Sequence[str]) -> tuple[dict[str, int], int]:
    """Return the group of every tensor, and that of what is in none: by `group_matcher`, else where features end."""
    if hasattr(module, "group_matcher"):
        nowhere = "\0"
        every = [(name, None) for name in (*names, nowhere)]
        found: dict[str, int] = group_with_matcher(every, module.group_matcher(coarse=True), reverse=True)
        return found, found.pop(nowhere)
    places = [place["module"] for place in _places(module)]
    if len(places) < 2:
        raise _lacks(module, "its layers in groups (`group_matcher` or `feature_info`)")
    last = len(places) + 1
    inside = {name: [n for n, place in enumerate(places, 1) if name.startswith(f"{place}.")] for name in names}
    return {name: max(numbers, default=last) for name, numbers in inside.items()}, last


def _level(group: int, ends: Sequence[int]) -> int:
    return 0 if group == 0 else 1 + next(place for place, end in enumerate(ends) if group <= end)


def _adapt(base: str, module: nn.Module, tensors: Tensors) -> Tensors:
    """Return the tensors under the names and in the shapes that timm has today, positions interpolated."""
    convert = getattr(sys.modules[model_entrypoint(base).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return tensors
    try:
        return convert(dict(tensors), module)
    except Exception:  # what is no state dict of this network is refused for its names and shapes
        return tensors


def _pretrained(name: str) -> Pretrained:
    config = get_pretrained_cfg(name)
    return Pretrained(partial(_fetch, name, config), _input(config))


def _fetch(name: str, config: PretrainedCfg) -> tuple[Path, str]:
    """Return the file of weights and its sha256, which is the one that the hub tells where it tells one."""
    if not config.hf_hub_id:
        return _fetch_url(name, config.url)
    path = Path(_cached(config.hf_hub_id) or _downloaded(name, config.hf_hub_id))
    digest, blob = hashing.of_source(path), path.resolve()
    if re.fullmatch("[0-9a-f]{64}", blob.name) and blob.name != digest:  # the hub's cache names files by it
        raise user_error("model.weights", blob, f"a file whose sha256 is its name, not {digest}; delete it")
    return path, digest


def _fetch_url(name: str, url: str) -> tuple[Path, str]:
    if not re.search(r"-[0-9a-f]{8,64}\.pth$", url):
        expected = f"a file that was checked: timm knows no sha256 of {url}; model.weights=<file> takes what you have"
        raise user_error("model.weights", name.partition(".")[2], expected)
    return weights.fetch(url)


def _cached(repository: str) -> str | None:
    """Return the file of a repository's weights in the hub's cache."""
    found = (huggingface_hub.try_to_load_from_cache(repository, file) for file in HUB_FILES)
    return next((path for path in found if isinstance(path, str)), None)


def _downloaded(name: str, repository: str) -> str:
    huggingface_hub.logging.set_verbosity_error()  # its own words on every attempt would hide our line
    reason = "the repository has no such file"
    for file in HUB_FILES:
        try:
            return str(huggingface_hub.hf_hub_download(repository, file))
        except RemoteEntryNotFoundError:
            continue
        except Exception as error:  # of the network, of the hub, of the disk
            reason = _reason(error)
            break
    expected = (
        f"a download that works ({reason}), or model.weights=<folder> with config.json and {HUB_FILES[0]} of the"
        f" repository {repository}"
    )
    raise user_error("model.weights", name.partition(".")[2], expected)


def _reason(error: Exception) -> str:
    """Return why a download failed, in a few words."""
    if isinstance(error, GatedRepoError):
        return "the hub asks for its licence to be accepted there, and for the token of who did that in HF_TOKEN"
    if isinstance(error, RepositoryNotFoundError):
        return "the hub has no such repository, or none without a token in HF_TOKEN"
    if isinstance(error, HfHubHTTPError):
        return f"the hub answers {error.response.status_code}"
    return " ".join(str(error.__cause__ or error).split())[:100]


def _in_folder(base: str, folder: Path) -> Pretrained:
    """Return the weights in a folder with a repository of timm's hub."""
    file = weights.of_hub(folder)
    assert file is not None
    said = files.read_json(folder / "config.json")
    try:
        theirs, told = said["architecture"], said.get("pretrained_cfg", said)
        spec = _input(PretrainedCfg(**{key: told[key] for key in _SEEN if key in told}))
    except (TypeError, KeyError, ValueError, AttributeError) as problem:
        raise user_error("model.weights", folder, f"a config.json as timm's hub has it ({problem})") from None
    if theirs != base:
        raise user_error("model.weights", folder, f"weights of {base}, and these are of {theirs}")
    return Pretrained(lambda: (file, hashing.of_source(file)), spec)

"""Weights on disk: read without running anything, checked against their sha256, loaded strictly."""

from __future__ import annotations

import json
import math
import pickle
import re
import sys
import warnings
import zipfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from frostline.core.errors import UserError, user_error
from frostline.core.input_spec import CROPS
from frostline.models import base_weights, state_dicts
from frostline.store import hashing, tensorfile

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".pt.tar", ".pth.tar")
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""What a repository of timm's hub calls its weights; the first that is there is taken."""
GLYPHS = Path(__file__).parents[1] / "assets" / "glyphs_shufflenet_v2_x0_5.safetensors"
"""The embedded weights: a ShuffleNetV2 x0.5 trained on letters drawn from fonts."""
GLYPHS_SHA256 = "2418e53ddebd190f372322d36b759f1f31b06f2806e3896f29bfcfb8adfafebb"  # printed by assets/ship.py

_LARGEST_SIDE = 10_000  # pixels of an input: of torchvision's networks 518
_AUXILIARY = re.compile(r"(aux1|aux2|AuxLogits)\.")  # heads of GoogLeNet and Inception v3 that we build without


@dataclass(frozen=True)
class Loaded:
    """What was taken from a file, and what was not."""

    names: Collection[str]
    """Parameters and buffers of the network that were written."""
    said: str
    """The same for people, in a line: where the tensors were, whether the head is new, what was left out."""


def is_file_name(text: str) -> bool:
    """Return whether `text` is named as files of weights are."""
    return text.lower().endswith(SUFFIXES)


def of_hub(folder: Path) -> Path | None:
    """Return the file of weights in a folder that has a repository of timm's hub, None where it has none."""
    if not (folder / "config.json").is_file():
        return None
    return next((folder / name for name in HUB_FILES if (folder / name).is_file()), None)


def read(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file with nothing around them, such as `tensorfile.save` writes, by name, on the CPU.

    UserError as of `content`, and where a file holds anything but tensors.
    """
    state = content(path)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise user_error("model.weights", path, "a state dict: tensors by parameter name, nothing around them")
    return state


def content(path: Path) -> Any:
    """Return what a file of weights holds, on the CPU: of a safetensors file its tensors by name.

    Pickles are read with `weights_only=True`. UserError where a file is damaged, holds objects that are neither
    tensors nor plain values, or is a TorchScript archive. Where a run's file holds what it learned, the rest is read
    from where its sweep keeps that.
    """
    if path.suffix != ".safetensors" and _is_torchscript(path):
        way = f"torch.save(torch.jit.load({path.name!r}).state_dict(), 'weights.pth')"
        raise user_error("model.weights", path, f"a state dict, and this is a TorchScript archive; export one by {way}")
    try:
        if path.suffix == ".safetensors":
            own = tensorfile.tensors_of(path)
            base = base_weights.named(path)
            return own if base is None else {**base_weights.read(path, base), **own}
        with warnings.catch_warnings(action="ignore"):  # of the protocols of pickles that are refused anyway
            return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except pickle.UnpicklingError as problem:
        what = f" ({named[1]})" if (named := re.search(r"GLOBAL ([\w.]+)", str(problem))) else ""
        expected = f"tensors and plain values only, and this file holds other objects too{what}; save the state dict"
        raise user_error("model.weights", path, expected) from problem
    except Exception as problem:  # hostile bytes can make a parser raise anything
        raise user_error("model.weights", path, f"a file of tensors ({_first_line(problem)})") from problem


def _is_torchscript(path: Path) -> bool:
    """Return whether a file is what `torch.jit.save` writes; what cannot be read is left to who reads it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except Exception:  # hostile bytes can make a parser raise anything
        return False


def metadata_of(path: Path) -> dict[str, Any]:
    """Return what `tensorfile.save` was given as metadata; empty for files that it did not write.

    UserError where a file says something else than what `build.metadata` says of a network.
    """
    if path.suffix != ".safetensors":
        return {}
    try:
        metadata: dict[str, Any] = json.loads(tensorfile.metadata_text(path))
    except (SafetensorError, OSError, ValueError, RecursionError) as problem:
        raise user_error("model.weights", path, f"a safetensors file ({_first_line(problem)})") from problem
    if metadata != {} and not _describes_a_network(metadata):
        expected = "a file whose header says model, classes and input as a run writes them"
        raise user_error("model.weights", path, expected)
    metadata.pop(base_weights.KEY, None)
    return metadata


def whole(path: Path, folder: Path) -> Path:
    """Return the file of a run's weights if it has all of them, else one in `folder` that does, with the same name.

    That has the bytes which the run would have written with `save_weights=whole`.
    """
    if base_weights.named(path) is None:
        return path
    tensorfile.save(folder / path.name, content(path), metadata_of(path))
    return folder / path.name


def _describes_a_network(metadata: object) -> bool:
    match metadata:
        case {
            "model": str(),
            "classes": [str(), *_] as classes,
            "size": int(size),
            "resize": int(resize),
            "mean": [_, _, _] as mean,
            "std": [_, _, _] as std,
            "interpolation": "bilinear" | "bicubic",
            **others,
        }:
            numbers = all(isinstance(number, int | float) and math.isfinite(number) for number in (*mean, *std))
            shown = 0 < size <= resize <= _LARGEST_SIDE and others.get("crop", "center") in CROPS
            return numbers and shown and min(std) > 0 and all(isinstance(name, str) for name in classes)
    return False


def cached(url: str) -> tuple[Path, str]:
    """Return where torch's hub keeps the file of `url`, and the sha256 prefix that is part of its name."""
    name = url.rpartition("/")[2]
    prefix = re.search(r"-([0-9a-f]{8,64})\.pth$", name)
    assert prefix, f"torchvision names weights by their sha256, and {name} is not"
    return Path(torch.hub.get_dir()) / "checkpoints" / name, prefix[1]


def fetch(url: str) -> tuple[Path, str]:
    """Return the file of `url` in torch's hub cache, downloaded if it is not there, and its sha256 as hex.

    UserError where the download fails, or where the sha256, checked every time, is not the one in the file's name.
    """
    path, prefix = cached(url)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), prefix, progress=sys.stderr.isatty())
        except (OSError, RuntimeError) as problem:
            advice = f"a download that works ({_first_line(problem)}), or the file {path.name} in {path.parent}"
            raise user_error("model.weights", url, advice) from problem
    digest = hashing.of_source(path)
    if not digest.startswith(prefix):
        raise user_error("model.weights", path, f"a file whose sha256 begins with {prefix}, not {digest}; delete it")
    return path, digest


def load_into(
    module: nn.Module,
    state: Mapping[str, Any],
    heads: Sequence[str],
    *,
    source: str,
    take_head: bool = True,
    adapt: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda tensors: tensors,
) -> Loaded:
    """Copy what `state` holds of `module` into it, whatever other programs put around it, and return what that was.

    Heads that are missing, shaped otherwise or not to be taken leave the module's own as they are. `adapt` makes
    tensors those of the network's input size.

    UserError with a report when anything else is missing, unexpected or of another shape, when different tensors
    would fit, and when a number is nan or infinite. `source` names the weights in it.
    """
    own, found = module.state_dict(), state_dicts.tables(state)
    if not found:
        raise user_error("model.weights", source, "a state dict: tensors by parameter name")
    reading = state_dicts.find(found, own, heads, adapt=adapt, source=source)
    given = {name: tensor for name, tensor in reading.tensors.items() if not _AUXILIARY.match(name)}
    taken, theirs = state_dicts.heads_in(heads, own, given)
    taken = taken if take_head else {}
    given = {name: tensor for name, tensor in given.items() if name not in theirs} | taken
    if not taken:
        own = {name: tensor for name, tensor in own.items() if not state_dicts.within(name, heads)}
    for name in own.keys() - given.keys():
        if name.endswith("num_batches_tracked"):  # unknown to files from before torch 0.4.1
            given[name] = torch.zeros_like(own[name])
    plain = str(reading) == str(state_dicts.Reading("", "", {}, ()))
    _check(own, given, source if plain else f"{source} ({reading})")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(given[name])
    if wrong := [name for name in own if not _is_finite(given[name])]:
        raise user_error("model.weights", source, f"finite numbers, and nan or infinity is in {_some(wrong)}")
    return Loaded(own.keys(), _said(reading, ", ".join(heads), theirs, taken, plain=plain))


def _said(
    reading: state_dicts.Reading, head: str, theirs: Sequence[str], taken: Mapping[str, Tensor], *, plain: bool
) -> str:
    """Return in a line what was read of a file."""
    if taken:
        told = f"head {head} taken" + ("" if set(theirs) == taken.keys() else f" from {theirs[0].rpartition('.')[0]}")
    else:
        left = [f"{name} {_shape(reading.tensors[name])}" for name in theirs]
        told = f"head {head} new" + (f" (not {_some(left)})" if left else "")
    beside = f"left out {len(reading.left_out):,}: {_some(list(reading.left_out))}" if reading.left_out else ""
    return "; ".join(filter(None, ["" if plain else str(reading), told, beside]))


def _is_finite(tensor: Tensor) -> bool:
    empty = not (tensor.is_floating_point() and tensor.numel())
    return empty or bool(torch.stack(torch.aminmax(tensor)).isfinite().all())


def _check(own: Mapping[str, Tensor], given: Mapping[str, Tensor], source: str) -> None:
    shapes = [n for n in own if n in given and own[n].shape != given[n].shape]
    problems = {
        "missing": [n for n in own if n not in given],
        "unexpected": [n for n in given if n not in own],
        "of another shape": [f"{n} {_shape(given[n])} instead of {_shape(own[n])}" for n in shapes],
    }
    report = "; ".join(f"{len(names)} {kind}: {_some(names)}" for kind, names in problems.items() if names)
    if report:
        raise UserError(f"model.weights={source}: do not fit the network outside its head: {report}")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _first_line(problem: Exception) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0]

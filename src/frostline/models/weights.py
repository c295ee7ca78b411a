"""Download weights, read weights files without running code, and check their sha256."""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from frostline.core.errors import UserError, first_line, user_error
from frostline.core.files import LFS_POINTER
from frostline.core.input_spec import CROPS
from frostline.models import base_weights
from frostline.store import hashing, tensorfile

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".pt.tar", ".pth.tar")
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of weights files in repositories of timm's hub; the first one found is used."""
GLYPHS = Path(__file__).parents[1] / "assets" / "glyphs_shufflenet_v2_x0_5.safetensors"
"""The embedded weights: a ShuffleNetV2 x0.5 trained on letters drawn from fonts."""
GLYPHS_SHA256 = "2418e53ddebd190f372322d36b759f1f31b06f2806e3896f29bfcfb8adfafebb"  # printed by assets/ship.py
_LARGEST_SIDE = 10_000  # pixels of an input; the largest in torchvision is 518


def is_file_name(text: str) -> bool:
    """Return whether `text` ends in a suffix of weights files."""
    return text.lower().endswith(SUFFIXES)


def of_hub(folder: Path) -> Path | None:
    """Return the weights file in a folder that holds a repository of timm's hub; None for any other folder."""
    if not os.path.isfile(folder / "config.json"):
        return None
    return next((folder / name for name in HUB_FILES if (folder / name).is_file()), None)


def read(path: Path) -> dict[str, Tensor]:
    """Return by name, on the CPU, the tensors of a file that is a plain state dict, as `tensorfile.save` writes it.

    UserError as in `content`, and if the file holds anything but tensors.
    """
    state = content(path)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise user_error("model.weights", path, "a state dict: tensors by parameter name, and nothing else")
    return state


def content(path: Path) -> Any:
    """Return the content of a weights file, on the CPU; for a safetensors file, its tensors by name.

    Pickles are read with `weights_only=True`. UserError if a file is damaged, holds objects that are neither tensors
    nor plain values, or is a TorchScript archive. If a run's file holds only learned tensors, the base weights are read
    from its sweep's folder.
    """
    if path.suffix != ".safetensors" and _is_torchscript(path):
        way = f"torch.save(torch.jit.load({path.name!r}).state_dict(), 'weights.pth')"
        raise user_error("model.weights", path, f"a state dict, not a TorchScript archive; convert it by {way}")
    try:
        _check_not_text(path)
        if path.suffix == ".safetensors":
            own = tensorfile.tensors_of(path)
            base = base_weights.named(path)
            return own if base is None else {**base_weights.read(path, base), **own}
        with warnings.catch_warnings(action="ignore"):  # about protocols of pickles that are refused anyway
            return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except pickle.UnpicklingError as problem:
        what = f" ({named[1]})" if (named := re.search(r"GLOBAL ([\w.]+)", str(problem))) else ""
        expected = f"tensors and plain values only, but this file holds other objects{what}; save the state dict"
        raise user_error("model.weights", path, expected) from problem
    except Exception as problem:  # hostile bytes can make a parser raise anything
        raise user_error("model.weights", path, f"a file of tensors ({first_line(problem)})") from problem


def _check_not_text(path: Path) -> None:
    """Raise `UserError` for a file that was saved in place of the weights: a web page, or a pointer of Git LFS."""
    with path.open("rb") as file:
        start = file.read(100)
    if start.startswith(LFS_POINTER):
        raise user_error("model.weights", path, "the weights, not a pointer of Git LFS; `git lfs pull` fetches them")
    if (text := " ".join(start.decode("ascii", "replace").split())).isprintable() and text and "\ufffd" not in text:
        raise user_error("model.weights", path, f"a file of tensors, not of text ({text[:40]} ...)")


def _is_torchscript(path: Path) -> bool:
    """Return whether a file was written by `torch.jit.save`; False if it cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except Exception:  # hostile bytes can make a parser raise anything
        return False


def metadata_of(path: Path) -> dict[str, Any]:
    """Return the metadata that `tensorfile.save` wrote into a file; empty for files that it did not write.

    UserError if the metadata does not have the form of `build.metadata`.
    """
    if path.suffix != ".safetensors":
        return {}
    try:
        _check_not_text(path)
        metadata: dict[str, Any] = json.loads(tensorfile.metadata_text(path))
    except UserError:
        raise
    except (SafetensorError, OSError, ValueError, RecursionError) as problem:
        raise user_error("model.weights", path, f"a safetensors file ({first_line(problem)})") from problem
    if metadata != {} and not _describes_a_network(metadata):
        expected = "a file whose header has model, classes and input as a run writes them"
        raise user_error("model.weights", path, expected)
    metadata.pop(base_weights.KEY, None)
    return metadata


def whole(path: Path, folder: Path) -> Path:
    """Return the file of a run's weights if it is complete; else write a complete one to `folder`, with the same name.

    The new file has the bytes that the run would have written with `save_weights=whole`.
    """
    if base_weights.named(path) is None:
        return path
    tensorfile.save(folder / path.name, content(path), metadata_of(path))
    return folder / path.name


def _describes_a_network(metadata: object) -> bool:
    match metadata:
        case {"model": str(), "classes": [str(), *_] as classes, **said}:
            return is_input(said) and all(isinstance(name, str) for name in classes)
    return False


def is_input(metadata: object) -> bool:
    """Return whether `metadata` has the fields of an `InputSpec` with values that a network can have."""
    match metadata:
        case {
            "size": int(size),
            "resize": int(resize),
            "mean": [_, _, _] as mean,
            "std": [_, _, _] as std,
            "interpolation": "bilinear" | "bicubic",
            **others,
        }:
            numbers = all(isinstance(number, int | float) and math.isfinite(number) for number in (*mean, *std))
            shown = 0 < size <= resize <= _LARGEST_SIDE and others.get("crop", "center") in CROPS
            return numbers and shown and min(std) > 0
    return False


def cached(url: str) -> tuple[Path, str]:
    """Return the path of the file of `url` in torch's hub cache, and the sha256 prefix in its name."""
    name = url.rpartition("/")[2]
    prefix = re.search(r"-([0-9a-f]{8,64})\.pth$", name)
    assert prefix, f"torchvision names weights by their sha256, and {name} is not"
    return Path(torch.hub.get_dir()) / "checkpoints" / name, prefix[1]


def fetch(url: str) -> tuple[Path, str]:
    """Return the file of `url` in torch's hub cache, downloaded if missing, and its sha256 as hex.

    UserError if the download fails, or if the sha256, checked every time, does not match the file name.
    """
    path, prefix = cached(url)
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), prefix, progress=sys.stderr.isatty())
        except (OSError, RuntimeError) as problem:
            reason = first_line(problem.__context__ or problem)  # urllib wraps the error of the network
            advice = f"a download that works ({reason}), the file {path.name} in {path.parent}, or model.weights=<file>"
            raise user_error("model.weights", url, advice) from problem
    digest = hashing.of_source(path)
    if not digest.startswith(prefix):
        raise user_error("model.weights", path, f"a file whose sha256 begins with {prefix}, not {digest}; delete it")
    return path, digest

"""Weights on disk: fetched, read without running anything, checked against their sha256."""

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
from frostline.core.input_spec import CROPS
from frostline.models import base_weights
from frostline.store import hashing, tensorfile

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".pt.tar", ".pth.tar")
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""What a repository of timm's hub calls its weights; the first that is there is taken."""
GLYPHS = Path(__file__).parents[1] / "assets" / "glyphs_shufflenet_v2_x0_5.safetensors"
"""The embedded weights: a ShuffleNetV2 x0.5 trained on letters drawn from fonts."""
GLYPHS_SHA256 = "2418e53ddebd190f372322d36b759f1f31b06f2806e3896f29bfcfb8adfafebb"  # printed by assets/ship.py
_LARGEST_SIDE = 10_000  # pixels of an input: of torchvision's networks 518


def is_file_name(text: str) -> bool:
    """Return whether `text` is named as files of weights are."""
    return text.lower().endswith(SUFFIXES)


def of_hub(folder: Path) -> Path | None:
    """Return the file of weights in a folder that has a repository of timm's hub, None where it has none."""
    if not os.path.isfile(folder / "config.json"):
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
        raise user_error("model.weights", path, f"a file of tensors ({first_line(problem)})") from problem


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
        raise user_error("model.weights", path, f"a safetensors file ({first_line(problem)})") from problem
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
            advice = f"a download that works ({first_line(problem)}), or the file {path.name} in {path.parent}"
            raise user_error("model.weights", url, advice) from problem
    digest = hashing.of_source(path)
    if not digest.startswith(prefix):
        raise user_error("model.weights", path, f"a file whose sha256 begins with {prefix}, not {digest}; delete it")
    return path, digest

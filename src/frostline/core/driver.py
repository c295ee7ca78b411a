"""Refuse GPUs that are not there, or have a driver too old for torch, without importing torch or starting CUDA."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import re
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from frostline.core.errors import user_error

SHARING = "FROSTLINE_SHARING"
"""Environment variable with the number of workers that share a GPU or the CPU."""
_LIBRARY = "libcuda.so.1"
_VERSION = Path("/proc/driver/nvidia/version")


@functools.cache
def too_old() -> str | None:
    """Return a message if the driver is too old for torch, with both CUDA versions; None if it is not, or not known.

    A driver runs code built for its own major version of CUDA or an older one, whatever the minor versions
    (https://docs.nvidia.com/deploy/cuda-compatibility).
    """
    needed, known = _of_torch(), _of_driver()
    if needed is None or known is None or known[0] >= needed[0]:
        return None
    name = f"driver {found}" if (found := version()) else "driver"
    its, own = (".".join(map(str, each)) for each in (known, needed))
    return f"NVIDIA's {name} knows CUDA up to {its}, and torch {metadata.version('torch')} needs one for CUDA {own}"


def require(name: str) -> None:
    """Raise `UserError` if the device called `name` is a GPU and the driver is too old for torch."""
    if name.startswith("cuda") and (problem := too_old()) is not None:
        raise user_error("device", name, f"cpu, or a newer driver: {problem}")


def require_here(name: str) -> None:
    """Raise `UserError` if the device called `name` is a GPU, and torch's CUDA has no driver here or too old a one."""
    require(name)
    if name.startswith("cuda") and sys.platform == "linux" and _of_torch() is not None and _of_driver() is None:
        raise user_error("device", name, "auto or cpu: there is no driver of NVIDIA on this machine")


def require_gpus(devices: int, gpus: int) -> None:
    """Raise `UserError` if a run on several GPUs asks for more `devices` than there are `gpus`."""
    if devices > 1 and gpus < devices:
        none = too_old() or "there is no GPU"
        there = f"at most {gpus}, the GPUs that a run may use" if gpus else f"1, as {none}"
        raise user_error("devices", devices, f"{there}; with device=cpu it trains in as many processes")


def version() -> str | None:
    """Return the version of NVIDIA's kernel module (Linux), e.g. `570.86.15`; None if there is none."""
    found = re.search(r"Kernel Module(?: for \S+)?\s+([\d.]+)", _text(_VERSION))  # the open module has `for <CPU>`
    return found[1] if found else None


def _of_torch() -> tuple[int, int] | None:
    """Return the CUDA version `(major, minor)` that torch was built for; None if built without one."""
    with suppress(ImportError, ValueError):
        place = importlib.util.find_spec("torch")
        text = _text(Path(place.origin).with_name("version.py")) if place and place.origin else ""
        if found := re.search(r"^cuda\b[^=]*= '(\d+)\.(\d+)", text, re.MULTILINE):
            return int(found[1]), int(found[2])
    return None


def _of_driver() -> tuple[int, int] | None:
    """Return the newest CUDA version `(major, minor)` that the driver supports; None if there is no driver."""
    number = ctypes.c_int()
    with suppress(OSError, AttributeError):
        if ctypes.CDLL(_LIBRARY).cuDriverGetVersion(ctypes.byref(number)) == 0 and number.value > 0:
            return number.value // 1000, number.value % 1000 // 10
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""

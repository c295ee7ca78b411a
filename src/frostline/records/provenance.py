"""Provenance of a run, which a rerun compares: code, packages, machine, settings, weights before and after.

Facts are in `provenance.json` of the run's folder. The packages and the uncommitted source, which are long and the same
in all runs of a sweep, are files beside it, hard-linked between runs. torch is imported inside the functions that need
it.
"""

from __future__ import annotations

import email
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.core import credentials, driver, files, project
from frostline.records import layout
from frostline.records.layout import PROVENANCE

if TYPE_CHECKING:
    from email.message import Message

    import torch


_LARGEST = 100_000  # bytes; of a larger untracked file only the sha256 is kept


def write(folder: Path, facts: Mapping[str, Any]) -> None:
    """Add `facts`, by topic, to those in `provenance.json` in `folder`."""
    files.write_json(folder / PROVENANCE, {**read(folder), **facts})


def read(folder: Path) -> dict[str, Any]:
    """Return the facts of `provenance.json` in `folder` by topic; empty where it cannot be read."""
    facts = files.json_or_none(folder / PROVENANCE)
    return facts if isinstance(facts, dict) else {}


def write_software(folder: Path, command: Sequence[str]) -> None:
    """Write the facts of `software`, the list of packages, and the uncommitted source into `folder`."""
    write(folder, software(command))
    files.write_alike(folder / layout.PACKAGES, files.json_text(packages()))
    if patch := source().patch:
        files.write_alike(folder / layout.PATCH, patch + "\n")
    if untracked():
        files.write_alike(folder / layout.UNTRACKED, files.json_text(untracked()))


@functools.cache
def source() -> project.SourceCode:
    """Return the code that this process runs; read once, since later changes on disk do not run."""
    return project.source()


@functools.cache
def untracked() -> dict[str, dict[str, str | None]]:
    """Return the untracked source files by path: `sha256`, and `text` if it is text of at most 100 kB."""
    return {name: _kept(path) for name, path in project.untracked_files() if path.is_file()}


def software(command: Sequence[str]) -> dict[str, Any]:
    """Return topics `source`, `python`, `system`, `command` (the overrides, without passwords), `directory`."""
    code, unknown = source(), {name: file["sha256"] for name, file in untracked().items()}
    return {
        "source": {
            "sha256": code.sha256,
            "commit": code.commit,
            "dirty": bool(code.patch or unknown),
            "untracked": unknown,
        },
        "python": platform.python_version(),
        "system": platform.platform(),
        "command": [credentials.scrubbed(argument) for argument in command],
        "directory": str(Path.cwd()),
    }


@functools.cache
def packages() -> dict[str, str]:
    """Return the version of every installed package by name: 0.03 s the first time, cached afterwards."""
    heads = map(_head, importlib.metadata.distributions())
    found = {str(head["Name"]): str(head["Version"]) for head in heads}
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def _head(package: importlib.metadata.Distribution) -> Message:
    """Return the fields of a package's metadata, without its description, which takes four times as long to parse."""
    text = package.read_text("METADATA") or package.read_text("PKG-INFO") or ""
    return email.message_from_string(text.partition("\n\n")[0])


def hardware(device: torch.device, devices: int = 1) -> dict[str, Any]:
    """Return topic `hardware`: the device with its driver and libraries, the CPU with its instructions and threads.

    With several `devices`, their number precedes the name.
    """
    import torch

    gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if gpu else "cpu"
    return {
        "hardware": {
            "device": name if devices == 1 else f"{devices} x {name}",
            "capability": ".".join(map(str, torch.cuda.get_device_capability(device))) if gpu else None,
            "driver": driver.version() if gpu else None,
            "cuda": torch.version.cuda if gpu else None,
            "cudnn": torch.backends.cudnn.version() if gpu else None,
            "cpu": _cpu(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
        }
    }


def settings(autocast: torch.dtype | None) -> dict[str, Any]:
    """Return topic `settings`: all that decides which kernels run; `autocast` is the dtype of mixed precision."""
    import torch

    backends: Any = torch.backends
    return {
        "settings": {
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "deterministic_warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
            "cudnn_enabled": backends.cudnn.enabled,
            "cudnn_deterministic": backends.cudnn.deterministic,
            "cudnn_benchmark": backends.cudnn.benchmark,
            "fp32_matmul": backends.cuda.matmul.fp32_precision,
            "fp32_convolution": backends.cudnn.conv.fp32_precision,
            "fp32_cpu": backends.mkldnn.fp32_precision,
            "mkldnn": backends.mkldnn.enabled,
            "cublas_workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
            "autocast": str(autocast).removeprefix("torch.") if autocast else None,
        }
    }


def tags(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags for filtering runs, from the `facts` in `provenance.json` of a run of this process."""
    machine = facts["hardware"]
    listing = json.dumps(packages(), sort_keys=True)
    return {
        layout.DIRTY_TAG: str(facts["source"]["dirty"]).lower(),
        layout.COMMAND_TAG: " ".join(facts["command"]),
        layout.PACKAGES_TAG: hashlib.sha256(listing.encode()).hexdigest(),
        layout.TORCH_TAG: packages().get("torch", "?"),
        layout.DEVICE_TAG: machine["device"],
        layout.CPU_TAG: f"{machine['cpu']}, {machine['instructions']}, {machine['threads']} threads",
        layout.INITIAL_TAG: facts["weights"]["initial"],
    }


def _kept(path: Path) -> dict[str, str | None]:
    content = path.read_bytes()
    try:
        text = content.decode() if len(content) <= _LARGEST else None
    except UnicodeDecodeError:
        text = None
    return {"sha256": hashlib.sha256(content).hexdigest(), "text": text}


@functools.cache
def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()

"""Formats of exported networks and their suffixes, known without torch."""

from __future__ import annotations

from pathlib import Path

from frostline.core.errors import user_error

SUFFIXES = {"onnx": ".onnx", "pt2": ".pt2", "torchscript": ".pt", "safetensors": ".safetensors"}


def check_suffix(output: Path, kind: str) -> None:
    """Raise `UserError` for a file whose suffix means another format than `kind`."""
    others = {suffix for name, suffix in SUFFIXES.items() if name != kind}
    if output.suffix in others or (kind == "safetensors" and output.suffix != SUFFIXES[kind]):  # decides the reader
        raise user_error("path", output, f"a file whose name ends in {SUFFIXES[kind]}")

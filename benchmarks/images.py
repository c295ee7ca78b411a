"""Synthetic images for the measurements: deterministic files, made once and kept."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = 10


@dataclass(frozen=True)
class Kind:
    """The properties of the image files."""

    name: str
    width: int
    height: int
    suffix: str
    octaves: tuple[int, ...]
    """Numbers of blobs along the width, coarse to fine: noise at every scale, as in photographs."""

    def __str__(self) -> str:
        return f"{self.width}x{self.height} {self.suffix.upper()}"


CIFAR = Kind("cifar", 32, 32, "png", (4, 32))
"""The size of CIFAR-10's images."""
PHOTO = Kind("photo", 500, 375, "jpg", (4, 16, 64, 250, 500))
"""The size most frequent in ImageNet."""


def make(folder: Path, kind: Kind, counts: Mapping[str, int], *, seed: int = 0) -> Path:
    """Return the folder `<split>/<class>/<number>` below `folder`, with `counts` images per split; create it once."""
    sizes = "-".join(map(str, counts.values()))
    root = folder / f"{kind.name}-{sizes}-seed{seed}"
    if root.exists():
        return root
    part = root.with_name(f"{root.name}.part{os.getpid()}")
    jobs = []
    for number, (split, index) in enumerate((split, i) for split, count in counts.items() for i in range(count)):
        label = index % CLASSES
        jobs.append((part / split / f"class{label}" / f"{index:06}.{kind.suffix}", label, (seed, number)))
    for place in {path.parent for path, _, _ in jobs}:
        place.mkdir(parents=True)
    with ThreadPoolExecutor() as pool:  # NumPy and PIL release the GIL
        list(pool.map(lambda job: _image(kind, job[1], job[2]).save(job[0], quality=95), jobs))
    part.rename(root)
    return root


def _image(kind: Kind, label: int, seed: tuple[int, int]) -> Image.Image:
    """Return noise of which every octave is half as strong as the coarser one, tinted by its class."""
    random = np.random.default_rng(seed)
    canvas = np.random.default_rng(label).integers(70, 186, (1, 1, 3)).astype(np.uint8)
    for power, blobs in enumerate(kind.octaves):
        width, height = blobs, max(1, blobs * kind.height // kind.width)
        grown = np.asarray(Image.fromarray(canvas).resize((width, height), Image.Resampling.BILINEAR), np.int16)
        strength = 96 >> power
        canvas = (grown + random.integers(-strength, strength + 1, grown.shape, np.int16)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(canvas).resize((kind.width, kind.height), Image.Resampling.BILINEAR)

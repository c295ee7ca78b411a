"""Record complete grids of runs, on which searches can be replayed in no time: `python benchmarks/grids.py`.

Ten tables in `grids/`: learning rate x weight decay for freeze modes on digits and on two folders of images, with the
validation accuracy of every epoch. Nothing is downloaded: the digits and the two photographs come with scikit-learn,
the shapes are drawn.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from sklearn.datasets import load_sample_images

import ours
from frostline.core.errors import UserError
from frostline.core.metrics import ACCURACY
from frostline.records import journal

FOLDER = Path(__file__).parent / "grids"
LRS = tuple(float(f"{10 ** (half / 2):.3g}") for half in range(-10, 1))
DECAYS = (0.0, 1e-3, 1e-2, 1e-1, 1.0)
EPOCHS = 9
_SIDE = 32
_COUNTS = {"train": 400, "val": 400, "test": 40}
_SHAPES = ("disc", "square", "triangle", "ring", "cross", "star", "bar", "arc")
_AREAS = (3, 2)
"""Number of columns and rows of areas in each photograph."""


@dataclass(frozen=True)
class Grid:
    """All learning rates and weight decays of a freeze mode on some data."""

    data: str
    mode: str
    optimizer: str = "adamw"

    @property
    def name(self) -> str:
        return f"{self.data}-{self.mode}-{self.optimizer}"

    @property
    def file(self) -> Path:
        """Return its table."""
        return FOLDER / f"{self.name}.csv"

    @cached_property
    def curves(self) -> dict[tuple[float, float], list[float]]:
        """Validation accuracy after each epoch, by learning rate and weight decay; empty where a run diverged."""
        return {(float(lr), float(decay)): [float(one) for one in epochs] for lr, decay, _, *epochs in self._rows}

    @cached_property
    def _rows(self) -> list[list[str]]:
        with self.file.open(newline="") as file:
            return list(csv.reader(file))[1:]

    def run(self, lr: float, decay: float) -> list[float]:
        """Return the epochs of the run with this weight decay and the nearest learning rate."""
        nearest = min(LRS, key=lambda one: abs(math.log(one / lr)))
        return self.curves[nearest, decay]

    @property
    def best(self) -> float:
        return max(max(epochs) for epochs in self.curves.values() if epochs)

    @property
    def standard_error(self) -> float:
        """The binomial standard error of the best accuracy."""
        return math.sqrt(self.best * (1 - self.best) / int(self._rows[0][2]))


GRIDS = (
    *(Grid(data, mode) for data in ("digits", "shapes", "patches") for mode in ("head", "last_stage", "full")),
    Grid("digits", "full", "sgd"),
)


def record(grid: Grid, pictures: Path) -> None:
    """Run a grid in this process, and write its table."""
    FOLDER.mkdir(exist_ok=True)
    chosen: dict[str, Any] = {
        "freeze": grid.mode,
        "optimizer": grid.optimizer,
        "model.image_size": _SIDE,
        "epochs": EPOCHS,
        "device": "cpu",
    }
    if grid.data == "digits":
        chosen |= {"data.fraction": 0.5, "data.val_fraction": 0.3, "data.test_fraction": 0.1}
    else:
        chosen |= {"data": "image_folder", "data.root": make(grid.data, pictures)}
    cells = [*itertools.product(LRS, DECAYS)]
    runs = [{**chosen, "lr": lr, "optimizer.weight_decay": decay} for lr, decay in cells]
    pictures_of_val = ours.counts(chosen)["val"]
    rows = []
    with tempfile.TemporaryDirectory() as work:
        for number, (cell, run) in enumerate(zip(cells, runs, strict=True)):
            folder = Path(work) / f"{number}"
            try:
                ours.sweep([run], folder, mlflow=False)
            except (UserError, ArithmeticError):
                epochs = []
            else:
                epochs = [f"{line[ACCURACY.epoch]:.4f}" for line in journal.epochs(folder / "0")]
            rows.append([f"{cell[0]:g}", f"{cell[1]:g}", pictures_of_val, *epochs])
    with grid.file.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["lr", "weight_decay", "val_pictures", *(f"epoch{epoch}" for epoch in range(1, EPOCHS + 1))])
        writer.writerows(rows)


def make(name: str, folder: Path) -> Path:
    """Return the folder of images called `name` below `folder`; create it once."""
    root = folder / name
    if root.exists():
        return root
    random = np.random.default_rng(0)
    for split, count in _COUNTS.items():
        for number, (label, picture) in zip(range(count), _drawn(name, random), strict=False):
            place = root / split / label
            place.mkdir(parents=True, exist_ok=True)
            picture.save(place / f"{number:04}.png")
    return root


def _drawn(name: str, random: np.random.Generator) -> Iterator[tuple[str, Image.Image]]:
    return _shapes(random) if name == "shapes" else _patches(random)


def _shapes(random: np.random.Generator) -> Iterator[tuple[str, Image.Image]]:
    """Yield bright shapes of several sizes, places and angles, on darker noise."""
    for number in itertools.count():
        shape = _SHAPES[number % len(_SHAPES)]
        paper, ink = random.integers((0, 90), (120, 256), (3, 2)).T
        noise = random.integers(-40, 41, (_SIDE * 2, _SIDE * 2, 3))
        stencil = Image.new("L", (_SIDE * 2, _SIDE * 2))
        side = int(random.integers(32, 56))
        left, top = (int(at) for at in random.integers(0, _SIDE * 2 - side, 2))
        _draw(ImageDraw.Draw(stencil), shape, (left, top, left + side, top + side))
        middle = (left + side / 2, top + side / 2)
        turned = np.asarray(stencil.rotate(float(random.uniform(-30, 30)), center=middle), float)[:, :, None] / 255
        canvas = (paper * (1 - turned) + ink * turned + noise).clip(0, 255).astype(np.uint8)
        yield shape, Image.fromarray(canvas).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)


def _draw(pen: ImageDraw.ImageDraw, shape: str, box: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = box
    middle, center, third = (left + right) // 2, (top + bottom) // 2, (right - left) // 3
    match shape:
        case "disc":
            pen.ellipse(box, fill=255)
        case "square":
            pen.rectangle(box, fill=255)
        case "triangle":
            pen.regular_polygon((middle, center, third * 1.5), 3, fill=255)
        case "ring":
            pen.ellipse(box, outline=255, width=third // 2)
        case "cross":
            pen.rectangle((left + third, top, right - third, bottom), fill=255)
            pen.rectangle((left, top + third, right, bottom - third), fill=255)
        case "star":
            for turn in (0, 60):
                pen.regular_polygon((middle, center, third * 1.5), 3, rotation=turn, fill=255)
        case "bar":
            pen.rectangle((left, top + third, right, bottom - third), fill=255)
        case _:
            pen.arc(box, 0, 200, fill=255, width=third // 2)


def _patches(random: np.random.Generator) -> Iterator[tuple[str, Image.Image]]:
    """Yield squares from two photographs; the class is the photograph and the area of a square."""
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    columns, rows = _AREAS
    areas = columns * rows
    for number in itertools.count():
        which, area = divmod(number % (len(photographs) * areas), areas)
        photograph = photographs[which]
        width, height = photograph.width // columns, photograph.height // rows
        side = int(random.integers(40, 110))
        left = area % columns * width + int(random.integers(0, width - side))
        top = area // columns * height + int(random.integers(0, height - side))
        patch = photograph.crop((left, top, left + side, top + side)).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
        if random.random() < 0.5:
            patch = patch.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        yield f"photo{which}-area{area}", patch.rotate(float(random.uniform(-30, 30)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="names of tables, by commas")
    names = {grid.name: grid for grid in GRIDS}
    only = [name for name in parser.parse_args().only.split(",") if name] or list(names)
    with tempfile.TemporaryDirectory() as pictures:
        for name in only:
            record(names[name], Path(pictures))
            print(f"{name}: best {names[name].best:.4f} ± {names[name].standard_error:.4f}", flush=True)


if __name__ == "__main__":
    main()

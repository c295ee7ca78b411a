"""The confusion matrix as a picture. Every run draws one, so what is the same in all of a sweep is drawn once."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from frostline.records.result import percent
from frostline.report.confusion_matrix import Confusions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

_COLOURS = "Blues"
_COUNTED = 25  # classes up to which there is room for a number in every cell ...
_SHOWN = 100  # ... and up to which for the name of every class, and so for the class


def draw(matrix: Confusions, path: Path) -> None:
    """Write `matrix`, with a row per true class, as a PNG whose size grows with the classes up to 100.

    Of more than 100 it shows those of the most frequent confusions, and says so. Colour is the share of the true
    class, on a scale (power 0.4) that shows rare confusions too; up to 25 classes the counts stand in the cells.
    """
    shown = matrix.foremost(_SHOWN)
    rows, columns, counts = matrix.among(shown)
    part = np.zeros((len(shown), len(shown)), int)
    part[rows, columns] = counts
    classes = tuple(matrix.classes[one] for one in shown)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a class name that the font cannot write
        _form(classes).fill(part, matrix.images[shown], _title(matrix), path)


@functools.lru_cache(1)
def _form(classes: tuple[str, ...]) -> _Form:
    return _Form(classes)


class _Form:
    """Owner of a drawn picture without a matrix in it: frame, names and scale."""

    def __init__(self, classes: Sequence[str]) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        side = _side(len(classes))
        left, bottom = _room(classes)
        width, height = left + side + 1.3, bottom + side + 0.5
        figure = Figure(figsize=(width, height), dpi=120)
        self._canvas = FigureCanvasAgg(figure)
        self._axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
        scale = figure.add_axes(((left + side + 0.2) / width, bottom / height, 0.15 / width, side / height))
        self._cells = _cells(self._axes, scale, len(classes))
        _label(self._axes, classes)
        self._canvas.draw()
        self._empty = self._canvas.copy_from_bbox(figure.bbox)

    def fill(self, matrix: np.ndarray, images: np.ndarray, title: str, path: Path) -> None:
        """Write the picture with `matrix` in it, whose rows are shares of so many `images`."""
        from PIL import Image

        share = matrix / images[:, None].clip(min=1)
        self._cells.set_data(share)
        place: dict[str, Any] = {"xytext": (0, 6), "textcoords": "offset points", "ha": "center", "fontsize": 12}
        heading = self._axes.annotate(title, (0.5, 1), xycoords="axes fraction", annotation_clip=False, **place)
        self._canvas.restore_region(self._empty)
        for artist in (self._cells, *self._axes.spines.values(), heading):
            self._axes.draw_artist(artist)
        heading.remove()
        picture = Image.fromarray(np.asarray(self._canvas.buffer_rgba())).convert("RGB")
        if len(matrix) <= _COUNTED:
            self._count(picture, matrix, share)
        path.unlink(missing_ok=True)  # a record may have it under another name
        picture.quantize(palette=_palette(), dither=Image.Dither.NONE).save(path)

    def _count(self, picture: Image, matrix: np.ndarray, share: np.ndarray) -> None:
        """Write the numbers into the cells; Pillow takes a tenth of the time that matplotlib takes for a text."""
        from PIL import ImageDraw

        pen, font = ImageDraw.Draw(picture), _font(8 / 72 * self._axes.figure.dpi)
        ink = np.where(self._cells.norm(share) > 0.55, "white", "black")
        rows, columns = matrix.nonzero()
        places = self._axes.transData.transform(np.stack([columns, rows], 1))
        for row, column, (x, y) in zip(rows, columns, places, strict=True):
            place = (x, picture.height - y)
            pen.text(place, str(matrix[row, column]), fill=ink[row, column], font=font, anchor="mm")


@functools.lru_cache(1)
def _palette() -> Image:
    """Return a picture with the colours of all: shades of the scale, both ends too, and greys for what is written.

    For ten classes that takes 12 kB, and any colours 39 kB. Pillow does not tell more shades than about 29 apart, and
    the lightest, of a rare confusion, has to differ from none.
    """
    from matplotlib import colormaps
    from PIL import Image

    shades = colormaps[_COLOURS](np.linspace(0, 1, 24), bytes=True)[:, :3]
    greys = np.linspace(0, 255, 8).astype(np.uint8)[:, None].repeat(3, 1)
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.concatenate([shades, greys]).tobytes())
    return palette


def _title(matrix: Confusions) -> str:
    right, total, classes = int(matrix.right.sum()), int(matrix.counts.sum()), len(matrix.classes)
    text = f"top-1 accuracy {percent(right / max(total, 1))} ({right:,} of {total:,})"
    return text if classes <= _SHOWN else f"{text}; the {_SHOWN} of {classes:,} classes that are confused most often"


@functools.lru_cache(1)
def _font(size: float) -> FreeTypeFont:
    """Return the font that matplotlib writes with, `size` pixels high."""
    from matplotlib import get_data_path
    from PIL import ImageFont

    return ImageFont.truetype(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def _side(count: int) -> float:
    """Return the side of the matrix in inches at which labels of 5 to 10 points do not touch."""
    return max(3.9, 1.0 + count * (0.34 if count <= _COUNTED else 0.12))


def _room(classes: Sequence[str]) -> tuple[float, float]:
    """Return the inches left of the matrix and below it that its labels need, counted in letters."""
    longest = max(len(name) for name in _names(classes)) * _label_size(classes) * 0.65 / 72
    return 0.6 + longest, 0.6 + (0.15 if _flat(classes) else longest)


def _cells(axes: Axes, scale: Axes, count: int) -> Any:
    """Return the image of the matrix, which is drawn later, with its scale."""
    from matplotlib.colors import PowerNorm

    blank = np.zeros((count, count))
    image = axes.imshow(blank, cmap=_COLOURS, norm=PowerNorm(0.4, 0.0, 1.0), interpolation="nearest", animated=True)
    bar = axes.figure.colorbar(image, cax=scale, ticks=[0, 0.01, 0.05, 0.2, 0.5, 1])
    bar.set_label("share of the true class")
    bar.ax.set_yticklabels(["0", "1%", "5%", "20%", "50%", "100%"])
    return image


def _label(axes: Axes, classes: Sequence[str]) -> None:
    """Write the names of classes and axes."""
    names, size = _names(classes), _label_size(classes)
    axes.set_xticks(range(len(names)), names, rotation=0 if _flat(classes) else 90, fontsize=size, parse_math=False)
    axes.set_yticks(range(len(names)), names, fontsize=size, parse_math=False)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")


def _names(classes: Sequence[str]) -> list[str]:
    """Return what is written beside the matrix: names cut to 24 letters."""
    return [name if len(name) <= 24 else f"{name[:22]}.." for name in classes]


def _label_size(classes: Sequence[str]) -> int:
    """Return the size of class names in points."""
    return 9 if len(classes) <= _COUNTED else 6


def _flat(classes: Sequence[str]) -> bool:
    """Return whether all class names fit beside each other below the matrix."""
    return max(len(name) for name in _names(classes)) * len(classes) <= 50

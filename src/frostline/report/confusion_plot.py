"""Plot of a confusion matrix as an SVG file, which needs no plotting library and a quarter of a PNG's bytes."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np

from frostline.core import files
from frostline.records.result import percent
from frostline.report.confusion_matrix import Confusions

_SHADES = ("f7fbff", "deebf7", "c6dbef", "9ecae1", "6baed6", "4292c6", "2171b5", "08519c", "08306b")
"""Blues of ColorBrewer (Brewer 2002), for shares 0 to 1 of a true class."""
_STEPS = 32  # number of colours on the scale
_POWER = 0.4  # exponent from share to position on the scale; below 1, so that rare confusions are visible
_DARK = 0.55  # position on the scale from which numbers are white
_TICKS = (0, 0.01, 0.05, 0.2, 0.5, 1)
_COUNTED = 25  # most classes for which every cell has room for a number
_SHOWN = 100  # most classes for which there is room for names; others are not shown
_SMALL, _CAPITAL, _WIDE = 0.6, 0.75, 1.0  # mean width of a letter, in font sizes; Chinese ones, say, are wide
_MIDDLE = 0.35  # height of a text's middle above its baseline, in font sizes


def draw(matrix: Confusions, path: Path) -> None:
    """Write `matrix`, with a row per true class, as an SVG to `path`.

    Colour is the share of the true class; up to 25 classes, the cells contain counts. Of more than 100 classes, only
    those of the most frequent confusions are shown, which the title says.
    """
    shown = matrix.foremost(_SHOWN)
    names = [_name(matrix.classes[one]) for one in shown]
    size = 12 if len(names) <= _COUNTED else 8
    cell = max(48 if len(names) <= _COUNTED else 12, 374 // len(names))
    letters = size * max(map(_width, names))
    flat = letters <= cell
    side, left, top = cell * len(names), 40 + round(letters), 40
    width, height = left + side + 100, top + side + 40 + round(size if flat else letters)
    rows, columns, counts = matrix.among(shown)
    scaled = (counts / matrix.images[shown][rows]) ** _POWER
    middle, below = left + side / 2, height - 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="DejaVu Sans,Verdana,sans-serif" font-size="12" text-anchor="middle">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="{middle:g}" y="24" font-size="15">{_title(matrix)}</text>',
        f'<g transform="translate({left} {top}) scale({cell})" shape-rendering="crispEdges">',
        f'<path fill="#{_SHADES[0]}" d="M0 0h{len(names)}v{len(names)}H0z"/>',
        *_cells(rows, columns, scaled),
        "</g>",
        *(_numbers(rows, columns, counts, scaled, left, top, cell) if len(names) <= _COUNTED else ()),
        f'<g font-size="{size}">',
        *_names(names, size, left, top, cell, flat=flat),
        "</g>",
        f'<text x="{middle:g}" y="{below}">predicted class</text>',
        f'<text transform="translate(16 {top + side / 2:g}) rotate(-90)">true class</text>',
        *_scale(left + side + 16, top, side),
        f'<path fill="none" stroke="#000" d="M{left} {top}h{side}v{side}h-{side}z"/>',
        "</svg>",
    ]
    files.write(path, "\n".join(parts) + "\n")


def _cells(rows: np.ndarray, columns: np.ndarray, scaled: np.ndarray) -> Iterator[str]:
    """Yield one path per colour with all cells of that colour; even one image is darker than the background."""
    steps = np.ceil(scaled * _STEPS).astype(int).clip(1, _STEPS)
    order = np.argsort(steps, kind="stable")
    for step, same in groupby(order, steps.__getitem__):
        places = "".join(f"M{columns[one]} {rows[one]}h1v1h-1z" for one in same)
        yield f'<path fill="#{_colour(step / _STEPS)}" d="{places}"/>'


def _colour(place: float) -> str:
    """Return the colour, as hex digits, of a position between 0 and 1 on the scale."""
    shades = np.array([[*bytes.fromhex(shade)] for shade in _SHADES])
    ends = np.linspace(0, 1, len(shades))
    return bytes(round(float(np.interp(place, ends, band))) for band in shades.T).hex()


def _numbers(
    rows: np.ndarray, columns: np.ndarray, counts: np.ndarray, scaled: np.ndarray, left: int, top: int, cell: int
) -> Iterator[str]:
    """Yield the counts of the cells, in white on dark cells."""
    for ink, which in (("000", scaled <= _DARK), ("fff", scaled > _DARK)):
        yield f'<g font-size="11" fill="#{ink}">'
        for row, column, count in zip(rows[which], columns[which], counts[which], strict=True):
            yield _text(left + (column + 0.5) * cell, top + (row + 0.5) * cell + 11 * _MIDDLE, str(count))
        yield "</g>"


def _names(names: Sequence[str], size: int, left: int, top: int, cell: int, *, flat: bool) -> Iterator[str]:
    """Yield the class names beside the rows and below the columns, rotated there unless `flat`."""
    yield '<g text-anchor="end">'
    for number, name in enumerate(names):
        yield _text(left - 6, top + (number + 0.5) * cell + size * _MIDDLE, name)
    yield "</g>"
    bottom = top + cell * len(names) + 6
    if flat:
        yield from (_text(left + (n + 0.5) * cell, bottom + size, name) for n, name in enumerate(names))
        return
    yield '<g text-anchor="end">'
    for number, name in enumerate(names):
        across = left + (number + 0.5) * cell + size * _MIDDLE
        yield f'<text transform="translate({across:.0f} {bottom}) rotate(-90)">{escape(name)}</text>'
    yield "</g>"


def _scale(left: int, top: int, side: int) -> Iterable[str]:
    """Return the colour scale beside the matrix, with ticks."""
    stops = "".join(f'<stop offset="{n / 8:g}" stop-color="#{shade}"/>' for n, shade in enumerate(_SHADES))
    ticks = [(top + side * (1 - tick**_POWER), f"{tick:.0%}" if tick else "0") for tick in _TICKS]
    return (
        f'<linearGradient id="scale" x1="0" y1="1" x2="0" y2="0">{stops}</linearGradient>',
        f'<rect x="{left}" y="{top}" width="14" height="{side}" fill="url(#scale)" stroke="#000"/>',
        '<g text-anchor="start" font-size="11">',
        *(_text(left + 20, y + 11 * _MIDDLE, text) for y, text in ticks),
        "</g>",
        f'<text transform="translate({left + 70} {top + side / 2:g}) rotate(-90)">share of the true class</text>',
    )


def _width(name: str) -> float:
    """Return about the width of a name in font sizes."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in name)
    capital = sum(letter.isupper() for letter in name)
    return _WIDE * wide + _CAPITAL * capital + _SMALL * (len(name) - wide - capital)


def _text(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}">{escape(text)}</text>'


def _title(matrix: Confusions) -> str:
    right, total, classes = int(matrix.right.sum()), int(matrix.counts.sum()), len(matrix.classes)
    text = f"top-1 accuracy {percent(right / max(total, 1))} ({right:,} of {total:,})"
    return text if classes <= _SHOWN else f"{text}; the {_SHOWN} of {classes:,} classes that are confused most often"


def _name(name: str) -> str:
    """Return a class name shortened to 24 letters, without characters that XML does not allow."""
    shown = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name)
    return shown if len(shown) <= 24 else f"{shown[:22]}.."

"""Small pictures of test images that a run got wrong: a contact sheet beside the run, read again for the report.

The sheet is a JPEG that any viewer shows. `mistakes.json` says which image each of its tiles is.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from frostline.core import files
from frostline.records.layout import MISTAKES, MISTAKES_INDEX

_TILE = 64  # pixels: enough to see what a picture shows, about 2 kB each
_GAP = 8  # pixels of white between two: a block of JPEG, so that neither shows in the other
_COLUMNS = 8
MOST = 64
"""Pictures on a sheet."""
_PER_PAIR = 6  # of one true and one predicted class

Array = npt.NDArray[Any]


def write(folder: Path, pixels: Array, ids: Array) -> None:
    """Write the contact sheet of `pixels`, `(N, 3, H, W)` uint8, of the images `ids`, `(N,)`; nothing if there is none.

    Small pictures are enlarged by whole pixels, others fitted into a tile.
    """
    from PIL import Image

    if not len(pixels):
        return
    rows = -(-len(pixels) // _COLUMNS)
    step = _TILE + _GAP
    sheet = Image.new("RGB", (min(len(pixels), _COLUMNS) * step - _GAP, rows * step - _GAP), "white")
    for place, picture in enumerate(pixels):
        tile = Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0)))
        scale = _TILE / max(tile.size)
        how = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.BOX if scale < 1 else None
        tile = tile.resize((max(1, round(tile.width * scale)), max(1, round(tile.height * scale))), how)
        sheet.paste(tile, (place % _COLUMNS * step, place // _COLUMNS * step))
    (folder / MISTAKES).unlink(missing_ok=True)  # a record may have it under another name
    grey = bool((pixels == pixels[:, :1]).all())
    sheet = sheet.convert("L" if grey else "RGB")
    try:
        sheet.save(folder / MISTAKES, quality=88, subsampling=0, optimize=True)
    except OSError:  # Pillow has room for one byte per pixel where it optimizes, and noise takes more
        sheet.save(folder / MISTAKES, quality=88, subsampling=0)
    index = {"tile": _TILE, "gap": _GAP, "columns": _COLUMNS, "ids": ids.tolist()}
    files.write(folder / MISTAKES_INDEX, json.dumps(index) + "\n")


def choose(said: Array, labels: Array, margin: Array) -> Array:
    """Return which of N images to show: wrong ones, most frequent confusions and most certain first.

    All are `(N,)`: the predicted and the true classes, and by how much the prediction is before the next class. At
    most a few of each confusion, and no more than fit on a sheet.
    """
    wrong = np.flatnonzero(said != labels)
    pair = labels[wrong].astype(np.int64) * (1 + said.max(initial=0)) + said[wrong]
    _, which, often = np.unique(pair, return_inverse=True, return_counts=True)
    order = np.lexsort((-margin[wrong], which))  # within a pair the largest margin first
    first = np.r_[0, often.cumsum()[:-1]]
    rank = np.empty(len(wrong), int)
    rank[order] = np.arange(len(wrong)) - first[which[order]]
    chosen = np.lexsort((rank, which, -often[which]))
    return wrong[chosen[rank[chosen] < _PER_PAIR][:MOST]]


def read(folder: Path, wanted: Collection[int]) -> dict[int, str]:
    """Return the pictures of the images `wanted` that are on the sheet in `folder`, as `data:` addresses by id."""
    from PIL import Image

    try:
        index = files.read_json(folder / MISTAKES_INDEX)
        with Image.open(folder / MISTAKES) as file:
            sheet = file.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return {}
    match index:
        case {"ids": list(ids), "columns": int(columns), "tile": int(side), **more} if (
            columns > 0
            and 0 < side <= sheet.width
            and isinstance(gap := more.get("gap", 0), int)  # older ones have none
            and 0 <= gap <= sheet.width
        ):
            step = side + gap
            places = {image: place for place, image in enumerate(ids) if isinstance(image, int) and image in wanted}
        case _:  # not written here
            return {}
    found = {}
    for image, place in places.items():
        left, top = place % columns * step, place // columns * step
        tile = sheet.crop((left, top, left + side, top + side))
        tile.save(buffer := io.BytesIO(), "JPEG", quality=85)
        found[image] = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    return found

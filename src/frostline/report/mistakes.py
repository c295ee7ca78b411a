"""Contact sheet of misclassified test images: a JPEG in the run's folder, which the report reads back.

Any viewer shows the sheet. `mistakes.json` lists the image of each tile.
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

_TILE = 64  # pixels a side: enough to recognise an image, about 2 kB each
_GAP = 8  # white pixels between tiles: one JPEG block, so that neighbours do not bleed into each other
_COLUMNS = 8
MOST = 64
"""Most images on a sheet."""
_PER_PAIR = 6  # most images of one confusion, a true and a predicted class

Array = npt.NDArray[Any]


def write(folder: Path, pixels: Array, ids: Array) -> None:
    """Write the contact sheet of `pixels`, `(N, 3, H, W)` uint8, of the images `ids`, `(N,)`; nothing if N is 0.

    Small images are enlarged without smoothing, large ones reduced to a tile.
    """
    from PIL import Image

    if not len(pixels):
        return
    rows = -(-len(pixels) // _COLUMNS)
    step = _TILE + _GAP
    sheet = Image.new("RGB", (min(len(pixels), _COLUMNS) * step - _GAP, rows * step - _GAP), "white")
    for place, image in enumerate(pixels):
        tile = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
        scale = _TILE / max(tile.size)
        how = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.BOX if scale < 1 else None
        tile = tile.resize((max(1, round(tile.width * scale)), max(1, round(tile.height * scale))), how)
        sheet.paste(tile, (place % _COLUMNS * step, place // _COLUMNS * step))
    grey = bool((pixels == pixels[:, :1]).all())
    sheet = sheet.convert("L" if grey else "RGB")
    try:
        sheet.save(jpeg := io.BytesIO(), "JPEG", quality=88, subsampling=0, optimize=True)
    except OSError:  # with `optimize`, Pillow's buffer has one byte per pixel, and noise takes more
        sheet.save(jpeg := io.BytesIO(), "JPEG", quality=88, subsampling=0)
    files.write(folder / MISTAKES, jpeg.getvalue())  # into a file, Pillow ignores that a full disk took only a part
    index = {"tile": _TILE, "gap": _GAP, "columns": _COLUMNS, "ids": ids.tolist()}
    files.write(folder / MISTAKES_INDEX, json.dumps(index) + "\n")


def choose(said: Array, labels: Array, margin: Array) -> Array:
    """Return the indices of the images to show: wrong ones, of the most frequent confusions and most confident first.

    All arguments are `(N,)`: predicted classes, true classes, and the lead of the predicted class over the next one.
    Returns at most a few images of each confusion, and no more than fit on a sheet.
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
    """Return those of the images `wanted` that are on the sheet in `folder`, as `data:` addresses by id."""
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
            and isinstance(gap := more.get("gap", 0), int)  # older sheets have none
            and 0 <= gap <= sheet.width
        ):
            step = side + gap
            places = {image: place for place, image in enumerate(ids) if isinstance(image, int) and image in wanted}
        case _:  # not an index of ours
            return {}
    found = {}
    for image, place in places.items():
        left, top = place % columns * step, place // columns * step
        tile = sheet.crop((left, top, left + side, top + side))
        tile.save(buffer := io.BytesIO(), "JPEG", quality=85)
        found[image] = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    return found

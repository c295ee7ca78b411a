"""Measure black and white of a set of images with more than 8 bits, from the values of the training images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from frostline.data.bit_depth import of_set, summary
from frostline.data.decode_all import threads
from frostline.data.decode_image import values_of
from frostline.data.open_image import at_most, is_passing
from frostline.store.writer import Writer


def measure(
    writer: Writer,
    ids: Sequence[int],
    read: Callable[[int], Image.Image],
    chosen: str,
    *,
    max_pixels: int,
    progress: Callable[[int], object],
) -> dict[str, Any]:
    """Return `low` and `high` of the images `ids` by `bit_depth.of_set`; of 8-bit images only headers are read.

    Broken images are left out. The entry of `writer` is not kept if an image failed for a reason that may pass.
    """

    def look(index: int) -> NDArray[np.float64] | None:
        try:
            with read(index) as image:
                values = values_of(image)
                return None if values is None else summary(values)
        except Exception as error:  # reported when it is decoded
            if is_passing(error):
                writer.reject("some images could not be read this time")
            return None
        finally:
            progress(1)

    with at_most(max_pixels), threads() as pool:
        found = of_set([one for one in pool.map(look, ids) if one is not None], chosen)
    return {"low": found.low, "high": found.high}

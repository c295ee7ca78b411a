"""Images that are decoded at each use, by threads that prefetch for the training.

For images that do not fit into the store, and for random crops of the exact originals. Files are decoded at full size:
libjpeg at half the size is faster, but not exact to 1/255 (a row of benchmarks/fidelity.py).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from PIL import Image
from torch import Tensor

from frostline.core import machine
from frostline.data.bit_depth import Levels
from frostline.data.decode_image import tensor_of
from frostline.data.open_image import lift_limits, why
from frostline.data.pixel_form import reduce

See = Callable[[int, Tensor], Tensor]
"""Returns the view `(3, h, w)` of an image `(3, H, W)` uint8, given its position in the batch and the image."""


class Undecoded:
    """Images of a source, original or reduced, that are decoded at each use."""

    def __init__(
        self,
        read: Callable[[int], Image.Image],
        name: Callable[[int], str],
        ids: Tensor,
        levels: Levels,
        *,
        side: int | None = None,
        exact: bool = True,
    ) -> None:
        """Image i is `read(ids[i])`, called `name(ids[i])`, with `levels` applied and its shorter side at most `side`.

        All images were decoded without error before. If `exact`, the store never keeps them, however much room it has.
        """
        self._read, self._name, self._ids, self._levels, self._side = read, name, ids.tolist(), levels, side
        self.exact = exact
        lift_limits()

    def __len__(self) -> int:
        return len(self._ids)

    def begin(self, index: Tensor, see: See) -> Callable[[], list[Tensor]]:
        """Start to decode the images at `index`; return a function that waits for the result of `see` for each.

        The function raises OSError for an image that cannot be read any more.
        """
        parts = [_threads().submit(self._seen, row, see, place) for place, row in enumerate(index.tolist())]
        return lambda: [part.result() for part in parts]

    def _seen(self, row: int, see: See, place: int) -> Tensor:
        number = self._ids[row]
        try:
            with self._read(number) as opened:
                image = tensor_of(opened, self._levels)[0]
        except Exception as error:  # Pillow may raise anything for a broken file
            raise OSError(f"{self._name(number)}: {why(error)}, though it could be read before") from error
        return see(place, reduce(image, self._side))


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(machine.cores(), thread_name_prefix="decoder")

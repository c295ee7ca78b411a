"""Pictures that are decoded whenever they are asked for, by threads that keep ahead of the training.

For what is too much to keep, or where random crops are to be cut from the very pixels of the originals. Files are
decoded whole: libjpeg at half the size is faster, but no more exact to 1/255 (a row of benchmarks/fidelity.py).
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
from frostline.data.reduction import reduce

See = Callable[[int, Tensor], Tensor]
"""Returns `(3, h, w)`: what is shown of a picture `(3, H, W)` uint8, given its place in the batch."""


class Undecoded:
    """Some pictures of a source, as it has them or reduced."""

    def __init__(
        self,
        read: Callable[[int], Image.Image],
        name: Callable[[int], str],
        ids: Tensor,
        levels: Levels,
        *,
        side: int | None = None,
        instead: bool = False,
    ) -> None:
        """Picture i is `read(ids[i])`, called `name(ids[i])`, shown by `levels`, its shorter side at most `side`.

        All of them were decoded before. They are there `instead` of pictures that would be kept if there were room.
        """
        self._read, self._name, self._ids, self._levels, self._side = read, name, ids.tolist(), levels, side
        self.instead = instead
        lift_limits()

    def __len__(self) -> int:
        return len(self._ids)

    def begin(self, index: Tensor, see: See) -> Callable[[], list[Tensor]]:
        """Begin to decode the pictures at `index`; what is returned waits for what `see` shows of each.

        It raises OSError for a picture that cannot be read any more.
        """
        parts = [_threads().submit(self._seen, row, see, place) for place, row in enumerate(index.tolist())]
        return lambda: [part.result() for part in parts]

    def _seen(self, row: int, see: See, place: int) -> Tensor:
        number = self._ids[row]
        try:
            with self._read(number) as opened:
                picture = tensor_of(opened, self._levels)[0]
        except Exception as error:  # a broken file makes Pillow raise anything
            raise OSError(f"{self._name(number)}: {why(error)}, though it could be read before") from error
        return see(place, reduce(picture, self._side))


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(machine.cores(), thread_name_prefix="decoder")

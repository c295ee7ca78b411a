"""Prefetching: reads started in the background, identified by the index tensor that later asks for them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from torch import Tensor

T = TypeVar("T")


class Prefetch(Generic[T]):
    """Pending reads, by the identity of the index tensor, not by its values."""

    def __init__(self) -> None:
        self._coming: dict[int, tuple[Tensor, Callable[[], T]]] = {}

    def put(self, index: Tensor, result: Callable[[], T]) -> None:
        """Remember `result`, which waits for the read for `index`; keep `index` alive, so that its id stays unique."""
        self._coming[id(index)] = index, result

    def begin(self, index: Tensor, fetch: Callable[[], T]) -> None:
        """Start `fetch` in the background, for a later `take` with the same `index`."""
        self.put(index, _reader().submit(fetch).result)

    def take(self, index: object) -> T | None:
        """Return the result for `index`, waiting for it; None if there is none. Raises what the read raised."""
        found = self._coming.pop(id(index), None)
        return None if found is None else found[1]()


@functools.cache
def _reader() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="reader")

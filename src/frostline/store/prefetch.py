"""Results that were begun ahead, found by the very index with which they are asked for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from torch import Tensor

T = TypeVar("T")


class Prefetch(Generic[T]):
    """Owns what is under way; an index stands for itself, not for what is in it."""

    def __init__(self) -> None:
        self._coming: dict[int, tuple[Tensor, Callable[[], T]]] = {}

    def put(self, index: Tensor, result: Callable[[], T]) -> None:
        """Remember what waits for what is fetched for `index`, which is kept so that its id stays its own."""
        self._coming[id(index)] = index, result

    def begin(self, index: Tensor, fetch: Callable[[], T]) -> None:
        """Begin to fetch what is asked for with `index` soon, aside."""
        self.put(index, _reader().submit(fetch).result)

    def take(self, index: object) -> T | None:
        """Return what was fetched for `index`, None if nothing was; raises what the fetching raised."""
        found = self._coming.pop(id(index), None)
        return None if found is None else found[1]()


@functools.cache
def _reader() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="reader")

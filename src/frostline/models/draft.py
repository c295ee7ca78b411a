"""The file of a run's best weights: what cannot change is written while the rest still learns."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from frostline.models import weights
from frostline.store import hashing


class Draft:
    """Owner of a file of weights that is being written; it appears at its path, whole, once it is finished.

    Leaving the block without that removes what was written.
    """

    def __init__(self, path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
        """Write `tensors` and `metadata`, see `weights.save`, to `path`."""
        self._path, self._tensors, self._metadata = path, tensors, metadata
        self._partial = path.with_name(f".{path.name}.part")
        self._aside = ThreadPoolExecutor(1)  # a disk works while the processor trains
        self._begun: Future[None] | None = None

    def __enter__(self) -> Self:
        """Return this."""
        return self

    def begin(self, still: Mapping[str, Tensor]) -> None:
        """Begin with what is there, if most of it is `still`, i.e. will not change until the file is finished."""
        if 2 * _size(still) > _size(self._tensors):
            self._begun = self._aside.submit(weights.write, self._partial, self._tensors, self._metadata)

    def finish(self, moved: Mapping[str, Tensor]) -> Future[str]:
        """Put `moved` in place of the tensors of these names; the file's sha256 (hex) comes when it is on the disk."""
        return self._aside.submit(self._finish, moved)

    def _finish(self, moved: Mapping[str, Tensor]) -> str:
        if self._begun is None:
            weights.write(self._partial, {**self._tensors, **moved}, self._metadata)
        else:
            self._begun.result()
            weights.overwrite(self._partial, moved)
        digest = hashing.of_file(self._partial)
        self._partial.replace(self._path)
        return digest

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the disk, and remove what is not finished."""
        self._aside.shutdown()
        self._partial.unlink(missing_ok=True)


def _size(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())

"""Checksums of the pieces of a file, compared when a piece is first read."""

from __future__ import annotations

import functools
import os
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from frostline.core import machine

_PIECE = 1 << 18  # bytes of a file with a checksum of their own: a picture or two, as they are read in any order
_AT_ONCE = 1 << 7  # pieces that a thread reads in a row


class DamagedEntry(Exception):
    """An entry is not what was written."""


class Checks:
    """Owns what is known of the pieces of a file: what their checksums are to be, and which of them were compared."""

    def __init__(self, sums: Sequence[int], damaged: Callable[[], DamagedEntry]) -> None:
        """Know that piece i is to have the CRC-32 `sums[i]`; what `damaged` returns is raised where one has not."""
        self._sums, self._damaged = sums, damaged
        self._open = bytearray(b"\1" * len(sums))

    def close(self) -> Self:
        """Count all pieces as compared: the file was written just now."""
        self._open.clear()
        return self

    @property
    def closed(self) -> bool:
        """Whether nothing is left to be compared."""
        return not self._open

    def compare(self, file: int, start: int, size: int) -> None:
        """Compare the pieces in which `size` bytes from `start` lie, as far as that was not done before."""
        if not self._open:
            return
        for piece in range(start // _PIECE, -(-(start + size) // _PIECE)):
            if self._open[piece : piece + 1] == b"\1":
                if zlib.crc32(os.pread(file, _PIECE, piece * _PIECE)) != self._sums[piece]:
                    raise self._damaged()
                self._open[piece : piece + 1] = b"\0"
        if 1 not in self._open:
            self.close()


def checksum(path: Path) -> list[int]:
    """Return the CRC-32 of every piece of a file: it changes with any damage of up to four bytes in a row.

    It is three times as fast as SHA-256, and no more is needed to notice a bad disk. All cores read, a little at a
    time, so that none of the file stays in the process's memory.
    """
    with path.open("rb", buffering=0) as file:
        pieces = range(0, os.fstat(file.fileno()).st_size, _PIECE)
        parts = [pieces[i : i + _AT_ONCE] for i in range(0, len(pieces), _AT_ONCE)]
        if len(parts) < 2:
            return [crc for part in parts for crc in _crcs(file.fileno(), part)]
        with ThreadPoolExecutor(machine.cores()) as pool:
            return [crc for found in pool.map(functools.partial(_crcs, file.fileno()), parts) for crc in found]


def _crcs(file: int, starts: Sequence[int]) -> list[int]:
    """Return the CRC-32 of the pieces of a file that begin at `starts`."""
    return [zlib.crc32(os.pread(file, _PIECE, start)) for start in starts]

"""Decide when to write checkpoints, so that they cost little time, and write them without blocking training."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from frostline.core import interrupts
from frostline.training import checkpoint

_WORTH = 50  # least time between saves, in durations of a save: checkpoints take less than 2% of a run
_GUESS = 0.02  # least estimate in seconds of the first save: work shorter than `_WORTH` times this is simply repeated
_RATE = 3e8  # estimated bytes per second of the first save: write, read back and hash beside the training


class CheckpointWriter:
    """Writes the checkpoints of one run in a background thread, when they are worth their time.

    Training waits only for a copy of the tensors. Leaving the block waits for the disk, however the block ends.
    """

    def __init__(self, home: Path, *, size: int, every: float | None, say: Callable[[str], None]) -> None:
        """Write to the folder `home`, about `size` bytes each; also within epochs, every `every` seconds, if set."""
        self._home, self._every, self._say = home, every, say
        self._last, self._cost = time.perf_counter(), max(_GUESS, size / _RATE)
        self._aside = ThreadPoolExecutor(1)  # one thread: saves are written in order
        self._writing: Future[Path] | None = None
        self._told = False  # whether `say` was told of a failure

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for the disk."""
        with self._aside:
            self.wait()

    def due(self) -> bool:
        """Return whether one must be written within an epoch: `every` seconds are over, or an interrupt is pending."""
        late = self._every is not None and time.perf_counter() - self._last >= self._every
        return late or interrupts.pending()

    def is_worthwhile(self) -> bool:
        """Return whether one should be written at the end of an epoch."""
        since = time.perf_counter() - self._last
        writing = self._writing is not None and not self._writing.done()
        return self.due() or since >= _WORTH * (since if writing else self._cost)

    def save(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Copy the state and write it in the background; the run continues if that fails, and `say` is told once."""
        self.wait()
        self._last = time.perf_counter()
        copies = {name: tensor.to("cpu", copy=True) for name, tensor in tensors.items()}
        self._writing = self._aside.submit(self._write, copies, deepcopy(facts))

    def wait(self) -> None:
        """Wait until the newest one is on the disk."""
        writing, self._writing = self._writing, None
        try:
            if writing is not None:
                writing.result()
        except (OSError, checkpoint.DamagedCheckpoint) as problem:
            if not self._told:
                self._say(f"  no checkpoint could be written: {problem}")
                self._told = True

    def _write(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
        try:
            return checkpoint.save(self._home, tensors, facts)
        finally:
            self._cost = time.perf_counter() - self._last

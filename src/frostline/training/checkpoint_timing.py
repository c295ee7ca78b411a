"""When checkpoints are written, so that they cost little of a run, and that training does not wait for the disk."""

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

_WORTH = 50  # an epoch shorter than so many saves goes without its own: checkpoints take less than 2% of a run
_GUESS = 0.02  # seconds that the first save may take at least: what is shorter than `_WORTH` is as well done again
_RATE = 3e8  # bytes per second at which the first save may be written, read back and hashed beside the training


class Keeper:
    """Owns the checkpoints of one run: decides when one is worth its time, and has it written while the run goes on.

    Training waits for a copy of the tensors alone. Leaving the block waits for the disk, however the block ends.
    """

    def __init__(self, home: Path, *, size: int, every: float | None, say: Callable[[str], None]) -> None:
        """Keep them in the folder `home`, each of some `size` bytes; `every` so many seconds also within an epoch."""
        self._home, self._every, self._say = home, every, say
        self._last, self._cost = time.perf_counter(), max(_GUESS, size / _RATE)
        self._aside = ThreadPoolExecutor(1)  # one at a time: a next one waits for the one before
        self._writing: Future[Path] | None = None

    def __enter__(self) -> Self:
        """Return this."""
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for the disk."""
        with self._aside:
            self.settle()

    def due(self) -> bool:
        """Return whether one must be written within an epoch: the time has come, or somebody wants the run to end."""
        late = self._every is not None and time.perf_counter() - self._last >= self._every
        return late or interrupts.requested()

    def worth(self) -> bool:
        """Return whether one should be written at the end of an epoch."""
        since = time.perf_counter() - self._last
        writing = self._writing is not None and not self._writing.done()
        return self.due() or since >= _WORTH * (since if writing else self._cost)

    def save(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Have one written of what is there now; where the disk does not take it, that is said and the run goes on."""
        self.settle()
        self._last = time.perf_counter()
        copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
        self._writing = self._aside.submit(self._write, copies, deepcopy(facts))

    def settle(self) -> None:
        """Wait until the newest one is on the disk."""
        writing, self._writing = self._writing, None
        try:
            if writing is not None:
                writing.result()
        except (OSError, checkpoint.DamagedCheckpoint) as problem:
            self._say(f"  no checkpoint could be written: {problem}")

    def _write(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
        try:
            return checkpoint.save(self._home, tensors, facts)
        finally:
            self._cost = time.perf_counter() - self._last

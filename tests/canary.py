"""An object that shows whether a pickle was loaded."""

from __future__ import annotations

import os
from pathlib import Path


class Canary:
    """An object whose unpickling creates a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)

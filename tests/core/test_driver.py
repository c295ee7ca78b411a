"""A GPU driver that is too old for torch is detected without importing torch."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from frostline.core import driver
from frostline.core.errors import UserError


class Library:
    """A fake libcuda of a driver that supports CUDA up to version `number`."""

    def __init__(self, number: int, status: int = 0) -> None:
        self._number, self._status = number, status

    def cuDriverGetVersion(self, pointer: object) -> int:  # noqa: N802 (CUDA's own name)
        ctypes.cast(pointer, ctypes.POINTER(ctypes.c_int))[0] = self._number
        return self._status


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Return a function that installs a fake driver (None: no driver), with a torch for CUDA 13.2."""
    monkeypatch.setattr(driver, "_of_torch", lambda: (13, 2))
    monkeypatch.setattr(driver, "_VERSION", tmp_path / "version")

    def install(library: Library | None) -> str | None:
        def load(name: str) -> Library:
            if library is None:
                raise OSError(f"{name}: cannot open shared object file")
            return library

        monkeypatch.setattr(ctypes, "CDLL", load)
        return driver.too_old.__wrapped__()

    return install


def test_driver_of_an_older_major_version_is_too_old(installed, tmp_path):
    needed = f"torch {metadata.version('torch')} needs one for CUDA 13.2"
    assert installed(Library(12040)) == f"NVIDIA's driver knows CUDA up to 12.4, and {needed}"
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5\n")
    assert str(installed(Library(12040))).startswith("NVIDIA's driver 550.54.15 knows CUDA up to 12.4, and")
    open_module = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\n"
    (tmp_path / "version").write_text(open_module)
    assert driver.version() == "570.86.15"
    for library in (Library(13000), Library(13020), Library(14000), Library(0), Library(12040, status=999), None):
        assert installed(library) is None


def test_cuda_version_of_torch_is_read_without_import():
    built = torch.version.cuda
    assert driver._of_torch() == (tuple(map(int, built.split(".")[:2])) if built else None)
    code = "import sys; from frostline.core import driver; driver.too_old(); print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_gpu_without_a_driver_is_refused_without_torch(installed, monkeypatch):
    installed(None)
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("cuda", "cuda:1"):
        with pytest.raises(UserError, match=f"^device={name}: expected auto or cpu: there is no driver of NVIDIA on"):
            driver.require_here(name)
    for name in ("auto", "cpu"):
        driver.require_here(name)
    monkeypatch.setattr(driver, "_of_torch", lambda: None)  # built for GPUs of AMD
    driver.require_here("cuda")

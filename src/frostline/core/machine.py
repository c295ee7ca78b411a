"""Device, threads, determinism and precision of torch on this machine."""

from __future__ import annotations

import contextlib
import functools
import os
import time
import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from frostline.core import driver, torch_settings
from frostline.core.errors import user_error

T = TypeVar("T")

# MKL reads this before its first product. Else the last bits of small products (attention over five tokens) depend on
# addresses in memory, and so those of features on their place in the batch.
os.environ.setdefault("MKL_CBWR", "AUTO")


def device(name: str, *, devices: int = 1) -> torch.device:
    """Return the device called `name` (`auto`: a GPU if there is one), the first of the run's `devices`.

    Raises `UserError` if one of these devices does not exist.
    """
    with warnings.catch_warnings():
        if driver.too_old():  # reported once, where workers are started or below
            warnings.filterwarnings("ignore", "CUDA initialization")
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name != "cpu":
        driver.require_gpus(devices, gpus)
    if name == "auto":
        return torch.device("cuda" if gpus else "cpu")
    there = ["auto", "cpu", *(["cuda"] if gpus else []), *(f"cuda:{i}" for i in range(gpus))]
    if name not in there:
        driver.require(name)
        expected = f"a device of this machine ({', '.join(there)})"
        if name.lower().startswith(("gpu", "nvidia", "cuda")) and not gpus:
            raise user_error("device", name, f"{expected}; a GPU would be called cuda, and there is none")
        if name.lower().startswith(("gpu", "nvidia")):
            raise user_error("device", name, f"{expected}; did you mean cuda?")
        if name.lower().startswith(("mps", "xpu")):
            raise user_error("device", name, f"{expected}; GPUs of Apple and Intel are not used")
        raise user_error("device", name, expected, there)
    return torch.device(name)


def require_kernels(device: torch.device) -> None:
    """Raise `UserError` for a GPU of a generation for which this torch has no kernels.

    Kernels run on all GPUs of a generation, the major number of the compute capability
    (https://docs.nvidia.com/cuda/cuda-programming-guide).
    """
    there = torch.cuda.get_arch_list() if device.type == "cuda" and torch.version.cuda is not None else []
    generations = {int(name.removeprefix("sm_").rstrip("af")[:-1]) for name in there if name.startswith("sm_")}
    if generations and (capability := torch.cuda.get_device_capability(device))[0] not in generations:
        card = f"{torch.cuda.get_device_name(device)} (sm_{capability[0]}{capability[1]})"
        expected = f"cpu, or a GPU that torch {torch.__version__} has kernels for ({', '.join(there)}), not {card}"
        raise user_error("device", str(device), expected)


def device_name(device: torch.device) -> str:
    """Return the device in words, with the GPU's name, or the number of threads on a CPU."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    threads = torch.get_num_threads()
    return f"{device} ({threads} {'thread' if threads == 1 else 'threads'})"


def platform(device: torch.device) -> str:
    """Return the platform on which the last bits of a result depend: torch, and GPU or CPU instructions and threads."""
    if device.type == "cuda":
        kernels = f"cudnn {torch.backends.cudnn.version()} tf32 {torch.backends.cudnn.allow_tf32}"
        return f"torch {torch.__version__} {torch.cuda.get_device_name(device)} {kernels}"
    return f"torch {torch.__version__} {torch.backends.cpu.get_cpu_capability()} {torch.get_num_threads()}"


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the dtype of mixed precision: bfloat16, or None for float32 (`auto`: bf16 on a GPU that has it)."""
    if precision == "auto":
        fast = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8  # torch asks the current one
        return torch.bfloat16 if fast else None
    return torch.bfloat16 if precision == "bf16" else None


def meaning_of_auto(name: str) -> dict[str, str]:
    """Return by key the value that replaces `auto` on the device called `name`, for keys that decide the run's bits.

    On a GPU `compile=auto` stays: its effect follows from config and data alone.
    """
    chosen = device(name)
    precision = {"precision": "fp32" if autocast_dtype("auto", chosen) is None else "bf16"}
    return precision | ({"compile": "off"} if chosen.type == "cpu" else {})


def memory_format(*, channels_last: bool) -> torch.memory_format:
    """Return torch's memory format for images and kernels."""
    return torch.channels_last if channels_last else torch.contiguous_format


def is_channels_last(tensor: torch.Tensor) -> bool:
    """Return whether a `(B, C, H, W)` tensor is stored in memory as `(B, H, W, C)`, and not as `(B, C, H, W)`."""
    last = torch.channels_last
    return tensor.dim() == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=last)


def cores() -> int:
    """Return the number of CPU cores that this process may use, at most those of its Slurm job.

    Slurm confines jobs to their cores only on nodes that are configured for it (`TaskPlugin`).
    """
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(there, int(os.environ.get("SLURM_CPUS_PER_TASK") or there))


@functools.cache
def _default_threads() -> int:
    """Return torch's default number of threads; the first call must come before any other number is set."""
    return torch.get_num_threads() if "OMP_NUM_THREADS" in os.environ else min(torch.get_num_threads(), cores())


def prepare_torch(*, deterministic: bool, threads: int | None, processes: int = 1) -> None:
    """Set torch's CPU threads, and make it deterministic or let it choose faster kernels.

    Without `threads`, torch's default number is divided among the `processes` of a run on a CPU.
    """
    default = max(1, _default_threads() // processes)
    torch.set_num_threads(threads or default)
    os.environ[torch_settings.WORKSPACE] = ":4096:8"
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cudnn.deterministic = deterministic
    torch_settings.float32_is_float32()
    # On by default in deterministic mode: a debugging aid that costs a pass over every new tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@contextlib.contextmanager
def allow_nondeterminism() -> Iterator[None]:
    """Allow nondeterministic algorithms in the block, for results that do not depend on the order, e.g. integer sums.

    On a GPU deterministic algorithms sort the summands, also integers, which takes ten times as long.
    """
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode(0)
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a CPU tensor on `device`; the copy to a GPU is asynchronous, from pinned memory."""
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def select_rows(tensor: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return the rows `(B, ...)` at `index` (on the CPU) of a tensor on any device, without a wait for a GPU."""
    return tensor.index_select(0, index.to(tensor.device, non_blocking=True))  # half the time of tensor[index]


def to_host(tensors: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Yield tensors in host memory; a GPU's one step late, so that it computes the next while the caller reads one."""
    coming: list[tuple[torch.Tensor, torch.Event]] = []
    for tensor in tensors:
        if tensor.device.type == "cpu":
            yield tensor
            continue
        copy = tensor.to("cpu", non_blocking=True)  # into pinned memory
        coming.append((copy, torch.cuda.current_stream(tensor.device).record_event()))
        if len(coming) > 1:
            yield _arrived(*coming.pop(0))
    yield from (_arrived(*one) for one in coming)


def _arrived(copy: torch.Tensor, copied: torch.Event) -> torch.Tensor:
    copied.synchronize()
    return copy


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has finished its queued work, e.g. before a time measurement; return at once on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(device: torch.device, work: Callable[[], T]) -> tuple[float, T]:
    """Return the seconds that `work` takes on an idle device, and its result."""
    synchronize(device)
    began = time.perf_counter()
    done = work()
    synchronize(device)
    return time.perf_counter() - began, done


def autocast(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    """Return the autocast context for mixed precision in `dtype`; with None everything is float32."""
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)

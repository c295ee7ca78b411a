"""The machine, and what torch may use of it: device, threads, determinism, precision.

torch is imported inside the functions that need it, so that a bad override is answered without it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from frostline.core import driver
from frostline.core.errors import user_error
from frostline.core.shared_context import shared

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # what torch.use_deterministic_algorithms asks for


def device(name: str, *, devices: int = 1) -> torch.device:
    """Return the device called `name` (`auto`: a GPU if there is one), the first of so many `devices`.

    Raises `UserError` where it, or one of the others, is not there.
    """
    import torch

    with warnings.catch_warnings():
        if driver.too_old():  # which is said once, where workers are started, or below
            warnings.filterwarnings("ignore", "CUDA initialization")
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name != "cpu":
        require_cards(devices, gpus)
    if name == "auto":
        return torch.device("cuda" if gpus else "cpu")
    there = ["auto", "cpu", *(["cuda"] if gpus else []), *(f"cuda:{i}" for i in range(gpus))]
    if name not in there:
        require_driver(name)
        raise user_error("device", name, f"a device of this machine ({', '.join(there)})", there)
    return torch.device(name)


def require_driver(name: str) -> None:
    """Raise `UserError` where the device called `name` is a card, and torch can use none with this driver."""
    if name.startswith("cuda") and (problem := driver.too_old()) is not None:
        raise user_error("device", name, f"cpu, or a newer driver: {problem}")


def require_cards(devices: int, cards: int) -> None:
    """Raise `UserError` where a run on several devices, which is not to be on a CPU, has too few cards."""
    if devices > 1 and cards < devices:
        none = driver.too_old() or "no card is there"
        there = f"at most {cards}, as many cards as a run may have" if cards else f"1, as {none}"
        raise user_error("devices", devices, f"{there}; with device=cpu it trains in so many processes")


def require_kernels(device: torch.device) -> None:
    """Raise `UserError` for a card that is older, or newer, than all that this torch has kernels for.

    Kernels for one card run on those of its generation, the first number of its compute capability
    (https://docs.nvidia.com/cuda/cuda-programming-guide).
    """
    import torch

    there = torch.cuda.get_arch_list() if device.type == "cuda" and torch.version.cuda is not None else []
    generations = {int(name.removeprefix("sm_").rstrip("af")[:-1]) for name in there if name.startswith("sm_")}
    if generations and (capability := torch.cuda.get_device_capability(device))[0] not in generations:
        card = f"{torch.cuda.get_device_name(device)} (sm_{capability[0]}{capability[1]})"
        expected = f"cpu, or a card that torch {torch.__version__} has kernels for ({', '.join(there)}), not {card}"
        raise user_error("device", str(device), expected)


def device_name(device: torch.device) -> str:
    """Return the device for people: the card's name, or the number of threads on a CPU."""
    import torch

    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    threads = torch.get_num_threads()
    return f"{device} ({threads} {'thread' if threads == 1 else 'threads'})"


def platform(device: torch.device) -> str:
    """Return what the last bits of a result depend on: torch, the card, or the CPU's instructions and threads."""
    import torch

    if device.type == "cuda":
        kernels = f"cudnn {torch.backends.cudnn.version()} tf32 {torch.backends.cudnn.allow_tf32}"
        return f"torch {torch.__version__} {torch.cuda.get_device_name(device)} {kernels}"
    return f"torch {torch.__version__} {torch.backends.cpu.get_cpu_capability()} {torch.get_num_threads()}"


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the type of the mixed precision: bfloat16, or None for float32 (`auto`: bf16 on a GPU with it)."""
    import torch

    if precision == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else None
    return torch.bfloat16 if precision == "bf16" else None


def meaning_of_auto(name: str) -> dict[str, str]:
    """Return what `auto` means on the device called `name`, by key, where that decides the bits of a run.

    On a GPU `compile=auto` stays: what it does follows from the config and the data alone.
    """
    chosen = device(name)
    precision = {"precision": "fp32" if autocast_dtype("auto", chosen) is None else "bf16"}
    return precision | ({"compile": "off"} if chosen.type == "cpu" else {})


def memory_format(*, channels_last: bool) -> torch.memory_format:
    """Return how images and kernels lie in memory."""
    import torch

    return torch.channels_last if channels_last else torch.contiguous_format


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def _default_threads() -> int:
    """Return how many threads torch takes by itself, asked before anybody sets another number."""
    import torch

    return torch.get_num_threads()


def prepare_torch(*, deterministic: bool, threads: int | None, processes: int = 1) -> None:
    """Make torch give the same bits for the same command, or let it choose faster kernels; set its CPU threads.

    Where nobody says how many, those that torch takes by itself are shared among the `processes` of a run on a CPU.
    """
    import torch

    default = max(1, _default_threads() // processes)
    torch.set_num_threads(threads or default)
    os.environ[_WORKSPACE] = ":4096:8"
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cudnn.deterministic = deterministic
    # float32 means float32: TF32 has 10 bits of mantissa, and is cuDNN's default. Set by the old names, since torch
    # refuses to read these once the new ones were set alone.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    # On by default with the above; a debugging aid that costs a pass over every new tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@shared
@contextlib.contextmanager
def _settings_as_they_were() -> Iterator[None]:
    """Take back all that the block sets in torch for the whole process; numbers are float32 in it."""
    import torch

    threads, mode, dtype = torch.get_num_threads(), torch.get_deterministic_debug_mode(), torch.get_default_dtype()
    workspace = os.environ.get(_WORKSPACE)
    places: list[tuple[Any, str]] = [
        *((torch.backends.cudnn, name) for name in ("benchmark", "deterministic", "allow_tf32")),
        (torch.backends.cuda.matmul, "allow_tf32"),
        (torch.utils.deterministic, "fill_uninitialized_memory"),
    ]
    before = []
    for place, name in places:
        try:
            before.append((place, name, getattr(place, name)))
        except RuntimeError:  # it was set by its new name alone
            before.append((place, "fp32_precision", place.fp32_precision))
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(mode)
        torch.set_default_dtype(dtype)
        for place, name, value in before:
            setattr(place, name, value)
        os.environ.pop(_WORKSPACE, None)
        if workspace is not None:
            os.environ[_WORKSPACE] = workspace


@contextlib.contextmanager
def torch_as_it_was() -> Iterator[None]:
    """Have torch as a fresh process has it in the block, and as it was once no thread is in such a block any more.

    A notebook that predicts with a network goes on to train its own, which may have no deterministic algorithm; it may
    have made float64 or a GPU its default, or be in a block without gradients.
    """
    import torch

    elsewhere = torch.get_default_device().type != "cpu"
    with _settings_as_they_were(), torch.inference_mode(mode=False):  # which has gradients, whatever was said before
        with torch.device("cpu") if elsewhere else contextlib.nullcontext():
            yield


@contextlib.contextmanager
def in_any_order() -> Iterator[None]:
    """Let the block's operations be done in whatever order is fastest: what must come to the same in each.

    On a GPU deterministic algorithms sort what they add, also whole numbers, for which it takes ten times as long.
    """
    import torch

    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode(0)
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor of the CPU on `device`, without the wait that there is from pageable memory."""
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def fetched(tensors: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Yield tensors in the host's memory, those of a GPU one later: it computes the next one while one is read."""
    import torch

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


def wait(device: torch.device) -> None:
    """Wait until a GPU has done what it was told to, for whoever looks at a clock; a CPU has."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(device: torch.device, work: Callable[[], T]) -> tuple[float, T]:
    """Return the seconds that some work takes on an idle device, and what comes of it."""
    wait(device)
    began = time.perf_counter()
    done = work()
    wait(device)
    return time.perf_counter() - began, done


def mixed(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    """Return the context of mixed precision in `dtype`; None stands for float32 throughout."""
    import torch

    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)

"""Save, reset and restore torch's settings: threads, determinism, default dtype, float32 precision, autocast.

torch is imported inside the functions, since `import frostline` alone does not load it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from frostline.core.shared_context import shared

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
"""Environment variable that makes cuBLAS deterministic."""


def float32_is_float32() -> None:
    """Compute float32 matrix products and convolutions in float32: TF32 has 10 bits of mantissa, bfloat16 has 7.

    TF32 is cuDNN's default. The old names are set, since torch refuses to read them after only the new ones were set.
    """
    import torch

    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


@contextlib.contextmanager
def isolated() -> Iterator[None]:
    """Give the block torch's default state, and restore the caller's when no thread is in such a block any more.

    A notebook that predicts with a network may go on to train its own, perhaps without deterministic algorithms. It may
    have made float64 or a GPU the default, or be in a block of mixed precision or without gradients.
    """
    import torch

    with contextlib.ExitStack() as block:
        block.enter_context(_restored())
        block.enter_context(torch.inference_mode(mode=False))  # enables gradients in any case
        if torch.get_default_device().type != "cpu":
            block.enter_context(torch.device("cpu"))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                block.enter_context(torch.autocast(kind, enabled=False))
        yield


@shared
@contextlib.contextmanager
def _restored() -> Iterator[None]:
    """Restore torch's process-wide settings after the block, in which the default dtype is float32."""
    import torch

    threads, mode, dtype = torch.get_num_threads(), torch.get_deterministic_debug_mode(), torch.get_default_dtype()
    workspace = os.environ.get(WORKSPACE)
    places: list[tuple[Any, str]] = [
        *((torch.backends.cudnn, name) for name in ("benchmark", "deterministic")),
        (torch.utils.deterministic, "fill_uninitialized_memory"),
    ]
    before = [(place, name, getattr(place, name)) for place, name in places]
    with _precision_as_it_was():
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.set_deterministic_debug_mode(mode)
            torch.set_default_dtype(dtype)
            for place, name, value in before:
                setattr(place, name, value)
            os.environ.pop(WORKSPACE, None)
            if workspace is not None:
                os.environ[WORKSPACE] = workspace


@contextlib.contextmanager
def _precision_as_it_was() -> Iterator[None]:
    """Restore the settings of float32 precision after the block, which starts with full float32 precision.

    They have old names and new names (https://docs.pytorch.org/docs/stable/notes/cuda.html and `numerical_accuracy`
    beside it). torch refuses to read an old name if the new ones have a value that the old one cannot express.
    """
    import torch

    there: Any = torch.backends
    cudnn, mkldnn = there.cudnn, there.mkldnn
    named = [there, cudnn, cudnn.conv, cudnn.rnn, mkldnn, mkldnn.conv, mkldnn.matmul, mkldnn.rnn]
    new = [(place, place.fp32_precision) for place in (*named, there.cuda.matmul)]
    products, convolutions = "highest", True  # by default
    with contextlib.suppress(RuntimeError):
        products = torch.get_float32_matmul_precision()
    with contextlib.suppress(RuntimeError):
        convolutions = cudnn.allow_tf32
    for place in named:
        place.fp32_precision = "none"
    float32_is_float32()
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        cudnn.allow_tf32 = convolutions
        for place, value in new:
            if place.fp32_precision != value:
                place.fp32_precision = value

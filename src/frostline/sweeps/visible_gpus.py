"""Assign visible GPUs to the workers of a sweep, without loading CUDA."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from frostline.core import driver, notices
from frostline.core.driver import SHARING

_DRIVER = Path("/proc/driver/nvidia/gpus")  # where NVIDIA's driver lists its GPUs on Linux


def places(
    workers: int | None, *, gpus: bool, each: int = 1, say: Callable[[str], object] = notices.tell
) -> list[dict[str, str]]:
    """Return the environment variables of each worker: its GPUs, if there are any and `gpus` are wanted.

    Each worker gets `each` GPUs; UserError if there are fewer. `workers` None means one worker per `each` GPUs, or one
    on a CPU; `say` gets a message if the driver is too old for torch. Workers that share GPUs get their number.
    """
    listed = visible_gpu_names() if gpus else []
    problem = driver.too_old() if listed else None
    cards = listed if problem is None else []
    if gpus:
        driver.require_gpus(each, len(cards))
    if problem is not None:
        say(f"no GPU is used: {problem}")
    shares = [",".join(cards[start : start + each]) for start in range(0, len(cards) - each + 1, each)]
    count = workers or max(len(shares), 1)
    mine = [{"CUDA_VISIBLE_DEVICES": shares[number % len(shares)]} if cards else {} for number in range(count)]
    return [place | {SHARING: str(mine.count(place))} if mine.count(place) > 1 else place for place in mine]


def visible_gpu_names() -> list[str]:
    """Return the names of the GPUs that this process may use, without loading CUDA; of a divided GPU (MIG) its parts.

    CUDA stops at the first invalid name in `CUDA_VISIBLE_DEVICES`, such as -1
    (https://docs.nvidia.com/cuda/cuda-c-programming-guide); container runtimes write `void` or `none`. `nvidia-smi -L`
    lists the parts of a divided GPU below it, and CUDA takes them only by UUID. A CPU build of torch has no GPU.
    """
    if metadata.version("torch").endswith("+cpu"):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = (name.strip() for name in visible.split(","))
        return list(itertools.takewhile(re.compile(r"\d+|(GPU|MIG)-.+").fullmatch, names))
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return [str(number) for number, _ in enumerate(_DRIVER.glob("*"))]
    cards: list[list[str]] = []
    for line in done.stdout.splitlines():
        if whole := re.match(r"GPU (\d+): ", line):
            cards.append([whole[1]])
        elif cards and (part := re.match(r"\s+MIG .*\(UUID: (MIG-[^)]+)\)", line)):
            cards[-1].append(part[1])
    return [name for whole, *parts in cards for name in parts or [whole]]

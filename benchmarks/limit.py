"""The opponent `limit`: the machine's speed without loading, decoding, augmenting or recording."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

CPU = torch.device("cpu")


def wait(device: torch.device) -> None:
    """Wait until the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device, *, times: int, warm: bool = True) -> float:
    """Return the seconds of one `work()`, the mean over `times` in a row, after one that does not count if `warm`."""
    if warm:
        work()
    wait(device)
    began = time.perf_counter()
    for _ in range(times):
        work()
    wait(device)
    return (time.perf_counter() - began) / times


def network(name: str, size: int, device: torch.device, dtype: torch.dtype = torch.float32) -> nn.Module:
    sized = {"image_size": size} if name.startswith("vit") else {}
    module = models.get_model(name, weights=None, **sized)
    return module.to(device, dtype, memory_format=torch.channels_last)


def weights_file(name: str, size: int, folder: Path) -> Path:
    """Write a file of random weights into `folder`, in place of a download, and return it; they take the same time."""
    path = folder / f"{name}-{size}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        save_file({key: tensor.contiguous() for key, tensor in network(name, size, CPU).state_dict().items()}, path)
    return path


def training_step(name: str, batch: int, size: int, device: torch.device, dtype: torch.dtype) -> Callable[[], Tensor]:
    """Return a step that trains the whole network on one resident batch: mixed precision, fused Adam."""
    model = network(name, size, device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    inputs = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,), device=device)

    def step() -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits = model(inputs)
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def forward_pass(name: str, batch: int, size: int, device: torch.device, dtype: torch.dtype) -> Callable[[], Tensor]:
    """Return a forward pass of the network, in eval mode and in `dtype` throughout, over one resident batch."""
    model = network(name, size, device, dtype).eval()
    inputs = torch.randn(batch, 3, size, size, device=device).to(dtype).contiguous(memory_format=torch.channels_last)
    return torch.inference_mode()(lambda: model(inputs))


def matrix_rate(device: torch.device, dtype: torch.dtype, side: int, *, times: int) -> float:
    """Return the rate of products of square matrices of random numbers, in floating point operations per second."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / seconds(lambda: a @ b, device, times=times)

"""The opponent `fair`: one run in well-optimised PyTorch.

As many DataLoader workers as cores, pinned memory, channels_last, mixed bfloat16, a fused optimizer, the frozen
network in eval mode and without gradients, large batches for validation, no waiting for the device within an epoch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import datasets, models, transforms

Batches = Iterable[tuple[Tensor, Tensor]]


def loader(root: Path, split: str, size: int, device: torch.device, *, augment: bool) -> DataLoader[tuple[Tensor, int]]:
    """Return the batches of a split; with `augment` a random resized crop and flip, afresh in every epoch."""
    if augment and split == "train":
        views = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip()]
    else:
        views = [transforms.Resize(size * 256 // 224), transforms.CenterCrop(size)]
    normal = [transforms.ToTensor(), transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
    return DataLoader(
        datasets.ImageFolder(root / split, transforms.Compose([*views, *normal])),
        batch_size=32 if split == "train" else 256,
        shuffle=split == "train",
        num_workers=os.cpu_count() or 1,
        pin_memory=device.type == "cuda",
        persistent_workers=True,
    )


def network(name: str, classes: int, size: int, device: torch.device) -> tuple[nn.Module, nn.Module]:
    """Return the frozen backbone and the new head."""
    if name.startswith("vit"):
        backbone = models.get_model(name, weights=None, image_size=size)
        width = backbone.heads.head.in_features
        backbone.heads = nn.Identity()
    else:
        backbone = models.get_model(name, weights=None)
        width = backbone.fc.in_features
        backbone.fc = nn.Identity()
    backbone.requires_grad_(False).eval()
    return backbone.to(device, memory_format=torch.channels_last), nn.Linear(width, classes).to(device)


def learning(head: nn.Module, lr: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(head.parameters(), lr=lr, fused=True)


def train_epoch(
    backbone: nn.Module, head: nn.Module, batches: Batches, optimizer: torch.optim.Optimizer, device: torch.device
) -> tuple[float, float]:
    """Train one epoch and return its training loss and accuracy."""
    sums = torch.zeros(3, device=device)
    for inputs, labels in batches:
        inputs = inputs.to(device, non_blocking=True, memory_format=torch.channels_last)
        labels = labels.to(device, non_blocking=True)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            with torch.no_grad():
                features = backbone(inputs)
            logits = head(features)
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        right = (logits.detach().argmax(1) == labels).sum()
        sums += torch.stack([loss.detach() * len(labels), right, torch.ones_like(right) * len(labels)])
    loss_sum, right_sum, count = sums.tolist()
    return loss_sum / count, right_sum / count


@torch.inference_mode()
def evaluate(backbone: nn.Module, head: nn.Module, batches: Batches, device: torch.device) -> float:
    """Return the accuracy."""
    sums = torch.zeros(2, device=device)
    for inputs, labels in batches:
        inputs = inputs.to(device, non_blocking=True, memory_format=torch.channels_last)
        labels = labels.to(device, non_blocking=True)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            right = (head(backbone(inputs)).argmax(1) == labels).sum()
        sums += torch.stack([right, torch.ones_like(right) * len(labels)])
    found, count = sums.tolist()
    return found / count


def main(root: Path, name: str, *, size: int, lr: float, epochs: int, device: torch.device) -> list[float]:
    """Train one run and return the training loss of every epoch."""
    train, val, test = (loader(root, split, size, device, augment=False) for split in ("train", "val", "test"))
    backbone, head = network(name, len([*(root / "train").iterdir()]), size, device)
    optimizer = learning(head, lr)
    losses = []
    for epoch in range(epochs):
        loss, accuracy = train_epoch(backbone, head, train, optimizer, device)
        losses.append(loss)
        val_accuracy = evaluate(backbone, head, val, device)
        print(f"epoch {epoch + 1}: loss {loss:.4f} accuracy {accuracy:.4f} val {val_accuracy:.4f}")
    print(f"test {evaluate(backbone, head, test, device):.4f}")
    return losses

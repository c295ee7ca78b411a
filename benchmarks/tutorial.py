"""The opponent `tutorial`: transfer learning as PyTorch's tutorial shows it, for one run.

A Dataset that opens files with PIL, torchvision's transforms, batches of 32 without workers, float32, the frozen
network in train mode, Adam on a new last layer, and validation after every epoch.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import models, transforms

Batches = Iterable[tuple[Tensor, Tensor]]


class Images(Dataset[tuple[Tensor, int]]):
    """The files of one folder with a folder per class."""

    def __init__(self, root: Path, size: int) -> None:
        self.files = sorted(root.glob("*/*"))
        self.classes = sorted({file.parent.name for file in self.files})
        self.transform = transforms.Compose(
            [
                transforms.Resize(size * 256 // 224),
                transforms.CenterCrop(size),
                transforms.ToTensor(),
                transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        file = self.files[index]
        image = Image.open(file).convert("RGB")
        return self.transform(image), self.classes.index(file.parent.name)


def loader(root: Path, split: str, size: int) -> DataLoader[tuple[Tensor, int]]:
    return DataLoader(Images(root / split, size), batch_size=32, shuffle=split == "train", num_workers=0)


def network(name: str, classes: int, size: int) -> nn.Module:
    """Return torchvision's network, frozen except for a new last layer; random weights take the same time."""
    if name.startswith("vit"):
        model = models.get_model(name, weights=None, image_size=size)
    else:
        model = models.get_model(name, weights=None)
    for parameter in model.parameters():
        parameter.requires_grad = False
    if name.startswith("vit"):
        model.heads.head = nn.Linear(model.heads.head.in_features, classes)
    else:
        model.fc = nn.Linear(model.fc.in_features, classes)
    return model


def learning(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    return torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)


def train_epoch(
    model: nn.Module, batches: Batches, optimizer: torch.optim.Optimizer, device: torch.device
) -> tuple[float, float]:
    """Train one epoch and return its training loss and accuracy."""
    criterion = nn.CrossEntropyLoss()
    model.train()
    loss_sum, right, count = 0.0, 0, 0
    for inputs, labels in batches:
        inputs, labels = inputs.to(device), labels.to(device)
        optimizer.zero_grad()
        outputs = model(inputs)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()
        loss_sum += loss.item() * len(labels)
        right += (outputs.argmax(1) == labels).sum().item()
        count += len(labels)
    return loss_sum / count, right / count


@torch.no_grad()
def evaluate(model: nn.Module, batches: Batches, device: torch.device) -> float:
    """Return the accuracy."""
    model.eval()
    right = count = 0
    for inputs, labels in batches:
        outputs = model(inputs.to(device))
        right += (outputs.argmax(1) == labels.to(device)).sum().item()
        count += len(labels)
    return right / count


def main(root: Path, name: str, *, size: int, lr: float, epochs: int, device: torch.device) -> list[float]:
    """Train one run and return the training loss of every epoch."""
    train, val = loader(root, "train", size), loader(root, "val", size)
    model = network(name, len([*(root / "train").iterdir()]), size).to(device)
    optimizer = learning(model, lr)
    losses = []
    for epoch in range(epochs):
        loss, accuracy = train_epoch(model, train, optimizer, device)
        losses.append(loss)
        print(f"epoch {epoch + 1}: loss {loss:.4f} accuracy {accuracy:.4f} val {evaluate(model, val, device):.4f}")
    print(f"test {evaluate(model, loader(root, 'test', size), device):.4f}")
    return losses

"""A split as a network sees it: the rows that were asked for, in their order, counted."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from frostline import evaluation, mapped
from frostline.data import Split
from frostline.mapped import Rows
from frostline.room import Room
from frostline.views import View, Views

CPU = torch.device("cpu")
MUCH = 1 << 30


def same(epoch: int) -> int:
    return epoch


def split() -> Split:
    """Return five images of one value each: ten times their place."""
    pixels = (torch.arange(5) * 10).to(torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 3, 4, 6).contiguous()
    sizes = torch.stack([torch.arange(5) + 100, torch.arange(5) + 200], 1).int()
    return Split(pixels, sizes, torch.tensor([4, 3, 2, 1, 0]), torch.tensor([70, 71, 72, 73, 74]), "5e")


def seen_through(view: View, memory_format: torch.memory_format = torch.contiguous_format) -> Views:
    return Views(split(), view, Room(CPU, MUCH), memory_format, view_of=same, identity={})


def test_a_view_is_given_the_rows_that_were_asked_for() -> None:
    given: list[tuple[Tensor, Tensor, Tensor, int]] = []

    def view(pixels: Tensor, sizes: Tensor, ids: Tensor, epoch: int) -> Tensor:
        given.append((pixels, sizes, ids, epoch))
        return pixels.float() + epoch

    views = seen_through(view)
    inputs = views.inputs(torch.tensor([3, 0, 3]), 2)
    ((pixels, sizes, ids, epoch),) = given
    assert pixels.dtype == torch.uint8
    assert pixels[:, 0, 0, 0].tolist() == [30, 0, 30]
    assert sizes.tolist() == [[103, 203], [100, 200], [103, 203]]
    assert ids.tolist() == [73, 70, 73]
    assert epoch == 2
    assert inputs[:, 0, 0, 0].tolist() == [32, 2, 32]


def test_labels_and_ids_are_those_of_the_split() -> None:
    views = seen_through(lambda pixels, sizes, ids, view: pixels.float())
    assert torch.equal(views.labels, split().labels)
    assert torch.equal(views.ids, split().ids)


def test_every_image_that_is_handed_out_is_counted() -> None:
    views = seen_through(lambda pixels, sizes, ids, view: pixels.float())
    assert views.seen == 0
    for index in ([0, 1, 2, 3], [4], [1, 1]):
        views.inputs(torch.tensor(index), 1)
    assert views.seen == 7


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_views_lie_in_memory_as_asked(memory_format: torch.memory_format) -> None:
    views = seen_through(lambda pixels, sizes, ids, view: pixels.float(), memory_format)
    inputs = views.inputs(torch.tensor([1, 4]), 0)
    assert inputs.shape == (2, 3, 4, 6)
    assert inputs.is_contiguous(memory_format=memory_format)
    assert inputs[:, 2, 3, 5].tolist() == [10, 40]


def test_what_is_read_from_a_file_is_read_while_the_batch_before_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = mapped.create(tmp_path / "pixels", (5, 3, 4, 6), torch.uint8)
    pixels.copy_(split().pixels)
    readers: list[str] = []
    read = Rows._read

    def told(self: Rows, file: int, index: Tensor) -> Tensor:
        readers.append(threading.current_thread().name)
        return read(self, file, index)

    monkeypatch.setattr(Rows, "_read", told)
    rest = split()
    views = Views(
        Split(Rows(pixels, torch.arange(5)), rest.sizes, rest.labels, rest.ids, "5e"),
        lambda pixels, sizes, ids, view: pixels.float(),
        *(Room(CPU, 0), torch.contiguous_format),
        **{"view_of": same, "identity": {}},
    )
    found = [views.inputs(index, 1) for index in evaluation.in_order(views, 2, 1)]
    assert torch.equal(torch.cat(found), split().pixels.float())
    assert sorted(name.partition("_")[0] for name in readers) == ["MainThread", "reader"]


def test_a_row_reaches_its_file_whole_or_that_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensor, values = mapped.create(tmp_path / "rows", (2, 3), torch.uint8), torch.tensor([7, 8, 9], dtype=torch.uint8)
    mapped.put(tensor, 1, values)
    assert tensor.tolist() == [[0, 0, 0], [7, 8, 9]] and (tmp_path / "rows").read_bytes() == bytes((0, 0, 0, 7, 8, 9))
    monkeypatch.setattr(mapped.os, "pwrite", lambda *arguments: 2)
    with pytest.raises(OSError, match="whole"):
        mapped.put(tensor, 0, values)

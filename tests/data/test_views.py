"""Views of a split: they return the requested rows in order and count them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from frostline.data.augment import Crop
from frostline.data.bit_depth import FULL
from frostline.data.decode_on_demand import Undecoded
from frostline.data.resize import CenterCrop
from frostline.data.splits import Split
from frostline.data.views import View, Views
from frostline.store import mapped
from frostline.store.device_budget import DeviceBudget
from frostline.store.ragged import Ragged
from frostline.store.rows import Rows
from frostline.training import dataset

CENTER = CenterCrop(size=4, resize=4, interpolation="bilinear")
MUCH = 1 << 30


def split(pixels: Rows | Ragged | Undecoded | None = None) -> Split:
    """Return five images; unless `pixels` are given, the values of each are ten times its index."""
    values = (torch.arange(5) * 10).to(torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 3, 4, 4).contiguous()
    sizes = torch.stack([torch.arange(5) + 100, torch.arange(5) + 200], 1).int()
    labels, ids, digests = torch.arange(4, -1, -1), torch.arange(70, 75), torch.zeros(5, 32, dtype=torch.uint8)
    return Split(pixels or Rows(values, torch.arange(5)), pixels is None, sizes, labels, ids, digests, "5e")


def plain(views: Tensor, ids: Tensor, number: int) -> Tensor:
    return views


PLAIN = View(CENTER, None, plain)


def views_of(
    images: Split,
    view: View = PLAIN,
    budget: int = 0,
    device: str = "cpu",
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Views:
    """Return views of a split; they keep at most `budget` bytes on the device, and are the same in every epoch."""
    room = DeviceBudget(torch.device(device), budget)
    return Views(images, view, room, memory_format, view_of=lambda epoch: epoch, identity={})


def test_view_gets_the_requested_rows() -> None:
    given: list[tuple[Tensor, Tensor, int]] = []

    def finish(views: Tensor, ids: Tensor, number: int) -> Tensor:
        given.append((views.clone(), ids, number))
        return views + number

    views = views_of(split(), View(CENTER, None, finish), MUCH)
    inputs = views.inputs(torch.tensor([3, 0, 3]), 2)
    ((shown, ids, number),) = given
    assert shown.dtype == torch.float32
    assert shown[:, 0, 0, 0].tolist() == [30, 0, 30]
    assert ids.tolist() == [73, 70, 73]
    assert number == 2
    assert inputs[:, 0, 0, 0].tolist() == [32, 2, 32]


def test_labels_are_those_of_the_split() -> None:
    views = views_of(split(), budget=MUCH)
    assert torch.equal(views.labels, split().labels)


def test_images_handed_out_are_counted() -> None:
    views = views_of(split(), budget=MUCH)
    assert views.seen == 0
    for index in ([0, 1, 2, 3], [4], [1, 1]):
        views.inputs(torch.tensor(index), 1)
    assert views.seen == 7


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_views_have_the_requested_memory_format(memory_format: torch.memory_format) -> None:
    views = views_of(split(), budget=MUCH, memory_format=memory_format)
    inputs = views.inputs(torch.tensor([1, 4]), 0)
    assert inputs.shape == (2, 3, 4, 4)
    assert inputs.is_contiguous(memory_format=memory_format)
    assert inputs[:, 2, 3, 3].tolist() == [10, 40]


def test_file_reads_overlap_with_the_previous_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = mapped.create(tmp_path / "pixels", (5, 3, 4, 4), torch.uint8)
    pixels.copy_(split().pixels[torch.arange(5)])
    readers: list[str] = []
    read = Rows._read

    def noting(self: Rows, file: int, index: Tensor) -> Tensor:
        readers.append(threading.current_thread().name)
        return read(self, file, index)

    monkeypatch.setattr(Rows, "_read", noting)
    from_file = replace(split(), pixels=Rows(pixels, torch.arange(5)))
    views = views_of(from_file)
    found = [views.inputs(index, 1) for index in dataset.prefetched(views, dataset.ordered(views, 2), 1)]
    assert torch.equal(torch.cat(found), split().pixels[torch.arange(5)].float())
    assert sorted(name.partition("_")[0] for name in readers) == ["MainThread", "reader"]


def test_storage_kinds_give_identical_views(tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (20 + i, 30 - i, 3), dtype=torch.uint8, generator=random) for i in range(5)]
    shapes = torch.tensor([image.shape[:2] for image in images], dtype=torch.int32)
    lengths = 3 * shapes.long().prod(1)
    starts = lengths.cumsum(0) - lengths
    kept = mapped.create(tmp_path / "pixels", (int(lengths.sum()),), torch.uint8)
    for image, start in zip(images, starts.tolist(), strict=True):
        mapped.put(kept, start, image)
    sizes = shapes.flip(1)

    def crop(sizes: Tensor, ids: Tensor, number: int) -> Crop:
        return Crop(torch.tensor([[0.1, 0.2, 0.8, 0.9]]).repeat(len(ids), 1), ids % 2 == 0)

    undecoded = Undecoded(lambda i: Image.fromarray(images[i - 70].numpy()), str, torch.arange(70, 75), FULL)
    for cut in (None, crop):
        found = []
        for pixels, budget in ((Ragged(kept, starts, shapes), MUCH), (Ragged(kept, starts, shapes), 0), (undecoded, 0)):
            views = views_of(replace(split(pixels), sizes=sizes), View(CENTER, cut, plain), budget)
            ahead = [views.inputs(index, 1) for index in dataset.prefetched(views, dataset.ordered(views, 2), 1)]
            assert torch.equal(torch.cat(ahead), views.inputs(torch.arange(5), 1))
            found.append(torch.cat(ahead))
            assert views.images(torch.tensor([2])).shape == (1, 3, 4, 4)
        assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
        assert len(found[0].flatten(1).unique(dim=0)) == 5


def test_identity_separates_cpu_and_gpu_rounding() -> None:
    def identity(images: Split, device: str) -> Mapping[str, object]:
        return views_of(images, device=device).identity

    centred, whole = split(), replace(split(), centred=False)
    exact, storable = (
        split(Undecoded(lambda i: Image.new("RGB", (4, 4)), str, torch.arange(5), FULL, exact=exact))
        for exact in (True, False)
    )
    by_cpu = [
        *(identity(one, "cpu") for one in (centred, whole, storable)),
        identity(centred, "meta"),
        identity(exact, "meta"),
    ]
    by_card = [identity(whole, "meta"), identity(storable, "meta")]
    assert by_cpu == [by_cpu[0]] * 5 and by_card == [by_card[0]] * 2 and by_cpu[0] != by_card[0]


def test_unreadable_image_is_named() -> None:
    def read(index: int) -> Image.Image:
        raise FileNotFoundError(index)

    views = views_of(split(Undecoded(read, "cat/{}.png".format, torch.arange(5), FULL)))
    with pytest.raises(OSError, match=r"cat/3\.png: missing.*could be read before"):
        views.inputs(torch.tensor([3]), 1)


def test_incomplete_write_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensor, values = mapped.create(tmp_path / "rows", (2, 3), torch.uint8), torch.tensor([7, 8, 9], dtype=torch.uint8)
    mapped.put(tensor, 3, values)
    assert tensor.tolist() == [[0, 0, 0], [7, 8, 9]] and (tmp_path / "rows").read_bytes() == bytes((0, 0, 0, 7, 8, 9))
    monkeypatch.setattr(mapped.os, "pwrite", lambda *arguments: 2)
    with pytest.raises(OSError, match="did not take all"):
        mapped.put(tensor, 0, values)

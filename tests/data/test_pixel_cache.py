"""Pixel cache: equal preprocessing shares stored pixels, and pixels that do not fit give the same views."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from test_decode_all import forbid_decoding
from torch import Tensor

from emulated_card import UNNOTICED, EmulatedMachine
from frostline.core import memory
from frostline.data import decode_all, loading, pixel_cache
from frostline.data.augment import Crop
from frostline.data.decode_on_demand import Undecoded
from frostline.data.pixel_cache import ViewSpec
from frostline.data.resize import CenterCrop, center_crop
from frostline.data.splits import Data, Split
from frostline.data.views import View, Views
from frostline.store import mapped
from frostline.store.device_budget import DeviceBudget
from frostline.store.ragged import Ragged
from frostline.store.rows import Rows
from frostline.store.store import Store
from frostline.store.writer import Writer
from small import data_config, no_progress, plain_config, read_image

CENTER = CenterCrop(size=32, resize=36, interpolation="bilinear")
CPU = torch.device("cpu")
MUCH, LITTLE = 10**9, 30_000  # bytes; half of LITTLE holds 4 views


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder per photograph, each with patches of many sizes."""
    root, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name in ("china", "flower"):
        (root / name).mkdir()
        for index in range(12):
            height, width, top, left = random.integers((40, 50, 0, 0), (200, 300, 200, 300))
            patch = load_sample_image(f"{name}.jpg")[top : top + height, left : left + width]
            Image.fromarray(patch).save(root / name / f"{index:02}.jpg", quality=90)
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


def load(
    photos: Path,
    store: Path | None,
    *,
    center: CenterCrop = CENTER,
    side: int | None = None,
    budget: int = MUCH,
    **changes: Any,
) -> Data:
    loading._last.clear()
    request = {**plain_config("data=image_folder", f"data.root={photos}")["data"], **changes}
    own = Store(store, budget=budget, say=print)
    return loading.load(data_config(**request), spec=ViewSpec(center, side), store=own, progress=no_progress)


def views_of(split: Split, device: torch.device = CPU, *, crop: bool = False) -> Tensor:
    """Return the views of all images, or of a box in each."""

    def box(sizes: Tensor, ids: Tensor, number: int) -> Crop:
        return Crop(torch.tensor([[0.2, 0.1, 0.9, 0.7]], device=ids.device).repeat(len(ids), 1), None)

    view = View(CENTER, box if crop else None, lambda views, ids, number: views)
    room = DeviceBudget(device, MUCH)
    views = Views(split, view, room, torch.contiguous_format, view_of=lambda epoch: 0, identity={})
    return views.inputs(torch.arange(len(split)), 1)


def test_equal_preprocessing_decodes_nothing_again(photos: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(photos, folder)
    forbid_decoding(monkeypatch)
    second = load(photos, folder, center=CenterCrop(size=32, resize=36, interpolation="bilinear"))
    assert torch.equal(views_of(second.test), views_of(first.test))
    for other in ({"size": 30}, {"resize": 40}, {"interpolation": "bicubic"}):
        with pytest.raises(AssertionError, match="decoded again"):
            load(photos, folder, center=replace(CENTER, **other))


@pytest.mark.parametrize(("side", "pixels"), [(None, "auto"), (60, "auto"), (60, "exact")])
def test_other_draws_of_train_decode_their_training_images_alone(
    photos: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, side: int | None, pixels: str
) -> None:
    decoded = list[int]()
    decode = pixel_cache.decode_all

    def counted(writer: Writer, ids: Sequence[int], *given: Any, **more: Any) -> dict[str, Any]:
        decoded.append(len(ids))
        return decode(writer, ids, *given, **more)

    def draw(**size: int) -> Data:
        decoded.clear()
        return load(photos, folder, side=side, pixels=pixels, **size)

    monkeypatch.setattr(pixel_cache, "decode_all", counted)
    first = draw(limit=4)
    assert decoded == [4, len(first.val) + len(first.test)]
    other = draw(limit=4, subset_seed=1)
    assert decoded == [4] and other.train.ids.tolist() != first.train.ids.tolist()
    assert torch.equal(views_of(other.val), views_of(first.val))
    whole = draw()
    assert sum(decoded) == (len(whole.train) if side else 24)  # all images are kept alike without random crops
    again = draw(limit=9)
    assert decoded == ([9] if side else [])  # the entry of all images serves every draw
    assert torch.equal(views_of(again.val), views_of(whole.val)) and again.val.digest == whole.val.digest


@pytest.mark.parametrize("side", [None, 60, 500])
@pytest.mark.parametrize("card", [False, True])
def test_pixels_that_do_not_fit_give_the_same_views(photos: Path, tmp_path: Path, side: int | None, card: bool) -> None:
    kept = load(photos, tmp_path / "large", side=side)
    not_kept = load(photos, tmp_path / "small", side=side, budget=LITTLE)
    assert isinstance(not_kept.test.pixels, Undecoded) and not isinstance(kept.test.pixels, Undecoded)
    assert isinstance(not_kept.train.pixels, Undecoded) and isinstance(kept.train.pixels, Ragged if side else Rows)
    assert (kept.fingerprint, kept.pixels, kept.cut_from) == (not_kept.fingerprint, not_kept.pixels, not_kept.cut_from)
    with EmulatedMachine().running() if card else nullcontext():
        device = torch.device("cuda" if card else "cpu")
        for name in ("train", "val", "test"):
            found = [
                views_of(getattr(data, name), device, crop=name == "train" and bool(side)) for data in (kept, not_kept)
            ]
            assert torch.equal(*found) and found[0].cpu().unique().numel() > 200


@pytest.mark.parametrize("side", [None, 60])
def test_batches_reach_the_gpu_without_waiting(photos: Path, tmp_path: Path, side: int | None) -> None:
    not_kept = load(photos, tmp_path / "small", side=side, budget=LITTLE)
    kept = load(photos, tmp_path / "large", side=side)
    with EmulatedMachine().running() as there:
        card = torch.device("cuda")
        view = View(CENTER, None, lambda views, ids, number: views)
        for split in (not_kept.train, not_kept.test, kept.train, kept.test):
            how: dict[str, Any] = {"view_of": lambda epoch: 0, "identity": {}}
            views = Views(split, view, DeviceBudget(card, 0), torch.contiguous_format, **how)
            there.waits.clear()
            there.sent.clear()
            views.inputs(torch.arange(2), 1)
            assert not +there.waits and there.sent.total() > 2 * UNNOTICED


def test_pixels_that_do_not_fit_are_not_written(photos: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = list[int]()
    create = mapped.create

    def created(path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        tensor = create(path, shape, dtype)
        written.append(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()))
        return tensor

    monkeypatch.setattr(mapped, "create", created)
    for pixels in ("auto", "stored", "70"):
        load(photos, folder, side=70, budget=LITTLE, pixels=pixels)
    assert max(written) < 24 * 200


def test_nearly_full_disk_stores_no_pixels(photos: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large, spare = 10**9, 10**12, 5 * 10**9
    room = ((small, small // 10, True), (small, small // 20 + LITTLE, False), (small, 0, False))
    for total, free, kept in (*room, (large, spare + small, True), (large, spare + LITTLE, False)):
        usage = SimpleNamespace(total=total, free=free)
        monkeypatch.setattr(shutil, "disk_usage", lambda place, usage=usage: usage)
        found = load(photos, folder / str(free))
        assert isinstance(found.train.pixels, Undecoded) is not kept
        if kept:
            expected = found.fingerprint
        assert found.fingerprint == expected


def test_disk_filling_up_does_not_change_views(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = views_of(load(photos, tmp_path / "one").test)
    monkeypatch.setattr(Store, "room_per_kind", 10**9)  # the estimate before the disk fills up
    monkeypatch.setattr(memory, "budget", lambda device, gigabytes: LITTLE)
    found = load(photos, tmp_path / "two", budget=LITTLE)
    assert isinstance(found.test.pixels, Undecoded) and torch.equal(views_of(found.test), expected)


def test_facts_of_unstored_images_are_shared(photos: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crops = load(photos, folder, side=60, budget=LITTLE)
    forbid_decoding(monkeypatch)
    assert load(photos, folder, budget=LITTLE).fingerprint == crops.fingerprint
    assert load(photos, folder, side=60, budget=LITTLE, pixels="exact").fingerprint == crops.fingerprint


def test_pixels_option_chooses_the_source_of_crops(photos: Path, folder: Path) -> None:
    exact = load(photos, folder, side=60, pixels="exact")
    stored = load(photos, folder, side=60, pixels="stored")
    assert isinstance(exact.train.pixels, Undecoded) and isinstance(stored.train.pixels, Ragged)
    assert exact.cut_from == "the original pixels"
    assert stored.cut_from == "images reduced to a shorter side of 60 pixels"
    assert load(photos, folder, side=500, pixels="stored").cut_from == "the original pixels"
    close = (views_of(exact.train, crop=True) - views_of(stored.train, crop=True)).abs().mean()
    assert 0 < close < 6
    originals = load(photos, folder, side=500, pixels="stored")
    assert torch.equal(views_of(exact.train, crop=True), views_of(originals.train, crop=True))
    for found in (exact, stored):  # val and test views are centre crops with either
        assert torch.equal(views_of(found.test), views_of(load(photos, folder).test))


def test_stored_pixels_are_used_after_budget_shrinks(
    photos: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(photos, folder, side=60)
    forbid_decoding(monkeypatch)
    assert isinstance(load(photos, folder, side=60, budget=LITTLE).train.pixels, Ragged)


def test_small_images_of_many_sizes_are_not_enlarged(tmp_path: Path, folder: Path) -> None:
    random, small = np.random.default_rng(0), tmp_path / "small"
    for index in range(24):
        (small / "ab"[index % 2]).mkdir(parents=True, exist_ok=True)
        shape = (20 + index % 3, 24 - index % 2, 3)
        Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(
            small / "ab"[index % 2] / f"{index:02}.png"
        )
    found = load(small, folder)
    assert isinstance(found.test.pixels, Ragged) and found.train.pixels.nbytes < len(found.train) * 22 * 24 * 3
    views = Store(folder, budget=MUCH, say=print).items()
    assert sum(item.size for item in views) < 24 * (22 * 24 * 3 + 200) < 24 * 3 * 32 * 32
    each = [read_image(file) for file in sorted(small.rglob("*.png"))]
    expected = torch.cat([center_crop(each[index][None], CENTER) for index in found.test.ids])
    assert torch.equal(views_of(found.test), expected.float())
    streamed = load(small, tmp_path / "none", budget=1000)
    assert isinstance(streamed.test.pixels, Undecoded) and torch.equal(views_of(streamed.test), expected.float())


def test_small_images_of_one_size_are_stored_once(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (place := tmp_path / "small" / name).mkdir(parents=True)
        for index in range(8):
            Image.fromarray(random.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(place / f"{index}.png")
    first = load(tmp_path / "small", folder)
    assert first.test.pixels.shape[1:] == (3, 20, 24) and not first.test.centred
    forbid_decoding(monkeypatch)
    for center in (CENTER, CenterCrop(48, 50, "bicubic")):
        assert load(tmp_path / "small", folder, center=center, side=40).cut_from == "the original pixels"


def test_oversized_image_is_never_decoded(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "mixed" / name).mkdir(parents=True)
        for index in range(7):
            Image.new("RGB", (20, 20), (40 * index, 0, 0)).save(tmp_path / "mixed" / name / f"{index}.png")
    Image.new("RGB", (60, 60)).save(tmp_path / "mixed" / "cat" / "0.png")
    decoded: list[tuple[int, int]] = []
    convert = decode_all.convert
    monkeypatch.setattr(
        decode_all, "convert", lambda image, levels: (decoded.append(image.size), convert(image, levels))[1]
    )
    found = load(tmp_path / "mixed", folder, max_pixels=1000, skip_bad=True)
    assert found.counts["skipped"] == 1 and (60, 60) not in decoded

"""Decoding a data set: once per image, with every broken image and every conversion reported."""

from __future__ import annotations

import errno
import hashlib
import os
import struct
import subprocess
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from frostline.core import memory
from frostline.core.errors import UserError
from frostline.data import broken_images, loading, pixel_cache, splits
from frostline.data import decode_all as decoder
from frostline.data.decode_all import Differing, decode_all
from frostline.data.listing import survey
from frostline.data.pixel_cache import ViewSpec
from frostline.data.pixel_form import PixelForm
from frostline.data.resize import CenterCrop
from frostline.report.terminal import Screen
from frostline.runs import checks, run_data
from frostline.store import store as storing
from frostline.store import unfinished
from frostline.store.checksums import DamagedEntry
from frostline.store.ragged import Ragged
from frostline.store.rows import Rows
from frostline.store.store import Store
from frostline.store.writer import Writer
from numbered import findings
from small import compose, data_config, no_progress

RED = (250, 20, 10)
SMALL = CenterCrop(size=10, resize=12, interpolation="bilinear")  # smaller than the images


def noise(side: int = 64, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8))


def decoded(images: list[Image.Image], form: PixelForm, **options: Any) -> tuple[dict[str, Tensor], list[list[Any]]]:
    writer = Writer()
    read = [image.copy for image in images]
    meta = decode_all(
        writer,
        range(len(images)),
        lambda index: read[index](),
        **{"form": form, "max_pixels": 10**6, "progress": lambda count: None, **options},
    )
    return writer.tensors, meta["bad"]


def test_views_are_stored_with_the_original_sizes():
    center = CenterCrop(size=6, resize=6, interpolation="bilinear")
    found, bad = decoded(
        [Image.new("RGB", size, RED) for size in ((4, 8), (30, 20), (6, 6))], PixelForm("view", view=center)
    )
    assert found["pixels"].shape == (3, 3, 6, 6) and found["pixels"].dtype == torch.uint8 and bad == []
    assert (found["pixels"] == torch.tensor(RED).view(3, 1, 1)).all()
    assert found["sizes"].tolist() == [[4, 8], [30, 20], [6, 6]] and found["sizes"].dtype == torch.int32


def test_originals_must_have_one_size_and_keep_every_pixel():
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 255, (5, 7, 3), dtype=np.uint8) for _ in range(40)]
    counted: list[int] = []
    found, _ = decoded([Image.fromarray(array) for array in arrays], PixelForm("original"), progress=counted.append)
    assert (found["pixels"].permute(0, 2, 3, 1).numpy() == np.stack(arrays)).all() and sum(counted) == 40
    for array, digest in zip(arrays, found["digests"], strict=True):
        assert bytes(digest.tolist()) == hashlib.sha256(array.tobytes()).digest()
    with pytest.raises(Differing):
        decoded([Image.new("RGB", (5, 7)), Image.new("RGB", (7, 5))], PixelForm("original"))


def test_stored_images_keep_shape_and_small_ones_all_pixels(tmp_path: Path):
    large, small = noise(100).crop((0, 0, 100, 60)), noise(24).crop((0, 0, 10, 24))
    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(90).crop((0, 0, 90, 60)).save(turned, exif=exif)
    found, bad = decoded([large, small, Image.open(turned)], PixelForm("stored", side=30))
    assert bad == []
    kept = Ragged(found["pixels"], found["starts"], found["shapes"])[torch.arange(3)]
    assert [tuple(image.shape) for image in kept] == [(3, 30, 50), (3, 24, 10), (3, 45, 30)]
    assert (kept[1].permute(1, 2, 0).numpy() == np.asarray(small)).all()
    assert (kept[0].permute(1, 2, 0).numpy() == np.asarray(large.resize((50, 30), Image.Resampling.LANCZOS))).all()
    assert len(found["pixels"]) == 3 * (30 * 50 + 24 * 10 + 45 * 30)


def save(file: Path, image: Image.Image, **options: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file, **options)


def forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode_again(*_: object, **__: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(pixel_cache, "decode_all", decode_again)


def write_images(root: Path, count: int = 6) -> None:
    """Write readable images of two classes."""
    for index in range(count):
        for label, name in enumerate(("cat", "dog")):
            save(root / name / f"good{index}.png", Image.new("RGB", (20, 14), (100 * label, 20 * index, 7)))


def truncated(suffix: str, keep: float) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        noise().save(file.with_suffix(suffix))
        content = file.with_suffix(suffix).read_bytes()
        file.with_suffix(suffix).unlink()
        file.write_bytes(content[: round(keep * len(content))])

    return write


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(file: Path) -> None:
    """Write a file of a hundred bytes whose header promises 30,000 x 30,000 pixels."""
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")))


def flipped(file: Path) -> None:
    noise().save(file)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "empty.jpg": (lambda file: file.write_bytes(b""), "empty"),
    "text.jpg": (lambda file: file.write_text("hello"), "not an image"),
    "zeros.png": (lambda file: file.write_bytes(bytes(5000)), "not an image"),
    "page.webp": (lambda file: file.write_text("<html>404</html>"), "not an image"),
    "pointer.png": (lambda file: file.write_text("version https://git-lfs.github.com/spec/v1"), "pointer of Git LFS"),
    "archive.jpeg": (lambda file: file.write_bytes(b"PK\x03\x04" + bytes(100)), "not an image"),
    "vector.gif": (lambda file: file.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>"), "not an image"),
    "half.jpg": (truncated(".jpg", 0.5), "truncated"),
    "half.JPG": (truncated(".jpeg", 0.4), "truncated"),
    "half.png": (truncated(".png", 0.5), ""),
    "half.gif": (truncated(".gif", 0.5), ""),
    "half.bmp": (truncated(".bmp", 0.5), "truncated"),
    "half.webp": (truncated(".webp", 0.5), ""),
    "half.tiff": (truncated(".tif", 0.5), ""),
    "half.avif": (truncated(".avif", 0.5), ""),
    "head.jpg": (truncated(".jpg", 0.02), ""),
    "head.png": (truncated(".png", 0.003), ""),
    "flipped.png": (flipped, ""),
    "bomb.png": (bomb, "900,000,000 pixels, more than data.max_pixels"),
    "large.png": (
        lambda file: Image.new("RGB", (1001, 1000)).save(file),
        "1,001,000 pixels, more than data.max_pixels",
    ),
    "link.png": (lambda file: file.symlink_to("nowhere.png"), "a broken link"),
    "circle.png": (lambda file: file.symlink_to(file.name), ""),
    "folder.jpg": (Path.mkdir, "a folder"),
    "pipe.jpg": (os.mkfifo, "not a regular file"),
}


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    write_images(tmp_path)
    for name, (write, _) in BROKEN.items():
        write(tmp_path / "dog" / name)
    return tmp_path


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("own") / "store", budget=10**8, say=print)


def load(root: Path, store: Store, **changes: Any) -> splits.Data:
    loading._last.clear()
    spec = ViewSpec(changes.pop("center", SMALL), changes.pop("side", None))
    config = data_config(source="folder", root=str(root), **changes)
    return loading.load(config, spec=spec, store=store, progress=no_progress)


def test_error_names_exactly_the_broken_images(broken: Path, store: Store):
    with pytest.raises(broken_images.BadImages) as raised:
        load(broken, store)
    reasons = dict(raised.value.reasons)
    assert set(reasons) == {f"dog/{name}" for name in BROKEN}
    for name, (_, expected) in BROKEN.items():
        assert expected in reasons[f"dog/{name}"] and "\n" not in reasons[f"dog/{name}"], reasons
    line = str(raised.value)
    assert f"{len(BROKEN)} of {len(BROKEN) + 12} cannot" in line and "data.skip_bad=true" in line and "\n" not in line


def test_broken_images_are_listed_before_the_sweep(broken: Path, capsys: pytest.CaptureFixture[str]):
    config = compose("data=image_folder", f"data.root={broken}", "data.max_pixels=1000000")
    loading._last.clear()
    with pytest.raises(UserError, match="24 of 36 cannot"):
        checks.check(config)
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 21 and all(" dog/" in line for line in shown[:20])
    assert shown[20].startswith("  and 4 more: all are listed in ")
    listed = Path(shown[20].split()[-1])
    assert {line.partition(":")[0] for line in listed.read_text().splitlines()} == {f"dog/{name}" for name in BROKEN}
    listed.unlink()


def test_list_of_broken_images_has_names_that_are_not_utf8(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run_data._list([(os.fsdecode(b"caf\xe9.png"), "broken")] * 21, Screen.silent())
    (listed,) = tmp_path.iterdir()
    assert listed.read_bytes().splitlines()[20] == b"caf\xe9.png: broken"


def test_skip_bad_counts_images_and_moves_no_others(broken: Path, store: Store):
    found = load(broken, store, skip_bad=True)
    assert found.counts == {"skipped": len(BROKEN)}
    splits = (found.train, found.val, found.test)
    ids = torch.cat([split.ids for split in splits])
    files = survey(broken / "cat").files + survey(broken / "dog").files
    assert {files[index].name for index in ids.tolist()} == {f"good{index}.png" for index in range(6)}
    for split in splits:
        for index, pixels in zip(split.ids.tolist(), split.pixels, strict=True):
            assert pixels[1, 0, 0] == 20 * int(files[index].stem[-1])
    for number, name in enumerate(BROKEN):
        path = broken / "dog" / name
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        Image.new("RGB", (20, 14), (number, 0, 0)).save(path, format="PNG")
    whole = load(broken, store)
    for split, other in zip(splits, (whole.train, whole.val, whole.test), strict=True):
        assert set(split.ids.tolist()) <= set(other.ids.tolist())


def test_class_without_readable_images_is_refused(tmp_path: Path, store: Store):
    write_images(tmp_path)
    for index in range(6):
        (tmp_path / "eel").mkdir(exist_ok=True)
        (tmp_path / "eel" / f"{index}.jpg").write_text("no image")
    with pytest.raises(UserError, match=r"data\.skip_bad=true: .*eel"):
        load(tmp_path, store, skip_bad=True)


def test_conversions_are_counted(tmp_path: Path, store: Store):
    write_images(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    odd = tmp_path / "cat"
    save(odd / "turned.jpg", noise(), exif=exif)
    save(odd / "still.gif", noise(), save_all=True, append_images=[noise(seed=1), noise(seed=2)])
    save(odd / "phone.jpg", noise(), format="MPO", save_all=True, append_images=[noise(seed=1)])
    save(odd / "deep.png", Image.fromarray(np.full((4, 4), 40_000, dtype=np.uint16)))
    save(odd / "few.PNG", noise().convert("P"))
    save(odd / "ink.jpg", noise().convert("CMYK"))
    save(odd / "plain.webp", noise())
    save(odd / "plain.avif", noise())
    save(odd / "grey.JPG", noise().convert("L"))
    save(odd / "glass.png", noise().convert("RGBA"))
    for name in ("._turned.jpg", ".DS_Store", "notes.txt", "Thumbs.db"):
        (odd / name).write_text("x")
    found = load(tmp_path, store)
    counts = {"upright": 1, "first_frame": 1, "sixteen_bits": 1, "cmyk": 1, "alpha": 1, "hidden": 2, "other": 2}
    assert found.counts == {**counts, "palette": 2, "grayscale": 2}  # the GIF has a palette, and deep.png is grey
    pages = "1 image has several pages or frames: only the first of each is used"
    assert [one.alarming for one in found.findings if one.about == pages] == [True]
    assert sum(len(split) for split in (found.train, found.val, found.test)) == 12 + 10


def test_files_are_sorted_by_path(tmp_path: Path):
    for name in ("b.png", "a/2.png", "a/10.png", "a.png", "a-b/x.png", "a/c/z.png", "B/x.png", "a/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    files = survey(tmp_path).files
    assert len(files) == 8 and files == sorted(files)


def test_linked_folders_are_read_once(tmp_path: Path):
    write_images(tmp_path / "images", 2)
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "cats").symlink_to(tmp_path / "images" / "cat")
    (tmp_path / "all" / "again").symlink_to(tmp_path / "all")
    assert [file.name for file in survey(tmp_path / "all").files] == ["good0.png", "good1.png"]


def test_links_to_parent_folders_are_ignored(tmp_path: Path):
    write_images(tmp_path, 2)
    (tmp_path / "dog" / "up").symlink_to(tmp_path)
    (tmp_path / "dog" / "deep").mkdir()
    (tmp_path / "dog" / "deep" / "self").symlink_to(tmp_path / "dog")
    assert [file.parent.name for file in survey(tmp_path / "dog").files] == ["dog", "dog"]


def test_unlistable_folder_is_reported(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch):
    write_images(tmp_path)
    (tmp_path / "cat" / "deep").mkdir()
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if not isinstance(path, int) and Path(path).name == "deep":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    with (
        monkeypatch.context() as patch,
        pytest.raises(broken_images.BadImages, match="cat/deep: Permission denied"),
    ):
        patch.setattr(os, "scandir", refuse)
        load(tmp_path, store)
    assert not load(tmp_path, store).counts


def test_temporary_read_errors_are_not_remembered(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch):
    write_images(tmp_path)
    opened = Image.open
    for number in (errno.EACCES, errno.EMFILE, errno.EIO):

        def refuse(file: Any, number: int = number, **options: Any) -> Image.Image:
            if Path(file).name == "good0.png":
                raise OSError(number, os.strerror(number), str(file))
            return opened(file, **options)

        with monkeypatch.context() as patch:
            patch.setattr(Image, "open", refuse)
            assert load(tmp_path, store, skip_bad=True).counts == {"skipped": 2}
            with pytest.raises(broken_images.BadImages, match=os.strerror(number)):
                load(tmp_path, store)
    assert load(tmp_path, store).counts == {}


def test_undecodable_names_are_escaped(tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]):
    write_images(tmp_path)
    for name in (b"caf\xe9.png", b"two\nlines.png", b"\x1b[31mred.png"):
        Path(os.fsdecode(os.fsencode(tmp_path / "cat") + b"/" + name)).write_text("none")
    for index in range(20):
        (tmp_path / "dog" / f"{index}.png").write_text("none")
    loading._last.clear()
    with pytest.raises(UserError, match="23 of 35 cannot"):
        checks.check(compose("data=image_folder", f"data.root={tmp_path}"))
    shown = capsys.readouterr().out
    listed = Path(shown.splitlines()[20].split()[-1])
    for text in (shown.partition("  and ")[0], listed.read_text()):
        assert all(name in text for name in (r"caf\udce9.png: ", r"two\nlines.png: ", r"\x1b[31mred.png: "))
    listed.unlink()


def test_file_without_read_permission_is_reported(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch):
    write_images(tmp_path)
    (tmp_path / "cat" / "good0.png").chmod(0)
    if os.geteuid() == 0:  # root may read any file
        opened = Image.open

        def refuse(file: Any, **options: Any) -> Image.Image:
            if Path(file).stat().st_mode & 0o777 == 0:
                raise PermissionError(13, "Permission denied", str(file))
            return opened(file, **options)

        monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(broken_images.BadImages, match=r"cat/good0\.png: Permission denied"):
        load(tmp_path, store)
    (tmp_path / "cat" / "good0.png").chmod(0o600)
    load(tmp_path, store)


def test_decoded_images_and_subsets_are_reused(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch):
    write_images(tmp_path)
    first = load(tmp_path, store)
    forbid_decoding(monkeypatch)
    second = load(tmp_path, store)
    assert second.fingerprint == first.fingerprint
    for name in ("train", "val", "test"):
        assert torch.equal(getattr(second, name).pixels[:], getattr(first, name).pixels[:])
    few = load(tmp_path, store, limit=3, val_fraction=0.3)
    rows = torch.searchsorted(first.train.ids, few.train.ids)
    assert torch.equal(few.train.pixels[:], first.train.pixels[rows])
    with pytest.raises(AssertionError, match="decoded again"):
        load(tmp_path, store, center=replace(SMALL, interpolation="bicubic"))


def test_limited_data_decodes_only_what_it_needs(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch):
    write_images(tmp_path, 30)
    read: list[int] = []
    keep = decoder._view
    monkeypatch.setattr(decoder, "_view", lambda how, row, image: (read.append(row), keep(how, row, image))[1])
    few = load(tmp_path, store, limit=2, val_fraction=0.1, test_fraction=0.1)
    assert len(read) == len(few.train) + len(few.val) + len(few.test) < 20
    read.clear()
    load(tmp_path, store, limit=2, val_fraction=0.1, test_fraction=0.1)
    assert read == []


@pytest.mark.parametrize("change", ["content", "name", "new", "gone"])
def test_changed_files_are_decoded_again(tmp_path: Path, store: Store, change: str):
    write_images(tmp_path)
    first = load(tmp_path, store)
    file = tmp_path / "cat" / "good0.png"
    times = (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    if change == "content":  # same length and time
        Image.new("RGB", (20, 14), (1, 1, 1)).save(file)
        os.utime(file, ns=times)
    elif change == "name":
        file.rename(file.with_name("z.png"))
    elif change == "new":
        save(tmp_path / "cat" / "new.png", noise())
    else:
        file.unlink()
    assert load(tmp_path, store).fingerprint != first.fingerprint


def test_fingerprint_does_not_depend_on_store_or_place(tmp_path: Path, store: Store):
    write_images(tmp_path / "here")
    subprocess.run(["cp", "-r", str(tmp_path / "here"), str(tmp_path / "there")], check=True)
    first = load(tmp_path / "here", store)
    assert load(tmp_path / "here", Store(None, budget=10**8, say=print)).fingerprint == first.fingerprint
    assert load(tmp_path / "there", store).fingerprint == first.fingerprint
    half = load(tmp_path / "here", Store(None, budget=10**8, say=print), limit=4)
    assert load(tmp_path / "here", store, limit=4).fingerprint == half.fingerprint != first.fingerprint


def test_damaged_pixels_are_decoded_again(tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]):
    write_images(tmp_path)
    first = load(tmp_path, store).train.pixels[:]
    (file,) = (file for item in store.items() for file in item.place.glob("pixels"))
    content = bytearray(file.read_bytes())
    content[100] ^= 4
    file.write_bytes(content)
    with pytest.raises(DamagedEntry, match="pixels has changed"):
        load(tmp_path, store).train.pixels[:]
    assert torch.equal(load(tmp_path, store).train.pixels[:], first)
    assert "is damaged (entry.jsonl is missing) and is computed again" in capsys.readouterr().out


@pytest.mark.slow
def test_memory_stays_bounded_while_decoding_and_reading(store: Store):
    count, size, cpu = 1200, 256, torch.device("cpu")

    def make(writer: Writer) -> dict[str, Any]:
        form = PixelForm("view", view=CenterCrop(size, size, "bilinear"))
        options: dict[str, Any] = {"form": form, "max_pixels": 10**6, "progress": lambda count: None}
        return decode_all(writer, range(count), lambda index: Image.new("RGB", (8, 8), (index % 256, 0, 0)), **options)

    room = Store(store.folder, budget=10**9, say=print)
    memory.reset_peak(cpu)
    before = memory.peak(cpu)
    pixels = room.get("pixels", "0" * 64, make, about="much").tensors["pixels"]
    rows = Rows(pixels, torch.arange(count)).streamed()
    for start in range(0, count, 50):
        assert (rows[start : start + 50][:, 0, 0, 0] == torch.arange(start, start + 50) % 256).all()
    assert pixels.nbytes > 230_000_000
    assert memory.peak(cpu) - before < 90_000_000


def test_macosx_folder_is_not_a_class(tmp_path: Path, store: Store):
    write_images(tmp_path)
    save(tmp_path / "__MACOSX" / "cat" / "._good0.png", noise())
    assert load(tmp_path, store).classes == ("cat", "dog")


def test_full_disk_keeps_pixels_in_memory(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    write_images(tmp_path)
    expected = load(tmp_path, Store(None, budget=10**8, say=print)).fingerprint
    write, written = os.pwrite, list[int]()

    def full(*arguments: Any) -> int:
        written.append(1)
        if len(written) > 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(*arguments)

    monkeypatch.setattr(os, "pwrite", full)
    assert load(tmp_path, store).fingerprint == expected
    assert "kept in memory only" in (output := capsys.readouterr().out) and "No space left" in output
    assert not [item for item in store.items() if (item.place / "pixels").exists()]


def test_minmax_range_scales_12_bit_images(tmp_path: Path, store: Store):
    drawn = np.random.default_rng(0)
    for kind in ("cat", "dog"):
        (tmp_path / kind).mkdir()
        for index in range(6):
            values = drawn.integers(0, 4096, (16, 16)).astype(np.uint16)
            Image.fromarray(values).save(tmp_path / kind / f"{index}.png")
    whole = CenterCrop(size=16, resize=16, interpolation="bilinear")
    full = load(tmp_path, store, center=whole)
    assert findings(full, "data.range=minmax") and findings(full, "all 12 images are grey")
    found = load(tmp_path, store, center=whole, range="minmax")
    files = survey(tmp_path).files
    values = np.stack([np.asarray(Image.open(files[index])) for index in found.train.ids])
    assert (found.levels.low, found.levels.high) == (values.min(), values.max())
    assert len(np.unique(full.train.pixels[:].numpy())) == 17 < 200 < len(np.unique(found.train.pixels[:].numpy()))
    assert not findings(found, "data.range=minmax")
    second = load(tmp_path, store, center=whole, range=[found.levels.low, found.levels.high])
    assert second.fingerprint == found.fingerprint


class Kill(BaseException):
    """Ends a process without any cleaning up."""


@pytest.mark.parametrize("kind", ["view", "original", "stored", "nothing"])
@pytest.mark.parametrize("end", [Kill, KeyboardInterrupt])
def test_decoding_continues_after_an_interruption(
    store: Store, monkeypatch: pytest.MonkeyPatch, kind: str, end: type[BaseException]
) -> None:
    images: list[Image.Image | None] = [noise(24 if kind == "original" else 20 + i % 3, i) for i in range(100)]
    images[3] = images[90] = None
    form = PixelForm(kind, view=SMALL if kind == "view" else None)
    decoded_ids: list[int] = []

    def read(index: int) -> Image.Image:
        decoded_ids.append(index)
        if (image := images[index]) is None:
            raise ValueError("broken")
        return image.copy()

    def decode_until(store: Store, limit: int) -> Any:
        left = [limit]

        def advance(count: int) -> None:
            left[0] -= count
            if left[0] < 0:
                raise end

        def make(writer: Writer) -> dict[str, Any]:
            return decode_all(writer, range(100), read, form=form, max_pixels=10**6, progress=advance)

        return store.get("pixels", "0" * 64, make, about="images")

    assert store.folder is not None
    whole = decode_until(Store(store.folder.with_name("other"), budget=10**7, say=print), 1000)
    with monkeypatch.context() as patch:
        if end is Kill:
            patch.setattr(storing.shutil, "rmtree", lambda *_, **__: None)  # a killed process removes nothing
        for limit in (20, 40):
            with pytest.raises(end):
                decode_until(store, limit)
    assert list(store.folder.glob("*/??/*.part"))
    store.get("features", "1" * 64, lambda writer: {}, about="something else")  # removes abandoned files
    before = len(decoded_ids)
    sizes = [(0, 0) if image is None else image.size for image in images]
    monkeypatch.setattr(decoder, "header_sizes", lambda ids, read: sizes)  # it would read every image
    found = decode_until(store, 1000)
    assert found.meta == whole.meta and [number for number, _ in found.meta["bad"]] == [3, 90]
    assert found.tensors.keys() == whole.tensors.keys()
    for name, tensor in whole.tensors.items():
        assert torch.equal(found.tensors[name].nan_to_num(), tensor.nan_to_num())
    assert len(decoded_ids) - before <= 100 - 2 * 16 + (kind == "original")
    assert not list(store.folder.glob("*/??/*.part"))
    assert {path.name for path in store._place("pixels", "0" * 64).iterdir()} == {*whole.tensors, "entry.jsonl"}


def test_unfinished_entries_of_another_boot_are_discarded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[Any, ...]] = []

    def make(writer: Writer) -> dict[str, Any]:
        made.append(writer.notes)
        writer.tensor("rows", (3,), torch.uint8).fill_(len(made))
        writer.note(len(made))
        if len(made) < 4:
            raise KeyboardInterrupt
        return {}

    def ask() -> None:
        store.get("pixels", "0" * 64, make, about="images")

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            ask()
    monkeypatch.setattr(unfinished, "_boot", lambda: "another time")
    with pytest.raises(KeyboardInterrupt):
        ask()
    monkeypatch.setattr(unfinished, "_boot", lambda: None)
    ask()
    assert made == [(), (1,), (), ()]

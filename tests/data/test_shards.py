"""Shards: tar files by several writers, local and remote, intact and damaged."""

from __future__ import annotations

import io
import json
import os
import tarfile
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
import torch
from fsspec.registry import known_implementations

import object_store
from frostline.core.errors import UserError
from frostline.data import loading, remote_files, shard_headers, shard_index
from frostline.data.broken_images import BadImages
from frostline.data.pixel_cache import ViewSpec
from frostline.data.shard_headers import Wanted
from frostline.data.sources import open_splits
from frostline.data.splits import Data
from frostline.store.store import Store
from numbered import disjoint, in_turn, messages, numbers, pairs, png
from small import CENTER, data_config, load_data, no_progress

NONE = {"train": None, "val": None, "test": None, "image": None, "label": None, "group": None, "classes": None}
Files = list[tuple[str, bytes]]


def samples(count: int = 20, first: int = 0, classes: Iterable[str] = ("cat", "dog"), field: str = "cls") -> Files:
    """Return the files of images, classes in turn, sorted by name as webdataset writes them."""
    names = list(classes)
    found: Files = []
    for number in range(first, first + count):
        label = names[number % len(names)]
        text = json.dumps({"label": label, "patient": number // 4}) if field == "json" else label
        found += [(f"{number:05d}.{field}", text.encode()), (f"{number:05d}.png", png(number))]
    return found


def tar(files: Files, **how: Any) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", **how) as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def write(file: Path, files: Files, **how: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(tar(files, **how))
    return file


def load(root: object, **options: Any) -> Data:
    changes = {key: options.pop(key) for key in ("skip_bad", "test_fraction", "val_fraction") if key in options}
    return load_data(source="shards", root=str(root), options={**NONE, **options}, **changes)


def refused(root: object, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(root, **options)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


LONG = "a folder with dots v1.0/" + "x" * 120 + "/"
WRITTEN: dict[str, tuple[Files, dict[str, Any]]] = {
    "webdataset": (samples(), {}),
    "pax": ([(LONG + name, content) for name, content in samples()], {"format": tarfile.PAX_FORMAT}),
    "gnu": ([(LONG + name, content) for name, content in samples()], {"format": tarfile.GNU_FORMAT}),
    "ustar": ([("./pics/" + name, content) for name, content in samples()], {"format": tarfile.USTAR_FORMAT}),
    "unsorted": (sorted(samples(), key=lambda file: file[0].rpartition(".")[2]), {}),
    "capitals": ([(name.upper(), content) for name, content in samples()], {}),
    "json": (samples(field="json"), {}),
    "txt": (samples(field="txt"), {}),
    "blanks": ([(n, c + b"\r\n" if n.endswith("cls") else c) for n, c in samples()], {}),
    "more_fields": (samples() + [(f"{n:05d}.seg.npy", b"?") for n in range(20)] + [("README", b"words")], {}),
    "macos": ([("._00000.png", b"?"), ("__MACOSX/00000.png", b"?"), *samples()], {}),
    "metadata": ([("__index__", b"{}"), ("__meta__/a.png", b"?"), *samples()], {}),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_tar_files_of_all_writers_are_read(tmp_path: Path, name: str) -> None:
    files, how = WRITTEN[name]
    write(tmp_path / "some.tar", files, **how)
    found = load(tmp_path)
    assert found.classes == ("cat", "dog")
    assert pairs(found) == in_turn(20)
    assert not messages(found)
    assert found.counts.get("hidden", 0) == (2 if name == "macos" else 0)


def test_fingerprint_equals_that_of_an_image_folder(tmp_path: Path) -> None:
    for number in range(20):
        file = tmp_path / "folder" / f"c{number % 2}" / f"{number:05d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(number, side=70))
    files = [
        (f"{n:05d}.{x}", c)
        for n in (*range(0, 20, 2), *range(1, 20, 2))
        for x, c in (("cls", f"c{n % 2}".encode()), ("png", png(n, side=70)))
    ]
    write(tmp_path / "set.tar", files)
    one, two = load(tmp_path / "set.tar"), load_data(source="folder", root=str(tmp_path / "folder"))
    assert one.fingerprint == two.fingerprint


@pytest.mark.slow
def test_shards_are_found_by_braces_patterns_and_folders(tmp_path: Path) -> None:
    for shard in range(12):
        write(tmp_path / f"a-{shard:03d}.tar", samples(4, first=4 * shard))
    (tmp_path / ".hidden.tar").write_bytes(b"?")
    every = in_turn(48)
    assert pairs(load(tmp_path)) == every
    assert pairs(load(tmp_path / "a-*.tar")) == every
    assert pairs(load(tmp_path / "a-{000..011}.tar")) == every
    assert pairs(load(tmp_path / "{a,a}-0{00..11}.tar")) == every
    assert pairs(load(tmp_path / "a-{011..004}.tar")) == in_turn(32, first=16)
    assert "but a-012.tar is not there" in refused(tmp_path / "a-{000..012}.tar").replace(f"{tmp_path}/", "")
    assert "but there are none" in refused(tmp_path / "b-*.tar")
    assert "at most 1,000,000 files" in refused(tmp_path / "a-{0..9999999999}.tar")


def test_splits_are_found_by_names_folders_and_options(tmp_path: Path) -> None:
    sizes = {"train": 20, "val": 6, "test": 8}
    spelled = {"train": "train", "val": "validation", "test": "Test"}
    first = {"train": 0, "val": 100, "test": 200}
    for split, count in sizes.items():
        for number in range(2):
            own = samples(count // 2, first=first[split] + number * count // 2)
            write(tmp_path / "names" / f"set1k-{spelled[split]}-{number:02d}.tar", own)
            write(tmp_path / "folders" / spelled[split] / f"{number}.tar", own)
            write(tmp_path / "odd" / f"{'xyz'[list(sizes).index(split)]}-{number}.tar", own)
    options = {"train": "x-*.tar", "val": "y-{0..1}.tar", "test": str(tmp_path / "odd" / "z-*.tar")}
    for found in (load(tmp_path / "names"), load(tmp_path / "folders"), load(tmp_path / "odd", **options)):
        assert [len(split) for split in (found.train, found.val, found.test)] == [20, 6, 8]
        assert sorted(numbers(found.val)) == [*range(100, 106)]
    write(tmp_path / "names" / "set1k-extra-00.tar", samples(2))
    assert "expected shards whose names begin with train, val or test, not set1k-extra-00" in refused(
        tmp_path / "names"
    )
    assert "data.options.train=null: expected shards of train beside those of val" in refused(
        tmp_path / "odd", val="y-*.tar"
    )


def test_class_names_come_from_file_options_or_labels(tmp_path: Path) -> None:
    file = write(tmp_path / "s.tar", samples(30, classes=("0", "1", "10")))
    assert load(file).classes == ("0", "1", "10")
    names = ["zebra", "ant", *map(str, range(100, 108)), "yak"]
    assert load(file, classes=names).classes == ("zebra", "ant", "yak")
    assert pairs(load(file, classes=names)) == in_turn(30, classes=("zebra", "ant", "yak"))
    assert messages(load(file, classes=names)) == [
        "8 of 11 class names are left out, as train has no image of 100, 101, 102, 103, 104 and 3 more"
    ]
    assert "expected labels below 2, the number of class names, but s.tar/00002.png has 10" in refused(
        file, classes=["zebra", "ant"]
    )
    (tmp_path / "classes.txt").write_text("\n".join(names) + "\n")
    assert load(tmp_path).classes == ("zebra", "ant", "yak")
    (tmp_path / "mine.txt").write_text("".join(f"my {name}\n" for name in range(11)))
    assert load(tmp_path, classes="mine.txt").classes == ("my 0", "my 1", "my 10")
    assert "data.options.classes=nowhere.txt: expected a file that exists" in refused(tmp_path, classes="nowhere.txt")
    assert (
        "expected different names of classes, not crane, maillot twice"
        in refused(  # some lists of ImageNet repeat names
            tmp_path, classes=["crane", "crane", "maillot", "maillot"]
        )
    )


def test_incomplete_samples_are_left_out_and_reported(tmp_path: Path) -> None:
    files = [
        *samples(20, classes=("0", "1")),
        ("x.png", png(90)),
        ("y.cls", b"-1"),
        ("y.png", png(91)),
        ("z.cls", b"0"),
    ]
    found = load(write(tmp_path / "s.tar", files))
    assert pairs(found) == in_turn(20, classes=("0", "1"))
    assert messages(found) == [
        "1 sample without an image is left out",
        "2 images without a label are left out: s.tar/x.png, s.tar/y.png",
    ]


def test_options_choose_fields_of_label_and_group(tmp_path: Path) -> None:
    files = samples(40, field="json")
    files += [(f"{n:05d}.other.txt", f"kind {n % 3}".encode()) for n in range(40)]
    file = write(tmp_path / "s.tar", files)
    assert pairs(load(file, label="other.txt")) == in_turn(40, classes=("kind 0", "kind 1", "kind 2"))
    found = load(file, group="patient")
    assert disjoint(*({number // 4 for number in numbers(split)} for split in (found.train, found.val, found.test)))
    line = refused(file, label="lable")
    assert "data.options.label=lable: expected a field with text, or a key of the JSON" in line
    assert "of the JSON: label, patient); did you mean label?" in line
    assert "data.options.group=nobody: expected a field" in refused(file, group="nobody")


def test_option_chooses_among_several_images(tmp_path: Path) -> None:
    files = samples()
    files += [(f"{n:05d}.mask.png", png(200 + n)) for n in range(20)]
    file = write(tmp_path / "s.tar", files)
    assert "expected one image in each sample, or data.options.image=<which>: png, mask.png" in refused(file)
    assert pairs(load(file, image="png")) == in_turn(20)
    assert pairs(load(file, image="mask.png")) == in_turn(20, first=200)
    assert "data.options.image=jpg: expected a field of samples: " in refused(file, image="jpg")


def test_invalid_shards_and_options_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "s.tar", samples())
    assert "data.options.lable=cls: expected one of train, val, test, image, label" in refused(file, lable="cls")
    assert "data.options.label=3: expected a field, as cls, or a key of the JSON, or null" in refused(file, label=3)
    write(tmp_path / "twice.tar", [*samples(), *samples(1)])
    assert "expected one file cls in each sample, but 00000.cls is in twice.tar twice" in refused(
        tmp_path / "twice.tar"
    )
    odd = [(name.replace(".", ".05.", 1), content) for name, content in samples()]
    assert "(05.cls, 05.png; a name ends at its first dot)" in refused(write(tmp_path / "odd.tar", odd))
    dots = [("Track 2.0.png", png(1)), ("Track 2.5.png", png(2))]
    assert "a name ends at its first dot" in refused(write(tmp_path / "dots.tar", [*samples(), *dots]))
    assert "expected images of two or more classes, found cat" in refused(
        write(tmp_path / "one.tar", samples(classes=["cat"]))
    )
    assert "expected one spelling for each class" in refused(
        write(tmp_path / "spelled.tar", samples(classes=["cat", "Cat"]))
    )
    assert "expected samples with an image, as 0001.jpg, but the fields are npy" in refused(
        write(tmp_path / "none.tar", [("a.npy", b"?")])
    )
    assert "expected samples with an image" in refused(write(tmp_path / "empty.tar", []))
    for mode, end in (("w:gz", "gunzip"), ("w:bz2", "bunzip2"), ("w:xz", "unxz")):
        with tarfile.open(tmp_path / "packed.tar", mode) as archive:  # type: ignore[call-overload]
            archive.add(file, "s.tar")
        assert f"expected plain tar files: a compressed one has no random access ({end} it)" in refused(
            tmp_path / "packed.tar"
        )
    assert "nowhere.tar is not there" in refused(tmp_path / "nowhere.tar")


def broken(root: Path) -> list[tuple[str, str]]:
    with pytest.raises(BadImages) as caught:
        load(root)
    found = load(root, skip_bad=True)
    assert found.broken == caught.value.reasons and found.counts["skipped"] == len(found.broken)
    return list(found.broken)


def test_broken_images_of_all_shards_are_named(tmp_path: Path) -> None:
    bad = [("bad.cls", b"cat"), ("bad.png", b"no image"), ("nil.cls", b"dog"), ("nil.png", b"")]
    half = [("half.cls", b"dog"), ("half.png", png(77, 60)[:-40])]
    write(tmp_path / "a.tar", [*samples(20), *bad])
    write(tmp_path / "b.tar", [*half, *samples(20, first=20)])
    assert [name for name, _ in broken(tmp_path)] == ["a.tar/bad.png", "a.tar/nil.png", "b.tar/half.png"]
    assert dict(broken(tmp_path))["a.tar/nil.png"] == "empty"


@pytest.mark.parametrize("order", ["cls first", "png first"])
def test_truncated_shard_is_read_up_to_the_cut(tmp_path: Path, order: str) -> None:
    write(tmp_path / "a.tar", samples(20))
    files = samples(20, first=20)
    files = files if order == "cls first" else [files[n ^ 1] for n in range(len(files))]
    whole = tar(files)
    first = whole.index(b"00028.")
    for cut, begin in (
        (512 + 2, 0),
        (1024 + 3, 1024),
        (1536 + 1, 0),
        (2048 + 9, 2048),
    ):  # within files and within headers
        (tmp_path / "b.tar").write_bytes(whole[: first + cut])
        ((name, reason),) = broken(tmp_path)
        image = cut == 1537 or (cut == 514 and order == "png first")
        assert name == ("b.tar/00028.png" if image else f"b.tar/from byte {first + begin:,} on")
        assert reason == "truncated, and so is all behind it"
        assert pairs(load(tmp_path, skip_bad=True)) == in_turn(29 if cut > 2048 else 28)


def test_broken_header_ends_its_shard_and_is_reported(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", samples(20))
    whole = bytearray(tar(samples(20, first=20)))
    at = whole.index(b"00030.cls")
    whole[at : at + 512] = b"\xff" * 512
    (tmp_path / "b.tar").write_bytes(whole)
    assert broken(tmp_path) == [
        (f"b.tar/from byte {at:,} on", "no header of a tar file there, and so is all behind it")
    ]
    assert pairs(load(tmp_path, skip_bad=True)) == in_turn(30)
    (tmp_path / "b.tar").write_bytes(b"<html>not found</html>" * 40)
    assert [name for name, _ in broken(tmp_path)] == ["b.tar/from byte 0 on"]
    (tmp_path / "b.tar").write_bytes(b"")
    assert [name for name, _ in broken(tmp_path)] == ["b.tar/from byte 0 on"]


def test_damage_is_reported_before_its_consequences(tmp_path: Path) -> None:
    whole = tar(samples(20))
    at, file = whole.index(b"00002.cls"), tmp_path / "a.tar"
    reason = f"expected readable images and labels, but a.tar/from byte {at:,} on: no header of a tar"
    file.write_bytes(whole[:at] + b"\xff" * 512 + whole[at + 512 :])
    for skip_bad in (False, True):
        line = refused(file, skip_bad=skip_bad)
        assert reason in line and "; and with the rest: data.val_fraction=" in line
    assert reason in refused(file, label="lable") and "did you mean" not in refused(file, label="lable")
    file.write_bytes(whole[: whole.index(b"00001.cls")] + b"\xff" * 512)
    assert "on: no header of a tar" in refused(file) and "with the rest: data.root=" in refused(file)
    file.write_bytes(whole[: whole.index(b"00002.cls")])
    assert "a.tar breaks off without the mark of its end: there may have been more; and with" in refused(file)
    (tmp_path / "b.tar").write_bytes(tar([("odd.cls", b"newt"), ("odd.png", b"no image"), *samples(20)]))
    line = refused(tmp_path / "b.tar", skip_bad=True)
    assert "readable images in train of newt, but all are broken (b.tar/odd.png: " in line


def test_unreadable_test_split_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.tar", samples(20))
    for content, start in ((b"\xff" * 2048, 0), (tar([("x.png", png(90))])[:1024] + b"\xff" * 512, 1024)):
        (tmp_path / "test.tar").write_bytes(content)
        expected = "expected shards of test with readable, labelled images, but there is only test.tar"
        assert f"{expected}/from byte {start:,} on: " in refused(tmp_path)


def test_damaged_labels_and_groups_are_reported(tmp_path: Path) -> None:
    files = dict(samples(24, field="json"))
    files |= {f"{number:05d}.cls": b"ab"[number % 2 :][:1] for number in range(24)}
    files |= {"00003.json": b"half", "00005.json": b"\xff\xfe\xff", "00006.cls": b"\xe9", "00007.cls": b""}
    file = write(tmp_path / "a.tar", [*files.items()])
    json_told = "a.tar/00003.json (no JSON: Expecting value: line 1 column 1 (char 0))"
    both = f"{json_told}, a.tar/00005.json (no text in UTF-8)"
    assert messages(load(file, label="label")) == [f"2 images are left out, as their labels cannot be read: {both}"]
    assert messages(load(file, group="patient")) == [
        "1 image is left out, as its label cannot be read: a.tar/00006.cls (no text in UTF-8)",
        "1 image without a label is left out: a.tar/00007.png",
        f"2 images are each their own group, as their groups cannot be read: {both}",
    ]
    write(file, [(name, b"{half" if name.endswith("json") else content) for name, content in samples(24, field="json")])
    line = refused(file)
    assert "but 24 texts cannot be read: a.tar/00000.json (no JSON: " in line and "data.options.label=null" in line
    write(file, [*samples(), ("long.png", png(90)), ("long.cls", b"1" * 2**20 + b"2")])
    assert "cannot be read: a.tar/long.cls (of more than 1,048,576 bytes)" in messages(load(file))[0]


def test_missing_end_mark_and_trailing_data_are_reported(tmp_path: Path) -> None:
    whole = tar(samples(20))
    (tmp_path / "a.tar").write_bytes(whole[: len(whole.rstrip(b"\0")) // 512 * 512 + 512])
    found = load(tmp_path)
    assert pairs(found) == in_turn(20)
    assert messages(found) == ["a.tar breaks off without the mark of its end: there may have been more"]
    (tmp_path / "a.tar").write_bytes(whole + tar(samples(20, first=20)))
    assert pairs(load(tmp_path / "a.tar")) == in_turn(20)
    assert "has something behind its end" in messages(load(tmp_path / "a.tar"))[0]


def test_links_are_left_out_and_reported(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", samples())
    with tarfile.open(tmp_path / "a.tar", "a") as archive:
        for kind in (tarfile.LNKTYPE, tarfile.SYMTYPE):
            member = tarfile.TarInfo(f"link{kind!r}.png")
            member.type, member.linkname = kind, "00000.png"
            archive.addfile(member)
    found = load(tmp_path)
    assert pairs(found) == in_turn(20) and messages(found) == ["a.tar holds 2 links, which are left out"]


def test_copies_stay_in_one_split(tmp_path: Path) -> None:
    files = []
    for number in range(80):
        files += [
            (f"{number}.cls", b"ab"[number % 2 : number % 2 + 1]),
            (f"{number}.png", png(number // 4 * 2 + number % 2)),
        ]
    write(tmp_path / "a.tar", files[:80])
    write(tmp_path / "b.tar", files[80:])
    found = load(tmp_path)
    assert disjoint(*(set(numbers(split)) for split in (found.train, found.val, found.test)))


def indexed(folder: Path) -> shard_index.Index:
    shards = remote_files.find("data.root", str(folder), ".tar")
    return shard_index.index("data.root", shards, Wanted(), Store(None, budget=0, say=print), no_progress)


def test_headers_are_read_again_only_after_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "data" / "a.tar", samples(20))
    scanned: list[str] = []
    scan = shard_headers._scan
    monkeypatch.setattr(
        shard_headers, "_scan", lambda key, shard, *rest: scanned.append(shard.name) or scan(key, shard, *rest)
    )
    store = Store(tmp_path / "store", budget=10**9, say=print)
    config = data_config(source="shards", root=str(tmp_path / "data"), options=NONE)

    def fingerprint() -> tuple[str, dict[str, str | None]]:
        loading._last.clear()
        found = loading.load(config, spec=ViewSpec(CENTER, None), store=store, progress=no_progress)
        identities = {name: source.identity for name, source in open_splits(config, store, no_progress).items()}
        return found.fingerprint, identities

    first = fingerprint()
    assert fingerprint() == first and scanned == ["a.tar"]
    abouts = [item.about for item in store.items() if item.kind == "shards"]
    assert abouts == ["index of the images in 1 shard, a.tar the first"]
    write(file, [*samples(19), ("00019.cls", b"dog"), ("00019.png", png(99))])
    second = fingerprint()
    assert second[0] != first[0] and second[1] != first[1] and scanned == ["a.tar", "a.tar"]
    os.utime(file, ns=(1, 1))
    assert fingerprint()[1] != second[1]


def test_threads_can_read_images(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", samples(20))
    found = indexed(tmp_path)
    assert [found.name(row) for row in (0, 19)] == ["a.tar/00000.png", "a.tar/00019.png"]

    def red(row: int) -> int:
        with found.open(row) as image:
            return int(image.getpixel((0, 0))[0])  # type: ignore[index]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(red, list(range(20)) * 5)) == list(range(20)) * 5


def test_unlabelled_shards_can_be_indexed_but_not_loaded(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", [(name, content) for name, content in samples(5) if name.endswith("png")])
    found = indexed(tmp_path)
    assert len(found) == 5 and not found.texts
    assert "data.options.label=null: expected a field with text" in refused(tmp_path)


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()


def test_shards_are_read_from_any_fsspec_file_system(memory: fsspec.AbstractFileSystem) -> None:
    for number in range(3):
        memory.pipe(f"/set/train-{number}.tar", tar(samples(10, first=10 * number, classes=("0", "1"))))
    memory.pipe("/set/classes.txt", b"cat\ndog\n")
    for root in ("memory://set/train-{0..2}.tar", "memory://set/train-*.tar", "memory://set", "memory:///set/"):
        found = load(root)
        assert pairs(found) == in_turn(30), root
    assert "is not there" in refused("memory://set/train-{0..3}.tar")
    assert "there are none" in refused("memory://nowhere/*.tar")


def test_missing_protocol_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = {"class": "no_such_s3fs.S3", "err": "Install s3fs to access S3"}
    monkeypatch.setitem(known_implementations, "s3", lacking)
    assert refused("s3://bucket/train-*.tar") == (
        "data.root=s3://bucket/train-*.tar: expected what reads s3:// to be installed (Install s3fs to access S3)"
    )
    assert "a protocol that fsspec knows, as s3://, not s4://; did you mean s3://b/a.tar?" in refused("s4://b/a.tar")


@pytest.fixture(scope="module")
def bucket() -> Iterator[Any]:
    with object_store.running() as client:
        for number in range(3):
            content = tar(samples(10, first=10 * number))
            client.put_object(Bucket=object_store.BUCKET, Key=f"train-{number}.tar", Body=content)
        yield client


AT_S3 = f"s3://{object_store.BUCKET}/train-{{0..2}}.tar"


@pytest.mark.slow
@pytest.mark.parametrize("root", [AT_S3, AT_S3.replace("{0..2}", "*"), f"s3://{object_store.BUCKET}/"])
def test_shards_are_read_from_s3(bucket: Any, root: str) -> None:
    assert pairs(load(root)) == in_turn(30)


def test_parts_are_read_by_range_requests(bucket: Any) -> None:
    file = remote_files.find("data.root", AT_S3, ".tar")[1]
    assert remote_files.part(file, 0, 9) == b"00010.cls"
    assert file.facts[0].startswith("etag=")
    bucket.delete_object(Bucket=object_store.BUCKET, Key="moved.tar")
    with pytest.raises(FileNotFoundError):
        remote_files.part(remote_files.RemoteFile(f"s3://{object_store.BUCKET}/moved.tar", 9, ()), 0, 9)


def test_missing_s3_objects_are_refused(bucket: Any) -> None:
    assert "train-3.tar is not there" in refused(AT_S3.replace("2", "3"))
    assert "s3://nobodys/a.tar is not there" in refused("s3://nobodys/a.tar")
    assert "there are none" in refused(f"s3://{object_store.BUCKET}/val-*.tar")


def test_unreachable_s3_and_missing_credentials_are_refused(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    forget = fsspec.get_filesystem_class("s3").clear_instance_cache  # file systems are cached
    forget()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "can be reached and read (Could not connect to the endpoint" in refused(AT_S3)
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    forget()
    assert "can be reached and read (Unable to locate credentials)" in refused(AT_S3)
    forget()


class _Ranges(SimpleHTTPRequestHandler):
    """Serves byte ranges, which Python's own handler does not."""

    ranges = True
    failing: ClassVar[list[int]] = []
    """One element per range request that is still to fail."""

    def log_message(self, format: str, *args: object) -> None: ...

    def do_GET(self) -> None:
        requested = self.headers.get("Range")
        file = Path(self.translate_path(self.path))
        if not requested or not self.ranges or not file.is_file():
            super().do_GET()
            return
        if self.failing:
            self.failing.pop()
            self.send_error(503)
            return
        start, _, end = requested.removeprefix("bytes=").partition("-")
        part = file.read_bytes()[int(start) : int(end) + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {start}-{end}/{file.stat().st_size}")
        self.end_headers()
        self.wfile.write(part)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """Yield a server's address and the folder that it serves."""
    monkeypatch.setattr(remote_files, "_PAUSES", (0.01, 0.01))

    def handler(*given: Any) -> BaseHTTPRequestHandler:
        return _Ranges(*given, directory=str(tmp_path))

    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", tmp_path
        server.shutdown()
        thread.join()


def test_http_reads_are_retried_and_need_ranges(served: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    address, folder = served
    for number in range(2):
        write(folder / f"train-{number}.tar", samples(10, first=10 * number))
    root = f"{address}/train-{{0..1}}.tar"
    assert pairs(load(root)) == in_turn(20)
    assert "train-2.tar is not there" in refused(f"{address}/train-{{0..2}}.tar")
    assert "expected files that can be reached and read (Cannot connect to host" in refused("http://127.0.0.1:1/a.tar")
    files = remote_files.find("data.root", root, ".tar")
    monkeypatch.setattr(_Ranges, "failing", [1, 1])
    assert remote_files.part(files[0], 0, 9) == b"00000.cls"
    monkeypatch.setattr(_Ranges, "failing", [1, 1, 1])
    with pytest.raises(OSError, match="503"):
        remote_files.part(files[0], 0, 9)
    monkeypatch.setattr(_Ranges, "ranges", False)
    with pytest.raises(OSError, match="its server knows no ranges"):
        remote_files.part(files[0], 0, 9)


def test_forked_process_can_read_from_the_server(served: tuple[str, Path]) -> None:
    address, folder = served
    write(folder / "a.tar", samples(1))
    file = remote_files.find("data.root", f"{address}/a.tar", ".tar")[0]
    assert remote_files.part(file, 0, 9) == b"00000.cls"
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = int(remote_files.part(file, 0, 9) != b"00000.cls")
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.slow
def test_identity_depends_on_the_rows(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", samples(6))
    found = indexed(tmp_path)
    assert found.identity(torch.tensor([0, 1])) != found.identity(torch.tensor([0, 2]))

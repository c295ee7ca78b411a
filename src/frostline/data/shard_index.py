"""Where every picture of some tar files is, and what lies beside it: read once from their headers, kept in the store.

In shards as WebDataset writes them the files of one sample have one name up to its first dot
(`n01/00.cat.jpg`, `n01/00.cls`), and what follows is the field (`cat.jpg`, `cls`) in small letters. The library
`webdataset` streams shards from front to end, which is right for training from far away in the order that they have;
here pictures are asked for one by one (a part of them, folds, a fresh random order), so that they are read by their
place, and no library does that. Samples may be torn apart within a shard, which a stream could not put together.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Any

import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from frostline.core import codehash
from frostline.core.errors import UserError, user_error
from frostline.core.files import parsed
from frostline.data import image_formats, remote_files
from frostline.data.decode_all import Progress
from frostline.data.decode_image import open_bytes
from frostline.data.duplicates import TAIL, first_alike
from frostline.data.label_columns import Cell
from frostline.data.listing import is_hidden
from frostline.data.names import printable, some
from frostline.data.remote_files import RemoteFile
from frostline.store.store import Store, Writer

JSON = "json"
_TEXTS = ("cls", "txt", JSON)
"""Fields that are read together with the headers, beside those asked for."""
_LONGEST = 1 << 20  # bytes of such a field that are read
_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)")
_ABOUT_SHARD = re.compile(r"__[^/]*__($|/)")  # what webdataset writes of the shard itself
_PACKED = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7z": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}
_BEHIND = 1 << 16  # bytes that are looked at behind the end; tar fills up to 10 KiB, or more if told so, with zeros
_SHOWN_KEYS = 50


@dataclass(frozen=True)
class Wanted:
    """What is looked for in every sample."""

    image: str | None = None
    """The field with the picture; None for the only one that is called like a picture."""
    texts: tuple[str, ...] = ()
    """Fields, or keys of the sample's JSON, whose text is kept, beside `cls` and `txt`."""


@dataclass(frozen=True)
class Index:
    """The pictures of some shards, in the order in which they lie there."""

    shards: tuple[RemoteFile, ...]
    places: NDArray[Any]
    """`(N, 3)` int64: number of the shard, first byte in it, size in bytes."""
    names: tuple[str, ...]
    """Of each picture within its shard."""
    texts: Mapping[str, tuple[Cell, ...]]
    """By field (`cls`) or key of the JSON (`json:label`), what it says of each picture, None where it says nothing;
    under `json` what the JSON itself says where that is a list."""
    reasons: Mapping[int, str]
    """Why what stands for the rest of a damaged shard cannot be read."""
    fields: Mapping[str, int]
    """How many samples have a field."""
    keys: tuple[str, ...]
    """Some of the keys that their JSON has."""
    told: tuple[str, ...]
    """What is odd about shards, a line each."""
    hidden: int
    """Files left out since their names begin with a dot."""
    pictureless: int
    """Samples left out since there is no picture in them."""

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """Return what the i-th picture is called, its shard's name first."""
        return printable(f"{self.shards[int(self.places[index, 0])].name}/{self.names[index]}")

    def open(self, index: int) -> Image.Image:
        """Open the i-th picture, not decoded yet; raises anything where it cannot be read or is none."""
        return open_bytes(self.content(index), self.names[index])

    def content(self, index: int) -> bytes:
        """Return the bytes of the i-th picture; OSError where they are not all there."""
        if index in self.reasons:
            raise OSError(self.reasons[index])
        shard, start, size = self.places[index].tolist()
        return self._part(shard, start, size)

    def _part(self, shard: int, start: int, size: int) -> bytes:
        found = remote_files.part(self.shards[shard], start, size)
        if len(found) < size:
            raise OSError(f"truncated: {printable(self.shards[shard].name)} ends within it")
        return found

    def identity(self, rows: Tensor) -> str:
        """Return the sha256 (hex) that stands for the pictures in `rows` `(N,)` int64."""
        files = [(shard.url, shard.size, shard.facts) for shard in self.shards]
        facts = hashlib.sha256(json.dumps(files).encode())
        facts.update(self.places[rows.numpy()].tobytes())
        facts.update(json.dumps(sorted(self.reasons.items())).encode())
        return facts.hexdigest()

    def twins(self, rows: Tensor) -> Tensor:
        """Return `(N,)` int64: for each picture of `rows` the first one of the same bytes, by its number in `rows`."""
        known = rows.tolist()

        def size(number: int) -> Hashable:
            if known[number] in self.reasons:
                raise OSError("nothing to compare")
            return int(self.places[known[number], 2])

        def tail(number: int) -> Hashable:
            shard, start, length = self.places[known[number]].tolist()
            rest = max(0, length - TAIL)
            return hashlib.sha256(self._part(shard, start + rest, length - rest)).digest()

        def whole(number: int) -> Hashable:
            return hashlib.sha256(self.content(known[number])).digest()

        return first_alike(len(known), size, tail, whole)


def index(key: str, shards: Sequence[RemoteFile], wanted: Wanted, store: Store, progress: Progress) -> Index:
    """Return where the pictures of `shards` are, from `store` if they were looked through before.

    `key` is what they were given as. Raises `UserError` for what is no plain tar file, or is laid out as no sample can
    be; what is damaged ends its shard, and the rest stands in the index as one picture that cannot be read.
    """
    facts = {
        "shards": [(shard.url, shard.size, shard.facts) for shard in shards],
        "wanted": [wanted.image, wanted.texts],
        "pictures": sorted(image_formats.SUFFIXES),
        "code": codehash.of("data.shard_index"),
    }

    def make(writer: Writer) -> dict[str, Any]:
        with progress("reading what is in shards", len(shards)) as advance:
            found = _scan_all(key, shards, wanted, advance)
        rows = [row for one in found for row in one.rows]
        places = [(number, row.start, row.size) for number, one in enumerate(found) for row in one.rows]
        writer.tensor("places", (len(rows), 3), torch.int64).copy_(torch.tensor(places).reshape(-1, 3))
        known = sorted({text for row in rows for text in row.texts})
        fields = (what for one in found for sample in one.samples.values() for what in sample.fields)
        columns = [[row.name for row in rows], *([row.texts.get(text) for row in rows] for text in known)]
        content = json.dumps(columns).encode()
        writer.tensor("columns", (len(content),), torch.uint8).numpy()[:] = bytearray(content)
        return {
            "texts": known,
            "reasons": [(number, row.reason) for number, row in enumerate(rows) if row.reason],
            "fields": Counter(sorted(fields)),
            "keys": list(dict.fromkeys(name for one in found for name in one.keys))[:_SHOWN_KEYS],
            "told": [line for one in found for line in one.told],
            "hidden": sum(one.hidden for one in found),
            "pictureless": sum(one.pictureless for one in found),
        }

    name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    entry = store.get(
        "shards", name, make, about=f"where pictures are in {len(shards):,} shards, {shards[0].name} the first"
    )
    names, *texts = json.loads(entry.tensors["columns"].numpy().tobytes())
    said = entry.meta
    return Index(
        shards=tuple(shards),
        places=entry.tensors["places"].numpy(),
        names=tuple(names),
        texts=dict(zip(said["texts"], map(tuple, texts), strict=True)),
        reasons=dict(said["reasons"]),
        fields=said["fields"],
        keys=tuple(said["keys"]),
        told=tuple(said["told"]),
        hidden=said["hidden"],
        pictureless=said["pictureless"],
    )


@dataclass
class _Row:
    """A picture, or the rest of a damaged shard."""

    name: str
    start: int
    size: int
    texts: Mapping[str, Cell]
    reason: str = ""


@dataclass
class _Sample:
    """What has one name up to its first dot."""

    pictures: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    """Name, first byte and size, by field."""
    texts: dict[str, Cell] = field(default_factory=dict)
    fields: set[str] = field(default_factory=set)


@dataclass
class _Scanned:
    """What was found in a shard."""

    samples: dict[str, _Sample] = field(default_factory=dict)
    rows: list[_Row] = field(default_factory=list)
    keys: dict[str, None] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    hidden: int = 0
    links: int = 0

    @property
    def pictureless(self) -> int:
        return sum(not sample.pictures for sample in self.samples.values())


@dataclass(frozen=True)
class _Damage:
    """Why nothing of a shard can be read from a byte on."""

    start: int
    reason: str
    cut: bool = False
    """Whether the shard ends within the file that begins there."""


def _scan_all(
    key: str, shards: Sequence[RemoteFile], wanted: Wanted, advance: Callable[[int], object]
) -> list[_Scanned]:
    def scan(shard: RemoteFile) -> _Scanned:
        try:
            with remote_files.opened(shard) as stream:
                found = _scan(key, shard, wanted, stream)
        except UserError:
            raise
        except Exception as error:  # of the network, or of whoever keeps the files
            raise remote_files.unreachable(key, shard.url, error) from error
        advance(1)
        return found

    elsewhere = any(remote_files.is_elsewhere(shard.url) for shard in shards)
    with ThreadPoolExecutor(remote_files.AT_ONCE if elsewhere else 1) as pool:  # here threads only wait for each other
        return list(pool.map(scan, shards))


def _scan(key: str, shard: RemoteFile, wanted: Wanted, stream: IO[bytes]) -> _Scanned:
    """Return what is in a shard, by its headers, and what its small fields say."""
    begin = stream.read(4)
    packed = next((program for sign, program in _PACKED.items() if begin.startswith(sign)), None)
    if packed is not None:
        expected = f"plain tar files: nothing in a packed one can be read by its place ({packed} it)"
        raise user_error(key, shard.url, expected)
    stream.seek(0)
    found, last = _Scanned(), ""
    for member in _members(stream, shard.size):
        if isinstance(member, _Damage):
            found.rows.append(_rest(found, last, member))
        elif isinstance(member, str):
            found.told.append(f"{printable(shard.name)} {member}")
        else:
            last = _sort_in(key, shard, wanted, found, member, stream) or last
    if found.links:
        found.told.append(f"{printable(shard.name)} holds {found.links:,} links, which are left out")
    rows = [_row(key, shard, wanted, sample) for sample in found.samples.values() if sample.pictures]
    found.rows = sorted([*rows, *found.rows], key=lambda row: row.start)
    return found


def _members(stream: IO[bytes], size: int) -> Iterator[tarfile.TarInfo | _Damage | str]:
    """Yield what is in a tar file of `size` bytes; then where and why it breaks off, or what is odd about its end."""
    at, end_of_last = 0, 0
    try:
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # else it keeps all
                at, end_of_last = member.offset, member.offset_data + member.size
                yield member
            at = archive.offset  # tarfile takes whatever it cannot read for the end
    except tarfile.TarError as error:
        cut = end_of_last > size
        yield _Damage(at, "truncated" if cut else str(error) if end_of_last else f"no tar file ({error})", cut)
        return
    stream.seek(at)
    end, behind = stream.read(tarfile.BLOCKSIZE), stream.read(_BEHIND)
    if end.strip(b"\0"):
        yield _Damage(at, "no header of a tar file there" if len(end) == tarfile.BLOCKSIZE else "truncated")
    elif not end:
        yield "breaks off without the mark of its end: there may have been more"
    elif behind.strip(b"\0"):
        yield f"has something behind its end, from byte {at:,} on, that is not read: tar files put together by cat?"


def _sort_in(
    key: str, shard: RemoteFile, wanted: Wanted, found: _Scanned, member: tarfile.TarInfo, stream: IO[bytes]
) -> str | None:
    """Put a member where it belongs, and return the name of its sample, None if it has none."""
    name = member.name.removeprefix("./")
    if any(is_hidden(piece) for piece in name.split("/")):
        found.hidden += member.isfile()
        return None
    if member.islnk() or member.issym():
        found.links += 1
    split = _NAME.fullmatch(name)
    if split is None or not member.isreg() or member.issparse() or _ABOUT_SHARD.match(name):
        return None
    sample, what = found.samples.setdefault(split[1], _Sample()), split[2].lower()
    if what in sample.fields:
        expected = f"one file {what} in each sample, but {printable(name)} is in {printable(shard.name)} twice"
        raise user_error(key, shard.url, expected)
    sample.fields.add(what)
    if what == wanted.image or (wanted.image is None and f".{what.rpartition('.')[2]}" in image_formats.SUFFIXES):
        sample.pictures[what] = (name, member.offset_data, member.size)
    elif what in (*_TEXTS, *wanted.texts) and member.size <= _LONGEST:
        stream.seek(member.offset_data)
        content = stream.read(member.size)
        if len(content) == member.size:  # half a label may be the name of another class
            _keep_text(found, sample, what, content, wanted.texts)
    return split[1]


def _keep_text(found: _Scanned, sample: _Sample, what: str, content: bytes, wanted: Sequence[str]) -> None:
    """Keep what a field says; nothing where it is no text in UTF-8, or no JSON."""
    with suppress(ValueError):
        if what != JSON:
            sample.texts[what] = content.decode().strip()
            return
        said = parsed(content)
        if isinstance(said, dict):
            found.keys.update(dict.fromkeys(list(said)[:_SHOWN_KEYS]))
            cells = {f"{JSON}:{name}": _cell(said[name]) for name in wanted if name in said}
        else:
            cells = {JSON: _cell(said) if isinstance(said, list) else None}
        sample.texts |= {name: cell for name, cell in cells.items() if cell is not None}


def _cell(value: object) -> Cell:
    """Return what a value of JSON says, a list of texts for a list; None where there is anything else in it."""
    if not isinstance(value, list):
        return _text(value)
    texts = [text for one in value if (text := _text(one)) is not None]
    return texts if len(texts) == len(value) else None


def _text(value: object) -> str | None:
    """Return a number or text of JSON as text, a whole number without decimals; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool):
        return str(value).lower()
    return str(value).strip() if isinstance(value, str | int | float) else None


def _row(key: str, shard: RemoteFile, wanted: Wanted, sample: _Sample) -> _Row:
    if len(sample.pictures) > 1:
        expected = f"one picture in each sample, or data.options.image=<which>: {some(sample.pictures)}"
        name = next(iter(sample.pictures.values()))[0]
        raise user_error(key, shard.url, f"{expected} (in {printable(name)}; a name ends at its first dot)")
    name, start, size = next(iter(sample.pictures.values()))
    return _Row(name, start, size, sample.texts)


def _rest(found: _Scanned, last: str, damage: _Damage) -> _Row:
    """Return what stands for all that cannot be read of a damaged shard, its last sample in it where that is cut."""
    name, start = f"from byte {damage.start:,} on", damage.start
    cut = found.samples.get(last)
    if cut is not None and damage.cut:
        del found.samples[last]
        if cut.pictures:
            name, start, _ = next(iter(cut.pictures.values()))
    return _Row(name, start, 0, {} if cut is None else cut.texts, f"{damage.reason}, and so is all behind it")

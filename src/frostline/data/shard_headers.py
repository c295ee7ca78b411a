"""Scan the headers of WebDataset tar files for samples, damage, and the text of small fields.

The files of a sample have the same name up to the first dot (`n01/00.cat.jpg`, `n01/00.cls`); the rest, in lower case,
is the field (`cat.jpg`, `cls`). The files of a sample need not be adjacent in a shard, which a stream would require.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import IO

from frostline.core.errors import UserError, one_line, user_error
from frostline.core.files import parsed
from frostline.data import image_formats, remote_files
from frostline.data.label_columns import Cell
from frostline.data.listing import is_hidden
from frostline.data.names import counted, printable, some
from frostline.data.remote_files import RemoteFile

JSON = "json"
_TEXTS = ("cls", "txt", JSON)
"""Fields that are always read together with the headers."""
_LONGEST = 1 << 20  # largest size of such a field in bytes
_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)")
_ABOUT_SHARD = re.compile(r"__[^/]*__($|/)")  # webdataset's files about the shard itself
_PACKED = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7z": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}
_BEHIND = 1 << 16  # bytes checked after the end; tar pads to 10 KiB, or more if configured, with zeros
SHOWN_KEYS = 50


@dataclass(frozen=True)
class Wanted:
    """The fields to read in every sample."""

    image: str | None = None
    """Field of the image; None for the only field with the suffix of an image."""
    texts: tuple[str, ...] = ()
    """Fields, or keys of the sample's JSON, whose text is kept, in addition to `cls` and `txt`."""


@dataclass
class _Row:
    """An image, or the rest of a damaged shard."""

    name: str
    start: int
    size: int
    texts: Mapping[str, Cell]
    unread: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""


@dataclass
class _Sample:
    """Files with the same name up to the first dot."""

    images: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    """Name, first byte and size, by field."""
    texts: dict[str, Cell] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)
    """By field, the name of the file whose text is unreadable, and the reason."""
    fields: set[str] = field(default_factory=set)


@dataclass
class Scanned:
    """The content of a shard; `key` is the config key of the shards, for errors."""

    key: str
    shard: RemoteFile
    wanted: Wanted
    samples: dict[str, _Sample] = field(default_factory=dict)
    rows: list[_Row] = field(default_factory=list)
    keys: dict[str, None] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    hidden: int = 0
    links: int = 0

    @property
    def imageless(self) -> int:
        """Number of samples without an image."""
        return sum(not sample.images for sample in self.samples.values())


@dataclass(frozen=True)
class _Damage:
    """Damage of a shard: it is unreadable from byte `start` on."""

    start: int
    reason: str
    cut: bool = False
    """Whether the shard ends within the file that begins there."""


def scan_all(key: str, shards: Sequence[RemoteFile], wanted: Wanted, advance: Callable[[int], object]) -> list[Scanned]:
    """Return the content of each of `shards`; `advance` is called after each; `key` is their config key, for errors.

    Raises `UserError` for files that are unreachable or not uncompressed tar files, and for impossible samples.
    """

    def scan(shard: RemoteFile) -> Scanned:
        try:
            with remote_files.opened(shard) as stream:
                found = _scan(key, shard, wanted, stream)
        except UserError:
            raise
        except Exception as error:  # of the network or the server
            raise remote_files.unreachable(key, shard.url, error) from error
        advance(1)
        return found

    elsewhere = any(remote_files.is_elsewhere(shard.url) for shard in shards)
    with ThreadPoolExecutor(remote_files.AT_ONCE if elsewhere else 1) as pool:  # local threads only wait
        return list(pool.map(scan, shards))


def _scan(key: str, shard: RemoteFile, wanted: Wanted, stream: IO[bytes]) -> Scanned:
    """Return the content of a shard from its headers and small fields."""
    begin = stream.read(4)
    packed = next((program for sign, program in _PACKED.items() if begin.startswith(sign)), None)
    if packed is not None:
        expected = f"plain tar files: a compressed one has no random access ({packed} it)"
        raise user_error(key, shard.url, expected)
    stream.seek(0)
    found, last = Scanned(key, shard, wanted), ""
    for member in _members(stream, shard.size):
        if isinstance(member, _Damage):
            found.rows.append(_rest(found, last, member))
        elif isinstance(member, str):
            found.told.append(f"{printable(shard.name)} {member}")
        else:
            last = _sort_in(found, member, stream) or last
    if found.links:
        links = counted(found.links, "link, which is left out", "links, which are left out")
        found.told.append(f"{printable(shard.name)} holds {links}")
    rows = [_row(found, sample) for sample in found.samples.values() if sample.images]
    found.rows = sorted([*rows, *found.rows], key=lambda row: row.start)
    return found


def _members(stream: IO[bytes], size: int) -> Iterator[tarfile.TarInfo | _Damage | str]:
    """Yield the members of a tar file of `size` bytes; then its damage, or a text about an odd end, if there is one."""
    at, end_of_last = 0, 0
    try:
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # else all members stay in memory
                at, end_of_last = member.offset, member.offset_data + member.size
                yield member
            at = archive.offset  # tarfile treats unreadable data as the end
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


def _sort_in(found: Scanned, member: tarfile.TarInfo, stream: IO[bytes]) -> str | None:
    """Add a member to its sample in `found`, and return the name of the sample, None if it belongs to none."""
    name = member.name.removeprefix("./")
    if any(is_hidden(piece) for piece in name.split("/")):
        found.hidden += member.isfile()
        return None
    if member.islnk() or member.issym():
        found.links += 1
    split = _NAME.fullmatch(name)
    if split is None or not member.isreg() or member.issparse() or _ABOUT_SHARD.match(name):
        return None
    sample, what, wanted = found.samples.setdefault(split[1], _Sample()), split[2].lower(), found.wanted
    if what in sample.fields:
        expected = f"one file {what} in each sample, but {printable(name)} is in {printable(found.shard.name)} twice"
        raise user_error(found.key, found.shard.url, expected)
    sample.fields.add(what)
    if what == wanted.image or (wanted.image is None and f".{what.rpartition('.')[2]}" in image_formats.SUFFIXES):
        sample.images[what] = (name, member.offset_data, member.size)
    elif what in (*_TEXTS, *wanted.texts) and member.size > _LONGEST:
        sample.unread[what] = f"{name} (of more than {_LONGEST:,} bytes)"
    elif what in (*_TEXTS, *wanted.texts):
        stream.seek(member.offset_data)
        content = stream.read(member.size)
        if len(content) == member.size:  # a truncated label may be the name of another class
            _keep_text(found, sample, what, name, content)
    return split[1]


def _keep_text(found: Scanned, sample: _Sample, what: str, name: str, content: bytes) -> None:
    """Keep the text of a field, in the file `name`, or record that it is unreadable: not UTF-8, or not JSON."""
    try:
        said = parsed(content) if what == JSON else content.decode().strip()
    except ValueError as error:
        no_text = isinstance(error, UnicodeError)
        sample.unread[what] = f"{name} ({'no text in UTF-8' if no_text else f'no JSON: {one_line(error)}'})"
        return
    if what != JSON:
        sample.texts[what] = said
        return
    if isinstance(said, dict):
        found.keys.update(dict.fromkeys(list(said)[:SHOWN_KEYS]))
        cells = {f"{JSON}:{key}": _cell(said[key]) for key in found.wanted.texts if key in said}
    else:
        cells = {JSON: _cell(said) if isinstance(said, list) else None}
    sample.texts |= {key: cell for key, cell in cells.items() if cell is not None}


def _cell(value: object) -> Cell:
    """Return a JSON value as text, a list as a list of texts; None if it has values of other types."""
    if not isinstance(value, list):
        return _text(value)
    texts = [text for one in value if (text := _text(one)) is not None]
    return texts if len(texts) == len(value) else None


def _text(value: object) -> str | None:
    """Return a JSON number or string as text, integers without decimals; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool):
        return str(value).lower()
    return str(value).strip() if isinstance(value, str | int | float) else None


def _row(found: Scanned, sample: _Sample) -> _Row:
    name, start, size = next(iter(sample.images.values()))
    if len(sample.images) > 1:
        expected = f"one image in each sample, or data.options.image=<which>: {some(sample.images)}"
        raise user_error(found.key, found.shard.url, f"{expected} (in {printable(name)}; a name ends at its first dot)")
    return _Row(name, start, size, sample.texts, sample.unread)


def _rest(found: Scanned, last: str, damage: _Damage) -> _Row:
    """Return the row for the unreadable rest of a damaged shard; a truncated last sample becomes part of it."""
    name, start = f"from byte {damage.start:,} on", damage.start
    cut = found.samples.get(last)
    if cut is not None and damage.cut:
        del found.samples[last]
        if cut.images:
            name, start, _ = next(iter(cut.images.values()))
    return _Row(name, start, 0, {} if cut is None else cut.texts, reason=f"{damage.reason}, and so is all behind it")

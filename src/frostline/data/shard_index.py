"""Index of WebDataset shards: position of every image, and texts beside it, read once from tar headers into the store.

The library `webdataset` streams shards from start to end, which suits training from remote storage in a fixed order.
frostline needs random access (subsets, folds, a new random order in every epoch), so it reads images by position, for
which there is no library.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from frostline.core import codehash
from frostline.core.errors import first_few
from frostline.data import duplicates, image_formats, remote_files
from frostline.data.decode_all import ProgressBar
from frostline.data.duplicates import TAIL
from frostline.data.label_columns import Cell
from frostline.data.names import counted, printable
from frostline.data.open_image import open_bytes
from frostline.data.remote_files import RemoteFile
from frostline.data.shard_headers import SHOWN_KEYS, Scanned, Wanted, scan_all
from frostline.store import hashing
from frostline.store.store import Store
from frostline.store.writer import Writer


@dataclass(frozen=True)
class Index:
    """The images of a list of shards, in their order in the shards."""

    shards: tuple[RemoteFile, ...]
    places: NDArray[Any]
    """`(N, 3)` int64: number of the shard, first byte in it, size in bytes."""
    names: tuple[str, ...]
    """File name of each image in its shard."""
    texts: Mapping[str, tuple[Cell, ...]]
    """By field (`cls`) or key of the JSON (`json:label`), the value of each image, None for none; under `json` the JSON
    itself, if it is a list."""
    unread: Mapping[str, Mapping[int, str]]
    """By field, for each image whose text is unreadable, the file of the text and the reason."""
    reasons: Mapping[int, str]
    """For each row that stands for the rest of a damaged shard, the reason why it is unreadable."""
    fields: Mapping[str, int]
    """Number of samples with each field."""
    keys: tuple[str, ...]
    """The first keys found in the samples' JSON."""
    told: tuple[str, ...]
    """Oddities of shards, a line each."""
    hidden: int
    """Number of files left out because their names begin with a dot."""
    imageless: int
    """Number of samples left out because they have no image."""

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """Return the name of the i-th image: its shard and its file there."""
        return self._beside(index, self.names[index])

    def unread_in(self, field: str) -> dict[int, str]:
        """Return, by image whose text in `field` is unreadable, the text's file with its shard, and the reason."""
        return {row: self._beside(row, file) for row, file in self.unread.get(field, {}).items()}

    def damage(self) -> list[str]:
        """Return the unreadable parts and oddities, a line each."""
        unread = [file for what in self.unread for file in self.unread_in(what).values()]
        more = [f"{counted(len(unread), 'text', 'texts')} cannot be read: {first_few(unread)}"] if unread else []
        return [*(f"{self.name(row)}: {reason}" for row, reason in self.reasons.items()), *self.told, *more]

    def _beside(self, index: int, name: str) -> str:
        return printable(f"{self.shards[int(self.places[index, 0])].name}/{name}")

    def open(self, index: int) -> Image.Image:
        """Open the i-th image without decoding it; may raise any exception if it is unreadable."""
        return open_bytes(self.content(index), self.names[index])

    def content(self, index: int) -> bytes:
        """Return the bytes of the i-th image; OSError if they are incomplete."""
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
        """Return the sha256 (hex) that identifies the images in `rows` `(N,)` int64."""
        files = [(shard.url, shard.size, shard.facts) for shard in self.shards]
        facts = hashlib.sha256(json.dumps(files).encode())
        facts.update(self.places[rows.numpy()].tobytes())
        facts.update(json.dumps(sorted(self.reasons.items())).encode())
        return facts.hexdigest()

    def first_alike(self, rows: Tensor) -> Tensor:
        """Return `(N,)` int64: for each image of `rows` the position in `rows` of the first one with the same bytes."""

        def size(row: int) -> Hashable:
            if row in self.reasons:
                raise OSError("nothing to compare")
            return int(self.places[row, 2])

        def tail(row: int) -> Hashable:
            shard, start, length = self.places[row].tolist()
            rest = max(0, length - TAIL)
            return hashlib.sha256(self._part(shard, start + rest, length - rest)).digest()

        def whole(row: int) -> Hashable:
            return hashlib.sha256(self.content(row)).digest()

        return duplicates.first_alike(rows.tolist(), size, tail, whole)


def index(key: str, shards: Sequence[RemoteFile], wanted: Wanted, store: Store, progress: ProgressBar) -> Index:
    """Return the index of `shards`, from `store` if they were scanned before.

    `key` is the config key of the shards, for errors. Raises `UserError` for files that are not uncompressed tar files,
    and for impossible samples. At damage, the scan of a shard ends, and the rest is in the index as one broken image.
    """
    facts = {
        "shards": [(shard.url, shard.size, shard.facts) for shard in shards],
        "wanted": [wanted.image, wanted.texts],
        "images": sorted(image_formats.SUFFIXES),
        "code": codehash.of("data.shard_index"),
    }

    def make(writer: Writer) -> dict[str, Any]:
        with progress("scanning shards", len(shards)) as advance:
            found = scan_all(key, shards, wanted, advance)
        return _written(found, writer)

    about = f"index of the images in {counted(len(shards), 'shard', 'shards')}, {shards[0].name} the first"
    entry = store.get("shards", hashing.of_facts(facts), make, about=about)
    names, *texts = json.loads(entry.tensors["columns"].numpy().tobytes())
    said = entry.meta
    return Index(
        shards=tuple(shards),
        places=entry.tensors["places"].numpy(),
        names=tuple(names),
        texts=dict(zip(said["texts"], map(tuple, texts), strict=True)),
        unread={what: dict(files) for what, files in said["unread"].items()},
        reasons=dict(said["reasons"]),
        fields=said["fields"],
        keys=tuple(said["keys"]),
        told=tuple(said["told"]),
        hidden=said["hidden"],
        imageless=said["imageless"],
    )


def _written(found: Sequence[Scanned], writer: Writer) -> dict[str, Any]:
    """Write positions and texts of images, and return the other facts about the shards."""
    rows = [row for one in found for row in one.rows]
    places = [(number, row.start, row.size) for number, one in enumerate(found) for row in one.rows]
    writer.tensor("places", (len(rows), 3), torch.int64).copy_(torch.tensor(places).reshape(-1, 3))
    known = sorted({text for row in rows for text in row.texts})
    unread = sorted({what for row in rows for what in row.unread})
    fields = (what for one in found for sample in one.samples.values() for what in sample.fields)
    columns = [[row.name for row in rows], *([row.texts.get(text) for row in rows] for text in known)]
    content = json.dumps(columns).encode()
    writer.tensor("columns", (len(content),), torch.uint8).numpy()[:] = bytearray(content)
    return {
        "texts": known,
        "unread": {
            what: [(n, row.unread[what]) for n, row in enumerate(rows) if what in row.unread] for what in unread
        },
        "reasons": [(number, row.reason) for number, row in enumerate(rows) if row.reason],
        "fields": Counter(sorted(fields)),
        "keys": list(dict.fromkeys(name for one in found for name in one.keys))[:SHOWN_KEYS],
        "told": [line for one in found for line in one.told],
        "hidden": sum(one.hidden for one in found),
        "imageless": sum(one.imageless for one in found),
    }

"""What is told of the splits of a run's data: of sources, times, classes, and pictures that are alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import partial

from frostline.data import duplicates, findings, leftovers, near_duplicates, times
from frostline.data.findings import Finding
from frostline.data.pixel_cache import Decoded
from frostline.data.source import Source
from frostline.data.splits import Split
from frostline.data.splitting import Selection


def of_sources(sources: Iterable[Source], suffixes: Counter[str]) -> Iterator[Finding]:
    """Yield what is told of whole sources: what they left out, of which these are the `suffixes` that are odd."""
    for source in sources:
        yield from source.findings
    if (told := leftovers.told(suffixes)) is not None:
        yield Finding(told, True, tuple(f"{count} {suffix}" for suffix, count in suffixes.most_common()))


def of_times(parts: Mapping[str, Selection]) -> list[Finding]:
    """Return what is told of the times of splits, as far as they are made by them."""
    known = parts["train"].source.times
    return [] if known is None else [times.told(known, {name: part.ids for name, part in parts.items()})]


def of_pictures(
    parts: Mapping[str, Selection], splits: Mapping[str, Split], decoded: Mapping[str, Decoded]
) -> Iterator[Finding]:
    """Yield what is told of pictures and classes in the splits."""
    labels = {name: split.labels for name, split in splits.items()}
    classes = parts["train"].source.classes
    yield from findings.of_classes(labels, classes)
    shown = {
        name: duplicates.Shown(
            name,
            split.ids,
            split.digests,
            decoded[name].entry.tensors["hashes"][decoded[name].rows(split.ids)],
            split.labels,
            partial(_name, parts[name]),
        )
        for name, split in splits.items()
    }
    yield from duplicates.find(shown, classes)
    yield from near_duplicates.find(shown)


def _name(part: Selection, row: int) -> str:
    return part.source.name(int(part.ids[row]))

"""Findings about the splits of a run's data: sources, times, classes, duplicates."""

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
    """Yield findings about whole sources; `suffixes` counts the files left out that are not images by their names."""
    for source in sources:
        yield from source.findings
    if (told := leftovers.describe(suffixes)) is not None:
        yield Finding(told, True, tuple(f"{count} {suffix}" for suffix, count in suffixes.most_common()))


def of_times(parts: Mapping[str, Selection]) -> list[Finding]:
    """Return the finding about the times of splits, if the splits were made by time."""
    known = parts["train"].source.times
    return [] if known is None else [times.finding(known, {name: part.ids for name, part in parts.items()})]


def of_images(
    parts: Mapping[str, Selection], splits: Mapping[str, Split], decoded: Mapping[str, Decoded]
) -> Iterator[Finding]:
    """Yield findings about classes, duplicates and near duplicates in the splits."""
    labels = {name: split.labels for name, split in splits.items()}
    classes = parts["train"].source.classes
    yield from findings.of_classes(labels, classes)
    shown = {
        name: duplicates.SplitHashes(
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

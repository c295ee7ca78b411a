"""Load a data set: open any source, split it into train, validation and test, and decode it once into the store."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import TypeVar

import torch
from torch import Tensor

from frostline.core import codehash
from frostline.core.config import DataConfig
from frostline.core.config_keys import shrinks_train
from frostline.core.files import absolute
from frostline.core.metrics import GROUP_IMAGES
from frostline.data import belonging, duplicates, findings, leftovers, near_duplicates, times
from frostline.data.bit_depth import of_range
from frostline.data.broken_images import blamed, broken_of, leave_out, require_readable
from frostline.data.decode_all import ProgressBar, no_progress_bar
from frostline.data.decode_image import CONVERSIONS
from frostline.data.findings import Finding
from frostline.data.layouts import SPLITS
from frostline.data.names import printable
from frostline.data.pixel_cache import Decoded, PixelCache, ViewSpec
from frostline.data.pixel_form import PixelForm
from frostline.data.source import Source
from frostline.data.sources import open_splits
from frostline.data.splits import Data, Split, fingerprint
from frostline.data.splitting import Selection, divide
from frostline.store import entries, hashing
from frostline.store.checksums import DamagedEntry
from frostline.store.store import Store
from frostline.store.writer import Writer

_last: dict[str, Data] = {}
_REPAIRS = 100  # more damaged entries mean that the disk damages new ones, too
Found = TypeVar("Found")
"""The result of an attempt."""


def load(config: DataConfig, *, spec: ViewSpec, store: Store, progress: ProgressBar) -> Data:
    """Return the splits, decoded into `store` by the first process that needs them.

    A split that the source lacks is taken from its training split, stratified: first test, then val. `fraction`,
    `limit` or `shots` then shrink train, `eval_limit` the others; images left out are neither decoded nor checked. The
    last result is cached, since the runs of a sweep load the same images again and again. Raises `UserError` if images
    are missing or cannot be split as configured, `BadImages` if some are broken and `skip_bad` is not set.
    """
    root = str(absolute(config.root))
    decisive = replace(config, root=root, name="", flip=False)  # the last two change nothing here
    key = json.dumps([asdict(decisive), asdict(spec), str(store.folder), store.budget], sort_keys=True)
    if key not in _last:
        _last.clear()  # before loading: two data sets may not fit into memory at once
        _last[key] = _assemble(_divide(config, store, progress), config, spec, store, progress)
    return _last[key]


def forget() -> None:
    """Drop the cached result; the next `load` reads the store again."""
    _last.clear()


def despite_damage(attempt: Callable[[], Found], say: Callable[[str], None], then: str = "") -> Found:
    """Return what `attempt` returns, which starts again whenever it reads a damaged entry of the store.

    Each damaged entry, up to `_REPAIRS`, is computed again; `then` is said of the attempt that follows.
    """
    for _ in range(_REPAIRS):
        try:
            return attempt()
        except DamagedEntry as error:  # perhaps of another process of the run
            damage = str(error)
            entries.distrust([error.version])
        say(f"  store: {damage}: computed again{then}")
        forget()
    return attempt()


def source_of_each(config: DataConfig, store: Store) -> dict[str, Source]:
    """Return for each split the source that the ids of its images refer to, which knows their names.

    It is listed again for this: remembering all names would take memory in every run.
    """
    found = open_splits(config, store, no_progress_bar)
    return {split: found.get(split, found["train"]) for split in SPLITS}


def whole_splits(config: DataConfig, store: Store) -> dict[str, Selection]:
    """Return the splits before `fraction`, limits and `shots` shrink them, not decoded; raises like `load`."""
    return _divide(
        replace(config, fraction=1.0, limit=None, shots=None, subset_seed=None, eval_limit=None), store, no_progress_bar
    )


def _divide(config: DataConfig, store: Store, progress: ProgressBar) -> dict[str, Selection]:
    sources = open_splits(config, store, progress)
    with blamed(config.root, sources["train"].damage):
        return divide({name: _remembering(source, store, config) for name, source in sources.items()}, config)


def _remembering(source: Source, store: Store, config: DataConfig) -> Source:
    """Return the source with its search for identical files cached in `store`, keyed by the source's identity."""
    find = source.first_alike
    if find is None or source.identity is None:
        return source
    key = hashing.of_facts([source.identity, codehash.of("data.duplicates")])

    def make(writer: Writer) -> dict[str, str]:
        writer.tensor("first", (len(source.labels),), torch.int64).copy_(find())
        return {}

    about = f"identical files among {len(source.labels):,} images in {config.root}"
    return replace(source, first_alike=lambda: store.get("twins", key, make, about=about).tensors["first"])


def _assemble(
    parts: Mapping[str, Selection], config: DataConfig, spec: ViewSpec, store: Store, progress: ProgressBar
) -> Data:
    train, sources = parts["train"], list({id(part.source): part.source for part in parts.values()}.values())
    about = config.source + ("" if config.source == "glyphs" else f" in {config.root}")
    cache = PixelCache(store, progress, pixels=config.pixels, max_pixels=config.max_pixels, about=about)
    levels = of_range(config.range, config.range_of) or cache.measure_levels(train.source, train.ids, str(config.range))
    decoded: dict[str, Decoded] = {}
    apart = shrinks_train(config) and config.folds is None  # folds share features of all images
    for source in sources:
        own = {name: part.ids for name, part in parts.items() if part.source is source}
        decoded |= cache.decode(source, own, spec, levels, apart=apart)
    good = {name: leave_out(part, decoded[name].bad) for name, part in parts.items()}
    require_readable(parts, good, decoded, root=config.root, skip=config.skip_bad)
    splits = {name: _split(good[name], decoded[name]) for name in SPLITS}
    alike = config.folds is not None and spec.side is None and len(sources) == 1
    broken, suffixes = broken_of(parts, decoded), _summed(source.suffixes for source in sources)
    counts = _conversions(good, decoded) | _summed(source.left_out for source in sources)
    counts |= {"skipped": len(broken)} if broken else {}
    values = findings.of_values(counts, sum(map(len, splits.values())), _span(good, decoded), levels)
    images = _of_images(good, splits, decoded)
    return Data(
        **splits,
        whole=_whole(good, decoded["train"]) if alike else None,
        classes=train.source.classes,
        group_names=_group_names(good["test"].source, splits["test"].groups),
        fingerprint=fingerprint(splits.values(), train.source.classes),
        counts=counts,
        crops=spec.side is not None,
        pixels=_cut_from(decoded["train"].form) if spec.side is not None else "auto",
        reduced_to=decoded["train"].reduced_to,
        levels=levels,
        findings=(*_of_sources(sources, suffixes), *_of_groups(parts), *_of_times(parts), *images, *values),
        broken=broken,
        suffixes=suffixes,
    )


def _of_sources(sources: Iterable[Source], suffixes: Counter[str]) -> Iterator[Finding]:
    """Yield findings about whole sources; `suffixes` counts the files left out that are not images by their names."""
    for source in sources:
        yield from source.findings
    if (told := leftovers.describe(suffixes)) is not None:
        yield Finding(told, True, tuple(f"{count} {suffix}" for suffix, count in suffixes.most_common()))


def _of_groups(parts: Mapping[str, Selection]) -> list[Finding]:
    """Return the finding about groups that copies join, if a split was made from the images of train."""
    source = parts["train"].source
    made = {name for name, part in parts.items() if part.source is source} - {"train", *(source.splits or ())}
    return belonging.joined_groups(source) if made else []


def _of_times(parts: Mapping[str, Selection]) -> list[Finding]:
    """Return the finding about the times of splits, if the splits were made by time."""
    known = parts["train"].source.times
    return [] if known is None else [times.finding(known, {name: part.ids for name, part in parts.items()})]


def _of_images(
    parts: Mapping[str, Selection], splits: Mapping[str, Split], decoded: Mapping[str, Decoded]
) -> Iterator[Finding]:
    """Yield findings about classes, duplicates and near duplicates in the splits."""
    labels = {name: split.labels for name, split in splits.items()}
    classes = parts["train"].source.classes
    yield from findings.of_classes(labels, classes)
    hashes = {name: decoded[name].facts("hashes", split.ids) for name, split in splits.items()}
    shown = {
        name: duplicates.SplitHashes(name, one.ids, one.digests, hashes[name], one.labels, parts[name].name)
        for name, one in splits.items()
    }
    yield from duplicates.find(shown, classes)
    yield from near_duplicates.find(shown)


def _cut_from(form: PixelForm) -> str:
    """Return the value of `data.pixels` that describes what random crops are cut from."""
    return "exact" if form.kind == "nothing" else "auto" if form.side is None else "stored"


def _split(part: Selection, decoded: Decoded) -> Split:
    ids, weights = part.ids, part.source.weights
    sizes, digests = decoded.facts("sizes", ids), decoded.facts("digests", ids)
    digest = hashlib.sha256()
    for tensor in (digests, sizes, ids):
        digest.update(tensor.numpy().data)
    pixels, centred = decoded.pixels(ids), decoded.form.kind == "view"
    counted = None if weights is None else weights[ids]
    return Split(pixels, centred, sizes, part.labels, ids, digests, digest.hexdigest(), counted, _grouped(part))


def _whole(parts: Mapping[str, Selection], decoded: Decoded) -> Split:
    ids = torch.cat([part.ids for part in parts.values()]).sort().values
    return _split(Selection(parts["train"].source, ids), decoded)


def _grouped(part: Selection) -> Tensor | None:
    """Return `(N,)` int64: the id of the first image of the same group in the split; None if no group has two."""
    if part.source.groups is None:
        return None
    found, group = part.source.groups[part.ids].unique(return_inverse=True)
    first = torch.full_like(found, len(group)).scatter_reduce(0, group, torch.arange(len(group)), "amin")
    return part.ids[first[group]] if len(found) < len(group) else None


def _group_names(source: Source, groups: Tensor | None) -> dict[int, str]:
    """Return the names of the groups that are large enough to record their accuracy; others would take memory."""
    if groups is None:
        return {}
    first, images = groups.unique(return_counts=True)
    return {row: printable(source.group_name(row)) for row in first[images >= GROUP_IMAGES].tolist()}


def _conversions(parts: Mapping[str, Selection], decoded: Mapping[str, Decoded]) -> dict[str, int]:
    done = torch.cat([decoded[name].facts("done", part.ids) for name, part in parts.items()]).long()
    counts = {name: int((done >> bit & 1).sum()) for bit, name in enumerate(CONVERSIONS)}
    return {name: count for name, count in counts.items() if count}


def _span(parts: Mapping[str, Selection], decoded: Mapping[str, Decoded]) -> tuple[float, float] | None:
    """Return the lowest and the highest value of all images of more than 8 bits, None if there are none."""
    spans = torch.cat([decoded[name].facts("spans", part.ids) for name, part in parts.items()])
    known = spans[~spans[:, 0].isnan()]
    return (float(known[:, 0].min()), float(known[:, 1].max())) if len(known) else None


def _summed(counts: Iterable[Mapping[str, int]]) -> Counter[str]:
    return sum(map(Counter, counts), Counter[str]())

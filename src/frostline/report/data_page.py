"""The data page: one HTML file that opens offline and shows images as the network sees them, of bounded size.

The numbers are plain HTML; only the filter of many classes needs JavaScript.
"""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from frostline.core import files
from frostline.report import data_words, page_assets
from frostline.report.data_words import Row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from frostline.data.findings import Finding
    from frostline.runs.data_facts import DataFacts
    from frostline.runs.data_gallery import Gallery, GalleryImage

    Pixels = NDArray[np.uint8]

BYTES = 1_900_000
"""Most bytes that all images together take in the page, encoded as text."""
_QUALITIES = (85, 60, 35, 10)  # JPEG qualities; the first with which the images fit into `BYTES` is used
_CLASSES = 100  # of more classes, the page shows the largest and smallest, and a filter finds the others by name
_NAMED = 20  # images of a finding that are listed by name
_BROKEN = 500  # broken images that are listed
_PIXELATED = 48  # pixels; images up to this side are enlarged without smoothing


def write(path: Path, facts: DataFacts, gallery: Gallery) -> Path:
    """Write the page to `path` and return that."""
    shown = [one for group in gallery.classes.values() for one in group]
    shown += [one for groups in gallery.findings for group in groups for one in group]
    address = _encoded(view for one in shown for view in one.views)
    rows = data_words.class_rows(facts)
    text = page_assets.template("data.html").substitute(
        title=escape(f"Data: {facts.name}"),
        about=escape(f"{facts.root or 'Embedded'}, seen on {time.strftime('%Y-%m-%d at %H:%M')}"),
        style=page_assets.text("page.css") + page_assets.text("data.css"),
        facts=_table([], data_words.lines(facts)),
        sizes=_table(["pixels", *data_words.SIZES], data_words.size_rows(facts.sizes)),
        findings="\n".join(_finding(*each, address) for each in zip(facts.findings, gallery.findings, strict=True))
        or '<p class="quiet">Nothing odd was found.</p>',
        broken=_broken(facts.broken),
        about_classes=_about_classes(len(rows)),
        filter="" if len(rows) <= _CLASSES else '<input type="search" placeholder="find a class" aria-label="Classes">',
        classes=_table(["class", *facts.counts], _ends(rows)),
        every=page_assets.script_json(rows if len(rows) > _CLASSES else []),
        about_sheet=escape(_about_sheet(facts, gallery)),
        sheet="\n".join(_class(name, group, address) for name, group in gallery.classes.items()),
        script=page_assets.text("data.js"),
    )
    files.write(path, text)
    return path


def _encoded(images: Iterable[Pixels]) -> Callable[[Pixels], str]:
    """Return a function from an image to its `data:` address; all addresses together take at most `BYTES`."""
    each = list(images)
    found: dict[int, str] = {}
    for quality in _QUALITIES:
        found = {id(image): _jpeg(image, quality) for image in each}
        if sum(map(len, found.values())) <= BYTES:
            break
    return lambda image: found[id(image)]


def _jpeg(image: Pixels, quality: int) -> str:
    from PIL import Image

    Image.fromarray(image).save(buffer := io.BytesIO(), "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _table(head: Sequence[str], rows: Iterable[Row]) -> str:
    """Return a table as HTML; with a `head`, the first column holds names and the others numbers."""
    heads = [(escape(name), bool(place)) for place, name in enumerate(head)]
    return page_assets.table(heads, ([*map(escape, row)] for row in rows))


def _finding(finding: Finding, groups: Sequence[Sequence[GalleryImage]], address: Callable[[Pixels], str]) -> str:
    """Return a finding as HTML: its text, example images in groups, and the names of the first images concerned."""
    mark = '<span class="wrong">!</span> ' if finding.alarming else ""
    names = [escape(name) for name in finding.images[:_NAMED]]
    if (more := len(finding.images) - len(names)) > 0:
        names.append(f"and {more:,} more")
    listed = f"<details><summary>{len(finding.images):,} by name</summary>{'<br>'.join(names)}</details>"
    images = "".join(
        f'<div class="group">{"".join(_figure(one, address, label=True) for one in group)}</div>' for group in groups
    )
    shown = f'<div class="groups">{images}</div>' if images else ""
    return f"<article><p>{mark}{escape(finding.about)}</p>{shown}{listed if names else ''}</article>"


def _broken(broken: Sequence[tuple[str, str]]) -> str:
    if not broken:
        return ""
    more = len(broken) - _BROKEN
    rest = f'<p class="quiet">and {more:,} more; <code>--json</code> names all of them</p>' if more > 0 else ""
    table = _table([], broken[:_BROKEN])
    return f'<section id="broken"><h2>Broken images, left out ({len(broken):,})</h2>{table}{rest}</section>'


def _about_classes(count: int) -> str:
    if count <= _CLASSES:
        return "The largest class of train first."
    return f"The largest and the smallest of train, of {count:,} classes; find the others by name."


def _ends(rows: Sequence[Row]) -> Sequence[Row]:
    """Return the rows of classes that the page shows: of many classes the first and the last ones."""
    half = _CLASSES // 2
    return rows if len(rows) <= _CLASSES else [*rows[:half], *rows[-half:]]


def _about_sheet(facts: DataFacts, gallery: Gallery) -> str:
    shown, count = len(gallery.classes), len(facts.classes)
    classes = f"{shown:,} of {count:,} classes, from the largest to the smallest. " if shown < count else ""
    views = "Each training image is shown without augmentation first, then as in the first epochs. "
    return classes + (views if facts.input.training else "") + "Point at an image to see its name."


def _class(name: str, group: Sequence[GalleryImage], address: Callable[[Pixels], str]) -> str:
    by_split: dict[str, list[GalleryImage]] = {}
    for one in group:
        by_split.setdefault(one.split, []).append(one)
    lines = "".join(
        f'<div class="line"><span class="quiet">{split}</span>{"".join(_figure(one, address) for one in own)}</div>'
        for split, own in by_split.items()
    )
    return f'<article><h3>{escape(name)}</h3><div class="lines">{lines}</div></article>'


def _figure(one: GalleryImage, address: Callable[[Pixels], str], *, label: bool = False) -> str:
    """Return an image in all its views as HTML; with a caption that states its class if `label`."""
    small = ' class="pixels"' if len(one.views[0]) <= _PIXELATED else ""
    titles = [one.name, *(f"{one.name}, epoch {epoch}" for epoch in range(1, len(one.views)))]
    images = "".join(
        f'<img{small} src="{address(view)}" alt="" title="{escape(title)}">'
        for view, title in zip(one.views, titles, strict=True)
    )
    caption = f"<figcaption>{escape(one.split)}: {escape(one.label)}<br>{escape(one.name)}</figcaption>"
    return f"<figure>{images}{caption if label else ''}</figure>"

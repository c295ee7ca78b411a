"""Facts about a data set in words and tables, for the terminal and the data page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from frostline.records.result import percent
from frostline.report.tables import grid, ruled

if TYPE_CHECKING:
    from frostline.report.terminal import Screen
    from frostline.runs.data_facts import DataFacts, ImageSizes

_CONVERTED = {
    "upright": "rotated as their EXIF says",
    "first_frame": "of several pages or frames (the first)",
    "sixteen_bits": "of more than 8 bits",
    "palette": "with a palette",
    "cmyk": "CMYK",
    "grayscale": "grey",
    "alpha": "transparent (laid on white)",
    "deep_colours": "of 16 bits per colour (the upper 8)",
    "profile": "converted to sRGB by their ICC profile",
    "bad_profile": "with a broken ICC profile (taken for sRGB)",
}
"""Words for the conversions of images, by the names in `decode_image.CONVERSIONS`."""
_CLASSES = 12  # most rows of classes on the terminal
_BROKEN = 5  # most broken images that are named on the terminal

Row = tuple[str, ...]


def show(facts: DataFacts, screen: Screen) -> None:
    """Print the facts, sizes, classes and findings of a data set."""
    screen.console.print(grid(lines(facts)))
    screen.console.print(ruled(("pixels", *SIZES), size_rows(facts.sizes), left=("pixels",)))
    screen.console.print(ruled(("class", *facts.counts), _some_rows(class_rows(facts)), left=("class",)))
    for finding in facts.findings:
        screen.say(f"note: {finding.about}", "yellow" if finding.alarming else "")


def lines(facts: DataFacts) -> Iterator[tuple[str, str]]:
    """Yield the facts that take a line each, as pairs of a heading and a text."""
    total = sum(facts.images.values())
    images = ", ".join(f"{count:,} {split}" for split, count in facts.images.items())
    spec, (largest, share) = facts.input, facts.largest
    yield "data", f"{facts.name}, {images} images, {len(facts.classes):,} classes"
    if facts.groups:
        yield "groups", ", ".join(f"{count:,} in {split}" for split, count in facts.groups.items())
    if facts.fold is not None:
        fold, folds = facts.fold
        yield "test split", f"fold {fold} of 0 to {folds - 1}; data.fold=… shows another"
    yield "largest class", f"{largest}, {percent(share)} of train"
    if facts.without_class is not None:
        labels = sum(facts.counts["train"]) / facts.images["train"]
        yield "multi-label", f"{labels:.2f} classes per training image; {facts.without_class:,} have none"
    if empty := [f"{counts.count(0):,} in {split}" for split, counts in facts.counts.items() if 0 in counts]:
        yield "without images", f"classes: {', '.join(empty)}"
    if facts.sizes.enlarged:
        yield "enlarged", f"{facts.sizes.enlarged:,} of {total:,} to {spec.resized} pixels"
    if facts.converted:
        yield "converted", ", ".join(f"{count:,} {_CONVERTED[name]}" for name, count in facts.converted.items())
    if facts.broken:
        some = [f"{name} ({why})" for name, why in facts.broken[:_BROKEN]]
        more = len(facts.broken) - len(some)
        yield "broken", f"{len(facts.broken):,} left out: {', '.join(some)}" + (f" and {more:,} more" if more else "")
    if facts.suffixes or facts.hidden:
        kinds = [f"{count:,} {suffix}" for suffix, count in sorted(facts.suffixes.items(), key=lambda item: -item[1])]
        yield "other files", ", ".join([*kinds, *([f"{facts.hidden:,} hidden"] if facts.hidden else [])])
    yield "input", f"{spec.size}x{spec.size} pixels of {spec.resized}, {spec.interpolation}"
    yield "normalised by", f"mean {_numbers(spec.mean)}, deviation {_numbers(spec.std)} (red, green, blue of 0..1)"
    yield "training views", "; ".join(spec.training) or "the same as all others: augment changes nothing"
    measured = f"mean {_numbers(spec.measured_mean)}, deviation {_numbers(spec.measured_std)}"
    yield "network gets", f"{measured} over the first {spec.views:,} training views"


SIZES = ("min", "25%", "median", "75%", "max")


def size_rows(sizes: ImageSizes) -> list[Row]:
    """Return a row per measure of the original sizes: its name, then the quantiles `SIZES` in pixels or as a ratio."""
    pixels = {"width": sizes.width, "height": sizes.height, "shorter side": sizes.shorter}
    found: list[Row] = [(name, *(f"{value:,.0f}" for value in five)) for name, five in pixels.items()]
    return [*found, ("width : height", *(f"{value:.2f}" for value in sizes.aspect))]


def class_rows(facts: DataFacts) -> list[Row]:
    """Return a row per class, the largest of train first: its name, then its number of images in each split."""
    order = sorted(range(len(facts.classes)), key=lambda label: -facts.counts["train"][label])
    return [(facts.classes[i], *(f"{counts[i]:,}" for counts in facts.counts.values())) for i in order]


def _some_rows(rows: Sequence[Row]) -> Sequence[Row]:
    """Return the rows that the terminal shows: of many the first and the last ones."""
    if len(rows) <= _CLASSES:
        return rows
    half = _CLASSES // 2
    return [*rows[:half], (f"… {len(rows) - 2 * half:,} more", *[""] * (len(rows[0]) - 1)), *rows[-half:]]


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)

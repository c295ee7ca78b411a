"""The data page shows all facts, loads nothing from elsewhere, and stays small."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frostline.data.findings import Finding
from frostline.report import data_page
from frostline.runs.data_facts import DataFacts, ImageSizes, NetworkInput
from frostline.runs.data_gallery import Gallery, GalleryImage

FIVE = (10.0, 20.0, 30.0, 40.0, 1234.0)
RGB = (0.5, 0.25, 0.125)
SMALL = DataFacts(
    name="birds & co",
    root="~/<b>",
    classes=("<i>owl", "</script>", "wren"),
    counts={"train": (5, 1300, 7), "val": (1, 0, 3), "test": (2, 0, 0)},
    images={"train": 1312, "val": 4, "test": 2},
    groups={"train": 1024, "val": 3, "test": 2},
    fold=(2, 5),
    largest=("</script>", 1300 / 1312),
    without_class=None,
    sizes=ImageSizes(FIVE, FIVE, FIVE, (0.5, 0.75, 1.0, 1.5, 2.0), 17),
    converted={"cmyk": 2, "upright": 3},
    broken=(("train/a<.jpg", "truncated: it has no end"),),
    hidden=4,
    suffixes={".txt": 1, ".mp4": 9},
    findings=(Finding("2 images & more", True, ("a = b", "c = d")),),
    input=NetworkInput(
        *(224, 256, "a shorter side of 256", "bicubic", RGB, RGB),
        *(("half of them mirrored",), 512, (0.1234, 0, 0), (1, 1, 1)),
    ),
    fingerprint="0",
)


class Page(HTMLParser):
    """The table rows, text, images, scripts and external links of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.images: list[str] = []
        self.fetched: list[str] = []
        self.scripts: list[str] = []
        self.words = ""
        self._script = self._cell = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self._script = tag in ("script", "style")
        self.scripts += [""] if tag == "script" else []
        self.rows += [[]] if tag == "tr" else []
        if tag in ("td", "th"):
            self._cell = True
            self.rows[-1].append("")
        if tag == "img":
            self.images.append(found["src"])
        self.fetched += [value for key, value in attrs if key in ("src", "href") and not value.startswith("data:")]

    def handle_endtag(self, tag):
        self._script = False
        self._cell &= tag not in ("td", "th")

    def handle_data(self, data):
        if self._script and self.scripts:
            self.scripts[-1] += data
        elif not self._script:
            self.words += data
            if self._cell:
                self.rows[-1][-1] += data


def noise(count: int, side: int = 96) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8))


def gallery_image(label: str, views: list[np.ndarray], split: str = "train") -> GalleryImage:
    return GalleryImage(f"{split}/{label}/1.jpg", split, label, tuple(views))


def test_page_has_all_numbers_and_names(tmp_path):
    page = Page(data_page.write(tmp_path / "data.html", SMALL, Gallery({}, ((),))))
    assert page.fetched == []
    for row in (
        ["class", "train", "val", "test"],
        ["</script>", "1,300", "0", "0"],
        ["wren", "7", "3", "0"],
        ["<i>owl", "5", "1", "2"],
        ["pixels", "min", "25%", "median", "75%", "max"],
        ["width", "10", "20", "30", "40", "1,234"],
        ["width : height", "0.50", "0.75", "1.00", "1.50", "2.00"],
        ["train/a<.jpg", "truncated: it has no end"],
        ["groups", "1,024 in train, 3 in val, 2 in test"],
        ["test split", "fold 2 of 0 to 4; data.fold=… shows another"],
        ["largest class", "</script>, 99.09% of train"],
        ["without images", "classes: 1 in val, 2 in test"],
        ["enlarged", "17 of 1,318 to a shorter side of 256 pixels"],
        ["converted", "2 CMYK, 3 rotated as their EXIF says"],
        ["other files", "9 .mp4, 1 .txt, 4 hidden"],
        [
            "network gets",
            "mean 0.123 0.000 0.000, deviation 1.000 1.000 1.000 over the first 512 training views",
        ],
    ):
        assert row in page.rows
    names = [row[0] for row in page.rows if row]
    assert sorted(SMALL.classes, key=names.index) == ["</script>", "wren", "<i>owl"]
    assert all(words in page.words for words in ("~/<b>", "birds & co", "2 images & more", "a = b", "c = d"))


def test_page_has_the_gallery_images(tmp_path):
    flat = [np.full((96, 96, 3), level, np.uint8) for level in (10, 90, 170, 250)]
    gallery = Gallery({"wren": (gallery_image("wren", flat[:3]),)}, (((gallery_image("wren", flat[3:], "test"),),),))
    page = Page(data_page.write(tmp_path / "data.html", SMALL, gallery))
    found = [Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) for address in page.images]
    assert [np.array(one).mean() for one in found] == pytest.approx([250, 10, 90, 170], abs=1)


def test_page_of_20000_classes_is_small_and_complete(tmp_path):
    names = tuple(f"species number {number}" for number in range(20_000))
    counts = {split: tuple(range(20_000)) for split in SMALL.counts}
    many = tuple(f"{name} = {name}" for name in names)
    facts = replace(SMALL, classes=names, counts=counts, broken=tuple((name, "empty") for name in names))
    facts = replace(facts, findings=(Finding("copies", True, many),))
    gallery = Gallery(
        {name: tuple(gallery_image(name, noise(4)) for _ in range(4)) for name in names[:24]},
        (tuple((gallery_image("a", noise(1)), gallery_image("b", noise(1))) for _ in range(60)),),
    )
    path = data_page.write(tmp_path / "data.html", facts, gallery)
    assert path.stat().st_size < 3_000_000
    page = Page(path)
    assert len(page.images) == 24 * 16 + 120 and len(page.rows) < 700
    every = json.loads(page.scripts[0])
    assert sorted(every) == sorted([name, *[f"{n:,}"] * 3] for n, name in enumerate(names))
    assert ["species number 0", "0", "0", "0"] in page.rows and ["species number 19999", *["19,999"] * 3] in page.rows
    assert re.search(r"and 19,980 more", page.words) and re.search(r"and 19,500 more", page.words)

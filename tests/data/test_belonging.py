"""Copies of an image join groups, and a finding says so; copies of a broken file join none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from test_sources import request

from frostline.data import belonging, loading
from frostline.data.source import Source
from numbered import png
from small import load_data

COPIES = [0, 0, 2, 3, 2, 5, 2]
SITES = [0, 1, 1, 2, 3, 3, 0]


def source(fault: Exception, *, first: int) -> Source:
    """Return images of four sites, of which row 1 is a copy of row 0, and rows 4 and 6 of row 2; `first` is broken."""

    def read(row: int) -> Image.Image:
        if row == first:
            raise fault
        return Image.new("RGB", (1, 1))

    labels = torch.zeros(len(SITES), dtype=torch.int64)
    return Source(labels, ("a",), read, str, groups=torch.tensor(SITES), first_alike=lambda: torch.tensor(COPIES))


def sides(found: Source) -> list[int]:
    together = belonging.together(found)
    assert together is not None
    return together.unique(return_inverse=True)[1].tolist()


def test_copies_of_a_broken_file_join_no_groups() -> None:
    assert sides(source(OSError("empty"), first=2)) == [0, 0, 0, 1, 2, 2, 0]
    assert sides(source(PermissionError(13, "not now"), first=2)) == [0, 0, 0, 1, 0, 0, 0]  # may pass: still a copy


@pytest.mark.parametrize("made", [True, False])
def test_groups_that_copies_join_are_reported_if_the_split_is_made(tmp_path: Path, made: bool) -> None:
    rows = ["file,label,group,split" if not made else "file,label,group"]
    for number in range(16):
        site, split = number // 2, ("train", "val", "test")[min(2, number // 6)]
        content = b"" if number in (8, 10) else png(0 if number == 4 else number)
        (tmp_path / f"{number}.png").write_bytes(content)
        rows.append(f"{number}.png,{'ab'[number % 2]},s{site}" + ("" if made else f",{split}"))
    (tmp_path / "t.csv").write_text("\n".join(rows))
    loading.forget()
    options = {"group": "group"}
    found = load_data(**request("table", root=str(tmp_path / "t.csv"), options=options, skip_bad=True))
    told = [finding.about for finding in found.findings if "another group" in finding.about]
    expected = "1 image has a copy in another group (4.png of s2 = 0.png of s0): up to 2 groups, 4 of 16 images, "
    assert told == ([expected + "stay in one split"] if made else [])

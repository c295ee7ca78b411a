"""Tables: labels in the usual file formats, and splits by the table's groups."""

from __future__ import annotations

import csv
import json
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet as pq
from test_folds import source

from frostline.core.errors import UserError
from frostline.data import image_list, loading, splitting, table_columns, table_files, tables
from frostline.data.broken_images import BadImages
from frostline.data.source import Source
from frostline.data.splits import Data
from frostline.data.table_rows import Form
from frostline.store.store import Store
from numbered import disjoint, findings, in_turn, numbers, pairs
from small import data_config, load_data

NONE = {"path": None, "label": None, "split": None, "group": None, "time": None, "root": None}
NO_PATH = "expected a path in every row, but there is none in row 21"
LISTS = pd.DataFrame({"file": [["a.png", "b.png"]], "label": ["cat"]}).to_parquet()
BYTES = pd.DataFrame({"file": [b"\x89PNG"], "label": ["cat"]}).to_parquet()
Row = dict[str, Any]


def image(file: Path, number: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (number % 256, number // 256, 9)).save(file)


def rows(root: Path, count: int = 20, classes: Iterable[str] = ("cat", "dog")) -> list[Row]:
    """Write images below `root` and return their rows, classes in turn."""
    names = list(classes)
    found: list[Row] = []
    for number in range(count):
        name = f"pics/{number}.png"
        image(root / name, number)
        found.append({"file": name, "label": names[number % len(names)]})
    return found


def load(table: Path, **options: Any) -> Data:
    changes = {key: options.pop(key) for key in ("skip_bad", "test_fraction", "val_fraction") if key in options}
    return load_data(source="table", root=str(table), options={**NONE, **options}, **changes)


def as_csv(file: Path, found: list[Row], *, head: str = "", **how: Any) -> None:
    with file.open("w", newline="", encoding=how.pop("encoding", "utf-8")) as stream:
        stream.write(head)
        writer = csv.DictWriter(stream, found[0].keys(), **how)
        writer.writeheader()
        writer.writerows(found)


def spaced(file: Path) -> None:
    file.write_text(file.read_text().replace('","', '", "'))


WRITERS: dict[str, Callable[[Path, list[Row]], None]] = {
    "plain.csv": as_csv,
    "bom.csv": lambda file, found: as_csv(file, found, head="\ufeff"),
    "semicolons.csv": lambda file, found: as_csv(file, found, delimiter=";", lineterminator="\r\n"),
    "sep_line.csv": lambda file, found: as_csv(file, found, head="sep=|\n", delimiter="|"),
    "empty_rows.csv": lambda file, found: as_csv(file, [found[0], *[dict.fromkeys(found[0], "")] * 3, *found[1:]]),
    "utf16.txt": lambda file, found: as_csv(file, found, delimiter="\t", encoding="utf-16"),
    "blanks.csv": lambda file, found: as_csv(file, found, quoting=csv.QUOTE_ALL) or spaced(file),
    "all_quoted.csv": lambda file, found: as_csv(file, found, quoting=csv.QUOTE_ALL),
    "tabs.tsv": lambda file, found: as_csv(file, found, delimiter="\t"),
    "lines.jsonl": lambda file, found: file.write_text("\n".join(map(json.dumps, found))) and None,
    "rows.parquet": lambda file, found: pd.DataFrame(found).to_parquet(file),
    "index.parquet": lambda file, found: pd.DataFrame(found).set_index("file").to_parquet(file),
    "categories.parquet": lambda file, found: pd.DataFrame(found).astype({"label": "category"}).to_parquet(file),
}


@pytest.mark.parametrize("name", WRITERS)
def test_usual_table_formats_are_read(tmp_path: Path, name: str) -> None:
    found = [row | {"notes": 'a "quoted", line;\nand another'} for row in rows(tmp_path)]
    WRITERS[name](tmp_path / name, found)
    data = load(tmp_path / name)
    assert data.classes == ("cat", "dog")
    assert pairs(data) == in_turn(20)


@pytest.mark.parametrize("kind", [".csv", ".parquet", ".jsonl"])
def test_labels_are_not_reinterpreted(tmp_path: Path, kind: str) -> None:
    names = ("007", "7", "NA", "1e3", "null", "10")
    found = rows(tmp_path, 36, names)
    WRITERS[{".csv": "plain.csv", ".parquet": "rows.parquet", ".jsonl": "lines.jsonl"}[kind]](
        tmp_path / f"t{kind}", found
    )
    data = load(tmp_path / f"t{kind}")
    assert data.classes == ("007", "7", "10", "1e3", "NA", "null")  # numbers by value, then text
    assert set(pairs(data)) == {(number, names[number % 6]) for number in range(36)}


def test_whole_floats_are_labels_without_decimals(tmp_path: Path) -> None:
    found = rows(tmp_path)
    frame = pd.DataFrame({"file": [row["file"] for row in found], "label": [float(n % 3) for n in range(20)]})
    frame.loc[5, "label"] = np.nan
    frame.to_parquet(tmp_path / "t.parquet")
    data = load(tmp_path / "t.parquet")
    assert data.classes == ("0", "1", "2")
    (finding,) = findings(data, "without a label")
    assert finding.about == "1 row without a label is left out: pics/5.png"


def test_missing_categories_and_huge_floats_are_read(tmp_path: Path) -> None:
    found = rows(tmp_path)
    frame = pd.DataFrame({"file": [row["file"] for row in found], "label": [(1.0, 1e300)[n % 2] for n in range(20)]})
    frame["group"] = pd.Categorical([None if n < 4 else "one" for n in range(20)])
    frame.to_parquet(tmp_path / "t.parquet")
    read = tables.read(tmp_path / "t.parquet", {"group": "group"}).splits["train"]
    assert read.labels == (("1.0",), ("1e+300",)) * 10
    assert read.groups == ("",) * 4 + ("one",) * 16


def test_root_may_be_the_file_system_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = rows(tmp_path)
    as_csv(tmp_path / "t.csv", [row | {"file": str(tmp_path / row["file"])} for row in found])
    monkeypatch.setattr(tables, "_LOOKED_AT", 10)
    assert len(tables.read(tmp_path / "t.csv", {"root": "/"}).splits["train"].files) == len(found)


def test_search_for_images_without_rows_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_csv(tmp_path / "t.csv", rows(tmp_path, 10))
    for number in range(200):
        image(tmp_path / f"more {number:03}" / "1.png", number)
    monkeypatch.setattr(tables, "_LOOKED_AT", 230)
    (finding,) = findings(load(tmp_path / "t.csv"), "in no row")
    assert finding.about.startswith("49 images below") and finding.about.endswith(
        "(of the first 251 files and folders there)"
    )
    monkeypatch.setattr(tables, "_LOOKED_AT", 1000)
    assert tables.read(tmp_path / "t.csv", {}).findings[0].about.startswith("200 images below")


def test_options_choose_columns_and_root(tmp_path: Path) -> None:
    found = rows(tmp_path / "far" / "away")
    fold = {0: "Training", 1: "Training", 2: "valid", 3: "TEST"}
    as_csv(tmp_path / "t.csv", [{"x": r["file"], "y": r["label"], "fold": fold[n // 5]} for n, r in enumerate(found)])
    data = load(tmp_path / "t.csv", path="x", label="y", split="fold", root="far/away")
    assert [len(split) for split in (data.train, data.val, data.test)] == [10, 5, 5]
    assert numbers(data.train) == list(range(10))


def test_unused_split_column_is_reported(tmp_path: Path) -> None:
    found = rows(tmp_path)
    table = [row | {"subset": "Test" if n < 6 else "Training", "n": n % 2} for n, row in enumerate(found)]
    as_csv(tmp_path / "t.csv", table)
    (finding,) = findings(load(tmp_path / "t.csv"), "not used")
    assert finding.about == "column subset is not used: data.options.split=subset uses its splits"
    assert finding.alarming
    assert not findings(load(tmp_path / "t.csv", split="subset"), "not used")
    for values in (("Test", "other"), ("Training", "Training")):
        as_csv(tmp_path / "u.csv", [row | {"subset": values[n % 2]} for n, row in enumerate(found)])
        assert not findings(load(tmp_path / "u.csv"), "not used")


def test_urls_and_odd_values_are_refused_concisely(tmp_path: Path) -> None:
    found = rows(tmp_path)
    as_csv(tmp_path / "t.csv", [row | {"file": f"https://host/{row['file']}"} for row in found])
    assert "expected paths of files, not https://host/pics/0.png, " in refused(tmp_path / "t.csv")
    as_csv(tmp_path / "t.csv", [row | {"w": ("-1", "x")[n % 2], "t": "1 May"} for n, row in enumerate(found)])
    assert "data.options.weight=-1, x: expected" in refused(tmp_path / "t.csv", weight="w")
    assert refused(tmp_path / "t.csv", time="t").endswith(", not of 1 May")


@pytest.mark.parametrize("numbers", [(2**53 + 1, 2**53, None), (10**29, -(2**63) - 1, 7)])
@pytest.mark.parametrize("kind", [".jsonl", ".parquet"])
def test_large_integers_keep_every_digit(tmp_path: Path, kind: str, numbers: tuple[int | None, ...]) -> None:
    if kind == ".parquet":
        numbers = tuple(one and one % 2**63 for one in numbers)  # the range of int64
        pq.write_table(pa.table({"label": pa.array(numbers)}), tmp_path / "t.parquet")
    else:
        (tmp_path / "t.jsonl").write_text("\n".join(json.dumps({"label": one}) for one in numbers))
    frame = table_files.whole(tmp_path / f"t{kind}", "data.root")
    found = table_columns.texts(frame["label"], "label", tmp_path)
    assert found == ["" if one is None else str(one) for one in numbers]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"path": ', "line 3: Expecting value"),
        ("7", "line 3 is not an object"),
        ("9" * 5000, "line 3: Exceeds the limit"),
    ],
)
def test_invalid_json_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "t.jsonl").write_text('{"path": "a.png", "label": "a"}\n\n' + line)
    assert f"t.jsonl: expected a table that can be read ({message}" in refused(tmp_path / "t.jsonl")


def refused(table: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(table, **options)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize("label", [{"cat": 0, "dog": 1}, [["cat"], ["dog"]], [{"name": "cat"}]])
def test_nested_labels_are_refused(tmp_path: Path, label: object) -> None:
    lines = [{"path": "a.png", "label": "cat"}, {"path": "b.png", "label": label}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert refused(tmp_path / "t.jsonl").endswith(
        f"expected a text or a list of texts per row in column label, not {json.dumps(label)}"
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"file": "../secret.png", "label": "cat"},
            "expected paths below {root} (data.options.root), not ../secret.png",
        ),
        ({"file": "/etc/passwd", "label": "cat"}, "not /etc/passwd"),
        ({"file": "pics/0.png", "label": "dog"}, "expected one label for each image, but pics/0.png is cat and dog"),
        ({"file": "pics/x.png", "label": "Cat"}, "expected one spelling for each class, not 'Cat' and 'cat'"),
        ({"file": "", "label": "cat"}, NO_PATH),
        # Before version 3 pandas ends a text at NUL.
        ({"file": "pics/\0.png", "label": "cat"}, NO_PATH if pd.__version__ >= "3" else "pics: a folder"),
    ],
)
def test_invalid_row_is_refused(tmp_path: Path, row: Row, message: str) -> None:
    as_csv(tmp_path / "t.csv", [*rows(tmp_path), row])
    assert message.format(root=tmp_path) in refused(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"root": "~nobody/x"}, "data.options.root=~nobody/x: expected a folder that exists"),
        ({"root": "nowhere"}, "data.options.root=nowhere: expected a folder that exists"),
        ({"label": "lable"}, "label=lable: expected a column of the table: file, label; did you mean label?"),
        ({"labels": "x"}, "labels=x: expected one of path, label, split, group, time, weight, root"),
    ],
)
def test_invalid_option_is_refused(tmp_path: Path, options: dict[str, str], message: str) -> None:
    as_csv(tmp_path / "t.csv", rows(tmp_path))
    assert message in refused(tmp_path / "t.csv", **options)


def test_invalid_columns_are_refused(tmp_path: Path) -> None:
    found, table = rows(tmp_path), tmp_path / "t.csv"
    as_csv(table, [row | {"who": str(number)} for number, row in enumerate([*found, found[0]])])
    assert "expected one group for each image, but pics/0.png is 0 and 20" in refused(table, group="who")
    as_csv(table, [{"a": row["file"], "b": row["label"]} for row in found])
    line = "data.options.path=<column>: expected one of the table's columns, since none has a common name (path, file, "
    assert f"{line}filename, ...): a, b" in refused(table)
    as_csv(table, [row | {"image": row["file"]} for row in found])
    assert "data.options.path=<column>: expected one of the table's columns, since several have" in refused(table)
    as_csv(table, [row | {"split": "fold 3"} for row in found])
    assert "data.options.split=split: expected a column of train, val and test, not of fold 3" in refused(table)
    as_csv(table, [{"file": row["file"], "label": "cat"} for row in found])
    assert "expected images of two or more classes, found cat" in refused(table)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"file,label\nna\xefve.png,cat\n", "expected a table in UTF-8"),
        ("t.csv", b"file,label\na.png,cat,dog\n", "expected a table whose rows have as many fields as its head"),
        ("t.csv", None, "expected a table that exists"),
        ("t.xlsx", b"PK", "expected a table: .csv, .tsv, .parquet or .jsonl"),
        ("t.parquet", b"PAR1", "expected a table that can be read"),
        ("t.parquet", LISTS, "expected one text per row in column file, not a list"),
        ("t.parquet", BYTES, "expected one text per row in column file, not a list, an object or bytes"),
    ],
)
def test_invalid_file_is_refused(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert message in refused(tmp_path / name)


def test_missing_files_and_missing_rows_are_reported(tmp_path: Path) -> None:
    found = rows(tmp_path)
    image(tmp_path / "pics" / "more.png", 99)
    for ours in ("mlruns/1/artifacts", "multirun/2026-11-29/plots"):
        image(tmp_path / ours / "drawn.png", 99)
    (tmp_path / "a link").symlink_to("pics")
    as_csv(tmp_path / "t.csv", [*found, {"file": "pics/gone.png", "label": "cat"}, found[0]])
    with pytest.raises(BadImages) as caught:
        load(tmp_path / "t.csv")
    assert [name for name, _ in caught.value.reasons] == ["pics/gone.png"]
    data = load(tmp_path / "t.csv", skip_bad=True)
    assert data.counts["skipped"] == 1
    reported = [finding.about for finding in data.findings]
    assert f"1 image below {tmp_path} is in no row of the table: a link/more.png" in reported
    assert "1 row repeats an image and is ignored" in reported


def test_rows_without_a_label_are_rows(tmp_path: Path) -> None:
    as_csv(tmp_path / "t.csv", [*rows(tmp_path), {"file": "pics/new.png", "label": ""}])
    image(tmp_path / "pics" / "new.png", 99)
    reported = [finding.about for finding in load(tmp_path / "t.csv").findings]
    assert "1 row without a label is left out: pics/new.png" in reported
    assert not any("in no row of the table" in about for about in reported)


@pytest.mark.parametrize(
    ("classes", "told"),
    [
        (("a|b", "b|c", "a", "c"), "a|b seem to be several: data.options.separator='\"|\"'"),
        (("red, round", "round, blue", "red,blue"), "red, round seem to be several"),
        (("Albany, NY", "Austin, TX", "Buffalo, NY"), None),
        (("a|b", "a"), None),
    ],
)
def test_labels_that_are_probably_several_are_reported(tmp_path: Path, classes: tuple[str, ...], told: str) -> None:
    as_csv(tmp_path / "t.csv", rows(tmp_path, classes=classes))
    reported = [finding.about for finding in load(tmp_path / "t.csv").findings if "seem to be" in finding.about]
    assert len(reported) == bool(told) and all(told in about for about in reported)
    if told:  # so is a separator that is in none of them
        assert findings(load(tmp_path / "t.csv", separator="'|'"), "seem to be several")


def test_ids_get_the_suffix_of_the_files(tmp_path: Path) -> None:
    whole = rows(tmp_path)
    as_csv(tmp_path / "whole.csv", whole)
    ids = [row | {"file": row["file"].removesuffix(".png")} for row in whole]
    as_csv(tmp_path / "ids.csv", ids)
    data = load(tmp_path / "ids.csv")
    assert data.fingerprint == load(tmp_path / "whole.csv").fingerprint
    assert findings(data, "suffix")[0].about == "paths in the table have no suffix: read as .png"
    as_csv(tmp_path / "ids.csv", [{"file": "pics/gone", "label": "cat"}, *ids])
    assert load(tmp_path / "ids.csv", skip_bad=True).counts["skipped"] == 1
    for row in ids:
        (tmp_path / f"{row['file']}.jpg").write_bytes(b"x")
    with pytest.raises(
        BadImages, match=r"; are the paths complete, suffixes included, and relative to the table or to "
    ):
        load(tmp_path / "ids.csv")


@pytest.mark.parametrize(("of_files", "of_table"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_umlauts_of_paths_may_be_in_another_form_of_unicode(tmp_path: Path, of_files: Form, of_table: Form) -> None:
    whole = rows(tmp_path)
    (tmp_path / "pics").rename(tmp_path / unicodedata.normalize(of_files, "Prüfstücke"))
    for name, form in {"there": of_files, "table": of_table}.items():
        renamed = [row | {"file": row["file"].replace("pics", "Prüfstücke")} for row in whole]
        as_csv(tmp_path / f"{name}.csv", [row | {"file": unicodedata.normalize(form, row["file"])} for row in renamed])
    data = load(tmp_path / "table.csv")
    assert data.fingerprint == load(tmp_path / "there.csv").fingerprint
    said = f"paths in the table are read in the Unicode form of the files' names, {of_files}"
    assert [finding.about for finding in findings(data, "Unicode")] == [said]
    assert not findings(load(tmp_path / "there.csv"), "Unicode")
    listed = image_list.gather(tmp_path / ".list", [tmp_path / "table.csv"], say=print)
    assert all(Path(listed.place(row)).is_file() for row in range(20))


def test_windows_paths_are_read(tmp_path: Path) -> None:
    found = [row | {"file": row["file"].replace("/", "\\")} for row in rows(tmp_path)]
    as_csv(tmp_path / "t.csv", found)
    assert len(pairs(load(tmp_path / "t.csv"))) == 20


def test_groups_are_not_split(tmp_path: Path) -> None:
    found = [row | {"patient": f"p{number // 5}"} for number, row in enumerate(rows(tmp_path, 200))]
    as_csv(tmp_path / "t.csv", found)
    assert findings(load(tmp_path / "t.csv"), "data.options.group=patient keeps its images in the same split")
    data = load(tmp_path / "t.csv", group="patient")
    assert disjoint(*({number // 5 for number in numbers(split)} for split in (data.train, data.val, data.test)))
    assert [len(split) for split in (data.val, data.test)] == [30, 40]
    for split in (data.val, data.test):
        assert abs(int(split.labels.sum()) - len(split) / 2) <= 5
    second = load(tmp_path / "t.csv", group="patient")
    assert torch.equal(second.test.ids, data.test.ids)


def test_groups_have_the_names_of_the_table(tmp_path: Path) -> None:
    found = [row | {"patient": f"p{number // 5}" * (number != 7)} for number, row in enumerate(rows(tmp_path))]
    as_csv(tmp_path / "t.csv", found)
    config = data_config(source="table", root=str(tmp_path / "t.csv"), options={**NONE, "group": "patient"})
    own = loading.source_of_each(config, Store(None, budget=10**9, say=print))["test"]
    assert [own.group_name(number) for number in range(20)] == [row["patient"] for row in found]
    assert replace(own, group_names=()).group_name(19) == str(int(own.groups[19]))


@pytest.mark.parametrize(("options", "blank"), [({}, -1), ({"rows": "labels"}, 0)])
def test_one_row_gives_group_and_time_of_an_image(tmp_path: Path, options: dict[str, str], blank: int) -> None:
    found = [
        {**row, "patient": f"p{n // 4}", "taken": str(2000 + n)} for n, row in enumerate(rows(tmp_path)) for _ in "ab"
    ]
    for number in range(0, len(found), 2):
        found[number + blank % 2] |= {"patient": "", "taken": ""}
    as_csv(tmp_path / "t.csv", found)
    (train,) = tables.read(tmp_path / "t.csv", {**NONE, "group": "patient", "time": "taken", **options}).splits.values()
    assert train.groups == tuple(f"p{n // 4}" for n in range(20))


def test_own_splits_that_divide_groups_are_reported(tmp_path: Path) -> None:
    found = [
        row | {"patient": f"p{number // 3}", "split": ("train", "test")[number >= 10]}
        for number, row in enumerate(rows(tmp_path))
    ]
    as_csv(tmp_path / "t.csv", found)
    (finding,) = findings(load(tmp_path / "t.csv", group="patient"), "group")
    assert finding.about == "1 group has images in train and in test: p3" and finding.alarming


def test_groups_do_not_depend_on_their_names(tmp_path: Path) -> None:
    found = rows(tmp_path, 40)

    def grouped(file: str, name: Callable[[int], str], **options: Any) -> Data:
        as_csv(tmp_path / file, [row | {"group": name(number)} for number, row in enumerate(found)])
        return load(tmp_path / file, test_fraction=0.5, **options)

    data = grouped("four.csv", lambda number: str(number // 4), group="group")
    test = data.test
    assert test.groups is not None and len(set(test.groups.tolist())) > 1
    first = {number // 4: number for number in sorted(test.ids.tolist(), reverse=True)}
    assert test.groups.tolist() == [first[number // 4] for number in test.ids.tolist()]
    named = grouped("named.csv", lambda number: f"p{40 - number // 4}", group="group")
    assert named.fingerprint == data.fingerprint
    alone, plain = grouped("alone.csv", str, group="group"), grouped("plain.csv", str)
    assert alone.test.groups is None and alone.fingerprint == plain.fingerprint != data.fingerprint
    blank = grouped("blank.csv", lambda number: "" if number else "one", group="group")
    assert blank.fingerprint == plain.fingerprint  # an image without a group is in none with others


def test_fingerprint_includes_groups(tmp_path: Path) -> None:
    found = [row | {"split": ("train", "val", "test")[number % 3]} for number, row in enumerate(rows(tmp_path, 30))]
    prints = []
    for size in (2, 3):
        table = tmp_path / f"{size}.csv"
        as_csv(table, [row | {"group": str(number // 3 // size)} for number, row in enumerate(found)])
        prints.append(load(table, group="group").fingerprint)
    assert prints[0] != prints[1]


def divided(found: Source, **changes: Any) -> dict[str, splitting.Selection]:
    how = {"source": "table", "val_fraction": 0.0, "test_fraction": 0.2, **changes}
    return splitting.divide({"train": found, "val": found}, data_config(**how))


def test_dominant_group_of_a_class_stays_in_train() -> None:
    labels = [0] * 100 + [1] * 100
    groups = [*range(100), *[1000] * 90, *range(200, 210)]  # one group is 90% of class 1
    for seed in range(20):
        test = divided(source(labels, groups), split_seed=seed)["test"]
        counts = test.labels.bincount(minlength=2).tolist()
        assert counts[0] == 20 and 1 <= counts[1] <= 10


def test_grouped_splits_are_nearly_stratified() -> None:
    draw = np.random.default_rng(0)
    groups = draw.integers(0, 60, 600).tolist()
    labels = [int(draw.integers(0, 3)) if group % 2 else group % 3 for group in groups]
    found = source(labels, groups)
    parts = divided(found)
    assert not set(found.groups[parts["test"].ids].tolist()) & set(found.groups[parts["train"].ids].tolist())  # type: ignore[index]
    share = parts["test"].labels.bincount() / found.labels.bincount()
    assert ((share > 0.12) & (share < 0.28)).all(), share


@pytest.mark.parametrize(("groups", "split"), [([5] * 20, "test"), ([5] * 10 + [6] * 10, "val")])
def test_too_few_groups_cannot_be_split(groups: list[int], split: str) -> None:
    expected = f"^data.{split}_fraction=0.2: expected images that are no copies of each other"
    left = f"some of them for {split}; 1 group is left for train and {split}: take smaller groups"
    with pytest.raises(UserError, match=f"{expected}.*{left}"):
        splitting.divide({"train": source([0, 1] * 10, groups)}, data_config(source="table"))


def test_groups_that_share_copies_stay_together(tmp_path: Path) -> None:
    found = [row | {"group": str(number // 4)} for number, row in enumerate(rows(tmp_path, 80))]
    for number in range(0, 80, 8):  # the first image of every other group is a copy of the next group's first
        image(tmp_path / f"pics/{number + 4}.png", number)
    as_csv(tmp_path / "t.csv", found)
    data = load(tmp_path / "t.csv", group="group")
    assert disjoint(*({number // 8 for number in numbers(split)} for split in (data.train, data.val, data.test)))


def test_weights_are_read_checked_and_fingerprinted(tmp_path: Path) -> None:
    found = [row | {"weight": 1 + number / 4} for number, row in enumerate(rows(tmp_path))]
    as_csv(table := tmp_path / "t.csv", found)
    data = load(table, weight="weight")
    for split in (data.train, data.val, data.test):
        assert split.weights is not None
        assert split.weights.tolist() == [1 + number / 4 for number in numbers(split)]
    plain = load(table)
    assert plain.train.weights is None and plain.fingerprint != data.fingerprint
    found[3]["weight"] = 9.0
    as_csv(table, found)
    assert load(table, weight="weight").fingerprint != data.fingerprint
    for odd in ("0", "-1", "nan", "inf", "", "much"):
        as_csv(table, [*found[:-1], found[-1] | {"weight": odd}])
        with pytest.raises(UserError, match=r"data.options.weight=.*: expected a column of finite numbers above 0"):
            tables.read(table, {"weight": "weight"})
    as_csv(table, [*found, found[0] | {"weight": 3}])
    with pytest.raises(UserError, match=r"expected one weight for each image, but pics/0.png is 1 and 3"):
        tables.read(table, {"weight": "weight"})

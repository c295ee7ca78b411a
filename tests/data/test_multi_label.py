"""Multi-label images: labels in every source, their splits and folds, and findings."""

from __future__ import annotations

import csv
import io
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor

from frostline.core.errors import UserError
from frostline.data import label_columns, stratification, tables
from frostline.data.source import Source
from frostline.data.splits import Data
from frostline.data.splitting import Selection, divide
from numbered import disjoint, findings
from small import data_config, load_data

CLASSES = ("cat", "dog", "fox")
Labelled = tuple[Path, list[list[str]]]
OPTIONS = {"path": None, "label": None, "split": None, "group": None, "root": None, "separator": None}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Labelled:
    """Return a folder of images and the labels of each."""
    root, draw = tmp_path_factory.mktemp("several"), np.random.default_rng(0)
    labels = []
    for number in range(40):
        Image.new("RGB", (8, 8), (number, 7, 9)).save(root / f"{number}.png")
        labels.append([name for name, share in zip(CLASSES, (0.6, 0.4, 0.2), strict=True) if draw.random() < share])
    return root, labels


def load(table: Path, **options: Any) -> Data:
    return load_data(source="table", root=str(table), options={**OPTIONS, **options})


def labels_by_red(data: Data) -> dict[int, list[str]]:
    """Return the labels of each image by its red value."""
    return {
        int(pixels[0, 0, 0]): [data.classes[k] for k in labels.nonzero()[:, 0].tolist()]
        for split in (data.train, data.val, data.test)
        for pixels, labels in zip(split.pixels, split.labels, strict=True)
    }


@pytest.mark.parametrize("form", ["separator", "columns", "rows", "lists.jsonl", "lists.parquet"])
def test_table_labels_read_the_same_in_every_form(labelled: Labelled, tmp_path: Path, form: str) -> None:
    root, labels = labelled
    names, options = [f"{number}.png" for number in range(40)], {"root": str(root)}
    if form == "separator":
        table, options = tmp_path / "t.csv", options | {"separator": "|"}
        rows = [["file", "label"], *([name, " | ".join(own)] for name, own in zip(names, labels, strict=True))]
    elif form == "rows":
        table, options = tmp_path / "t.csv", options | {"rows": "labels"}
        each = [(name, label) for name, own in zip(names, labels, strict=True) for label in own or [""]]
        rows = [["file", "label"], *map(list, sorted(each, key=lambda row: (row[1], row[0])))]
    elif form == "columns":
        table, options = tmp_path / "t.csv", options | {"label": [*CLASSES]}
        spelled = (("0", "1"), ("false", "True"), ("no", "YES"))
        cells = [[words[name in own] for name, words in zip(CLASSES, spelled, strict=True)] for own in labels]
        rows = [["file", *CLASSES], *([name, *row] for name, row in zip(names, cells, strict=True))]
    else:
        table, rows = tmp_path / form, []
        frame = pd.DataFrame({"file": names, "label": labels})
        frame.to_parquet(table) if form.endswith("parquet") else frame.to_json(table, orient="records", lines=True)
    if rows:
        with table.open("w", newline="") as stream:
            csv.writer(stream).writerows(rows)
    data = load(table, **options)
    assert data.multi_label and data.classes == CLASSES
    assert labels_by_red(data) == dict(enumerate(labels))
    assert any(not own for own in labels)  # images of no class are kept


def hub_set(root: Path, cells: dict[str, list[Any]], **features: Any) -> Any:
    """Return a data set of the images with the columns of `cells`."""
    datasets = pytest.importorskip("datasets")
    columns = {"image": [str(root / f"{number}.png") for number in range(40)], **cells}
    found = datasets.Dataset.from_dict(columns)
    for name, feature in {"image": datasets.Image(), **features}.items():
        found = found.cast_column(name, feature)
    return found


def shard(file: Path, root: Path, fields: Mapping[str, Sequence[str]]) -> Path:
    """Write a shard of the images and their fields."""
    with tarfile.open(file, "w") as archive:
        for number in range(40):
            content = {"png": (root / f"{number}.png").read_bytes()}
            content |= {field: texts[number].encode() for field, texts in fields.items()}
            for field, data in content.items():
                member = tarfile.TarInfo(f"{number:02d}.{field}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return file


@pytest.mark.parametrize("form", ["classes", "texts", "columns", "separator"])
def test_hub_labels_read_the_same_in_every_form(
    labelled: Labelled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    root, labels = labelled
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    options: dict[str, Any] = {}
    if form == "columns":
        cells: dict[str, list[Any]] = {name: [int(name in own) for own in labels] for name in CLASSES}
        found = hub_set(root, cells, dog=datasets.ClassLabel(names=["no", "yes"]), fox=datasets.Value("bool"))
        options["label"] = [*CLASSES]
    elif form == "separator":
        found = hub_set(root, {"label": [" | ".join(own) for own in labels]})
        options["separator"] = "|"
    elif form == "classes":
        numbers = [[CLASSES.index(name) for name in own] for own in labels]
        found = hub_set(root, {"seen": numbers}, seen=datasets.List(datasets.ClassLabel(names=[*CLASSES])))
    else:
        found = hub_set(root, {"labels": labels})
    found.save_to_disk(str(tmp_path / "set"))
    data = load_data(source="hub", root=str(tmp_path / "set"), options=options)
    assert data.multi_label and data.classes == CLASSES
    assert labels_by_red(data) == dict(enumerate(labels))


@pytest.mark.parametrize("form", ["key", "list", "numbers", "keys", "fields", "separator"])
def test_shard_labels_read_the_same_in_every_form(labelled: Labelled, tmp_path: Path, form: str) -> None:
    root, labels = labelled
    options: dict[str, Any] = {}
    if form == "key":
        fields = {"json": [json.dumps({"labels": own, "more": [1, {}]}) for own in labels]}
    elif form == "list":
        fields = {"json": [*map(json.dumps, labels)]}
    elif form == "numbers":
        fields = {"json": [json.dumps({"label": [CLASSES.index(name) for name in own]}) for own in labels]}
        options["classes"] = [*CLASSES]
    elif form == "keys":
        fields = {"json": [json.dumps({name: name in own for name in CLASSES}) for own in labels]}
        options["label"] = [*CLASSES]
    elif form == "fields":
        fields = {f"{name}.txt": [str(int(name in own)) for own in labels] for name in CLASSES}
        options["label"] = [f"{name}.txt" for name in CLASSES]
    else:
        fields, options["separator"] = {"cls": [" ".join(own) for own in labels]}, " "
    data = load_data(source="shards", root=str(shard(tmp_path / "s.tar", root, fields)), options=options)
    assert data.multi_label and data.classes == tuple(options.get("label", CLASSES))
    called = dict(zip(CLASSES, data.classes, strict=True))
    assert labels_by_red(data) == {number: [called[name] for name in own] for number, own in enumerate(labels)}


def test_invalid_labels_are_refused_alike_in_hub_and_shards(
    labelled: Labelled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, labels = labelled
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    cells: dict[str, list[Any]] = {name: [str(int(name in own)) for own in labels] for name in CLASSES}
    cells["fox"][0] = "?"
    cells["vector"] = [[int(name in own) for name in CLASSES] for own in labels]
    hub_set(root, cells).save_to_disk(str(tmp_path / "set"))
    rows = [dict(zip(cells, row, strict=True)) for row in zip(*cells.values(), strict=True)]
    where = {"hub": tmp_path / "set", "shards": shard(tmp_path / "s.tar", root, {"json": [*map(json.dumps, rows)]})}

    def refused(**options: Any) -> str:
        lines = set()
        for source, place in where.items():
            with pytest.raises(UserError) as caught:
                load_data(source=source, root=str(place), options=options)
            lines.add(str(caught.value))
        assert len(lines) == 1
        return lines.pop()

    assert "columns of 1 and 0, one per class, but fox has ?" in refused(label=[*CLASSES])
    assert "data.options.separator=|: expected null" in refused(label=["cat", "dog"], separator="|")
    assert "a column of 1 and 0 for each class, not a list of 1 and 0" in refused(label="vector")
    for source in where:
        with pytest.raises(UserError, match="two or more of them"):
            load_data(source=source, root=str(where[source]), options={"label": ["cat"]})


def test_rows_without_labels_are_left_out_and_reported(labelled: Labelled, tmp_path: Path) -> None:
    root, labels = labelled
    rows = [",".join([f"{n}.png", *(str(int(name in own)) for name in CLASSES)]) for n, own in enumerate(labels)]
    (tmp_path / "t.csv").write_text("\n".join(["file,cat,dog,fox", *rows[:39], "39.png,,,"]))
    data = load(tmp_path / "t.csv", root=str(root), label=[*CLASSES])
    assert labels_by_red(data) == dict(enumerate(labels[:39]))
    assert findings(data, "1 row without a label is left out: 39.png")


def test_invalid_table_labels_are_refused(labelled: Labelled, tmp_path: Path) -> None:
    root, labels = labelled
    table = tmp_path / "t.csv"
    frame = pd.DataFrame({"file": [f"{n}.png" for n in range(40)], "label": ["|".join(own) for own in labels]})
    for name in CLASSES:
        frame[name] = [int(name in own) for own in labels]

    def refused(**options: Any) -> str:
        frame.to_csv(table, index=False)
        with pytest.raises(UserError) as caught:
            load(table, **{"root": str(root), **options})
        return str(caught.value)

    assert "data.options.label=dgo: expected a column of the table" in refused(label=["cat", "dgo"])
    assert "two or more of them" in refused(label=["cat"]) and "two or more of them" in refused(label=["cat", "cat"])
    assert "data.options.separator=|: expected null" in refused(label=["cat", "dog"], separator="|")
    frame["fox"] = ["?", *frame["fox"][1:]]
    assert "expected columns of 1 and 0, one per class, but fox has ?" in refused(label=[*CLASSES])
    frame.loc[3, "label"] = "cat|dog|cat"
    assert "expected each label once in a cell, not cat, dog" in refused(separator="|")
    frame.loc[3, "label"] = "Cat|dog"
    assert "expected one spelling for each class" in refused(separator="|")
    frame.loc[3, "file"] = "4.png"
    assert "expected one label for each image, but 4.png is" in refused(separator="|")
    assert "; data.options.rows=labels reads them as" in refused(separator="|")
    assert "data.options.rows=lable: expected labels, if each row is one label" in refused(rows="lable")


def test_class_without_images_is_left_out_and_reported(labelled: Labelled, tmp_path: Path) -> None:
    root, labels = labelled
    rows = [f"{n}.png,{int('cat' in own)},0,{int('fox' in own)}" for n, own in enumerate(labels)]
    (tmp_path / "t.csv").write_text("\n".join(["file,cat,dog,fox", *rows]))
    data = load(tmp_path / "t.csv", root=str(root), label=["cat", "dog", "fox"])
    assert data.classes == ("cat", "fox")
    assert findings(data, "1 of 3 class names is left out")


def test_copies_with_different_labels_are_reported(labelled: Labelled, tmp_path: Path) -> None:
    root, labels = labelled
    for number in range(40):
        (tmp_path / f"{number}.png").write_bytes((root / f"{number}.png").read_bytes())
    (tmp_path / "copy.png").write_bytes((root / "0.png").read_bytes())
    rows = [{"file": f"{n}.png", "label": own} for n, own in enumerate(labels)]
    other = [name for name in CLASSES if name not in labels[0]]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, [*rows, {"file": "copy.png", "label": other}])))
    (finding,) = findings(load(tmp_path / "t.jsonl"), "different labels")
    assert " + ".join(other) in finding.about and "1 image has copies" in finding.about


def random_labels(count: int, shares: Sequence[float], seed: int = 0) -> Selection:
    labels = torch.from_numpy(np.random.default_rng(seed).random((count, len(shares))) < shares)
    nothing = dict.fromkeys(("copies", "groups", "weights", "times", "splits"))
    source = SimpleNamespace(labels=labels, classes=tuple(map(str, range(len(shares)))), **nothing)
    return Selection(cast(Source, source), torch.arange(count))


def divided(whole: Selection, **changes: Any) -> dict[str, Selection]:
    options = {"val_fraction": 0.2, "test_fraction": 0.25, "split_seed": 3, **changes}
    return divide({"train": whole.source}, data_config(source="folder", **options))


def share(part: Tensor, whole: Tensor) -> list[float]:
    return (part.sum(0) / whole.sum(0)).tolist()


def test_classes_and_unlabelled_images_are_stratified() -> None:
    whole = random_labels(600, (0.02, 0.1, 0.3, 0.6))
    parts = divided(whole)
    assert torch.cat([part.ids for part in parts.values()]).sort().values.tolist() == list(range(600))
    test = parts["test"].labels
    rare = 1 / float(whole.labels[:, 0].sum())
    assert share(test, whole.labels) == pytest.approx([0.25] * 4, abs=rare)
    assert share(~test.any(1, keepdim=True), ~whole.labels.any(1, keepdim=True)) == pytest.approx([0.25], abs=0.01)
    assert divided(whole)["test"].ids.equal(parts["test"].ids)
    assert not divided(whole, split_seed=4)["test"].ids.equal(parts["test"].ids)


def test_folds_are_stratified_and_cover_each_image_once() -> None:
    whole = random_labels(300, (0.05, 0.5))
    tests = [divided(whole, folds=5, fold=fold)["test"] for fold in range(5)]
    assert torch.cat([part.ids for part in tests]).sort().values.tolist() == list(range(300))
    for part in tests:
        assert share(part.labels, whole.labels) == pytest.approx([0.2, 0.2], abs=1 / float(whole.labels[:, 0].sum()))


def test_groups_are_not_split() -> None:
    whole = random_labels(400, (0.1, 0.5))
    groups = torch.arange(400) // 8
    cast(Any, whole.source).groups = groups
    parts = divided(whole)
    assert disjoint(*(set(groups[part.ids].tolist()) for part in parts.values()))
    assert share(parts["test"].labels, whole.labels) == pytest.approx([0.25, 0.25], abs=0.08)


def test_single_image_classes_stay_in_train_and_limits_nest() -> None:
    whole = random_labels(200, (0.4, 0.5, 0.0))
    whole.source.labels[17] = torch.tensor([True, True, True])
    assert 17 in divided(whole)["train"].ids.tolist()
    less, more = (set(divided(whole, limit=limit)["train"].ids.tolist()) for limit in (10, 40))
    assert len(less) == 10 and len(more) == 40 and less < more and 17 in less
    with pytest.raises(UserError, match=r"data.limit=2: expected at least 3"):
        divided(whole, limit=2)
    with pytest.raises(UserError, match=r"data.shots=2: expected null, since images have several classes"):
        divided(whole, shots=2)
    several = random_labels(60, (0.5, *(0.0,) * 5))
    for number in range(5):  # the only image of each of five classes; all are of the first class, too
        several.source.labels[number, [0, number + 1]] = True
    assert set(range(5)) <= set(divided(several)["train"].ids.tolist())


def test_stratification_beats_a_random_split() -> None:
    """In random splits of the same size, the rarest class is twice as far from its share."""
    whole = random_labels(500, (0.02, 0.05, 0.3), seed=1)
    ours = divided(whole)["test"]
    far = abs(share(ours.labels, whole.labels)[0] - 0.25)
    draws = [np.random.default_rng(seed).permutation(500)[: len(ours.ids)] for seed in range(50)]
    random = np.mean([abs(share(whole.labels[torch.from_numpy(rows)], whole.labels)[0] - 0.25) for rows in draws])
    assert far < random / 2
    assert stratification.stratified(whole.labels, whole.ids, 100, 0).sum() == 100


def test_empty_labels_between_separators_are_ignored(labelled: Labelled, tmp_path: Path) -> None:
    root, labels = labelled
    rows = [f"{number}.png,|{'||'.join(own)}||" for number, own in enumerate(labels)]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *rows]))
    found = labels_by_red(load(tmp_path / "labels.csv", root=str(root), separator="|"))
    assert found == {number: sorted(own) for number, own in enumerate(labels)}


def test_split_may_have_more_classes_than_images(labelled: Labelled, tmp_path: Path) -> None:
    rows = [f"{number}.png,{'|'.join(f'c{(number + k) % 40}' for k in range(20))}" for number in range(40)]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *rows]))
    data = load(tmp_path / "labels.csv", root=str(labelled[0]), separator="|")
    assert len(data.test.labels) < int(data.test.labels.any(0).sum())


def test_image_without_row_may_have_undecodable_name(labelled: Labelled, tmp_path: Path) -> None:
    root, labels = tmp_path / "images", labelled[1]
    root.mkdir()
    for number in range(40):
        (root / f"{number}.png").write_bytes((labelled[0] / f"{number}.png").read_bytes())
    (root / os.fsdecode(b"caf\xe9.png")).write_bytes((root / "0.png").read_bytes())
    rows = [f"{number}.png,{'|'.join(own)}" for number, own in enumerate(labels)]
    (root / "labels.csv").write_text("\n".join(["path,label", *rows]))
    reported = load(root / "labels.csv", separator="|").findings
    assert [name for one in reported for name in one.images if "caf" in name] == ["caf\\udce9.png"]


def test_lists_may_hold_integers_and_mix_with_texts(tmp_path: Path) -> None:
    for number in range(12):
        Image.new("RGB", (8, 8), (number, 7, 9)).save(tmp_path / f"{number}.png")
    names = [f"{number}.png" for number in range(12)]
    lists = [[1, None], [2], [1, 2], [], [2, 7], [7]] * 2
    pd.DataFrame({"file": names, "label": lists}).to_parquet(tmp_path / "t.parquet")
    assert load(tmp_path / "t.parquet").classes == ("1", "2", "7")
    rows = [{"file": name, "label": ("cat", ["cat", "dog"], ["dog"], None)[n % 4]} for n, name in enumerate(names)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    read = tables.read(tmp_path / "t.jsonl", {}).splits["train"]
    assert read.labels[:3] == (("cat",), ("cat", "dog"), ("dog",)) and len(read.files) == 9


def test_class_columns_accept_words_and_decimals() -> None:
    columns = {"cat": ["1", "1.0", "True", "yes", ""], "dog": ["0", "0.0", "FALSE", "no", ""]}
    assert label_columns.of_classes(columns) == [("cat",)] * 4 + [None]

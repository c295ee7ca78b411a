"""Split tables: reading one returns the same images, ids, labels and order."""

from __future__ import annotations

import csv
import json
import os
import shlex
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_tables import NONE, as_csv, image, rows

from frostline.core.errors import UserError
from frostline.data import loading, split_table
from frostline.data.splits import Data
from frostline.store.store import Store
from small import data_config, load_data


def folder(root: Path, *classes: str, each: int = 12) -> Path:
    for number, name in enumerate(classes):
        for place in range(each):
            image(root / name / f"{place}, ü.png", each * number + place)
    return root


def written(file: Path, **config: Any) -> split_table.SplitTable:
    store = Store(file.absolute().parent / ".store", budget=10**6, say=print)
    whole = data_config(**config)
    return split_table.write(file, loading.whole_splits(whole, store), whole)


def read_back(found: split_table.SplitTable, **config: Any) -> Data:
    keys = {key.removeprefix("data."): value for key, value in found.options.items() if key != "data"}
    given = {key.removeprefix("options."): keys.pop(key) for key in [*keys] if key.startswith("options.")}
    options = {**NONE, **given}
    return load_data(source="table", options=options, **keys, **config)


def read_by_name(found: split_table.SplitTable, source: str) -> Data:
    """Return the data read with the table's names of splits."""
    options = {key.removeprefix("data.options."): value for key, value in found.options.items() if "options" in key}
    return load_data(source=source, root=str(found.options["data.root"]), options=options)


def assert_same(one: Data, two: Data) -> None:
    assert one.fingerprint == two.fingerprint  # covers pixels, ids, labels, class names and order
    for name in ("train", "val", "test"):
        assert torch.equal(getattr(one, name).ids, getattr(two, name).ids)


def test_folder_splits_are_read_back_from_any_place(tmp_path: Path) -> None:
    root = folder(tmp_path / "birds", "b", "a", "c")
    first = load_data(source="folder", root=str(root), split_seed=3)

    def checked(file: Path, images: Path = root) -> split_table.SplitTable:
        found = written(file, source="folder", root=str(images), split_seed=3)
        assert_same(read_back(found), first)
        return found

    within = checked(root / "splits.csv")
    assert within.options == {"data": "table", "data.root": str(root / "splits.csv")}
    assert within.counts == {"train": len(first.train), "val": len(first.val), "test": len(first.test)}
    assert "data.options.root" not in checked(tmp_path / "splits.csv").options
    (tmp_path / "far").mkdir()
    assert checked(tmp_path / "far" / "splits.csv").options["data.options.root"] == str(root)
    above = checked(tmp_path / "far" / "too.csv", tmp_path / "far" / ".." / "birds")
    assert above.options["data.options.root"] == str(root)
    (tmp_path / "far" / "link").symlink_to(root)
    with pytest.raises(UserError, match=r"names of files and classes that can be read back|cannot be read back"):
        written(tmp_path / "odd.csv", source="folder", root=str(tmp_path / "far" / "link" / ".." / "birds"))
    with (tmp_path / "splits.csv").open(newline="") as stream:
        line = next(csv.DictReader(stream))
    assert line == {"path": "birds/a/0, ü.png", "label": "a", "split": line["split"]}


def test_limit_is_not_written_into_the_table(tmp_path: Path) -> None:
    root = folder(tmp_path, "a", "b", each=40)
    small = load_data(source="folder", root=str(root), limit=10)
    found = written(tmp_path / "splits.csv", source="folder", root=str(root), limit=10)
    assert sum(found.counts.values()) == 80
    assert_same(read_back(found, limit=10), small)


def test_own_splits_keep_ids_of_train(tmp_path: Path) -> None:
    folder(tmp_path / "test", "a", "b", each=5)
    folder(tmp_path / "train", "a", "b", each=20)
    first = load_data(source="folder", root=str(tmp_path))
    found = read_back(written(tmp_path / "splits.csv", source="folder", root=str(tmp_path)))
    for name in ("train", "val", "test"):
        one, two = getattr(first, name), getattr(found, name)
        assert torch.equal(one.digests, two.digests) and torch.equal(one.labels, two.labels)
    assert torch.equal(first.train.ids, found.train.ids) and torch.equal(first.val.ids, found.val.ids)


@pytest.mark.parametrize("how", [{"group": "who"}, {"time": "year"}, {}])
def test_table_splits_are_read_back(tmp_path: Path, how: dict[str, str]) -> None:
    table = [row | {"who": number // 7, "year": 2000 + number // 3} for number, row in enumerate(rows(tmp_path, 80))]
    as_csv(tmp_path / "t.csv", table)
    options = {**NONE, **how}
    folds = {"folds": 4, "fold": 2} if not how else {}
    first = load_data(source="table", root=str(tmp_path / "t.csv"), options=options, **folds)
    found = written(tmp_path / "splits.csv", source="table", root=str(tmp_path / "t.csv"), options=options, **folds)
    assert_same(read_back(found), first)
    with (tmp_path / "splits.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    if how == {"group": "who"}:
        pairs = {(line["group"], line["split"]) for line in lines}
        assert len(pairs) == len({group for group, _ in pairs}) == 12


def test_class_missing_from_a_split_is_allowed(tmp_path: Path) -> None:
    folder(tmp_path, "a", "b")
    image(tmp_path / "rare" / "1.png", 200)
    found = written(tmp_path / "splits.csv", source="folder", root=str(tmp_path))
    assert found.options["data.missing_classes"] == "ok"
    assert_same(read_back(found), load_data(source="folder", root=str(tmp_path)))


def test_unwritable_names_are_refused_and_leave_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        written(tmp_path / "splits.csv", source="digits")
    assert str(caught.value).startswith(f"--write-splits={tmp_path}/splits.csv: expected a data set of image files")
    for odd in ("back\\slash.png", os.fsdecode(b"na\xefve.png")):
        root = folder(tmp_path / odd.encode("ascii", "replace").hex(), "a", "b")
        image(root / "a" / odd, 99)
        with pytest.raises(UserError, match=r"--write-splits=.*: expected .*names") as caught:
            written(root / "splits.csv", source="folder", root=str(root))
        assert len(str(caught.value).splitlines()) == 1 and not (root / "splits.csv").exists()


def test_existing_files_are_not_overwritten(tmp_path: Path) -> None:
    as_csv(table := tmp_path / "t.csv", [row | {"age": number} for number, row in enumerate(rows(tmp_path, 40))])
    before = table.read_bytes()
    given = {"source": "table", "root": str(table), "options": NONE}
    written(tmp_path / "splits.csv", **given)
    written(tmp_path / "splits.csv", **given)
    for file, seed in ((table, 0), (tmp_path / "splits.csv", 1)):
        with pytest.raises(UserError, match=r"^--write-splits=.*: expected a new file, as this one has"):
            written(file, **given, split_seed=seed)
    assert table.read_bytes() == before


@pytest.mark.slow
def test_run_on_split_table_gives_identical_predictions(trained, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    root = folder(tmp_path / "birds", "b", "a", each=30)
    given = ("data=image_folder", f"data.root={root}", "data.split_seed=5", "data.limit=20")
    _, printed = trained.command("data", *given, "--write-splits", "splits.csv", cwd=tmp_path)
    typed = shlex.split(printed.splitlines()[-1].partition("again: ")[2])
    assert typed == ["data=table", "data.root=splits.csv", "data.limit=20", "data.split_seed=5"]
    quick = ("epochs=2", "batch_size=8", "model.image_size=32", "augment=standard", "freeze=full")
    for name, data in (("folder", given), ("table", typed)):
        where = (f"hydra.sweep.dir={tmp_path / name}", f"tracking.uri={trained.uri}")
        trained.command("-m", *quick, *data, *where, cwd=tmp_path)
    one, two = (load_file(tmp_path / name / "0" / "test_predictions.safetensors") for name in ("folder", "table"))
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_labels_and_weights_are_read_back(tmp_path: Path) -> None:
    found = rows(tmp_path, 30)
    for number, row in enumerate(found):
        row["label"] = "|".join(name for name, every in (("cat", 2), ("dog", 3), ("fox", 5)) if number % every == 0)
        row["weight"] = 1 + number / 4
    as_csv(tmp_path / "t.csv", found)
    how = {"source": "table", "root": str(tmp_path / "t.csv"), "split_seed": 2}
    how["options"] = {**NONE, "separator": "|", "weight": "weight"}
    first = load_data(**how)
    kept = written(tmp_path / "splits.csv", **how)
    assert kept.options["data.options.separator"] == "|" and kept.options["data.options.weight"] == "weight"
    second = read_back(kept)
    assert second.multi_label and second.train.weights is not None
    assert_same(second, first)


def hub_set(folder: Path, images: Path, first: int = 0, count: int = 24) -> Path:
    datasets = pytest.importorskip("datasets")
    numbers = range(first, first + count)
    for number in numbers:
        image(images / f"{number}.png", number)
    cells = {
        "image": [{"bytes": (images / f"{n}.png").read_bytes(), "path": f"{n}.png"} for n in numbers],
        "label": [("cat", "dog")[number % 2] for number in numbers],
        "who": [str(number // 3) for number in numbers],
    }
    rows = datasets.Dataset.from_dict(cells).cast_column("image", datasets.Image())
    rows.save_to_disk(str(folder))
    return folder


def shards(folder: Path, images: Path, name: str, first: int = 0, count: int = 24) -> Path:
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / name, "w") as archive:
        for number in range(first, first + count):
            image(images / f"{number}.png", number)
            fields = {"label": ["cat", "dog"][: number % 3], "who": number // 3}
            (images / f"{number}.json").write_text(json.dumps(fields))
            archive.add(images / f"{number}.json", f"{number:03d}.json")
            archive.add(images / f"{number}.png", f"{number:03d}.png")
    return folder


def test_hub_splits_are_read_back_by_name(tmp_path: Path) -> None:
    root = hub_set(tmp_path / "set", tmp_path)
    how = {"source": "hub", "root": str(root), "options": {"group": "who"}}
    first = load_data(**how, split_seed=4, folds=4, fold=1)
    found = written(tmp_path / "splits, ü.csv", **how, split_seed=4, folds=4, fold=1)
    assert_same(read_by_name(found, "hub"), first)
    lines = (tmp_path / "splits, ü.csv").read_text().splitlines()
    assert lines[:2] == ["image,label,split", f"train[0] 0.png,cat,{lines[1].rpartition(',')[2]}"]
    hub_set(tmp_path / "set2", tmp_path, first=1)
    found.options["data.root"] = str(tmp_path / "set2")
    with pytest.raises(UserError, match=r"data.options.splits=.*expected images that the data set has, not train"):
        read_by_name(found, "hub")


def test_shard_splits_are_read_back_by_name(tmp_path: Path) -> None:
    root = shards(tmp_path / "set", tmp_path, "train-0.tar")
    shards(root, tmp_path, "train-1.tar", first=30)
    shards(root, tmp_path, "test-0.tar", first=60, count=9)
    how = {"source": "shards", "root": str(root), "options": {"group": "who"}}
    first = load_data(**how)
    found = written(tmp_path / "splits.csv", **how)
    assert found.options["data.options.splits"] == str(tmp_path / "splits.csv") and found.counts["test"] == 9
    assert_same(read_by_name(found, "shards"), first)
    lines = (tmp_path / "splits.csv").read_text().splitlines()

    def refused(*rows: str) -> str:
        (tmp_path / "splits.csv").write_text("\n".join(rows))
        loading.forget()
        with pytest.raises(UserError) as caught:
            read_by_name(found, "shards")
        return str(caught.value)

    assert "a row for every image of the data set, but there is none for test-0.tar/068.png" in refused(*lines[:-1])
    assert "expected one row for each image, not several" in refused(*lines, lines[-1])
    assert "the labels of the data set, not others for test-0.tar/068.png" in refused(
        *lines[:-1], "test-0.tar/068.png,cat,test"
    )
    assert "expected test as in the data set, not others for test-0.tar/068.png" in refused(
        *lines[:-1], lines[-1].replace(",test", ",train")
    )
    assert "column split of train, val and test, not of tset" in refused(
        *lines[:-1], lines[-1].replace(",test", ",tset")
    )
    assert "columns image, label, split, but there is no split" in refused("image,label,role", *lines[1:])
    assert "expected images of train" in refused(*(line.replace(",train", ",val") for line in lines))
    found.options["data.options.splits"] = str(tmp_path / "nowhere.csv")
    assert "nowhere.csv: expected a file that exists, as `frostline data ... --write-splits` writes it" in refused()


def test_ambiguous_names_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for part in ("a", "b"):
        (root / part).mkdir(parents=True)
        shards(root / part, tmp_path, "some.tar")
    with pytest.raises(UserError, match=r"--write-splits=.*images with unique names, but some.tar/000.png"):
        written(tmp_path / "splits.csv", source="shards", root=str(root), options={})
    assert not (tmp_path / "splits.csv").exists()

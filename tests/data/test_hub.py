"""Data sets of the Hugging Face hub: saved to disk, as Parquet files, and by name."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest

from frostline.core.errors import UserError
from frostline.data import hub_library, loading
from frostline.data.broken_images import BadImages
from frostline.data.sources import open_splits
from frostline.data.splits import Data
from frostline.store.store import Store
from numbered import disjoint, in_turn, messages, numbers, pairs, png
from small import data_config, load_data, no_progress

NONE = dict.fromkeys(("image", "label", "group", "config", "revision", "train", "val", "test"))
CLASSES = ("cat", "dog")
TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the library its own cache for these tests, without progress bars."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
        datasets.disable_progress_bars()
        yield folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection."""

    def refuse(self: socket.socket, address: object) -> None:
        raise AssertionError(f"connects to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def rows(count: int = 20, first: int = 0, label: Any = None, odd: Any = (), **more: Any) -> Any:
    """Return a data set of images, classes in turn, followed by `odd` rows of bytes, path and label."""
    features = {"image": datasets.Image(), "label": label or datasets.ClassLabel(names=list(CLASSES))}
    every = range(first, first + count)
    columns = {
        "image": [{"bytes": png(number), "path": f"{number}.png"} for number in every],
        "label": more.pop("labels", [number % 2 for number in every]),
    }
    columns["image"] += [
        None if content is path is None else {"bytes": content, "path": path} for content, path, _ in odd
    ]
    columns["label"] += [label for _, _, label in odd]
    for name, values in more.items():
        columns[name], features[name] = values, datasets.Value("string")
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def load(root: object, **options: Any) -> Data:
    changes = {key: options.pop(key) for key in ("skip_bad",) if key in options}
    return load_data(source="hub", root=str(root), options={**NONE, **options}, **changes)


def refused(root: object, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(root, **options)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def saved(folder: Path, found: Any) -> Path:
    found.save_to_disk(str(folder))
    return folder


def parts() -> dict[str, Any]:
    return {"train": rows(12), "validation": rows(4, 50), "test": rows(6, 100)}


def test_saved_data_set_is_read(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = saved(tmp_path / "one", rows(300))
    found = load(folder)
    assert found.classes == CLASSES and pairs(found) == in_turn(300) and not messages(found)
    assert found.counts == {}
    assert capfd.readouterr() == ("", "")


def test_saved_splits_are_read(tmp_path: Path) -> None:
    found = load(saved(tmp_path / "several", datasets.DatasetDict(parts())))
    assert [numbers(split) for split in (found.train, found.val, found.test)] == [
        [*range(12)],
        [*range(50, 54)],
        [*range(100, 106)],
    ]


def test_parquet_files_are_read_through_the_librarys_cache(tmp_path: Path, cache: Path) -> None:
    for name, part in parts().items():
        (tmp_path / "set" / "data").mkdir(parents=True, exist_ok=True)
        part.to_parquet(tmp_path / "set" / "data" / f"{name}-00000-of-00001.parquet")
    before = sorted(tmp_path.rglob("*"))
    found = load(tmp_path / "set")
    assert found.classes == CLASSES
    assert pairs(found) == in_turn(12) + in_turn(4, 50) + in_turn(6, 100)
    assert sorted(tmp_path.rglob("*")) == before and any(cache.rglob("*-train.arrow"))


def test_fingerprint_equals_that_of_an_image_folder(tmp_path: Path) -> None:
    for number in (*range(0, 20, 2), *range(1, 20, 2)):
        file = tmp_path / "folder" / CLASSES[number % 2] / f"{number:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(number))
    order = sorted(range(20), key=lambda number: (number % 2, number))
    folder = load_data(source="folder", root=str(tmp_path / "folder"))
    assert load(saved(tmp_path / "set", rows(20).select(order))).fingerprint == folder.fingerprint
    assert load(tmp_path / "folder").fingerprint == folder.fingerprint  # the library leaves these images in their files


def test_identity_and_fingerprint_follow_the_content(tmp_path: Path) -> None:
    def identity(folder: Path) -> tuple[str, str | None]:
        loading._last.clear()
        source = open_splits(data_config(source="hub", root=str(folder), options={**NONE}), STORE, no_progress)["train"]
        return load(folder).fingerprint, source.identity

    one, two = saved(tmp_path / "one", rows(20)), saved(tmp_path / "two", rows(20))
    assert identity(one)[0] == identity(two)[0] and identity(one)[1] == identity(one)[1]
    before = identity(one)
    other = saved(tmp_path / "other", rows(19, odd=[(png(99), "19.png", 1)]))
    name = next(one.glob("*.arrow")).name
    shutil.copy(other / name, one / name)  # the file with the library's fingerprint is not copied
    assert identity(one)[0] != before[0] and identity(one)[1] != before[1]


STORE = Store(None, budget=0, say=print)


def test_labels_may_be_texts_integers_or_booleans(tmp_path: Path) -> None:
    texts = [("01", "1", "NA")[number % 3] for number in range(30)]
    kinds = {"string": texts, "int32": [number % 3 - 1 for number in range(30)], "bool": [True, False] * 15}
    expected = {"string": ("1", "01", "NA"), "int32": ("0", "1", "-1"), "bool": ("False", "True")}
    for kind, values in kinds.items():
        found = load(saved(tmp_path / kind, rows(30, label=datasets.Value(kind), labels=values)))
        assert sorted(found.classes) == sorted(expected[kind])
        assert pairs(found) == Counter((number, str(value)) for number, value in enumerate(values))


def test_options_choose_columns(tmp_path: Path) -> None:
    kind = [f"kind {number % 3}" for number in range(60)]
    patient = [str(number // 4) for number in range(60)]
    folder = saved(tmp_path / "set", rows(60, kind=kind, patient=patient).rename_column("image", "scan"))
    assert pairs(load(folder)) == in_turn(60)
    found = load(folder, label="kind", group="patient", image="scan")
    assert pairs(found) == in_turn(60, classes=("kind 0", "kind 1", "kind 2"))
    assert disjoint(*({number // 4 for number in numbers(split)} for split in (found.train, found.val, found.test)))
    assert refused(folder, label="kid").endswith(
        "data.options.label=kid: expected a column of the data set: scan, label, kind, patient; did you mean kind?"
    )
    assert "data.options.group=nobody: expected a column of the data set" in refused(folder, group="nobody")
    assert "data.options.image=label: expected a column of images, not of int64: scan" in refused(folder, image="label")
    assert refused(folder, label="scan").endswith(
        "label=scan: expected a column with one text or number, or a list of them, in a row, not images"
    )


def test_incomplete_rows_are_left_out_and_reported(tmp_path: Path) -> None:
    odd = [(None, None, 0), (png(90), None, None), (png(91), None, -1)]
    opened = load(saved(tmp_path / "set", rows(20, odd=odd)))
    assert pairs(opened) == in_turn(20)
    assert messages(opened) == [
        "1 row without an image is left out: train[20]",
        "2 rows without a label are left out: train[21], train[22]",
    ]


def test_unlabelled_split_is_replaced_by_one_of_train(tmp_path: Path) -> None:
    folder = saved(tmp_path / "set", datasets.DatasetDict({"train": rows(20), "test": rows(8, 50, labels=[-1] * 8)}))
    found = load(folder)
    assert pairs(found) == in_turn(20) and len(found.test) == 4
    assert messages(found)[0].startswith("8 rows without a label are left out: test[0], test[1], test[2]")


def test_splits_are_found_by_name_or_option(tmp_path: Path) -> None:
    found = {"train": rows(12), "valid": rows(4, 50), "dev": rows(4, 60), "unsupervised": rows(6, 100)}
    folder = saved(tmp_path / "set", datasets.DatasetDict(found))
    assert "data.options.val=null: expected one of the splits valid, dev" in refused(folder)
    assert (
        "data.options.val=dew: expected a split of the data set: train, valid, dev, unsupervised; did you mean dev?"
        in (refused(folder, val="dew"))
    )
    opened = load(folder, train="train", val="dev")
    assert numbers(opened.val) == [*range(60, 64)]
    odd = saved(tmp_path / "odd", datasets.DatasetDict({"fold_a": rows(12), "fold_b": rows(12, 30)}))
    assert "data.options.train=null: expected the data set's name of its training split: fold_a, fold_b" in refused(odd)
    alone = saved(tmp_path / "alone", datasets.DatasetDict({"everything": rows(12)}))
    assert pairs(load(alone)) == in_turn(12)


def test_invalid_data_sets_and_options_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "set", rows(20))
    assert "data.options.labels=label: expected one of image, label, separator, group" in refused(
        folder, labels="label"
    )
    assert "data.options.revision=main: expected null, since a folder has no revisions" in refused(
        folder, revision="main"
    )
    assert "expected images of two or more classes, found cat" in refused(
        saved(tmp_path / "one", rows(20, labels=[0] * 20))
    )
    several = rows(6).add_column("fine", [0, 1] * 3, feature=datasets.ClassLabel(names=["a", "b"]))
    found = refused(saved(tmp_path / "several", several))
    assert "data.options.label=<column>: expected one of the data set's columns" in found
    assert found.endswith(", since several may have labels: label, fine")
    nested = rows(6, label=datasets.List(datasets.List(datasets.Value("int64"))), labels=[[[0]], [[0, 1]]] * 3)
    assert "expected a column with one text or number, or a list of them, in a row, not list<" in refused(
        saved(tmp_path / "nested", nested), label="label"
    )
    (tmp_path / "empty").mkdir()
    assert "a folder with a data set; this one is empty" in refused(tmp_path / "empty")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "train.parquet").write_bytes(b"PAR1")
    assert "expected a data set that can be read" in refused(tmp_path / "torn")
    assert "expected a folder that exists, or a data set of the hub as owner/name" in refused("no-such-set")
    assert "expected a folder that exists, or a data set of the hub as owner/name" in refused(tmp_path / "nowhere")


def test_label_without_a_class_name_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "set", rows(20, label=datasets.Value("int64"), labels=[0, 1, 2, 1] * 5))
    info = folder / "dataset_info.json"
    text = info.read_text()
    value = text.index('"label": {')
    info.write_text(
        text[:value] + '"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}' + text[text.index("}", value) + 1 :]
    )
    assert "expected labels below 2, the number of class names, but train[2] has 2" in refused(folder)


def test_broken_images_are_named_by_split_row_and_file(tmp_path: Path) -> None:
    odd = [(b"no image", "bad.jpg", 0), (b"", "nil.png", 0)]
    folder = saved(tmp_path / "set", rows(20, odd=odd))
    with pytest.raises(BadImages) as caught:
        load(folder)
    assert [name for name, _ in caught.value.reasons] == [
        "train[20] bad.jpg",
        "train[21] nil.png",
    ]
    opened = load(folder, skip_bad=True)
    assert opened.counts["skipped"] == 2 and pairs(opened) == in_turn(20)


def test_images_may_be_paths_in_a_table(tmp_path: Path) -> None:
    (tmp_path / "pics").mkdir()
    for number in range(20):
        (tmp_path / "pics" / f"{number}.png").write_bytes(png(number))
    paths = [("" if number % 2 else f"{tmp_path}/set/") + f"../pics/{number}.png" for number in range(21)]
    (tmp_path / "set").mkdir()
    table = pd.DataFrame({"image": paths, "label": [CLASSES[number % 2] for number in range(21)]})
    table.to_parquet(tmp_path / "set" / "train.parquet")
    opened = load(tmp_path / "set", image="image", skip_bad=True)
    assert [name for name, _ in opened.broken] == ["train[20] 20.png"] and pairs(opened) == in_turn(20)


@pytest.mark.parametrize("given", [None, "image"])
def test_image_column_may_hold_bytes_or_paths(tmp_path: Path, given: str | None) -> None:
    table = {"image": [png(number) for number in range(20)], "label": [CLASSES[number % 2] for number in range(20)]}
    if given:
        for number, content in enumerate(table["image"]):
            (tmp_path / f"{number}.png").write_bytes(content)
        table["image"] = [f"{tmp_path}/{number}.png" for number in range(20)]
    (tmp_path / "set").mkdir()
    pd.DataFrame(table).to_parquet(tmp_path / "set" / "train.parquet")
    assert pairs(load(tmp_path / "set", image=given)) == in_turn(20)


def test_library_prints_nothing_beside_the_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "train.parquet").write_bytes(b"PAR1, and no more of it")
    assert "expected a data set that can be read" in refused(tmp_path)
    assert capfd.readouterr().err == ""


def test_images_skipped_by_the_library_are_reported(tmp_path: Path) -> None:
    for number in range(20):  # huggingface/datasets#5650: it takes only names with "train"
        name = f"{'train station' if number < 8 else 'view'} {number}.png"
        file = tmp_path / "set" / CLASSES[number % 2] / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(number))
    (line,) = [line for line in messages(load(tmp_path / "set")) if "library" in line]
    assert line.startswith(f"12 of 20 images below {tmp_path / 'set'} are left out by the library of the hub")


def images(root: Path, *folders: str) -> Path:
    for number in range(10 * len(folders)):
        file = root / folders[number % len(folders)] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(number))
    return root


@pytest.mark.parametrize(
    ("folders", "named"),
    [
        (("train", "test"), "train"),
        (("train", "car", "plane"), "train"),
        (("vehicles/test_car", "vehicles/plane"), "vehicles/test_car"),
        (("train/car", "train/plane", "test"), "test"),  # the library then finds no class
        (("train/train", "train/car", "test/train", "test/car"), "test/train"),  # train would get images of test
    ],
)
def test_class_folder_read_as_split_is_refused(tmp_path: Path, folders: Any, named: str) -> None:
    line = refused(images(tmp_path / "set", *folders))
    assert f"set: expected class folders in {named}, which the library of the hub reads as a split" in line


def test_class_folders_in_splits_are_read(tmp_path: Path) -> None:
    opened = load(images(tmp_path / "set", "train/car", "test/car", "train/contest", "test/contest"))
    assert opened.classes == ("car", "contest") and len(opened.test.labels) == 20


def test_copies_stay_in_one_split(tmp_path: Path) -> None:
    found = datasets.concatenate_datasets([rows(40), rows(40)])
    opened = load(saved(tmp_path / "set", found))
    assert disjoint(*(set(numbers(split)) for split in (opened.train, opened.val, opened.test)))


def test_code_in_a_data_set_never_runs(tmp_path: Path) -> None:
    folder = tmp_path / "script"
    folder.mkdir()
    (folder / "script.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    assert "expected a data set that can be read" in refused(folder)
    (folder / "train.h5").write_bytes(b"?")
    assert refused(folder)
    (folder / "script.py").unlink()
    assert "expected tables or images (parquet, arrow, imagefolder" in refused(folder)
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def silent_port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Yield the port of a hub that accepts connections and never answers."""
    monkeypatch.undo()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        yield port


@pytest.mark.slow
@pytest.mark.parametrize("accepts", [False, True])
def test_unreachable_hub_fails_within_seconds(accepts: bool, silent_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    address = f"http://127.0.0.1:{silent_port if accepts else 1}"
    monkeypatch.setattr(hub_library, "_TIMEOUT", 0.5)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: huggingface_hub.hf_api.HfApi(endpoint=address))
    began = time.monotonic()
    line = refused("owner/name")
    assert line.startswith("data.root=owner/name: expected a folder, or a data set of the hub, which is unreachable (")
    assert time.monotonic() - began < 5


@pytest.mark.slow
def test_cached_hub_data_is_read_offline(tmp_path: Path) -> None:
    for name, part in parts().items():
        part.to_parquet(str(tmp_path / "set" / "data" / f"{name}-00000-of-00001.parquet"))
    command = [sys.executable, str(TESTS / "fake_hub.py"), str(tmp_path / "set")]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home")}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    first, pinned, config, name, *offline = map(json.loads, process.stdout.splitlines())
    assert first == {"train": ["cat", "dog"] * 6, "val": ["cat", "dog"] * 2, "test": ["cat", "dog"] * 3} == pinned
    assert config == "data.options.config=deflaut: expected a config of the data set: default; did you mean default?"
    assert name.startswith("data.root=owner/nobody: expected a folder, or a data set that the hub has (")
    assert offline[:2] == [first, first]
    assert all("which is unreachable" in line for line in offline[2:])
    assert process.stderr == ""

"""Data sources: each option of conf/data reads the layout of its original files."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, cast
from urllib.error import URLError

import numpy as np
import pytest
import torchvision.datasets
from omegaconf import OmegaConf
from PIL import Image
from scipy.io import savemat

from frostline.core.config import DataConfig
from frostline.core.errors import UserError
from frostline.data import broken_images, loading
from frostline.data.listing import survey
from small import BASE, load_data

CONF = Path(__file__).parents[2] / "conf" / "data"
COUNTS = {"train": 10, "val": 4, "test": 6}


def colour(label: int) -> tuple[int, int, int]:
    """Return the one colour of all images of a class, which shows a wrong label or image."""
    return (40 + 120 * label, 90, 200 - 150 * label)


def grey(label: int) -> int:
    return 60 + 120 * label


def labels(split: str) -> list[int]:
    return [index % 2 for index in range(COUNTS[split])]


_numbers = count()


def array(label: int, size: tuple[int, int]) -> np.ndarray:
    return numbered(np.full((*size[::-1], 3), colour(label), dtype=np.uint8))


def numbered(pixels: np.ndarray) -> np.ndarray:
    """Make the last pixel unique per image, because equal images would stay in one split."""
    pixels[-1, -1] = next(_numbers) % 256
    return pixels


def image(file: Path, label: int, size: tuple[int, int] = (20, 14)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array(label, size)).save(file, quality=95)


def text(file: Path, *lines: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n")


def dump(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(pickle.dumps(content))


def rows(split_labels: list[int], size: int) -> np.ndarray:
    return np.stack([array(label, (size, size)).transpose(2, 0, 1).reshape(-1) for label in split_labels])


def cifar10(root: Path) -> None:
    folder, train = root / "cifar-10-batches-py", labels("train")
    for batch in range(5):
        part = train[2 * batch : 2 * batch + 2]
        dump(folder / f"data_batch_{batch + 1}", {"data": rows(part, 32), "labels": part})
    dump(folder / "test_batch", {"data": rows(labels("test"), 32), "labels": labels("test")})
    dump(folder / "batches.meta", {"label_names": ["a", "b"]})


def cifar100(root: Path) -> None:
    for split in ("train", "test"):
        content = {"data": rows(labels(split), 32), "fine_labels": labels(split)}
        dump(root / "cifar-100-python" / split, content)
    dump(root / "cifar-100-python" / "meta", {"fine_label_names": ["a", "b"]})


def mnist(root: Path, name: str = "MNIST") -> None:
    for split, prefix in (("train", "train"), ("test", "t10k")):
        folder, number = root / name / "raw", COUNTS[split]
        folder.mkdir(parents=True, exist_ok=True)
        images = np.stack([numbered(np.full((28, 28), grey(label), dtype=np.uint8)) for label in labels(split)])
        header = np.array([0x803, number, 28, 28], dtype=">i4").tobytes()
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = np.array([0x801, number], dtype=">i4").tobytes()
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(header + bytes(labels(split)))


def svhn(root: Path) -> None:
    for split in ("train", "test"):
        images = np.stack([array(label, (32, 32)) for label in labels(split)], axis=-1)
        numbers = np.array([[label or 10] for label in labels(split)], dtype=np.uint8)  # SVHN writes 0 as 10
        savemat(root / f"{split}_32x32.mat", {"X": images, "y": numbers})


def stl10(root: Path) -> None:
    folder = root / "stl10_binary"
    folder.mkdir()
    for split in ("train", "test"):
        columns = [array(label, (96, 96)).transpose(2, 1, 0) for label in labels(split)]
        (folder / f"{split}_X.bin").write_bytes(np.stack(columns).tobytes())
        (folder / f"{split}_y.bin").write_bytes(bytes(label + 1 for label in labels(split)))
    (folder / "unlabeled_X.bin").write_bytes(b"")
    text(folder / "class_names.txt", "a", "b")


def flowers102(root: Path) -> None:
    ids, numbers = {}, []
    for split, key in (("train", "trnid"), ("val", "valid"), ("test", "tstid")):
        ids[key] = np.arange(len(numbers) + 1, len(numbers) + COUNTS[split] + 1)
        for label in labels(split):
            numbers.append(label + 1)
            image(root / "flowers-102" / "jpg" / f"image_{len(numbers):05d}.jpg", label)
    savemat(root / "flowers-102" / "imagelabels.mat", {"labels": np.array(numbers)})
    savemat(root / "flowers-102" / "setid.mat", ids)


def oxford_iiit_pet(root: Path) -> None:
    folder = root / "oxford-iiit-pet"
    for split, file in (("train", "trainval.txt"), ("test", "test.txt")):
        names = [f"{'ab'[label]}_{100 * (split == 'test') + index}" for index, label in enumerate(labels(split))]
        for name, label in zip(names, labels(split), strict=True):
            image(folder / "images" / f"{name}.jpg", label)
        lines = [f"{name} {label + 1} 1 1" for name, label in zip(names, labels(split), strict=True)]
        text(folder / "annotations" / file, *lines)


def food101(root: Path) -> None:
    for split in ("train", "test"):
        names: dict[str, list[str]] = {"a": [], "b": []}
        for index, label in enumerate(labels(split)):
            names["ab"[label]].append(f"{'ab'[label]}/{split}{index}")
            image(root / "food-101" / "images" / "ab"[label] / f"{split}{index}.jpg", label)
        text(root / "food-101" / "meta" / f"{split}.json", json.dumps(names))


def dtd(root: Path) -> None:
    for split, values in ((split, labels(split)) for split in COUNTS):
        names = [f"{'ab'[label]}/{split}{index}.jpg" for index, label in enumerate(values)]
        for name, label in zip(names, values, strict=True):
            image(root / "dtd" / "dtd" / "images" / name, label)
        text(root / "dtd" / "dtd" / "labels" / f"{split}1.txt", *names)


def eurosat(root: Path) -> None:
    for index, label in enumerate(labels("train")):
        image(root / "eurosat" / "2750" / "ab"[label] / f"{index}.jpg", label, size=(64, 64))


def fgvc_aircraft(root: Path) -> None:
    folder = root / "fgvc-aircraft-2013b" / "data"
    text(folder / "variants.txt", "a", "b")
    for split in COUNTS:
        lines = [f"{split}{index} {'ab'[label]}" for index, label in enumerate(labels(split))]
        for index, label in enumerate(labels(split)):
            image(folder / "images" / f"{split}{index}.jpg", label)
        text(folder / f"images_variant_{split}.txt", *lines)


def image_folder(root: Path) -> None:
    for index, label in enumerate(labels("train")):
        image(root / "ab"[label] / f"{index}.jpg", label)


WRITERS: dict[str, Callable[[Path], None]] = {
    "cifar10": cifar10,
    "cifar100": cifar100,
    "mnist": mnist,
    "fashion_mnist": lambda root: mnist(root, "FashionMNIST"),
    "svhn": svhn,
    "stl10": stl10,
    "flowers102": flowers102,
    "oxford_iiit_pet": oxford_iiit_pet,
    "food101": food101,
    "dtd": dtd,
    "eurosat": eurosat,
    "fgvc_aircraft": fgvc_aircraft,
    "image_folder": image_folder,
}


def request(name: str, **changes: Any) -> dict[str, Any]:
    merged = OmegaConf.merge(
        OmegaConf.structured(DataConfig), BASE["data"], OmegaConf.load(CONF / f"{name}.yaml"), changes
    )
    return cast(dict[str, Any], OmegaConf.to_container(merged, throw_on_missing=True))


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check only that files exist: tiny files cannot have the checksums of the real ones."""
    for module in ("cifar", "svhn", "stl10", "flowers102"):
        present = lambda file, md5=None: Path(file).is_file()  # noqa: E731
        monkeypatch.setattr(getattr(torchvision.datasets, module), "check_integrity", present)


def test_every_data_option_is_tested():
    names = {file.stem for file in CONF.glob("*.yaml")}
    assert names == {*WRITERS, "digits", "glyphs", "table", "hub", "shards"}
    for name in names:
        option = OmegaConf.merge(BASE["data"], OmegaConf.load(CONF / f"{name}.yaml"))
        assert option.name == name and 0 < option.val_fraction < 1 and 0 < option.test_fraction < 1


@pytest.mark.parametrize("name", WRITERS)
def test_data_option_reads_images_and_classes(name: str, tmp_path: Path, unchecked: None):
    WRITERS[name](tmp_path)
    config = request(name, root=str(tmp_path))
    found = load_data(**config)
    for split in (found.train, found.val, found.test):
        for pixels, label in zip(split.pixels, split.labels.tolist(), strict=True):
            expected = (grey(label),) * 3 if "mnist" in name else colour(label)
            assert pixels.flatten(1).float().mean(1).tolist() == pytest.approx(expected, abs=6)
    own = {"val", "test"} & set(config["splits"])
    assert {split: len(getattr(found, split)) for split in own} == {split: COUNTS[split] for split in own}
    assert len(found.classes) == {"mnist": 10, "fashion_mnist": 10, "flowers102": 102}.get(name, 2)
    assert len(set(found.classes)) == len(found.classes)


@pytest.mark.parametrize("name", sorted(set(WRITERS) - {"image_folder"}))
def test_missing_data_suggests_download(name: str, tmp_path: Path):
    with pytest.raises(UserError, match=r"data\.root=.*data\.download=true") as raised:
        load_data(**request(name, root=str(tmp_path / "nothing")))
    assert "\n" not in str(raised.value)


def test_failed_download_gives_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def offline(self: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(torchvision.datasets.DTD, "_download", offline)
    with pytest.raises(UserError, match=r"data\.root=.*the complete files of DTD: .*no network"):
        load_data(**request("dtd", root=str(tmp_path), download=True))


def test_missing_image_of_a_dataset_is_named(tmp_path: Path):
    dtd(tmp_path)
    (tmp_path / "dtd" / "dtd" / "images" / "a" / "test0.jpg").unlink()
    with pytest.raises(UserError, match=r"data\.root=.*test0\.jpg"):
        load_data(**request("dtd", root=str(tmp_path)))


def test_dataset_without_label_list_is_read(tmp_path: Path):
    for index, label in enumerate(labels("train")):
        file = tmp_path / "gtsrb" / "GTSRB" / "Training" / f"{label:05d}" / f"{index}.ppm"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array(label, (30, 30))).save(file)
    config = request("image_folder", source="GTSRB", splits={"train": {"split": "train"}}, root=str(tmp_path))
    found = load_data(**config)
    assert found.classes == ("0", "1")
    for pixels, label in zip(found.train.pixels, found.train.labels.tolist(), strict=True):
        assert tuple(pixels[:, 0, 0].tolist()) == colour(label)


@pytest.mark.parametrize("name", ["StanfordCarz", "VisionTransformer", "wrap_dataset_for_transforms_v2", "os.system"])
def test_other_names_are_no_sources(name: str):
    with pytest.raises(
        UserError, match=f"data.source={name}: expected digits, glyphs, folder, table, hub, shards, a class"
    ):
        load_data(**request("cifar10", source=name))


def test_unknown_source_names_nearest_one():
    with pytest.raises(UserError, match="did you mean digits"):
        load_data(**request("digits", source="digit"))


@pytest.mark.parametrize(
    "changes, key",
    [
        ({"source": "DTD", "splits": {"train": {"split": "trian"}}}, "data.splits"),
        ({"source": "DTD", "options": {"partitoin": 2}, "splits": {"train": {"split": "train"}}}, "data.splits"),
        ({"source": "digits", "options": {"size": 8}}, "data.options"),
        ({"source": "glyphs", "options": {"size": 8}}, "data.options"),
        ({"source": "digits", "splits": {"train": {"train": True}}}, "data.splits"),
        ({"source": "EuroSAT", "splits": {}}, "data.splits"),
        ({"source": "EuroSAT", "splits": {"train": {}, "valid": {}}}, "data.splits"),
        ({"source": "WIDERFace", "download": True, "splits": {"train": {"nonsense": 1}}}, "data.splits"),
        ({"source": "FER2013", "download": True, "splits": {"train": {}}}, "data.download"),
    ],
)
def test_invalid_source_arguments_are_refused(changes: dict[str, Any], key: str, tmp_path: Path):
    name = "digits" if changes["source"] in ("digits", "glyphs") else "image_folder"
    with pytest.raises(UserError, match=key) as raised:
        load_data(**request(name, root=str(tmp_path), **changes))
    assert "\n" not in str(raised.value)


def test_folder_with_own_splits_is_read(tmp_path: Path):
    for split, number in (("train", 3), ("validation", 2), ("test", 1)):
        for label, name in enumerate(("zebra", "Ant")):
            for index in range(number):
                image(tmp_path / split / name / f"{index}.png", 1 - label)
    (tmp_path / "train" / ".cache").mkdir()
    found = load_data(**request("image_folder", root=str(tmp_path)))
    assert found.classes == ("Ant", "zebra")
    assert [len(split) for split in (found.train, found.val, found.test)] == [6, 4, 2]
    assert found.train.pixels[found.train.labels == 0][:, :, 0, 0].unique(dim=0).tolist() == [list(colour(0))]


def test_split_folders_ignore_case_and_must_be_unique(tmp_path: Path):
    for split, number in (("Train", 5), ("VAL", 3)):
        for label, name in enumerate(("a", "b")):
            for index in range(number):
                image(tmp_path / split / name / f"{index}.png", label)
    found = load_data(**request("image_folder", root=str(tmp_path)))
    assert found.classes == ("a", "b") and len(found.val) == 6
    shutil.copytree(tmp_path / "VAL", tmp_path / "validation")
    loading._last.clear()
    with pytest.raises(UserError, match="one folder for val, not VAL, validation"):
        load_data(**request("image_folder", root=str(tmp_path)))
    shutil.rmtree(tmp_path / "Train")
    with pytest.raises(UserError, match="a folder train beside VAL, validation"):
        load_data(**request("image_folder", root=str(tmp_path)))


def test_broken_images_are_named_with_their_split(tmp_path: Path):
    for split in ("train", "val"):
        for label, name in enumerate(("a", "b")):
            for index in range(4):
                image(tmp_path / split / name / f"{index}.png", label)
        (tmp_path / split / "a" / "0.png").write_text("none")
    with pytest.raises(broken_images.BadImages) as raised:
        load_data(**request("image_folder", root=str(tmp_path)))
    assert [name for name, _ in raised.value.reasons] == ["train/a/0.png", "val/a/0.png"]


@pytest.mark.parametrize("name", [b"caf\xe9", b"two\nlines"])
def test_class_name_must_be_text(tmp_path: Path, name: bytes):
    image_folder(tmp_path)
    (tmp_path / "b").rename(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    with pytest.raises(UserError, match=r"UTF-8 text, not (caf\\udce9|two\\nlines)"):
        load_data(**request("image_folder", root=str(tmp_path)))


def test_class_may_be_called_train(tmp_path: Path):
    for label, name in enumerate(("plane", "train")):
        for index in range(5):
            image(tmp_path / name / f"{index}.png", label)
    assert load_data(**request("image_folder", root=str(tmp_path))).classes == ("plane", "train")


def test_unusable_folders_are_refused(tmp_path: Path):
    config = request("image_folder", root=str(tmp_path / "pets"))
    with pytest.raises(UserError, match="a folder that exists"):
        load_data(**config)
    image(tmp_path / "pets" / "train" / "cat" / "1.png", 0)
    with pytest.raises(UserError, match=r"two or more classes, found 1$"):
        load_data(**config)
    (tmp_path / "zipped").mkdir()
    archive = tmp_path / "zipped" / "pets.zip"
    archive.write_bytes(b"PK")
    with pytest.raises(UserError, match=r"expected a folder, not a file \(unpack it\), with one folder of images per "):
        load_data(**request("image_folder", root=str(archive)))
    with pytest.raises(UserError, match=r"found 0; 1 file is left out, .*: 1 \.zip \(unpack them\)$"):
        load_data(**request("image_folder", root=str(archive.parent)))
    for name in ("cat", "dog"):
        image(tmp_path / "wrapped" / "pets" / name / "1.png", 0)
    with pytest.raises(
        UserError, match=r"found 1, with folders in it: are the classes in data\.root=.*/wrapped/pets\?$"
    ):
        load_data(**request("image_folder", root=str(tmp_path / "wrapped")))
    one_class = request("image_folder", root=str(tmp_path / "pets" / "train" / "cat"))
    with pytest.raises(UserError, match=r"found 0, but 1 image without one: name the folder above, or use data=table$"):
        load_data(**one_class)
    image(tmp_path / "pets" / "train" / "dog" / "1.png", 1)
    (tmp_path / "pets" / "train" / "eel").mkdir()
    with pytest.raises(UserError, match="none in eel"):
        load_data(**config)
    image(tmp_path / "pets" / "train" / "eel" / "1.png", 1)
    for name in ("cat", "dog", "fox"):
        image(tmp_path / "pets" / "test" / name / "1.png", 0)
    with pytest.raises(UserError, match="train and test; they differ in eel, fox"):
        load_data(**config)


def test_broken_image_is_named_and_macos_files_ignored(tmp_path: Path):
    image_folder(tmp_path)
    text(tmp_path / "a" / "._0.jpg", "a resource fork")
    assert len(survey(tmp_path).files) == COUNTS["train"]
    load_data(**request("image_folder", root=str(tmp_path)))
    text(tmp_path / "b" / "1.jpg", "no image")
    with pytest.raises(UserError, match=r"1\.jpg"):
        load_data(**request("image_folder", root=str(tmp_path), split_seed=1))

"""Layouts of image folders: recognised splits and classes, refused ambiguities, reported leftovers."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from itertools import count
from pathlib import Path

import pytest
from PIL import Image
from test_sources import request

from frostline.core.errors import UserError
from frostline.data import image_list, leftovers, loading
from frostline.data.layouts import Layout, lay_out, roles_of
from frostline.data.listing import survey
from frostline.data.splits import Data
from frostline.runs import checks
from frostline.sweeps import preflight
from numbered import findings
from small import compose, load_data

NUMBERS = count()


def images(root: Path, *places: str, each: int = 3) -> None:
    """Write images, each different from all others, into folders."""
    for place in places:
        (root / place).mkdir(parents=True, exist_ok=True)
        for index in range(each):
            number = next(NUMBERS)
            Image.new("RGB", (8, 8), (number % 256, number // 256, 9)).save(root / place / f"{index}.png")


def within(tops: Iterable[str], classes: str = "abc") -> list[str]:
    return [f"{top}/{name}" for top in tops for name in classes]


def load(root: Path, **changes: object) -> Data:
    loading._last.clear()
    return load_data(**request("image_folder", root=str(root), pixels="auto", **changes))


def places(found: Layout, root: Path) -> dict[str, list[str]]:
    return {split: [str(top.relative_to(root)) for top in tops.values()] for split, tops in found.classes.items()}


@pytest.mark.parametrize(
    "tops",
    ids=", ".join,
    argvalues=[
        {"Training": "train", "Testing": "test"},
        {"training_set": "train", "test_set": "test"},
        {"seg_train": "train", "seg_test": "test", "seg_pred": "unlabelled"},
        {"training": "train", "validation": "val"},
        {"TRAIN": "train", "dev": "val", "holdout": "test"},
        {"trainset": "train", "valset": "val", "testSet": "test"},
        {"train2017": "train", "val2017": "val"},
        {"birds-train": "train", "birds-eval": "val", "birds-hold-out": "test"},
        {"imagesTrain": "train", "imagesTest": "test", "unlabeled": "unlabelled"},
    ],
)
def test_usual_split_names_are_recognised(tops: dict[str, str], tmp_path: Path):
    assert dict(zip(tops, roles_of(list(tops)), strict=True)) == tops
    known = {split: top for top, split in tops.items() if split != "unlabelled"}
    images(tmp_path, *within(known.values()))
    assert places(lay_out(tmp_path, "auto"), tmp_path) == {split: within([top]) for split, top in known.items()}


def test_splits_in_a_folder_of_their_own_name_are_read(tmp_path: Path):
    tops = {"train": "seg_train/seg_train", "test": "seg_test/seg_test"}
    images(tmp_path, *within(tops.values()), "seg_pred/seg_pred", "a/a")
    assert places(lay_out(tmp_path, "auto"), tmp_path) == {split: within([top]) for split, top in tops.items()}
    images(tmp_path, "seg_test/more")
    assert places(lay_out(tmp_path, "auto"), tmp_path)["test"] == ["seg_test/more", "seg_test/seg_test"]


@pytest.mark.parametrize(
    "names",
    ids=", ".join,
    argvalues=[
        ["test_tube", "flask"],
        ["train_station", "bus_stop"],
        ["bullet train", "steam train"],
        ["mask", "no_mask"],
        ["valid", "invalid"],
        ["with_mask", "without_mask"],
        ["plane", "train"],
    ],
)
def test_names_of_things_are_classes(names: list[str], tmp_path: Path):
    images(tmp_path, *names)
    assert places(lay_out(tmp_path, "auto"), tmp_path) == {"train": sorted(names)}


def test_unlabelled_folders_are_left_out_and_reported(tmp_path: Path):
    images(tmp_path, *within(["seg_train", "seg_test"]), "seg_pred", "seg_masks", "extra/deep")
    (tmp_path / "empty").mkdir()
    found = load(tmp_path)
    assert found.classes == ("a", "b", "c") and len(found.test) == 9
    assert [finding.about for finding in findings(found, " is left out, since ")] == [
        "folder extra with 3 images is left out, since it is not a split",
        "folder seg_masks with 3 images is left out, since its name says that it holds annotations",
        "folder seg_pred with 3 images is left out, since its name says that it has no labels",
    ]


def test_test_folder_without_classes_is_replaced(tmp_path: Path):
    images(tmp_path, *within(["train"]), "test", each=5)
    found = load(tmp_path)
    assert len(found.train) + len(found.val) + len(found.test) == 15
    assert findings(found, "test with 5 images is left out, since its images are in no class folders")


@pytest.mark.parametrize(
    "folders, expected",
    [
        (["train", "test"], r"train, which are named like splits.*data\.layout=classes"),
        (within(["images", "annotations"]), r"set data\.root=\S+/images; data\.layout=classes"),
        (within(["day_one", "day_two"]), r"day_two \(data\.layout=classes\), or classes a, b, c in.*data=table"),
        (within(["a", "b", "c"], ["train", "test"]), r"data\.layout=classes\), .*test, train \(data\.layout=splits"),
        (["a/train", "a/test", "b/Train", "c/train"], r"each with its splits Train, test, train \(data\.layout=splits"),
        (["plane", "train/steam", "train/electric"], r"plane, train \(data\.layout=classes\), .*data\.layout=splits"),
    ],
)  # fmt: skip
def test_ambiguous_layout_is_refused(folders: list[str], expected: str, tmp_path: Path):
    images(tmp_path, *folders)
    with pytest.raises(UserError, match=expected) as raised:
        load(tmp_path)
    assert "\n" not in str(raised.value)
    outer = sorted({folder.split("/")[0] for folder in folders})
    assert list(lay_out(tmp_path, "classes").classes["train"]) == outer


def test_layout_key_reads_splits_within_classes(tmp_path: Path):
    images(tmp_path, *within("ab", ["train", "Test"]))
    found = load(tmp_path, layout="splits")
    assert found.classes == ("a", "b") and len(found.test) == 6


def test_unknown_layout_names_nearest_one():
    with pytest.raises(UserError, match=r"data\.layout=split: .*did you mean splits"):
        compose("data.layout=split")


@pytest.mark.parametrize(
    "names, about",
    [
        (["Cat", "cat", "dog"], "'Cat' and 'cat'"),
        (["cat", "cat ", "dog"], "'cat' and 'cat '"),
        (["caf\u00e9", "cafe\u0301"], r"'cafe\u0301' \(U\+0301\) and 'caf\u00e9' \(U\+00E9\)"),
    ],
)
def test_class_with_two_spellings_is_refused(names: list[str], about: str, tmp_path: Path):
    images(tmp_path, *names)
    with pytest.raises(UserError, match=about):
        load(tmp_path)


def test_single_letters_may_differ_in_case_only(tmp_path: Path):
    images(tmp_path, "A", "a", each=6)
    assert load(tmp_path).classes == ("A", "a")


def test_unicode_variants_across_splits_are_refused(tmp_path: Path):
    images(tmp_path, "train/caf\u00e9", "train/b", "test/cafe\u0301", "test/b")
    with pytest.raises(UserError, match=r"\(U\+0301\), .*\(U\+00E9\)"):
        load(tmp_path)


def test_missing_classes_key_allows_class_without_test_images(tmp_path: Path):
    images(tmp_path, *within(["train"]), *within(["test"], "ac"), each=5)
    (tmp_path / "test" / "b").mkdir()
    with pytest.raises(UserError, match="none in b of test"):
        load(tmp_path)
    (tmp_path / "test" / "b").rmdir()
    with pytest.raises(UserError, match=r"they differ in b; data\.missing_classes=ok"):
        load(tmp_path)
    found = load(tmp_path, missing_classes="ok")
    assert found.test.labels.bincount().tolist() == [5, 0, 5]
    assert "test has no images of b" in [finding.about for finding in found.findings]
    shutil.copytree(tmp_path / "test" / "a", tmp_path / "test" / "d")
    with pytest.raises(UserError, match=r"they differ in b, d$"):
        load(tmp_path, missing_classes="ok")


def test_one_image_per_class_is_refused(tmp_path: Path):
    images(tmp_path, "a", "b", each=1)
    with pytest.raises(UserError, match="at least two images of some class, one of them for test, but a, b have one"):
        load(tmp_path)


def test_rare_and_dominant_classes_are_reported(tmp_path: Path):
    images(tmp_path, "a", each=40)
    images(tmp_path, "b", each=1)
    about = " ".join(finding.about for finding in load(tmp_path).findings)
    assert "train has one image of b" in about and "val has no images of b" in about
    assert "of train is a: predicting a for every image" in about


def test_skipped_files_are_counted_and_reported_unless_harmless(tmp_path: Path):
    images(tmp_path, "a", "b", each=6)
    for name in ("1.nef", "2.NEF", "3.webm", "noname", "notes.txt", "Thumbs.db", "LICENSE"):
        (tmp_path / "a" / name).write_text("x")
    other = survey(tmp_path / "a").left.other
    assert other == {".nef": 2, ".webm": 1, "(no suffix)": 1, ".txt": 1, ".db": 1, "license": 1}
    found = load(tmp_path)
    assert found.counts["other"] == 7
    about = findings(found, "left out")[0].about
    assert about.startswith("4 files are left out") and ".txt" not in about
    assert "2 .nef (needs a conversion to PNG or TIFF)" in about
    assert leftovers.describe({".txt": 3, ".db": 1, "readme": 1}) is None
    printed: list[str] = []
    assert len(image_list.gather(tmp_path / ".list", [tmp_path], say=printed.append)) == 12
    assert printed == [f"{tmp_path}: {about}"]


def test_images_beside_class_folders_are_reported(tmp_path: Path):
    images(tmp_path / "one", "a", "b", ".", each=6)
    (tmp_path / "one" / "._0.png").touch()  # of macOS
    images(tmp_path / "two", "train/a", "train/b", "test/a", "test/b", "test", each=6)
    for root, place in (("one", "one"), ("two", "test")):
        (finding,) = findings(load(tmp_path / root), "left out")
        assert finding.about == (
            f"6 images in {place} are left out, since they are in no class folder: 0.png, 1.png, 2.png, ..."
        )


def test_sweep_reports_a_finding_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    images(tmp_path, "cat", "dog", each=20)
    (tmp_path / "cat" / "1.nef").write_text("x")
    configs = [compose("data=image_folder", f"data.root={tmp_path}", f"freeze={mode}") for mode in ("head", "full")]
    preflight.check(dict(enumerate(configs)))
    assert capsys.readouterr().out.count("1 .nef") == 1
    assert len(checks.check(configs[0]).findings) == 1


def test_merged_subfolders_of_classes_are_reported(tmp_path: Path) -> None:
    images(tmp_path / "apart", "cat/siamese", "cat/wild/lynx", "cat", "dog", "fish/images")
    (finding,) = findings(load(tmp_path / "apart"), "subfolders")
    assert finding.about == (
        "6 images are in subfolders of class folders (cat/siamese, cat/wild/lynx), and belong to the classes above them"
    )
    assert finding.alarming and finding.images == ("cat/siamese", "cat/wild/lynx")
    images(tmp_path / "split", "train/cat/1", "train/cat/2", "train/dog", "test/cat", "test/dog/3", "test/dog/4")
    (finding,) = findings(load(tmp_path / "split"), "subfolders")
    assert finding.about.startswith("12 images")
    assert "(train/cat/1, train/cat/2, test/dog/3, ...)" in finding.about
    images(tmp_path / "one", "cat/images", "dog/images/more")  # one subfolder per class
    assert not findings(load(tmp_path / "one"), "subfolders")

"""Facts and images that the `data` command shows agree with the files and with a run."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images
from torchvision import transforms

import frostline
from frostline import commands
from frostline.commands import data
from frostline.core import project
from frostline.core.config import Config
from frostline.core.errors import UserError
from frostline.core.input_spec import InputSpec
from frostline.data import loading
from frostline.report import command_line
from frostline.runs import data_facts, data_gallery, setup
from frostline.runs.data_facts import DataFacts
from frostline.runs.data_gallery import Gallery, GalleryImage
from frostline.runs.setup import Setup
from frostline.store.checksums import DamagedEntry
from small import FakeScreen

SIDE = 32
CHOSEN = ("model=resnet18", "model.weights=null", f"model.image_size={SIDE}", "data.skip_bad=true")
SPLITS = {"train": 9, "val": 3, "test": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crops of two photographs in folders by split and class, with broken, duplicate and other files among them."""
    top = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for name, array in zip(("china", "flower"), load_sample_images().images, strict=True):
        whole = Image.fromarray(array)
        for split, count in SPLITS.items():
            (place := top / split / name).mkdir(parents=True)
            for number in range(count + 4 * (name == "china")):
                width, height = draw.integers(20, 120, 2).tolist()
                left, up = int(draw.integers(0, 500)), int(draw.integers(0, 300))
                part = whole.crop((left, up, left + width, up + height))
                part.save(place / f"{number}.jpg", quality=95)
    china, flower = (top / "train" / name for name in ("china", "flower"))
    Image.open(china / "1.jpg").convert("L").save(china / "grey.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.open(china / "2.jpg").save(china / "turned.jpg", exif=turned, quality=95)
    (china / "cut.jpg").write_bytes((china / "3.jpg").read_bytes()[:300])
    (flower / "empty.png").touch()
    (top / "test" / "flower" / "copy.jpg").write_bytes((flower / "4.jpg").read_bytes())
    near = Image.open(flower / "7.jpg")
    near.resize((near.width * 5 // 4, near.height * 5 // 4)).save(top / "test" / "flower" / "near.png")
    (flower / "wrong.jpg").write_bytes((china / "0.jpg").read_bytes())
    for name in ("notes.txt", "film.mp4", "film2.mp4", ".hidden"):
        (flower / name).touch()
    return top


def config(folder: Path, *overrides: str) -> Config:
    return frostline.compose("data=image_folder", f"data.root={folder}", *CHOSEN, *overrides)


def open_folder(folder: Path, *overrides: str) -> Setup:
    return data_facts.open_data(config(folder, *overrides), FakeScreen())


def facts_and_gallery(folder: Path, *overrides: str) -> tuple[DataFacts, Gallery]:
    found = open_folder(folder, *overrides)
    return data_facts.facts(found), data_gallery.gallery(found)


def readable(folder: Path, split: str) -> list[Path]:
    files = [file for kind in ("*.jpg", "*.png") for file in (folder / split).rglob(kind)]
    return sorted(file for file in files if file.stem not in ("cut", "empty"))


def upright(file: Path) -> Image.Image:
    with Image.open(file) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def torchvision_transform(found: Setup) -> Callable[[Image.Image], torch.Tensor]:
    """Return the preprocessing of torchvision for this network, without normalisation."""
    spec = found.model.input
    how = (transforms.Resize(spec.resize), transforms.CenterCrop(spec.size), transforms.ToTensor())
    return transforms.Compose(how)


def test_facts_agree_with_the_files(folder: Path) -> None:
    facts = data_facts.facts(open_folder(folder))
    files = {split: readable(folder, split) for split in SPLITS}
    for split, own in files.items():
        counted = Counter(file.parent.name for file in own)
        assert dict(zip(facts.classes, facts.counts[split], strict=True)) == counted
    assert facts.largest == ("china", pytest.approx(15 / 25))
    sizes = np.array([upright(file).size for own in files.values() for file in own])
    quarters = (0, 0.25, 0.5, 0.75, 1)
    for quantiles, each in (
        (facts.sizes.width, sizes[:, 0]),
        (facts.sizes.height, sizes[:, 1]),
        (facts.sizes.shorter, sizes.min(1)),
        (facts.sizes.aspect, sizes[:, 0] / sizes[:, 1]),
    ):
        assert quantiles == pytest.approx(tuple(np.quantile(each, quarters)))
    below = int((sizes.min(1) < facts.input.resize).sum())
    assert facts.sizes.enlarged == below and 0 < below < len(sizes)
    assert facts.converted == {"upright": 1, "grayscale": 1}
    assert [name for name, _ in facts.broken] == ["train/china/cut.jpg", "train/flower/empty.png"]
    assert dict(facts.broken)["train/flower/empty.png"] == "empty"
    assert (facts.hidden, facts.suffixes) == (1, {".txt": 1, ".mp4": 2})
    assert (facts.root, facts.fold, facts.without_class) == (str(folder), None, None)


def test_input_statistics_equal_torchvision_preprocessing(folder: Path) -> None:
    found = open_folder(folder)
    given, transform = data_facts.facts(found).input, torchvision_transform(found)
    views = torch.stack([transform(upright(file)) for file in readable(folder, "train")]).double()
    values = ((views.permute(1, 0, 2, 3).flatten(1).T - torch.tensor(given.mean)) / torch.tensor(given.std)).numpy()
    assert given.views == len(views) and given.training == ()
    assert given.measured_mean == pytest.approx(tuple(values.mean(0)), abs=2e-2)  # a level is 0.017
    assert given.measured_std == pytest.approx(tuple(values.std(0)), rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("pixels", ["exact", "auto"])
def test_gallery_shows_the_views_of_a_run(folder: Path, tmp_path: Path, pixels: str) -> None:
    chosen = ("augment=standard", "seed=3", "features.views=2", f"data.pixels={pixels}")
    found = open_folder(folder, *chosen)
    run = setup.assemble(config(folder, *chosen), tmp_path, meta=True, screen=FakeScreen())
    views, train = run.views.train, run.data.train
    names = loading.source_of_each(run.config.data, run.store)["train"].name
    row_of = {names(number): row for row, number in enumerate(train.ids.tolist())}
    transform = torchvision_transform(found)
    sheet = data_gallery.gallery(found).classes
    assert list(sheet) == ["china", "flower"]
    for name, group in sheet.items():
        assert Counter(one.split for one in group) == {"train": 3, "val": 2, "test": 2}
        assert {one.label for one in group} == {Path(one.name).parent.name for one in group} == {name}
        for one in (one for one in group if one.split != "train" or pixels == "exact"):
            plain = transform(upright(folder / one.name)).mul(255).permute(1, 2, 0).numpy()
            assert np.abs(one.views[0] - plain).max() <= 1
        for one in (one for one in group if one.split == "train"):
            row = torch.tensor([row_of[one.name]])
            drawn = [levels(views.inputs(row, epoch)[0], found) for epoch in (1, 2, 3)]
            assert all(map(np.array_equal, one.views[1:], drawn)) and len(one.views) == 4
            assert np.array_equal(drawn[0], drawn[2]) and not np.array_equal(drawn[0], drawn[1])


def levels(view: torch.Tensor, found: Setup) -> NDArray[np.uint8]:
    spec = found.model.input
    values = view.permute(1, 2, 0).numpy() * np.array(spec.std) + np.array(spec.mean)
    return np.rint(values * 255).astype(np.uint8)


def test_input_statistics_use_the_first_training_views(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_facts, "MEASURED", 7)
    found = open_folder(folder, "augment=standard", "seed=5")
    order = data_facts.dataset.shuffled(len(found.data.train), 5, 1)[:7]
    values = found.views.train.inputs(order, 1).numpy()
    given = data_facts.facts(found).input
    assert given.views == 7 and given.training[1:] == ("half of them mirrored",)
    assert given.measured_mean == pytest.approx(tuple(values.mean((0, 2, 3))), abs=1e-5)
    assert given.measured_std == pytest.approx(tuple(values.std((0, 2, 3))), abs=1e-5)


def test_several_labels_and_folds_are_counted(folder: Path, tmp_path: Path) -> None:
    files = readable(folder, "train")[:12]
    rows = ["path,label", *(f"{file},{('a', 'a|b', '')[n % 3]}" for n, file in enumerate(files))]
    (table := tmp_path / "labels.csv").write_text("\n".join(rows))
    chosen = (
        "data=table",
        f"data.root={table}",
        f"data.options.root={folder}",
        "data.options.separator='|'",
        "data.folds=4",
        "data.fold=3",
    )
    setup = data_facts.open_data(frostline.compose(*chosen, *CHOSEN), FakeScreen())
    facts = data_facts.facts(setup)
    assert facts.fold == (3, 4) and facts.without_class == int((setup.data.train.labels == 0).all(1).sum()) > 0
    assert sum(facts.counts[split][0] for split in SPLITS) == 8 and sum(facts.images.values()) == 12


@pytest.mark.parametrize(("crop", "enlarged"), [("center", 2), ("squash", 2), ("border", 1)])
def test_image_is_enlarged_if_the_side_that_is_resized_is_shorter(crop: str, enlarged: int) -> None:
    spec = InputSpec(32, 32, (0, 0, 0), (1, 1, 1), "bilinear", crop)
    assert data_facts._sizes(torch.tensor([[31, 20], [20, 32], [32, 32]]), spec).enlarged == enlarged


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("augment.crop=pad augment.padding=0.125", "the centre moved by up to 12.5% of the side, cut from {cut_from}"),
        ("augment.color=0.4", "brightness, contrast and saturation changed by up to 40%"),
        ("augment.trivial=true", "one operation of TrivialAugment each"),
        ("train.mixup=0.2", "blended within a batch (mixup, CutMix), which is not shown"),
        ("train.cutmix=1", "blended within a batch (mixup, CutMix), which is not shown"),
    ],
)
def test_augmentation_is_told_in_words(folder: Path, typed: str, said: str) -> None:
    loaded = open_folder(folder, *typed.split())
    assert data_facts.facts(loaded).input.training == (said.format(cut_from=loaded.data.cut_from),)


def images_of_finding(facts: DataFacts, gallery: Gallery, text: str) -> list[tuple[GalleryImage, ...]]:
    (found,) = (
        list(groups) for finding, groups in zip(facts.findings, gallery.findings, strict=True) if text in finding.about
    )
    return found


def test_findings_show_their_images(folder: Path) -> None:
    facts, gallery = facts_and_gallery(folder)
    ((copy, first),) = images_of_finding(facts, gallery, "in test is in train")
    assert (copy.name, first.name) == ("test/flower/copy.jpg", "train/flower/4.jpg")
    assert np.array_equal(copy.views[0], first.views[0]) and copy.views[0].std() > 0
    ((one, two),) = images_of_finding(facts, gallery, "with different labels")
    assert {one.label, two.label} == {"china", "flower"} and one.name == "train/china/0.jpg"
    ((near, like),) = images_of_finding(facts, gallery, "looks nearly like one in train")
    assert (near.name, like.name) == ("test/flower/near.png", "train/flower/7.jpg")
    assert images_of_finding(facts, gallery, "are left out, without the suffix") == []


def test_gallery_of_many_classes_shows_a_range_of_sizes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_gallery, "CLASSES", 3)
    found = data_facts.open_data(frostline.compose("data=digits", f"model.image_size={SIDE}"), FakeScreen())
    facts, sheet = data_facts.facts(found), data_gallery.gallery(found).classes
    sizes = [facts.counts["train"][facts.classes.index(name)] for name in sheet]
    assert len(sizes) == 3 and (sizes[0], sizes[-1]) == (max(facts.counts["train"]), min(facts.counts["train"]))
    assert sizes == sorted(sizes, reverse=True)
    assert (facts.root, facts.groups, facts.hidden) == ("", {}, 0)


def test_groups_in_several_splits_are_shown(folder: Path, tmp_path: Path) -> None:
    rows = [("path", "label", "split", "group")]
    for split in SPLITS:
        rows += [(str(file), file.parent.name, split, f"{split}{n}") for n, file in enumerate(readable(folder, split))]
    rows[2] = (*rows[2][:3], "both")
    rows[-1] = (*rows[-1][:3], "both")
    rows[4:6] = [(*row[:3], "pair") for row in rows[4:6]]
    (table := tmp_path / "labels.csv").write_text("\n".join(map(",".join, rows)))
    chosen = ("data=table", f"data.root={table}", f"data.options.root={folder}", "data.options.group=group")
    found = data_facts.open_data(frostline.compose(*chosen, *CHOSEN), FakeScreen())
    facts, gallery = data_facts.facts(found), data_gallery.gallery(found)
    assert facts.groups == {name: count - (name == "train") for name, count in facts.images.items()}
    ((one, other),) = images_of_finding(facts, gallery, "1 group has images in train and in test")
    assert [str(folder / shown.name) for shown in (one, other)] == [rows[2][0], rows[-1][0]]

    fewer = data_facts.open_data(frostline.compose(*chosen, *CHOSEN, "data.limit=2"), FakeScreen())
    facts, gallery = data_facts.facts(fewer), data_gallery.gallery(fewer)
    trained_on = {one.name for group in gallery.classes.values() for one in group if one.split == "train"}
    assert len(trained_on) == sum(facts.counts["train"]) == 2 and one.name not in trained_on
    assert images_of_finding(facts, gallery, "1 group has images in train and in test") == []


class ProgressTitles(FakeScreen):
    """A screen that keeps the titles of progress bars."""

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        self.lines.append(what)
        yield lambda count: None


def test_run_reuses_images_decoded_for_facts(folder: Path, tmp_path: Path) -> None:
    chosen = config(folder, "augment=standard", f"store.path={tmp_path}")
    loading._last.clear()
    screen = ProgressTitles()
    found = data_facts.open_data(chosen, screen)
    assert screen.lines.count("decoding") == 3  # one per split
    data_facts.facts(found), data_gallery.gallery(found)
    loading._last.clear()
    setup.assemble(chosen, tmp_path, meta=True, screen=screen)
    assert screen.lines.count("decoding") == 3


def test_data_command_prints_facts_and_writes_a_page(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    overrides = ["data=image_folder", f"data.root={folder}", *CHOSEN]
    assert commands.run("data", overrides) == 0
    printed = capsys.readouterr().out
    assert Path(printed.splitlines()[-1]) == tmp_path / "data.html"
    assert re.search(r"china +15 +7 +8 *\n", printed) and "train/china/cut.jpg (" in printed
    page = (tmp_path / "data.html").read_text()
    assert page.count("data:image/jpeg") == 2 * 7 + 2 * 4  # seven of each class, and four pairs
    (tmp_path / "data.html").unlink()
    assert commands.run("data", [*overrides, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["counts"]["train"] == [15, 10] and not (tmp_path / "data.html").exists()
    assert ["train/flower/empty.png", "empty"] in facts["broken"]


def test_data_command_looks_again_after_damage_in_the_store(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known, damages = data_facts.facts, [DamagedEntry("pixels has changed")]

    def facts(setup: Setup) -> DataFacts:
        if damages:
            raise damages.pop()
        return known(setup)

    monkeypatch.setattr(data_facts, "facts", facts)
    assert commands.run("data", ["data=image_folder", f"data.root={folder}", *CHOSEN, "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["counts"]["train"] == [15, 10] and "pixels has changed: computed again" in shown.err


def test_own_config_dir_is_used_and_repeated_in_commands(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(project, "further_configs", [])
    (tmp_path / "own" / "data").mkdir(parents=True)
    (tmp_path / "own" / "data" / "birds.yaml").write_text(f"name: birds\nsource: folder\nroot: {folder}\nflip: true\n")
    assert commands.run("data", ["data=birds", "--json", "--config-dir", str(tmp_path / "own"), *CHOSEN]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["train"] == [15, 10]
    assert f" -m --config-dir={tmp_path}/own data=birds" in command_line.of_sweep({"data": "birds"})
    with pytest.raises(UserError, match=r"^--config-dir=nowhere: expected a folder that exists"):
        commands.run("data", ["data=birds", "--config-dir", "nowhere"])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["data.skip_bad=false"],
            r"data\.root=.*expected images that can all be read, but 2 of .*/empty\.png: empty",
        ),
        (["modle=resnet18"], r"modle=resnet18: expected a key of the config, see --help; did you mean model\?"),
        (["lr=1e-3,1e-4"], r"lr=1e-3,1e-4: expected one value, for one run"),
        (["--page", "no/such/folder.html"], r"--page=no/such/folder\.html: expected a file in a folder that exists"),
        (["--write-splits", "s.txt"], r"--write-splits=s\.txt: expected a \.csv file"),
        (
            ["--write-splits", "splits.csv"],
            r"--write-splits=splits\.csv: expected a file in .* exists, not a folder itself",
        ),
        (["--json", "--page", "x.html"], r"argument --page: not allowed with argument --json"),
    ],
)
def test_user_mistake_is_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], line: str
) -> None:
    (tmp_path / "splits.csv").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=line) as mistake:
        commands.run("data", ["data=image_folder", f"data.root={folder}", *CHOSEN, *arguments])
    assert "\n" not in str(mistake.value)


def test_unwritable_page_names_its_flag(tmp_path):
    for number in range(12):
        (tmp_path / "set" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "set" / "ab"[number % 2] / f"{number}.png")
    typed = ["data=image_folder", f"data.root={tmp_path}/set", f"store.path={tmp_path}/store", "model.image_size=32"]
    with pytest.raises(UserError, match=r"^--page=.*: expected a place .* \(File name too long"):
        data.main([*typed, "--page", str(tmp_path / ("a" * 260))])

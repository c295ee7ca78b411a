"""Splits are stratified, stable and told apart by their fingerprint."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from frostline.core.errors import UserError
from frostline.data import duplicates, loading, sources, splits
from frostline.data.resize import CenterCrop
from frostline.store.store import Store
from small import data_config, load_data, no_progress


def load(**changes: Any) -> splits.Data:
    return load_data(**{"source": "digits", **changes})


def test_tensors_have_the_promised_types_and_shapes():
    found = load()
    assert found.classes == tuple("0123456789")
    for split in (found.train, found.val, found.test):
        assert split.pixels.shape == (len(split), 3, 8, 8) and split.pixels.dtype == torch.uint8
        assert split.sizes.tolist() == [[8, 8]] * len(split) and split.sizes.dtype == torch.int32
        assert split.labels.shape == split.ids.shape == (len(split),)
        assert split.labels.dtype == split.ids.dtype == torch.int64


def test_embedded_digits_are_those_of_scikit_learn():
    original = load_digits()
    for split in (load().train, load().val, load().test):
        expected = (torch.from_numpy(original.images)[split.ids] * 255 / 16).round().to(torch.uint8)
        assert torch.equal(split.pixels[:], expected[:, None].expand(-1, 3, -1, -1))
        assert torch.equal(split.labels, torch.from_numpy(original.target)[split.ids])


def test_they_are_asked_of_scikit_learn_where_its_file_lies_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    pixels, labels = sources._read_digits()
    elsewhere = SimpleNamespace(locate_file=lambda name: tmp_path / name)
    monkeypatch.setattr("importlib.metadata.distribution", lambda name: elsewhere)
    asked = sources._read_digits.__wrapped__()
    assert (asked[0] == pixels).all() and torch.equal(asked[1], labels)


def test_splits_share_no_image_leave_none_out_and_have_the_classes_in_proportion():
    found = load()
    ids = torch.cat([found.train.ids, found.val.ids, found.test.ids])
    assert ids.sort().values.tolist() == list(range(1797))
    whole = torch.from_numpy(load_digits().target).bincount() / 1797
    for split, fraction in ((found.test, 0.2), (found.val, 0.16), (found.train, 0.64)):
        assert len(split) == pytest.approx(1797 * fraction, abs=1)
        assert (split.labels.bincount() - whole * len(split)).abs().max() < 1.5


@pytest.mark.slow
def test_the_split_seed_and_nothing_else_moves_images_between_splits():
    assert load(split_seed=1).test.ids.tolist() != load().test.ids.tolist()
    assert load(limit=50, val_fraction=0.1).test.ids.tolist() == load().test.ids.tolist()


@pytest.fixture(scope="module")
def whole() -> splits.Data:
    return load()


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(limit=st.integers(10, 1200), fraction=st.floats(0.001, 1))
def test_a_smaller_training_split_is_stratified_and_leaves_the_others_whole(
    whole: splits.Data, limit: int, fraction: float
):
    small = load(limit=limit, fraction=fraction)
    assert len(small.train) == min(limit, max(10, round(fraction * len(whole.train))))
    counts = small.train.labels.bincount(minlength=10)
    share = whole.train.labels.bincount() * (len(small.train) / len(whole.train))
    assert counts.min() >= 1 and (counts - share).abs().max() < 2
    rows = torch.searchsorted(whole.train.ids, small.train.ids)
    assert torch.equal(whole.train.ids[rows], small.train.ids)
    assert torch.equal(whole.train.pixels[rows], small.train.pixels[:])
    assert torch.equal(small.val.ids, whole.val.ids) and torch.equal(small.test.pixels[:], whole.test.pixels[:])


def test_growing_the_limit_in_even_steps_only_adds_images():
    few, many = load(limit=100).train, load(limit=400).train
    assert set(few.ids.tolist()) <= set(many.ids.tolist())


def test_validation_and_test_can_be_made_smaller_too_and_are_not_decoded_then(whole: splits.Data):
    few = load(eval_limit=30)
    assert (len(few.train), len(few.val), len(few.test)) == (len(whole.train), 30, 30)
    for name in ("val", "test"):
        one, all_ = getattr(few, name), getattr(whole, name)
        assert set(one.ids.tolist()) < set(all_.ids.tolist()) and one.labels.bincount().min() >= 2
    with pytest.raises(UserError, match=r"data\.eval_limit=9: expected at least 10, one image per class"):
        load(eval_limit=9)


def test_too_few_images_are_answered_with_what_is_needed():
    with pytest.raises(UserError, match=r"data\.limit=9: expected at least 10"):
        load(limit=9)
    with pytest.raises(UserError, match=r"data\.val_fraction=0\.0"):
        load(**{"val_fraction": 0.0})
    with pytest.raises(UserError, match=r"data\.test_fraction=0\.0001"):
        load(**{"test_fraction": 0.0001})


@pytest.mark.slow
def test_what_is_larger_than_its_view_is_kept_as_the_view_and_remembers_its_size():
    found = load(center=CenterCrop(size=6, resize=7, interpolation="bilinear"))
    for split in (found.train, found.val, found.test):
        assert split.centred and split.pixels.shape[-2:] == (6, 6)
        assert split.sizes.unique().tolist() == [8]
    assert not load().train.centred


@pytest.mark.slow
def test_the_fingerprint_follows_the_content():
    fingerprint = load().fingerprint
    assert len(fingerprint) == 64
    others = [load(**change).fingerprint for change in ({"split_seed": 1}, {"limit": 20})]
    assert len({fingerprint, *others}) == 3
    assert load(center=CenterCrop(size=6, resize=7, interpolation="bicubic")).fingerprint == fingerprint
    assert load(root="elsewhere").fingerprint == fingerprint


@pytest.mark.slow
def test_a_sweep_that_asks_again_gets_the_same_tensors():
    assert load() is load()
    assert load(limit=20) is not load()


@pytest.mark.slow
def test_glyphs_are_loaded_like_any_other_data():
    options = {"images_per_class": 10, "seed": 0, "size": 8}
    found = load(source="glyphs", options=options)
    assert len(found.classes) == 41
    assert found.train.pixels.shape[1:] == (3, 8, 8)


def test_files_are_compared_once_and_again_when_one_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    looked = list[int]()
    compare = duplicates.of_files
    monkeypatch.setattr(duplicates, "of_files", lambda files: (looked.append(len(files)), compare(files))[1])
    for index in range(20):
        (folder := tmp_path / "data" / "ab"[index % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9), (10 * (index // 4), 0, index % 2)).save(folder / f"{index}.png")  # two of each
    config = data_config(source="folder", root=str(tmp_path / "data"), val_fraction=0.2)

    def ids() -> dict[str, list[int]]:
        store = Store(tmp_path / "store", budget=10**6, say=print)
        return {name: part.ids.tolist() for name, part in loading._divide(config, store, no_progress).items()}

    first = ids()
    assert first == ids() and looked == [20]
    names = sorted((tmp_path / "data").rglob("*.png"))
    for split in first.values():  # both of each are in one split
        numbers = {int(names[index].stem) for index in split}
        assert {number ^ 2 for number in numbers} == numbers
    Image.new("RGB", (9, 9), (255, 0, 0)).save(tmp_path / "data" / "a" / "0.png")
    ids()
    assert looked == [20, 20]

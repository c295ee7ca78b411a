"""Loading data: splits are stratified and stable, and their fingerprint follows their content."""

from __future__ import annotations

import re
from dataclasses import replace
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


def test_tensors_have_the_documented_types_and_shapes():
    found = load()
    assert found.classes == tuple("0123456789")
    for split in (found.train, found.val, found.test):
        assert split.pixels.shape == (len(split), 3, 8, 8) and split.pixels.dtype == torch.uint8
        assert split.sizes.tolist() == [[8, 8]] * len(split) and split.sizes.dtype == torch.int32
        assert split.labels.shape == split.ids.shape == (len(split),)
        assert split.labels.dtype == split.ids.dtype == torch.int64


def test_embedded_digits_are_scikit_learns():
    original = load_digits()
    for split in (load().train, load().val, load().test):
        expected = (torch.from_numpy(original.images)[split.ids] * 255 / 16).round().to(torch.uint8)
        assert torch.equal(split.pixels[:], expected[:, None].expand(-1, 3, -1, -1))
        assert torch.equal(split.labels, torch.from_numpy(original.target)[split.ids])


def test_digits_come_from_scikit_learn_if_file_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    pixels, labels = sources._read_digits()
    elsewhere = SimpleNamespace(locate_file=lambda name: tmp_path / name)
    monkeypatch.setattr("importlib.metadata.distribution", lambda name: elsewhere)
    found = sources._read_digits.__wrapped__()
    assert (found[0] == pixels).all() and torch.equal(found[1], labels)


def test_splits_are_disjoint_complete_and_stratified():
    found = load()
    ids = torch.cat([found.train.ids, found.val.ids, found.test.ids])
    assert ids.sort().values.tolist() == list(range(1797))
    whole = torch.from_numpy(load_digits().target).bincount() / 1797
    for split, fraction in ((found.test, 0.2), (found.val, 0.16), (found.train, 0.64)):
        assert len(split) == pytest.approx(1797 * fraction, abs=1)
        assert (split.labels.bincount() - whole * len(split)).abs().max() < 1.5


@pytest.mark.slow
def test_only_split_seed_changes_the_test_split():
    assert load(split_seed=1).test.ids.tolist() != load().test.ids.tolist()
    assert load(limit=50, val_fraction=0.1).test.ids.tolist() == load().test.ids.tolist()


@pytest.fixture(scope="module")
def whole() -> splits.Data:
    return load()


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(limit=st.integers(10, 1200), fraction=st.floats(0.001, 1))
def test_limited_train_is_stratified_and_other_splits_unchanged(whole: splits.Data, limit: int, fraction: float):
    small = load(limit=limit, fraction=fraction)
    assert len(small.train) == min(limit, max(10, round(fraction * len(whole.train))))
    counts = small.train.labels.bincount(minlength=10)
    share = whole.train.labels.bincount() * (len(small.train) / len(whole.train))
    assert counts.min() >= 1 and (counts - share).abs().max() < 2
    rows = torch.searchsorted(whole.train.ids, small.train.ids)
    assert torch.equal(whole.train.ids[rows], small.train.ids)
    assert torch.equal(whole.train.pixels[rows], small.train.pixels[:])
    assert torch.equal(small.val.ids, whole.val.ids) and torch.equal(small.test.pixels[:], whole.test.pixels[:])


def test_larger_limit_only_adds_images():
    few, many = load(limit=100).train, load(limit=400).train
    assert set(few.ids.tolist()) <= set(many.ids.tolist())


def test_shots_take_as_many_images_of_each_class(whole: splits.Data):
    few, more, all_ = (load(shots=shots).train for shots in (3, 115, 10_000))
    of_each = whole.train.labels.bincount()
    assert few.labels.bincount().tolist() == [3] * 10
    assert torch.equal(more.labels.bincount(), of_each.clamp(max=115)) and of_each.min() < 115 < of_each.max()
    assert set(few.ids.tolist()) < set(more.ids.tolist()) < set(all_.ids.tolist())
    assert torch.equal(all_.ids, whole.train.ids)


@pytest.mark.parametrize("size", [{"shots": 3}, {"limit": 40}, {"fraction": 0.02}])
def test_subset_seed_draws_other_training_images_alone(whole: splits.Data, size: dict[str, Any]):
    usual, same, other = (load(**size, subset_seed=seed) for seed in (None, 0, 1))  # the seed of the splits is 0
    assert torch.equal(usual.train.ids, same.train.ids) and len(other.train) == len(same.train)
    assert usual.train.ids.tolist() != other.train.ids.tolist()
    assert set(other.train.ids.tolist()) < set(whole.train.ids.tolist())
    assert torch.equal(other.val.ids, whole.val.ids) and torch.equal(other.test.ids, whole.test.ids)


def test_eval_limit_shrinks_val_and_test(whole: splits.Data):
    few = load(eval_limit=30)
    assert (len(few.train), len(few.val), len(few.test)) == (len(whole.train), 30, 30)
    for name in ("val", "test"):
        one, all_ = getattr(few, name), getattr(whole, name)
        assert set(one.ids.tolist()) < set(all_.ids.tolist()) and one.labels.bincount().min() >= 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"limit": 9}, "data.limit=9: expected at least 10"),
        ({"eval_limit": 9}, "data.eval_limit=9: expected at least 10, one image per class"),
        ({"val_fraction": 0.0}, "data.val_fraction=0.0"),
        ({"test_fraction": 0.0001}, "data.test_fraction=0.0001"),
    ],
)
def test_too_few_images_are_refused(change: dict[str, Any], message: str):
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        load(**change)


@pytest.mark.slow
def test_large_images_are_stored_at_view_size():
    found = load(center=CenterCrop(size=6, resize=7, interpolation="bilinear"))
    for split in (found.train, found.val, found.test):
        assert split.centred and split.pixels.shape[-2:] == (6, 6)
        assert split.sizes.unique().tolist() == [8]
    assert not load().train.centred


@pytest.mark.slow
def test_fingerprint_of_test_alone_stays_whatever_is_learned_from(whole: splits.Data):
    def of_test(data: splits.Data) -> str:
        return splits.fingerprint([data.test], data.classes)

    small = load(limit=50)
    assert of_test(small) == of_test(whole) and small.fingerprint != whole.fingerprint
    relabelled = replace(whole, test=replace(whole.test, labels=whole.test.labels.flip(0)))
    assert len({of_test(whole), of_test(relabelled), of_test(load(eval_limit=50))}) == 3


def test_fingerprint_depends_on_content_alone():
    fingerprint = load().fingerprint
    assert len(fingerprint) == 64
    others = [load(**change).fingerprint for change in ({"split_seed": 1}, {"limit": 20})]
    assert len({fingerprint, *others}) == 3
    assert load(center=CenterCrop(size=6, resize=7, interpolation="bicubic")).fingerprint == fingerprint
    assert load(root="elsewhere").fingerprint == fingerprint


@pytest.mark.slow
def test_loading_twice_returns_the_same_object():
    assert load() is load()
    assert load(limit=20) is not load()


@pytest.mark.slow
def test_glyphs_are_loaded():
    options = {"images_per_class": 10, "seed": 0, "size": 8}
    found = load(source="glyphs", options=options)
    assert len(found.classes) == 41
    assert found.train.pixels.shape[1:] == (3, 8, 8)


def test_files_are_compared_again_only_after_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    compared = list[int]()
    compare = duplicates.of_files
    monkeypatch.setattr(duplicates, "of_files", lambda files: (compared.append(len(files)), compare(files))[1])
    for index in range(20):
        (folder := tmp_path / "data" / "ab"[index % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9), (10 * (index // 4), 0, index % 2)).save(folder / f"{index}.png")  # two copies of each
    config = data_config(source="folder", root=str(tmp_path / "data"), val_fraction=0.2)

    def ids() -> dict[str, list[int]]:
        store = Store(tmp_path / "store", budget=10**6, say=print)
        return {name: part.ids.tolist() for name, part in loading._divide(config, store, no_progress).items()}

    first = ids()
    assert first == ids() and compared == [20]
    names = sorted((tmp_path / "data").rglob("*.png"))
    for split in first.values():  # both copies are in one split
        numbers = {int(names[index].stem) for index in split}
        assert {number ^ 2 for number in numbers} == numbers
    Image.new("RGB", (9, 9), (255, 0, 0)).save(tmp_path / "data" / "a" / "0.png")
    ids()
    assert compared == [20, 20]

"""Glyphs: reproducible images of letters with the grey levels of the digits."""

from __future__ import annotations

import functools

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from frostline.data import glyphs


@pytest.fixture(scope="module", autouse=True)
def _outlines_once():
    """Compute the outlines, which depend on nothing, once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(glyphs, "_outlines", functools.cache(glyphs._outlines))
        yield


@pytest.mark.slow
def test_pixels_labels_and_letters_agree():
    pixels, labels, letters = glyphs.render(images_per_class=3, seed=0, size=8), glyphs.labels(3), glyphs.LETTERS
    assert pixels.shape == (3 * len(letters), 3, 8, 8) and pixels.dtype == torch.uint8
    assert (pixels == pixels[:, :1]).all()
    assert labels.bincount().tolist() == [3] * len(letters)
    assert len(set(letters)) == len(letters) and all(letter.isalpha() for letter in letters)


@pytest.mark.slow
def test_image_depends_on_seed_and_index_alone(monkeypatch: pytest.MonkeyPatch):
    few, many = (glyphs.render(images_per_class=count, seed=5, size=8) for count in (4, 9))
    assert torch.equal(few, many[: len(few)])
    monkeypatch.setattr(glyphs, "_CHUNK", 7)
    glyphs.render.cache_clear()
    assert torch.equal(few, glyphs.render(images_per_class=4, seed=5, size=8))
    assert not torch.equal(few, glyphs.render(images_per_class=4, seed=6, size=8))


def test_size_sets_the_side():
    assert glyphs.render(images_per_class=1, seed=0, size=20).shape[-2:] == (20, 20)


def test_fonts_have_distinct_outlines_for_all_letters():
    outlines = glyphs._outlines()
    assert len(outlines) > 15
    for face in outlines:
        apart = torch.cdist((face > 0).flatten(1).float(), (face > 0).flatten(1).float(), p=1)
        assert apart.fill_diagonal_(64.0).min() > 30, "a font shows the same box for many missing letters"


def test_grey_levels_and_ink_match_the_digits():
    grey = glyphs.render(images_per_class=20, seed=0, size=8)[:, 0].float()
    digits = (torch.from_numpy(load_digits().images) * 255 / 16).round()
    assert set(grey.unique().tolist()) == set(digits.unique().tolist())
    assert grey.mean() == pytest.approx(digits.mean().item(), rel=0.25)
    assert (grey == 0).float().mean() == pytest.approx((digits == 0).float().mean().item(), abs=0.1)


@pytest.mark.slow
def test_letters_are_distinguishable():
    known, labels = glyphs.render(images_per_class=80, seed=0, size=8), glyphs.labels(80)
    queries, answers = glyphs.render(images_per_class=5, seed=1, size=8), glyphs.labels(5)
    neighbours = KNeighborsClassifier(3).fit(known[:, 0].flatten(1), labels)
    assert neighbours.score(queries[:, 0].flatten(1), answers) > 0.5

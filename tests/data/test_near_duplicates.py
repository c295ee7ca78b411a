"""Near duplicates: found after re-encoding, resizing, lighting and cropping; no false matches."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import imagehash
import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from sklearn.datasets import load_digits, load_sample_images
from test_layouts import load
from torch import Tensor

from frostline.data import glyphs, near_duplicates, perceptual_hash
from frostline.data.near_duplicates import DHASH, PHASH, closest

SIDE = 128


@cache
def photographs() -> list[Image.Image]:
    """Return the two photographs of scikit-learn."""
    return [Image.fromarray(image) for image in load_sample_images().images]


@cache
def parts(side: int = SIDE) -> list[Image.Image]:
    """Return squares of the photographs that share no pixel."""
    return [
        photo.crop((left, top, left + side, top + side))
        for photo in photographs()
        for top in range(0, photo.height - side + 1, side)
        for left in range(0, photo.width - side + 1, side)
    ]


def hashes(images: list[Image.Image]) -> Tensor:
    tensors = (torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images)
    return torch.from_numpy(perceptual_hash.of(torch.stack([perceptual_hash.small(tensor) for tensor in tensors])))


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def resized(image: Image.Image, by: float) -> Image.Image:
    return image.resize((round(image.width * by), round(image.height * by)), Image.Resampling.BICUBIC)


def cut(image: Image.Image, by: float) -> Image.Image:
    width, height = image.size
    return image.crop((round(width * by), round(height * by), round(width * (1 - by)), round(height * (1 - by))))


def lit(image: Image.Image, by: float) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(by)


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    **{f"jpeg {quality}": partial(jpeg, quality=quality) for quality in (60, 75, 95)},
    **{f"resized {by}": partial(resized, by=by) for by in (0.5, 0.75, 1.25, 1.5)},
    **{f"lit {by}": partial(lit, by=by) for by in (0.8, 0.9, 1.1)},
    "cut": partial(cut, by=0.01),
    "all but cut": lambda image: jpeg(resized(lit(image, 1.1), 0.75), 75),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changed_photographs_are_matched(change: Callable[[Image.Image], Image.Image]):
    own = hashes([*photographs(), *parts()])
    found = closest(hashes([change(photo) for photo in photographs()]), own)
    assert found.tolist() == [0, 1]
    matched = closest(hashes([change(part) for part in parts()]), own[2:])
    hashed = own[2:, 0] != perceptual_hash.NONE
    wrong = (matched >= 0) & (matched != torch.arange(len(matched)))
    assert not wrong.any() and (matched >= 0)[hashed].float().mean() >= 0.8


@pytest.mark.parametrize("side", [32, 64, SIDE])
def test_other_parts_of_a_photograph_do_not_match(side: int):
    found = hashes(parts(side))
    assert (found[:, 0] != perceptual_hash.NONE).float().mean() > 0.5
    assert (closest(found[::2], found[1::2]) < 0).all()


@pytest.mark.slow
def test_other_letters_do_not_match():
    drawn = glyphs.render(images_per_class=12, seed=0, size=32).permute(0, 2, 3, 1).numpy()
    found = hashes([Image.fromarray(image) for image in drawn])
    assert (found[:, 0] != perceptual_hash.NONE).all()
    assert (closest(found[::2], found[1::2]) < 0).all()


def test_small_and_flat_images_get_no_hash():
    digits = np.repeat(load_digits().images[:20, :, :, None] * 15, 3, axis=3).astype(np.uint8)
    small = [Image.fromarray(image) for image in digits]
    grain = np.random.default_rng(0).integers(120, 136, (5, 90, 90, 3), dtype=np.uint8)
    flat = [Image.new("RGB", (90, 90), "white"), *(Image.fromarray(image) for image in grain)]
    found = hashes([*small, *flat, resized(photographs()[0], 31 / 427)])
    assert (found == perceptual_hash.NONE).all()
    assert (closest(found, found) == -1).all()


def test_hashes_agree_with_imagehash():
    """imagehash resizes in one step with another filter, which flips bits of nearly equal levels."""
    for image, (phash, dhash) in zip(photographs(), hashes(photographs()), strict=True):
        for own, other in ((phash, imagehash.phash(image)), (dhash, imagehash.dhash(image))):
            bits = np.unpackbits(own.numpy().reshape(1).view(np.uint8))
            assert (bits != other.hash.ravel()).sum() <= 5


def test_closest_equals_exhaustive_comparison(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(near_duplicates, "_AT_ONCE", 50)
    rng = np.random.default_rng(0)
    others = rng.integers(-(2**63), 2**63 - 1, (300, 2))
    flips = [[rng.choice(64, rng.integers(0, most + 3), replace=False) for most in (PHASH, DHASH)] for _ in range(200)]
    flipped = np.array([[np.bitwise_or.reduce(1 << bits, initial=0) for bits in pair] for pair in flips])
    hashes = others[rng.integers(0, 300, 200)] ^ flipped
    apart = np.bitwise_count((hashes[:, None] ^ others[None]).view(np.uint64)).astype(int)
    near = (apart <= (PHASH, DHASH)).all(2)
    expected = np.where(near.any(1), np.where(near, apart.sum(2), 999).argmin(1), -1)
    assert closest(torch.from_numpy(hashes), torch.from_numpy(others)).tolist() == expected.tolist()
    assert 50 < (expected >= 0).sum() < 150
    nothing = torch.empty(0, 2, dtype=torch.int64)
    assert closest(nothing, torch.from_numpy(others)).shape == (0,)
    assert (closest(torch.from_numpy(hashes), nothing) == -1).all()


def test_near_duplicates_across_splits_are_reported(tmp_path: Path):
    places = [f"{split}/{name}" for split in ("train", "val", "test") for name in "ab"]
    pieces = [part for part, (phash, _) in zip(parts(), hashes(parts()), strict=True) if phash != perceptual_hash.NONE]
    for number, piece in enumerate(pieces[:24]):
        place = tmp_path / places[number % 6]
        place.mkdir(parents=True, exist_ok=True)
        piece.save(place / f"{number}.png")
    pieces[0].save(tmp_path / "test" / "b" / "same.bmp")  # equal pixels are another finding
    jpeg(resized(pieces[0], 1.25), 75).save(tmp_path / "test" / "a" / "again.jpg")
    cut(pieces[1], 0.01).save(tmp_path / "val" / "b" / "cut.png")
    reported = {found.about.partition(":")[0]: found for found in load(tmp_path).findings if "nearly" in found.about}
    assert set(reported) == {
        "1 of 10 images in test looks nearly like one in train (test/a/again.jpg ~ train/a/0.png)",
        "1 of 9 images in val looks nearly like one in train (val/b/cut.png ~ train/b/1.png)",
    }
    assert not any(found.alarming for found in reported.values())

"""ICC profiles: images are converted to sRGB."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

import profiles
from frostline.data import decode_image, icc, open_image
from frostline.data.decode_image import CONVERSIONS, convert, tensor_of
from small import as_rgb

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
WIDE = {name: profiles.rgb(*getattr(profiles, name)) for name in ("ADOBE_RGB", "DISPLAY_P3", "PROPHOTO")}


def noise(channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 30, channels), dtype=np.uint8).squeeze()


def reference(image: Image.Image, profile: bytes) -> np.ndarray:
    """Return the image as ImageCms converts it, called as its manual says."""
    target = ImageCms.createProfile("sRGB")
    return np.asarray(ImageCms.profileToProfile(image, BytesIO(profile), target, outputMode="RGB"))


def steps(done: int) -> set[str]:
    return {name for i, name in enumerate(CONVERSIONS) if done >> i & 1}


@pytest.mark.parametrize("name", WIDE)
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_wide_gamut_images_agree_with_image_cms(tmp_path: Path, name: str, suffix: str):
    Image.fromarray(noise()).save(file := tmp_path / f"a.{suffix}", icc_profile=WIDE[name], lossless=True)
    with open_image.open_image(file) as opened, Image.open(file) as known:
        found, facts = tensor_of(opened)
        before, expected = np.asarray(known), reference(known, WIDE[name])
    assert (found.permute(1, 2, 0).numpy() == expected).all() and steps(facts.done) == {"profile"}
    assert np.abs(expected.astype(int) - before).max() > 20


def test_adobe_rgb_agrees_with_its_definition():
    primaries, gamma = profiles.ADOBE_RGB
    image = Image.new("RGB", (2, 2), (120, 160, 90))
    image.info["icc_profile"] = WIDE["ADOBE_RGB"]
    xyz = np.array(primaries).T @ (np.array([120, 160, 90]) / 255) ** gamma
    to_srgb = np.linalg.inv([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
    linear = to_srgb @ xyz
    expected = 255 * (1.055 * linear ** (1 / 2.4) - 0.055)
    assert as_rgb(image).getpixel((0, 0)) == pytest.approx(tuple(expected), abs=1.5)


def test_srgb_jpeg_takes_the_fast_path_unchanged(tmp_path: Path):
    for name, options in (("a", {}), ("b", {"icc_profile": SRGB})):
        Image.fromarray(noise()).save(tmp_path / f"{name}.jpg", **options)
    with Image.open(tmp_path / "a.jpg") as without, Image.open(tmp_path / "b.jpg") as opened:
        assert decode_image._plain_jpeg(opened) is not None
        found, facts = tensor_of(opened)
        assert (found.permute(1, 2, 0).numpy() == np.asarray(without)).all() and not facts.done
        assert (np.asarray(as_rgb(opened)) == np.asarray(without)).all()


def test_grey_images_stay_grey_with_any_profile():
    image = Image.fromarray(noise(1))
    for profile, changed in ((profiles.grey(1.0), True), (WIDE["PROPHOTO"], True), (SRGB, False)):
        image.info["icc_profile"] = profile
        converted, facts = convert(image)
        found = np.asarray(converted).astype(int)
        colour = image if profile == profiles.grey(1.0) else image.convert("RGB")
        assert np.abs(found - reference(colour, profile)).max() <= 1
        assert steps(facts.done) == ({"grayscale", "profile"} if changed else {"grayscale"})
        assert np.ptp(found, axis=-1).max() <= 1


def test_cmyk_and_cielab_become_rgb():
    image = Image.fromarray(noise(4), "CMYK")
    image.info["icc_profile"] = profiles.ink()
    converted, facts = convert(image)
    assert (np.asarray(converted) == reference(image, profiles.ink())).all() and steps(facts.done) == {
        "cmyk",
        "profile",
    }
    lab = Image.new("LAB", (2, 2), (255, 128, 128))
    assert as_rgb(lab).getpixel((0, 0)) == pytest.approx((255, 255, 255), abs=1)


def test_transparency_survives_a_profile():
    image = Image.fromarray(noise(4))
    image.info["icc_profile"] = WIDE["ADOBE_RGB"]
    converted, facts = convert(image)
    colours = Image.fromarray(reference(image.convert("RGB"), WIDE["ADOBE_RGB"]))
    colours.putalpha(image.getchannel("A"))
    expected = Image.alpha_composite(Image.new("RGBA", image.size, "white"), colours).convert("RGB")
    assert (np.asarray(converted) == np.asarray(expected)).all() and steps(facts.done) == {
        "alpha",
        "profile",
    }


@pytest.mark.parametrize(
    "profile",
    [b"no profile", SRGB[:200], profiles.grey(2.2), profiles.ink()],
    ids=["garbage", "truncated", "grey", "cmyk"],  # not the bytes, which hold a time
)
def test_unusable_profiles_are_ignored_and_counted(tmp_path: Path, profile: bytes):
    Image.fromarray(noise()).save(tmp_path / "a.jpg", icc_profile=profile)
    with Image.open(tmp_path / "a.jpg") as opened, Image.open(tmp_path / "a.jpg") as known:
        found, facts = tensor_of(opened)
        assert (found.permute(1, 2, 0).numpy() == np.asarray(known)).all() and steps(facts.done) == {"bad_profile"}


def test_threads_share_one_transform():
    icc._transform.cache_clear()
    images = []
    for seed in range(16):
        shades = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        image = Image.fromarray(shades)
        image.info["icc_profile"] = bytes(bytearray(WIDE["DISPLAY_P3"]))
        images.append(image)
    as_rgb(images[0])
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(as_rgb, images * 4))
    assert icc._transform.cache_info().misses == 1
    expected = [reference(image, WIDE["DISPLAY_P3"]) for image in images] * 4
    assert all((np.asarray(one) == other).all() for one, other in zip(found, expected, strict=True))

"""Every picture becomes upright 8-bit RGB, whatever its file says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from frostline.config import UserError
from frostline.pixels import SUFFIXES, decode, list_images, read_image, stack

RED = (250, 20, 10)


def corner(image: Image.Image) -> tuple[int, ...]:
    return decode(image).getpixel((0, 0))


def test_grey_palette_and_cmyk_become_rgb():
    assert corner(Image.new("L", (4, 4), 77)) == (77, 77, 77)
    assert corner(Image.new("RGB", (4, 4), RED).convert("P", palette=Image.Palette.ADAPTIVE)) == RED
    assert corner(Image.new("CMYK", (4, 4), (0, 255, 255, 0))) == (255, 0, 0)
    assert corner(Image.new("1", (4, 4), 1)) == (255, 255, 255)


def test_what_is_transparent_lies_on_white():
    assert corner(Image.new("RGBA", (4, 4), (*RED, 0))) == (255, 255, 255)
    assert corner(Image.new("RGBA", (4, 4), (*RED, 255))) == RED
    assert corner(Image.new("LA", (4, 4), (0, 128))) == (127, 127, 127)
    palette = Image.new("P", (4, 4), 0)
    palette.info["transparency"] = 0
    assert corner(palette) == (255, 255, 255)


@pytest.mark.parametrize("value, grey", [(0, 0), (0x8000, 128), (0xFFFF, 255)])
def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path, value: int, grey: int):
    file = tmp_path / "deep.png"
    Image.fromarray(np.full((4, 4), value, dtype=np.uint16)).save(file)
    assert read_image(file).getpixel((0, 0)) == (grey, grey, grey)


def test_a_picture_taken_sideways_is_turned_upright(tmp_path: Path):
    file, image = tmp_path / "sideways.png", Image.new("RGB", (6, 4), "white")
    image.putpixel((0, 0), RED)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it upright
    image.save(file, exif=exif)
    upright = read_image(file)
    assert upright.size == (4, 6)
    assert upright.getpixel((3, 0)) == RED


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".JPG", ".Png"])
def test_every_listed_suffix_can_be_read(tmp_path: Path, suffix: str):
    Image.new("RGB", (16, 16), RED).save(tmp_path / f"picture{suffix}")
    (file,) = list_images(tmp_path)
    assert read_image(file).getpixel((8, 8)) == pytest.approx(RED, abs=12)


def test_hidden_and_other_files_are_left_out(tmp_path: Path):
    for name in ("b.png", "deep/a.png", "._b.png", ".hidden/c.png", "notes.txt"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        Image.new("RGB", (2, 2)).save(file, format="PNG")
    assert [file.name for file in list_images(tmp_path)] == ["b.png", "a.png"]


@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_an_unreadable_file_is_named(tmp_path: Path, content: bytes | None):
    file = tmp_path / "broken.png"
    if content is None:  # cut off in the middle
        noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(file)
        content = file.read_bytes()[:5000]
    file.write_bytes(content)
    with pytest.raises(OSError, match=r"broken\.png"):
        read_image(file)


def test_pictures_are_squashed_to_one_size_and_their_own_is_remembered():
    images = [Image.new("RGB", size, RED) for size in ((4, 8), (30, 20), (6, 6))]
    pixels, sizes = stack(3, images.__getitem__, 6)
    assert pixels.shape == (3, 3, 6, 6) and pixels.dtype == torch.uint8 and pixels.is_contiguous()
    assert (pixels == torch.tensor(RED).view(3, 1, 1)).all()
    assert sizes.tolist() == [[4, 8], [30, 20], [6, 6]] and sizes.dtype == torch.int32


def test_squashing_averages_rather_than_picks():
    stripes = Image.fromarray(np.tile(np.array([[0, 255]], dtype=np.uint8), (32, 16)))
    pixels, _ = stack(1, lambda _: decode(stripes), 8)
    assert pixels[..., 1:-1].float().mean() == pytest.approx(127.5, abs=3)
    assert pixels.max() < 180


def test_one_common_size_is_kept_pixel_by_pixel_and_differing_ones_ask_for_decode_size():
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 255, (5, 7, 3), dtype=np.uint8) for _ in range(9)]
    pixels, _ = stack(9, lambda index: Image.fromarray(arrays[index]), None)
    assert (pixels.permute(0, 2, 3, 1).numpy() == np.stack(arrays)).all()
    odd = [Image.new("RGB", (5, 7)), Image.new("RGB", (7, 5))]
    with pytest.raises(UserError, match=r"data\.decode_size=null.*5x7, 7x5"):
        stack(2, odd.__getitem__, None)

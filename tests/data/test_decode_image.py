"""Decoding: every image becomes upright 8-bit RGB."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from frostline.data import decode_image
from frostline.data.bit_depth import Levels
from frostline.data.decode_image import CONVERSIONS, ImageFacts, convert, tensor_of
from frostline.data.image_formats import SUFFIXES
from frostline.data.listing import survey
from frostline.data.open_image import at_most, open_image
from small import as_rgb, image_in

RED = (250, 20, 10)


def corner(image: Image.Image) -> tuple[int, ...]:
    return as_rgb(image).getpixel((0, 0))


def test_grey_palette_and_cmyk_become_rgb():
    assert corner(Image.new("L", (4, 4), 77)) == (77, 77, 77)
    assert corner(Image.new("RGB", (4, 4), RED).convert("P", palette=Image.Palette.ADAPTIVE)) == RED
    assert corner(Image.new("CMYK", (4, 4), (0, 255, 255, 0))) == (255, 0, 0)
    assert corner(Image.new("1", (4, 4), 1)) == (255, 255, 255)


def test_transparent_pixels_become_white():
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
    assert image_in(file).getpixel((0, 0)) == (grey, grey, grey)


def test_sideways_image_is_turned_upright(tmp_path: Path):
    file, image = tmp_path / "sideways.png", Image.new("RGB", (6, 4), "white")
    image.putpixel((0, 0), RED)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise
    image.save(file, exif=exif)
    upright = image_in(file)
    assert upright.size == (4, 6)
    assert upright.getpixel((3, 0)) == RED


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_every_exif_orientation_is_applied(tmp_path: Path, orientation: int, suffix: str):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    across = pixels.transpose(1, 0, 2)
    upright = (
        *(pixels, pixels[:, ::-1], pixels[::-1, ::-1], pixels[::-1]),
        *(across, across[:, ::-1], across[::-1, ::-1], across[::-1]),
    )[orientation - 1]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / f"a{suffix}", exif=exif, lossless=True)
    assert (np.asarray(image_in(tmp_path / f"a{suffix}")) == upright).all()


@pytest.mark.parametrize("kind, content", [(2, b"abc\0"), (7, b"\0\6\0\0"), (3, b"\0\0\0\0"), (3, b"\0\x99\0\0")])
def test_invalid_orientation_is_ignored(tmp_path: Path, kind: int, content: bytes):
    Image.new("RGB", (6, 4), RED).save(file := tmp_path / "a.jpg")
    entry = struct.pack(">HHHI", 1, 0x0112, kind, 4 if kind != 3 else 1) + content + bytes(4)
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + entry
    plain = file.read_bytes()
    file.write_bytes(plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:])
    assert image_in(file).size == (6, 4)


def test_transparent_shade_of_16_bits_becomes_white(tmp_path: Path):
    values = np.array([[1000, 40000], [1234, 1000]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png", transparency=1000)
    assert np.asarray(image_in(tmp_path / "a.png"))[..., 0].tolist() == [[255, 156], [5, 255]]


@pytest.mark.parametrize("kind, reason", [(np.float32, "floating point"), (np.int32, "more than 16 bits")])
def test_values_of_unknown_range_are_refused(tmp_path: Path, kind: type, reason: str):
    Image.fromarray(np.full((4, 4), 70_000, dtype=kind)).save(tmp_path / "a.tif")
    with pytest.raises(OSError, match=reason):
        image_in(tmp_path / "a.tif")


def depths(folder: Path, values: np.ndarray) -> list[Path]:
    """Return files of `values`, 0..4095, in every grey format that keeps them."""
    for name, kind in (("a.png", np.uint16), ("b.tif", np.uint16), ("c.tif", np.int32), ("d.tif", np.float32)):
        Image.fromarray(values.astype(kind)).save(folder / name)
    (folder / "e.pgm").write_bytes(b"P5 %d %d 65535\n" % values.shape[::-1] + values.astype(">u2").tobytes())
    return sorted(folder.iterdir())


@pytest.mark.parametrize("levels", [Levels(0, 4095), Levels(0, 100, of_image=True)], ids=["fixed", "minmax"])
def test_levels_scale_12_bits_in_every_grey_format(tmp_path: Path, levels: Levels):
    values = np.arange(4096).reshape(64, 64)
    for file in depths(tmp_path, values):
        with Image.open(file) as opened:
            shown, facts = tensor_of(opened, levels)
        assert (shown.numpy() == np.rint(values / 4095 * 255)).all(), file
        assert (facts.lowest, facts.highest) == (0, 4095), file
        if file.name != "d.tif":
            assert len(np.unique(image_in(file))) == 17  # scaled by the range of the type


def test_levels_do_not_change_8_bit_images():
    grey, levels = np.arange(256, dtype=np.uint8).reshape(16, 16), Levels(100, 101)
    for image in (Image.fromarray(grey), Image.fromarray(np.dstack([grey] * 3))):
        converted, facts = convert(image, levels)
        assert (np.asarray(converted) == grey[..., None]).all() and np.isnan([facts.lowest, facts.highest]).all()


def test_rgb_of_16_bits_is_reduced_and_counted(tmp_path: Path):
    body = struct.pack(">6H", 0x1234, 0xABFF, 0xFFFF, 0, 0x00FF, 0x8000)
    chunks = [
        (b"IHDR", struct.pack(">2I5B", 2, 1, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0" + body)),
        (b"IEND", b""),
    ]
    coded = [struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(coded))
    with Image.open(tmp_path / "a.png") as opened:
        pixels, facts = tensor_of(opened, Levels(0, 100))
    assert pixels.permute(1, 2, 0).tolist() == [[[0x12, 0xAB, 0xFF], [0, 0, 0x80]]]
    assert facts.done == 1 << CONVERSIONS.index("sixteen_bits") | 1 << CONVERSIONS.index("deep_colours")


def test_tiff_with_white_as_zero_is_inverted(tmp_path: Path):
    values = np.array([[0, 65535], [257, 1000]], dtype=np.uint16)
    Image.fromarray(values).save(file := tmp_path / "a.tif")
    content = file.read_bytes()
    entry = struct.pack("<HHIH", 262, 3, 1, 1)
    assert content.count(entry) == 1
    file.write_bytes(content.replace(entry, struct.pack("<HHIH", 262, 3, 1, 0)))
    assert np.asarray(image_in(file))[..., 0].tolist() == [[255, 0], [254, 251]]


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_zero_filled_files_are_refused(tmp_path: Path, suffix: str):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file := tmp_path / f"a{suffix}")
    content = file.read_bytes()
    for kept in (0.5, 0.8, 0.99):
        file.write_bytes(content[: round(kept * len(content))].ljust(len(content), b"\0"))
        with pytest.raises(OSError, match=f"a{suffix}"):
            image_in(file)
    file.write_bytes(content + bytes(100))  # bytes after the image do not matter
    assert image_in(file).size == (64, 64)


def test_damaged_png_bits_are_detected(tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 255, (5, 5, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file := tmp_path / "a.png")
    content = file.read_bytes()
    for place in range(len(content) - 12):  # without the last chunk, which is empty
        file.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        with pytest.raises(OSError, match=r"a\.png"):
            image_in(file)


def test_postscript_never_runs_ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def run(*_: object, **__: object) -> None:
        raise AssertionError("Ghostscript")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", run)
    (tmp_path / "a.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(OSError, match="PostScript"):
        image_in(tmp_path / "a.jpg")


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".JPG", ".Png"])
def test_every_listed_suffix_can_be_read(tmp_path: Path, suffix: str):
    Image.new("RGB", (16, 16), RED).save(tmp_path / f"image{suffix}")  # .pgm and .pfm files have the content of a .ppm
    (file,) = survey(tmp_path).files
    assert image_in(file).getpixel((8, 8)) == pytest.approx(RED, abs=12)


def test_hidden_and_other_files_are_skipped(tmp_path: Path):
    for name in ("b.png", "deep/a.png", "._b.png", ".hidden/c.png", "__MACOSX/d.png", "notes.txt"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        Image.new("RGB", (2, 2)).save(file, format="PNG")
    assert [file.name for file in survey(tmp_path).files] == ["b.png", "a.png"]


def jpeg(path: Path, mode: str = "RGB", **options: object) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, len(mode)), dtype=np.uint8)
    Image.fromarray(pixels.squeeze(), mode if mode != "L" else None).resize((61, 47)).save(path, **options)
    return path


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 30, "optimize": True}], ids=str
)
def test_plain_jpeg_equals_pillow(tmp_path: Path, options: dict[str, object]):
    file = jpeg(tmp_path / "plain.jpg", **options)
    with Image.open(file) as opened, Image.open(file) as known:
        assert decode_image._plain_jpeg(opened) is not None
        found, facts = tensor_of(opened)
        assert np.array_equal(found.permute(1, 2, 0), np.asarray(known)) and repr(facts) == repr(ImageFacts())  # nan


@pytest.mark.parametrize("mode, done", [("L", "grayscale"), ("CMYK", "cmyk"), ("RGB", "upright")])
def test_other_jpegs_are_converted_by_pillow(tmp_path: Path, mode: str, done: str):
    exif = Image.Exif()
    exif[0x0112] = 6
    file = jpeg(tmp_path / "odd.jpg", mode, **({"exif": exif} if done == "upright" else {}))
    with Image.open(file) as opened:
        found, facts = tensor_of(opened)
    with open_image(file) as opened:
        assert np.array_equal(found.permute(1, 2, 0), np.asarray(as_rgb(opened)))
    assert facts.done == 1 << CONVERSIONS.index(done)


def test_truncated_jpeg_is_refused(tmp_path: Path):
    file = jpeg(tmp_path / "short.jpg")
    file.write_bytes(file.read_bytes()[:-200])
    with Image.open(file) as opened, pytest.raises(OSError, match="truncated"):
        tensor_of(opened)


def test_pixel_limit_and_warnings_are_restored():
    """Threads overlap here: restoring what each had found would keep the other's settings."""
    limit, filters = Image.MAX_IMAGE_PIXELS, warnings.filters
    first, second = at_most(100), at_most(200)
    with first:
        second.__enter__()
    assert Image.MAX_IMAGE_PIXELS == 100  # half of 200: Pillow refuses twice as many
    second.__exit__(None, None, None)
    assert limit == Image.MAX_IMAGE_PIXELS and warnings.filters is filters

"""Image formats: which are read, and what installs support for the others."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frostline.data import image_formats
from frostline.data.image_formats import FORMATS, SUFFIXES, candidates, readable_with
from frostline.data.listing import survey
from frostline.data.open_image import open_image
from small import as_rgb, image_in

NOISE = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
NEED = "pillow-heif (pip install 'frostline[formats]')"


def test_only_image_formats_are_candidates():
    Image.init()
    assert set(FORMATS) - {"MPO"} <= set(Image.OPEN)
    assert not {"PDF", "WMF", "HDF5", "GRIB", "BUFR", "FITS", "MPEG", "PSD"} & set(candidates(Path("x")))
    assert not {".eps", ".ps", ".pdf", ".wmf", ".emf", ".h5", ".fit"} & set(SUFFIXES)


def test_tga_is_recognised_by_suffix_only(tmp_path: Path):
    Image.fromarray(NOISE).save(data := io.BytesIO(), format="TGA")
    for name in ("a.tga", "a.jpg"):
        (tmp_path / name).write_bytes(data.getvalue())
    assert (np.asarray(image_in(tmp_path / "a.tga")) == NOISE).all()
    with pytest.raises(OSError, match="not an image"):
        image_in(tmp_path / "a.jpg")


@pytest.mark.parametrize("suffix", [".ppm", ".pnm", ".tga", ".qoi", ".sgi", ".pcx", ".dib", ".apng"])
def test_lossless_formats_return_every_pixel(tmp_path: Path, suffix: str):
    Image.fromarray(NOISE).save(tmp_path / f"a{suffix}")
    (file,) = survey(tmp_path).files
    assert (np.asarray(image_in(file)) == NOISE).all()


def test_unreadable_suffix_names_the_package_to_install(monkeypatch: pytest.MonkeyPatch):
    assert readable_with(".JPG") is None and readable_with(".txt") is None and readable_with("") is None
    assert "conversion" in str(readable_with(".nef")) and "conversion" in str(readable_with(".PDF"))
    monkeypatch.setattr(image_formats, "find_spec", lambda module: None)
    without = image_formats._register()
    monkeypatch.setattr(image_formats, "SUFFIXES", tuple(s for suffixes in without.values() for s in suffixes))
    assert readable_with(".HEIC") == NEED and "pillow-jxl-plugin" in str(readable_with(".jxl"))


@pytest.mark.parametrize("suffix, module", [(".heic", "pillow_heif"), (".jxl", "pillow_jxl")])
def test_plugin_formats_are_read_and_rotated_once(tmp_path: Path, suffix: str, module: str):
    pytest.importorskip(module)
    smooth = Image.fromarray(NOISE[:2, :3]).resize((48, 32), Image.Resampling.BICUBIC)
    smooth.save(tmp_path / f"a{suffix}", quality=95)
    (file,) = survey(tmp_path).files
    assert np.abs(np.asarray(image_in(file)).astype(int) - np.asarray(smooth)).mean() < 8
    exif = Image.Exif()
    exif[0x0112] = 6
    smooth.save(tmp_path / f"turned{suffix}", quality=95, exif=exif.tobytes())
    with open_image(tmp_path / f"turned{suffix}") as opened:
        stored = opened.size
        assert as_rgb(opened).size == stored  # the file itself says how it is turned, its EXIF no more

"""The data index recognises unchanged data and notices every change."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from frostline.sweeps import data_index
from small import SMALL, compose


@pytest.fixture
def images(tmp_path):
    for name in ("a/0.png", "a/1.png", "b/0.png"):
        (file := tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(name.encode())
    return tmp_path / "images"


@pytest.fixture
def config(images):
    return compose(*SMALL, "data=image_folder", f"data.root={images}")


def test_same_files_are_the_same_data(config, tmp_path):
    data_index.write(tmp_path, data_index.index([config, config]))
    assert data_index.is_same(tmp_path, data_index.index([config]))
    data_index.write(tmp_path, None)
    assert not data_index.is_same(tmp_path, data_index.index([config]))


def test_files_are_indexed_beside_embedded_data(config, images):
    both = [replace(config, data=replace(config.data, source="digits")), config]
    before = data_index.index(both)
    (images / "a" / "2.png").write_bytes(b"new")
    assert data_index.index(both) != before


def _replace(file):
    before = file.stat()
    file.write_bytes(file.read_bytes()[::-1])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # as some copying programs do


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: _replace(folder / "a/0.png"),
        lambda folder: (folder / "a/2.png").write_bytes(b"x"),
        lambda folder: (folder / "a/0.png").unlink(),
        lambda folder: (folder / "a/0.png").rename(folder / "b/1.png"),
        lambda folder: (folder / "b").rename(folder / "c"),
    ],
)
def test_changed_files_change_the_index(config, images, change):
    before = data_index.index([config])
    change(images)
    assert before is not None and data_index.index([config]) != before


def test_data_with_too_many_files_has_no_index(config):
    assert data_index.index([config], 3) == data_index.index([config]) is not None
    assert data_index.index([config], 2) is None


def test_data_with_unknown_files_has_no_index(config, images, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (images / "c").symlink_to(tmp_path / "elsewhere")
    assert data_index.index([config]) is None
    assert data_index.index([replace(config, data=replace(config.data, source="table"))]) is None


def test_index_of_embedded_data_has_package_versions(monkeypatch):
    before = data_index.index([compose(*SMALL)])
    monkeypatch.setattr(data_index, "version", lambda package: "0")
    assert before is not None and data_index.index([compose(*SMALL)]) != before

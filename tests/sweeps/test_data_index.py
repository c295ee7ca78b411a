"""Data that changed are never taken for the same, and nothing is told of what lies elsewhere."""

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


def test_the_same_files_are_the_same_data(config, tmp_path):
    data_index.write(tmp_path, data_index.index([config, config]))
    assert data_index.is_same(tmp_path, data_index.index([config]))
    data_index.write(tmp_path, None)
    assert not data_index.is_same(tmp_path, data_index.index([config]))


def test_files_are_looked_at_also_where_embedded_data_have_the_same_root(config, images):
    both = [replace(config, data=replace(config.data, source="digits")), config]
    before = data_index.index(both)
    (images / "a" / "2.png").write_bytes(b"new")
    assert data_index.index(both) != before


def _replaced(file):
    before = file.stat()
    file.write_bytes(file.read_bytes()[::-1])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # as some programs that copy do


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: _replaced(folder / "a/0.png"),
        lambda folder: (folder / "a/2.png").write_bytes(b"x"),
        lambda folder: (folder / "a/0.png").unlink(),
        lambda folder: (folder / "a/0.png").rename(folder / "b/1.png"),
        lambda folder: (folder / "b").rename(folder / "c"),
    ],
)
def test_a_change_is_noticed(config, images, change):
    before = data_index.index([config])
    change(images)
    assert before is not None and data_index.index([config]) != before


def test_nothing_is_told_of_data_whose_files_are_not_all_known(config, images, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (images / "c").symlink_to(tmp_path / "elsewhere")
    assert data_index.index([config]) is None
    assert data_index.index([replace(config, data=replace(config.data, source="table"))]) is None


def test_embedded_images_are_those_of_the_packages_that_carry_them(monkeypatch):
    before = data_index.index([compose(*SMALL)])
    monkeypatch.setattr(data_index, "version", lambda package: "0")
    assert before is not None and data_index.index([compose(*SMALL)]) != before

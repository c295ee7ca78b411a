"""What a sweep needs is there before it, and a sweep finds it: the same weights, the same entries of the store."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from frostline.commands import prepare
from frostline.core.errors import UserError
from frostline.data import loading
from frostline.models import build, weights
from frostline.runs import checks, run_data
from frostline.sweeps import preparation


@pytest.fixture
def images(tmp_path, monkeypatch):
    """Return a folder of images of two classes; nothing that is prepared of them was before."""
    monkeypatch.setenv("FROSTLINE_STORE", str(tmp_path / "store"))
    for place in (tmp_path / "images" / name for name in ("dark", "light")):
        place.mkdir(parents=True)
        for number in range(20):
            shade = 5 * number + 150 * (place.name == "light")
            Image.new("RGB", (40 + number, 48), (shade, number, 0)).save(place / f"{number}.png")
    return f"data.root={tmp_path / 'images'}"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Let torch's hub, in a folder of its own, download a network without values; returns what was asked for."""
    asked: list[str] = []

    def download(url: str, path: str, *_: object, **__: object) -> None:
        asked.append(url)
        network = build.build("resnet18", weights=None, num_classes=1000, seed=0)
        torch.save(network.module.state_dict(), path)

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    monkeypatch.setattr(weights.hashing, "of_source", lambda path: "f37072fd" + 56 * "0")
    return asked


def said(capsys, *overrides: str) -> list[str]:
    """Return what the command prints, beside notes, in a process that has looked at no data yet."""
    loading._last.clear()
    assert prepare.main([*overrides]) == 0
    return [line for line in capsys.readouterr().out.splitlines() if not line.startswith("  note")]


@pytest.mark.slow
def test_a_line_says_of_each_thing_whether_it_was_prepared_or_there_and_a_sweep_finds_it(images, hub, capsys, tmp_path):
    asked = ("-m", "model=resnet18", "freeze=head,full", "lr=1e-2,1e-3", "data=image_folder", images)
    first, second = said(capsys, *asked, "device=cuda", "devices=2"), said(capsys, *asked)
    assert len(hub) == 1 and (tmp_path / "hub" / "checkpoints" / hub[0].rpartition("/")[2]).is_file()
    assert first[0].startswith("prepared: weights DEFAULT of resnet18 (torchvision), 46")
    assert [line.partition(":")[0] for line in first] == ["prepared"] * 4 + ["checked"]
    assert sorted(second) == sorted(line.replace("prepared: ", "found: ") for line in first)  # by a clock that ticks
    assert first[-1] == "checked: 4 runs can start"
    for line in first[:-1]:
        assert Path(line.rpartition(", ")[2]).exists()
    runs = preparation.planned([one for one in asked if one != "-m"])
    there = {item.place for item in run_data.store_of(runs[0].config, print).items()}
    assert len(there) == 3
    for run in runs:
        checks.check(run.config)  # as the sweep's first job does
    assert {item.place for item in run_data.store_of(runs[0].config, print).items()} == there


def test_what_the_store_cannot_keep_is_not_prepared(images, capsys, tmp_path):
    (tmp_path / "store").write_text("no folder")
    loading._last.clear()
    assert prepare.main(["data=image_folder", images]) == 1
    out, err = capsys.readouterr()
    assert "checked: 1 run can start" in out
    assert (
        f"not prepared, since the store cannot keep it: identical files among 40 images in {tmp_path / 'images'}" in err
    )


def test_a_search_is_prepared_for_by_its_cells(images, capsys):
    ranges = ("search=tpe", "trials=9", "lr=interval(1e-5,1)", "freeze=head,full")
    assert said(capsys, *ranges, "data=image_folder", images)[-1] == "checked: 2 runs can start"


def test_what_a_sweep_refuses_is_refused_and_weights_that_cannot_be_fetched_are_one_line(images, hub, tmp_path):
    with pytest.raises(UserError, match=r"^data\.root="):
        prepare.main(["data=image_folder", f"data.root={tmp_path / 'none'}"])
    with pytest.raises(UserError, match=r"^model\.sha256=0+: expected the sha256 of"):
        prepare.main(["model=resnet18", f"model.sha256='{64 * '0'}'"])
    (tmp_path / "images" / "dark" / "broken.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="broken"):
        prepare.main(["data=image_folder", images])

"""`prepare` fetches weights and fills the store, and a sweep then uses the same entries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from frostline.commands import prepare
from frostline.core.errors import UserError
from frostline.data import loading
from frostline.models import build, weights
from frostline.runs import checks, run_data
from frostline.sweeps import preflight, preparation
from small import SMALL, compose


@pytest.fixture
def images(tmp_path, monkeypatch):
    """Write images of two classes and return the override that selects them. The store is empty."""
    monkeypatch.setenv("FROSTLINE_STORE", str(tmp_path / "store"))
    for place in (tmp_path / "images" / name for name in ("dark", "light")):
        place.mkdir(parents=True)
        for number in range(20):
            shade = 5 * number + 150 * (place.name == "light")
            Image.new("RGB", (40 + number, 48), (shade, number, 0)).save(place / f"{number}.png")
    return f"data.root={tmp_path / 'images'}"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Replace downloads of torch's hub by a new network in a temporary folder. Return the requested URLs."""
    urls: list[str] = []

    def download(url: str, path: str, *_: object, **__: object) -> None:
        urls.append(url)
        network = build.build("resnet18", weights=None, num_classes=1000, seed=0)
        torch.save(network.module.state_dict(), path)

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    monkeypatch.setattr(weights.hashing, "of_source", lambda path: "f37072fd" + 56 * "0")
    return urls


def prepared(capsys, *overrides: str) -> list[str]:
    """Return the lines that the command prints, without notes, with no data loaded before."""
    loading._last.clear()
    assert prepare.main([*overrides]) == 0
    return [line for line in capsys.readouterr().out.splitlines() if not line.startswith("  note")]


@pytest.mark.slow
def test_prepare_lists_items_and_a_sweep_finds_them(images, hub, capsys, tmp_path):
    command = ("-m", "model=resnet18", "freeze=head,full", "lr=1e-2,1e-3", "data=image_folder", images)
    first, second = prepared(capsys, *command, "device=cuda", "devices=2"), prepared(capsys, *command)
    assert len(hub) == 1 and (tmp_path / "hub" / "checkpoints" / hub[0].rpartition("/")[2]).is_file()
    assert first[0].startswith("prepared: weights DEFAULT of resnet18 (torchvision), 46")
    assert [line.partition(":")[0] for line in first] == ["prepared"] * 4 + ["checked"]
    assert sorted(second) == sorted(line.replace("prepared: ", "found: ") for line in first)
    assert first[-1] == "checked: 4 runs can start"
    for line in first[:-1]:
        assert Path(line.rpartition(", ")[2]).exists()
    runs = preparation.planned([one for one in command if one != "-m"])
    places = {item.place for item in run_data.store_of(runs[0].config, print).items()}
    assert len(places) == 3
    for run in runs:
        checks.check(run.config)  # as the sweep's first job does
    assert {item.place for item in run_data.store_of(runs[0].config, print).items()} == places


def test_unusable_store_is_reported(images, capsys, tmp_path):
    (tmp_path / "store").write_text("no folder")
    loading._last.clear()
    assert prepare.main(["data=image_folder", images]) == 1
    out, err = capsys.readouterr()
    assert "checked: 1 run can start" in out
    assert (
        f"not prepared, since the store cannot keep it: identical files among 40 images in {tmp_path / 'images'}" in err
    )


def test_search_is_prepared_by_cell(images, capsys):
    ranges = ("search=tpe", "trials=9", "lr=interval(1e-5,1)", "freeze=head,full")
    assert prepared(capsys, *ranges, "data=image_folder", images)[-1] == "checked: 2 runs can start"


def test_check_downloads_weights_once(tmp_path, monkeypatch):
    asked: list[str] = []

    def download(url: str, path: str, *_: object, **__: object) -> None:
        asked.append(url)
        Path(path).touch()

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    monkeypatch.setattr(weights.hashing, "of_source", lambda path: "f37072fd" + 56 * "0")
    configs = {mode: compose(*SMALL, "model=resnet18", f"freeze={mode}") for mode in ("head", "full")}
    preflight.check({"head": replace(configs["head"], dry_run=True)})
    assert asked == []
    preflight.check(configs)
    assert len(asked) == 1


def test_weights_out_of_reach_are_refused_unless_runs_may_have_them(tmp_path, monkeypatch, capsys):
    def offline(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    configs = {"": compose(*SMALL, "model=resnet18")}
    with pytest.raises(UserError) as caught:
        preflight.check(configs)
    assert str(caught.value) == (
        "model.weights=https://download.pytorch.org/models/resnet18-f37072fd.pth: expected a download that works"
        f" (Name or service not known), the file resnet18-f37072fd.pth in {tmp_path / 'checkpoints'}, or"
        " model.weights=<file>"
    )
    capsys.readouterr()
    preflight.check(configs, runs_elsewhere=True)
    told = " ".join(capsys.readouterr().out.split())
    assert f"note: not here, but perhaps where the runs are: {caught.value}".replace(" ", "") in told.replace(" ", "")


def test_prepare_refuses_what_a_sweep_refuses(images, hub, tmp_path):
    with pytest.raises(UserError, match=r"^data\.root="):
        prepare.main(["data=image_folder", f"data.root={tmp_path / 'none'}"])
    with pytest.raises(UserError, match=r"^model\.sha256=0+: expected the sha256 of"):
        prepare.main(["model=resnet18", f"model.sha256='{64 * '0'}'"])
    (tmp_path / "images" / "dark" / "broken.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="broken"):
        prepare.main(["data=image_folder", images])

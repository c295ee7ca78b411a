"""Base weights: the common start of runs is stored once, and runs' files are read together with it."""

from __future__ import annotations

import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from frostline.core.errors import UserError
from frostline.models import base_weights, weights
from frostline.models.build import build
from frostline.models.weights import GLYPHS
from frostline.store import hashing, tensorfile

FACTS = {"model": "small", "classes": ["a", "b"], "size": 8, "resize": 8, "mean": [0.5] * 3, "std": [0.5] * 3}
FACTS["interpolation"] = "bilinear"


def network(rows: int = 2) -> nn.Module:
    """Return a network with fixed initial tensors, a buffer and a head."""
    conv, norm, fc = nn.Linear(3, rows, bias=False), nn.Module(), nn.Linear(rows, 2)
    nn.init.constant_(conv.weight, 0.5)
    norm.register_buffer("num_batches_tracked", torch.tensor(7))
    return nn.ModuleDict({"conv": conv, "norm": norm, "fc": fc})


@pytest.fixture
def learned(tmp_path: Path) -> Path:
    """Return a run's weights file in a sweep that stores their base."""
    (run := tmp_path / "sweep" / "lr=0.1" / "0").mkdir(parents=True)
    base = base_weights.keep(network(), ["fc"], tmp_path / "sweep" / "weights")
    own = {"conv.weight": torch.ones(2, 3), "fc.weight": torch.zeros(2)}
    tensorfile.save(run / "best.safetensors", own, {**FACTS, "base": base})
    return run / "best.safetensors"


def base_file(learned: Path) -> Path:
    (found,) = (learned.parents[2] / "weights").glob("*.safetensors")
    return found


def test_learned_weights_replace_base_weights(learned: Path, tmp_path: Path) -> None:
    found = weights.read(learned)
    assert found.keys() == {"conv.weight", "fc.weight", "norm.num_batches_tracked"}
    assert found["conv.weight"].eq(1).all() and found["norm.num_batches_tracked"] == 7
    assert weights.metadata_of(learned) == FACTS
    whole = weights.whole(learned, tmp_path)
    assert whole == tmp_path / "best.safetensors" and base_weights.named(whole) is None
    assert load_file(whole).keys() == found.keys() and weights.metadata_of(whole) == FACTS
    assert weights.whole(whole, tmp_path / "nowhere") == whole


def test_base_is_found_beside_and_in_parent_folders(
    learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = Path(shutil.move(learned.parents[2], tmp_path / "moved elsewhere"))
    file = moved / "lr=0.1" / "0" / "best.safetensors"
    assert len(weights.read(file)) == 3
    (tmp_path / "link").symlink_to(file.parent)
    assert len(weights.read(tmp_path / "link" / "best.safetensors")) == 3
    monkeypatch.chdir(file.parent)
    assert len(weights.read(Path(file.name))) == 3
    shutil.move(file, tmp_path / "big disk")
    file.symlink_to(tmp_path / "big disk")
    assert len(weights.read(file)) == 3
    shutil.move(base_file(file), file.parent)
    for path in (file, Path(file.name), tmp_path / "link" / file.name):
        assert len(weights.read(path)) == 3


def test_base_is_kept_in_every_folder_without_heads_and_adapters(tmp_path: Path) -> None:
    module = network()
    digest = base_weights.keep(module, ["fc"], tmp_path / "one")
    assert base_weights.keep(module, ["fc"], tmp_path / "two") == digest
    assert (tmp_path / "two" / base_weights.name_of(digest)).exists()
    (adapted := network()).get_submodule("conv").add_module("adapter", nn.Linear(3, 1))
    assert base_weights.keep(adapted, ["fc"], tmp_path / "one") == digest


def test_base_file_is_named_by_hash_and_loadable(tmp_path: Path) -> None:
    first = build("shufflenet_v2_x0_5", weights="glyphs", num_classes=3, seed=0)
    digest = base_weights.keep(first.module, first.structure.heads, tmp_path)
    assert digest == hashing.of_tensors(load_file(tmp_path / f"{digest}.safetensors"))
    other = build("shufflenet_v2_x0_5", weights="glyphs", num_classes=10, seed=1)
    assert base_weights.keep(other.module, other.structure.heads, tmp_path) == digest
    second = build("shufflenet_v2_x0_5", weights=str(tmp_path / f"{digest}.safetensors"), num_classes=3, seed=0)
    for name, tensor in first.module.state_dict().items():
        assert torch.equal(tensor, second.module.state_dict()[name]), name
    assert load_file(tmp_path / f"{digest}.safetensors").keys() == load_file(GLYPHS).keys()


def _keep(folder: Path, ready: Any) -> None:
    ready.wait()
    base_weights.keep(network(1 << 20), ["fc"], folder)


def test_concurrent_processes_write_one_file(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Barrier(4)
    many = [context.Process(target=_keep, args=(tmp_path / "weights", ready)) for _ in range(4)]
    for one in many:
        one.start()
    for one in many:
        one.join(60)
    assert [one.exitcode for one in many] == [0] * 4
    names = sorted(path.name for path in (tmp_path / "weights").iterdir())
    assert len(names) == 2 and names[0] == ".lock"
    assert hashing.of_tensors(load_file(tmp_path / "weights" / names[1])) == names[1].removesuffix(".safetensors")


def test_base_is_written_once_and_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: Path, *_: object) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tensorfile, "write", fails)
        with pytest.raises(OSError, match="no space"):
            base_weights.keep(network(), ["fc"], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    (tmp_path / ".part").write_bytes(b"of a killed process")
    digest = base_weights.keep(network(), ["fc"], tmp_path)
    monkeypatch.setattr(tensorfile, "write", fails)
    assert base_weights.keep(network(), ["fc"], tmp_path) == digest
    assert not (tmp_path / ".part").exists()


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def _replace(file: Path) -> None:
    tensorfile.save(file, {"conv.weight": torch.zeros(1)}, {})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "neither is there"),
        (_truncate, "is damaged ("),
        (_flip, "have the sha256"),
        (_replace, "have the sha256"),
    ],
)
def test_missing_or_damaged_base_is_refused(learned: Path, damage: Any, message: str) -> None:
    file = base_file(learned)
    damage(file)
    with pytest.raises(UserError) as refused:
        weights.read(learned)
    line = str(refused.value)
    assert "\n" not in line and message in line
    assert line.startswith(f"{learned} holds what a run learned, and needs weights/{file.name} of its sweep")


@pytest.mark.parametrize("base", ["../../secret", "", "F" * 64, 7, ["a" * 64], "a" * 65])
def test_invalid_base_name_is_refused(tmp_path: Path, base: object) -> None:
    file = tmp_path / "best.safetensors"
    tensorfile.save(file, {"w": torch.zeros(1)}, {**FACTS, "base": base})
    with pytest.raises(UserError, match="expected the sha256 of its base weights, not "):
        weights.read(file)

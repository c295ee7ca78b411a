"""Weight files: they never run code, are checked by sha256, and are read back bit by bit."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path

import pytest
import torch
from test_load_weights import net
from torch import Tensor, nn
from torchvision.models import get_model_weights, resnet18

from canary import Canary
from frostline.core.errors import UserError
from frostline.models import weights
from frostline.models.build import build
from frostline.models.torchvision_models import NAMES
from frostline.store import hashing, tensorfile
from small import network


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the empty folder of torch's hub cache."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def message_of(caught: pytest.ExceptionInfo[UserError]) -> str:
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("protocol", ["torch.save", "pickle"])
@pytest.mark.parametrize("suffix", weights.SUFFIXES)
def test_file_with_code_is_refused_and_does_not_run(tmp_path: Path, suffix: str, protocol: str) -> None:
    path = tmp_path / f"evil{suffix}"
    state = {"fc.weight": Canary(tmp_path / "ran")}
    path.write_bytes(pickle.dumps(state, protocol=2)) if protocol == "pickle" else torch.save(state, path)
    with pytest.raises(UserError) as caught:
        build("resnet18", weights=str(path), num_classes=2, seed=0)
    assert message_of(caught).startswith(f"model.weights={path}: expected")
    assert not (tmp_path / "ran").exists()


def test_tampered_hub_cache_is_refused(hub: Path, tmp_path: Path) -> None:
    path = hub / "resnet18-f37072fd.pth"
    torch.save({"fc.weight": Canary(tmp_path / "ran")}, path)
    with pytest.raises(UserError) as caught:
        build("resnet18", weights="IMAGENET1K_V1", num_classes=2, seed=0)
    assert "sha256 begins with f37072fd" in message_of(caught)
    assert not (tmp_path / "ran").exists()


def test_cached_download_with_right_hash_is_used(hub: Path) -> None:
    content = b"weights"
    digest = hashlib.sha256(content).hexdigest()
    path = hub / f"net-{digest[:8]}.pth"
    path.write_bytes(content)
    assert weights.fetch(f"https://example.invalid/{path.name}") == (path, digest)


def test_missing_file_is_downloaded_into_a_new_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(url: str, dst: str, hash_prefix: str, progress: bool) -> None:
        assert (url, hash_prefix) == (address, digest[:8])
        Path(dst).write_bytes(b"weights")

    digest = hashlib.sha256(b"weights").hexdigest()
    address = f"https://example.invalid/net-{digest[:8]}.pth"
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "new" / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    assert weights.fetch(address) == (weights.cached(address)[0], digest)


def test_failed_download_names_file_and_folder(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(UserError) as caught:
        build("resnet18", weights="DEFAULT", num_classes=2, seed=0)
    message = message_of(caught)
    assert "https://download.pytorch.org/models/resnet18-f37072fd.pth" in message
    assert f"resnet18-f37072fd.pth in {hub}" in message


def test_cache_that_cannot_be_made_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "file" / "hub"))
    with pytest.raises(UserError, match=r"^model\.weights=.*: expected a download that works \(\[Errno \d+\] Not a"):
        weights.fetch("https://example.invalid/net-00112233.pth")


def test_every_torchvision_url_contains_a_sha256(hub: Path) -> None:
    for name in NAMES:
        for entry in get_model_weights(name):
            path, prefix = weights.cached(entry.url)
            assert path.parent == hub
            assert prefix in path.name


def test_wrong_sha256_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    digest = tensorfile.save(path, resnet18(num_classes=2).state_dict(), {})
    assert build("resnet18", weights=str(path), num_classes=2, seed=0, sha256=digest).weights_sha256 == digest
    with pytest.raises(UserError, match="model.sha256=00ff: expected the sha256 of .*, which is " + digest):
        build("resnet18", weights=str(path), num_classes=2, seed=0, sha256="00ff")


def test_saved_weights_are_read_back_bit_by_bit(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    facts = {"classes": ["a", "ü"], "size": 64, "resize": 70, "mean": [0.1, 0.2, 0.3], "std": [1, 1, 1], "model": "net"}
    facts["interpolation"] = "bicubic"
    module = net().to(memory_format=torch.channels_last)
    digest = tensorfile.save(path, module.state_dict(), facts)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert weights.metadata_of(path) == facts
    state = weights.read(path)
    assert state.keys() == module.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in module.state_dict().items())
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_equal_weights_give_equal_files(tmp_path: Path) -> None:
    module = net()
    facts = {key: key for key in ("model", "classes", "size", "resize", "mean", "std")}
    assert len({tensorfile.save(tmp_path / f"{i}.safetensors", module.state_dict(), facts) for i in range(4)}) == 1


def test_interrupted_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.safetensors"
    digest = tensorfile.save(path, net().state_dict(), {})
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        tensorfile.save(path, net().state_dict(), {})
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert hashing.of_file(path) == digest


@pytest.mark.parametrize("cut", [0, 5, 200])
def test_damaged_file_is_refused(tmp_path: Path, cut: int) -> None:
    for path in (tmp_path / "w.safetensors", tmp_path / "w.pth"):
        tensorfile.save(path, net().state_dict(), {}) if path.suffix == ".safetensors" else torch.save(
            net().state_dict(), path
        )
        path.write_bytes(path.read_bytes()[:cut])
        with pytest.raises(UserError) as caught:
            build("resnet18", weights=str(path), num_classes=2, seed=0)
        assert message_of(caught).startswith(f"model.weights={path}: expected")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_text_in_place_of_weights_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    for text, told in (
        ("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n", "`git lfs pull` fetches them"),
        ("<!DOCTYPE html>\n<html><head>Not found</head></html>", r"not of text \(<!DOCTYPE html> <html><head>"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=told) as caught:
            build("resnet18", weights=str(path), num_classes=2, seed=0)
        assert message_of(caught).count("expected") == 1


def test_file_without_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "state_dict": {}}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="a state dict"):
        weights.read(tmp_path / "w.pt")


def test_hash_covers_values_names_and_shapes_only() -> None:
    state = network().module.state_dict()
    whole = hashing.of_tensors(state)
    assert whole == hashing.of_tensors(dict(reversed(state.items())))
    assert whole == hashing.of_tensors(network().module.to(memory_format=torch.channels_last).state_dict())
    assert whole != hashing.of_tensors(network(seed=1).module.state_dict())
    name = next(name for name, tensor in state.items() if tensor.dtype == torch.float32)
    flipped = state[name].clone()
    flipped.view(torch.int32).view(-1)[-1] ^= 1
    for other in ({**state, name: flipped}, {**state, name: state[name].unsqueeze(0)}, {**state, "x": flipped}):
        assert hashing.of_tensors(other) != whole
    empty = {"scalar": torch.tensor(1), "none": torch.zeros(0), "half": torch.zeros(3, dtype=torch.bfloat16)}
    assert len(hashing.of_tensors(empty)) == 64


def test_hash_changes_when_a_parameter_is_written() -> None:
    layer = torch.nn.Linear(3, 2)
    found = [hashing.of_tensors(layer.state_dict(keep_vars=True)) for _ in range(2)]
    with torch.no_grad():
        layer.weight[0, 0] += 1
    found.append(hashing.of_tensors(layer.state_dict(keep_vars=True)))
    assert found[0] == found[1] != found[2]
    assert found[2] == hashing.of_tensors({name: t.clone() for name, t in layer.state_dict().items()})


def test_parameters_from_a_file_are_not_hashed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensorfile.save(tmp_path / "w.safetensors", network(classes=10, seed=3).module.state_dict(), {})
    read: list[Tensor] = []
    hashed = hashing.bytes_of
    monkeypatch.setattr(hashing, "bytes_of", lambda tensor: (read.append(tensor), hashed(tensor))[1])

    def built(seed: int, classes: int) -> nn.Module:
        path = str(tmp_path / "w.safetensors")
        return build("shufflenet_v2_x0_5", weights=path, num_classes=classes, seed=seed).module

    def hash_of(module: nn.Module) -> str:
        read.clear()
        return hashing.of_tensors(module.state_dict(keep_vars=True))

    first, second, new = built(1, 10), built(2, 10), built(1, 7)
    whole = hash_of(first)
    assert hash_of(second) == whole
    assert not any(isinstance(tensor, nn.Parameter) for tensor in read)
    assert hash_of(new) != whole
    assert [tuple(tensor.shape) for tensor in read if isinstance(tensor, nn.Parameter)] == [(7,), (7, 1024)]
    with torch.no_grad():
        second.get_parameter("conv1.0.weight").view(-1)[0] += 1
    assert hash_of(second) == hashing.of_tensors({name: t.clone() for name, t in second.state_dict().items()}) != whole
    assert hash_of(built(2, 10)) == whole, "writing to one network must not change another"


def test_file_is_hashed_again_only_after_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path := tmp_path / "weights.pt").write_bytes(b"one")
    read: list[Path] = []
    hashed = hashing.of_file
    monkeypatch.setattr(hashing, "of_file", lambda file: (read.append(file), hashed(file))[1])
    first = hashing.of_source(path)
    path.write_bytes(b"two")  # with the same time and size
    assert hashing.of_source(path) == hashlib.sha256(b"two").hexdigest() != first
    assert len(read) == 2
    monkeypatch.setattr(hashing, "_SETTLED", -1)
    known = [hashing.of_source(path) for _ in range(3)]
    assert known == 3 * [hashlib.sha256(b"two").hexdigest()] and len(read) == 3

"""Weights of timm: read and checked from a folder, the hub's cache or the hub, with one-line errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
import timm
import torch
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from safetensors.torch import save_file

from frostline.core.errors import UserError
from frostline.core.input_spec import InputSpec
from frostline.models.build import Model, build
from frostline.store import hashing


def build_timm(name: str, source: Path | str, **options: Any) -> Model:
    return build(name, library="timm", weights=str(source), **{"num_classes": 7, "seed": 0, **options})


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a folder in the format of timm's hub, for a network with three classes."""
    torch.manual_seed(0)
    module = timm.create_model("test_resnet", num_classes=3)
    (folder := tmp_path / "test_resnet.mine").mkdir()
    save_file(module.state_dict(), folder / "model.safetensors")
    seen = {
        "input_size": [3, 96, 96],
        "crop_pct": 0.8,
        "crop_mode": "squash",
        "interpolation": "bilinear",
        "mean": [0.5] * 3,
        "std": [0.2] * 3,
    }
    config = {"architecture": "test_resnet", "num_classes": 3, "pretrained_cfg": {"tag": "mine", **seen}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_hub_folder_gives_weights_and_input(repository: Path) -> None:
    model = build_timm("test_resnet.r160_in1k", repository, num_classes=3)
    torch.manual_seed(0)
    theirs = timm.create_model("test_resnet", num_classes=3).state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in model.module.state_dict().items())
    assert model.input == InputSpec(96, 120, (0.5,) * 3, (0.2,) * 3, "bilinear", "squash")
    assert model.weights_sha256 == hashing.of_file(repository / "model.safetensors")
    with pytest.raises(UserError, match=r"expected weights of test_vit, not of test_resnet$"):
        build_timm("test_vit", repository)
    with pytest.raises(UserError, match=r"^model\.weights=.*: expected null, glyphs, a \.safetensors, "):
        build("resnet18", weights=str(repository), num_classes=3, seed=0)
    with pytest.raises(UserError, match=r"^model\.sha256=0000"):
        build_timm("test_resnet", repository, sha256="0" * 64)
    config = json.loads((repository / "config.json").read_text())
    grey = {"mean": [0.5], "std": [0.5]}
    for odd in ([1], *(config | {"pretrained_cfg": one} for one in (grey, {"crop_pct": 0}, {"input_size": []}))):
        (repository / "config.json").write_text(json.dumps(odd))
        with pytest.raises(UserError, match=r"expected a config\.json in the format of timm's hub"):
            build_timm("test_resnet", repository)


def test_hub_cache_is_read_and_checked(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = repository / "model.safetensors"
    blob = file.rename(repository / hashing.of_file(file))
    file.symlink_to(blob)  # as the hub's cache does
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repository, name: str(file))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *about: pytest.fail("it was downloaded"))
    assert build_timm("test_resnet", "r160_in1k", num_classes=3).loaded == "head fc taken"
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    with pytest.raises(UserError, match="expected a file whose sha256 is its name"):
        build_timm("test_resnet", "DEFAULT", num_classes=3)


def answer(error: type[HfHubHTTPError], status: int) -> HfHubHTTPError:
    response = httpx2.Response(status, request=httpx2.Request("HEAD", "https://hub.invalid"))
    return error("Error for url 'https://...", response=response)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError("Name or service not known"), "Name or service not known"),
        (
            answer(RepositoryNotFoundError, 404),
            "the hub has no such repository, or it needs a token in HF_TOKEN",
        ),
        (
            answer(GatedRepoError, 403),
            "the hub requires you to accept its licence there, and HF_TOKEN to hold a token of that account",
        ),
        (answer(HfHubHTTPError, 500), "the hub answers 500"),
    ],
)
def test_failed_download_gives_reason_and_alternative(
    error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*about: object) -> None:
        raise error

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repository, name: None)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(UserError) as caught:
        build_timm("test_vit", "DEFAULT")
    assert str(caught.value) == (
        f"model.weights=r160_in1k: expected a download that works ({reason}), or"
        " model.weights=<folder> with config.json and model.safetensors of the repository timm/test_vit.r160_in1k"
    )

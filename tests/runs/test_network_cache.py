"""A network reused from the previous run of a process equals a newly built one."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import nn

from frostline.core.config import Config
from frostline.models import torchvision_models
from frostline.models.architecture import new_layer
from frostline.models.weights import GLYPHS, metadata_of
from frostline.records import provenance
from frostline.runs import network_cache, setup
from frostline.store import tensorfile
from small import SMALL, compose, execute_run


@pytest.fixture(autouse=True)
def built(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """Return the configs of the networks that are built."""
    found: list[Config] = []
    real = setup.build_model

    def build_model(config: Config, *rest: Any, **options: Any) -> Any:
        found.append(config)
        return real(config, *rest, **options)

    monkeypatch.setattr(setup, "build_model", build_model)
    monkeypatch.setattr(network_cache, "_kept", None)
    return found


def run(folder: Path, config: Config) -> tuple[bytes, dict[str, Any]]:
    execute_run(config, folder)
    return (folder / "best.safetensors").read_bytes(), provenance.read(folder)["weights"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [(), ("features.enabled=false",), ("train.ema_decay=0.9", "optimizer=sgd"), ("freeze=probe",)]
)
def test_head_runs_share_a_network_and_equal_runs_alone(tmp_path, built, options):
    configs = [compose(*SMALL, *options, f"seed={seed}", f"lr={lr}") for seed, lr in ((0, 0.01), (1, 0.1))]
    shared = [run(tmp_path / f"shared{number}", config) for number, config in enumerate(configs)]
    assert len(built) == 1
    network_cache._kept = None  # the first run had none to share
    assert run(tmp_path / "own", configs[1]) == shared[1]
    assert len(built) == 2


@pytest.mark.slow
@pytest.mark.parametrize("other", ["model.image_size=48", "channels_last=false"])
def test_other_network_options_build_a_new_network(tmp_path, built, other):
    for number, mode in enumerate((other, "freeze=head", other)):
        run(tmp_path / str(number), compose(*SMALL, mode, "epochs=1"))
    assert len(built) == 3


def test_trained_backbone_is_not_reused(tmp_path, built):
    for number in range(2):
        run(tmp_path / str(number), compose(*SMALL, "freeze=norm", "epochs=1"))
    assert len(built) == 2


@pytest.mark.slow
def test_replaced_weights_file_is_read_again(tmp_path, built):
    file = tmp_path / "own.safetensors"
    shutil.copyfile(GLYPHS, file)
    config = compose(*SMALL, f"model.weights={file}")
    before = run(tmp_path / "before", config)
    run(tmp_path / "again", config)
    assert len(built) == 1
    tensors = {name: tensor * 0.99 if "weight" in name else tensor for name, tensor in load_file(file).items()}
    tensorfile.save(file, tensors, metadata_of(file))
    assert run(tmp_path / "other", config)[1] != before[1]
    assert len(built) == 2


def test_reused_network_gets_the_architectures_own_head_init(tmp_path, built, monkeypatch):
    def new_heads(module: nn.Module, heads: tuple[str, ...], num_classes: int) -> None:
        new_layer(module, heads, num_classes)
        nn.init.normal_(module.get_submodule(heads[0]).get_parameter("weight"), std=3)

    real = torchvision_models.architecture
    monkeypatch.setattr(torchvision_models, "architecture", lambda name: replace(real(name), new_heads=new_heads))
    configs = [compose(*SMALL, f"seed={seed}") for seed in (0, 1)]
    _, shared = (run(tmp_path / f"shared{number}", config) for number, config in enumerate(configs))
    assert len(built) == 1
    network_cache._kept = None
    assert run(tmp_path / "own", configs[1]) == shared

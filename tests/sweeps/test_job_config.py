"""The YAML text of a config equals what OmegaConf writes."""

from __future__ import annotations

from dataclasses import asdict

import pytest
from omegaconf import OmegaConf

from frostline import compose
from frostline.sweeps.job_config import config_text

COMMANDS = (
    ("freeze=head", "lr=0.1"),
    ("freeze=head", "lr=1", "seed=3"),
    ("freeze=full", "lr=1e-3", "augment=standard", "data=cifar10", "experiment_name='naïve: # Straße'"),
    ("freeze=lora", "optimizer=sgd", "schedule=constant"),
    ("freeze=head", "lr=0.1"),
)


@pytest.mark.parametrize("command", COMMANDS)
def test_config_text_equals_omegaconf(command: tuple[str, ...]) -> None:
    values = asdict(compose(*command))
    assert config_text(values) == OmegaConf.to_yaml(values)


@pytest.mark.parametrize(
    "value", [1, 1.0, True, "1", "true", None, "", [], {}, {"a": {"b": [1, "x y", None]}}, "${lr}"]
)
def test_values_that_python_considers_equal_are_distinct(value: object) -> None:
    assert config_text({"key": value, "other": 2}) == OmegaConf.to_yaml({"key": value, "other": 2})

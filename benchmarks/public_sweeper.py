"""A run of a recorded grid for the public Optuna plugin of Hydra, which needs older libraries: imports none of ours."""

import csv
import math

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig


def main(config: DictConfig) -> float:
    """Return the accuracy of the nearest run."""
    with open(config.grid, newline="") as file:  # noqa: PTH123
        rows = list(csv.reader(file))[1:]
    lrs = sorted({float(row[0]) for row in rows})
    nearest = min(lrs, key=lambda lr: abs(math.log(lr / config.lr)))
    (run,) = (row for row in rows if (float(row[0]), float(row[1])) == (nearest, config.weight_decay))
    return max(map(float, run[3:]), default=0.0)


if __name__ == "__main__":
    defaults = ["_self_", {"override hydra/sweeper": "optuna"}]
    ConfigStore.instance().store("config", {"defaults": defaults, "grid": "", "lr": 0.1, "weight_decay": 0.0})
    hydra.main(version_base=None, config_path=None, config_name="config")(main)()

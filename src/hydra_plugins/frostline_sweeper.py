"""The seam to Hydra: a sweeper that checks every run before the first starts, and answers when the last one ends."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser

from frostline.config import Config
from frostline.environment import config_folder


@dataclass
class FrostlineSweeperConf:
    """What `hydra/sweeper=frostline` may be given."""

    _target_: str = "hydra_plugins.frostline_sweeper.FrostlineSweeper"
    max_batch_size: int | None = None
    params: dict[str, str] | None = field(default_factory=dict)


ConfigStore.instance().store(name="schema", node=Config, provider="frostline")
# `freeze` is the short name of `freeze_mode`: the same options, with no keys of their own.
for _mode in config_folder().glob("freeze_mode/*.yaml"):
    ConfigStore.instance().store(group="freeze", name=_mode.stem, node={}, package="_global_", provider="frostline")
ConfigStore.instance().store(group="hydra/sweeper", name="frostline", node=FrostlineSweeperConf, provider="frostline")


class FrostlineSweeper(BasicSweeper):
    """Hydra's own grid, run by `frostline.sweep`."""

    def sweep(self, arguments: list[str]) -> None:
        """Compose, check and run every point of the grid; exits with a status other than 0 unless all runs finish."""
        from frostline.sweep import run_sweep

        assert self.config is not None and self.launcher is not None and self.hydra_context is not None
        config, loader, launcher = self.config, self.hydra_context.config_loader, self.launcher
        parser = OverridesParser.create(config_loader=loader)
        status = run_sweep(
            self.split_arguments(parser.parse_overrides([*self._parse_config(), *arguments]), self.max_batch_size),
            compose=lambda overrides: loader.load_sweep_config(config, list(overrides)),
            launch=lambda batch, first: launcher.launch(batch, initial_job_idx=first),
            folder=Path(config.hydra.sweep.dir),
        )
        if status != 0:
            sys.exit(status)

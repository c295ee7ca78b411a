"""Hydra sweeper plugin: checks every run before the first one starts, and reports the verdict after the last one."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from frostline.core.config import Config
from frostline.core.errors import user_error
from frostline.core.project import config_folder, own_configs
from frostline.sweeps import hydra_keys, hydra_overrides
from hydra_plugins.frostline_launcher import FrostlineLauncher

if TYPE_CHECKING:
    from frostline.sweeps.composer import Composer
    from frostline.sweeps.executor import Executor


@dataclass
class FrostlineSweeperConf:
    """Settings of `hydra/sweeper=frostline`."""

    _target_: str = "hydra_plugins.frostline_sweeper.FrostlineSweeper"
    max_batch_size: int | None = None
    params: dict[str, str] | None = field(default_factory=dict)


ConfigStore.instance().store(name="schema", node=Config, provider="frostline")
# `freeze` is the short name of `freeze_mode`: the same options, with no keys of their own.
for _folder in (config_folder(), *own_configs(sys.argv[1:])):
    for _mode in _folder.glob("freeze_mode/*.yaml"):
        ConfigStore.instance().store(group="freeze", name=_mode.stem, node={}, package="_global_", provider="frostline")
ConfigStore.instance().store(group="hydra/sweeper", name="frostline", node=FrostlineSweeperConf, provider="frostline")


class FrostlineSweeper(Sweeper):
    """Runs every combination of the typed values with `frostline.sweeps.sweep`, or a search."""

    def __init__(self, max_batch_size: int | None, params: Mapping[str, str] | None = None) -> None:
        """Give launchers other than ours `max_batch_size` runs at once, None for all; `params` are overrides by key."""
        self._batch, self._params = max_batch_size, params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take Hydra's context and config, and create the launcher."""
        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Compose, check and run the grid or search; exit with a status other than 0 unless all runs finish."""
        from frostline.sweeps.composer import Composer
        from frostline.sweeps.sweep import run_sweep

        assert self.config is not None and self.hydra_context is not None
        config, loader = self.config, self.hydra_context.config_loader
        hydra_keys.check(config, own_launcher=isinstance(self.launcher, FrostlineLauncher))
        str(config.hydra.sweep.dir)  # resolve it now, so that every job gets the same time
        parser = OverridesParser.create(config_loader=loader)
        given = [f"{key}={value}" for key, value in self._params.items()]
        overrides = parser.parse_overrides([*given, *arguments])
        compose = Composer(lambda job: loader.load_sweep_config(config, [*job]))
        searches = hydra_overrides.is_search(overrides, compose)
        executor = self._executor(compose, searches=searches)
        notes = hydra_overrides.without_effect(arguments)
        named = any(override.startswith("hydra.sweep.dir=") for override in config.hydra.overrides.hydra)
        try:
            if searches:
                from frostline.sweeps.search import run_search  # imports Optuna

                status = run_search(overrides, compose=compose, executor=executor, folder_named=named, notes=notes)
            else:
                jobs = hydra_overrides.points(overrides)
                status = run_sweep(jobs, compose=compose, executor=executor, folder_named=named, notes=notes)
        except BaseException:
            executor.close(now=True)
            raise
        executor.close(now=False)
        if status != 0:
            sys.exit(status)

    def _executor(self, compose: "Composer", *, searches: bool) -> "Executor":
        """Return the executor for the launcher: our workers, a queue, Ray, or any other launcher of Hydra."""
        from frostline.sweeps.cluster import Cluster, is_submitit
        from frostline.sweeps.executor import HydraLauncher, Workers
        from frostline.sweeps.ray_tasks import RayTasks, is_ray

        launcher = self.launcher
        if isinstance(launcher, FrostlineLauncher):
            if launcher.workers is not None and launcher.workers < 1:
                raise user_error("hydra.launcher.workers", launcher.workers, "a whole number of at least 1, or null")
            return Workers(launcher, compose)
        if is_submitit(launcher):
            return Cluster(launcher, self.config, detached=not searches)
        return (RayTasks if is_ray(launcher) else HydraLauncher)(launcher, self._batch, self.config)

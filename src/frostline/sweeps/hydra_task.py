"""Run a job of Hydra in a worker, which loads the parts that all jobs of a sweep share only once.

This is outside of the plugin, whose module Hydra executes again whenever it scans for plugins.
"""

from __future__ import annotations

import functools
import pickle
from dataclasses import replace

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, configure_log, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from frostline.records.result import Result

_HELP = ("help.header", "help.footer", "help.template", "hydra_help.template")
"""Hydra's texts for `--help`, left out of the `hydra.yaml` of every run, of which they would be half."""


def in_common(context: HydraContext, function: TaskFunction) -> bytes:
    """Return what `call` needs for all jobs of a sweep: Hydra's context and state, and the function that runs a job."""
    return packed((context, function, Singleton.get_state()))


def packed(value: object) -> bytes:
    """Pickle a value for `call`, which reads it after restoring Hydra's state.

    Hydra executes the modules of plugins again, so cloudpickle stores instances of the earlier classes with their code.
    """
    import cloudpickle

    return bytes(cloudpickle.dumps(value))


@functools.lru_cache(1)
def _known(common: bytes) -> tuple[HydraContext, TaskFunction]:
    """Restore Hydra's state of the sending process, and return its context and the function that runs a job.

    Cached, because Hydra then scans for all plugins, which takes a third of the time of a short run.
    """
    context, function, state = pickle.loads(common)
    Singleton.set_state(state)
    return context, function


def call(common: bytes, own: bytes, whole: bool) -> JobReturn:
    """Run one job, as Hydra's own launchers do in their processes, and return its outcome.

    Without `whole`, the configs and the parts of the result that are in the run's folder are left out: those of a
    thousand jobs would fill the memory of the sweep's process.
    """
    setup_globals()
    context, function = _known(common)
    config: DictConfig = pickle.loads(own)
    for text in _HELP:
        OmegaConf.update(config, f"hydra.{text}", "")
    try:
        done = run_job(
            hydra_context=context,
            task_function=function,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
    except ValueError as error:  # of `logging`: does not name the full disk behind it, and is sent without its cause
        raise error.__cause__ if isinstance(error.__cause__, OSError) else error from None
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)  # closes the job's log
    if not whole:
        done.cfg = done.hydra_cfg = None
        if isinstance(result := done._return_value, Result):
            done.return_value = replace(result, choices={}, metrics={}, images={})
    return done

"""A job of Hydra's as a task for a worker, which gets to know once what all jobs of a sweep have in common.

This is no part of the plugin, whose module Hydra runs anew whenever it looks for plugins.
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
"""What Hydra prints for `--help`, and writes into the `hydra.yaml` of every run, of which it is half."""


def in_common(context: HydraContext, function: TaskFunction) -> bytes:
    """Return what `call` has to know of all jobs of a sweep: how Hydra is here, and what carries a job out."""
    return packed((context, function, Singleton.get_state()))


def packed(value: object) -> bytes:
    """Return a value for `call` to read once Hydra there is as it is here.

    Hydra runs the modules of plugins anew. What was made of the classes of before comes back with their whole code.
    """
    import cloudpickle

    return bytes(cloudpickle.dumps(value))


@functools.lru_cache(1)
def _known(common: bytes) -> tuple[HydraContext, TaskFunction]:
    """Return what carries a job out, and have Hydra here be as it is where the job comes from.

    It looks for all plugins then, which takes a third of a short run.
    """
    context, function, state = pickle.loads(common)
    Singleton.set_state(state)
    return context, function


def call(common: bytes, own: bytes, whole: bool) -> JobReturn:
    """Run one job, as Hydra's own launchers do in their processes, and return what came of it.

    Its configs, and of a result what lies in its folder too, come along only if it is wanted `whole`: a thousand would
    fill the memory of who asked.
    """
    setup_globals()
    context, function = _known(common)
    config: DictConfig = pickle.loads(own)
    for text in _HELP:
        OmegaConf.update(config, f"hydra.{text}", "")
    done = run_job(
        hydra_context=context,
        task_function=function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)  # closes the job's log
    if not whole:
        done.cfg = done.hydra_cfg = None
        if isinstance(result := done._return_value, Result):
            done.return_value = replace(result, choices={}, metrics={}, images={})
    return done

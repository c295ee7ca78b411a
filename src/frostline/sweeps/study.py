"""The study of one cell: Optuna, asked for trials and told what came of them, with a file in the sweep's folder.

Every trial is drawn by a sampler of its own, seeded by its number, so that a study that goes on after a kill suggests
what it would have suggested; and a trial is in the file in whole, or not at all.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, get_storage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from frostline.core import credentials, files, locks
from frostline.core.config import Config, SearchConfig
from frostline.core.errors import user_error
from frostline.core.objectives import Objective, several
from frostline.records import layout
from frostline.sweeps import search_space
from frostline.sweeps.search_budget import NOTHING, Spent

optuna.logging.set_verbosity(optuna.logging.ERROR)
_SAMPLERS: dict[str, type[BaseSampler]] = {
    "random": optuna.samplers.RandomSampler,
    "qmc": optuna.samplers.QMCSampler,
    "tpe": optuna.samplers.TPESampler,
    "gp": optuna.samplers.GPSampler,
    "cmaes": optuna.samplers.CmaEsSampler,
}
INDEPENDENT = ("random", "qmc")
"""Samplers to which no trial's result matters, so that all trials can be asked for at once."""
_SEEDS = 2**16  # more trials than a study has, so that those of two seeds do not draw the same
_OVER = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


class Study:
    """Owner of one study in a storage."""

    def __init__(self, storage: Storage, name: str, config: Config, space: Mapping[str, BaseDistribution]) -> None:
        """Open the study `name`, or create it, for the runs that have `config` but for what is in `space`."""
        self.name, self._search, self._space, self._storage = name, config.search, dict(space), storage
        self._objectives = objectives_of(config)
        self._study = optuna.create_study(
            storage=storage.backend,
            pruner=pruner(config),
            study_name=name,
            directions=[one.direction for one in self._objectives],
            load_if_exists=True,
        )

    def trials(self) -> list[FrozenTrial]:
        """Return all trials, in the order of their numbers."""
        return self._study.get_trials(deepcopy=False)

    def ask(self) -> tuple[int, dict[str, Any]]:
        """Return the number and the values of a new trial."""
        self._study.sampler = sampler(self._search, len(self.trials()))
        with self._storage.in_whole():
            trial = self._study.ask()
            values = {key: search_space.suggest(trial, key, values) for key, values in self._space.items()}
        return trial.number, values

    def asked(self, number: int) -> dict[str, Any]:
        """Return the values of a trial that is there; those that are missing in a database after a kill are drawn."""
        frozen = self.trials()[number]
        if frozen.params.keys() == self._space.keys():
            return {key: frozen.params[key] for key in self._space}
        trial = self._trial(frozen)
        return {key: search_space.suggest(trial, key, values) for key, values in self._space.items()}

    def tell(
        self,
        number: int,
        values: Sequence[float] | None,
        state: TrialState,
        epochs: Sequence[float] = (),
        spent: Spent = NOTHING,
    ) -> None:
        """Write what came of a trial, unless that is known: a value of each objective, and what it took.

        `epochs` are the values that led there, if they matter.
        """
        frozen = self.trials()[number]
        if frozen.state in _OVER:
            return
        for name, amount in asdict(spent).items():
            self._storage.backend.set_trial_user_attr(frozen._trial_id, name, amount)
        if missing := [*range(len(frozen.intermediate_values), len(epochs))]:
            trial = self._trial(frozen)
            for epoch in missing:
                trial.report(epochs[epoch], epoch + 1)
        self._study.tell(number, values, state)

    def spent(self) -> list[Spent | None]:
        """Return what each trial took, in the order of their numbers; None for those that are not over."""
        return [_spent(trial) if trial.state in _OVER else None for trial in self.trials()]

    def over(self, number: int) -> bool:
        """Return whether it is known what came of a trial."""
        return self.trials()[number].state in _OVER

    def best(self) -> FrozenTrial | None:
        """Return the best trial of those that were not stopped early; None where there is none.

        Of several objectives it is the best on the Pareto front by the first one.
        """
        sign = self._objectives[0].sign
        return max(self._study.best_trials, key=lambda one: (sign * one.values[0], -one.number), default=None)

    def judge(self, number: int) -> Callable[[int, float], bool]:
        """Return what is told each epoch of a trial with its value, and says whether the trial is to stop there."""
        trial = self._trial(self.trials()[number])
        told = set(self.trials()[number].intermediate_values)

        def stops(epoch: int, value: float) -> bool:
            if epoch not in told:  # by what was killed since
                trial.report(value, epoch)
            return bool(trial.should_prune())

        return stops

    def _trial(self, frozen: FrozenTrial) -> Trial:
        """Return a trial to report to, without drawing anything."""
        self._study.sampler = optuna.samplers.RandomSampler()
        return Trial(self._study, frozen._trial_id)


def objectives_of(config: Config) -> list[Objective]:
    """Return what a search looks for, one or several."""
    return several(config.search.objective or [config.select])


def _spent(trial: FrozenTrial) -> Spent:
    """Return what a trial took that is over."""
    return Spent(**{one.name: trial.user_attrs.get(one.name, 0.0) for one in fields(Spent)})


def judge_of(config: Config, sweep: Path, name: str, number: int) -> Callable[[int, float], bool]:
    """Return what judges a trial, by its number and the name of its study, in the process that carries it out."""
    return Study(storage_of(config.search, sweep), name, config, {}).judge(number)


class _Lock:
    """A lock that a killed process gives back at once: Optuna's own stay for half a minute."""

    def __init__(self, path: Path) -> None:
        self._path, self._held = path, ExitStack()

    def acquire(self) -> bool:
        self._held.enter_context(locks.held(self._path))
        return True

    def release(self) -> None:
        self._held.close()


@dataclass(frozen=True)
class Storage:
    """Where studies are kept."""

    backend: BaseStorage
    file: Path | None = None
    """The journal, where it is one."""

    @contextmanager
    def in_whole(self) -> Iterator[None]:
        """Have what the block writes to the file be there in whole, or be cut off by who opens it next."""
        if self.file is None:
            yield
            return
        mark = self.file.with_name(layout.STUDY_ASKING)
        files.write(mark, str(self.file.stat().st_size), sync=True)
        yield
        mark.unlink()


def storage_of(search: SearchConfig, folder: Path | None) -> Storage:
    """Return where studies are kept: what `search.storage` says, else a file in the sweep's folder, or memory."""
    if search.storage is not None:
        try:
            return Storage(get_storage(search.storage))
        except Exception as error:  # of whatever library the URL leads to
            why = credentials.scrubbed(" ".join(str(error).split()))[:200]
            expected = f"a storage URL that Optuna can open ({why})"
            raise user_error("search.storage", credentials.scrubbed(search.storage), expected) from None
    if folder is None:
        return Storage(InMemoryStorage())
    file, lock = folder / layout.STUDY, _Lock(folder / layout.STUDY_LOCK)
    return Storage(JournalStorage(JournalFileBackend(str(file), lock)), file)  # type: ignore[arg-type]


def mend(folder: Path) -> None:
    """Cut off what a killed process left unfinished of the studies of a sweep: a trial as it was asked for, a line."""
    file, mark = folder / layout.STUDY, folder / layout.STUDY_ASKING
    if not file.exists():
        return
    if mark.exists():
        os.truncate(file, int(mark.read_text()))
        mark.unlink()
    content = file.read_bytes()
    if (whole := content.rfind(b"\n") + 1) < len(content):  # Optuna would add the next line to it
        os.truncate(file, whole)


def sampler(search: SearchConfig, number: int) -> BaseSampler:
    """Return the sampler that draws the trial `number`; raises UserError for options that it does not have.

    A quasi-random sequence is one for all trials, which remember how far it is; others draw anew for each.
    """
    seed = search.seed if search.name == "qmc" else search.seed * _SEEDS + number
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            return _SAMPLERS[search.name](seed=seed, **search.options)  # type: ignore[call-arg]
        except (TypeError, ValueError) as error:
            expected = f"keyword arguments of Optuna's {_SAMPLERS[search.name].__name__} ({error})"
            raise user_error("search.options", search.options, expected) from None


def pruner(config: Config) -> BasePruner:
    """Return what stops trials early; Hyperband's rungs are epochs, and it acts as soon as one is reached (ASHA)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match config.search.prune:
            case "median":
                return optuna.pruners.MedianPruner(n_warmup_steps=2)  # one epoch says little
            case "hyperband":
                return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=config.epochs)
            case "wilcoxon":
                return optuna.pruners.WilcoxonPruner()
            case _:
                return optuna.pruners.NopPruner()

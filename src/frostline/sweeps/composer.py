"""Compose jobs with Hydra; jobs that differ only in plain values are composed once, and get their own values.

Hydra reads every file of the defaults list again for every job; for two hundred jobs that takes longer than a run. If
the overrides of a job differ from those of an earlier job only in numbers, strings and booleans, it gets the config of
that job with these values in it. A config of Hydra still takes 200 kB and 10 ms, one of ours a twentieth.
"""

from __future__ import annotations

import functools
import pickle
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from frostline.core import files
from frostline.core.config import Config
from frostline.core.config_keys import value_of
from frostline.core.errors import user_error
from frostline.core.validation import changed
from frostline.sweeps import hydra_keys
from frostline.sweeps.job_config import config_of

try:
    from hydra._internal.config_loader_impl import get_overrides_dirname
except ImportError:  # a private function: without it Hydra composes every job
    get_overrides_dirname = None  # type: ignore[assignment]

_NO_KEYS = re.compile(r"\$\{(project_root:|now:[^${}]*|hydra:job\.num)\}")
_PLAIN = (int, float, str, bool)


@dataclass(frozen=True)
class Composed:
    """The config and the folders of a job."""

    config: Config
    sweep: str
    """The sweep's folder, as Hydra has it."""
    folder: str
    """The folder of the job within it."""
    hydra_options: tuple[str, ...]
    """What was typed for Hydra, beside its overrides: config folders and keys of the launcher."""


class Composer:
    """Composes jobs with the same results as `whole`, which it calls only for the first job of each kind."""

    def __init__(self, whole: Callable[[Sequence[str]], DictConfig]) -> None:
        """Compose with `whole`, which returns the config of a job, given its overrides."""
        self._whole = whole
        parser = OverridesParser.create()
        self._parsed = functools.cache(lambda one: parser.parse_overrides([one])[0])
        self._groups: set[str] = set()
        self._templates: dict[tuple[str, ...], _Template] = {}
        self._first: dict[tuple[str, ...], Composed] = {}

    def __call__(self, job: Sequence[str]) -> DictConfig:
        """Return the config of a job; raises what Hydra raises."""
        if get_overrides_dirname is None:
            return self._whole(job)
        overrides = [*map(self._parsed, job)]
        if (template := self._templates.get(self._kind(overrides))) is not None:
            with suppress(Exception):  # let Hydra report a value that does not fit
                return template.filled(overrides)
        composed = self._whole(job)
        self._groups.update(map(str, composed.hydra.runtime.choices))
        plain = frozenset(override.key_or_group for override in overrides if self._is_plain(override))
        self._templates[self._kind(overrides)] = _Template(pickle.dumps(composed), plain, _is_independent(composed))
        return composed

    def job(self, overrides: Sequence[str], number: int) -> Composed:
        """Return our config and the folders of the job with this `number`; UserError for values that no run can have.

        A config of Hydra is composed only if none of an earlier job serves.
        """
        if (found := self._alike(overrides, number)) is not None:
            return found
        composed = self(overrides)
        found = read(composed, overrides, number)
        if hydra_keys.subdir(composed) is None:
            self._first.setdefault(self._kind([*map(self._parsed, overrides)]), found)
        return found

    def _alike(self, overrides: Sequence[str], number: int) -> Composed | None:
        """Return the job as an earlier one of its kind with other plain values; None where Hydra must compose it.

        That is for the first of a kind, and if other values in our part of the config depend on these values.
        """
        parsed = [*map(self._parsed, overrides)]
        kind = self._kind(parsed)
        template, first = self._templates.get(kind), self._first.get(kind)
        if template is None or first is None or not template.independent:
            return None
        values = {one.key_or_group: one.value() for one in parsed if one.key_or_group in template.plain}
        own = {key: _as_typed(value, first.config, key) for key, value in values.items()}
        if None in own.values() or any(key.endswith(".name") for key in own):
            return None  # leave conversions and errors to Hydra; a name may belong to another option
        return Composed(changed(first.config, own), first.sweep, str(number), first.hydra_options)

    def _kind(self, overrides: Sequence[Override]) -> tuple[str, ...]:
        """Return the key of a kind: the overrides, without the values of plain ones."""
        return tuple(one.key_or_group if self._is_plain(one) else str(one.input_line) for one in overrides)

    def _is_plain(self, override: Override) -> bool:
        """Return whether an override sets an existing key of ours, not a group, to a plain value without `${...}`."""
        value = override.value()
        return (
            override.type is OverrideType.CHANGE
            and override.package is None
            and not override.is_hydra_override()
            and override.key_or_group not in self._groups
            and isinstance(value, _PLAIN)
            and "${" not in str(value)
        )


def _is_independent(composed: DictConfig) -> bool:
    """Return whether our part of a config, and the folder of its run, contain no interpolation of other keys.

    The time of the sweep, the root of the project and the number of the job are not keys.
    """
    ours = {str(key): node for key, node in composed.items_ex(resolve=False) if key != "hydra"}
    place = OmegaConf.to_container(composed.hydra.sweep, resolve=False)
    told = [OmegaConf.to_container(node) if OmegaConf.is_config(node) else node for node in ours.values()]
    return "${" not in repr(told) and "${" not in _NO_KEYS.sub("", repr(place))


@dataclass(frozen=True)
class _Template:
    """The config that Hydra composed for the first job of a kind."""

    config: bytes
    """Pickled: reading it is six times as fast as copying a config."""
    plain: frozenset[str]
    """The keys whose values differ from job to job."""
    independent: bool
    """Whether no other value in it depends on them."""

    def filled(self, overrides: Sequence[Override]) -> DictConfig:
        """Return the config with the values of `overrides`, as if Hydra had composed it; raises for a wrong type."""
        config: DictConfig = pickle.loads(self.config)
        for override in overrides:
            if override.key_or_group in self.plain:
                if not isinstance(OmegaConf.select(config, override.key_or_group), _PLAIN):
                    raise TypeError(override.key_or_group)
                OmegaConf.update(config, override.key_or_group, override.value())
        ours = [override for override in overrides if not override.is_hydra_override()]
        config.hydra.overrides.task = [override.input_line for override in ours]
        how = config.hydra.job.config.override_dirname
        config.hydra.job.override_dirname = get_overrides_dirname(
            overrides=ours, kv_sep=how.kv_sep, item_sep=how.item_sep, exclude_keys=how.exclude_keys
        )
        return config


def _as_typed(value: Any, config: Config, key: str) -> Any:
    """Return a value with the type that `config` has at the dotted key; None if Hydra must convert or refuse it.

    Values inside a mapping, such as `optimizer.options`, keep the type that was typed.
    """
    before, (section, _, _) = value_of(config, key), key.rpartition(".")
    if type(before) is float and type(value) is int and not isinstance(value_of(config, section), Mapping):
        return float(value)
    return value if type(value) is type(before) else None


def read(composed: DictConfig, overrides: Sequence[str], number: int) -> Composed:
    """Return the checked config and folders of job `number` from Hydra's config; UserError for impossible values."""
    chosen = composed.hydra.runtime.choices
    if any(override.startswith("freeze=") for override in overrides) and chosen.freeze != chosen.freeze_mode:
        expected = f"one of the two only, or the same as freeze_mode={chosen.freeze_mode}"
        raise user_error("freeze", chosen.freeze, expected)
    with read_write(composed), open_dict(composed):
        composed.hydra.job.id = composed.hydra.job.num = number
    with _current(composed):
        config = config_of(composed)
        _require_own_names(composed)
        place = composed.hydra.sweep
        folder, options = str(PurePosixPath(str(place.subdir))), tuple(hydra_keys.hydra_options(composed.hydra))
        return Composed(config, str(place.dir), folder, options)


def _require_own_names(composed: DictConfig) -> None:
    """Raise `UserError` if a chosen option of a group carries the name of another option, and would be taken for it.

    That happens with a config file copied from a similar one, and with `freeze_mode.name=full` on the command line.
    The names are those of Hydra's config: a solved head's `Config` has the defaults of groups that it does not read.
    """
    hydra = composed.hydra.runtime
    places = [source.path for source in hydra.config_sources if source.schema == "file"]
    for group in ("freeze_mode", "schedule", "augment", "data"):
        name, option = str(composed[group].name), hydra.choices.get(group)
        if option not in (None, name) and any(files.readable(Path(place, group, f"{name}.yaml")) for place in places):
            expected = f"a name of its own, since this is {group}={option}; {group}={name} is another option"
            raise user_error(f"{group}.name", name, expected)


@contextmanager
def _current(composed: DictConfig) -> Iterator[None]:
    """Let `${hydra:...}` read this config within the block."""
    state, before = HydraConfig.instance(), HydraConfig.instance().cfg
    state.cfg = composed  # type: ignore[assignment]
    try:
        yield
    finally:
        state.cfg = before

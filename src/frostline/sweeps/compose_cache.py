"""A cache for composed configs: jobs that differ only in plain values are composed once.

Hydra reads every file of the defaults list again for every job; for two hundred jobs that takes longer than a run. If
the overrides of a job differ from those of an earlier job only in numbers, strings and booleans, it gets the config of
that job with these values in it.
"""

from __future__ import annotations

import functools
import pickle
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf

try:
    from hydra._internal.config_loader_impl import get_overrides_dirname
except ImportError:  # a private function: without it Hydra composes every job
    get_overrides_dirname = None  # type: ignore[assignment]

Compose = Callable[[Sequence[str]], DictConfig]
"""Returns the config of a job, given its overrides."""
_NO_KEYS = re.compile(r"\$\{(project_root:|now:[^${}]*|hydra:job\.num)\}")
_PLAIN = (int, float, str, bool)


class Composer:
    """Composes jobs with the same results as `whole`, which it calls only for the first job of each kind."""

    def __init__(self, whole: Compose) -> None:
        self._whole = whole
        parser = OverridesParser.create()
        self._parsed = functools.cache(lambda one: parser.parse_overrides([one])[0])
        self._groups: set[str] = set()
        self._templates: dict[tuple[str, ...], _Template] = {}
        self._done: dict[tuple[str, ...], DictConfig] = {}

    def __call__(self, job: Sequence[str]) -> DictConfig:
        """Return the config of a job, the same object on every call; raises what Hydra raises."""
        if (found := self._done.get(tuple(job))) is None:
            found = self._done[tuple(job)] = self._compose(job)
        return found

    def forget(self, job: Sequence[str]) -> None:
        """Drop the config of a job, which is composed again on the next call."""
        self._done.pop(tuple(job), None)

    def alike(self, job: Sequence[str]) -> tuple[tuple[str, ...], dict[str, Any]] | None:
        """Return the kind of a job, and its own plain values by key, if a job of this kind was composed before.

        None for the first job of a kind, and if other values in our part of the config depend on these values.
        """
        overrides = [*map(self._parsed, job)]
        template = self._templates.get(kind := self._kind(overrides))
        if template is None or not template.independent:
            return None
        return kind, {one.key_or_group: one.value() for one in overrides if one.key_or_group in template.plain}

    def kind(self, job: Sequence[str]) -> tuple[str, ...]:
        """Return a key that is the same for all jobs of a kind."""
        return self._kind([*map(self._parsed, job)])

    def _compose(self, job: Sequence[str]) -> DictConfig:
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

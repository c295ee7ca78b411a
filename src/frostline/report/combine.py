"""The runs of several sweeps combined into one: finished, failed, running and waiting runs alike."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from frostline.core import untrusted
from frostline.core.config_keys import differing, flatten, is_implied, is_read, is_semantic
from frostline.core.errors import UserError
from frostline.records import layout, provenance, trial_tags
from frostline.records.result import Result, choices_text
from frostline.records.sweep_record import RecordedSweep
from frostline.report import command_line
from frostline.report.cells import FOLD, FOLDS, REPEATS, SUBSET, is_of_data

_PHASES = "freeze_mode.phases"
_OPTIONS = "optimizer.options."
_LONGEST = 60  # characters of the rules that tell freeze modes of one name apart
_GROUPS = ("model", "freeze_mode", "optimizer", "schedule", "augment", "data")


def merged(sweeps: Sequence[RecordedSweep]) -> list[Result]:
    """Return the runs of several sweeps as if they were one: keys that differ between sweeps become choices too.

    Freeze modes of one name with different rules, as in two files of a user, are told apart by their rules, and studies
    of one name by the settings in which their sweeps differ. Of a run that was done twice with the same seed, the one
    that finished last counts. Of what was typed for a run, only what decides its result is kept.
    """
    if len(sweeps) == 1:
        return list(sweeps[0].results)
    results = [result for sweep in sweeps for result in sweep.results]
    configs = _with_options([_config(Path(result.folder)) for result in results])
    results = _with(results, _options(results, configs))
    results = _with(results, _rules(results, configs))
    keys = [key for key in _differing(configs) if not _told_by_name(key, results, configs)]
    known = {name for result in results for name in result.choices}
    keys = list(dict.fromkeys([*keys, *sorted(known - {"seed"})]))
    full = [
        replace(result, choices=_choices(result, config, keys)) for result, config in zip(results, configs, strict=True)
    ]
    origins = [number for number, sweep in enumerate(sweeps) for _ in sweep.results]
    full = _with(full, _fingerprints(full, origins))
    full = _with(full, _studies(full, origins))
    last: dict[str, Result] = {}
    for result in sorted(full, key=lambda result: result.status == "FINISHED"):
        last[repr(sorted(result.choices.items()))] = result
    return [
        replace(result, job=number, command=command_line.deciding(result))
        for number, result in enumerate(last.values())
    ]


def _with(results: Sequence[Result], more: Iterable[Mapping[str, Any]]) -> list[Result]:
    """Return the runs with `more` choices, a mapping for each run."""
    return [replace(run, choices={**run.choices, **choices}) for run, choices in zip(results, more, strict=True)]


def _choices(result: Result, config: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Return the choices of a run, completed by those of `keys` that its config has.

    Lists are given as they are typed on the command line. A run without folds has no fold, and without a seed of the
    training images it has that of the splits, which drew them.
    """
    there = {key: config[key] for key in keys if key in config and (key != FOLD or config.get(FOLDS) is not None)}
    if SUBSET in there and there[SUBSET] is None:
        there[SUBSET] = config.get("data.split_seed")
    found = {key: "null" if value is None else value for key, value in there.items()}
    lists = {key: command_line.for_hydra(value) for key, value in found.items() if isinstance(value, list)}
    return {**found, **result.choices, **lists}


def _with_options(configs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the configs, with None, the optimizer's default, for options of the optimizer that only other runs set."""
    options = dict.fromkeys(key for config in configs for key in config if key.startswith(_OPTIONS))
    return [{**options, **config} if "optimizer.name" in config else config for config in configs]


def _options(results: Sequence[Result], configs: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the choices of each run that name its network and data by option, where some sweep does.

    A sweep over `model` states the option, e.g. `dinov2_small`, and any other sweep its `model.name`.
    """
    sections = [{group: _section(group, config) for group in ("model", "data")} for config in configs]
    known: dict[str, Any] = {}
    for result, config, own in zip(results, configs, sections, strict=True):
        for group, section in own.items():
            if section and result.choices.get(group, name := config.get(f"{group}.name")) != name:
                known.setdefault(section, result.choices[group])
    for own in sections:
        yield {group: known[section] for group, section in own.items() if section in known}


def _section(group: str, config: Mapping[str, Any]) -> str:
    """Return the settings of a group as text, empty if there are none."""
    found = sorted((key, value) for key, value in config.items() if key.startswith(f"{group}."))
    return repr(found) if found else ""


def _rules(results: Sequence[Result], configs: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, str]]:
    """Yield the choice of each run's freeze mode: with its rules after its name where several modes share that name."""
    known: dict[str, dict[str, str]] = {}
    for result, config in zip(results, configs, strict=True):
        if isinstance(phases := config.get(_PHASES), list):
            known.setdefault(repr(result.choices.get("freeze_mode")), {})[repr(phases)] = _learning(phases)
    for result, config in zip(results, configs, strict=True):
        mode, content = result.choices.get("freeze_mode"), repr(config.get(_PHASES))
        texts = known.get(repr(mode), {})
        if len(texts) < 2 or content not in texts:  # as of a config that cannot be read
            yield {}
            continue
        same = [*texts.values()].count(texts[content]) > 1
        more = f" {hashlib.sha256(content.encode()).hexdigest()[:6]}" if same else ""
        yield {"freeze_mode": f"{mode} ({texts[content]}{more})"}


def _learning(phases: Sequence[Any]) -> str:
    """Return the learning patterns of each phase as text, cut if too long, e.g. `head/* stage4/*:0.1, then *`."""
    each = []
    for phase in phases:
        rules = phase.get("rules") if isinstance(phase, dict) else None
        known = [rule for rule in (rules if isinstance(rules, list) else ()) if isinstance(rule, dict)]
        scales = [(str(rule.get("match")), rule.get("lr_scale", 1)) for rule in known]
        each.append(" ".join(match if scale == 1 else f"{match}:{scale}" for match, scale in scales if scale != 0))
    text = ", then ".join(each)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _fingerprints(results: Sequence[Result], origins: Sequence[int]) -> list[dict[str, str]]:
    """Return the choice `data.fingerprint` of each run where the same data settings stood for different images.

    The images of a folder may change between sweeps, but not within one sweep; `origins` are the numbers of the sweeps.
    Folds and draws take different parts of the same images, and all get the fingerprint of the first of them.
    """
    prints: dict[tuple[int, str], dict[str, str]] = {}
    found: dict[tuple[str, str], set[str]] = {}
    places = [(origin, _data_settings(result)) for origin, result in zip(origins, results, strict=True)]
    for place, result in zip(places, results, strict=True):
        if fingerprint := _fingerprint(Path(result.folder)):
            part = repr([result.choices.get(name) for name in (FOLD, SUBSET)])
            prints.setdefault(place, {})[part] = fingerprint[:8]
            found.setdefault((place[1], part), set()).add(fingerprint)
    changed = {settings for (settings, _), several in found.items() if len(several) > 1}
    told = {place: own[min(own)] for place, own in prints.items()}
    return [{"data.fingerprint": told.get(place, "unknown")} if place[1] in changed else {} for place in places]


def _studies(results: Sequence[Result], origins: Sequence[int]) -> list[dict[str, str]]:
    """Return the study of each run: with settings after its name where sweeps searched others by that name."""
    places = [(result.choices.get(trial_tags.STUDY), origin) for result, origin in zip(results, origins, strict=True)]
    settings: dict[str, dict[int, dict[str, Any]]] = {}
    for result, (study, origin) in zip(results, places, strict=True):
        if study is not None:
            settings.setdefault(study, {}).setdefault(origin, {}).update(result.choices)
    names: dict[tuple[str | None, int], str] = {}
    for study, known in settings.items():
        searched = {key for choices in known.values() for key in choices.get(trial_tags.SPACE, {})}
        others = {*trial_tags.MARKS, *REPEATS, *searched}
        keys = [key for key in differing([*known.values()]) if key not in others]
        names |= {(study, at): f"{study} {choices_text(choices, keys)}".rstrip() for at, choices in known.items()}
    return [{trial_tags.STUDY: names[place]} if place in names else {} for place in places]


def _data_settings(result: Result) -> str:
    return repr(sorted((key, value) for key, value in result.choices.items() if is_of_data(key)))


def _fingerprint(folder: Path) -> str | None:
    """Return the fingerprint of a run's data; None where the run ended before it read them."""
    match provenance.read(folder):
        case {"data": {"fingerprint": fingerprint}}:
            return str(fingerprint)
    return None


def _config(folder: Path) -> dict[str, Any]:
    """Return the config keys that decided a run, flat; empty where the config cannot be read."""
    try:
        values = untrusted.plain(folder / layout.CONFIG)
    except UserError:
        return {}
    found = flatten(values) if isinstance(values, dict) else {}
    return {key: value for key, value in found.items() if is_read(key, found.get("freeze_mode.solver"))}


def _differing(configs: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the keys whose values differ, except rules of freeze modes and lists of data.

    The rules are part of a freeze mode's name, and lists of data (names of classes) of the data's fingerprint.
    """
    return differing([{key: value for key, value in config.items() if _counts(key, value)} for config in configs])


def _counts(key: str, value: object) -> bool:
    return not (key == _PHASES or isinstance(value, dict) or (isinstance(value, list) and key.startswith("data.")))


def _told_by_name(key: str, results: Sequence[Result], configs: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a choice with a short name implies the value of `key`, as `model` implies `model.name`.

    `data` implies any key that has one value in all runs on data of that name, but not a `data.limit` of some of them.
    """
    group, _, rest = key.partition(".")
    if key == FOLDS:
        return False
    if not is_semantic(key) and key != "data.root":  # another root may hold other images
        return True
    if group not in _GROUPS or rest == "name":
        return group in _GROUPS
    return is_implied(key, [result.choices for result in results], configs)

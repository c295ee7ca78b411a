"""User errors: one line that names the key, the value, what was expected and the nearest right name."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

from frostline.core.config import Config


class UserError(ValueError):
    """A mistake in the command or in the user's files: shown as one line, without a traceback; exit status 2."""

    def __init__(self, line: str) -> None:
        """Take the line; characters that cannot be printed, e.g. from a foreign record, are escaped."""
        super().__init__("".join(s if s.isprintable() else s.encode("unicode_escape").decode() for s in str(line)))


_GROUPS = ("freeze", "experiment")  # command-line options that are not keys of the schema
_SYNONYMS = {
    "augment": "augmentation augmentations transform transforms",
    "batch_size": "batch bs",
    "data.root": "data.path data.dir data_dir data_path",
    "data.test_fraction": "test_size test_split",
    "data.val_fraction": "val_size val_split",
    "devices": "gpus num_gpus",
    "device": "gpu",
    "epochs": "num_epochs max_epochs",
    "full": "none fine_tune finetune fine_tuning finetuning",
    "head": "backbone feature_extraction linear",
    "hyperband": "asha",
    "lr": "learning_rate",
    "model": "arch architecture backbone network",
    "model.image_size": "input_size",
    "model.weights": "pretrained checkpoint model.pretrained model.checkpoint",
    "optimizer.weight_decay": "optimizer.wd wd",
    "precision": "amp fp16 bf16",
    "select": "metric monitor",
    "tpe": "bayes bayesian optuna",
    "train.patience": "early_stopping",
}
"""Names of keys and options that other programs have for ours; one name may mean a key, and another option."""
NOTHING = "a value, and there is none: an empty shell variable?"
"""The expectation that an error names for a flag with an empty value."""
_DELETED = "(nothing)"
"""The value that an error shows for a deleted key."""
_LONGEST = 300  # characters of a value that an error shows


def user_error(key: str, value: object, expected: str, choices: Iterable[str] = ()) -> UserError:
    """Return an error with the line `key=value: expected …` and the nearest of `choices`."""
    near = "; nothing is written null" if means_null(value) and _optional(key) else _hint(str(value), choices)
    return UserError(f"{key}={_shown(value)}: expected {expected}{near}")


def unknown_key(key: str, value: object, options: Iterable[str] = ()) -> UserError:
    """Return the error for a key that the schema lacks, with the nearest key of the schema or `options`."""
    known = [*keys(), *options]
    elsewhere = [one for one in known if one.rpartition(".")[2] == key.rpartition(".")[2]]  # such as search.trials
    near = _hint(key, elsewhere, cutoff=0.0) if elsewhere and not _meant(key, known) else _hint(key, known)
    return UserError(f"{_shown(key)}={_shown(value)}: expected a key of the config, see --help{near}")


def unknown_option(key: str, value: object, owner: str, known: Iterable[str]) -> UserError:
    """Return the error for a dotted key whose last part is no option of `owner`, with the nearest of the keys `known`.

    These are written as they are typed, with a `+` if the config lacks them.
    """
    by_name = {full.rpartition(".")[2]: full for full in known}
    options = f"an option of {owner} ({', '.join(by_name)})"
    expected = options if by_name else f"no such key, since {owner} has no options"
    near = _nearest(key.rpartition(".")[2], by_name)
    hint = f"; did you mean {by_name[near]}?" if near else ""
    return UserError(f"{_shown(key)}={_shown(value)}: expected {expected}{hint}")


def deleted_key(key: str) -> UserError:
    """Return the error for a key that the command deletes: the schema lacks it, or every run needs it."""
    if key not in keys():
        return unknown_key(key, _DELETED)
    return user_error(key, _DELETED, "a value; it must not be deleted")


@contextmanager
def named(**names: str) -> Iterator[None]:
    """Rename keys in a `UserError` that the block raises, e.g. to a flag: `named(output="--output")`."""
    try:
        yield
    except UserError as error:
        key, equals, rest = str(error).partition("=")
        raise UserError(f"{names.get(key, key)}{equals}{rest}") if equals else error from None


def one_line(error: BaseException) -> str:
    """Return an error's message as one line of at most 200 characters, or its type if it has no message."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, at most 200 characters, or its type if it has no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def first_few(texts: Sequence[str], separator: str = ", ", *, most: int = 3) -> str:
    """Return the first `most` of `texts`, joined, and `...` for more."""
    return separator.join([*texts[:most], *(["..."] if len(texts) > most else [])])


def means_null(value: object) -> bool:
    """Return whether `value` means null in another language, e.g. Python's `None`, or is empty."""
    return isinstance(value, str) and value.strip().lower() in ("none", "nil", "undefined", "''", '""', "")


def _optional(key: str) -> bool:
    """Return whether the schema allows null for the dotted `key`."""
    hint: Any = Config
    for part in key.split("."):
        hint = get_type_hints(hint).get(part) if is_dataclass(hint) else None
    return type(None) in get_args(hint)


def keys(cls: type = Config, prefix: str = "") -> list[str]:
    """Return every dotted key of the command line, sections included."""
    found = [] if prefix else [*_GROUPS]
    for item in fields(cls):
        found.append(prefix + item.name)
        hint = get_type_hints(cls)[item.name]
        if is_dataclass(hint):
            found += keys(hint, f"{prefix}{item.name}.")  # type: ignore[arg-type]
    return found


def _shown(value: object) -> str:
    """Return `value` as text, cut to `_LONGEST`: a foreign record may hold megabytes."""
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _hint(typed: str, choices: Iterable[str], cutoff: float = 0.5) -> str:
    """Return `; did you mean ...?` with the one of `choices` most like `typed`; empty if none is."""
    near = _nearest(typed, choices, cutoff)
    return f"; did you mean {near}?" if near else ""


def _nearest(typed: str, choices: Iterable[str], cutoff: float = 0.5) -> str | None:
    """Return the one of `choices` most like `typed`, ignoring case; None if none is."""
    by_lower = {choice.lower(): choice for choice in choices}
    typed = _meant(typed, by_lower) or typed.lower()
    longer = [choice for choice in by_lower if choice.startswith(typed)]
    near = difflib.get_close_matches(typed, longer or by_lower, n=1, cutoff=cutoff)
    return by_lower[near[0]] if near else None


def _meant(typed: str, choices: Collection[str]) -> str | None:
    """Return the one of `choices` that another program calls `typed`; None if it is no such name."""
    return next((one for one, others in _SYNONYMS.items() if typed.lower() in others.split() and one in choices), None)

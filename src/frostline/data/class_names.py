"""Checks of class names: several spellings of one class, and classes that differ between splits."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable

from frostline.core.errors import UserError, user_error
from frostline.data.names import is_text, printable, some


def check_names(names: Iterable[str], top: object) -> None:
    """Raise `UserError` if a name is not text, or two differ only in case, blanks or Unicode normalisation."""
    names = list(names)
    if odd := [name for name in names if not is_text(name)]:
        raise user_error("data.root", top, f"class names that are a line of UTF-8 text, not {some(odd)}")
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.setdefault(_meant(name), name)) != name:
            both = f"{spelled(other)} and {spelled(name)}"
            raise user_error("data.root", top, f"one spelling for each class, not {both}; join or rename them")


def check_classes(split: str, found: Collection[str], trained: Collection[str], root: object, missing: str) -> None:
    """Raise `UserError` if a split has a class that train lacks, or lacks one and `missing` is `refuse`."""
    extra, lost = sorted(set(found) - set(trained)), sorted(set(trained) - set(found))
    if not extra and not (lost and missing == "refuse"):
        return
    if {_meant(name) for name in extra} & {_meant(name) for name in lost}:
        odd = ", ".join(map(spelled, extra + lost))
    else:
        odd = some(sorted(extra + lost))
    hint = "" if extra else f"; data.missing_classes=ok allows {split} to lack some"
    raise UserError(
        f"{user_error('data.root', root, f'the same classes in train and {split}; they differ in {odd}')}{hint}"
    )


def spelled(name: str) -> str:
    """Return a name in quotes, with the code points of its characters beyond ASCII, which may look like others."""
    points = [f"U+{ord(sign):04X}" for sign in name if not sign.isascii()]
    return f"'{printable(name)}'" + (f" ({' '.join(points)})" if points else "")


def _meant(name: str) -> str:
    """Return a normal form that all spellings of a name share; of single characters, upper and lower case differ."""
    plain = " ".join(unicodedata.normalize("NFKC", name).split())
    return plain if len(plain) == 1 else unicodedata.normalize("NFKC", plain.casefold())

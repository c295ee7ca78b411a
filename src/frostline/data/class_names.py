"""Names of classes that are meant to be one, and those that a split lacks or that only it has."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable

from frostline.core.errors import UserError, user_error
from frostline.data.names import is_text, printable, some


def check_names(names: Iterable[str], top: object) -> None:
    """Raise `UserError` where a name is no text, or two differ in case, blanks or Unicode's form alone."""
    names = list(names)
    if odd := [name for name in names if not is_text(name)]:
        raise user_error("data.root", top, f"classes whose names are a line of text in UTF-8, not {some(odd)}")
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.setdefault(_meant(name), name)) != name:
            both = f"{spelled(other)} and {spelled(name)}"
            raise user_error("data.root", top, f"one spelling for each class, not {both}; join or rename them")


def check_classes(split: str, found: Collection[str], trained: Collection[str], root: object, missing: str) -> None:
    """Raise `UserError` where a split has a class that train lacks, or lacks one that may not be `missing`."""
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
    """Return a name in quotes, with the code points of what cannot be told from how it looks."""
    points = [f"U+{ord(sign):04X}" for sign in name if not sign.isascii()]
    return f"'{printable(name)}'" + (f" ({' '.join(points)})" if points else "")


def _meant(name: str) -> str:
    """Return what is alike for spellings of one name; single letters are classes of their own in either case."""
    plain = " ".join(unicodedata.normalize("NFKC", name).split())
    return plain if len(plain) == 1 else unicodedata.normalize("NFKC", plain.casefold())

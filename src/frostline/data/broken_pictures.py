"""Pictures that cannot be read: refused by name, or left out where that costs no class and no split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch

from frostline.core.errors import UserError, user_error
from frostline.core.labels import of_class
from frostline.data.names import some
from frostline.data.pixel_cache import Decoded
from frostline.data.splitting import Selection, lost_classes


@contextmanager
def blamed(root: str, damage: Sequence[str]) -> Iterator[None]:
    """Have a mistake that is found in what is left of the data in `root` say first what of it cannot be read."""
    try:
        yield
    except UserError as error:
        if not damage or damage[0] in str(error):
            raise
        several = "; ".join(damage[:3]) + ("; ..." if len(damage) > 3 else "")
        expected = f"pictures and labels that can all be read, but {several}; and with what is left: {error}"
        raise user_error("data.root", root, expected) from None


class BadPictures(UserError):
    """Some pictures cannot be read."""

    reasons: tuple[tuple[str, str], ...] = ()
    """Every one of them by name, and what is wrong with it."""


def leave_out(part: Selection, bad: Mapping[int, str]) -> Selection:
    """Return the pictures of a split without those that are `bad`."""
    if not bad:
        return part
    keep = torch.tensor([index not in bad for index in part.ids.tolist()])
    return replace(part, ids=part.ids[keep])


def broken_of(parts: Mapping[str, Selection], decoded: Mapping[str, Decoded]) -> tuple[tuple[str, str], ...]:
    """Return the pictures of `parts` that are broken, by name, and what is wrong with each."""
    found = []
    for name, part in parts.items():
        bad = decoded[name].bad
        found += [(part.source.name(i), bad[i]) for i in part.ids.tolist() if i in bad]
    return tuple(sorted(found))


def _first_few(reasons: Sequence[tuple[str, str]]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in reasons[:3]) + ("; ..." if len(reasons) > 3 else "")


def require_readable(
    parts: Mapping[str, Selection],
    good: Mapping[str, Selection],
    decoded: Mapping[str, Decoded],
    *,
    root: str,
    skip: bool,
) -> None:
    """Raise `BadPictures` for what is broken in `parts` of the data in `root`.

    With `skip` it is left out, as it is in `good`: then `UserError` where a class of train or a split is lost with it.
    """
    for name, part in parts.items():
        lost = lost_classes(part, good[name])
        if skip and (lost if name == "train" else not len(good[name].ids)):
            gone = [of_class(part.labels, part.source.classes.index(one)) for one in lost] or [part.ids >= 0]
            those = replace(part, ids=part.ids[torch.stack(gone).any(0)])
            each = _first_few(broken_of({name: those}, decoded))
            expected = f"pictures that can be read in {name} of {some(lost)}, but all are broken ({each})"
            raise user_error("data.skip_bad", "true", expected)
    reasons = broken_of(parts, decoded)
    if reasons and not skip:
        count = sum(len(part.ids) for part in parts.values())
        expected = f"pictures that can all be read, but {len(reasons):,} of {count:,} cannot ({_first_few(reasons)})"
        error = BadPictures(f"{user_error('data.root', root, expected)}; data.skip_bad=true leaves them out")
        error.reasons = reasons
        raise error

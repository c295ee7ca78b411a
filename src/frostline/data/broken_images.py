"""Unreadable images: an error that names them, or leaving them out if no class and no split is lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch

from frostline.core.errors import UserError, first_few, user_error
from frostline.core.labels import of_class
from frostline.data.names import some
from frostline.data.open_image import MISSING
from frostline.data.pixel_cache import Decoded
from frostline.data.splitting import Selection, lost_classes


@contextmanager
def blamed(root: str, damage: Sequence[str]) -> Iterator[None]:
    """Prepend the known `damage` of the data in `root` to a `UserError` that the block raises about the rest."""
    try:
        yield
    except UserError as error:
        if not damage or damage[0] in str(error):
            raise
        expected = f"readable images and labels, but {first_few(damage, '; ')}; and with the rest: {error}"
        raise user_error("data.root", root, expected) from None


class BadImages(UserError):
    """Some images cannot be read."""

    reasons: tuple[tuple[str, str], ...] = ()
    """Name and reason of each."""


def leave_out(part: Selection, bad: Mapping[int, str]) -> Selection:
    """Return the images of a split without those that are `bad`."""
    if not bad:
        return part
    keep = torch.tensor([index not in bad for index in part.ids.tolist()])
    return replace(part, ids=part.ids[keep])


def broken_of(parts: Mapping[str, Selection], decoded: Mapping[str, Decoded]) -> tuple[tuple[str, str], ...]:
    """Return name and reason of each broken image of `parts`, sorted."""
    found = []
    for name, part in parts.items():
        bad = decoded[name].bad
        found += [(part.source.name(i), bad[i]) for i in part.ids.tolist() if i in bad]
    return tuple(sorted(found))


def _first_few(reasons: Sequence[tuple[str, str]]) -> str:
    return first_few([f"{name}: {reason}" for name, reason in reasons], "; ")


def require_readable(
    parts: Mapping[str, Selection],
    good: Mapping[str, Selection],
    decoded: Mapping[str, Decoded],
    *,
    root: str,
    skip: bool,
) -> None:
    """Raise `BadImages` for broken images in `parts` of the data in `root`.

    With `skip` they are left out, as in `good`; then raise `UserError` if a class of train, or a split, is lost.
    """
    for name, part in parts.items():
        lost = lost_classes(part, good[name])
        if skip and (lost if name == "train" else not len(good[name].ids)):
            gone = [of_class(part.labels, part.source.classes.index(one)) for one in lost] or [part.ids >= 0]
            those = replace(part, ids=part.ids[torch.stack(gone).any(0)])
            each = _first_few(broken_of({name: those}, decoded))
            expected = f"readable images in {name} of {some(lost)}, but all are broken ({each})"
            raise user_error("data.skip_bad", "true", expected)
    reasons = broken_of(parts, decoded)
    if reasons and not skip:
        count = sum(len(part.ids) for part in parts.values())
        expected = f"images that can all be read, but {len(reasons):,} of {count:,} cannot ({_first_few(reasons)})"
        advice = "data.skip_bad=true leaves them out"
        if len(reasons) == count and all(reason == MISSING for _, reason in reasons):
            advice = "are the paths complete, suffixes included, and relative to the table or to data.options.root?"
        error = BadImages(f"{user_error('data.root', root, expected)}; {advice}")
        error.reasons = reasons
        raise error

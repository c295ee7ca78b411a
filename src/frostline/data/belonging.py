"""Images that belong in one split: copies of an image, and images of one group."""

from __future__ import annotations

import torch
from torch import Tensor

from frostline.core.errors import first_few
from frostline.data.findings import Finding
from frostline.data.names import counted
from frostline.data.open_image import is_passing
from frostline.data.source import Source


def together(source: Source) -> Tensor | None:
    """Return `(N,)` int64: the same number for images that belong in one split, as copies or as a group; else None."""
    alike = _copies(source)
    if alike is None or source.groups is None:
        return source.groups if alike is None else alike
    return _joined(alike, source.groups)


def _joined(alike: Tensor, groups: Tensor) -> Tensor:
    """Return `(N,)` int64: the same number for images that copies and groups connect."""
    from scipy.sparse import coo_array  # a quarter of a second, needed for groups only
    from scipy.sparse.csgraph import connected_components

    images, nodes = torch.arange(len(alike)), len(alike) + groups
    edges = torch.stack([torch.cat([images, images]), torch.cat([alike, nodes])]).numpy()
    size = int(nodes.max()) + 1
    _, found = connected_components(coo_array(([True] * edges.shape[1], edges), (size, size)), directed=False)
    return torch.from_numpy(found[: len(alike)]).long()


def joined_groups(source: Source) -> list[Finding]:
    """Return the finding that copies join groups into larger ones, if any do."""
    groups = source.groups
    if groups is None or (alike := _copies(source)) is None:
        return []
    rows = (groups != groups[alike]).nonzero()[:, 0].tolist()
    if not rows:
        return []

    def shown(row: int) -> str:
        return f"{source.name(row)} of {source.group_name(row)}"

    names = tuple(f"{shown(row)} = {shown(int(alike[row]))}" for row in rows)
    joined = _joined(alike, groups)
    own = joined == torch.stack([joined, groups], 1).unique(dim=0)[:, 0].mode().values  # those of the most groups
    told = counted(len(rows), "image has a copy", "images have copies")
    most = f"up to {len(groups[own].unique())} groups, {int(own.sum()):,} of {len(own):,} images, stay in one split"
    return [Finding(f"{told} in another group ({first_few(names)}): {most}", True, names)]


def _copies(source: Source) -> Tensor | None:
    """Return `(N,)` int64, for each image the first one with the same bytes; None if the source cannot tell.

    Files that are no images join no groups: empty ones occur in many.
    """
    alike = source.first_alike() if source.first_alike is not None else None
    if alike is None or source.groups is None:
        return alike
    joining = alike[source.groups != source.groups[alike]].unique().tolist()
    broken = torch.tensor([first for first in joining if not _opens(source, first)], dtype=torch.int64)
    return torch.where(torch.isin(alike, broken), torch.arange(len(alike)), alike)


def _opens(source: Source, row: int) -> bool:
    try:
        source.read(row).close()
    except Exception as error:  # Pillow may raise anything for a broken file
        return is_passing(error)
    return True

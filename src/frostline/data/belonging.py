"""Images that belong in one split: copies of an image, and images of one group."""

from __future__ import annotations

import torch
from torch import Tensor

from frostline.core.errors import first_few
from frostline.data.findings import Finding
from frostline.data.names import counted
from frostline.data.source import Source


def together(source: Source) -> Tensor | None:
    """Return `(N,)` int64: the same number for images that belong in one split, as copies or as a group; else None."""
    alike, groups = source.copies, source.groups
    if alike is None or groups is None:
        return groups if alike is None else alike
    return _joined(alike, groups)


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
    alike, groups = source.copies, source.groups
    if alike is None or groups is None:
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

"""Resolve the initial weights of a run: a library's, a file's, or those of another run, which are fetched."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from frostline.core.config import Config, ModelConfig
from frostline.core.errors import UserError, user_error
from frostline.core.files import expanded
from frostline.models import lookup
from frostline.models.weights import is_file_name, of_hub
from frostline.records.layout import RUN_PREFIX

Fetch = Callable[[Config, Path], Path]
"""Copies the weights of the run that `model.weights` names into a folder, and returns their file."""


def no_runs(config: Config, folder: Path) -> Path:
    """Raise `UserError`: the `Fetch` of callers without access to records of runs."""
    raise user_error("model.weights", config.model.weights, "a file or a name of weights: runs cannot be fetched here")


def weights_of(config: Config, folder: Path, fetch: Fetch) -> str | None:
    """Return `config.model.weights`; weights of a run are fetched into `folder`, and their file is returned."""
    source = config.model.weights
    if not source or not _is_run(source):
        return source
    (initial := folder / "initial").mkdir(exist_ok=True)
    return str(fetch(config, initial))


@contextmanager
def as_typed(config: Config, source: str | None) -> Iterator[None]:
    """Show `config.model.weights` in a `UserError` of the block, in place of the fetched file `source`."""
    try:
        yield
    except UserError as error:
        typed = config.model.weights
        if not source or not typed or source == typed or source not in str(error):
            raise
        raise UserError(str(error).replace(source, typed)) from None


def of_library(model: ModelConfig) -> Path | None:
    """Return the file of weights that a library offers by name, downloaded if missing; None for all other weights.

    UserError if the download fails, or if its sha256 is not `model.sha256`.
    """
    if model.weights in (None, "glyphs") or on_disk(model.weights):
        return None
    found = lookup.weights_file(model.name, library=model.library, weights=model.weights, sha256=model.sha256)
    return found[0] if found else None


def on_disk(weights: str | None) -> bool:
    """Return whether the weights can be loaded without a download; False for the embedded ones."""
    return weights is not None and (is_file_name(weights) or _is_folder(weights) or weights.startswith(RUN_PREFIX))


def _is_run(weights: str) -> bool:
    return weights.startswith(RUN_PREFIX) or (_is_folder(weights) and of_hub(expanded(weights)) is None)


def _is_folder(weights: str) -> bool:
    return weights != "glyphs" and os.path.isdir(expanded(weights))  # the embedded weights go before a folder's

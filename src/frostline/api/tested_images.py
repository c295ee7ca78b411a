"""The test images of recorded runs by name, with their labels and what each run said of them, as a table."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.core import untrusted
from frostline.core.config import Config
from frostline.core.errors import user_error
from frostline.data.split_names import SEPARATOR
from frostline.records import layout, provenance
from frostline.records.result import Result
from frostline.report import predictions
from frostline.report.cells import REPEATS
from frostline.sweeps import find_weights
from frostline.sweeps.recorded_configs import READ, configs_of, in_place

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from frostline.data.source import Source


def table(results: Sequence[Result], overrides: Sequence[str] = ()) -> pd.DataFrame:
    """Return a row per run and test image: the image, its label, the predicted class, and whether that is right.

    The columns: `seed`, `data.fold` and `data.subset_seed` where the runs differ in them, `image`, `label` (several
    separated by `|`), `group` if the data has groups, `class`, `right`, and the probability of each class, as far as
    the run kept them. The images are listed anew, with `overrides` such as the place of the data. UserError if they are
    not those that were tested, and for a run without predictions.
    """
    import pandas as pd

    differ = [key for key in REPEATS if len({repr(result.choices.get(key)) for result in results}) > 1]
    open_once = _opener()
    parts = []
    for result in results:
        folder = Path(result.folder)
        found = predictions.read(result.folder)
        if found is None:
            raise user_error("run", result.folder, f"a run that was tested, with {layout.PREDICTIONS}")
        (config,) = configs_of([in_place(untrusted.mapping_of(folder / layout.CONFIG), folder)], overrides, READ)
        source = open_once(config, folder)
        parts.append(pd.DataFrame({key: result.choices.get(key) for key in differ} | _columns(source, found)))
    return pd.concat(parts, ignore_index=True)


def _opener() -> Callable[[Config, Path], Source]:
    """Return a function that opens the source of the test images of a run, once for runs of the same data."""
    from frostline.data import loading
    from frostline.report.terminal import Screen
    from frostline.runs.initial_weights import weights_of
    from frostline.runs.run_data import load_data, store_of
    from frostline.runs.setup import input_of

    screen = Screen.silent()
    found: dict[str, tuple[str, Source]] = {}

    def opened(config: Config, folder: Path) -> Source:
        if (key := repr(config.data)) not in found:
            store = store_of(config, screen.say)
            with tempfile.TemporaryDirectory() as fetched:
                spec = input_of(config, weights_of(config, Path(fetched), find_weights.weights))
            fingerprint = load_data(config, spec, store, screen).fingerprint
            found[key] = fingerprint, loading.source_of_each(config.data, store)["test"]
        fingerprint, source = found[key]
        if fingerprint != provenance.read(folder).get("data", {}).get("fingerprint"):
            expected = f"the images that the run in {folder} was tested on, and these are others or have changed"
            raise user_error("data.root", config.data.root, expected)
        return source

    return opened


def _columns(source: Source, found: predictions.Predictions) -> dict[str, Any]:
    """Return the columns of a run's test images."""
    import torch

    from frostline.core.labels import class_names, class_probabilities

    def names(labels: Iterable[Tensor]) -> list[str]:
        return [SEPARATOR.join(class_names(label, source.classes)) for label in labels]

    ids = found.ids.tolist()
    columns: dict[str, Any] = {"image": [source.name(row) for row in ids], "label": names(torch.tensor(found.labels))}
    if source.groups is not None:
        columns["group"] = [source.group_name(row) for row in ids]
    columns |= {"class": names(torch.tensor(found.predicted)), "right": found.right}
    if found.logits is None:
        return columns | {"probability": found.confidence}
    every = class_probabilities(torch.tensor(found.logits), several=found.multi_label).numpy()
    return columns | {f"probability of {name}": every[:, label] for label, name in enumerate(source.classes)}

"""A trained network for notebooks and programs: images in, classes out."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from frostline.api import arguments
from frostline.core import notices, torch_settings
from frostline.core.errors import user_error

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

    from frostline.runs.predict import Predictor
    from frostline.runs.prediction_file import Written

    AnyImage = Path | str | Image.Image | NDArray[np.uint8] | Tensor
    """A file, a PIL image, an array `(H, W, 3)` uint8, or a tensor `(3, H, W)` uint8."""


@dataclass(frozen=True, repr=False)
class Classifier:
    """A trained network with its preprocessing."""

    network: Predictor
    note: str = ""
    """How the network was chosen from a sweep, in one line; empty if it was named directly."""

    def __repr__(self) -> str:
        return f"<Classifier {self.network.model.name}: {len(self.classes)} classes, on {self.network.device}>"

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the network's outputs."""
        return self.network.classes

    def probabilities(self, images: AnyImage | Iterable[AnyImage], *, batch: int | None = None) -> Tensor:
        """Return probabilities `(N, classes)` float32, computed `batch` images at a time; UserError for a bad file."""
        from frostline.runs import predict

        size = None if batch is None else arguments.whole("batch", batch)
        with torch_settings.isolated():
            self.network.prepare()
            return predict.probabilities(self.network, arguments.listed(images), batch=size)

    def predict(self, images: AnyImage | Iterable[AnyImage], *, top: int = 1) -> list[dict[str, float]]:
        """Return for each image its `top` classes with their probabilities, most probable first."""
        from frostline.runs.predict import ranked

        count = arguments.whole("top", top)
        return [ranked(self.classes, row, count) for row in self.probabilities(images)]

    def predict_table(
        self,
        images: Path | str | Iterable[Path | str],
        output: Path | str,
        *,
        top: int = 1,
        per_class: bool = False,
        features: str | None = None,
        batch: int | None = None,
        path: str | None = None,
        root: Path | str | None = None,
    ) -> Written:
        """Classify any number of images into a .parquet, .csv or .jsonl file, and return a summary.

        `images` is a table, a folder, or a list of files and folders. The columns of a table are copied; `path` names
        its column of paths if that has no common name, and `root` the folder that the paths are relative to.
        `per_class` adds a column for the probability of each class, `features` the vectors of a layer: `head` for the
        head's input, or a stage. After an interruption the same call resumes. An unreadable image gets a row with the
        error. UserError for arguments that cannot work.
        """
        from frostline.data.image_list import gather
        from frostline.report.terminal import Screen
        from frostline.runs import prediction_file

        file, count = arguments.place("output", output), arguments.whole("top", top)
        size = self.network.config.eval_batch_size if batch is None else arguments.whole("batch", batch)
        given = arguments.listed(images)
        if not given or not all(isinstance(one, Path | str) for one in given):
            raise user_error("images", reprlib.repr(images), "a table, a folder, or files and folders, by their paths")
        below = None if root is None else str(arguments.place("root", root))
        with torch_settings.isolated():
            self.network.prepare()
            return prediction_file.write(
                self.network,
                file,
                lambda listed: gather(listed, given, say=notices.tell, path=path, root=below),
                top=count,
                per_class=per_class,
                features=features,
                batch=size,
                progress=Screen.beside().progress,
            )

    def export(self, path: Path | str, kind: str | None = None) -> float:
        """Export the network for other programs and return the largest difference of a probability to the original.

        `kind` is `onnx`, `pt2` (of torch.export), `torchscript` or `safetensors`, by default according to the suffix.
        UserError if this network cannot be exported to it.
        """
        from frostline.runs import export
        from frostline.runs.export_formats import SUFFIXES

        file = arguments.place("path", path)
        kinds = {suffix: kind for kind, suffix in SUFFIXES.items()}
        chosen = kinds.get(file.suffix) if kind is None else kind
        if chosen not in [*SUFFIXES]:  # in a list, since `kind` may be unhashable
            raise user_error("kind", kind or file.suffix, f"one of {', '.join(SUFFIXES)}", SUFFIXES)
        with torch_settings.isolated(), arguments.writing("path", file, path):
            self.network.prepare()
            return export.export(self.network, chosen, file)

"""A trained network as a notebook has it: pictures in, classes out."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from frostline.api import arguments
from frostline.core import machine, notices
from frostline.core.errors import user_error

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

    from frostline.runs.predict import Predictor
    from frostline.runs.prediction_file import Written

    AnyPicture = Path | str | Image.Image | NDArray[np.uint8] | Tensor
    """A file; or a picture as Pillow has it, `(H, W, 3)` uint8, or as a tensor `(3, H, W)` uint8."""


@dataclass(frozen=True, repr=False)
class Classifier:
    """A trained network, and how pictures are shown to it."""

    network: Predictor
    note: str = ""
    """What is to be known of the choice of it; empty where there was none."""

    def __repr__(self) -> str:
        return f"<Classifier {self.network.model.name}: {len(self.classes)} classes, on {self.network.device}>"

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of its classes."""
        return self.network.classes

    def probabilities(self, pictures: AnyPicture | Iterable[AnyPicture], *, batch: int | None = None) -> Tensor:
        """Return `(N, classes)` float32; UserError names a file that is no picture. `batch` pictures at once."""
        from frostline.runs import predict

        size = None if batch is None else arguments.whole("batch", batch)
        with machine.torch_as_it_was():
            self.network.prepare()
            return predict.probabilities(self.network, arguments.listed(pictures), batch=size)

    def predict(self, pictures: AnyPicture | Iterable[AnyPicture], *, top: int = 1) -> list[dict[str, float]]:
        """Return for each picture its `top` classes with their probabilities, the most probable first."""
        from frostline.runs.predict import ranked

        count = arguments.whole("top", top)
        return [ranked(self.classes, row, count) for row in self.probabilities(pictures)]

    def predict_table(
        self,
        pictures: Path | str | Iterable[Path | str],
        output: Path | str,
        *,
        top: int = 1,
        features: str | None = None,
        batch: int | None = None,
        path: str | None = None,
        root: Path | str | None = None,
    ) -> Written:
        """Write what any number of pictures show into `output`, .parquet, .csv or .jsonl, and return what came of it.

        `pictures` is a table, a folder, or files and folders. A table's columns are carried along; `path` names the one
        of its paths where it is not called as is common, and `root` the folder that they are relative to. `features` is
        the layer whose vectors are written too: `head` for what the head is given, or a stage. The same call goes on
        where an earlier one was interrupted. UserError for what cannot be done; a picture that cannot be read is a row.
        """
        from frostline.data.picture_list import gather
        from frostline.report.terminal import Screen
        from frostline.runs import prediction_file

        file, count = arguments.place("output", output), arguments.whole("top", top)
        size = self.network.config.eval_batch_size if batch is None else arguments.whole("batch", batch)
        given = arguments.listed(pictures)
        if not given or not all(isinstance(one, Path | str) for one in given):
            raise user_error(
                "pictures", reprlib.repr(pictures), "a table, a folder, or files and folders, by their paths"
            )
        below = None if root is None else str(arguments.place("root", root))
        with machine.torch_as_it_was():
            self.network.prepare()
            return prediction_file.write(
                self.network,
                file,
                lambda file: gather(file, given, say=notices.tell, path=path, root=below),
                top=count,
                features=features,
                batch=size,
                progress=Screen.beside().progress,
            )

    def export(self, path: Path | str, kind: str | None = None) -> float:
        """Write it for other programs and return the largest difference of a probability to the original.

        `kind` is `onnx`, `torchscript` or `safetensors`; by default what the suffix says. UserError where it cannot be
        written so.
        """
        from frostline.runs import export

        file = arguments.place("path", path)
        kinds = {suffix: kind for kind, suffix in export.SUFFIXES.items()}
        chosen = kinds.get(file.suffix) if kind is None else kind
        if chosen not in [*export.SUFFIXES]:  # a list, of which anything can be asked
            raise user_error("kind", kind or file.suffix, f"one of {', '.join(export.SUFFIXES)}", export.SUFFIXES)
        with machine.torch_as_it_was(), arguments.writing("path", file):
            self.network.prepare()
            return export.export(self.network, chosen, file)

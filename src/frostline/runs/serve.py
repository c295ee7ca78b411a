"""The model that MLflow serves: input images as base64 text, output class names and probabilities.

MLflow copies this file and the package beside the weights, and runs it on the server ("models from code"), so that
nothing is pickled. The server needs torch, torchvision, safetensors, Pillow, NumPy and PyYAML.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from torch import Tensor

from frostline.core.labels import class_names
from frostline.data.decode_image import tensor_of
from frostline.data.open_image import at_most, open_bytes, why
from frostline.runs import predict


class Classifier(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """The MLflow model of a run's network."""

    def load_context(self, context: Any) -> None:
        """Load the network of the run in the artifact `run`."""
        self._network = predict.load(Path(context.artifacts["run"]), device="auto")

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any]) -> list[dict[str, Any]]:
        """Return one prediction per row of the column `image`, which holds an image file as base64 text.

        If one image cannot be read, the whole request is refused with the number of its row.
        """
        if (top := params["top"]) < 1:
            raise MlflowException(f"top: expected a whole number of at least 1, not {top}", INVALID_PARAMETER_VALUE)
        with at_most(self._network.config.data.max_pixels):
            views = [self._view(row, text) for row, text in enumerate(model_input["image"])]
        if not views:
            return []
        rows = predict.probabilities_of(self._network, predict.logits(self._network, torch.stack(views)))
        return [self._answer(row, top) for row in rows]

    def _answer(self, row: Tensor, top: int) -> dict[str, Any]:
        best = predict.ranked(self._network.classes, row, top)
        found = {"class": next(iter(best)), "probability": max(best.values()), "probabilities": best}
        if not self._network.multi_label:
            return found
        return {"classes": [*class_names(row > 0.5, self._network.classes)], **found}

    def _view(self, row: int, text: str) -> Tensor:
        try:
            # browsers write data:image/png;base64,... and other programs several lines
            encoded = "".join(text.rpartition(",")[2].split())
            with open_bytes(base64.b64decode(encoded, validate=True), "") as image:
                return predict.view(self._network, tensor_of(image, self._network.levels)[0])
        except Exception as error:  # broken images make Pillow raise anything
            refused = f"row {row}: expected an image as base64 text ({why(error)})"
            raise MlflowException(refused, INVALID_PARAMETER_VALUE) from None


mlflow.models.set_model(Classifier())

"""Registration of a run's network in MLflow's model registry, ready to be served."""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.core import codehash
from frostline.core.errors import user_error
from frostline.core.project import PACKAGE
from frostline.records.layout import FINAL_TAG
from frostline.tracking import server
from frostline.tracking.query import open_client, run_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

_MODEL = "model"  # folder of the model among the run's artifacts
_WHITE = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAEElEQVR4nGP8zwABTAwUMQBJQQEPeWDz+AAAAABJRU5ErkJggg=="
"""A white image of 8x8 pixels, PNG as base64: the example of a request."""
_CODE = ("runs.serve", "models.architecture", "data.source")
"""The model that MLflow serves, and the modules that are there for packages with networks of their own."""
_REQUIREMENTS = ("mlflow", "torch", "torchvision", "safetensors", "pillow", "numpy", "pyyaml")
"""Packages that `runs.serve` imports, directly or through modules of this package."""


def register(
    uri: str, run_id: str, files: Sequence[Path], *, name: str, description: str, tags: Mapping[str, str], library: str
) -> str:
    """Register the network whose config and weights are `files` as `name`; return its new version.

    It becomes an artifact of its run, a pyfunc model without any pickle: the modules that serving imports,
    `runs.serve` as the model, and `files`; `library` is the package that defines the network. The artifact of a version
    is never written again: the same weights under another name share it, other weights of the run get their own.
    `tags` have the sha256 of the weights. Raises UserError for an unknown run and for a name that is not allowed.
    """
    with open_client(uri) as client:  # configures MLflow before it is imported
        from mlflow.exceptions import MlflowException

        run = run_of(client, uri, run_id)
        try:
            _ensure(client, name)
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            raise user_error("--name", name, f"a name for the registry ({server.first_line(error)})") from None
        others = client.search_model_versions(f"run_id = '{run_id}'")
    source = next((one.source for one in others if has(one, run_id, tags[FINAL_TAG])), None)
    with tempfile.TemporaryDirectory() as folder:
        if source is None:
            _save(Path(folder), files, run_id, library)
        with open_client(uri) as client:
            if source is None:
                place = f"{_MODEL}-{tags[FINAL_TAG][:8]}" if others else _MODEL
                client.log_artifacts(run_id, str(Path(folder) / _MODEL), place)
                source = f"{run.info.artifact_uri}/{place}"
            made = client.create_model_version(name, source, run_id, tags=dict(tags), description=description)
    return str(made.version)


def versions(uri: str, name: str) -> list[ModelVersion]:
    """Return the versions of the model `name`, the newest first; empty if there is no such model."""
    quoted = f'"{name}"' if "'" in name else f"'{name}'"
    with open_client(uri) as client:
        found = client.search_model_versions(f"name = {quoted}")
    return sorted(found, key=lambda one: int(one.version), reverse=True)


def has(version: ModelVersion, run_id: str, digest: str) -> bool:
    """Return whether a version has the weights with the sha256 `digest`, of this run."""
    return bool(version.run_id == run_id and version.tags.get(FINAL_TAG) == digest)


def with_alias(uri: str, name: str, alias: str) -> ModelVersion:
    """Return the version of the model `name` that has an alias; raises UserError if there is none."""
    with open_client(uri) as client:
        from mlflow.exceptions import MlflowException

        try:
            return client.get_model_version_by_alias(name, alias)
        except MlflowException as error:
            if error.error_code not in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
                raise
            raise user_error("--against", alias, f"an alias of a version of {name}") from None


def _save(folder: Path, files: Sequence[Path], run_id: str, library: str) -> None:
    import mlflow
    import pandas as pd
    from mlflow.models import Model

    logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)  # silence its line on checking the example
    (own := folder / "run").mkdir()
    for file in files:
        shutil.copyfile(file, own / file.name)
    with warnings.catch_warnings(action="ignore"):  # given a signature, it ignores type hints and warns
        mlflow.pyfunc.save_model(
            folder / _MODEL,
            mlflow_model=Model(artifact_path=_MODEL, run_id=run_id),
            python_model=str(PACKAGE / "runs" / "serve.py"),
            artifacts={"run": str(own)},
            code_paths=[str(_code(folder))],
            signature=_signature(),
            input_example=pd.DataFrame({"image": [_WHITE]}),
            pip_requirements=[
                f"{name}=={version(name).partition('+')[0]}" for name in dict.fromkeys((*_REQUIREMENTS, library))
            ],
        )


def _code(folder: Path) -> Path:
    """Copy what serving imports of this package into `folder`: a server takes a request for each file."""
    modules = [Path(*name.split(".")).with_suffix(".py") for name in codehash.imported(*_CODE)]
    for file in {*modules, *(parent / "__init__.py" for module in modules for parent in module.parents)}:
        place = folder / PACKAGE.name / file
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PACKAGE / file, place)
    return folder / PACKAGE.name


def _signature() -> Any:
    """Return the signature of the model; stated, since MLflow takes seconds to infer one, and guesses."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array, Map

    output = [
        ColSpec(DataType.string, "class"),
        ColSpec(DataType.double, "probability"),
        ColSpec(Map(DataType.double), "probabilities"),
        ColSpec(Array(DataType.string), "classes", required=False),  # multi-label
    ]
    top = ParamSchema([ParamSpec("top", DataType.long, 5)])
    return ModelSignature(Schema([ColSpec(DataType.string, "image")]), Schema(output), top)


def _ensure(client: MlflowClient, name: str) -> None:
    """Create the registered model `name` unless it exists; raises MlflowException for a name that is not allowed."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise

"""Register the network of a run in MLflow's model registry, ready to serve: images in, class names out."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path

from frostline.commands import CALLED, Parser, tell
from frostline.core import credentials, plugins
from frostline.core.errors import user_error
from frostline.records import layout
from frostline.records.result import TEST, VAL
from frostline.sweeps.find_weights import found
from frostline.tracking import registry, tracking_uri


def main(arguments: list[str]) -> int:
    """Register a new version, print the command that serves it, and return 0."""
    options = _parser().parse_args(arguments)
    from frostline.models import weights
    from frostline.runs import predict  # imports torch

    with tempfile.TemporaryDirectory() as scratch, found(options.run) as run:
        if run.note:
            tell(run.note)
        result, network = run.result, predict.load(run.folder, device="cpu")
        if result.run_id is None:
            raise user_error("run", options.run, "a run that MLflow has; `frostline sync` sends it there")
        names = {VAL, TEST, result.selected_by.val, result.selected_by.test}
        uri = run.uri or tracking_uri.resolved(network.config.tracking.uri)
        version = registry.register(
            uri,
            result.run_id,
            [run.folder / layout.CONFIG, weights.whole(run.folder / layout.BEST, Path(scratch))],
            name=options.name,
            description=f"{network.model.name} on {network.config.data.name}: {result.name}",
            library=plugins.distribution(plugins.MODELS, network.model.name) or network.model.library,
            tags={name: f"{result.metrics[name]:.6f}" for name in names if name in result.metrics},
        )
    model = shlex.quote(f"models:/{options.name}/{version}")
    where = '"$MLFLOW_TRACKING_URI"' if credentials.restored(uri) != uri else shlex.quote(uri)
    print(f"{options.name} version {version}: {result.name}. To serve it:")
    print(f"MLFLOW_TRACKING_URI={where} mlflow models serve -m {model} --env-manager local")
    return 0


def _parser() -> Parser:
    parser = Parser("register", __doc__)
    parser.add_argument("run", help=f"a run, or a sweep (its best cell by validation): {CALLED}")
    parser.add_argument(
        "--name", required=True, help="name of the registered model; an existing one gets a new version"
    )
    return parser

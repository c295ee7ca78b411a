"""Register the network of a run in MLflow's model registry, ready to serve: images in, class names out.

A run that the name has already gets no second version. With --if-better a network must first surely beat the one that
the name has.
"""

from __future__ import annotations

import argparse
import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from frostline.commands import CALLED, Parser, tell
from frostline.core import plugins
from frostline.core.errors import UserError, user_error
from frostline.records import layout
from frostline.records.result import TEST, VAL
from frostline.report import two_runs
from frostline.sweeps import tested_runs
from frostline.sweeps.find_weights import Trained, found
from frostline.tracking import registry, tracking_uri

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from frostline.runs.predict import Predictor


def main(arguments: list[str]) -> int:
    """Register a new version unless there is one, print the command that serves it, and return 0.

    Return 1 if the network is not surely better than the one with which --if-better compares it.
    """
    options = _options(arguments)
    name = options.name
    with tempfile.TemporaryDirectory() as scratch, found(options.run) as run:
        from frostline.runs import predict  # imports torch
        from frostline.store import hashing

        if run.note:
            tell(run.note)
        result, network = run.result, predict.load(run.folder, device="cpu")
        if result.run_id is None:
            raise user_error("run", options.run, "a run that MLflow has; `frostline sync` sends it there")
        uri = run.uri or tracking_uri.resolved(network.config.tracking.uri)
        digest, there = hashing.of_file(run.folder / layout.BEST), registry.versions(uri, name)
        known = next((one.version for one in there if registry.has(one, result.run_id, digest)), None)
        if known is None and options.if_better and there:
            rival = registry.with_alias(uri, name, options.against) if options.against else there[0]
            if not _is_better(result.run_id, rival, uri, Path(scratch)):
                return 1
        version = known or _register(run, network, name, uri, digest, Path(scratch))
    said = f"{name} version {version}{' is this run already' if known else ''}"
    model = shlex.quote(f"models:/{name}/{version}")
    print(f"{said}: {result.name}. To serve it:")
    print(tracking_uri.mlflow_command(uri, f"models serve -m {model} --env-manager local"))
    return 0


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = Parser("register", __doc__)
    parser.add_argument("run", help=f"a run, or a sweep (its best cell by validation): {CALLED}")
    parser.add_argument("--name", required=True, help="name of the registered model; another run gets a new version")
    parser.add_argument(
        "--if-better",
        action="store_true",
        help="register only what is surely better than the newest version, on the same test images; else exit with 1",
    )
    parser.add_argument("--against", metavar="ALIAS", help="of --if-better: the version with this alias instead")
    options = parser.parse_args(arguments)
    if options.against is not None and not options.if_better:
        parser.error("argument --against: expected --if-better, too")
    return options


def _register(run: Trained, network: Predictor, name: str, uri: str, digest: str, scratch: Path) -> str:
    """Register the network of a run, whose weights have the sha256 `digest`; return the new version."""
    from frostline.models import weights

    result, kind = run.result, network.model
    names = {VAL, TEST, result.selected_by.val, result.selected_by.test}
    scores = {score: f"{result.metrics[score]:.6f}" for score in names if score in result.metrics}
    return registry.register(
        uri,
        result.run_id or "",
        [run.folder / layout.CONFIG, weights.whole(run.folder / layout.BEST, scratch)],
        name=name,
        description=f"{kind.name} on {network.config.data.name}: {result.name}",
        library=plugins.distribution(plugins.MODELS, kind.name) or kind.library,
        tags={**scores, layout.FINAL_TAG: digest},
    )


def _is_better(run_id: str, rival: ModelVersion, uri: str, scratch: Path) -> bool:
    """Return whether a run is surely better than that of another version, and say so.

    UserError where that run is unknown, or where one has no predictions or was tested on other images.
    """
    run, called = tested_runs.recorded(uri, run_id, scratch), f"{rival.name} version {rival.version}"
    try:
        other = tested_runs.recorded(uri, rival.run_id or "", scratch)
    except UserError as problem:
        raise UserError(f"--if-better: expected the run of {called} in MLflow ({problem})") from None
    compared = two_runs.compare_runs(run, other, names=(run.name, called))
    if not compared.difference.paired:
        expected = f"predictions of {called} for the test images of {run.name}"
        raise UserError(f"--if-better: expected {expected}, and there are none ({compared.difference.how})")
    better = compared.outcome == "better"
    print(compared.verdict if better else f"Not registered. {compared.verdict}")
    return better

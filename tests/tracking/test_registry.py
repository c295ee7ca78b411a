"""A registered network is served by MLflow without pickle and predicts as `predict` does."""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings

import pandas as pd
import psutil
import pytest
import torch
from mlflow.exceptions import MlflowException
from PIL import Image

import warm
from frostline.commands import register
from frostline.core.errors import UserError
from frostline.runs import predict
from frostline.sweeps.find_weights import found
from frostline.tracking import query, registry, server


@pytest.fixture(scope="module")
def registered(trained):
    """Register the run `head` and return its model version."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", trained.uri)
        assert register.main([str(trained.folder / "0"), "--name", "digits"]) == 0
    return server.client_of(trained.uri).get_model_version("digits", "1")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for number, side in enumerate((8, 30, 31)):
        noise = torch.rand(side, 2 * side, 3, generator=torch.Generator().manual_seed(side)).mul(255).byte()
        Image.fromarray(noise.numpy()).save(folder / f"{number}.png")
    return folder


@pytest.mark.slow
def test_model_version_has_its_run_and_accuracy(trained, registered):
    result = json.loads((trained.folder / "0" / "result.json").read_text())
    assert registered.run_id == result["run_id"]
    assert registered.description == "shufflenet_v2_x0_5 on digits: head lr=0.01 seed=0"
    assert float(registered.tags["test/accuracy"]) == pytest.approx(result["metrics"]["test/accuracy"], abs=1e-6)
    assert server.client_of(trained.uri).get_run(result["run_id"]).info.status == "FINISHED"


def test_registered_model_has_no_pickle(trained, registered, tmp_path):
    local = server.client_of(trained.uri).download_artifacts(registered.run_id, "model", str(tmp_path))
    names = {name for _, _, files in os.walk(local) for name in files}
    assert {"serve.py", "best.safetensors", "config.yaml", "MLmodel"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".pth", ".joblib"))]


def test_registered_model_has_only_the_code_that_serves_it(trained, registered, tmp_path):
    code = server.client_of(trained.uri).download_artifacts(registered.run_id, "model/code/frostline", str(tmp_path))
    rooms = {entry.name for entry in os.scandir(code)}
    assert rooms == {"__init__.py", "core", "data", "models", "records", "runs", "store"}
    assert sum(len(files) for _, _, files in os.walk(code)) < 100  # a server takes a request for each


ABSENT = ("hydra", "omegaconf", "rich", "matplotlib", "sklearn", "scipy", "filelock", "plotly")
"""Packages that only sweeps need. Serving must work without them."""


@pytest.mark.slow
def test_served_model_predicts_as_predict_does(trained, registered, images, tmp_path):
    """The server finds this package only in the model, has no packages of `ABSENT`, and reads no pickle."""
    site = f"import sys; sys.modules.update(dict.fromkeys({ABSENT}))"
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(site)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{(port := free.getsockname()[1])}"
    environment = {**trained.environment(), "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    environment["PYTHONPATH"] = str(tmp_path / "site")
    options = ["-m", "models:/digits/1", "--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    environment["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), environment["PATH"]])  # noqa: PTH120
    command = [sys.executable, "-m", "mlflow", "models", "serve", *options]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = warm.Popen(command, env=environment, cwd=tmp_path, **quiet)  # which starts Python for the server
    try:
        wait_for_server(f"{address}/ping", process)
        files = sorted(images.iterdir())
        encoded = [base64.b64encode(file.read_bytes()).decode() for file in files]
        predictions = ask(address, encoded, params={"top": 10})["predictions"]
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(address, [encoded[0], "bm8gcGljdHVyZQ=="])
        with refused.value as answer:
            assert answer.code == 400 and b"row 1: expected an image as base64 text" in answer.read()
    finally:
        for server_process in psutil.Process(process.pid).children(recursive=True):
            server_process.terminate()
        process.wait(20)
    network = predict.load(trained.folder / "0", device="cpu")
    for answer, row in zip(predictions, predict.probabilities(network, files, batch=3), strict=True):
        expected = predict.ranked(network.classes, row, 10)
        assert answer["probabilities"] == pytest.approx(expected, abs=1e-5)
        assert answer["class"] == next(iter(expected)) and answer["probability"] == max(
            answer["probabilities"].values()
        )


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_served_model_refuses_damaged_images(trained, kind):
    with warnings.catch_warnings(action="ignore"):  # MLflow warns of type hints that it does not use
        from frostline.runs.serve import Classifier

    pixels = torch.rand(30, 40, 3, generator=torch.Generator().manual_seed(0)).mul(255).byte().numpy()
    Image.fromarray(pixels).save(file := io.BytesIO(), kind)
    whole, served = file.getvalue(), Classifier()
    served._network = predict.load(trained.folder / "0", device="cpu")
    expected = predict.ranked(
        served._network.classes, predict.probabilities(served._network, [Image.open(file)])[0], 10
    )

    def ask(content):
        return served.predict(None, pd.DataFrame({"image": [base64.encodebytes(content).decode()]}), {"top": 10})

    (answer,) = ask(whole)
    assert answer["probabilities"] == pytest.approx(expected, abs=1e-6)
    damaged = whole[:-2] if kind == "JPEG" else whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:]
    for content, why in ((damaged, "truncated" if kind == "JPEG" else "PNG"), (b"", "empty")):
        with pytest.raises(MlflowException, match=f"^row 0: expected an image as base64 text .*{why}"):
            ask(content)


def wait_for_server(address, process):
    """Wait until the server answers. It imports torch first."""
    for _ in range(600):
        assert process.poll() is None, "the server ended"
        try:
            return urllib.request.urlopen(address, timeout=5).close()
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the server did not answer")


def ask(address, images, **more):
    request = {"dataframe_split": {"columns": ["image"], "data": [[image] for image in images]}, **more}
    headers = {"Content-Type": "application/json"}
    posted = urllib.request.Request(f"{address}/invocations", json.dumps(request).encode(), headers)
    with urllib.request.urlopen(posted, timeout=60) as answer:
        return json.load(answer)


def test_invalid_name_and_unknown_run_are_refused(trained, registered, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", trained.uri)
    with pytest.raises(UserError, match=r"^--name=a/b: expected a name for the registry"):
        register.main([str(trained.folder / "0"), "--name", "a/b"])
    with pytest.raises(UserError, match=r"^run=0{32}: expected a run of sqlite"):
        register.main(["0" * 32, "--name", "digits"])


def test_readonly_registry_is_not_reported_as_wrong_name(trained, monkeypatch):
    def fails(*_):
        raise MlflowException("(sqlite3.OperationalError) attempt to write a readonly database")

    monkeypatch.setenv("MLFLOW_TRACKING_URI", trained.uri)
    monkeypatch.setattr(registry, "_ensure", fails)
    with pytest.raises(UserError, match=r"^tracking\.uri=sqlite.*: expected a store .* attempt to write a readonly"):
        register.main([str(trained.folder / "0"), "--name", "digits"])


def test_looking_for_a_run_creates_no_store(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'none' / 'mlflow.db'}")
    with pytest.raises(UserError, match="expected a store of MLflow, and there is none"), found("0" * 32):
        pass
    assert not list(tmp_path.iterdir())


def test_query_returns_all_runs_or_a_single_one(trained):
    sweep = json.loads((trained.folder / "sweep.json").read_text())["tracker"]["sweep_run_id"]
    runs = query.results(trained.uri, sweep)
    assert [run.choices["freeze_mode"] for run in runs] == ["head", "full"]
    assert [run.run_id for run in query.results(trained.uri, runs[1].run_id)] == [runs[1].run_id]
    assert runs[0].choices["data.folds"] == "null"  # as in a local record, where a value is compared with it

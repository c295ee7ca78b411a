"""A registered network is served by MLflow without pickle and predicts as `predict` does."""

from __future__ import annotations

import base64
import functools
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from dataclasses import replace

import pandas as pd
import psutil
import pytest
import torch
from mlflow.exceptions import MlflowException
from PIL import Image

import warm
from frostline.commands import register
from frostline.core.errors import UserError
from frostline.records.layout import BEST, PROVENANCE
from frostline.runs import predict
from frostline.sweeps import tested_runs
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
        register.main([str(trained.folder / "0"), "--name", "letters"])


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


load_once = functools.cache(predict.load)


@pytest.fixture
def quick(trained, monkeypatch):
    """Register a small file in place of a model that can be served."""

    def save(folder, *_):
        (folder / "model").mkdir()
        (folder / "model" / "MLmodel").write_text(str(folder))

    monkeypatch.setenv("MLFLOW_TRACKING_URI", trained.uri)
    monkeypatch.setattr(registry, "_save", save)
    monkeypatch.setattr(predict, "load", load_once)


def sources(trained, name):
    return [version.source for version in registry.versions(trained.uri, name)]


def test_same_weights_get_no_second_version_and_other_names_share_them(trained, quick, monkeypatch, capsys):
    assert register.main([str(trained.folder / "0"), "--name", "o'neil's"]) == 0
    assert "o'neil's version 1: head lr=0.01 seed=0. To serve it:" in capsys.readouterr().out
    monkeypatch.setattr(
        registry, "_save", lambda *_: 1 / 0
    )  # an artifact that versions refer to is never written again
    for name in ("o'neil's", "another"):
        assert register.main([str(trained.folder / "0"), "--name", name]) == 0
    said = capsys.readouterr().out
    assert "o'neil's version 1 is this run already: head lr=0.01 seed=0. To serve it:" in said
    assert "another version 1: head lr=0.01 seed=0. To serve it:" in said
    assert sources(trained, "o'neil's") == sources(trained, "another") and len(sources(trained, "another")) == 1


def test_other_weights_of_a_registered_run_get_their_own_artifact(trained, quick, tmp_path):
    """The best weights until now of a run that goes on are others than those of an hour ago."""
    assert register.main([str(trained.folder / "1"), "--name", "going on"]) == 0
    later = shutil.copytree(trained.folder / "1", tmp_path / "1")
    (later / PROVENANCE).unlink()  # which has the sha256 of the final weights
    content = (later / BEST).read_bytes()
    (later / BEST).write_bytes(content[:-1] + bytes([content[-1] ^ 0x80]))  # the sign of a weight
    assert register.main([str(later), "--name", "going on"]) == 0
    new, old = sources(trained, "going on")
    assert old.endswith("/artifacts/model") and re.fullmatch("model-[0-9a-f]{8}", new.rpartition("/")[2])


def test_only_a_surely_better_network_is_registered_if_better(trained, quick, capsys):
    head, full = str(trained.folder / "0"), str(trained.folder / "1")
    assert register.main([full, "--name", "guarded", "--if-better"]) == 0  # nothing to beat
    assert register.main([head, "--name", "guarded", "--if-better"]) == 0
    better, first, _ = capsys.readouterr().out.splitlines()[2:]
    assert better.startswith("head lr=0.01 seed=0 is surely better than guarded version 1: ")
    assert better.endswith("paired bootstrap over 90 test images).") and first.startswith("guarded version 2: head ")
    assert register.main([full, "--name", "guarded", "--if-better"]) == 0  # it is version 1
    assert "guarded version 1 is this run already" in capsys.readouterr().out


def test_network_that_is_not_surely_better_is_not_registered(trained, quick, capsys):
    head, full = str(trained.folder / "0"), str(trained.folder / "1")
    assert register.main([head, "--name", "kept"]) == 0
    server.client_of(trained.uri).set_registered_model_alias("kept", "champion", "1")
    capsys.readouterr()
    for against in ([], ["--against", "champion"]):
        assert register.main([full, "--name", "kept", "--if-better", *against]) == 1
        (line,) = capsys.readouterr().out.splitlines()
        assert line.startswith("Not registered. full lr=0.01 seed=0 is surely worse than kept version 1: ")
    with pytest.raises(UserError, match=r"^--against=none: expected an alias of a version of kept$"):
        register.main([full, "--name", "kept", "--if-better", "--against", "none"])
    with pytest.raises(UserError, match=r"^argument --against: expected --if-better, too"):
        register.main([full, "--name", "kept", "--against", "champion"])
    assert len(sources(trained, "kept")) == 1


def test_network_is_not_registered_if_better_without_the_same_test(trained, quick, tmp_path, monkeypatch):
    head, full = str(trained.folder / "0"), str(trained.folder / "1")
    assert register.main([full, "--name", "apart"]) == 0
    recorded, elsewhere = tested_runs.recorded, shutil.copytree(full, tmp_path / "1")
    (elsewhere / PROVENANCE).write_text('{"data": {"fingerprint": "of other images"}}')

    def moved(uri, run_id, scratch):
        found = recorded(uri, run_id, scratch)
        return replace(found, folder=str(elsewhere)) if found.folder == full else found

    monkeypatch.setattr(tested_runs, "recorded", moved)
    asked = [head, "--name", "apart", "--if-better"]
    of_which = "expected predictions of apart version 1 for the test images of head lr=0.01 seed=0, and there are none"
    with pytest.raises(UserError, match=rf"^--if-better: {of_which} \(one seed, 90 test images each, not paired\)$"):
        register.main(asked)
    server.client_of(trained.uri).create_model_version("apart", "/elsewhere", "0" * 32)
    with pytest.raises(UserError, match=r"^--if-better: expected the run of apart version 2 in MLflow \(run=0{32}: "):
        register.main(asked)
    assert len(sources(trained, "apart")) == 2

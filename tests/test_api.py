"""The public Python API."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import runpy
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import hydra
import numpy as np
import pandas as pd
import pytest
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from PIL import Image
from safetensors.numpy import load_file, save_file

import frostline
import stores
import warm
from frostline import api
from frostline.commands import report
from frostline.core import project
from frostline.records import layout
from frostline.records.result import Result
from frostline.runs import predict
from frostline.sweeps import catalog
from frostline.sweeps.catalog import TypedName


@pytest.fixture
def store(trained, monkeypatch):
    """Search names in the tracking database of the small sweep."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", trained.uri)
    return trained


def test_import_loads_no_heavy_libraries():
    code = (
        "import sys, frostline; assert set(frostline.__all__) <= set(dir(frostline));"
        "frostline.compose, frostline.Sweep, frostline.Config;"
        "print(*{'torch', 'torchvision', 'mlflow', 'pandas', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
    with pytest.raises(AttributeError, match="has no attribute 'swep'"):
        frostline.swep  # noqa: B018
    assert (Path(frostline.__file__).parent / "py.typed").is_file()


def test_import_on_windows_says_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ImportError, match="needs Linux or macOS; on Windows, run it in WSL"):
        runpy.run_path(frostline.__file__)


def test_compose_leaves_hydra_uninitialized():
    config = frostline.compose("freeze=last_stage", "lr=0.5", "model=resnet50")
    assert (config.freeze_mode.name, config.lr, config.model.name) == ("last_stage", 0.5, "resnet50")
    assert isinstance(config, frostline.Config) and not GlobalHydra.instance().is_initialized()


def test_compose_in_threads_keeps_the_callers_hydra(tmp_path):
    (tmp_path / "mine.yaml").write_text("a: 1\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"), ThreadPoolExecutor(3) as threads:
        found = threads.map(lambda seed: frostline.compose("freeze=head", f"seed={seed}").seed, range(4))
        assert [*found] == [0, 1, 2, 3]
        assert hydra.compose("mine").a == 1
    assert not GlobalHydra.instance().is_initialized()


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("freeze=heda", "freeze=heda: expected one of .*; did you mean head?"),
        ("lrr=1", "lrr=1: expected a key of the config, see --help; did you mean lr?"),
        *(
            (f"search={name}", f"search={name}: .*: search=tpe search.prune=hyperband$")
            for name in ("hyperband", "asha")
        ),
        ("lr=fast", "lr=fast: expected a value of type float"),
        ("epochs=0", "epochs=0: expected a whole number of at least 1"),
    ],
)
def test_compose_reports_mistakes_in_one_line(override, line):
    with pytest.raises(frostline.UserError) as mistake:
        frostline.compose(override)
    assert re.match(line.replace("?", r"\?"), str(mistake.value)) and "\n" not in str(mistake.value)


def test_plan_lists_what_learns():
    plan = frostline.plan(frostline.compose("freeze=head", "data.limit=200", "model.image_size=32"))
    learning = {stage.stage: stage.learning for stage in plan.phases[0].stages}
    assert learning.pop("head") == plan.trainable_parameters > 0 and set(learning.values()) == {0}
    learn = f"{plan.trainable_parameters:,} of {plan.parameters:,} parameters learn"
    assert repr(plan) == f"<Plan head: shufflenet_v2_x0_5 on digits, {learn}>"


def test_plan_counts_only_trained_parameters():
    """A solver's head is not counted, nor are phases too short for a step."""
    small = ("data.limit=10", "model.image_size=32", "epochs=1")  # one step
    for mode in ("freeze=knn", "freeze=gradual"):
        plan = frostline.plan(frostline.compose(mode, *small))
        (phase,) = plan.phases
        assert plan.trainable_parameters == sum(stage.learning for stage in phase.stages) < plan.parameters


def test_open_reads_a_whole_sweep(store, tmp_path):
    sweep = frostline.open(str(store.folder))
    table = sweep.to_pandas()
    assert list(table["freeze_mode"]) == ["head", "full"] and set(table["status"]) == {"FINISHED"}
    best = table.loc[table["best/val_accuracy"].idxmax()]
    assert sweep.best.name == best["name"] and sweep.best.metrics["test/accuracy"] == best["test/accuracy"]
    assert sweep.cells[0].choices["freeze_mode"] == sweep.best.choices["freeze_mode"]
    said = json.loads(store.command("compare", "--json", store.folder, cwd=tmp_path)[0])
    assert said["answer"] == sweep.verdict
    assert json.loads(json.dumps(sweep.to_dict())) == said
    assert sweep.contests[0].outcome == said["contests"][0]["outcome"]
    for row, cell in zip(sweep.to_pandas(cells=True).to_dict("records"), said["cells"], strict=True):
        assert row["freeze_mode"] == cell["choices"]["freeze_mode"] and row["finished"] == len(cell["runs"]) == 1
        assert [row["test/low"], row["test/high"]] == cell["test_interval"]
        assert row["test/accuracy"] == cell["mean"]["test/accuracy"]


def test_open_reads_a_whole_run(store):
    run = frostline.open(str(store.folder)).runs[1]
    assert (run.config.freeze_mode.name, run.status, run.config.lr) == ("full", "FINISHED", run.choices["lr"])
    epochs = run.epochs()
    assert list(epochs.index) == [1, 2] and epochs["val/accuracy"].max() == run.metrics["best/val_accuracy"]
    found = run.predictions()
    assert (found.predicted == found.labels).mean() == pytest.approx(run.metrics["test/accuracy"])


def test_mlflow_settings_are_restored(store, monkeypatch):
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "7")
    environment, seen = {**os.environ}, []
    logging.getLogger("mlflow").setLevel(logging.INFO)
    logging.getLogger("urllib3").setLevel(logging.DEBUG)
    sweeps, beside = catalog.sweeps, ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT")
    monkeypatch.setattr(catalog, "sweeps", lambda *of: (seen.extend(map(os.environ.get, beside)), sweeps(*of))[1])
    for _ in range(2):  # MLflow caches its client
        frostline.open(frostline.open(str(store.folder)).runs[0].result.run_id)
    assert seen == ["0", "7"] * 4 and {**os.environ} == environment
    assert [logging.getLogger(name).level for name in ("mlflow", "urllib3")] == [logging.INFO, logging.DEBUG]


def test_notebook_shows_verdict_and_report(store, tmp_path):
    sweep = frostline.open(store.folder)
    assert repr(sweep) == f"<{sweep.name}: 2 runs, 2 finished, in {store.folder}>"
    assert repr(sweep.best) == f"<Run {sweep.best.name}: FINISHED, in {sweep.best.folder}>"
    shown = sweep._repr_html_()
    assert sweep.verdict.split(".")[0].split("(")[0] in shown and shown.count("<svg") >= 2 and "<table" in shown
    report = sweep.report(tmp_path / "page.html")
    assert report.path.is_file() and report._repr_html_().startswith("<iframe srcdoc=")


@pytest.fixture(scope="module")
def network(trained):
    return frostline.load(trained.folder / "1", device=torch.device("cpu"))


def test_classifier_accepts_images_in_any_form(store, network, tmp_path):
    levels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "image.png")
    best = frostline.load(frostline.open(str(store.folder)), device="cpu")
    assert "the best of 2 cells" in best.note == frostline.load(store.folder, device="cpu").note
    forms = [
        *(tmp_path / "image.png", str(tmp_path / "image.png"), Image.fromarray(levels), levels),
        torch.from_numpy(levels).permute(2, 0, 1),
    ]
    together = network.probabilities(forms, batch=2)
    assert together.shape == (5, 10) and not together.is_inference()  # may be written into
    assert torch.allclose(together, together[:1].expand(5, 10), atol=1e-6)
    (alone,) = network.predict(levels, top=3)
    assert list(alone.values()) == sorted(alone.values(), reverse=True) and set(alone) <= set(network.classes)
    assert max(alone.values()) == pytest.approx(float(together[0].max()), abs=1e-6)


@pytest.mark.parametrize(
    ("images", "line"),
    [
        (torch.zeros(3, 4, 4), r"^images=torch.float32 of shape \(3, 4, 4\): expected files"),
        ("a" * 300, r"^a{300}"),
        *(
            (odd, r"(?s)^images=.*: expected files")
            for odd in (5, None, b"GIF", [[1, 2]], io.BytesIO(b"GIF"), {"a.png"}, pd.DataFrame({"path": ["a.png"]}))
        ),
        (Image.new("F", (4, 4)), r"^images=<PIL.*: expected an image that can be read \(floating point numbers"),
        (Image.new("RGB", (0, 3)), "^images=<PIL.*: expected images with pixels"),
        (np.zeros((0, 3, 3), np.uint8), r"^images=uint8 of shape \(0, 3, 3\): expected images with pixels"),
    ],
)
def test_wrong_images_are_reported_in_one_line(images, line, network):
    with pytest.raises(frostline.UserError, match=line):
        network.predict(images)


def test_wrong_arguments_of_a_classifier_are_reported_in_one_line(network, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for call, line in (
        (lambda: network.predict(tmp_path / "none.png"), r"none\.png: missing"),
        (lambda: network.predict(tmp_path / "none.png", top=0), "^top=0: expected a whole number of at least 1"),
        (lambda: network.predict(tmp_path), "^images=.*: expected files: predict_table goes through a folder"),
        (lambda: network.export(tmp_path / "network.exe"), r"kind=\.exe: expected one of onnx"),
        (
            lambda: network.export(tmp_path / "network.onnx", "safetensors"),
            r"^path=.*network\.onnx: expected a file whose name ends in \.safetensors",
        ),
        (
            lambda: network.export(tmp_path / "none" / "network.pt"),
            r"^path=.*none/network\.pt: expected a place that can be written to",
        ),
        (lambda: network.export("none/network.pt"), r"^path=none/network\.pt: expected a place that can be written to"),
    ):
        with pytest.raises(frostline.UserError, match=line):
            call()
    for wrong in ({"top": 0}, {"batch": 0}, {"batch": -3}):
        with pytest.raises(frostline.UserError, match=r"^(top|batch)=.*: expected a whole number of at least 1"):
            network.predict_table(tmp_path / "image.png", tmp_path / "said.csv", **wrong)


def test_images_may_be_a_column_or_an_iterator(network, tmp_path):
    for number in range(3):
        Image.new("RGB", (9, 9), (90 * number,) * 3).save(tmp_path / f"{number}.png")
    assert repr(network) == "<Classifier shufflenet_v2_x0_5: 10 classes, on cpu>"
    paths = [str(tmp_path / f"{number}.png") for number in range(3)]
    expected = network.predict(paths, top=np.int64(2))
    for given in (pd.Series(paths, index=[5, 6, 7]), np.array(paths), sorted(tmp_path.glob("*.png")).__iter__()):
        assert network.predict(given, top=2) == expected
    assert network.predict_table(pd.Series(paths), tmp_path / "said.csv", root=None).rows == 3


def test_predict_table_errors_name_arguments_instead_of_flags(network, tmp_path):
    Image.new("L", (9, 9)).save(tmp_path / "one.png")
    for output, options, line in (
        ("said.txt", {}, r"^output=.*said\.txt: expected a file whose name ends in \.parquet"),
        ("said.csv", {"features": "head"}, r"^features=head: expected an output of \.parquet or \.jsonl"),
        ("said.jsonl", {"features": "stage9"}, "^features=stage9: expected one of stem"),
        ("said.csv", {"path": "image"}, "^path=image: expected to be given with a table"),
        ("said.csv", {"root": tmp_path}, f"^root={tmp_path}: expected to be given with a table"),
    ):
        with pytest.raises(frostline.UserError, match=line) as mistake:
            network.predict_table(tmp_path / "one.png", tmp_path / output, **options)
        assert "--" not in str(mistake.value)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: frostline.compose(["freeze=head"]), r"^overrides=\['freeze=head'\]: expected strings, one each"),
        (lambda: frostline.advise({"lr": 1}), r"^overrides=\{'lr': 1\}: expected strings"),
        (lambda: frostline.advise(images="all"), "^images=all: expected a whole number of at least 1$"),
        (lambda: frostline.sweep(None), "^overrides=None: expected strings"),
        (lambda: frostline.sweep("lr=1", folder=5), "^folder=5: expected a path$"),
        (lambda: frostline.sweep("lr=1", folder=""), "^folder='': expected a path$"),
        (
            lambda: frostline.compose("lr=1 seed=2"),
            "^lr=1 seed=2: expected one key in an argument, and these are several$",
        ),
        (lambda: frostline.compose("=1"), "^=1: expected key=value$"),
        (lambda: frostline.compose("predict"), "^predict: expected key=value$"),
        (
            lambda: frostline.compose("lr=interval(1e-5,1)"),
            r"^lr=interval\(1e-5,1\): expected one value, for one run",
        ),
        (lambda: frostline.compose("hydra.mode=RUN"), "^hydra.mode=RUN: expected MULTIRUN"),
        (lambda: frostline.plan(replace(frostline.compose(), lr="fast")), "^lr=fast: expected a value of type float"),
        (lambda: frostline.plan(replace(frostline.compose(), epochs=0)), "^epochs=0: expected a whole number of at"),
        (
            lambda: frostline.sweep("rerun=a1b2"),
            "^rerun=a1b2: expected on the command line, as python -m frostline rer",
        ),
        (
            lambda: frostline.plan("freeze=head"),
            r"""^config='freeze=head': expected what compose\("freeze=head"\) ret""",
        ),
    ],
)
def test_wrong_arguments_are_reported_in_one_line(call, line):
    with pytest.raises(frostline.UserError, match=line):
        call()


@pytest.mark.parametrize(("method", "name"), [("report", "path"), ("plots", "folder")])
def test_unwritable_output_is_reported_in_one_line(store, tmp_path, monkeypatch, method, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    write = getattr(frostline.open(store.folder), method)
    for odd in ("", "\0"):
        with pytest.raises(frostline.UserError, match=f"^{name}=.*: expected a path"):
            write(odd)
    if method == "report":
        with pytest.raises(frostline.UserError, match=r"^path=/: expected a place that can be written to \("):
            write("/")
    with pytest.raises(
        frostline.UserError, match=f"^{name}={tmp_path}/file.*: expected a place that can be written to"
    ):
        write(tmp_path / "file" / "below" if method == "report" else tmp_path / "file")
    with pytest.raises(frostline.UserError, match=f"^{name}=file/below: expected a place that can be written to"):
        write("file/below")
    with pytest.raises(frostline.UserError, match=f"^{name}=5: expected a path"):
        write(5)
    os.mkfifo(pipe := tmp_path / "pipe")
    with pytest.raises(frostline.UserError, match=f"^{name}={pipe}: expected a file, and no device or pipe$"):
        write(pipe)
    assert pipe.is_fifo()


def test_exported_network_replaces_no_pipe(network, tmp_path):
    os.mkfifo(pipe := tmp_path / "pipe.pt")
    with pytest.raises(frostline.UserError, match=f"^path={pipe}: expected a file, and no device or pipe$"):
        network.export(pipe)
    assert pipe.is_fifo()


def test_command_errors_name_flags(store, tmp_path):
    (tmp_path / "plots").write_text("")
    with pytest.raises(frostline.UserError, match=r"^--output=/: expected a place that can be written to \("):
        report.main([str(store.folder), "--output", "/"])
    with pytest.raises(frostline.UserError, match=r"^--plots=.*/plots: expected a place that can be written to \("):
        report.main([str(store.folder), "--output", str(tmp_path / "page.html"), "--plots"])


@pytest.fixture
def process(monkeypatch):
    """Replace the process of a sweep by a few lines of Python; return the command lines it was given."""
    commands, popen = [], subprocess.Popen

    def of(code):
        def start(command, **streams):
            commands.append(command)
            return popen([sys.executable, "-S", "-c", code], **streams)

        monkeypatch.setattr(api, "subprocess", SimpleNamespace(PIPE=subprocess.PIPE, Popen=start))
        return commands

    return of


@pytest.mark.parametrize(
    ("said", "status", "line"),
    [
        ("", 0, "^overrides=--help: expected overrides that run a sweep, and these ended without one$"),
        ("frostline: hydra.sweep.dir=/a: expected a new folder\n", 2, "^folder=/a: expected a new folder$"),
        ("frostline: lr=-1: expected more\nWarning: of a library\n", 2, "^lr=-1: expected more$"),
        (
            "frostline: predct: expected key=value, or a command first (predict); did you mean predict?",
            2,
            "^predct: expected key=value$",
        ),
        ("", 3, "^the sweep ended with 3$"),
    ],
)
def test_errors_of_the_process_are_raised_in_python_terms(said, status, line, process, tmp_path):
    process(f"import sys; sys.stderr.write({said!r}); sys.exit({status})")
    with pytest.raises(frostline.UserError, match=line):
        frostline.sweep("--help", folder=tmp_path / "sweep")


def test_flags_and_their_values_may_stand_anywhere(process):
    commands = process("import sys; sys.exit('frostline: hydra.sweep.dir=a: expected less')")
    for typed in (("freeze=mine", "--config-dir", "my"), ("--config-dir", "my", "freeze=mine"), ("--config-dir=my",)):
        with pytest.raises(frostline.UserError, match=r"^folder=a: expected less$"):
            frostline.sweep(*typed, folder="a" * 300)
        overrides = [one.partition("=")[0] for one in commands[-1][3:]]
        assert overrides in (
            ["-m", "hydra.sweep.dir", "freeze", "--config-dir", "my"],
            ["-m", "--config-dir", "my", "hydra.sweep.dir", "freeze"],
            ["-m", "--config-dir", "hydra.sweep.dir"],
        )


def test_interrupted_sweep_prints_all_output(process, monkeypatch, tmp_path):
    said = []

    def write(lines):
        for line in lines:
            said.append(line)
            if line == "begun\n":
                raise KeyboardInterrupt

    more = 200_000  # characters, more than a pipe buffers
    asleep = "try: print('begun', flush=True); time.sleep(60)\nexcept KeyboardInterrupt: print(200_000 * 'x')"
    process(f"import signal, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n{asleep}")
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(writelines=write, flush=lambda: None))
    with pytest.raises(KeyboardInterrupt):
        frostline.sweep("freeze=head", folder=tmp_path / "sweep")
    assert list(map(len, said)) == [6, more + 1]


def test_prediction_sets_determinism_and_threads_temporarily(store, two_threads, monkeypatch):
    torch.use_deterministic_algorithms(mode=False)  # independent of earlier tests
    network, seen = frostline.load(store.folder / "1", device="cpu"), []
    assert not torch.are_deterministic_algorithms_enabled() and torch.get_num_threads() == 2
    run = network.network.config

    def logits(predictor, views):
        seen.append((torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()))
        return torch.zeros(len(views), 10)

    monkeypatch.setattr(predict, "logits", logits)
    network.predict(np.zeros((8, 8, 3), np.uint8))
    assert seen == [(True, 1)] == [(run.deterministic, run.threads)]
    frostline.plan(frostline.compose("freeze=head", "threads=1", "model.image_size=32", "data.limit=200"))
    assert not torch.are_deterministic_algorithms_enabled() and torch.get_num_threads() == 2


def test_folder_is_not_accepted_as_an_override():
    with pytest.raises(frostline.UserError, match=r"^hydra\.sweep\.dir=x: expected as the argument `folder`"):
        frostline.sweep("freeze=head", "hydra.sweep.dir=x")


@pytest.mark.slow
def test_sweep_runs_and_raises_mistakes(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(api, "subprocess", warm.forking_subprocess())
    quick = ("data.limit=200", "epochs=1", "batch_size=50", "model.image_size=32", "resume=false", "freeze=head")
    uri = f"tracking.uri=sqlite:///{stores.put(tmp_path / 'mlflow.db')}"
    monkeypatch.setenv("HOME", str(tmp_path))
    sweep = frostline.sweep(*quick, uri, folder="~/it's a sweep, mine")
    assert repr(sweep).endswith(f": 1 run, 1 finished, in {sweep.folder}>")
    assert sweep.folder == tmp_path / "it's a sweep, mine" and [run.status for run in sweep.runs] == ["FINISHED"]
    assert sweep.verdict.splitlines()[0][:40] in capsys.readouterr().out
    with pytest.raises(frostline.UserError, match=r"^freeze=heda: expected one of"):
        frostline.sweep("freeze=heda", folder=tmp_path / "none")


def test_runs_and_sweeps_are_found_by_every_name(store, tmp_path, monkeypatch):
    runs = frostline.open(str(store.folder)).runs
    sweep_id = json.loads((store.folder / "sweep.json").read_text())["tracker"]["sweep_run_id"]
    run_id = str(runs[0].result.run_id)
    ids = {run_id, sweep_id, str(runs[1].result.run_id)}
    short = next(run_id[:length] for length in range(4, 33) if sum(i.startswith(run_id[:length]) for i in ids) == 1)
    for name in (run_id, f"runs:/{run_id}", short, f"runs:/{short}"):
        assert catalog.resolve(TypedName(name)).ids == (run_id,)
    named = f"{store.folder.parent.name} {store.folder.name}"
    for name in (sweep_id, "Vögel & 100%", named):
        assert catalog.resolve(TypedName(name)).ids == (sweep_id,), name
        assert asdict(frostline.open(name).runs[0].result) == asdict(runs[0].result)
    assert frostline.load(run_id, device="cpu").classes == frostline.load(runs[0], device="cpu").classes
    monkeypatch.setattr(project, "project_root", lambda: tmp_path)
    copy = shutil.copytree(store.folder, tmp_path / "multirun" / "2026-01-01" / "01-02-03")
    for name in ("2026-01-01/01-02-03", "2026-01-01 01-02-03"):
        assert catalog.resolve(TypedName(name)).folder == copy


@pytest.mark.parametrize(
    ("lay", "named"),
    [
        ("multirun/2026-01-01/01-02-03", "2026-01-01/01-02-03"),
        ("/gone/it's a sweep", "gone/it's a sweep"),
        *((odd, "") for odd in (".", "/", "../..", "a" * 300)),
    ],
)
def test_downloaded_sweep_keeps_its_name(lay, named, tmp_path, monkeypatch):
    monkeypatch.setattr(catalog.query, "parent_sweep", lambda uri, run_id: ("a1b2", lay))
    monkeypatch.setattr(catalog.download, "sweep", lambda uri, sweep, folder: folder)
    assert catalog._folder("sqlite://", "c3d4", tmp_path) == tmp_path / "a1b2" / named


TOO_LONG = ("a" * 300, "a/" * 3000)  # as a file name, and as a path


@pytest.mark.parametrize(
    "name", ["Vogel & 100%", "nothing'; drop", "0123456", "runs:/", "no/such/folder", "", "\0", *TOO_LONG]
)
def test_unknown_name_is_reported_in_one_line(store, name):
    with pytest.raises(frostline.UserError, match="expected a folder, an MLflow run id or its beginning") as mistake:
        frostline.open(name)
    shown = f"{name[:300]}..." if len(name) > 300 else name.replace("\0", r"\x00")
    assert str(mistake.value).startswith(f"sweep={shown}: ") and "\n" not in str(mistake.value)
    if name.startswith("Vogel"):
        assert str(mistake.value).endswith("did you mean Vögel & 100%?")


def test_best_of_a_search_is_a_confirmed_run():
    def run(job: int, mode: str, value: float, **marks: object) -> Result:
        choices = {"freeze_mode": mode, "data": "digits", "lr": 0.1, "seed": job, "study": mode, **marks}
        return Result(job, f"{job}", "", None, "FINISHED", None, choices, {"best/val_accuracy": value})

    tried = [run(0, "full", 0.95, trial=0), run(1, "head", 0.85, trial=0)]
    assert frostline.Sweep("search", tuple(tried), None).best.name == "0"
    fresh = [run(2, "full", 0.70, confirms=0), run(3, "head", 0.80, confirms=0)]
    assert frostline.Sweep("search", (*tried, *fresh), None).best.name == "3"


def test_model_weights_accept_runs_but_not_sweeps(store, tmp_path):
    sweep = frostline.open(str(store.folder))
    best, quick = sweep.best.result, ("freeze=head", "data.limit=200", "model.image_size=32")
    for name in (f"runs:/{best.run_id}", best.folder):
        plan = frostline.plan(frostline.compose(*quick, f"model.weights='{name}'"))
        assert plan.weights == name
    with pytest.raises(frostline.UserError) as mistake:
        frostline.plan(frostline.compose(*quick, f"model.weights='{store.folder}'"))
    assert f"expected one run: the best of these by validation is runs:/{best.run_id}" in str(mistake.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", TOO_LONG)
@pytest.mark.parametrize(
    "override",
    [
        *("data=image_folder data.root={}", "data=table data.root={}.csv"),
        *("data=hub data.root={}", "data.split_file={}"),
        *("model.weights={}", "model.weights={}.pt", "model.weights=runs:/{}"),
    ],
)
def test_too_long_path_counts_as_missing(override, name, store):
    typed = override.format(name).split()
    with pytest.raises(frostline.UserError, match=f"^{typed[-1].partition('=')[0]}=.*aa?.*: expected "):
        frostline.plan(frostline.compose("model.image_size=32", "data.limit=100", *typed))


@pytest.mark.parametrize("typed", ["lr=1", "device=cpu"])
def test_overrides_of_test_images_only_say_where_they_are(typed, store):
    accepted = "store, tracking, model.weights, data.root, data.download: all else is in the record"
    with pytest.raises(frostline.UserError, match=f"^{typed}: expected nothing but {accepted}$"):
        frostline.open(str(store.folder)).runs[0].test_images(typed)


def test_test_images_of_a_run_whose_folder_is_gone_come_from_mlflow(store, tmp_path):
    sweep = frostline.open(str(store.folder))
    gone = [replace(result, folder=str(tmp_path / f"{result.job}")) for result in sweep.results]
    assert replace(sweep, results=tuple(gone)).test_images().equals(sweep.test_images())
    assert not list(tmp_path.iterdir())
    unknown = tuple(replace(result, run_id="0" * 32) for result in gone)
    with pytest.raises(frostline.UserError, match=r"^run=.*: expected a run that was tested, with test_predictions"):
        replace(sweep, results=unknown).test_images()


def test_test_images_of_many_classes_have_the_probability_of_the_prediction(store, tmp_path):
    """A run keeps the first classes of each image if all logits would take more than 4 MB."""
    run = frostline.open(str(store.folder)).runs[0]
    folder = Path(shutil.copytree(run.folder, tmp_path / "run"))
    kept, whole = load_file(folder / layout.PREDICTIONS), run.test_images()
    first = np.argsort(-kept["logits"], axis=1)[:, :5].astype(np.int32)
    chances = torch.tensor(kept.pop("logits")).log_softmax(1).numpy()
    said = {"top_classes": first, "top_log_probabilities": np.take_along_axis(chances, first, 1)}
    said["label_log_probabilities"] = chances[np.arange(len(chances)), kept["labels"]]
    save_file({**kept, **said}, folder / layout.PREDICTIONS)
    found = frostline.Run(replace(run.result, folder=str(folder))).test_images()
    assert [*found.columns] == ["image", "label", "class", "right", "probability"]
    assert found.drop(columns="probability").equals(whole[["image", "label", "class", "right"]])
    assert found["probability"].to_numpy() == pytest.approx(whole.filter(like="probability of").max(axis=1), abs=1e-6)

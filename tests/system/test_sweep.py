"""Whole sweeps through the command line, on the embedded digits."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from scipy.special import softmax
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score, roc_auc_score

import answers
import small
import stores
import warm
from disk import file_size_limit
from frostline import cli
from frostline.core.interrupts import Terminated
from frostline.records.sweep_facts import RunFacts
from frostline.report import predictions
from frostline.sweeps import closing
from frostline.sweeps.pool import WorkerDied
from whole_sweeps import CHECKOUT, QUICK, CompletedSweep, command, environment, places, sweep


@pytest.fixture(scope="module")
def main_job(tmp_path_factory, store):
    """A sweep of two freeze modes and two learning rates, in a newly started parent and worker, not forked ones.

    The parent's stderr lists its imports.
    """
    pipes = {"capture_output": True, "text": True, "check": False, "timeout": 240}

    def started(arguments, **how):
        return subprocess.run([arguments[0], "-X", "importtime", *arguments[1:]], **pipes, **how)

    typed = ("freeze=head,full", "lr=1e-2,1e-3", "hydra.launcher.workers=1")
    (own := tmp_path_factory.mktemp("options")).joinpath("augment").mkdir()
    flags = ("-m", f"--config-dir={own}")
    return sweep(tmp_path_factory.mktemp("sweeps") / "main", store, *typed, flags=flags, run=started)


def test_sweep_trains_every_cell_and_prints_the_verdict(main_job):
    assert [r["name"] for r in main_job.results()] == [
        "head lr=0.01 seed=0",
        "head lr=0.001 seed=0",
        "full lr=0.01 seed=0",
        "full lr=0.001 seed=0",
    ]
    assert {r["status"] for r in main_job.results()} == {"FINISHED"}
    tail = main_job.out.splitlines()[-15:]
    best = max(main_job.results(), key=lambda r: r["metrics"]["best/val_accuracy"])
    assert any(f"({best['choices']['freeze_mode']})" in line and "on the test split" in line for line in tail)
    assert tail[-1] == f"See it in MLflow: python -m frostline ui --uri sqlite:///{main_job.store}"


def test_runs_share_identical_files(main_job):
    runs = [main_job.folder / str(number) for number in range(4)]
    assert all((run / "packages.json").samefile(runs[0] / "packages.json") for run in runs)
    typed = (runs[0] / ".hydra" / "hydra.yaml").read_text()
    assert "- freeze=head" in typed and "Configuration groups" not in typed


def test_mlflow_has_promised_metrics_params_and_tags(main_job):
    runs = main_job.runs()
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(parents) == 1 and len(children) == 4
    assert parents[0].info.status == "FINISHED"
    for run in children:
        assert run.info.status == "FINISHED"
        assert run.data.tags["mlflow.parentRunId"] == parents[0].info.run_id
        assert run.data.params["data"] == "digits" and run.data.params["epochs"] == "2"
        frozen = "tensors unchanged, bit for bit" if run.data.params["freeze_mode"] == "head" else "nothing was frozen"
        assert run.data.tags["frostline.frozen"].endswith(frozen)
        assert run.data.tags.get("frostline.lockstep") == ("2" if run.data.params["freeze_mode"] == "head" else None)
        assert json.loads(run.data.tags["frostline.data"]) == {
            "grayscale": sum(main_job.results()[0]["images"].values())
        }
        history = main_job.client().get_metric_history(run.info.run_id, "val/accuracy")
        assert [metric.step for metric in history] == [1, 2]
        assert run.inputs.dataset_inputs
        assert {
            "train/loss",
            "train/accuracy",
            "val/loss",
            "best/epoch",
            "best/val_accuracy",
            "test/accuracy",
            "test/loss",
            "cost/train_seconds",
            "cost/images_per_second",
            "cost/peak_memory_bytes",
            "cost/trainable_parameters",
            "cost/backbone_images",
        } <= set(run.data.metrics)


def test_metrics_that_select_does_not_name_equal_scikit_learn(main_job):
    for result in main_job.results():
        found, metrics = predictions.read(result["folder"]), result["metrics"]
        chances = softmax(found.logits.astype(float), axis=1)
        assert metrics["test/balanced_accuracy"] == pytest.approx(
            balanced_accuracy_score(found.labels, found.predicted)
        )
        assert metrics["test/macro_f1"] == pytest.approx(f1_score(found.labels, found.predicted, average="macro"))
        assert metrics["test/auroc"] == pytest.approx(roc_auc_score(found.labels, chances, multi_class="ovr"))
        assert metrics["test/map"] == pytest.approx(average_precision_score(found.labels, chances))
        assert 0 < metrics["test/calibration_error"] < 1


def test_artifacts_equal_the_files_of_the_run(main_job, tmp_path):
    result = main_job.results()[0]
    names = {artifact.path for artifact in main_job.client().list_artifacts(result["run_id"])}
    assert {"config.yaml", "plan.json", "metrics.jsonl", "best.safetensors", "confusion_matrix.svg"} <= names
    fetched = Path(main_job.client().download_artifacts(result["run_id"], "best.safetensors", str(tmp_path)))
    assert fetched.read_bytes() == Path(result["folder"], "best.safetensors").read_bytes()
    assert (main_job.store.parent / "artifacts").is_dir()


def test_provenance_has_the_command(main_job):
    folder = Path(main_job.results()[0]["folder"])
    typed = json.loads((folder / "provenance.json").read_text())["command"]
    assert {"freeze=head", "lr=0.01", "hydra.launcher.workers=1"} <= set(typed)
    assert typed[0].startswith("--config-dir=/") and typed[0] in main_job.out, (
        "the printed next command finds the same options"
    )
    assert not any(one.startswith("hydra.sweep.dir") for one in typed)


def test_report_is_in_the_folder_and_in_mlflow(main_job):
    parent = next(run for run in main_job.runs() if "mlflow.parentRunId" not in run.data.tags)
    artifacts = {artifact.path for artifact in main_job.client().list_artifacts(parent.info.run_id)}
    assert {artifact.path for artifact in main_job.client().list_artifacts(parent.info.run_id, "plots")} == {
        f"plots/{name}.{kind}" for name in ("accuracy_cost", "lr_response", "curves") for kind in ("png", "svg")
    }
    page = main_job.folder / "report.html"
    assert "report.html" in artifacts and f"Report: {page}" in main_job.out
    data = json.loads(page.read_text().split('id="data">')[1].split("</script>")[0])
    assert [run["name"] for run in data["runs"]] == [result["name"] for result in main_job.results()]
    (group,) = data["groups"]
    first, *rest = parent.data.tags["mlflow.note.content"].split("\n\n")
    assert " ".join([first, *rest]) == group["verdict"] and ") wins: " in first and rest
    assert " ".join(group["verdict"].split()) in " ".join(main_job.out.split())
    assert all(source.startswith("data:image/jpeg") for source, *_ in group["disagreements"]["tiles"])
    assert group["disagreements"]["tiles"]


def test_parent_process_does_not_load_plotting_libraries(main_job):
    loaded = {line.rpartition("|")[2].strip() for line in main_job.err.splitlines()}
    assert {"mlflow.store.tracking.sqlalchemy_store", "rich.table"} <= loaded
    assert not {"matplotlib.figure", "numpy.version", "pandas.core", "PIL.Image", "scipy.special", "torch.nn"} & loaded


def test_unwritable_report_does_not_fail_the_runs(store, tmp_path):
    broken = "from frostline.report import html, plots; html.write = plots.write = lambda *a, **k: 1 / 0"
    code = f"{broken}\nfrom frostline.cli import main\nmain()"
    own = ("lr=1e-2,1e-3", *QUICK, "hydra/launcher=basic", *places(tmp_path / "broken", stores.put(store)))
    arguments = [sys.executable, "-c", code, *own]
    done = warm.run(arguments, env=environment())
    assert done.returncode == 1
    assert all(f"The {what} could not be written: ZeroDivisionError" in done.stdout for what in ("report", "plots"))
    assert f"`python -m frostline report {tmp_path / 'broken'} --plots` tries again" in " ".join(done.stdout.split())
    assert {run.info.status for run in CompletedSweep(tmp_path / "broken", store).runs()} == {"FINISHED"}


def test_sweep_without_its_folder_is_downloaded_by_run_id(main_job, monkeypatch, capsys, tmp_path):
    from frostline.commands import compare, report

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{main_job.store}")
    monkeypatch.chdir(tmp_path)
    parent = next(run.info.run_id for run in main_job.runs() if "mlflow.parentRunId" not in run.data.tags)
    child = main_job.results()[0]["run_id"]
    assert compare.main([str(main_job.folder), "--json"]) == 0
    here = json.loads(capsys.readouterr().out)
    assert compare.main([child, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == here
    away = main_job.folder.rename(main_job.folder.with_name("away"))
    try:
        assert report.main([parent]) == 0
    finally:
        away.rename(main_job.folder)
    text = (tmp_path / "report.html").read_text()
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert data["groups"][0]["outcome"] == here["contests"][0]["outcome"]
    assert {run["folder"] for run in data["runs"]} == {None} and data["groups"][0]["contenders"][0]["calibration"]


def test_metrics_file_has_one_line_per_epoch(main_job):
    lines = [json.loads(line) for line in (main_job.folder / "3" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    best = max(line["val/accuracy"] for line in lines)
    assert main_job.results()[3]["metrics"]["best/val_accuracy"] == best


def test_single_run_gives_the_bits_of_the_sweep(main_job, store, tmp_path):
    config = yaml.safe_load((main_job.folder / "2" / "config.yaml").read_text())
    chosen = (f"freeze={config['freeze_mode']['name']}", f"lr={config['lr']}")
    alone = sweep(tmp_path / "alone", store, *chosen, flags=())
    for name in ("metrics.jsonl", "best.safetensors", "test_predictions.safetensors", "per_class.json"):
        assert (alone.folder / "0" / name).read_bytes() == (main_job.folder / "2" / name).read_bytes(), name


def test_failed_run_is_reported_and_others_continue(store, tmp_path):
    done = sweep(tmp_path / "failing", store, "freeze=full", "lr=1e30,1e-3", expect=1)
    failed, finished = done.results()
    assert (failed["status"], finished["status"]) == ("FAILED", "FINISHED")
    assert failed["reason"].startswith("Diverged: ") and failed["reason"] in done.out
    assert "Traceback" in (done.folder / "0" / "train.log").read_text()
    assert "Traceback" not in done.out + done.err
    by_name = {run.info.run_name: run for run in done.runs()}
    assert by_name["full lr=1e+30 seed=0"].info.status == "FAILED"
    assert by_name["full lr=1e+30 seed=0"].data.tags["frostline.reason"] == failed["reason"]
    assert len(by_name["full lr=1e+30 seed=0"].data.tags["frostline.fingerprint"]) == 64  # known before it failed
    assert not (done.folder / "0" / "best.safetensors").exists()


def test_sys_exit_in_a_run_fails_only_that_run(store, tmp_path):
    done = sweep(tmp_path / "exit", store, "seed=0,1", code="sys.exit(0)", expect=1)
    assert [r["status"] for r in done.results()] == ["FAILED", "FAILED"]
    assert {run.info.status for run in done.runs()} == {"FAILED"}


INTERRUPTS = [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")]


@pytest.mark.parametrize(("number", "status", "reason"), INTERRUPTS)
def test_interrupt_marks_runs_as_killed(store, tmp_path, number, status, reason):
    folder = tmp_path / f"interrupt-{number}"
    runs = ("resume=true", f"seed={number},1", "freeze=full", "epochs=1000")
    arguments = command("-m", *QUICK, *runs, *places(folder, store))
    said = tmp_path / "said"
    with said.open("w") as file, warm.Popen(arguments, env=environment(), stdout=file, stderr=file) as process:
        try:
            deadline = time.monotonic() + 120
            while not (folder / "0" / "metrics.jsonl").exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            process.send_signal(number)
            process.wait(60)
        finally:
            process.kill()
    done = CompletedSweep(folder, store, process.returncode, out := said.read_text())
    assert process.returncode == status, out
    assert [run.info.status for run in done.runs()] == ["KILLED"] * 2  # the sweep and its first run
    assert done.results()[0]["reason"] == reason
    assert reason in out and "not started" in out and "Traceback" not in out
    assert out.endswith(
        "To continue, type the same command again: finished runs are skipped, interrupted ones resumed.\n"
    )


def test_sweep_survives_a_closed_pipe(store, tmp_path):
    arguments = command("-m", *QUICK, *places(tmp_path / "piped", store))
    with warm.Popen(arguments, env=environment(), stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=120) == 0
    done = CompletedSweep(tmp_path / "piped", store)
    assert [run.info.status for run in done.runs()] == ["FINISHED"] * 2


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["store"], ["compare", "{sweep}", "--json"]])
def test_commands_exit_quietly_on_a_closed_pipe(arguments, main_job):
    whole = [argument.format(sweep=main_job.folder) for argument in arguments]
    ours, theirs = os.pipe()
    os.close(ours)
    done = warm.run([sys.executable, "-m", "frostline", *whole], env=environment(), stdout=theirs)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (0, "")


def test_sweep_survives_a_closed_terminal(store, tmp_path):
    ours, theirs = os.openpty()
    arguments = command("-m", *QUICK, *places(tmp_path / "closed", store))
    with warm.Popen(arguments, env=environment(), stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        os.read(ours, 1)
        os.close(ours)
        assert process.wait(timeout=120) == 0
    done = CompletedSweep(tmp_path / "closed", store)
    assert [run.info.status for run in done.runs()] == ["FINISHED"] * 2


def test_full_disk_is_reported_and_the_sweep_resumes_later(tmp_path):
    """A limit of 300 kB per file is enough to start, too little for MLflow's database, the weights and the report."""
    own = command("-m", *QUICK, "freeze=full", "resume=true", *places(tmp_path / "full", tmp_path / "mlflow.db"))
    warm.run([sys.executable, "-c", ""], env=environment())  # start the process that forks before the limit is set
    with file_size_limit(300 << 10):
        done = warm.run(own, env=environment())
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr
    assert re.search("failed  full lr=0.001 seed=0: .*File too large", done.stdout), done.stdout
    again = warm.run(own, env=environment())
    assert again.returncode == 0, again.stdout + again.stderr
    runs = CompletedSweep(tmp_path / "full", tmp_path / "mlflow.db").runs()
    assert [run.info.status for run in runs] == ["FINISHED"] * 2


@pytest.mark.parametrize(
    ("error", "status"), [(OSError("disk"), "FAILED"), (WorkerDied("x"), "KILLED"), (None, "KILLED")]
)
def test_status_of_a_run_without_a_result_file(error, status, tmp_path):
    found = closing.result(tmp_path, 0, RunFacts("head", {}, "0"), error)
    assert found.status == status


def test_version_is_that_of_frostline(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py", "lr=1", "--version"])
    cli.main()
    assert capsys.readouterr().out == f"frostline {metadata.version('frostline')}\n"


def test_rerun_may_be_typed_as_a_sweep(monkeypatch):
    given = []
    monkeypatch.setattr(cli.commands, "run", lambda name, arguments: given.append([name, *arguments]) or 0)
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", "rerun=a1b2", "device=cpu"])
    with pytest.raises(SystemExit):
        cli.main()
    assert given == [["rerun", "a1b2", "device=cpu"]]


def test_disk_error_of_the_sweep_is_one_line(monkeypatch, capsys):
    def full():
        raise OSError(28, "No space left on device", "multirun/sweep.json")

    monkeypatch.setattr(cli.hydra, "main", lambda **_: lambda job: full)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    err = capsys.readouterr().err
    assert err.startswith("frostline: multirun/sweep.json: No space left on device; ") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("interrupt", "status", "reason"), [(KeyboardInterrupt(), 130, "Ctrl-C"), (Terminated("SIGTERM"), 143, "SIGTERM")]
)
def test_interrupt_before_runs_is_reported(interrupt, status, reason, monkeypatch, capsys):
    def interrupted():
        raise interrupt

    monkeypatch.setattr(cli.hydra, "main", lambda **_: lambda job: interrupted)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == status and capsys.readouterr().err == f"frostline: ended by {reason}\n"


def test_folder_that_cannot_be_created_is_refused(store, tmp_path):
    (tmp_path / "file").write_text("")
    done = sweep(tmp_path / "file" / "sweep", store, expect=2)
    assert done.err.startswith("frostline: hydra.sweep.dir=") and done.err.count("\n") == 1


def test_weights_that_do_not_fit_are_refused_before_runs(store, tmp_path):
    from safetensors.torch import save_file
    from torch import zeros

    save_file({"conv1.0.weight": zeros(1)}, tmp_path / "w.safetensors")
    done = sweep(tmp_path / "sweep", store, f"model.weights={tmp_path}/w.safetensors", expect=2)
    assert "do not fit the network" in done.err and done.err.count("\n") == 1
    assert not (tmp_path / "sweep").exists()


def test_dry_run_plans_without_training_or_recording(tmp_path):
    every = ("freeze=glob(*,exclude=prompt)", "dry_run=true", "epochs=7", "data.limit=40", *small.TINY)
    done = sweep(tmp_path / "dry", tmp_path / "none.db", *every)
    plans = [json.loads(path.read_text()) for path in done.folder.glob("*/plan.json")]
    modes = {path.stem for path in (CHECKOUT / "conf" / "freeze_mode").glob("*.yaml")}
    assert {plan["freeze_mode"] for plan in plans} == modes - {"prompt"}  # needs a vision transformer
    assert not (tmp_path / "none.db").exists() and not list(done.folder.glob("*/best.safetensors"))
    for plan in plans:
        assert plan["phases"][0]["first_epoch"] == 1 and plan["phases"][-1]["last_epoch"] == (
            7 if plan["optimizer"] else 1
        )


def test_folder_of_another_sweep_is_refused(main_job):
    done = sweep(main_job.folder, main_job.store, expect=2)
    assert done.err.startswith("frostline: hydra.sweep.dir=") and done.err.count("\n") == 1


BAD = [
    ("lr=nan", "lr=nan: expected a finite number above 0"),
    ("lr=1e400", "lr=inf: "),
    ("lr=fast", "lr=fast: expected a value of type float"),
    ("epochs=0", "epochs=0: expected a whole number of at least 1"),
    ("epochs=2.5", "epochs=2.5: "),
    ("seed=null", "seed=null: "),
    ("+lrr=1", "lrr=1: expected a key of the config, see --help; did you mean lr?"),
    ("optimiser=adam", "optimiser=adam: expected a key of the config, see --help; did you mean optimizer?"),
    ("freeze=ful", "did you mean full?"),
    ("--freeze head", "--freeze: expected a key without dashes, freeze=<value>, or a flag of --hydra-help"),
    ("--batch-size=64", "--batch-size=64: expected a key without dashes, batch_size=64, or a flag of --hydra-help"),
    ("-b 64", "-b: expected a key without dashes, b=<value>, or a flag of --hydra-help"),
    ("search=optuna", "did you mean tpe?"),
    ("freeze=none", "did you mean full?"),
    ("freeze=head, lr=1", "freeze=head,: expected no comma at the end of a list, and no blank after a comma"),
    ("data.root=my birds", "; a value with a blank in it is quoted: 'key=\"a b\"'"),
    (
        "data=shards data.root=a-0.tar data.root=a-1.tar",
        "expands braces that are not quoted: 'data.root=\"train-{000..099}.tar\"'",
    ),
    ("model=resnet05", ", or any of timm as model=timm model.name=<name>; did you mean resnet50?"),
    ("lr=1e-3,0.001", "head lr=0.001 seed=0: expected once in a sweep"),
    ("freeze=head freeze_mode=full", "freeze=head: "),
    ("lr=[1", "lr=[1: expected one value, or several"),
    ("seed=range(0,3", "seed=range(0,3: expected one value, or several"),
    ("freze=head", "freze=head: expected a key of the config, see --help; did you mean freeze?"),
    ("freeze=", "freeze=: expected one of adapter, bias, "),
    ("freeze=[head,full]", "freeze=[head,full]: expected one option, or several with commas between"),
    ("dry_run=maybe", "dry_run=maybe: expected true or false"),
    ("augment=standard augment.scale=0.5", "augment.scale=0.5: expected a list in brackets"),
    ("eval=shift", "eval=shift: expected keys within it, as in eval.<key>=<value>"),
    ("lr=???", "lr=???: expected a value, as in lr=<value>"),
    ("data.root=???", "data.root=???: expected a value, as in data.root=<value>"),
    ("=3", "=3: expected key=value, or a command first (advise, compare, "),
    ("comparre", "; did you mean compare?"),
    ("hydra.launcher.workers=0", "hydra.launcher.workers=0: expected a whole number of at least 1"),
    ("hydra.launcher=joblib", "hydra.launcher=joblib: expected a slash, hydra/launcher=joblib, or keys within it"),
    ("~lr", "lr=(nothing): expected a value"),
    ("model=null", "model=null: expected one of the "),
    ("experiment_name=", "experiment_name=: expected 1 to 250 printable characters"),
]


@pytest.mark.parametrize("value", ["~/my/images", "~/a,~/b"])
def test_tilde_is_expanded_in_every_value(value, tmp_path):
    arguments = command("-m", "data=image_folder", f"data.root={value}", *places(tmp_path / "s", tmp_path / "db"))
    done = warm.run(arguments, env={**environment(), "HOME": str(tmp_path / "home")})
    first = value.split(",")[0].replace("~", str(tmp_path / "home"))
    assert done.returncode == 2 and f"data.root={first}: expected a folder that exists" in done.stderr


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """Return the output for each mistake, and the folder that its sweep was to use."""
    folders = [tmp_path_factory.mktemp("refused") for _ in BAD]
    given = [places(folder / "sweep", folder / "mlflow.db") for folder in folders]
    typed = [command("-m", *said.split(), *place)[2:] for (said, _), place in zip(BAD, given, strict=True)]
    return dict(zip(BAD, zip(answers.run_lines(typed, environment()), folders, strict=True), strict=True))


@pytest.mark.parametrize(("overrides", "line"), BAD)
def test_mistake_is_one_line_and_starts_nothing(overrides, line, refused):
    (status, out, err), folder = refused[overrides, line]
    assert status == 2
    assert out == "" and err.startswith("frostline: ") and err.count("\n") == 1
    assert line in err
    assert not list(folder.iterdir())


def test_unknown_key_is_reported_before_a_missing_m_flag(tmp_path):
    words = [*command("lr=1,2", "optimiser=adam"), *places(tmp_path / "sweep", tmp_path / "db")]
    for flags in ([], ["--config-dir", str(tmp_path)], [f"--config-dir={tmp_path}"]):
        done = warm.run([*words, *flags], env=environment())
        assert done.returncode == 2 and done.stderr.startswith(
            "frostline: optimiser=adam: expected a key of the config"
        )


def test_pattern_without_match_is_refused_before_runs(tmp_path):
    arguments = command("-m", "freeze=head,norm", "model=alexnet", *places(tmp_path / "sweep", tmp_path / "mlflow.db"))
    done = warm.run(arguments, env=environment())
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("frostline: freeze_mode=norm: expected its pattern */norm/* to match")
    assert not list(tmp_path.iterdir())

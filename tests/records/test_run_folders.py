"""Folders of runs within the folder of their sweep."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import OmegaConf

import warm
from frostline.core.errors import UserError
from frostline.core.project import config_folder
from frostline.records import journal, layout, run_folders, sweep_record
from frostline.sweeps import hydra_keys, hydra_overrides
from frostline.sweeps.compose import compose_all
from frostline.sweeps.composer import Composer
from whole_sweeps import command, environment

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def loader():
    """Yield Hydra's loader of the project's configs."""
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


def composed(*overrides, lrs=(0.01, 0.001)):
    """Return the sweep's folder, and the relative folders of its runs, as composed for a sweep over `lrs`."""
    OmegaConf.register_new_resolver("project_root", lambda: ".", replace=True)
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("config", [*overrides], RunMode.MULTIRUN)
        str(master.hydra.sweep.dir)
        folder, cells = compose_all(
            [[f"lr={lr}"] for lr in lrs], Composer(lambda job: loader.load_sweep_config(master, job))
        )
    return folder, [cell.folder for cell in cells]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("subdir", "folders"),
    [
        ("${hydra:job.num}", ["0", "1"]),
        ("${hydra.job.id}", ["0", "1"]),
        ("${hydra.job.override_dirname}", ["lr=0.01", "lr=0.001"]),
        ("${freeze_mode.name}/${lr}", ["head/0.01", "head/0.001"]),
        ("runs//./${hydra:job.num}/", ["runs/0", "runs/1"]),
    ],
)
def test_run_folders_follow_hydras_subdir(subdir, folders):
    assert composed(f"hydra.sweep.subdir={subdir}")[1] == folders


@pytest.mark.slow
@pytest.mark.parametrize(
    ("subdir", "said"),
    [
        ("same", "runs 0 and 1 share this one"),
        ("${now:%Y}", f"hydra.sweep.subdir={datetime.now():%Y}: expected a folder for each run"),
        (".", "a folder within the sweep's"),
        ("../${lr}", "a folder within the sweep's"),
        ("/tmp/${lr}", "a folder within the sweep's"),
        ("plots/${lr}", "a folder within the sweep's"),
        (".mirror.lock/${lr}", "a folder within the sweep's"),
        ("é" * 130 + "${lr}", "at most 255 bytes"),
    ],
)
def test_shared_or_invalid_run_folders_are_refused(subdir, said):
    with pytest.raises(UserError, match=said):
        composed(f"hydra.sweep.subdir='{subdir}'")


def test_nested_run_folders_are_refused():
    with pytest.raises(UserError, match="lies inside that of run 0"):
        run_folders.require_distinct(["a", "a/b"])


def test_sweep_has_one_folder(tmp_path):
    assert composed(f"hydra.sweep.dir={tmp_path}/x_${{lr}}", lrs=(0.01,))[0] == tmp_path / "x_0.01"
    with pytest.raises(
        UserError, match=r"hydra.sweep.dir=.*x_0.01: expected one folder for all runs, not also .*x_0.001"
    ):
        composed(f"hydra.sweep.dir={tmp_path}/x_${{lr}}")


def test_working_directory_cannot_be_a_sweep_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for folder in (Path.cwd(), Path(), tmp_path):
        with pytest.raises(UserError, match=r"hydra\.sweep\.dir="):
            run_folders.require_free(folder)


def test_impossible_folder_is_refused_and_none_is_created(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "sweep", Path("/proc/sweep"), Path("/proc/a/sweep")):
        with pytest.raises(UserError, match=rf"^hydra\.sweep\.dir={folder}: expected a folder that can be created"):
            run_folders.require_free(folder)
    run_folders.require_free(tmp_path / "a" / "sweep")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def nested(folder):
    """Write a sweep of two runs in nested folders, of which one has started."""
    runs = [{"name": name, "choices": {}, "folder": f"{name}/0.1"} for name in ("head", "full")]
    (folder / "head" / "0.1").mkdir(parents=True)
    (folder / "sweep.json").write_text(json.dumps({"tracker": None, "runs": runs}))
    journal.append(folder / "head" / "0.1", "run", uid="u", tags={})
    return folder


def test_nested_runs_are_found(tmp_path):
    sweep = nested(tmp_path / "day" / "sweep")
    run = sweep / "head" / "0.1"
    assert run_folders.of(sweep) == [run, sweep / "full" / "0.1"]
    assert [Path(result.folder) for result in sweep_record.read(run).results] == run_folders.of(sweep)
    assert run_folders.with_record(sweep) == [run] and run_folders.by_uid([tmp_path]) == {"u": run}
    assert run_folders.sweep_of(run) == sweep and run_folders.sweep_of(sweep / "head") is None
    (sweep / "sweep.json").write_text("{")
    assert run_folders.of(sweep) == [run]


def test_resumed_sweep_must_keep_its_run_folders(tmp_path):
    sweep = nested(tmp_path / "sweep")
    run_folders.require_same(sweep, ["head/0.1", "full/0.1"])
    with pytest.raises(UserError, match=r"hydra.sweep.subdir=0: .* such as head/0.1; or another hydra.sweep.dir"):
        run_folders.require_same(sweep, ["0", "1"])
    (sweep / "head" / "0.1" / layout.RECORD).unlink()  # no run has started now
    run_folders.require_same(sweep, ["0", "1"])


@pytest.mark.parametrize(
    "typed", ["hydra.mode=RUN", "hydra/sweeper=basic", "hydra.run.dir=x", "+hydra.run.dir=x", "hydra.mode=run"]
)
def test_hydra_keys_that_bypass_the_sweep_are_refused(typed):
    with pytest.raises(UserError, match=r"^hydra.*: expected (MULTIRUN|frostline|nothing), "):
        hydra_keys.check_typed(["-m", typed])
    hydra_keys.check_typed(["hydra.mode=MULTIRUN", "hydra/sweeper=frostline", "-m", "lr=1"])


@pytest.mark.parametrize(
    ("override", "own", "said"),
    [
        ("hydra.job.chdir=true", True, "relative paths start at the working directory of the command"),
        ("hydra.output_subdir=..", True, "begins with a dot"),
        ("hydra.output_subdir=checkpoint", False, "begins with a dot"),
        ("hydra.sweeper.max_batch_size=2", True, "hydra.launcher.workers"),
        ("hydra.sweeper.max_batch_size=0", False, "at least 1"),
        ("cluster.detach=true", True, "to be given with cluster=slurm"),
        ("cluster.detach=true", False, None),
        ("hydra.output_subdir=null", True, None),
        ("hydra.sweeper.max_batch_size=2", False, None),
    ],
)
def test_unsupported_hydra_keys_are_refused(override, own, said, loader):
    config = loader.load_configuration("config", [override], RunMode.MULTIRUN)
    with pytest.raises(UserError, match=f"{override}: expected .*{said}") if said else nullcontext():
        hydra_keys.check(config, own_launcher=own)


def test_launcher_overrides_are_extracted(loader):
    typed = ["hydra/launcher=basic", "hydra.sweep.dir=x", "lr=1", "+hydra.launcher.more=2"]
    config = loader.load_configuration("config", typed, RunMode.MULTIRUN)
    assert hydra_keys.hydra_options(config.hydra) == [typed[0], typed[3]]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["frostline", "basic"])
def test_custom_run_folders_work_with_every_launcher(launcher, tmp_path):
    small = ("data.limit=100", "epochs=1", "batch_size=50", "model.image_size=32", "dry_run=true")
    where = (
        f'hydra.sweep.dir="{tmp_path}/a, b c"',
        "hydra.sweep.subdir=${freeze_mode.name}/${hydra.job.override_dirname}",
    )
    arguments = command(*small, *where, "freeze=head,full", f"hydra/launcher={launcher}")
    done = warm.run(arguments, env=environment(), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = run_folders.of(tmp_path / "a, b c")
    assert [run.parent.name for run in runs] == ["head", "full"] and all("freeze=" in run.name for run in runs)
    assert all((run / "plan.json").is_file() for run in runs)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a, b c"]
    assert [result.status for result in sweep_record.read(runs[0]).results] == ["PLANNED", "PLANNED"]


@pytest.mark.parametrize("typed", ["seed=range(0)", "freeze=glob(x*)", "lr=range(3,1)"])
def test_override_without_values_is_refused(typed, loader):
    parser = OverridesParser.create(config_loader=loader)
    with pytest.raises(UserError, match=f"^{re.escape(typed)}: expected at least one value"):
        hydra_overrides.points(parser.parse_overrides(["epochs=1,2", typed]))
    with pytest.raises(UserError, match=r"^lr=interval\(0,1\): expected values with commas between"):
        hydra_overrides.points(parser.parse_overrides(["lr=interval(0,1)"]))


def test_grid_equals_hydras_basic_sweeper(loader):
    typed = ["freeze=glob(h*),full", "seed=range(3)", "lr=1", "~schedule", "lr=1e-3,1e-4", "+optimizer.options.eps=1,2"]
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(typed)
    (expected,) = BasicSweeper.split_arguments(overrides, None)
    assert hydra_overrides.points(overrides) == expected and len(expected) == 2 * 3 * 2 * 2

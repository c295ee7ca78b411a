"""Our launcher: Hydra's test suites for launchers, and the replacement of dead workers."""

from __future__ import annotations

import pickle
import subprocess
import sys
import traceback
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra._internal.utils import get_args_parser
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.test_utils import test_utils
from hydra.test_utils.launcher_common_tests import BatchedSweeperTestSuite, IntegrationTestSuite, LauncherTestSuite
from hydra.version import _UNSPECIFIED_, VersionBase
from omegaconf import OmegaConf

import warm
from frostline.core import notices
from frostline.sweeps import pool, worker
from hydra_plugins import frostline_launcher
from hydra_plugins.frostline_launcher import FrostlineLauncher


@pytest.fixture(autouse=True)
def _as_hydra_expects(monkeypatch):
    """Hydra's suites start programs in other folders, and expect that no `version_base` is set."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2] / "src"))
    monkeypatch.setattr(VersionBase.instance(), "version_base", _UNSPECIFIED_)


@pytest.fixture
def _forked(monkeypatch):
    """Fork the programs and workers that Hydra's suites start; a test below starts both anew."""

    def check_call(command, env):
        done = warm.run(command, env=env)
        assert done.returncode == 0, done.stdout + done.stderr

    monkeypatch.setattr(test_utils, "subprocess", SimpleNamespace(check_call=check_call))
    monkeypatch.setattr(pool, "subprocess", warm.forking_subprocess())


def test_hydra_discovers_the_launcher():
    assert FrostlineLauncher.__name__ in [found.__name__ for found in Plugins.instance().discover(Launcher)]


@pytest.mark.usefixtures("_forked")
@pytest.mark.parametrize(("launcher_name", "overrides"), [("frostline", [])])
class TestLauncher(LauncherTestSuite):
    """Hydra's suite."""


@pytest.mark.usefixtures("_forked")
@pytest.mark.parametrize(
    ("launcher_name", "overrides"), [("frostline", ["hydra/sweeper=basic", "hydra.sweeper.max_batch_size=2"])]
)
class TestBatches(BatchedSweeperTestSuite):
    """Hydra's suite."""


def hydra_starts() -> bool:
    try:
        return bool(get_args_parser())
    except ValueError:
        return False


@pytest.mark.skipif(not hydra_starts(), reason="Hydra 1.3 alone does not start with Python 3.14")
@pytest.mark.usefixtures("_forked")
@pytest.mark.parametrize(
    ("task_launcher_cfg", "extra_flags"), [({}, ["-m", "hydra/launcher=frostline", "hydra/hydra_logging=disabled"])]
)
class TestIntegration(IntegrationTestSuite):
    """Hydra's suite."""


JOB_RETURN = """
import sys
import hydra
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import HydraContext
from omegaconf import OmegaConf
from frostline.sweeps.hydra_task import call, in_common, packed
typed = ["hydra/launcher=frostline", "hydra.sweep.dir=sweep", "hydra.sweep.subdir=0", "hydra.mode=MULTIRUN"]
with hydra.initialize(version_base="1.3", config_path=None):
    config = hydra.compose(overrides=[*typed, "hydra.job.num=0", "hydra.job.id=0"], return_hydra_config=True)
    context = HydraContext(GlobalHydra.instance().config_loader(), Callbacks())
    done = call(in_common(context, lambda config: None), packed(config), True)
for node in (done.hydra_cfg.hydra.launcher, done.hydra_cfg.hydra.sweeper):
    found = OmegaConf.get_type(node)
    assert found is getattr(sys.modules[found.__module__], found.__name__), found
"""


def test_job_return_has_importable_classes(tmp_path):
    done = warm.run([sys.executable, "-c", JOB_RETURN], cwd=tmp_path)
    assert done.returncode == 0, done.stderr


APP = """
import ctypes, os, signal, sys, time
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
import hydra
from frostline.sweeps import hydra_parser

@hydra.main(version_base="1.3", config_path=None)
def task(config):
    here = Path(config.here)
    attempts = here / f"attempts-{config.how}"
    with attempts.open("a") as file:
        file.write("x")
    if attempts.stat().st_size == 1 or config.always:
        match config.how:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                os._exit(3)
            case "segfault":
                ctypes.string_at(0)
            case "term":
                signal.raise_signal(signal.SIGTERM)
            case "hang":
                time.sleep(1000)
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
                time.sleep(1000)  # this thread may run on before it stops
            case "lose":
                def fails():
                    raise RuntimeError("CUDA error: an illegal memory access was encountered")
                cuda = SimpleNamespace(is_initialized=lambda: True, synchronize=fails)
                sys.modules["torch"] = SimpleNamespace(cuda=cuda)
                fails()
            case "raise":
                raise ValueError("an error of the job")
            case int(number):
                raise ValueError(f"there is nothing in folder {number}")
    (here / f"done-{config.how}").touch()

hydra_parser.use()
task()
"""


def run(folder, *overrides, always=False, start=warm.run):
    (folder / "app.py").write_text(APP)
    given = [f"+here={folder}", f"+always={always}", f"hydra.sweep.dir={folder}/sweep", "hydra/launcher=frostline"]
    arguments = [sys.executable, str(folder / "app.py"), "-m", *given, *overrides]
    return start(arguments)


def test_unreadable_task_does_not_end_the_worker():
    answer = worker._answer_to(b"nonsense")
    assert answer is not None and isinstance(answer.error, pickle.UnpicklingError) and not answer.last


def test_second_interrupt_discards_the_pool(monkeypatch):
    class InterruptedPool:
        def run(self, *_, **__):
            raise KeyboardInterrupt

        def interrupt(self, first):
            raise KeyboardInterrupt from first

    for name in ("setup_globals", "configure_log", "in_common"):
        monkeypatch.setattr(frostline_launcher, name, lambda *_: None)
    launcher = FrostlineLauncher(1, None, 0)
    launcher.hydra_context = launcher.task_function = None
    launcher.config = OmegaConf.create({"hydra": {"hydra_logging": None, "verbose": False}})
    launcher.pool = InterruptedPool()
    with pytest.raises(KeyboardInterrupt):
        launcher.run({0: None}, pytest.fail)
    assert launcher.pool is None


def test_worker_says_why_its_modules_cannot_be_imported(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(notices, "_say", said.append)
    (tmp_path / "cramped.py").write_text("raise ImportError('failed to map segment')")
    monkeypatch.syspath_prepend(tmp_path)
    worker._load("cramped")
    assert said == ["A worker cannot import cramped (ImportError: failed to map segment)"]


def _of_a_plugin():
    raise NameError("name 'rgn' is not defined")


def test_error_of_a_worker_says_where_it_was_raised():
    import cloudpickle

    answer = pickle.loads(worker._pickled(worker._answer_to(cloudpickle.dumps((_of_a_plugin,)))))
    assert "in _of_a_plugin" in "".join(traceback.format_exception(answer.error))


def test_interrupt_while_waiting_kills_all_workers():
    killed = []

    def interrupted(*_):
        raise KeyboardInterrupt

    def one(number):
        process = SimpleNamespace(send_signal=interrupted, kill=lambda: killed.append(number))
        return SimpleNamespace(process=process, end=interrupted)

    workers = object.__new__(pool.Pool)
    workers._workers = [one(0), one(1)]
    with pytest.raises(KeyboardInterrupt):
        workers.interrupt(KeyboardInterrupt())
    assert killed == [0, 1]


def attempts(folder, how):
    return (folder / f"attempts-{how}").stat().st_size


def test_dead_or_hanging_worker_is_replaced(tmp_path):
    ways = ("fine", "kill", "term", "exit", "segfault", "hang", "stop", "lose")
    begun = partial(subprocess.run, capture_output=True, text=True, timeout=120, check=False)
    how = ("hydra.launcher.job_timeout=2", "hydra.launcher.workers=2")
    done = run(tmp_path, f"+how={','.join(ways)}", *how, start=begun)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {way: attempts(tmp_path, way) for way in ways} == {"fine": 1} | dict.fromkeys(ways[1:], 2)
    assert all((tmp_path / f"done-{way}").exists() for way in ways)
    for reason in (
        "its worker was killed by signal 9 (out of memory?)",
        "its worker exited with status 3",
        "its worker was told to end (SIGTERM)",
        "its worker was killed by signal 11 (SIGSEGV)",
        "no sign of life for 2 s, so its worker was killed",
        "its GPU can no longer be used; see the log of the run",
    ):
        assert f"{reason}; it is restarted" in done.stdout


def test_repeatedly_failing_job_is_given_up(tmp_path):
    done = run(tmp_path, "+how=kill,raise,fine", always=True)
    assert done.returncode == 1 and "WorkerDied: its worker was killed by signal 9" in done.stderr
    assert (attempts(tmp_path, "kill"), attempts(tmp_path, "raise")) == (2, 1)
    assert (tmp_path / "done-fine").exists()


def test_sweep_stops_if_its_first_jobs_fail_alike(tmp_path):
    done = run(tmp_path, "+how=range(10)", always=True)
    assert done.returncode == 1
    assert "Stopped: the first 3 runs all failed in the same way (ValueError: there is nothing in" in done.stdout
    assert sorted(path.name for path in tmp_path.glob("attempts-*")) == ["attempts-0", "attempts-1", "attempts-2"]

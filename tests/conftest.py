"""What all tests share: one thread, so that they run beside each other and give the same bits anywhere; a store."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

import preload
import stores
import warm

preload.read_once()
preload.compose_once()
settings.register_profile("tests", deadline=None)  # no speed is tested, least of all on a machine that is busy
settings.load_profile("tests")
CHECKOUT = Path(__file__).parent.parent
sys.modules.update(dict.fromkeys(("dbruntime", "pyspark")))  # which MLflow looks for with every request
if "PYTEST_XDIST_WORKER" in os.environ:  # to take all modules apart costs seconds, and shows nothing
    atexit.register(os._exit, 0)  # first, so that it is called last


def pytest_configure(config: pytest.Config) -> None:
    """A test means the CPU, also in the processes that it starts, unless those for a card are asked for."""
    if config.getoption("markexpr") != "cuda":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a card where none is seen; torch is for who runs tests, not for who hands them to workers."""
    import torch

    torch.set_num_threads(1)
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="needs a card: pytest -m cuda"))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Let the collector of garbage wait until all is imported: what modules make stays, and costs it many looks."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish() -> None:
    """Let the collector of garbage look no more at what is there for good: modules, and the tests themselves.

    What is frozen does not count as old, so that it would look at all that is new far more often than elsewhere.
    """
    gc.freeze()
    gc.set_threshold(5_000, 10, 100)


def pytest_sessionfinish() -> None:
    """Let it look no more at what the tests loaded either: pytest has it look at all twice at the end."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let it look at all once more, when the interpreter ends, where some packages count what they hold."""
    atexit.register(gc.unfreeze)


@pytest.fixture(scope="session", autouse=True)
def _store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test reads or fills the store of the person who runs the tests."""
    folder = tmp_path_factory.mktemp("store")
    os.environ["FROSTLINE_STORE"] = str(folder)
    yield folder
    del os.environ["FROSTLINE_STORE"]


@pytest.fixture(scope="session", autouse=True)
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[Path]:
    """The folder that all processes of this test run have."""
    own = tmp_path_factory.getbasetemp()
    folder = own if worker_id == "master" else own.parent
    os.environ["FROSTLINE_TESTS"] = str(folder)
    os.environ["FROSTLINE_TESTS_PROCESS"] = str(os.getpid() if worker_id == "master" else os.getppid())
    yield folder
    del os.environ["FROSTLINE_TESTS"], os.environ["FROSTLINE_TESTS_PROCESS"]


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Let torch use two threads, which changes the order in which it adds."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Trained:
    """A small sweep of two runs, head and full, on the embedded digits."""

    folder: Path
    uri: str

    def environment(self):
        source = str(CHECKOUT / "src")
        return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": source, "MLFLOW_TRACKING_URI": self.uri}

    def command(self, *arguments, cwd, stdin="", expect=0):
        """Return stdout and stderr of a command of frostline, run as a person does, in a process of its own."""
        whole = [sys.executable, "-m", "frostline", *map(str, arguments)]
        done = warm.run(whole, env=self.environment(), cwd=cwd, stdin=stdin)
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout, done.stderr


@pytest.fixture(scope="session")
def trained(shared, _store):
    """Train the small sweep, once for all tests in all processes; who changes something in it works on a copy."""
    folder = shared / "trained"
    sweep = Trained(folder / "sweep", f"sqlite:///{folder / 'mlflow.db'}")
    with FileLock(shared / "trained.lock"):
        if not (folder / "sweep" / "results.json").exists():
            folder.mkdir(exist_ok=True)
            stores.put(folder / "mlflow.db")
            _train(sweep, folder)
    return sweep


def _train(sweep, folder):
    quick = ("data.limit=200", "data.test_fraction=0.05", "epochs=2", "batch_size=50", "model.image_size=32")
    quick = (*quick, "lr=1e-2", "eval.shift=true")
    where = (f"hydra.sweep.dir={sweep.folder}", f"tracking.uri={sweep.uri}", 'experiment_name="Vögel & 100%"')
    sweep.command("-m", "freeze=head,full", *quick, *where, cwd=folder)

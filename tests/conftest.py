"""Set-up of all tests: one thread, which gives the same bits in parallel runs, no GPU, and a store of their own."""

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

import disk
import preload
import stores
import warm

preload.read_once()
preload.compose_once()
settings.register_profile("tests", deadline=None)  # tests check no speed, and the machine may be busy
settings.load_profile("tests")
CHECKOUT = Path(__file__).parent.parent
sys.modules.update(dict.fromkeys(("dbruntime", "IPython", "pyspark")))  # MLflow searches for them at every request
os.environ["no_proxy"] = "127.0.0.1"  # else requests reads the whole environment twice at every request
if "PYTEST_XDIST_WORKER" in os.environ:  # the interpreter needs seconds to tear down all modules
    atexit.register(os._exit, 0)  # registered first, so that it is called last


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs from tests and from the processes that they start, unless `-m cuda` is given."""
    if config.getoption("markexpr") != "cuda":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip GPU tests if there is no GPU. Import torch only here: the controller of xdist does not need it."""
    import torch

    disk.skip_syncs()
    torch.set_num_threads(1)
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU: pytest -m cuda"))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Disable garbage collection during imports: their objects stay, and scanning them often takes time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish() -> None:
    """Exclude modules and tests from garbage collection.

    Frozen objects do not count as old ones, so full collections would be more frequent: raise the thresholds.
    """
    gc.freeze()
    gc.set_threshold(5_000, 10, 100)


def pytest_sessionfinish() -> None:
    """Freeze what tests loaded as well: pytest collects garbage twice at the end."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Unfreeze at exit: some packages count their objects then."""
    atexit.register(gc.unfreeze)


@pytest.fixture(scope="session", autouse=True)
def _store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Use a temporary store instead of the user's."""
    folder = tmp_path_factory.mktemp("store")
    os.environ["FROSTLINE_STORE"] = str(folder)
    yield folder
    del os.environ["FROSTLINE_STORE"]


@pytest.fixture(scope="session", autouse=True)
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[Path]:
    """Yield the folder that all processes of this test run share."""
    own = tmp_path_factory.getbasetemp()
    folder = own if worker_id == "master" else own.parent
    os.environ["FROSTLINE_TESTS"] = str(folder)
    os.environ["FROSTLINE_TESTS_PROCESS"] = str(os.getpid() if worker_id == "master" else os.getppid())
    yield folder
    del os.environ["FROSTLINE_TESTS"], os.environ["FROSTLINE_TESTS_PROCESS"]


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Let torch use two threads, which changes the order of its additions."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Trained:
    """A finished sweep of two runs, head and full, on the embedded digits."""

    folder: Path
    uri: str

    def environment(self):
        source = str(CHECKOUT / "src")
        return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": source, "MLFLOW_TRACKING_URI": self.uri}

    def command(self, *arguments, cwd, stdin="", expect=0):
        """Return stdout and stderr of a frostline command, run in a process of its own."""
        whole = [sys.executable, "-m", "frostline", *map(str, arguments)]
        done = warm.run(whole, env=self.environment(), cwd=cwd, stdin=stdin)
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout, done.stderr


@pytest.fixture(scope="session")
def trained(shared, _store):
    """Train the small sweep once for all test processes. A test that changes files must copy it first."""
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

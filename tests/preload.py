"""Imports and one-time work of the process that forks commands (see warm.py), before it forks any."""

from __future__ import annotations

import ctypes
import functools
import gc
import hashlib
import importlib
import io
import os
import pickle
import pkgutil
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import disk

LOADED = (
    *("matplotlib.figure", "matplotlib.backends.backend_agg", "PIL.PngImagePlugin"),
    *("mlflow.tracking.client", "mlflow.store.tracking.sqlalchemy_store", "itables", "narwhals"),
    *("plotly", "cloudpickle"),
)
"""Modules that a sweep imports late, beside all modules of frostline."""
_CONFIGS = {str(Path(__file__).parents[1] / "conf"), "hydra.conf", ""}
"""Config folders that no test writes to."""


def load() -> None:
    """Import everything that a command may import."""
    gc.disable()  # objects of modules stay, and would be scanned often
    from hydra.core.plugins import Plugins

    import frostline
    from frostline.tracking import server

    server.load()  # first: MLflow keeps the logging settings it finds at import
    for module in pkgutil.walk_packages(frostline.__path__, "frostline."):
        if not module.name.endswith(("__main__", ".ship")):
            importlib.import_module(module.name)
    for name in LOADED:
        importlib.import_module(name)
    Plugins.instance()
    sys.modules["frostline.data.sources"]._read_digits()
    disk.skip_syncs()
    read_once()
    compose_once()
    draw_once()
    create_once()
    measure_no_speed()
    _fill_caches()
    _execute_runs()
    for made in list(weakref.finalize._registry):
        made.atexit = False  # of torch's libraries, which every fork would unload at exit
    gc.freeze()  # the collector does not write to frozen objects, so forks share their memory
    _use_large_pages()
    gc.set_threshold(20_000, 10, 10)  # a command ends before it has created many reference cycles
    gc.enable()


def read_once() -> None:
    """Cache the parsed content of Hydra's files by text: parsing takes a fifth of the time of composing."""
    from omegaconf import OmegaConf

    load, known = OmegaConf.load, dict[str, bytes]()

    def read(file: Any) -> Any:
        if not hasattr(file, "read"):
            return load(file)
        if (text := file.read()) not in known:
            known[text] = pickle.dumps(load(io.StringIO(text)))
        return pickle.loads(known[text])

    OmegaConf.load = read  # type: ignore[method-assign]


def compose_once() -> None:
    """Cache what Hydra composes for each choice of groups, before values are put into it.

    Composing takes most of the time of a command that only prints one line, and a third of that of a short sweep.
    """
    from hydra._internal import config_loader_impl as loading
    from hydra._internal.defaults_list import DefaultsList, Overrides
    from hydra.core.config_store import ConfigStore

    listed, composed = loading.create_defaults_list, loading.ConfigLoaderImpl._compose_config_from_defaults_list
    known = dict[str, bytes]()

    def once(made: Callable[[], Any], repo: Any, *key: Any) -> Any:
        sources = [(source.provider, source.path) for source in repo.get_sources()]
        identity = repr((key, sources))
        if identity not in known:
            known[identity] = _made_once(
                identity, lambda: pickle.dumps(made()), {path for _, path in sources} <= _CONFIGS
            )
        return pickle.loads(known[identity])

    def create_defaults_list(repo: Any, config_name: Any, overrides_list: Any, **how: Any) -> DefaultsList:
        own = Overrides(repo, overrides_list)
        chosen = (sorted(own.override_choices.items()), own.append_group_defaults, own.deletions)
        whole = functools.partial(listed, repo, config_name, overrides_list, **how)
        found: DefaultsList = once(whole, repo, config_name, chosen, how)
        found.config_overrides = own.config_overrides
        return found

    def compose(loader: Any, defaults: Any, repo: Any) -> Any:
        return once(lambda: composed(loader, defaults, repo), repo, defaults)

    ConfigStore.__deepcopy__ = lambda store, memo: store  # type: ignore[attr-defined]  # a singleton
    loading.create_defaults_list = create_defaults_list
    loading.ConfigLoaderImpl._compose_config_from_defaults_list = compose  # type: ignore[method-assign]


def _made_once(identity: str, made: Callable[[], bytes], shared: bool) -> bytes:
    """Return what `made` returns, called once for all processes of a test run if it is `shared`."""
    if not shared or "FROSTLINE_TESTS" not in os.environ:
        return made()
    folder = Path(os.environ["FROSTLINE_TESTS"]) / "composed"
    if not (file := folder / hashlib.sha256(identity.encode()).hexdigest()).exists():
        folder.mkdir(exist_ok=True)
        (own := file.with_name(f"{file.name}-{os.getpid()}")).write_bytes(made())
        own.replace(file)
    return file.read_bytes()


def draw_once() -> None:
    """Draw only the first plot of each file type, and write its bytes for all later ones.

    The tests of plots check how they look, in processes without this patch.
    """
    from matplotlib.figure import Figure

    savefig, drawn = Figure.savefig, dict[str, bytes]()

    def save(figure: Figure, file: io.BytesIO, *, format: str, **options: Any) -> None:
        if format not in drawn:
            savefig(figure, first := io.BytesIO(), format=format, **options)
            drawn[format] = first.getvalue()
        file.write(drawn[format])

    Figure.savefig = save  # type: ignore[method-assign,assignment]


def create_once() -> None:
    """Copy an empty database instead of having MLflow create it, which takes more than a second.

    The tests of sessions check the creation, in processes without this patch.
    """
    import stores
    from frostline.tracking import server

    create, empty = server._create, stores.content()

    def put(file: Path) -> None:
        server._probe(file)
        if file.stat().st_size == 0:
            (partial := file.with_name(f"{file.name}.copy")).write_bytes(empty)
            partial.replace(file)
        create(file)

    server._create = put


def measure_no_speed() -> None:
    """Replace the measurement of a network's speed, which each process would repeat, by a constant.

    The tests of speed check it, in processes without this patch.
    """
    from frostline.runs import speed

    speed._measured = lambda setup, side: 1000.0


def _fill_caches() -> None:
    """Do what is slow the first time and the same for every command.

    Grammars fill their caches, fonts are searched, libraries of the report are packed, SQL statements are compiled.
    """
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode
    from matplotlib.figure import Figure
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag
    from omegaconf import OmegaConf

    import stores
    from frostline.records import provenance
    from frostline.report import html

    OmegaConf.register_new_resolver("project_root", str)
    with hydra.initialize_config_dir(str(Path(__file__).parents[1] / "conf"), version_base="1.3"):
        typed = ["lr=1e-2", "hydra.sweep.dir=/a/b", "tracking.uri=sqlite:////a/b.db"]
        for mode in (RunMode.RUN, RunMode.MULTIRUN):
            GlobalHydra.instance().config_loader().load_configuration("config", typed, mode)
    OmegaConf.clear_resolver("project_root")
    provenance.packages()
    for file in ("package_data/plotly.min.js", "html/dt_bundle.js", "html/dt_bundle.css"):
        html._packed("plotly" if "plotly" in file else "itables", file)
    axes = Figure().add_subplot(xscale="log", title="a", xlabel="b", ylabel="c")
    axes.plot([1, 2], [1, 2], label="d")
    axes.legend()
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("png", "svg"):
            axes.figure.savefig(io.BytesIO(), format=kind)
        client = MlflowClient(f"sqlite:///{stores.put(Path(folder) / 'mlflow.db')}")
        run = client.create_run(client.create_experiment("a", folder), tags={"b": "c"}).info
        client.log_batch(run.run_id, [Metric("d", 1.0, 1, 1)], [Param("e", "f")], [RunTag("g", "h")])
        client.search_runs([run.experiment_id], "tags.b = 'c'")
        client.get_metric_history(run.run_id, "d")
        client.set_terminated(run.run_id)
        client.get_run(run.run_id)


def _execute_runs() -> None:
    """Execute two runs with options that no test uses: torch's first steps take as long as a small run."""
    from omegaconf import OmegaConf

    import small
    from frostline.core import driver, files, notices, plugins, project, torch_settings
    from frostline.core.validation import parse
    from frostline.sweeps.job_config import config_text

    shape = ("model.image_size=40", "data.limit=20", "data.test_fraction=0.02", "data.val_fraction=0.02", "epochs=1")
    with tempfile.TemporaryDirectory() as folder, torch_settings.isolated():
        for mode in ("head", "full"):
            config = small.plain_config(f"freeze={mode}", *shape, "batch_size=10", "threads=1", "store.enabled=false")
            config_text(config)
            small.execute_run(parse(config), Path(folder) / mode)
    project.source_sha256()
    OmegaConf.clear_resolver("project_root")
    for known in (files._alike, notices._told):
        known.clear()
    for asked in (plugins._installed, driver.too_old):  # about installed packages, which differ between commands
        asked.cache_clear()
    assert threading.active_count() == 1, "a forked process would wait for threads that it does not have"


def _use_large_pages() -> None:
    """Let Linux (from 6.1) collapse memory into pages of 2 MiB, so that a fork copies fewer page table entries.

    It takes a second, and saves each forked process 0.03 s of the 0.05 s that its start and end take.
    """
    collapse, size = 25, 2**21
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for line in Path("/proc/self/maps").read_text().splitlines():
        place, rights, _, _, inode, *_ = line.split()
        begin, end = (int(address, 16) for address in place.split("-"))
        if rights == "rw-p" and inode == "0":
            for page in range(-(-begin // size) * size, end - size + 1, size):
                madvise(page, size, collapse)

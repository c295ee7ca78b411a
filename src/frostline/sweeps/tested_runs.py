"""Find single runs by name or MLflow id, each with the files that tell how it did on every test image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from frostline.core import project
from frostline.core.errors import UserError
from frostline.core.files import readable
from frostline.records import layout, run_folders, sweep_record
from frostline.records.result import Result, read_result
from frostline.sweeps import catalog
from frostline.sweeps.catalog import Target, TypedName
from frostline.tracking import download, query


def named(names: Sequence[TypedName], scratch: Path) -> list[Result] | None:
    """Return the runs of these names, `with_files`; None unless each name stands for a single run."""
    targets = [catalog.resolve(name) for name in names]
    if not all(map(_is_run, targets)):
        return None
    return [
        recorded(target.uri, target.ids[0], scratch)
        if target.folder is None
        else with_files(_in_folder(target.folder), target.uri, scratch)
        for target in targets
    ]


def recorded(uri: str, run_id: str, scratch: Path) -> Result:
    """Return the run `run_id` of the tracking store at `uri`, `with_files`; UserError if there is none."""
    sweep, told = query.parent_sweep(uri, run_id)
    here = project.project_root() / told
    local = sweep_record.read(here).results if readable(here / layout.SWEEP) else ()
    found = next((one for one in local if one.run_id == run_id), None) or download.result(uri, sweep, run_id, scratch)
    return with_files(found, uri, scratch)


def with_files(result: Result, uri: str | None, scratch: Path) -> Result:
    """Return a result whose folder has the files of the test, fetched from MLflow at `uri` into `scratch` if need be.

    They are the config, the provenance and the predictions. The result stays as it is if MLflow lacks one of them.
    """
    here = result.folder and readable(Path(result.folder) / layout.PREDICTIONS)
    if here or result.run_id is None or uri is None:
        return result
    folder = scratch / result.run_id
    folder.mkdir(exist_ok=True)
    try:
        for name in (layout.CONFIG, layout.PROVENANCE, layout.PREDICTIONS):
            download.fetch_artifact(uri, result.run_id, name, folder)
    except UserError:
        return result
    return replace(result, folder=str(folder))


def _is_run(target: Target) -> bool:
    if target.folder is None:
        return len(target.ids) == 1 and query.parent_sweep(target.uri, target.ids[0])[0] != target.ids[0]
    sweep = run_folders.sweep_of(target.folder)
    return read_result(target.folder) is not None if sweep is None else sweep != target.folder


def _in_folder(folder: Path) -> Result:
    """Return the run in `folder`, which may have been moved, or have skipped a run that is finished in another one."""
    if (found := read_result(folder)) is None:
        return next(one for one in sweep_record.read(folder).results if Path(one.folder) == folder)
    here = readable(folder / layout.PREDICTIONS) or not readable(Path(found.folder))
    return replace(found, folder=str(folder)) if here else found

"""Open data sets by the library `datasets`, from the hub, its cache or a folder, without the library's own output.

No code of a data set runs: the library refuses scripts, and only its readers of plain tables and images are allowed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.core.errors import UserError, one_line, user_error
from frostline.core.files import absolute
from frostline.data.names import some

if TYPE_CHECKING:
    import datasets

_NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_READERS = ("parquet", "arrow", "imagefolder", "webdataset", "json", "csv", "cache")
"""Readers of the library that run no code of a data set; the last one reads cached downloads."""
_SPLIT = re.compile(r"(^|[-._ 0-9])(train|training|validation|valid|dev|val|test|testing|eval|evaluation)($|[-._ 0-9])")
"""Names of folders that the library treats as splits (`datasets.data_files.SPLIT_KEYWORDS`)."""
_TIMEOUT = 5.0  # seconds after which the hub counts as unreachable


def open_data_set(root: str, options: Mapping[str, Any]) -> Mapping[str, datasets.Dataset]:
    """Return the splits of the data set at `root` under its own names, with rows as Arrow tables.

    `options` may have its `config` and `revision`. Raises `UserError` if it is unreadable or unreachable.
    """
    folder = absolute(root)
    if not os.path.isdir(folder) and not _NAME.fullmatch(root):
        raise user_error("data.root", root, "a folder that exists, or a data set of the hub as owner/name")
    library = _library()
    try:
        if not os.path.isdir(folder):
            return _of_hub(library, root, options)
        with _offline(library):
            return _of_folder(library, folder, options)
    except UserError:
        raise
    except Exception as error:  # of the network, of a file, or of the library
        raise user_error("data.root", root, f"a data set that can be read ({_reason(error)})") from error


def _library() -> Any:
    """Return the library with its progress bars and warnings off, which would mix with frostline's output."""
    try:
        import datasets  # three quarters of a second, needed for this source only
    except ImportError as error:
        expected = "the hub's library to be installed (pip install 'frostline[hub]')"
        raise user_error("data.source", "hub", expected) from error
    import huggingface_hub

    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity(datasets.utils.logging.CRITICAL)  # exceptions say the same
    huggingface_hub.utils.disable_progress_bars()
    huggingface_hub.logging.set_verbosity_error()
    return datasets


@contextmanager
def _offline(library: Any) -> Iterator[None]:
    """Put the library into offline mode within the block; otherwise it asks the hub even about local data."""
    from huggingface_hub import constants

    before = library.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    library.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        library.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before


def _of_folder(library: Any, folder: Path, options: Mapping[str, Any]) -> Mapping[str, datasets.Dataset]:
    """Return the splits in a folder that the library saved, or of files that it reads."""
    if options.get("revision") is not None:
        raise user_error("data.options.revision", options["revision"], "null, since a folder has no revisions")
    if (folder / "dataset_dict.json").is_file():
        return library.load_from_disk(str(folder), keep_in_memory=False)
    if (folder / "state.json").is_file():
        return {"train": library.load_from_disk(str(folder), keep_in_memory=False)}
    if not any(folder.iterdir()):
        raise user_error("data.root", folder, "a folder with a data set; this one is empty")
    opened = _built(library, str(folder), options)
    _check_folders(folder, opened)
    return opened


def _check_folders(folder: Path, opened: Mapping[str, datasets.Dataset]) -> None:
    """Raise `UserError` if the library treats a folder of images as a split that may be a class.

    The library treats names such as train and test as splits at any depth. Such a folder within a split is also a class
    to it, so that its images are in two splits; images directly in such a folder have no class.
    """
    from pyarrow import compute

    seen = set[str]()
    for rows in opened.values():
        table = rows.data
        told = {name: type(feature).__name__ for name, feature in rows.features.items()}
        if told.get("image") != "Image" or not told.keys() <= {"image", "label"}:  # no image folder
            continue
        paths = compute.struct_field(table.column("image"), "path").to_pylist()
        labels = table.column("label").to_pylist() if "label" in rows.features else [None] * len(paths)
        for path, label in zip(paths, labels, strict=True):
            own = Path(path or "").parent
            if folder in own.parents and (path in seen or (label is None and _SPLIT.search(own.name))):
                name = own.relative_to(folder)
                expected = f"class folders in {name}, which the library of the hub reads as a split"
                how = "data=image_folder reads it as a class, with data.layout=classes, or =splits if it is in one"
                raise user_error("data.root", folder, f"{expected}; {how}")
        seen.update(path for path in paths if path)


def _of_hub(library: Any, name: str, options: Mapping[str, Any]) -> Mapping[str, datasets.Dataset]:
    """Return the splits of a data set of the hub, downloaded if need be, or from the cache if the hub is unreachable.

    A single request tests this first, since the library asks a hub that does not answer six times.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    if library.config.HF_HUB_OFFLINE:
        return _built(library, name, options)
    try:
        huggingface_hub.HfApi().dataset_info(name, revision=options.get("revision"), timeout=_TIMEOUT)
    except HfHubHTTPError as error:  # the hub did answer
        raise user_error("data.root", name, f"a folder, or a data set that the hub has ({_reason(error)})") from error
    except Exception as error:
        try:
            with _offline(library):
                return _fetched_before(library, name, options)
        except Exception:
            expected = f"a folder, or a data set of the hub, which is unreachable ({_reason(error)})"
            raise user_error("data.root", name, expected) from error
    return _built(library, name, options)


def _fetched_before(library: Any, name: str, options: Mapping[str, Any]) -> Mapping[str, datasets.Dataset]:
    """Return the splits of a data set in the library's cache; LookupError if the cache has another revision."""
    kept = Path(library.load_dataset_builder(name, options.get("config")).cache_dir).name
    if options.get("revision") not in (None, kept):
        raise LookupError(kept)
    return _built(library, name, options)


def _built(library: Any, name: str, options: Mapping[str, Any]) -> Mapping[str, datasets.Dataset]:
    """Return the splits that the library builds from files, cached as Arrow tables."""
    try:
        builder = library.load_dataset_builder(name, options.get("config"), revision=options.get("revision"))
    except ValueError as error:
        if known := re.search(r"(?:Available|pick one among the available configs): (\[.*?\])", str(error)):
            configs = re.findall(r"'([^']*)'", known[1])
            given = options.get("config")
            expected = f"a config of the data set: {some(configs)}"
            raise user_error("data.options.config", "null" if given is None else given, expected, configs) from error
        raise
    reader = type(builder).__module__.split(".")[2:3]
    if type(builder).__module__.split(".")[:2] != ["datasets", "packaged_modules"] or reader[0] not in _READERS:
        expected = f"tables or images ({', '.join(_READERS)}), not a data set read by {type(builder).__module__}"
        raise user_error("data.root", name, expected)
    builder.download_and_prepare()
    return builder.as_dataset()


def _reason(error: Exception) -> str:
    """Return the message of an error of the library or the network, in a few words."""
    return one_line(error.__cause__ or error)

"""Data sets of the Hugging Face hub, by its library `datasets`: by name, or as it saves them in a folder.

The library finds the files, fetches them and lays them out as Arrow tables; pictures are then read from these as they
stand there, so that one decoder sees the bytes that every other source gives.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor

from frostline.core.errors import user_error
from frostline.core.files import expanded, facts
from frostline.data import hub_library, label_columns
from frostline.data.decode_image import open_bytes, open_image
from frostline.data.duplicates import first_alike
from frostline.data.findings import Finding, first_few
from frostline.data.label_columns import LABELS, Cell, Labels
from frostline.data.layouts import SPLITS, roles_of
from frostline.data.listing import survey
from frostline.data.names import printable, some

if TYPE_CHECKING:
    import pyarrow as pa

_OPTIONS = ("image", "label", "separator", "group", "splits", "config", "revision", *SPLITS)


@dataclass(frozen=True)
class Pictures:
    """The rows of one split that have a picture and a label."""

    split: str
    """As the data set calls it."""
    content: pa.ChunkedArray | None
    """The bytes of each row's picture, null where they are in a file; None where all are."""
    paths: pa.ChunkedArray | None
    """The path of each row's picture, which is what it is called where the bytes are there; None without paths."""
    folder: Path
    """What paths are relative to."""
    files: tuple[tuple[object, ...], ...]
    """Name, size and times of each file that the rows lie in."""
    rows: tuple[int, ...]
    labels: tuple[Labels, ...]
    """Of each of the rows."""
    groups: tuple[str, ...] | None
    """Of each of the rows, empty where it belongs to nobody; None where none are asked for."""

    def read(self, index: int) -> Image.Image:
        """Open the i-th picture, not decoded yet; raises anything where it is missing or broken."""
        content, path = self._content(index), self._path(index)
        return open_image(Path(path)) if content is None else open_bytes(content, path)

    def name(self, index: int) -> str:
        """Return where the i-th picture is: split and row, and what its file is called."""
        called = Path(self._path(index)).name
        return printable(f"{self.split}[{self.rows[index]}]" + (f" {called}" if called else ""))

    def identity(self) -> str:
        """Return the sha256 (hex) that stands for all pictures.

        The fingerprint that the library gives is another one whenever the same data is saved, and the same where a
        saved file is overwritten.
        """
        outside = set(self.rows) if self.content is None else set(self.rows) & set(_nulls(self.content))
        known = [self.files, self.rows, [(path, *facts(path)) for path in map(self._path_in, sorted(outside))]]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()

    def twins(self) -> Tensor:
        """Return `(N,)` int64: for each picture the first one of the same bytes."""
        from pyarrow import compute

        sizes = None if self.content is None else compute.binary_length(self.content).to_pylist()

        def size(index: int) -> Hashable:
            known = sizes[self.rows[index]] if sizes is not None else None
            return Path(self._path(index)).stat().st_size if known is None else known

        def whole(index: int) -> Hashable:
            content = self._content(index)
            return hashlib.sha256(Path(self._path(index)).read_bytes() if content is None else content).digest()

        return first_alike(len(self.rows), size, whole)

    def _content(self, index: int) -> bytes | None:
        return None if self.content is None else self.content[self.rows[index]].as_py()

    def _path(self, index: int) -> str:
        return self._path_in(self.rows[index])

    def _path_in(self, row: int) -> str:
        path = None if self.paths is None else self.paths[row].as_py()
        return str(self.folder / path) if path else ""


@dataclass(frozen=True)
class HubData:
    """What a data set holds."""

    splits: Mapping[str, Pictures]
    """`train` at least."""
    classes: tuple[str, ...]
    """The names of all classes in the order that the data set has; empty where labels speak for themselves."""
    multi_label: bool
    """Whether pictures may be of several classes, or of none."""
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class _Columns:
    """Which columns are read."""

    image: str
    labels: tuple[str, ...]
    """One, or one for each class."""
    separator: str | None
    group: str | None

    @property
    def names(self) -> set[str]:
        return {self.image, *self.labels, *((self.group,) if self.group is not None else ())}


def read(root: str, options: Mapping[str, Any]) -> HubData:
    """Return what the data set at `root` holds, a folder or a name of the hub as `owner/name`.

    `options`: the columns `image`, `label` and `group`, null for the only one of its kind; several columns for `label`
    are a class each, `separator` is what stands between the labels of a text; `config` and `revision` of what the hub
    has; and what it calls its `train`, `val` and `test` splits where that does not tell. Raises `UserError` for what
    cannot be read so, or reached.
    """
    _check_options(options)
    opened = hub_library.open_data_set(root, options)
    roles, findings = _roles(opened, options)
    findings += _not_taken(expanded(root), sum(map(len, opened.values())))
    train = opened[roles["train"]]
    columns = _columns(train, options)
    several = len(columns.labels) > 1 or columns.separator is not None or _is_list(train, columns.labels[0])
    splits = {}
    for role, called in roles.items():
        if lacks := columns.names - set(opened[called].features):
            findings.append(Finding(f"split {called} is left out, since it has no column {some(sorted(lacks))}", True))
            continue
        own = _pictures(root, called, opened[called], columns, findings, several=several)
        if own.rows:
            splits[role] = own
    if "train" not in splits:
        labels = some(columns.labels)
        expected = f"rows of train, with a picture ({columns.image}) and a label ({labels}) each"
        raise user_error("data.root", root, expected)
    classes = columns.labels if len(columns.labels) > 1 else _names(train, columns.labels[0])
    return HubData(splits, classes, several, tuple(findings))


def _check_options(options: Mapping[str, Any]) -> None:
    for key, value in options.items():
        if key not in _OPTIONS:
            raise user_error(f"data.options.{key}", value, f"one of {', '.join(_OPTIONS)}", _OPTIONS)
        if value is not None and not isinstance(value, list if key == "label" and isinstance(value, list) else str):
            raise user_error(f"data.options.{key}", value, "a name, or null")
    label_columns.check_options(
        options.get("label"), options.get("separator"), "the name of a column", "two or more of them"
    )


def _not_taken(folder: Path, rows: int) -> list[Finding]:
    """Return what is told where a folder holds more pictures than the library has made `rows` of.

    It takes `train` and `test` in any name for a split and leaves the others out, as it does suffixes in odd spelling.
    """
    there = len(survey(folder).files) if folder.is_dir() else 0
    if there <= rows:
        return []
    told = f"{there - rows:,} of {there:,} pictures below {folder} are left out by the library of the hub"
    return [Finding(f"{told}, by their names or places; data=image_folder or data=table reads all", True)]


def _roles(opened: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[dict[str, str], list[Finding]]:
    """Return what the data set calls its train, val and test, and what is told of its other splits."""
    names = list(opened)
    given = {role: options[role] for role in SPLITS if options.get(role) is not None}
    for role, called in given.items():
        if called not in names:
            raise user_error(f"data.options.{role}", called, f"a split of the data set: {some(names)}", names)
    found = given or ({"train": names[0]} if len(names) == 1 else _named_roles(names))
    if "train" not in found:
        expected = f"what the data set calls its training split: {some(names)}"
        raise user_error("data.options.train", "null", expected)
    left = [name for name in names if name not in found.values()]
    told = [Finding(f"split {name} with {len(opened[name]):,} rows is left out", not given) for name in left]
    return {role: found[role] for role in SPLITS if role in found}, told


def _named_roles(names: Sequence[str]) -> dict[str, str]:
    roles = dict(zip(names, roles_of(names), strict=True))
    found = {role: [name for name in names if roles[name] == role] for role in SPLITS}
    for role, several in found.items():
        if len(several) > 1:
            raise user_error(f"data.options.{role}", "null", f"one of the splits {some(several)}")
    return {role: several[0] for role, several in found.items() if several}


def _column(rows: Any, what: str, given: str) -> str:
    """Return the name of a column as it was given."""
    columns = list(rows.features)
    if given not in columns:
        raise user_error(f"data.options.{what}", given, f"a column of the data set: {some(columns)}", columns)
    return given


def _only(rows: Any, what: str, found: Sequence[str]) -> str:
    """Return the only column that was found."""
    if len(found) == 1:
        return found[0]
    expected = f"the column of the data set that it is: {some(found or rows.features)}"
    raise user_error(f"data.options.{what}", "null", expected)


def _image_column(rows: Any, given: str | None) -> str:
    """Return the column with the pictures: as it was given, or the only one of their kind."""
    features, schema = rows.features, rows.data.schema
    holding = [name for name in features if _holds_pictures(schema.field(name).type)]
    if given is None:
        kinds = [name for name in features if type(features[name]).__name__ == "Image"]
        return _only(rows, "image", kinds or [name for name in holding if "string" not in str(schema.field(name).type)])
    if _column(rows, "image", given) not in holding:
        kind = schema.field(given).type
        raise user_error("data.options.image", given, f"a column of pictures, not of {kind}: {some(holding)}", holding)
    return given


def _holds_pictures(kind: Any) -> bool:
    """Return whether values of an Arrow type may be pictures: bytes, a path, or a struct of both."""
    named = str(kind)
    return named in ("binary", "large_binary", "string", "large_string") or (
        named.startswith("struct<") and {"bytes", "path"} <= {kind.field(at).name for at in range(kind.num_fields)}
    )


def _columns(rows: Any, options: Mapping[str, Any]) -> _Columns:
    """Return which columns are read: as they were given, or the only ones of their kind."""
    image, group = _image_column(rows, options.get("image")), options.get("group")
    given = options.get("label")
    labels = tuple(given) if isinstance(given, list) else (_only_labels(rows) if given is None else given,)
    for name in labels:
        kind = rows.data.schema.field(_column(rows, "label", name)).type
        if name == image or not _is_simple(kind, lists=len(labels) == 1):
            among = "one text or number" if len(labels) > 1 else "one text or number, or a list of them,"
            said = "of pictures" if name == image else str(kind)
            raise user_error("data.options.label", name, f"a column with {among} in a row, not {said}")
    named = _column(rows, "group", group) if group is not None else None
    return _Columns(image, labels, options.get("separator"), named)


def _only_labels(rows: Any) -> str:
    """Return the only column of classes, of one or of lists of them, or else the one that is called as is common."""
    features = rows.features
    return _only(
        rows,
        "label",
        [name for name in features if _class_names(features[name])]
        or [name for name in features if name.casefold() in LABELS],
    )


def _is_list(rows: Any, name: str) -> bool:
    return hasattr(rows.data.schema.field(name).type, "value_field")


def _is_simple(kind: Any, *, lists: bool = False) -> bool:
    """Return whether values of an Arrow type may be classes as they stand there, or `lists` of them."""
    from pyarrow import types

    if lists and hasattr(kind, "value_field"):
        return _is_simple(kind.value_type)
    if types.is_dictionary(kind):
        kind = kind.value_type
    tests = (types.is_string, types.is_large_string, types.is_boolean, types.is_integer, types.is_floating)
    return any(test(kind) for test in tests)


def _names(rows: Any, label: str) -> tuple[str, ...]:
    return _class_names(rows.features[label])


def _class_names(feature: Any) -> tuple[str, ...]:
    """Return what classes are called, where a column, or the lists in it, hold such; else nothing."""
    return tuple(getattr(getattr(feature, "feature", feature), "names", None) or ())


def _pictures(
    root: str, split: str, rows: Any, columns: _Columns, findings: list[Finding], *, several: bool
) -> Pictures:
    """Return the rows of a split with a picture and a label; `findings` gets what is told of the others."""
    table = rows.with_format("arrow")[:]  # a view of the files, in the order that the rows have
    content, paths = _content_and_paths(table.column(columns.image))
    cells = {name: _cells(root, split, table.column(name).to_pylist(), _names(rows, name)) for name in columns.labels}
    labels = _labels(cells, columns.separator, several=several)
    nowhere = set(range(len(labels))).intersection(*(_nulls(one) for one in (content, paths) if one is not None))
    known = [row not in nowhere for row in range(len(labels))]
    for what, lost in (
        ("picture", [row for row, there in enumerate(known) if not there]),
        ("label", [row for row, own in enumerate(labels) if own is None and known[row]]),
    ):
        if lost:
            named = tuple(f"{split}[{row}]" for row in lost)
            told = f"{len(lost):,} rows without a {what} are left out: {first_few(named)}"
            findings.append(Finding(told, True, named))
    kept = {row: own for row, own in enumerate(labels) if own is not None and known[row]}
    groups = None
    if columns.group is not None:
        every = [_text(value) for value in table.column(columns.group).to_pylist()]
        groups = tuple(every[row] for row in kept)
    files = tuple((file["filename"], *facts(file["filename"])) for file in rows.cache_files)
    folder = expanded(root).absolute()
    return Pictures(split, content, paths, folder, files, tuple(kept), tuple(kept.values()), groups)


def _labels(cells: Mapping[str, list[Cell]], separator: str | None, *, several: bool) -> list[Labels | None]:
    """Return the labels of each row, None where it has none, by what stands in one column, or in one for each class."""
    if len(cells) > 1:
        return label_columns.of_classes({name: [str(cell or "") for cell in own] for name, own in cells.items()})
    [(name, own)] = cells.items()
    return label_columns.of_cells(own, name, separator=separator, several=several)


def _cells(root: str, split: str, values: Sequence[Any], names: Sequence[str]) -> list[Cell]:
    """Return what stands in each row of a column as text; nothing where it is none, which -1 says of named classes."""

    def text(row: int, value: Any) -> str:
        if not names or value is None or value == -1:
            return "" if names else _text(value)
        if not 0 <= value < len(names):
            expected = f"labels below {len(names)}, the number of names of classes, and {split}[{row}] has {value}"
            raise user_error("data.root", root, expected)
        return names[value]

    return [
        ([text(row, one) for one in value] if value != [-1] else None) if isinstance(value, list) else text(row, value)
        for row, value in enumerate(values)
    ]


def _content_and_paths(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray | None, pa.ChunkedArray | None]:
    """Return the bytes and the paths that a column of pictures holds, as far as it does."""
    import pyarrow as pa
    from pyarrow import compute

    if pa.types.is_struct(column.type):
        return compute.struct_field(column, "bytes"), compute.struct_field(column, "path")
    return (None, column) if "string" in str(column.type) else (column, None)


def _text(value: object) -> str:
    """Return a value as text, a whole number without decimals, nothing as nothing."""
    if isinstance(value, float):
        if isnan(value):
            return ""
        value = int(value) if value.is_integer() else value
    return "" if value is None else str(value).strip()


def _nulls(column: pa.ChunkedArray) -> list[int]:
    """Return the rows in which there is nothing."""
    from pyarrow import compute

    return compute.indices_nonzero(compute.is_null(column)).to_pylist()

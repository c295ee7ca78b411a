"""Choose the columns of a Hugging Face data set to read for images, labels and groups, by name and type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from frostline.core.errors import user_error
from frostline.data.label_columns import LABELS
from frostline.data.names import some
from frostline.data.table_columns import not_named


@dataclass(frozen=True)
class HubColumns:
    """The columns to read."""

    image: str
    labels: tuple[str, ...]
    """One column, or one per class."""
    separator: str | None
    group: str | None

    @property
    def names(self) -> set[str]:
        """All columns to read."""
        return {self.image, *self.labels, *((self.group,) if self.group is not None else ())}


def columns_of(rows: Any, options: Mapping[str, Any]) -> HubColumns:
    """Return the columns to read: those named in `options`, or the only ones of their kind; else `UserError`."""
    image, group = _image_column(rows, options.get("image")), options.get("group")
    given = options.get("label")
    labels = tuple(given) if isinstance(given, list) else (_only_labels(rows) if given is None else given,)
    for name in labels:
        kind = rows.data.schema.field(_column(rows, "label", name)).type
        if name == image or not _is_simple(kind, lists=len(labels) == 1):
            among = "one text or number" if len(labels) > 1 else "one text or number, or a list of them,"
            said = "images" if name == image else str(kind)
            raise user_error("data.options.label", name, f"a column with {among} in a row, not {said}")
    named = _column(rows, "group", group) if group is not None else None
    return HubColumns(image, labels, options.get("separator"), named)


def class_names(rows: Any, label: str) -> tuple[str, ...]:
    """Return the class names of a column of class labels, or of lists of them; empty for any other column."""
    feature = rows.features[label]
    return tuple(getattr(getattr(feature, "feature", feature), "names", None) or ())


def holds_lists(rows: Any, label: str) -> bool:
    """Return whether the values of a column are lists."""
    return hasattr(rows.data.schema.field(label).type, "value_field")


def _column(rows: Any, what: str, given: str) -> str:
    """Return the given column name; `UserError` if there is no such column."""
    columns = list(rows.features)
    if given not in columns:
        raise user_error(f"data.options.{what}", given, f"a column of the data set: {some(columns)}", columns)
    return given


def _only(rows: Any, what: str, found: Sequence[str]) -> str:
    """Return the only column in `found`; `UserError` if there is none, or several."""
    if len(found) == 1:
        return found[0]
    why = f"several may have {what}s" if found else f"none is known to have {what}s"
    raise not_named(f"data.options.{what}", "data set", found or rows.features, why)


def _image_column(rows: Any, given: str | None) -> str:
    """Return the column of images: the given one, or the only one of its type."""
    features, schema = rows.features, rows.data.schema
    holding = [name for name in features if _holds_images(schema.field(name).type)]
    if given is None:
        kinds = [name for name in features if type(features[name]).__name__ == "Image"]
        return _only(rows, "image", kinds or [name for name in holding if "string" not in str(schema.field(name).type)])
    if _column(rows, "image", given) not in holding:
        kind = schema.field(given).type
        raise user_error("data.options.image", given, f"a column of images, not of {kind}: {some(holding)}", holding)
    return given


def _holds_images(kind: Any) -> bool:
    """Return whether values of an Arrow type may be images: bytes, a path, or a struct of both."""
    named = str(kind)
    return named in ("binary", "large_binary", "string", "large_string") or (
        named.startswith("struct<") and {"bytes", "path"} <= {kind.field(at).name for at in range(kind.num_fields)}
    )


def _only_labels(rows: Any) -> str:
    """Return the only column of class labels or lists of them, else the only one with a common name (`LABELS`)."""
    of_classes = [name for name in rows.features if class_names(rows, name)]
    return _only(rows, "label", of_classes or [name for name in rows.features if name.casefold() in LABELS])


def _is_simple(kind: Any, *, lists: bool = False) -> bool:
    """Return whether values of an Arrow type may be class labels, or with `lists` lists of them."""
    from pyarrow import types

    if lists and hasattr(kind, "value_field"):
        return _is_simple(kind.value_type)
    if types.is_dictionary(kind):
        kind = kind.value_type
    tests = (types.is_string, types.is_large_string, types.is_boolean, types.is_integer, types.is_floating)
    return any(test(kind) for test in tests)

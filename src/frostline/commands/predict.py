"""Classify images with the network of a run, or the best network of a sweep."""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from frostline import api
from frostline.commands import CALLED, Parser, positive, tell
from frostline.core import files
from frostline.core.errors import named, user_error
from frostline.core.limits import LIMITS
from frostline.data.names import counted

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from frostline.data.image_list import ImageList
    from frostline.runs.predict import Predictor


def main(arguments: list[str]) -> int:
    """Print or write classes and probabilities, a row per image; return 1 if some images could not be read."""
    options = _parser().parse_args(arguments)
    _check(options)
    from frostline.data import image_list  # imports torch

    def gather(file: Path) -> ImageList:
        return image_list.gather(file, options.images, say=tell, more=sys.stdin, path=options.path, root=options.root)

    with named(**{name: f"--{name}" for name in ("output", "features", "path", "root", "device")}):
        if options.output is not None:
            return _write(gather, options)
        with tempfile.TemporaryDirectory() as folder:
            return _print(gather(Path(folder, "images")), options)


def _parser() -> Parser:
    parser = Parser("predict", __doc__)
    parser.add_argument("run", help=f"a run, or a sweep (its best cell by validation): {CALLED}")
    parser.add_argument("images", nargs="+", help="a table, shards (.tar), files, folders, or - for a list on stdin")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="write to a .parquet, .csv or .jsonl file, resumable"
    )
    parser.add_argument("--features", metavar="LAYER", help="also write vectors: of a stage, or head (its input)")
    parser.add_argument("--path", metavar="COLUMN", help="the table's column of paths (path, file, image, ...)")
    parser.add_argument("--root", metavar="DIR", help="base of a table's relative paths (its folder)")
    parser.add_argument("--format", choices=("csv", "json"), help="format of the printed rows (csv)")
    parser.add_argument("--top", type=positive, default=1, metavar="K", help="number of classes per image (1)")
    parser.add_argument("--per-class", action="store_true", help="also a column for the probability of each class")
    parser.add_argument("--batch", type=positive, metavar="N", help="batch size (the run's eval_batch_size)")
    parser.add_argument("--save-views", type=Path, metavar="DIR", help="write images as the network sees them, as PNG")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:<n>")
    return parser


def _check(options: argparse.Namespace) -> None:
    """Raise `UserError` for what is no device, and for options that cannot be combined."""
    if not LIMITS["device"].allows(options.device):
        raise user_error("--device", options.device, LIMITS["device"].expected)
    if options.output is None and options.features is not None:
        raise user_error("--features", options.features, "to be given with --output")
    for flag in ("--format", "--save-views"):
        value = getattr(options, flag[2:].replace("-", "_"))
        if options.output is not None and value is not None:
            raise user_error(flag, value, "to be given without --output")


def _write(gather: Callable[[Path], ImageList], options: argparse.Namespace) -> int:
    """Write the predictions to `--output`, and report images that could not be read."""
    from frostline.report.terminal import Screen
    from frostline.runs import prediction_file

    prediction_file.check(options.output, options.features)
    network = _load(options)
    written = prediction_file.write(
        network,
        options.output,
        gather,
        top=options.top,
        per_class=options.per_class,
        features=options.features,
        batch=options.batch or network.config.eval_batch_size,
        progress=Screen.beside().progress,
    )
    more = f", already complete; remove {written.path} to compute it again" if written.before else ""
    print(f"{written.path}: {counted(written.rows, 'image', 'images')}{more}")
    if written.unread:
        etc = ", ..." if written.unread > len(written.examples) else ""
        tell(f"{_share(written.unread, written.rows)}: {'; '.join(written.examples)}{etc}")
    return 1 if written.unread else 0


def _print(images: ImageList, options: argparse.Namespace) -> int:
    """Print a row per image as soon as its batch is done, and report images that could not be read."""
    from frostline.runs import batch_predictions, prediction_rows

    network = _load(options)
    columns = prediction_rows.Columns.of(images, network, options.top, per_class=options.per_class, unread=False)
    size, count, unread = options.batch or network.config.eval_batch_size, len(images), 0
    batches = (range(start, min(start + size, count)) for start in range(0, count, size))
    show = _saver(options.save_views, images)

    def tables() -> Iterator[pa.Table]:
        nonlocal unread
        for answers in batch_predictions.answers(network, batches, images.open, show=show):
            unread += len(answers.errors)
            for row, reason in answers.errors.items():
                tell(f"not read: {images.place(row)}: {reason}")
            yield columns.table(images.carried(answers.rows), answers)

    sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]
    write = prediction_rows.as_json if options.format == "json" else prediction_rows.as_csv
    for text in write(columns, tables()):
        print(text, end="", flush=True)
    if unread:
        tell(_share(unread, count))
    return 1 if unread else 0


def _load(options: argparse.Namespace) -> Predictor:
    found = api.load(options.run, device=options.device)
    found.network.prepare()
    if found.note:
        tell(found.note)
    return found.network


def _share(unread: int, count: int) -> str:
    return f"{unread:,} of {count:,} images could not be read"


def _saver(folder: Path | None, images: ImageList) -> Callable[[int, Tensor], None] | None:
    """Return a function that saves a view as `<stem>.png` in `folder`, the second of that name as `<stem>-2.png`."""
    if folder is None:
        return None
    from PIL import Image

    theirs = {os.path.dirname(images.place(row)) for row in range(len(images))}  # noqa: PTH120 - a Path takes long
    if folder.resolve() in {Path(one).resolve() for one in theirs}:
        raise user_error("--save-views", folder, "a folder without the images themselves, which would be overwritten")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise user_error("--save-views", folder, f"a folder that can be created ({error.strerror})") from None
    written: Counter[str] = Counter()

    def save(row: int, view: Tensor) -> None:
        stem = Path(images.place(row)).stem
        written[stem] += 1
        name = stem if written[stem] == 1 else f"{stem}-{written[stem]}"
        Image.fromarray(view.permute(1, 2, 0).numpy()).save(png := io.BytesIO(), "PNG")
        files.write(folder / f"{name}.png", png.getvalue())

    return save

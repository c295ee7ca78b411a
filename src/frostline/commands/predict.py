"""Say what pictures show, with the network of a run or the best one of a sweep."""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from frostline import api
from frostline.commands import CALLED, Parser, positive
from frostline.core.errors import user_error

if TYPE_CHECKING:
    from torch import Tensor


def main(arguments: list[str]) -> int:
    """Print classes and probabilities, one picture per line; 1 if some pictures could not be read."""
    options = _parser().parse_args(arguments)
    files = list(_files(options.pictures))
    from frostline.runs import predict  # imports torch

    found = api.load(options.run, device=options.device)
    network = found.network
    if found.note:
        print(f"frostline: {found.note}", file=sys.stderr)
    unread = 0

    def rows() -> Iterator[tuple[Path, dict[str, float]]]:
        nonlocal unread
        batch, show = options.batch or network.config.eval_batch_size, _saver(options.save_views)
        for file, row in predict.predict(network, files, batch=batch, show=show):
            if isinstance(row, OSError):
                unread += 1
                print(f"frostline: not read: {_one_line(row)}", file=sys.stderr)
            else:
                yield file, predict.ranked(network, row, options.top)

    sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]
    _write_json(rows(), sys.stdout) if options.format == "json" else _write_csv(rows(), options.top, sys.stdout)
    if unread:
        print(f"frostline: {unread} of {len(files)} pictures could not be read", file=sys.stderr)
    return 1 if unread else 0


def _parser() -> Parser:
    parser = Parser("predict", __doc__)
    parser.add_argument("run", help=f"a run, or a sweep for its best cell by validation: {CALLED}")
    parser.add_argument("pictures", nargs="+", help="files, folders, or - for a list on stdin, one path per line")
    parser.add_argument("--format", choices=("csv", "json"), default="csv")
    parser.add_argument("--top", type=positive, default=1, metavar="K", help="how many classes per picture (1)")
    parser.add_argument("--batch", type=positive, metavar="N", help="pictures at once (the run's eval_batch_size)")
    parser.add_argument("--save-views", type=Path, metavar="DIR", help="write there what the network sees, as PNG")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:<n>")
    return parser


def _files(paths: Sequence[str]) -> Iterator[Path]:
    """Yield the pictures; a path of the command line must exist, one of a list is reported when its turn comes."""
    for name in paths:
        if name == "-":
            for line in sys.stdin:
                if path := line.rstrip("\r\n"):
                    yield from _pictures(Path(path)) if Path(path).is_dir() else [Path(path)]
        elif not (path := Path(name)).exists():
            raise user_error("pictures", name, "a file or folder, and there is none")
        else:
            yield from _pictures(path) if path.is_dir() else [path]


def _saver(folder: Path | None) -> Callable[[Path, Tensor], None] | None:
    """Return what writes `<stem>.png` into `folder`, `<stem>-2.png` for the second picture of that name."""
    if folder is None:
        return None
    from PIL import Image

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise user_error("--save-views", folder, f"a folder that can be made ({error.strerror})") from None
    written: Counter[str] = Counter()

    def save(file: Path, view: Tensor) -> None:
        written[file.stem] += 1
        name = file.stem if written[file.stem] == 1 else f"{file.stem}-{written[file.stem]}"
        Image.fromarray(view.permute(1, 2, 0).numpy()).save(folder / f"{name}.png")

    return save


def _pictures(folder: Path) -> list[Path]:
    from frostline.data.image_formats import SUFFIXES
    from frostline.data.leftovers import told
    from frostline.data.listing import survey

    found = survey(folder)
    if left := told(found.other):
        print(f"frostline: {folder}: {left}", file=sys.stderr)
    if not found.files:
        raise user_error("pictures", folder, f"a folder with pictures ({', '.join(SUFFIXES)})")
    return found.files


def _write_csv(rows: Iterator[tuple[Path, dict[str, float]]], top: int, out: TextIO) -> None:
    writer = csv.writer(out, lineterminator="\n")
    names = [f"{name}{'' if i == 1 else f'_{i}'}" for i in range(1, top + 1) for name in ("class", "probability")]
    writer.writerow(["file", *names])
    for file, best in rows:
        writer.writerow([file, *(cell for name, p in best.items() for cell in (name, f"{p:.6f}"))])
        out.flush()


def _write_json(rows: Iterator[tuple[Path, dict[str, float]]], out: TextIO) -> None:
    """Write a list of objects, one per line."""
    separator = "[\n"
    for file, best in rows:
        row = {"file": str(file), "class": next(iter(best)), "probabilities": best}
        text = json.dumps(row, ensure_ascii=False)
        out.write(separator + (text if _is_unicode(text) else json.dumps(row)))
        out.flush()
        separator = ",\n"
    out.write("[]\n" if separator == "[\n" else "\n]\n")


def _is_unicode(text: str) -> bool:
    """Return whether `text` is Unicode; names of files can hold bytes that are not."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _one_line(error: OSError) -> str:
    return " ".join(str(error).split())

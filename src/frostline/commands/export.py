"""Export the network of a run for other programs, preprocessing included, and check it against the original."""

from __future__ import annotations

import os
from pathlib import Path

from frostline import api
from frostline.commands import CALLED, Parser, tell
from frostline.core import files
from frostline.core.errors import named, user_error
from frostline.runs.export_formats import SUFFIXES, check_suffix
from frostline.sweeps import catalog
from frostline.sweeps.catalog import TypedName


def main(arguments: list[str]) -> int:
    """Write the file and print its largest difference to the original; return 1, without a file, if it is too large."""
    options = _parser().parse_args(arguments)
    output = Path(options.output or ".")
    if os.path.isdir(output):
        output = output / f"model{SUFFIXES[options.format]}"
        if os.path.lexists(output):  # perhaps of another run
            raise user_error("--output", output, "a new file; this one exists: name it to overwrite it, or another one")
    elif options.output.endswith("/"):
        raise user_error("--output", options.output, "a folder that exists")
    files.require_place("--output", output)
    with named(path="--output", kind="--format"):
        check_suffix(output, options.format)
        catalog.resolve(TypedName(options.run))
        from frostline.runs import export  # imports torch

        found = api.load(options.run, device="cpu")
        if found.note:
            tell(found.note)
        try:
            worst = found.export(output, options.format)
        except export.Disagreement as problem:
            tell(f"{problem}; nothing was written")
            return 1
    images, sizes = sum(count for count, _, _ in export.SAMPLES), len(export.SAMPLES)
    print(f"{output}: {found.network.model.name} with {len(found.classes)} classes as {options.format}")
    print(f"largest difference of a probability to the original: {worst:.1e}, over {images} images of {sizes} sizes")
    return 0


def _parser() -> Parser:
    parser = Parser("export", __doc__)
    parser.add_argument("run", help=f"a run, or a sweep (its best cell by validation): {CALLED}")
    parser.add_argument("--format", choices=SUFFIXES, required=True)
    parser.add_argument(
        "-o", "--output", metavar="PATH", help="a file, or a folder for model.<suffix> (the working directory)"
    )
    return parser

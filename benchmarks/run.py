"""Measure everything side by side: `python benchmarks/run.py --device cpu`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch
from platformdirs import user_cache_path

from bench import CPU, CUDA, QUICK, Bench
from frostline.core.errors import UserError
from frostline.core.machine import device as chosen_device
from measures import MEASURES
from table import Results, Row, machine, plain

_TELLING = ("extraction", "sweep", "lockstep", "full", "memory", "determinism", "last_stage")


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", help=f"some of {','.join(MEASURES)}; the results of the others stay")
    parser.add_argument("--quick", action="store_true", help="tiny sizes that say nothing, to see that all of it runs")
    parser.add_argument("--output", type=Path, help="folder of RESULTS.md and results.json; benchmarks/ unless --quick")
    parser.add_argument("--images", type=Path, help="folder in which the images are kept for the next time")
    parser.add_argument("--without-mlflow", action="store_true", help="our runs write their journals only")
    parser.add_argument("--continue", dest="goes_on", action="store_true", help="leave out what is measured already")
    parser.add_argument("--take", type=Path, help="measure nothing, but take over another machine's results.json")
    found = parser.parse_args(arguments)
    unknown = [name for name in (found.only or "").split(",") if name and name not in MEASURES]
    if unknown:
        parser.error(f"--only {','.join(unknown)}: expected some of {', '.join(MEASURES)}")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    options = _arguments(arguments)
    folder = options.output or (None if options.quick else Path(__file__).parent)
    results = Results(folder) if folder else None
    if options.take:
        assert results, "--take needs a folder"
        results.take(options.take)
        return
    try:
        device = chosen_device(options.device)
    except UserError as error:
        sys.exit(str(error))
    scale = QUICK if options.quick else CUDA if device.type == "cuda" else CPU
    print(f"{machine(device)}, torch {torch.__version__}", flush=True)
    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="frostline-benchmarks-") as work:
        kept = options.images or (Path(work) / "images" if options.quick else user_cache_path("frostline-images"))
        bench = Bench(device, scale, work=Path(work), kept=kept, mlflow=not options.without_mlflow)
        names = options.only.split(",") if options.only else _in_order(device)
        if options.goes_on and results:  # one that did not end in the time of a call comes last, not first again
            names.sort(key=lambda name: results.has(device, name, whole=False) and not results.has(device, name))
        for name in names:
            if options.goes_on and results and results.has(device, name):
                print(f"  ({name}: measured already)", flush=True)
                continue
            try:
                _measure(bench, name, results)
            except Exception:
                traceback.print_exc()
                failed.append(name)
    if failed:
        sys.exit(f"failed, as shown above: {', '.join(failed)}")


def _measure(bench: Bench, name: str, results: Results | None) -> None:
    """Carry out one measurement, print its rows and put them into `results`, where an interrupted call keeps them."""
    began, rows = time.perf_counter(), list[Row]()
    for row in MEASURES[name](bench):
        rows.append(row)
        print(plain([row]), flush=True)
        if results:
            results.put(bench.device, name, rows, whole=False)
    print(f"  ({name}: {time.perf_counter() - began:.0f} s)", flush=True)
    if results:
        results.put(bench.device, name, rows, whole=True)


def _in_order(device: torch.device) -> list[str]:
    """Return the measurements; on a GPU, which may be available for minutes only, the most telling ones first."""
    first = [*_TELLING] if device.type == "cuda" else []
    return first + [name for name in MEASURES if name not in first]


if __name__ == "__main__":
    main()

"""The benchmarks run, their baselines learn, and the tables have the measurements; speeds are not checked."""

from __future__ import annotations

import functools
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import stores

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("images")


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def small(root):
    import images

    return images.make(root, images.CIFAR, {"train": 40, "val": 10, "test": 10})


def test_images_are_reproducible_and_made_once(root, tmp_path):
    import images

    here, other = small(root), small(tmp_path)
    files = sorted(path.relative_to(here) for path in here.glob("*/*/*.png"))
    assert len(files) == 60
    assert all((here / file).read_bytes() == (other / file).read_bytes() for file in files)
    made = (here / files[0]).stat().st_mtime_ns
    assert small(root) == here and (here / files[0]).stat().st_mtime_ns == made
    (photo,) = images.make(tmp_path, images.PHOTO, {"train": 1}).glob("train/class0/*.jpg")
    with images.Image.open(photo) as image:
        assert image.size == (500, 375)


def test_tutorial_baseline_learns(root):
    import tutorial

    torch.manual_seed(0)
    losses = tutorial.main(small(root), "resnet18", size=32, lr=3e-3, epochs=4, device=CPU)
    assert losses[-1] < losses[0]


def test_fair_baseline_learns(root):
    import fair

    torch.manual_seed(0)
    losses = fair.main(small(root), "resnet18", size=32, lr=3e-3, epochs=4, device=CPU)
    assert losses[-1] < losses[0]


def test_limit_baseline_learns_its_batch():
    import limit

    torch.manual_seed(0)
    step = limit.training_step("resnet18", 4, 32, CPU, torch.float32)
    losses = [step().item() for _ in range(5)]
    assert losses[-1] < losses[0]
    assert limit.matrix_rate(CPU, torch.float32, 32, times=2) > 0


def measure(output, *options):
    """Run benchmarks quickly on the CPU, and return all measurements in `output`."""
    import run

    run.main(["--device", "cpu", "--quick", "--output", str(output), *options])
    return json.loads((output / "results.json").read_text())["cpu"]["measurements"]


def test_failed_measurement_does_not_stop_the_others(tmp_path, monkeypatch):
    import run

    def failing(bench):
        yield bench.row("before", "row", 1.0, note="")
        raise RuntimeError("out of luck")

    monkeypatch.setitem(run.MEASURES, "sweep", failing)
    monkeypatch.setitem(run.MEASURES, "full", lambda bench: [bench.row("after", "row", 2.0, note="")])
    with pytest.raises(SystemExit, match="sweep"):
        measure(tmp_path, "--only", "sweep,full")
    measured = json.loads((tmp_path / "results.json").read_text())["cpu"]["measurements"]
    rows = [row["measure"] for name in ("sweep", "full") for row in measured[name]["rows"]]
    assert rows == ["before (row)", "after (row)"]
    assert [measured[name]["whole"] for name in ("sweep", "full")] == [False, True]


def test_measurement_keeps_results_of_other_measurements(root, tmp_path, capsys):
    measure(tmp_path, "--without-mlflow", "--images", str(root), "--only", "machine")
    measured = measure(tmp_path, "--without-mlflow", "--images", str(root), "--only", "sweep")
    said = capsys.readouterr().out
    page = (tmp_path / "RESULTS.md").read_text()
    assert set(measured) == {"machine", "sweep"}
    warm = next(row for row in measured["sweep"]["rows"] if row["measure"].startswith("images through"))
    assert (warm["ours"], warm["reached"]) == ("0", "yes")
    assert all(row["measure"] in page for part in measured.values() for row in part["rows"])
    assert all(row["measure"] in said for row in measured["sweep"]["rows"])
    assert "## cuda\n\nnot measured: no GPU was at hand" in page


def test_interrupted_measurement_continues(tmp_path, capsys, monkeypatch):
    import measures

    def interrupted(bench):
        yield bench.row("first", "row", 1.0, note="")
        raise KeyboardInterrupt

    options = ("--only", "machine,share,full", "--continue")
    monkeypatch.setitem(measures.MEASURES, "share", interrupted)
    monkeypatch.setitem(measures.MEASURES, "full", lambda bench: iter([bench.row("other", "row", 3.0, note="")]))
    for _ in range(2):  # the second call begins with what the first did not reach
        with pytest.raises(KeyboardInterrupt):
            measure(tmp_path, *options)
    assert "(full: " in capsys.readouterr().out
    monkeypatch.setitem(measures.MEASURES, "share", lambda bench: iter([bench.row("second", "row", 2.0, note="")]))
    measured = measure(tmp_path, *options)
    said = capsys.readouterr().out
    assert "(machine: measured already)" in said and "(full: measured already)" in said
    assert [row["measure"] for row in measured["share"]["rows"]] == ["second (row)"] and measured["share"]["whole"]


def test_without_a_gpu_one_line_says_so(tmp_path):
    import run

    with pytest.raises(SystemExit) as ended:
        run.main(["--device", "cuda", "--output", str(tmp_path)])
    assert str(ended.value).startswith("device=cuda: expected a device of this machine (auto, cpu); ")
    assert "\n" not in str(ended.value)


def test_determinism_is_measured_as_complete(root, tmp_path):
    measured = measure(tmp_path, "--images", str(root), "--only", "determinism")
    twice, networks = measured["determinism"]["rows"]
    assert (twice["result"], networks["result"], networks["theirs"]) == ("1", "1", "of 1")


def test_overhead_of_a_search_is_measured(tmp_path, monkeypatch):
    import search

    monkeypatch.setattr(search, "_SEARCHES", (("search=tpe search.prune=hyperband", 1000),))
    rows = {row["measure"]: row for row in measure(tmp_path, "--only", "search")["search"]["rows"]}
    overhead, record, growth = (rows[name] for name in rows)
    assert overhead["measure"].startswith("overhead per trial") and "starts" in overhead["note"]
    assert record["measure"].startswith("record of a run") and growth["measure"].startswith("growth")


def test_share_measurement_runs(root, tmp_path, monkeypatch):
    import ours

    monkeypatch.setattr(ours, "_started", functools.cache(lambda: ThreadPoolExecutor(1)))  # MLflow is loaded already
    monkeypatch.setattr(ours, "mlflow_uri", lambda folder: f"sqlite:///{stores.put(folder / 'mlflow.db')}")
    (row,) = measure(tmp_path, "--images", str(root), "--only", "share")["share"]["rows"]
    assert float(row["result"]) > 0


def test_quick_run_leaves_results_file_unchanged():
    import run

    results = BENCHMARKS / "results.json"
    before = results.read_bytes() if results.exists() else None
    run.main(["--device", "cpu", "--quick", "--only", "machine"])
    assert (results.read_bytes() if results.exists() else None) == before


def test_targets_are_compared_without_rounding():
    from table import Row, Target

    row = Row("m", "", "", 0.9499, "", Target("≥", 0.95), "")
    assert row.cells()["reached"] == "**no**" and row.cells()["result"] == "0.9499"
    assert Target("≤", 1.3, "x").met(1.3) and not Target("≤", 1.3, "x").met(1.3001)


def test_results_of_another_machine_replace_the_device(tmp_path):
    from table import Results

    theirs = {"cuda": {"machine": "a card", "measurements": {"full": {"date": "d", "torch": "t", "rows": []}}}}
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "results.json").write_text(json.dumps(theirs))
    Results(tmp_path).take(tmp_path / "from" / "results.json")
    assert "## cuda: a card" in (tmp_path / "RESULTS.md").read_text()

"""Sweep folders are read, merged, compared and plotted."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from matplotlib.figure import Figure
from optuna.distributions import FloatDistribution, distribution_to_json

from frostline.commands import compare, report
from frostline.core import project
from frostline.core.errors import UserError
from frostline.records import layout, liveness, sweep_record
from frostline.records.layout import SWEEP
from frostline.records.result import TEST, VAL, Result
from frostline.records.sweep_facts import RunFacts
from frostline.report import combine, command_line, plots, style
from frostline.report.cells import cells
from frostline.report.contest import contests
from frostline.report.studies import studies
from frostline.report.verdict import answer
from frostline.sweeps import catalog, closing
from written_sweeps import sweep

GRID = {"freeze_mode": ["head", "full"], "lr": [1e-2, 1e-3]}


def merged(*folders):
    """Return the results of several sweep folders together."""
    return combine.merged([sweep_record.read(folder) for folder in folders])


def test_run_folder_stands_for_its_sweep(tmp_path):
    folder = sweep(tmp_path / "s", GRID)
    assert sweep_record.read(folder / "1") == sweep_record.read(folder)


def test_folder_without_sweep_names_nearest_sweep(tmp_path):
    sweep(tmp_path / "monday", GRID)
    (tmp_path / "mondey").mkdir()
    with pytest.raises(UserError, match=r"sweep=.*mondey: expected the folder of a sweep.*did you mean .*monday"):
        sweep_record.read(tmp_path / "mondey")


def test_keys_that_differ_between_sweeps_become_choices(tmp_path):
    one, two = sweep(tmp_path / "one", GRID, epochs=4), sweep(tmp_path / "two", GRID, epochs=8)
    results = merged(one, two)
    assert [result.choices["epochs"] for result in results] == [4] * 4 + [8] * 4
    assert len(cells(results)) == 8


def test_sweeps_that_differ_by_seed_share_cells(tmp_path):
    one, two = sweep(tmp_path / "one", GRID, epochs=4), sweep(tmp_path / "two", GRID, epochs=4)
    for path in two.glob("*/result.json"):
        result = json.loads(path.read_text())
        result["choices"]["seed"] = 1
        path.write_text(json.dumps(result))
        config = yaml.safe_load(path.with_name("config.yaml").read_text())
        path.with_name("config.yaml").write_text(yaml.safe_dump({**config, "seed": 1}))
    found = cells(merged(one, two))
    assert [len(cell.finished) for cell in found] == [2] * 4


def test_network_has_one_name_whether_its_sweep_names_the_option_or_not(tmp_path):
    """An option is a choice by its own name only in a sweep over several."""
    nets = {"net": "net", "mine": "net", "other": "net2"}
    one = sweep(tmp_path / "one", {"model": ["net"]})
    two = sweep(tmp_path / "two", {"model": ["mine", "other"]})
    for path in tmp_path.glob("*/*/config.yaml"):
        model = json.loads(path.with_name("result.json").read_text())["choices"]["model"]
        found = yaml.safe_load(path.read_text()) | {"model": {"name": nets[model], "weights": "w"}}
        path.write_text(yaml.safe_dump(found))
    assert [(run.choices["model"], Path(run.folder).parent) for run in merged(one, two)] == [
        ("mine", two),
        ("other", two),
    ]


def test_repeated_run_counts_once(tmp_path):
    one = sweep(tmp_path / "one", GRID)
    two = sweep(tmp_path / "two", GRID, states={0: "FAILED"})
    results = merged(one, two)
    assert len(results) == 4 and {result.status for result in results} == {"FINISHED"}
    assert sum(result.folder.startswith(str(one)) for result in results) == 1  # the run that failed in sweep two


def test_searches_that_differ_in_a_setting_are_compared(tmp_path):
    """Each sweep names its study after what varies within it, so that the two studies have one name."""
    space = {"lr": distribution_to_json(FloatDistribution(1e-4, 1e-1))}
    marks = {"search": "tpe", "study": "head", "budget": "2 trials", "space": space}
    folders = [sweep(tmp_path / str(n), {"freeze_mode": ["head"], "lr": [1e-2, 1e-3]}, epochs=n) for n in (4, 8)]
    for path in tmp_path.glob("*/*/result.json"):
        told = json.loads(path.read_text())
        told["choices"] |= marks | {"trial": told["job"]}
        path.write_text(json.dumps(told))
    (contest,) = contests(merged(*folders))
    assert contest.key == "epochs" and len(contest.contenders) == 2
    found = [(study.name, [trial.number for trial in study.trials]) for study in studies(contest.results)]
    assert found == [("head epochs=4", [0, 1]), ("head epochs=8", [0, 1])]
    again = shutil.copytree(folders[0], tmp_path / "again")
    assert [study.name for study in studies(merged(folders[0], again))] == ["head"]


def test_report_goes_to_sweep_or_output_path(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, two = sweep(tmp_path / "one", GRID), sweep(tmp_path / "two", GRID, epochs=5)
    assert report.main([str(one)]) == 0
    assert report.main([str(one), str(two), "-o", "deep/both.html"]) == 0
    assert capsys.readouterr().out.split() == [str(one / "report.html"), str(tmp_path / "deep" / "both.html")]
    assert (tmp_path / "deep" / "both.html").stat().st_size > 1e6
    with pytest.raises(UserError, match="sweep=nothing/here: expected"):
        report.main(["nothing/here"])


def test_compare_prints_verdict_as_text_and_json(tmp_path, capsys):
    folder = sweep(tmp_path / "s", GRID)
    assert compare.main([str(folder)]) == 0
    out = capsys.readouterr().out
    verdict = answer(sweep_record.read(folder).results)
    assert verdict in " ".join(out.split()) and "0.001" in out
    assert compare.main([str(folder), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    (contest,) = facts["contests"]
    assert facts["answer"] == verdict and contest["outcome"] == "win" and contest["contenders"][0]["value"] == "full"
    first, second = (one["mean"]["test/accuracy"] for one in contest["contenders"])
    assert contest["difference"]["gap"] == pytest.approx(first - second)
    assert facts["runs"] == {"FINISHED": 4} and len(facts["cells"]) == 4


def test_runs_on_different_data_fingerprints_are_not_compared(tmp_path):
    sweeps = [sweep(tmp_path / name, {"freeze_mode": [mode]}) for name, mode in (("a", "head"), ("b", "full"))]
    sweeps.append(sweep(tmp_path / "c", {"freeze_mode": ["lp_ft", "full"]}, states={1: "FAILED"}))
    for folder, fingerprint in zip(sweeps, ("1" * 64, "1" * 64, "2" * 64), strict=True):
        (folder / "0" / "provenance.json").write_text(json.dumps({"data": {"fingerprint": fingerprint}}))
    same = merged(*sweeps[:2])
    assert [contest.where for contest in contests(same)] == [""] and "data.fingerprint" not in same[0].choices
    found = contests(merged(*sweeps))
    assert sorted((one.where, len(one.results)) for one in found) == [
        ("data.fingerprint=11111111", 2),
        ("data.fingerprint=22222222", 2),
    ]


def with_data(folder, config, fingerprint):
    """Write the data section and the fingerprint of the runs of a sweep."""
    for number, run in enumerate(sorted(folder.glob("[0-9]*"), key=lambda run: int(run.name))):
        data = {"data": {"folds": None, "fold": 0, **config, **({"fold": number % 3} if config.get("folds") else {})}}
        values = yaml.safe_load((run / "config.yaml").read_text())
        (run / "config.yaml").write_text(yaml.safe_dump(values | data))
        (run / "provenance.json").write_text(json.dumps({"data": {"fingerprint": fingerprint.format(number % 3) * 8}}))
    return folder


def test_merging_sweeps_keeps_folds_and_seeds_apart(tmp_path):
    folds = {"freeze_mode": ["head", "full"], "data.fold": [0, 1, 2]}
    modes, digits, birds = {"freeze_mode": ["head", "full"]}, {"name": "digits"}, {"name": "birds"}
    three = {**digits, "folds": 3}
    sweeps = [
        with_data(sweep(tmp_path / "folds", {**folds, "data": ["digits"]}), three, "a{}"),
        with_data(sweep(tmp_path / "others", {**folds, "data": ["digits"]}), three, "b{}"),  # images have changed
        with_data(sweep(tmp_path / "whole", {**modes, "data": ["digits"]}, seeds=3), digits, "cc"),
        with_data(sweep(tmp_path / "birds", {**modes, "data": ["birds"]}, seeds=3), birds, "dd"),
    ]
    found = contests(merged(*sweeps))
    repeats = {one.where: (one.difference.seeds, one.difference.folds) for one in found}
    assert repeats == {
        "data.folds=3 data=digits data.fingerprint=a0a0a0a0": (3, True),
        "data.folds=3 data=digits data.fingerprint=b0b0b0b0": (3, True),
        "data.folds=null data=digits": (3, False),
        "data.folds=null data=birds": (3, False),
    }


def with_options(folder, **config):
    """Write config sections for the data and optimizer of a sweep's runs, with a matching fingerprint."""
    for run in folder.glob("[0-9]*"):
        choices = json.loads((run / "result.json").read_text())["choices"]
        values = yaml.safe_load((run / "config.yaml").read_text())
        for group in ("data", "optimizer"):
            values[group] = {"name": choices[group], **config.get(choices[group], {})}
        (run / "config.yaml").write_text(yaml.safe_dump(values))
        shown = {key: value for key, value in values["data"].items() if key != "download"}
        fingerprint = hashlib.sha256(json.dumps(shown).encode()).hexdigest()
        (run / "provenance.json").write_text(json.dumps({"data": {"fingerprint": fingerprint}}))
    return folder


def test_data_with_other_settings_is_other_data(tmp_path):
    modes, digits, birds = {"freeze_mode": ["head", "full"]}, {"data": ["digits"]}, {"data": ["birds"]}
    sweeps = [
        with_options(sweep(tmp_path / "few", modes | digits), digits={"limit": 100, "download": True}),
        with_options(sweep(tmp_path / "many", modes | digits), digits={"limit": 500, "download": False}),
        with_options(sweep(tmp_path / "birds", modes | birds), birds={"limit": None, "download": True}),
    ]
    found = contests(merged(*sweeps))
    assert {one.where for one in found} == {
        "data.limit=100 data=digits",
        "data.limit=500 data=digits",
        "data.limit=null data=birds",
    }
    (alike,) = contests(merged(*sweeps[:1] * 2))
    assert alike.where == ""
    again = with_options(sweep(tmp_path / "again", modes | digits), digits={"limit": 100, "download": False})
    runs = merged(sweeps[0], again)
    assert not [name for run in runs for name in run.choices if name == "data.download"]


def test_optimizer_with_other_settings_is_another_cell(tmp_path):
    both = with_options(
        sweep(tmp_path / "both", {"optimizer": ["adam", "sgd"]}), adam={"decay": 0.1}, sgd={"decay": 0.01}
    )
    more = with_options(sweep(tmp_path / "more", {"optimizer": ["adam"]}), adam={"decay": 0.5})
    found = cells(merged(both, more))
    decays = sorted((cell.choices["optimizer"], cell.choices["optimizer.decay"]) for cell in found)
    assert decays == [("adam", 0.1), ("adam", 0.5), ("sgd", 0.01)]
    (alone, *others) = cells(merged(both, both))
    assert len(others) == 1 and "optimizer.decay" not in alone.choices


def with_config(folder, **sections):
    """Replace config sections of a sweep's runs and return its record."""
    for file in folder.glob("[0-9]*/config.yaml"):
        file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **sections}))
    return sweep_record.read(folder)


def test_freeze_modes_of_one_name_are_distinguished_by_rules(tmp_path):
    rules = {
        "a": [["head/*"]],
        "b": [["head/*", "stage4/*"]],
        "c": [["head/*"], ["*"]],
        "d": [["head/*"]],
        "a2": [["head/*"]],
    }
    records = []
    for name, phases in rules.items():
        written = [{"rules": [{"match": one} for one in own] + [{"match": "*", "lr_scale": 0}]} for own in phases]
        more = {"epochs": 3} if name == "d" else {}
        mode = {"name": "mine", "phases": [{**phase, **more} for phase in written]}
        grid = {"freeze_mode": ["mine", "full"]} if name == "a" else {"freeze_mode": ["mine"]}
        records.append(with_config(sweep(tmp_path / name, grid), freeze_mode=mode))
    found = cells(combine.merged(records[1:3]))
    assert {cell.choices["freeze_mode"] for cell in found} == {"mine (head/* stage4/*)", "mine (head/*, then *)"}
    found = cells(combine.merged([records[0], records[3]]))  # the same rules for another number of epochs
    assert len({one for cell in found if (one := cell.choices["freeze_mode"]).startswith("mine (head/* ")}) == 2
    assert {cell.choices["freeze_mode"] for cell in cells(combine.merged([records[0], records[4]]))} == {"mine", "full"}
    assert "`" not in answer(combine.merged(records[1:3])), "one command cannot name both modes"


def test_differing_lists_and_options_make_other_cells(tmp_path):
    scales = [
        with_config(sweep(tmp_path / str(low), {"freeze_mode": ["full"]}), augment={"scale": [low, 1.0]})
        for low in (0.08, 0.9)
    ]
    found = cells(combine.merged(scales))
    assert {cell.choices["augment.scale"] for cell in found} == {"[0.08,1]", "[0.9,1]"}
    (bare, own) = (
        with_config(sweep(tmp_path / name, GRID), optimizer={"name": "adam", "options": options})
        for name, options in (("bare", {}), ("own", {"eps": 0.1}))
    )
    found = cells(combine.merged([bare, own]))
    assert len(found) == 8 and {cell.choices["optimizer.options.eps"] for cell in found} == {"null", 0.1}
    run = found[0].finished[0]
    assert command_line.command(run, {"lr": [1e-2], "optimizer.options.eps": ["null", 0.1]}) is None
    assert command_line.command(run, {"augment.scale": ["[0.08,1]", "[0.9,1]"]}).endswith(
        "'augment.scale=[0.08,1],[0.9,1]'"
    )


def test_compare_without_results_exits_with_one(tmp_path, capsys):
    folder = sweep(tmp_path / "s", GRID, states=dict.fromkeys(range(4), "FAILED"))
    assert compare.main([str(folder)]) == 1
    assert "No answer" in capsys.readouterr().out


@pytest.mark.slow
def test_plots_use_distinct_markers_and_name_units(tmp_path):
    folder = sweep(tmp_path / "s", GRID, seeds=2)
    files = plots.write(tmp_path / "plots", sweep_record.read(folder).results)
    assert sorted(file.name for file in files) == [
        f"{name}.{kind}" for name in ("accuracy_cost", "curves", "lr_response") for kind in ("png", "svg")
    ]
    text = " ".join(ElementTree.parse(tmp_path / "plots" / "accuracy_cost.svg").getroot().itertext())
    assert "training time (s)" in text and "accuracy (%)" in text and "full" in text
    drawn = [plots._look(style) for style in range(len(style.COLOURS))]
    for name in ("color", "marker", "linestyle"):
        assert len({str(look[name]) for look in drawn}) == len(drawn)


def test_lr_plot_names_only_modes_with_an_lr() -> None:
    choices = [("head", {"lr": 1e-3}), ("head", {"lr": 1e-2}), ("probe", {})]
    results = [
        Result(job, mode, "", None, "FINISHED", None, {"freeze_mode": mode, **lr}, {VAL: 0.9, TEST: 0.9}, {})
        for job, (mode, lr) in enumerate(choices)
    ]
    axes = Figure().add_axes((0, 0, 1, 1))
    assert plots._response(axes, contests(results)[0])
    assert axes.get_legend_handles_labels()[1] == ["head"]


def test_legend_does_not_overlap_the_plot() -> None:
    for names in (["head", "full"], [f"feature extraction {number}, val" for number in range(9)]):
        figure = Figure()
        axes = figure.add_axes((0, 0, 1, 1))
        for name in names:
            axes.errorbar([1, 2], [0.0, 1.0], yerr=0.5, label=name)
        axes.set_title("digits")
        plots._legend(figure, axes)
        figure.draw_without_rendering()
        (legend,) = figure.legends
        found, title = legend.get_window_extent(), axes.title.get_window_extent()
        assert found.y0 >= title.y1 and found.y1 <= figure.bbox.y1
        assert found.x0 >= 0 and found.x1 <= figure.bbox.x1


def test_plots_label_each_backbone(tmp_path):
    folder = sweep(tmp_path / "s", {**GRID, "model": ["net_a", "net_b"]})
    plots.write(tmp_path / "plots", sweep_record.read(folder).results)
    text = " ".join(ElementTree.parse(tmp_path / "plots" / "accuracy_cost.svg").getroot().itertext())
    assert "full, net_a" in text and "full, net_b" in text


@pytest.mark.slow
def test_freeze_mode_has_the_same_own_colour_everywhere(tmp_path):
    shipped = sorted(path.stem for path in project.config_folder().glob("freeze_mode/*.yaml"))
    every = sweep_record.read(sweep(tmp_path / "all", {"freeze_mode": [*shipped, "mine"]})).results
    assert plots.write(tmp_path / "plots", every), "a marker cannot be drawn"
    numbers = style.numbers(every, "freeze_mode")
    assert sorted(numbers.values()) == list(range(len(shipped) + 1)) and len(shipped) <= len(style.COLOURS)
    for name in shipped:
        two = style.numbers([run for run in every if run.choices["freeze_mode"] in (name, "mine")], "freeze_mode")
        assert two[name] == numbers[name] != two["mine"]


def test_plots_without_anything_to_draw_are_left_out(tmp_path):
    failed = sweep(tmp_path / "failed", GRID, states=dict.fromkeys(range(4), "FAILED"))
    assert plots.write(tmp_path / "none", sweep_record.read(failed).results) == []
    one_lr = sweep(tmp_path / "one", {"freeze_mode": ["head", "full"]})
    drawn = plots.write(tmp_path / "some", sweep_record.read(one_lr).results)
    assert {file.stem for file in drawn} == {"accuracy_cost", "curves"}


def test_run_of_a_dead_process_is_killed(tmp_path):
    folder = sweep(tmp_path / "s", GRID, states={0: "RUNNING", 1: "RUNNING"})
    liveness.write(folder / "0" / layout.BEAT)
    liveness.write(folder / "1" / layout.BEAT)
    dead = json.loads((folder / "1" / layout.BEAT).read_text()) | {"pid": 2**22 + 1}
    (folder / "1" / layout.BEAT).write_text(json.dumps(dead))
    first, second, *_ = sweep_record.read(folder).results
    assert first.status == "RUNNING" and (second.status, second.reason) == ("KILLED", "its process is gone")


def test_waiting_runs_of_a_dead_sweep_are_killed(tmp_path):
    folder = sweep(tmp_path / "s", GRID, states={2: "WAITING", 3: "WAITING"})
    liveness.write(folder / layout.OWNER)
    assert [run.status for run in sweep_record.read(folder).results][2:] == ["WAITING"] * 2
    dead = json.loads((folder / layout.OWNER).read_text()) | {"pid": 2**22 + 1}
    (folder / layout.OWNER).write_text(json.dumps(dead))
    results = sweep_record.read(folder).results
    assert [(run.status, run.reason) for run in results[2:]] == [("KILLED", "not begun")] * 2
    assert "still to come" not in answer(results)
    said = [asdict(replace(run, reason="NotStarted: Ctrl-C")) for run in results]
    (folder / layout.RESULTS).write_text(json.dumps([*said[:3], "damaged"]))
    assert [run.reason for run in sweep_record.read(folder).results] == [None, None, "NotStarted: Ctrl-C", "not begun"]


def test_half_written_result_counts_as_running(tmp_path):
    folder = sweep(tmp_path / "s", GRID)
    (folder / "2" / "result.json").write_text('{"job": 2, "na')
    shutil.rmtree(folder / "3")
    statuses = [result.status for result in sweep_record.read(folder).results]
    assert statuses == ["FINISHED", "FINISHED", "RUNNING", "WAITING"]


@pytest.mark.parametrize("content", ["[]", '{"runs": 3}', '{"runs": [{"name": 1}]}', '{"runs": [], "tracker": "x"}'])
def test_malformed_sweep_record_is_refused(tmp_path, content):
    folder = sweep(tmp_path / "s", {"freeze_mode": ["head"]})
    (folder / SWEEP).write_text(content)
    with pytest.raises(UserError, match="expected the folder of a sweep"):
        sweep_record.read(folder)


@pytest.mark.parametrize("part", ["metrics", "choices", "images", "name", "status"])
def test_malformed_result_counts_as_running(tmp_path, part):
    path = sweep(tmp_path / "s", {"freeze_mode": ["head"]}) / "0" / layout.RESULT
    path.write_text(json.dumps({**json.loads(path.read_text()), part: [1]}))
    assert sweep_record.read(path.parents[1]).results[0].status == "RUNNING"


def test_interpolations_and_yaml_bombs_are_not_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    folders = [sweep(tmp_path / name, {"freeze_mode": ["head", "full"]}) for name in "ab"]
    provenance = folders[0] / "0" / "provenance.json"
    provenance.write_text('{"command": ["data.root=${oc.env:SECRET}"]}')
    command = command_line.command(sweep_record.read(folders[0]).results[0], {"lr": [0.1]})
    assert "data.root=${oc.env:SECRET}" in command and "hunter2" not in command
    bomb = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9) if n else 1}]\n" for n in range(9))
    (folders[0] / "0" / "config.yaml").write_text(bomb)
    provenance.write_text("[" * 10**5)
    assert command_line.command(sweep_record.read(folders[0]).results[0], {"lr": [0.1]}).endswith("-m lr=0.1")
    assert len(merged(*folders)) == 2


def test_suggested_command_repeats_options_of_its_own_sweep(tmp_path):
    folder = sweep(tmp_path / "s", GRID)  # an earlier command with other options may have finished its runs
    for file in folder.glob("*/provenance.json"):
        file.write_text('{"command": ["resume=False", "devices=2"]}')
    facts = json.loads((folder / SWEEP).read_text())
    for typed, repeated in (([], ""), (["epochs=1", "resume=False", "threads=1"], "epochs=1 threads=1 ")):
        runs = [{**run, "command": typed} for run in facts["runs"]]
        (folder / SWEEP).write_text(json.dumps({**facts, "runs": runs}))
        results = sweep_record.read(folder).results
        assert f"`python train.py -m {repeated}freeze=" in answer(results).replace(" lr=0.0001,0.0003,0.001,0.01", "")
        again = closing.result(folder, 0, RunFacts("head", {}, "0", command=typed))
        assert again.command == results[0].command == typed


def test_command_for_several_sweeps_repeats_only_result_options(tmp_path):
    where = ["--config-dir=/own", "hydra.launcher.workers=1", "store.path=x", "devices=2", "resume=False"]
    folders = [sweep(tmp_path / name, GRID) for name in "ab"]
    for file in tmp_path.glob("*/*/provenance.json"):
        file.write_text(json.dumps({"command": [*where, "epochs=1", "data.root=birds", "experiment=small_data"]}))
    run, *_ = merged(*folders)
    command = command_line.command(run, {"lr": [0.1]})
    assert command.endswith(" -m --config-dir=/own epochs=1 data.root=birds experiment=small_data lr=0.1")


def test_unreachable_tracking_store_is_a_user_error(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(UserError, match="sweep=abc: expected a folder, or a tracking store that answers"):
        catalog.sweeps(["abc"], tmp_path)

"""The rounds of a search: which runs each result leads to, without training any."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import hydra
import psutil
import pytest
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import FloatDistribution, json_to_distribution

from frostline.core.config import Config
from frostline.core.config_keys import semantic
from frostline.core.project import config_folder, register_resolver
from frostline.records import journal, layout, liveness
from frostline.records.result import PRUNED, VAL, Result, write_result
from frostline.records.trial_tags import Decision
from frostline.report import terminal
from frostline.sweeps import compose, hydra_overrides, search_rounds
from frostline.sweeps.compose import PlannedRun
from frostline.sweeps.composer import Composer
from frostline.sweeps.past_runs import PastRun
from frostline.sweeps.search import describe
from frostline.sweeps.search_budget import Spent
from frostline.sweeps.search_cells import cells_of
from frostline.sweeps.search_rounds import Search
from frostline.sweeps.study_storage import storage_of
from small import raises_one_line

HEAD = ("freeze=head", "lr=interval(1e-5,1)")
Outcome = Callable[[PlannedRun], Result]


@pytest.fixture(scope="module")
def composer() -> Iterator[Composer]:
    register_resolver()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        yield Composer(lambda job: hydra.compose("config", [*job, "hydra.sweep.dir=/x"], return_hydra_config=True))


@pytest.fixture(autouse=True)
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(terminal, "say", lambda text, style="": lines.append(text))
    return lines


def begun(
    composer: Composer, folder: Path | None, *typed: str, workers: int = 1, past: Sequence[PastRun] = ()
) -> Search:
    """Return a search of the command line `typed` that has opened its studies; `past` are earlier runs."""
    listed, ranges = hydra_overrides.split(OverridesParser.create().parse_overrides([*typed]))
    cells = cells_of(hydra_overrides.points(listed), ranges, composer)
    config = cells[0].config.search
    search = Search(cells, storage_of(config, None) if config.storage else None)
    search.resolve_auto(
        {compose.check_key(cell.known.config): {} for cell in cells}, lambda configs: ["data"] * len(configs)
    )
    search.begin(folder, workers, lambda config: past)
    return search


def finished(run: PlannedRun, folder: str = "") -> Result:
    """Return the result of a run whose accuracy falls with its lr."""
    metrics = {VAL: 1 - float(run.config.lr) / 2, "cost/epochs": 2.0, "cost/train_seconds": 1.0}
    return Result(0, run.name, folder, None, "FINISHED", None, run.choices, metrics, {})


def failed(run: PlannedRun, reason: str = "OSError: no space left") -> Result:
    return replace(finished(run), status="FAILED", reason=reason, metrics={})


def rounds(search: Search, outcome: Outcome = finished) -> list[list[str]]:
    """Carry out a search; return the folders of the runs of each round."""
    found: list[list[str]] = []
    results: dict[str, Result] = {}
    while planned := search.following(results):
        found.append([run.folder for run in planned])
        results = {run.folder: outcome(run) for run in planned}
    return found


def states(search: Search) -> list[list[str]]:
    return [[trial.state.name for trial in cell.study.trials()] for cell in search.cells]


def names(*numbers: object, cell: str = "head") -> list[str]:
    return [f"{cell}-{number}" for number in numbers]


@pytest.mark.parametrize(
    ("typed", "workers", "sizes"),
    [
        (("search=random",), 1, [7]),  # nothing depends on results
        (("search=random", "search.prune=median"), 1, [1] * 7),  # a pruner compares with finished trials
        (("search=random", "search.batch=3"), 1, [7]),
        (("search=tpe", "search.options.n_startup_trials=4"), 2, [4, 2, 1]),
        (("search=tpe", "search.options.n_startup_trials=4", "search.batch=3"), 1, [4, 3]),
        (("search=random", "search.budget=epochs", "search.amount=14", "epochs=2"), 3, [3, 3, 1]),
    ],
)
def test_trials_that_need_no_results_of_others_are_one_round(
    typed: Sequence[str], workers: int, sizes: list[int], composer: Composer, tmp_path: Path
) -> None:
    search = begun(composer, tmp_path, *HEAD, "trials=7", "search.confirm=0", *typed, workers=workers)
    found = rounds(search)
    assert [len(one) for one in found] == sizes and [*chain(*found)] == names(*range(7))
    assert states(search) == [["COMPLETE"] * 7]


def test_best_trial_of_each_cell_is_confirmed(composer: Composer, tmp_path: Path) -> None:
    typed = ("freeze=head,full", HEAD[1], "search=random", "trials=3", "search.confirm=2", "++seed=4")
    search, runs = begun(composer, tmp_path, *typed), dict[str, PlannedRun]()
    found = rounds(search, lambda run: finished(runs.setdefault(run.folder, run)))
    assert found == [
        [*names(0, 1, 2), *names(0, 1, 2, cell="full")],
        [*names("seed5", "seed6"), *names("seed5", "seed6", cell="full")],
    ]
    for cell in search.cells:
        best = min((runs[f"{cell.name}-{number}"] for number in range(3)), key=lambda run: run.config.lr)
        fresh = [runs[f"{cell.name}-seed{seed}"] for seed in (5, 6)]
        assert [run.config for run in fresh] == [replace(best.config, seed=seed) for seed in (5, 6)]
        assert {run.choices["confirms"] for run in fresh} == {best.choices["trial"]}
    again = begun(composer, tmp_path, *typed)
    assert rounds(again) == found  # the sweep finds their results


def test_fresh_seeds_train_to_the_end(composer: Composer, tmp_path: Path) -> None:
    typed = ("search=random", "search.prune=median", "trials=1", "search.confirm=1")
    search = begun(composer, tmp_path, *HEAD, *typed)
    (trial,) = search.following({})
    (fresh,) = search.following({trial.folder: finished(trial)})
    assert (trial.config.search.prune, fresh.config.search.prune) == ("median", "none")


def test_runs_state_their_search_and_what_differs(composer: Composer, tmp_path: Path) -> None:
    typed = ("freeze=head", "batch_size=8,16", "optimizer.weight_decay=interval(0,0.1)", "search=random", "trials=1")
    objective = ["val/accuracy", "cost/train_seconds"]
    typed = (*typed, f"search.objective=[{','.join(objective)}]", "search.confirm=1")
    search = begun(composer, tmp_path, *typed)
    results, runs = {}, list[PlannedRun]()
    while planned := search.following(results):
        runs += planned
        results = {run.folder: finished(run) for run in planned}
    assert [run.folder for run in runs][:2] == ["head_batch_size=8-0", "head_batch_size=16-0"]
    for run in runs:
        marks = {key: run.choices[key] for key in ("search", "study", "budget", "objective", "batch_size")}
        size = run.config.batch_size
        told = {"search": "random", "study": f"head batch_size={size}", "budget": "1 trials", "objective": objective}
        assert marks == {**told, "batch_size": size}
        assert run.choices["optimizer.weight_decay"] == run.config.optimizer.weight_decay > 0
        assert json_to_distribution(run.choices["space"]["optimizer.weight_decay"]) == FloatDistribution(0.0, 0.1)
    assert [(run.choices.get("trial"), run.choices.get("confirms")) for run in runs] == [(0, None)] * 2 + [
        (None, 0)
    ] * 2


def test_cells_that_differ_only_in_punctuation_or_far_behind_have_own_folders(
    composer: Composer, tmp_path: Path
) -> None:
    texts = ["a/b", "a_b", f"{'x' * 300}a", f"{'x' * 300}b"]
    typed = (*HEAD, "data=image_folder", f"data.root={','.join(texts)}", "search=random", "trials=1")
    runs = begun(composer, tmp_path, *typed).following({})
    assert [run.config.data.root for run in runs] == texts and len({run.folder for run in runs}) == 4
    assert all(re.fullmatch(r"head_data\.root=[\w-]{,220}-0", run.folder) for run in runs)


def test_cells_that_differ_only_in_keys_without_effect_are_one(composer: Composer, tmp_path: Path) -> None:
    typed = ("freeze=probe,centroid,head", "batch_size=8,16", HEAD[1], "search=random", "search.confirm=0")
    search = begun(composer, tmp_path, *typed, "search.budget=epochs", "search.amount=2", "epochs=2")
    assert rounds(search) == [["probe-0", "centroid-0", "head_batch_size=8-0", "head_batch_size=16-0"]]
    assert [*describe(search.cells)] == [
        "probe: one cell, not 2, since probe ignores batch_size",
        "centroid: one cell, not 2, since centroid ignores batch_size",
        "without a search: probe, centroid",
        "search=random search.budget=2 epochs each: head batch_size=8, head batch_size=16: "
        "lr from 1e-05 to 1 on a log scale",
    ]


@pytest.mark.parametrize(
    ("confirm", "end"), [(1, "the best of it by cost/train_seconds is confirmed"), (0, "nothing is confirmed")]
)
def test_objectives_of_a_search_are_told(confirm: int, end: str, composer: Composer) -> None:
    objectives = "search.objective=[cost/train_seconds,val/accuracy]"
    search = begun(composer, None, *HEAD, "search=random", "trials=4", objectives, f"search.confirm={confirm}")
    assert [*describe(search.cells)] == [
        "search=random trials=4: head: lr from 1e-05 to 1 on a log scale",
        f"search.objective: the Pareto front of cost/train_seconds (minimize), val/accuracy (maximize); {end}",
    ]


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (("search=tpe", "search.seed=1,2"), "search=tpe: expected one search method for all runs of a sweep"),
        (("search=tpe", "trials=5,6"), "trials=several values: expected one value in a search$"),
        (("search=tpe", "select=val/accuracy,val/loss"), "select=several values: expected one value in a search$"),
        (
            ("search=tpe", "data.shots=2", "data.subset_seed=0,1"),
            r"data.subset_seed=several values: .* in a search; search.confirm=5 'data.subset_seed=\$\{seed\}' gives",
        ),
        (("search=tpe", "data.folds=3"), "data.folds=3: expected null in a search, where a trial is one run"),
    ],
)
def test_search_that_cannot_be_is_refused(typed: Sequence[str], line: str, composer: Composer) -> None:
    with raises_one_line(line):
        begun(composer, None, *HEAD, *typed)


def test_cmaes_searches_two_ranges_of_numbers_beside_a_solved_head(composer: Composer) -> None:
    typed = ("freeze=probe,head", HEAD[1], "optimizer.weight_decay=interval(0.1,0.2)", "search=cmaes", "trials=2")
    for cell in begun(composer, None, *typed).cells:
        assert compose.check_key(cell.known.config) in {compose.check_key(run.config) for run in cell.corners()}


def test_failed_trial_is_left_and_run_again_by_the_same_command(composer: Composer, tmp_path: Path) -> None:
    typed = (*HEAD, "search=random", "trials=3", "search.confirm=1")
    search = begun(composer, tmp_path, *typed)
    assert rounds(search, lambda run: failed(run) if run.folder == "head-1" else finished(run)) == [
        names(0, 1, 2),
        names("seed1"),
    ]
    assert states(search) == [["COMPLETE", "RUNNING", "COMPLETE"]]
    again = begun(composer, tmp_path, *typed)
    assert rounds(again)[0] == names(0, 1, 2) and states(again) == [["COMPLETE"] * 3]


def test_search_ends_after_a_round_that_tells_nothing(composer: Composer, tmp_path: Path) -> None:
    search = begun(composer, tmp_path, *HEAD, "search=tpe", "search.options.n_startup_trials=2", "trials=9")
    assert rounds(search, failed) == [names(0, 1)]
    some = begun(composer, tmp_path, *HEAD, "search=tpe", "search.options.n_startup_trials=2", "trials=3")
    tell = lambda run: failed(run, "Diverged: nan" if run.folder == "head-1" else "OSError")  # noqa: E731
    assert rounds(some, tell) == [names(0, 1), names(2)]
    assert states(some) == [["RUNNING", "PRUNED", "RUNNING"]]


def test_equal_trials_are_one_run_and_all_have_its_result(composer: Composer, tmp_path: Path) -> None:
    typed = ("freeze=head", "lr=choice(0.1,0.2)", "search=random", "trials=8", "search.confirm=0")
    search = begun(composer, tmp_path, *typed, "search.prune=median")  # one by one
    found = rounds(search)
    assert [len(one) for one in found] == [1, 1] and states(search) == [["COMPLETE"] * 8]
    told = {(trial.params["lr"], trial.value) for trial in search.cells[0].study.trials()}
    assert told == {(0.1, 0.95), (0.2, 0.9)}
    at_once = begun(composer, tmp_path / "at once", *typed)
    (first,) = rounds(at_once)
    assert len(first) == 2 and states(at_once) == [["COMPLETE"] * 8]


@pytest.mark.parametrize(
    ("metrics", "state"),
    [({}, "FAIL"), ({VAL: float("nan")}, "FAIL"), ({VAL: 0.5}, "COMPLETE"), ({VAL: 0.5, PRUNED: 1.0}, "PRUNED")],
)
def test_state_of_a_trial_follows_its_metrics(
    metrics: dict[str, float], state: str, composer: Composer, tmp_path: Path
) -> None:
    search = begun(composer, tmp_path, *HEAD, "search=random", "trials=1", "search.confirm=0")
    assert rounds(search, lambda run: replace(finished(run), metrics=metrics)) == [names(0)]
    assert states(search) == [[state]]


def test_dry_run_plans_a_trial_per_cell(composer: Composer) -> None:
    search = begun(composer, None, "freeze=head,full", HEAD[1], "search=random", "trials=5", "search.confirm=2")
    assert rounds(search) == [[*names(0), *names(0, cell="full")]]


def test_free_worker_gets_a_further_trial_of_its_cell(composer: Composer, tmp_path: Path) -> None:
    typed = ("search=tpe", "search.options.n_startup_trials=2", "trials=4", "search.confirm=0")
    search = begun(composer, tmp_path, *HEAD, *typed, workers=2)
    one, other = search.following({})
    assert search.meanwhile("head-1", failed(other)) == []  # the round goes on with what is under way
    (more,) = search.meanwhile("head-0", finished(one))
    assert more.folder == "head-2" and search.meanwhile("head-0", finished(one)) == []
    assert states(search) == [["COMPLETE", "RUNNING", "RUNNING"]]
    (last,) = search.meanwhile("head-2", finished(more))
    assert last.folder == "head-3" and search.meanwhile("head-3", finished(last)) == []  # the budget is spent


def test_search_waits_for_a_lost_storage_before_it_draws_another_trial(
    composer: Composer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = (*HEAD, "search=tpe", "trials=3", "search.options.n_startup_trials=2", f"search.storage={tmp_path}/all.log")
    search, order = begun(composer, tmp_path, *typed), list[str]()
    assert search.storage is not None
    search.storage = replace(search.storage, ready=lambda say: order.append("ready"))
    (cell,), (one, _) = search.cells, search.following({})
    monkeypatch.setattr(cell, "tell", lambda number, result: order.append(f"told {number}"))
    assert order == ["ready"]
    order.clear()
    search.meanwhile(one.folder, finished(one))
    assert order == ["ready", "told 0"]


def another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what follows count as another live process, the parent of this one."""
    parent = psutil.Process(os.getppid())
    them = replace(liveness.this_process(), pid=parent.pid, started=parent.create_time())
    monkeypatch.setattr(liveness, "this_process", lambda: them)


def test_search_waits_for_another_and_takes_what_it_finished(
    composer: Composer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    typed = (*HEAD, "search=random", "trials=3", "search.confirm=1", f"search.storage={tmp_path}/studies.log")
    ours, folder = begun(composer, tmp_path / "ours", *typed), tmp_path / "theirs"
    with monkeypatch.context() as other:
        another_process(other)
        theirs = begun(composer, folder, *typed)
        planned = theirs.following({})
    assert [run.folder for run in planned] == names(0)  # the others are for other searches
    mine = [run.folder for run in ours.following({})]
    assert mine == names(1)
    naps: list[float] = []

    def they_finish(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 2:
            (folder / "head-0").mkdir(parents=True)
            write_result(folder / "head-0", finished(planned[0], str(folder / "head-0")))
            theirs._tell({"head-0": finished(planned[0])})

    monkeypatch.setattr(search_rounds.time, "sleep", they_finish)
    results = {"head-1": replace(finished(planned[0]), metrics={VAL: 0.1})}
    (last,) = ours.following(results)
    assert last.folder == "head-2" and not naps
    (taken,) = ours.following({"head-2": replace(finished(last), metrics={VAL: 0.2})})
    assert (taken.folder, taken.elsewhere, len(naps)) == ("head-0", folder / "head-0", 2)
    assert not said


def test_trial_whose_files_are_elsewhere_counts(
    composer: Composer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    typed = (*HEAD, "search=random", "trials=2", "search.confirm=0", f"search.storage={tmp_path}/studies.log")
    with monkeypatch.context() as other:
        another_process(other)
        theirs = begun(composer, tmp_path / "theirs", *typed)
        (run,) = theirs.following({})
        theirs._tell({run.folder: finished(run)})
    ours = begun(composer, tmp_path / "ours", *typed)
    assert rounds(ours) == [names(1)]
    assert said == [f"head trial=0: it counts, but its files are not here: {tmp_path}/theirs"]


def test_confirmation_whose_files_are_elsewhere_is_told(
    composer: Composer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    typed = (*HEAD, "search=random", "trials=1", "search.confirm=2", f"search.storage={tmp_path}/studies.log")
    with monkeypatch.context() as other:
        another_process(other)
        theirs = begun(composer, tmp_path / "theirs", *typed)
        (run,) = theirs.following({})
        here, gone = theirs.following({run.folder: finished(run)})
        theirs.following({one.folder: finished(one) for one in (here, gone)})
    (folder := tmp_path / "theirs" / here.folder).mkdir(parents=True)
    write_result(folder, finished(here))
    ours = begun(composer, tmp_path / "ours", *typed)
    assert rounds(ours) == [[here.folder]]
    absent = f"{gone.name}: it does not count here, since its files are not here: {tmp_path}/theirs/{gone.folder}"
    assert said[1:] == [absent]


def test_confirmation_by_another_search_is_awaited(
    composer: Composer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = (*HEAD, "search=random", "trials=1", "search.confirm=1", f"search.storage={tmp_path}/studies.log")
    folder = tmp_path / "theirs"
    with monkeypatch.context() as other:
        another_process(other)
        theirs = begun(composer, folder, *typed)
        (run,) = theirs.following({})
        (fresh,) = theirs.following({run.folder: finished(run)})
    ours, naps = begun(composer, tmp_path / "ours", *typed), []
    (folder / "head-0").mkdir(parents=True)
    write_result(folder / "head-0", finished(run))
    (taken,) = ours.following({})
    assert taken.elsewhere == folder / "head-0"

    def they_finish(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 2:
            (folder / fresh.folder).mkdir()
            write_result(folder / fresh.folder, finished(fresh))
            theirs.following({fresh.folder: finished(fresh)})

    monkeypatch.setattr(search_rounds.time, "sleep", they_finish)
    (confirmation,) = ours.following({taken.folder: finished(taken)})
    assert confirmation.elsewhere == folder / fresh.folder and len(naps) == 2
    assert ours.following({confirmation.folder: finished(confirmation)}) == []


def test_own_confirmations_begin_before_that_of_another_search_is_over(
    composer: Composer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = ("freeze=head,full", HEAD[1], "search=random", "trials=1", "search.confirm=1")
    typed = (*typed, f"search.storage={tmp_path}/studies.log")
    ours = begun(composer, tmp_path / "ours", *typed)
    results = {run.folder: finished(run) for run in ours.following({})}
    with monkeypatch.context() as other:
        another_process(other)
        head = begun(composer, tmp_path / "theirs", *typed).cells[0].study.sharing
        head.confirm(0)
    monkeypatch.setattr(search_rounds.time, "sleep", lambda seconds: pytest.fail("it waits"))
    (fresh,) = ours.following(results)
    assert fresh.folder == "full-seed1"


def test_search_with_other_settings_or_data_is_another(composer: Composer, tmp_path: Path) -> None:
    def identity(seed: int = 0, epochs: int = 2, prune: str = "none", high: int = 1, data: str = "data") -> str:
        typed = [f"search.seed={seed}", f"epochs={epochs}", f"search.prune={prune}", f"lr=interval(1e-5,{high})"]
        search = begun(composer, None, "freeze=head", "search=tpe", "trials=2", *typed)
        auto = {compose.check_key(cell.known.config): {} for cell in search.cells}
        search.resolve_auto(auto, lambda configs: [data] * len(configs))
        return search.identity

    assert identity() == identity()
    found = [identity(), identity(seed=1), identity(epochs=3), identity(prune="median"), identity(high=2)]
    assert len({*found, identity(data="others")}) == 6


def test_search_begins_with_runs_of_earlier_sweeps(composer: Composer, tmp_path: Path, said: list[str]) -> None:
    typed = (*HEAD, "search=random", "trials=1", "search.confirm=0", "search.past=true")
    (cell,) = begun(composer, None, *typed).cells
    runs = [
        PastRun(None, "FINISHED", {layout.FOLDER_TAG: f"/old/{n}"}, {VAL: lr}, {}, texts(replace(cell.config, lr=lr)))
        for n, lr in enumerate((0.1, 0.2))
    ]
    search = begun(composer, tmp_path, *typed, past=runs)
    assert said == ["search.past: head begins with 2 runs of /old"]
    known = [(trial.params["lr"], trial.value) for trial in search.cells[0].study.trials()]
    assert known == [(0.1, 0.1), (0.2, 0.2)] and rounds(search) == [names(2)]
    without = (*typed[:-1], "search.past=false")
    assert states(begun(composer, tmp_path / "without", *without, past=runs)) == [[]] and len(said) == 1
    assert states(begun(composer, None, *typed, past=runs)) == [[]] and len(said) == 1  # a dry run


def texts(config: Config) -> dict[str, str]:
    return {key: str(value) for key, value in semantic(config).items()}


def test_different_searches_in_a_shared_storage_have_studies_of_their_own(composer: Composer, tmp_path: Path) -> None:
    typed = (*HEAD, "search=random", "trials=1", "search.confirm=0", f"search.storage={tmp_path}/studies.log")
    first, other = (begun(composer, tmp_path / str(seed), *typed, f"search.seed={seed}") for seed in (1, 2))
    assert rounds(first) == rounds(other) == [names(0)]
    (one,), (two,) = first.cells, other.cells
    assert one.study.name.startswith("head ") and one.study.name != two.study.name
    assert begun(composer, tmp_path / "own", *typed[:-1]).cells[0].study.name == "head"


def test_damaged_study_is_refused_in_one_line(composer: Composer, tmp_path: Path) -> None:
    (tmp_path / layout.STUDY).write_text('{"op_code": 9, "study_id": 3}\n')
    with raises_one_line("study.*: expected the trials of a search, but the file is damaged"):
        begun(composer, tmp_path, *HEAD, "search=random", "trials=1")


def test_sign_of_life_that_fails_is_repeated_later(
    composer: Composer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search, signs = begun(composer, tmp_path, *HEAD, "search=random", "trials=1"), list[int]()

    def alive() -> None:
        signs.append(1)
        raise OSError("the storage is away")

    monkeypatch.setattr(search.cells[0].study.sharing, "alive", alive)
    search.alive()
    assert signs == [1]


def judged(search: Search, folder: Path) -> Outcome:
    """Return a function that carries out a run epoch by epoch, as far as the trial's judge lets it."""

    def outcome(run: PlannedRun) -> Result:
        judge, own = search.cells[0].study.judge(run.choices["trial"]), folder / run.folder
        own.mkdir(parents=True, exist_ok=True)
        at, value = len(journal.epochs(own)), 1 - float(run.config.lr) / 2
        decision = judge(at, value) if at else Decision.CONTINUE
        while decision is Decision.CONTINUE and at < run.config.epochs:
            journal.append_epoch(own, {"epoch": (at := at + 1), "val/accuracy": value})
            decision = judge(at, value) if at < run.config.epochs else Decision.CONTINUE
        pruned = {PRUNED: float(at)} if decision is Decision.STOP else {}
        done = replace(finished(run, str(own)), metrics={VAL: value, "cost/epochs": float(at), **pruned})
        return replace(done, status="PAUSED") if decision is Decision.PAUSE else done

    return outcome


HYPERBAND = ("search=random", "search.prune=hyperband", "search.confirm=0")


@pytest.mark.parametrize("workers", [1, 2])
def test_hyperband_continues_the_best_third_and_ends_the_others(
    workers: int, composer: Composer, tmp_path: Path
) -> None:
    search = begun(composer, tmp_path, *HEAD, *HYPERBAND, "trials=6", "epochs=3", workers=workers)
    found = [*chain(*rounds(search, judged(search, tmp_path)))]
    trials = search.cells[0].study.trials()
    first = min(trials[:3], key=lambda trial: trial.params["lr"])
    again = next(n for n, name in enumerate(found) if name in found[:n])  # as soon as a third of them may go on
    assert found[again] == f"head-{first.number}" and again == 2 + workers
    assert {*found} == {*names(*range(6))} and 2 <= states(search)[0].count("COMPLETE") < 6
    for trial in trials:
        whole = trial.state.name == "COMPLETE"
        assert len(trial.intermediate_values) == trial.user_attrs["epochs"] == (3 if whole else 1)
        assert found.count(f"head-{trial.number}") == 2 and (whole or trial.state.name == "PRUNED")


def test_trial_of_hyperband_that_fails_at_its_rung_is_left(composer: Composer, tmp_path: Path) -> None:
    search = begun(composer, tmp_path, *HEAD, *HYPERBAND, "trials=2", "epochs=3", workers=2)
    outcome = judged(search, tmp_path)
    one, other = search.following({})
    search.following({one.folder: replace(outcome(one), status="FAILED"), other.folder: outcome(other)})
    marks = [trial.user_attrs for trial in search.cells[0].study.trials()]
    assert [("left" in each, "waits" in each) for each in marks] == [(True, False), (False, True)]


@pytest.mark.parametrize("amount", [8, 9])
def test_epochs_of_a_budget_are_spent_and_not_more(amount: int, composer: Composer, tmp_path: Path) -> None:
    """Six trials, of which one has gone on, use eight epochs; another that may go on needs a ninth."""
    typed = ("search.budget=epochs", f"search.amount={amount}", "epochs=3")
    search = begun(composer, tmp_path, *HEAD, *HYPERBAND, *typed)
    rounds(search, judged(search, tmp_path))
    used = [trial.user_attrs["epochs"] for trial in search.cells[0].study.trials()]
    assert len(used) == 6 and sum(used) == (8 if amount == 8 else 10)


def test_equal_trials_of_hyperband_share_a_run(composer: Composer, tmp_path: Path) -> None:
    search = begun(composer, tmp_path, "freeze=head", "lr=choice(0.1,0.2)", *HYPERBAND, "trials=6", "epochs=3")
    found = rounds(search, judged(search, tmp_path))
    assert len({*chain(*found)}) == 2
    trials = search.cells[0].study.trials()
    (best,) = (trial for trial in trials if trial.state.name == "COMPLETE")
    assert best.params == {"lr": 0.1} and states(search)[0].count("PRUNED") == 5
    assert all(trial.intermediate_values[1] == 1 - trial.params["lr"] / 2 for trial in trials)


def test_trial_of_a_lost_process_is_run_again_where_its_files_are_not(
    composer: Composer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    typed = (*HEAD, "search=random", "trials=1", "search.confirm=0", f"search.storage={tmp_path}/studies.log")
    with monkeypatch.context() as other:
        lost = replace(liveness.this_process(), pid=2**22 + 1)  # larger than any process id
        other.setattr(liveness, "this_process", lambda: lost)
        (theirs,) = begun(composer, tmp_path / "theirs", *typed).following({})
    ours = begun(composer, tmp_path / "ours", *typed)
    (run,) = ours.following({})
    assert run.config == theirs.config and run.elsewhere == tmp_path / "theirs" / "head-0" and not said


def test_search_waits_for_each_cell(composer: Composer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another search has the last trial of one cell, the others having none, the search is not over."""
    typed = ("freeze=head,full", HEAD[1], "search=random", "trials=1", "search.confirm=0")
    typed = (*typed, f"search.storage={tmp_path}/studies.log")
    with monkeypatch.context() as other:
        another_process(other)
        theirs = begun(composer, tmp_path / "theirs", *typed)
        head, _ = theirs.following({})
        theirs.cells[1].study.leave(0, Spent(0, 0))
    ours = begun(composer, tmp_path / "ours", *typed)
    (full,) = ours.following({})
    assert full.folder == "full-0"
    monkeypatch.setattr(search_rounds.time, "sleep", lambda seconds: theirs._tell({"head-0": finished(head)}))
    assert ours.following({"full-0": finished(full)}) == [] and states(ours) == [["COMPLETE"], ["COMPLETE"]]

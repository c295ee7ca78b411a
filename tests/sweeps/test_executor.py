"""What a launcher of Hydra's that is not ours does to a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from frostline.sweeps.compose import PlannedRun
from frostline.sweeps.executor import Foreign
from frostline.sweeps.pool import WorkerDied
from frostline.sweeps.sweep import run_planned
from small import compose


class GivesUp:
    """Carries out what it is given, but for the batch of the job 2, which it gives up."""

    def __init__(self) -> None:
        self.launched: list[int] = []

    def launch(self, batch: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        numbers = range(initial_job_idx, initial_job_idx + len(batch))
        self.launched += numbers
        if 2 in numbers:
            raise RuntimeError("a worker process was killed")
        done = [JobReturn() for _ in batch]
        for one in done:
            one.status = JobStatus.COMPLETED
        return done


def test_a_batch_that_is_given_up_costs_the_reason_of_its_own_jobs_and_no_other_batch() -> None:
    launcher = GivesUp()
    executor = Foreign(launcher, 2, OmegaConf.create({"hydra": {"sweep": {"dir": "here", "subdir": "0"}}}))
    config = compose()
    runs = [PlannedRun(config, "", {}, str(number), [f"lr={number}"]) for number in range(6)]
    executor.settle(Path("here"), runs)
    reasons = executor.run(dict.fromkeys((0, 1, 2, 3, 5)), lambda number: {})
    assert launcher.launched == [0, 1, 2, 3, 4, 5]
    assert {number: str(error) for number, error in reasons.items()} == dict.fromkeys(
        (2, 3), "a worker process was killed"
    )


class Dies(Foreign):
    """Dies of what is asked before the runs."""

    def ask(self, *_: object) -> NoReturn:
        raise WorkerDied("its worker was killed by signal 9")


def test_where_the_check_dies_a_table_names_every_run_and_the_reason_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [PlannedRun(compose(), name, {}, name, []) for name in ("head", "full")]
    executor = Dies(GivesUp(), None, OmegaConf.create())
    assert run_planned(runs, executor=executor, folder=tmp_path / "sweep", folder_named=True) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("not begun, as its check died: its worker was killed by signal 9") == 2
    assert "none of 2 runs finished" in said
    assert not (tmp_path / "sweep").exists()

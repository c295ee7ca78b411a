"""Flags of Hydra are sorted, and those that it would misread are refused."""

from __future__ import annotations

import pytest

from frostline.core.errors import UserError
from frostline.sweeps.hydra_flags import check, flags_first, for_config, for_help

A_FLAG = "or a flag of --hydra-help"


@pytest.mark.parametrize("flag", [["--cfg", "job"], ["-c=job"], ["--info"], ["-i", "defaults"]])
def test_config_of_one_run_needs_no_multirun(flag: list[str]) -> None:
    assert for_config(["-m", *flag, "lr=1"]) == for_config([*flag, "--multirun", "lr=1"]) == [*flag, "lr=1"]
    assert for_config(["-m", "lr=1"]) == ["-m", "lr=1"]


def test_flags_may_stand_anywhere() -> None:
    typed = ["lr=1", "--config-dir", "a=b", "-m", "freeze=head", "--cfg", "job", "~seed"]
    assert flags_first(typed) == ["--config-dir", "a=b", "-m", "--cfg", "job", "lr=1", "freeze=head", "~seed"]


def test_help_omits_lists_and_ranges() -> None:
    typed = ["-m", "--help", "freeze=head,full", "lr=interval(1e-4,1)", "model=resnet18", "epochs=[", "seed=range(3)"]
    assert for_help(typed) == ["-m", "--help", "model=resnet18", "epochs=["]
    assert for_help(typed[2:]) == typed[2:]


@pytest.mark.parametrize("typed", [["--config-dir="], ["--config-dir", ""], ["-cd", "", "lr=1"], ["--config-name="]])
def test_hydra_flag_without_value_is_refused(typed: list[str]) -> None:
    with pytest.raises(UserError, match=r"^--?c[a-z-]+=: expected a value, and there is none"):
        check(["freeze=head", *typed])


@pytest.mark.parametrize("typed", [["--cfg", "lr=1"], ["--cfg=lr=1"], ["-i", "lr=1"], ["--info=lr=1"]])
def test_flag_that_shows_the_config_is_refused_with_another_value(typed: list[str]) -> None:
    with pytest.raises(UserError, match=rf"^{typed[0].partition('=')[0]}=lr=1: expected one of .*\ball\b"):
        check(typed)


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("--vers", f"--vers: expected a key without dashes, vers=<value>, {A_FLAG}; did you mean --version?"),
        ("--detatch", f"--detatch: expected a key without dashes, detatch=<value>, {A_FLAG}; did you mean --detach?"),
        ("-hm", f"-hm: expected a key without dashes, hm=<value>, {A_FLAG}"),
        ("--multirun=true", "--multirun=true: expected --multirun without a value"),
        ("--cfg", "--cfg=: expected one of job, hydra, all"),
        ("-c --resolve", "-c=: expected one of job, hydra, all"),
        ("--config-dir", "--config-dir=: expected a value, and there is none"),
        ("-p lr=1", "-p=lr=1: expected --cfg job beside it"),
        ("-cd nowhere", "-cd=nowhere: expected a folder that exists"),
        ("-cp conf", "-cp=conf: expected --config-dir=<folder>"),
        ("--experimental-rerun=x", "--experimental-rerun=x: expected rerun=<run>"),
    ],
)
def test_flag_that_hydra_would_misread_is_refused(typed: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        check(["lr=1", *typed.split()])
    assert str(caught.value).startswith(line)


def test_flags_of_hydra_are_accepted() -> None:
    for typed in ("-m", "--cfg job --resolve -p model", "--info", "-i defaults", "-cd conf -cn config", "-h", "-sc"):
        check([*typed.split(), *(["lr=1"] if "-i" not in typed else [])])

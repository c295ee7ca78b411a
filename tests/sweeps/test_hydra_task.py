"""A job of Hydra in a worker."""

from __future__ import annotations

import logging.config
import pickle
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from frostline.sweeps import hydra_task


def test_full_disk_that_keeps_a_log_from_being_opened_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The error is pickled on its way to the sweep's process, which drops the cause that `logging` gives."""
    log = tmp_path / "missing" / "train.log"

    def run_job(**_: object) -> None:
        handler = {"class": "logging.FileHandler", "filename": log}
        logging.config.dictConfig({"version": 1, "handlers": {"file": handler}})

    monkeypatch.setattr(hydra_task, "setup_globals", lambda: None)
    monkeypatch.setattr(hydra_task, "_known", lambda common: (None, None))
    monkeypatch.setattr(hydra_task, "run_job", run_job)
    with pytest.raises(OSError, match="No such file") as caught:
        hydra_task.call(b"", pickle.dumps(OmegaConf.create({"hydra": {"help": {}, "hydra_help": {}}})), whole=False)
    assert pickle.loads(pickle.dumps(caught.value)).filename == str(log)

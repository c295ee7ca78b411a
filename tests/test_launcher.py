"""Our launcher: Hydra's own suites for launchers, and what it adds: a dead worker costs one job."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.test_utils.launcher_common_tests import BatchedSweeperTestSuite, IntegrationTestSuite, LauncherTestSuite
from hydra.version import _UNSPECIFIED_, VersionBase

from hydra_plugins.frostline_launcher import FrostlineLauncher


@pytest.fixture(autouse=True)
def _anywhere(monkeypatch):
    """Hydra's suites start programs in other folders, and expect a process that asked for no version of its rules."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "src"))
    monkeypatch.setattr(VersionBase.instance(), "version_base", _UNSPECIFIED_)


def test_it_is_discovered():
    assert FrostlineLauncher.__name__ in [found.__name__ for found in Plugins.instance().discover(Launcher)]


@pytest.mark.parametrize(("launcher_name", "overrides"), [("frostline", [])])
class TestLauncher(LauncherTestSuite):
    """Hydra's suite."""


@pytest.mark.parametrize(
    ("launcher_name", "overrides"), [("frostline", ["hydra/sweeper=basic", "hydra.sweeper.max_batch_size=2"])]
)
class TestBatches(BatchedSweeperTestSuite):
    """Hydra's suite."""


@pytest.mark.parametrize(
    ("task_launcher_cfg", "extra_flags"), [({}, ["-m", "hydra/launcher=frostline", "hydra/hydra_logging=disabled"])]
)
class TestIntegration(IntegrationTestSuite):
    """Hydra's suite."""

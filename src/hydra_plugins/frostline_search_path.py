"""The seam to Hydra: options of a person's own, in `conf/` where the command is typed, stand beside the project's."""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from frostline.core.project import own_configs


class FrostlineSearchPath(SearchPathPlugin):
    """Has Hydra look there last, so that nothing of the project's is hidden by it."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add the folder, if there is one; `--config-dir` Hydra knows by itself."""
        for folder in own_configs(()):
            search_path.append("frostline", f"file://{folder}")

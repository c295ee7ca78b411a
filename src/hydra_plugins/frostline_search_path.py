"""Hydra search path plugin: adds the user's own config files in `conf/` of the working directory."""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from frostline.core.project import own_configs


class FrostlineSearchPath(SearchPathPlugin):
    """Appends the user's folder to the search path, so that it hides none of the project's options."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the folder, if there is one; Hydra handles `--config-dir` itself."""
        for folder in own_configs(()):
            search_path.append("frostline", f"file://{folder}")

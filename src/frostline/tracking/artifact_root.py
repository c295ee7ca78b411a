"""Where the artifacts of an experiment lie: beside its store, or under the root that `tracking.artifacts` names.

MLflow settles it when an experiment is created, for all of its runs.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from frostline.core import credentials, files
from frostline.core.errors import UserError, user_error

KEY = "tracking.artifacts"
CHOSEN_TAG = "frostline.artifacts"
"""Tag of an experiment whose root somebody chose: it stays where it is when the store is moved."""
_SCHEMES = ("s3", "gs", "wasbs", "abfss", "r2", "b2", "hdfs", "viewfs", "ftp", "sftp")
"""Places that MLflow has a way to write to: `mlflow.store.artifact.artifact_repository_registry`."""
_NEEDS = {"s3": "boto3", "r2": "boto3", "b2": "boto3"}


def chosen(configured: str | None) -> str | None:
    """Return the root that `tracking.artifacts` names as a URI, None where it names none.

    A folder is from where the command is typed. Raises UserError for what MLflow cannot write to, or not with what is
    installed here, and for credentials.
    """
    if configured is None:
        return None
    if "://" not in configured:
        folder = files.expanded(configured).absolute()
        if not configured.strip() or re.match(r"[a-z0-9+-]+:", configured) or os.path.isfile(folder):
            raise user_error(KEY, configured, "a folder, or s3://<bucket>/<prefix> or the like")
        return folder.as_uri()
    try:
        parts = urlsplit(configured)
        secret = parts.password is not None or any(credentials.is_secret(name) for name, _ in parse_qsl(parts.query))
    except ValueError:
        raise user_error(KEY, credentials.removed(configured), "an address such as s3://<bucket>/<prefix>") from None
    if secret:
        safe = credentials.removed(configured)
        raise user_error(KEY, safe, "no credentials in a config; they belong into the environment")
    if parts.scheme not in _SCHEMES or not parts.netloc:
        near = [configured.replace(parts.scheme, scheme, 1) for scheme in _SCHEMES] if parts.netloc else ()
        known = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
        raise user_error(KEY, configured, f"a folder, or a place at one of {known}", near)
    library = _NEEDS.get(parts.scheme)
    if library and importlib.util.find_spec(library) is None:
        expected = f"{library} to be installed, which writes there (pip install 'frostline[s3]')"
        raise user_error(KEY, configured, expected)
    return configured.rstrip("/")


def location(root: str, experiment: str) -> str:
    """Return where under `root`, a URI, the artifacts of an experiment go."""
    folder = re.sub(r"[^\w.-]", "_", experiment, flags=re.ASCII).lstrip(".")
    if folder != experiment:  # MLflow decodes what an address has to encode, a second time in places
        folder += f"-{hashlib.sha256(experiment.encode()).hexdigest()[:8]}"
    return f"{root}/{folder}"


def require_usable(root: str, place: str, tracking_uri: str) -> None:
    """Raise UserError unless artifacts can be kept at `place`, which is under the `root` that somebody chose."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    try:
        if (parts := urlsplit(root)).scheme == "file":
            Path(parts.path).mkdir(parents=True, exist_ok=True)
        get_artifact_repository(place, tracking_uri=tracking_uri).list_artifacts()
    except Exception as error:  # of whatever library the place leads to
        raise user_error(KEY, root, f"a place that can be reached ({credentials.one_line(error)})") from error


def differs(root: str, place: str, experiment: str) -> UserError:
    """Return the error for an experiment that is there, with its artifacts at another `place`."""
    own = location(place.rpartition("/")[0], experiment) == place
    there = f"the root of the experiment that is there, {place.rpartition('/')[0] if own else place}"
    return user_error(KEY, root, f"{there}; another experiment_name may have another")

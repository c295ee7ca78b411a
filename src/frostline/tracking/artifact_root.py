"""Artifact root of an experiment: beside its store, or at the URI in `tracking.artifacts`.

MLflow fixes the root when an experiment is created, for all of its runs.
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
"""Tag of an experiment whose root was configured: its artifacts stay in place when the store is moved."""
_SCHEMES = ("s3", "gs", "wasbs", "abfss", "r2", "b2", "hdfs", "viewfs", "ftp", "sftp")
"""Schemes to which MLflow can write: `mlflow.store.artifact.artifact_repository_registry`."""
_NEEDS = {"s3": "boto3", "r2": "boto3", "b2": "boto3"}


def chosen(configured: str | None) -> str | None:
    """Return the configured `tracking.artifacts` as a URI; None for None.

    A folder is relative to the working directory. Raises UserError for a URI to which MLflow cannot write, or not with
    the installed packages, and for one with credentials.
    """
    if configured is None:
        return None
    if "://" not in configured:
        folder = files.absolute(configured)
        if not configured.strip() or re.match(r"[a-z0-9+-]+:", configured) or os.path.isfile(folder):
            raise user_error(KEY, configured, "a folder, or a URI such as s3://<bucket>/<prefix>")
        return folder.as_uri()
    try:
        parts = urlsplit(configured)
        secret = parts.password is not None or any(credentials.is_secret(name) for name, _ in parse_qsl(parts.query))
    except ValueError:
        raise user_error(KEY, credentials.removed(configured), "an address such as s3://<bucket>/<prefix>") from None
    if secret:
        safe = credentials.removed(configured)
        raise user_error(KEY, safe, "no credentials in a config; set them in the environment")
    if parts.scheme not in _SCHEMES or not parts.netloc:
        near = [configured.replace(parts.scheme, scheme, 1) for scheme in _SCHEMES] if parts.netloc else ()
        known = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
        raise user_error(KEY, configured, f"a folder, or a URI with one of {known}", near)
    library = _NEEDS.get(parts.scheme)
    if library and importlib.util.find_spec(library) is None:
        expected = f"{library} to be installed, which writes there (pip install 'frostline[s3]')"
        raise user_error(KEY, configured, expected)
    return configured.rstrip("/")


def location(root: str, experiment: str) -> str:
    """Return the URI under `root`, a URI, for the artifacts of an experiment."""
    folder = re.sub(r"[^\w.-]", "_", experiment, flags=re.ASCII).lstrip(".")
    if folder != experiment:  # no percent-encoding, which MLflow decodes twice in places
        folder += f"-{hashlib.sha256(experiment.encode()).hexdigest()[:8]}"
    return f"{root}/{folder}"


def require_usable(root: str, place: str, tracking_uri: str) -> None:
    """Raise UserError unless artifacts can be kept at `place`, a URI under the configured `root`."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    try:
        if (parts := urlsplit(root)).scheme == "file":
            Path(parts.path).mkdir(parents=True, exist_ok=True)
        get_artifact_repository(place, tracking_uri=tracking_uri).list_artifacts()
    except Exception as error:  # of any storage library
        raise user_error(KEY, root, f"a reachable place ({credentials.one_line(error)})") from error


def differs(root: str, place: str, experiment: str) -> UserError:
    """Return the error for an existing experiment whose artifacts are at another `place`."""
    own = location(place.rpartition("/")[0], experiment) == place
    there = f"the root of the existing experiment, {place.rpartition('/')[0] if own else place}"
    return user_error(KEY, root, f"{there}; for another root, set another experiment_name")

"""Tracking URIs without their passwords: those stay in MLFLOW_TRACKING_URI and are written and printed nowhere."""

from __future__ import annotations

import os
import re
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

_SECRET = re.compile("pass|token|secret|key", re.IGNORECASE)


def removed(uri: str) -> str:
    """Return `uri` without user, password and every query argument whose name sounds like a secret."""
    parts = urlsplit(uri)
    arguments = parse_qsl(parts.query)
    kept = [(name, value) for name, value in arguments if not _SECRET.search(name)]
    query = parts.query if kept == arguments else urlencode(kept)
    host = parts.netloc.rpartition("@")[2]
    changed = (host, query) != (parts.netloc, parts.query)
    return urlunsplit(parts._replace(netloc=host, query=query)) if changed else uri


def restored(uri: str) -> str:
    """Return MLFLOW_TRACKING_URI where that is `uri` with credentials, else `uri`."""
    whole = os.environ.get("MLFLOW_TRACKING_URI", "")
    return whole if whole and removed(whole) == uri else uri


def scrubbed(text: str) -> str:
    """Return an error's `text` without the user and password of any URI in it."""
    return re.sub(r"(\w://)[^/\s]*@", r"\1", text)

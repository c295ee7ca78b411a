"""Keep secrets out of records and logs: passwords in URIs, and config values taken from environment variables."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

_FROM_ENVIRONMENT = re.compile(r"oc\.env\s*:\s*[\"'\\]*(\w*)")  # quoted or not, as in OmegaConf's grammar
_SHORTEST = 4  # characters: a shorter value occurs in any text by chance
_NAMES = "pass|pwd|token|secret|key|odbc_connect"  # the last one holds a whole connection string with password
_SECRET = re.compile(_NAMES, re.IGNORECASE)

_taken: dict[str, str] = {}
"""Values that the config of this process took from the environment, longest first, with the variable's name."""


def removed(uri: str) -> str:
    """Return `uri` without user, password and every query argument whose name suggests a secret.

    The password may contain unencoded characters. Of a URI that cannot be parsed, only the scheme is returned.
    """
    uri = _without_raw_password(uri)
    try:
        parts = urlsplit(uri)
    except ValueError:
        return f"{uri.partition('://')[0]}://"
    arguments = parse_qsl(parts.query)
    kept = [(name, value) for name, value in arguments if not is_secret(name)]
    query = parts.query if kept == arguments else urlencode(kept)
    host = parts.netloc.rpartition("@")[2]
    changed = (host, query) != (parts.netloc, parts.query)
    return urlunsplit(parts._replace(netloc=host, query=query)) if changed else uri


def _without_raw_password(uri: str) -> str:
    """Return `uri` without a password that contains `/`, `?`, `#` or a bracket, which end the host part or break it.

    SQLAlchemy opens databases with such a password: by its rule the password ends at the last `@`.
    """
    scheme, _, rest = uri.partition("://")
    user, colon, behind = re.split(r"[/?#]", rest, maxsplit=1)[0].partition(":")
    port = scheme.startswith("http") and (behind.isdecimal() or user.startswith("["))
    raw = colon and "@" in rest and "@" not in behind and not port
    return f"{scheme}://{rest.rpartition('@')[2]}" if raw else uri


def is_secret(name: str) -> bool:
    """Return whether the name of an argument suggests a secret."""
    return bool(_SECRET.search(name))


def restored(uri: str) -> str:
    """Return MLFLOW_TRACKING_URI if it is `uri` with credentials, else `uri`."""
    whole = os.environ.get("MLFLOW_TRACKING_URI", "")
    return whole if whole and removed(whole).rstrip("/") == uri.rstrip("/") else uri


def scrubbed(text: str) -> str:
    """Return `text` without passwords of URIs and values that this process's config took from the environment."""
    if whole := os.environ.get("MLFLOW_TRACKING_URI"):
        text = text.replace(whole, removed(whole))
    text = re.sub(r"(\w\\?://)[^/\s]*@", r"\1", text)  # Hydra writes a colon as `\:`
    text = re.sub(rf"(?i)([?&]\w*(?:{_NAMES})\w*=)[^&\s]+", r"\1...", text)
    for value, name in _taken.items():
        text = text.replace(value, f"${{oc.env:{name}}}")
    return text


def one_line(error: BaseException) -> str:
    """Return an error's message without secrets, as one line of at most 200 characters, or its type if it has none."""
    return scrubbed(" ".join(str(error).split()))[:200] or type(error).__name__


class ScrubbingFormatter(logging.Formatter):
    """Formatter of a run's log that removes secrets, also from tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's text, scrubbed."""
        return scrubbed(super().format(record))


def unresolved(values: Mapping[str, Any], raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return config `values`, with the text before interpolation, from `raw`, in place of environment variables.

    Both are nested mappings; `raw` may have more keys. Values that interpolate another such key are replaced, too.
    `scrubbed` removes the values of these variables from now on.
    """
    names = {name for text in _texts(raw) for name in _FROM_ENVIRONMENT.findall(text)}
    taken = {value: name for name in sorted(names) if len(value := os.environ.get(name, "")) >= _SHORTEST}
    _taken.clear()
    _taken.update(sorted(taken.items(), key=lambda item: -len(item[0])))
    return {key: _unresolved(value, raw.get(key)) for key, value in values.items()}


def _unresolved(value: Any, raw: Any) -> Any:
    if isinstance(value, Mapping) and isinstance(raw, Mapping):
        return {key: _unresolved(item, raw.get(key)) for key, item in value.items()}
    if isinstance(value, list) and isinstance(raw, list) and len(value) == len(raw):
        return [_unresolved(item, text) for item, text in zip(value, raw, strict=True)]
    if not any("${" in text for text in _texts(raw)):
        return value
    direct = any(_FROM_ENVIRONMENT.search(text) for text in _texts(raw))
    return raw if direct or any(secret in text for secret in _taken for text in _texts(value)) else value


def _texts(value: Any) -> list[str]:
    """Return all leaves of a nested value as text."""
    if isinstance(value, Mapping | list):
        items = value.values() if isinstance(value, Mapping) else value
        return [text for item in items for text in _texts(item)]
    return [str(value)]

"""A real MLflow server in a thread of the tests, which fails on demand: before, after or instead of its work."""

from __future__ import annotations

import io
import os
import random
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import stores

FAULTS = ("refuse", "error", "lost", "half", "garbage", "error after", "hollow")
"""Without the work: no answer, an error. After the work: no answer, half of one, garbage, an error, `{}`."""


class _Gone(ConnectionError):
    """Closes the connection without an answer."""


class Faulty:
    """WSGI middleware around MLflow's own application."""

    def __init__(self, application: Any) -> None:
        self._application = application
        self.away = False
        """Whether every request is refused."""
        self.fault: tuple[int, str] | None = None
        """The number of a request, counted from 0, and its fault."""
        self.often: random.Random | None = None
        """Random generator that draws a fault for one request in four."""
        self.requests = 0
        self.held: threading.Event | None = None
        """If set, requests wait for this event."""
        self.largest: int | None = None
        """Largest accepted request in bytes; larger ones are refused, as proxies do."""

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if self.held is not None:
            self.held.wait()
        number, self.requests = self.requests, self.requests + 1
        kind = self.fault[1] if self.fault is not None and self.fault[0] == number else ""
        if self.often is not None and self.often.random() < 0.25:
            kind = self.often.choice(FAULTS)
        if self.away or kind == "refuse":
            raise _Gone
        if self.largest is not None and _size(environ) > self.largest:
            return _answer(start_response, "413 Request Entity Too Large", b"<html>too large</html>")
        if kind == "error":
            return _answer(start_response, "500 Oops", b"not today")
        if not kind:
            return self._application(environ, start_response)
        body = b"".join(self._application(environ, lambda status, headers, error=None: None))
        if kind == "lost":
            raise _Gone
        if kind == "half":
            return _answer(start_response, "200 OK", body[: len(body) // 2], length=max(len(body), 2))
        if kind == "hollow":
            return _answer(start_response, "200 OK", b"{}")
        return _answer(start_response, "200 OK" if kind == "garbage" else "503 Busy", b"<html>hello</html>")


def _size(environ: dict[str, Any]) -> int:
    """Return the size of a request in bytes; a file arrives in chunks and is read to measure it."""
    if length := environ.get("CONTENT_LENGTH"):
        return int(length)
    content = environ["wsgi.input"].read() if environ.get("HTTP_TRANSFER_ENCODING") == "chunked" else b""
    environ["wsgi.input"] = io.BytesIO(content)
    return len(content)


def _answer(start_response: Any, status: str, body: bytes, *, length: int | None = None) -> list[bytes]:
    start_response(status, [("Content-Type", "text/html"), ("Content-Length", str(length or len(body)))])
    return [body]


@contextmanager
def serve(folder: Path) -> Iterator[tuple[Faulty, str]]:
    """Yield a server whose database is in `folder`, and its address."""
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, *arguments: Any) -> None: ...

        def run_wsgi(self) -> None:
            try:
                super().run_wsgi()
            finally:
                self.close_connection = True

        def connection_dropped(self, error: BaseException, environ: Any = None) -> None: ...

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("_MLFLOW_SERVER_FILE_STORE", f"sqlite:///{stores.put(folder / 'server.db')}")
        patch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", "mlflow-artifacts:/")
        patch.setenv("_MLFLOW_SERVER_ARTIFACT_DESTINATION", str(folder / "artifacts"))
        patch.setenv("_MLFLOW_SERVER_SERVE_ARTIFACTS", "true")
        patch.setenv("MLFLOW_TRACKING_URI", "")  # the server sets it
        with warnings.catch_warnings(action="ignore"):  # of MLflow's own libraries
            import mlflow.server.fastapi_app  # noqa: F401 (imported by the first search otherwise)
        from mlflow.server import app
        from mlflow.server.handlers import _get_tracking_store

        _get_tracking_store()
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        faulty = Faulty(app)
        server = make_server("127.0.0.1", 0, faulty, threaded=True, request_handler=Quiet)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield faulty, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        server.server_close()

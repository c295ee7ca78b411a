"""A proxy that fails in the manner a file says: `python proxy.py <port> <port of the server> <file> [<path>]`.

It serves only addresses below the path, like a proxy in front of several servers. Manners: `well`; `late` by some
seconds; `half` an answer; `error` without forwarding the request, or `after` it; `denied` for a missing password;
`hang` without an answer.
"""

from __future__ import annotations

import contextlib
import http.client
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

LATE = 3.0  # seconds
HANG = 45.0  # seconds: more than twice as long as we wait for an answer
_OWN = ("host", "connection", "accept-encoding", "transfer-encoding", "content-length")


class Handler(BaseHTTPRequestHandler):
    """Forwards requests."""

    protocol_version = "HTTP/1.1"

    def _pass(self) -> None:
        manner = MANNER.read_text()
        body = self._body()
        if not f"{self.path}/".startswith(f"{BELOW}/"):
            self._answer(404, b"<html>nothing here</html>")
            return
        if manner == "hang":
            time.sleep(HANG)
        if manner in ("error", "hang"):
            self._answer(500, b"<html>not today</html>")
            return
        if manner == "denied":
            self._answer(401, b"<html>who are you?</html>")
            return
        server = http.client.HTTPConnection("127.0.0.1", TARGET, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _OWN}
        server.request(self.command, self.path, body, headers)
        given = server.getresponse()
        answer = given.read()
        if manner == "late":
            time.sleep(LATE)
        if manner == "after":
            self._answer(503, b"<html>busy</html>")
        else:
            self._answer(
                given.status, answer, cut=manner == "half", kind=given.headers.get("Content-Type", "text/plain")
            )

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        whole = b""
        while size := int(self.rfile.readline(), 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return whole

    def _answer(self, status: int, body: bytes, *, cut: bool = False, kind: str = "text/html") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = True

    def log_message(self, format: str, *arguments: object) -> None:
        """Log nothing."""

    def handle(self) -> None:
        """Ignore clients and servers that disconnect in the middle."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            super().handle()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass  # noqa: N815 (names of http.server)


if __name__ == "__main__":
    PORT, TARGET, MANNER = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    BELOW = "".join(sys.argv[4:])
    ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()

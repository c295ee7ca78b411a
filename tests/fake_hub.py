"""A local Hugging Face hub with one data set: the part of its API that the hub's library calls.

`python tests/fake_hub.py FOLDER` prints what `frostline.data.hub` reads of the files in FOLDER: by name and by
revision, then for a config and a name that do not exist; then, after the hub has stopped, what it reads offline.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

NAME = "owner/name"
COMMIT = "0123456789" * 4


class _Hub(BaseHTTPRequestHandler):
    files: ClassVar[dict[str, bytes]] = {}

    def log_message(self, format: str, *args: object) -> None: ...

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        api, files = f"/api/datasets/{NAME}", f"/datasets/{NAME}/resolve/"
        if path in (api, f"{api}/revision/{COMMIT}", f"{api}/revision/main"):
            self._say({"id": NAME, "sha": COMMIT, "tags": [], "siblings": [{"rfilename": name} for name in self.files]})
        elif path.startswith(f"{api}/tree/{COMMIT}"):
            self._say(self._inside(path.removeprefix(f"{api}/tree/{COMMIT}").strip("/")))
        elif path.startswith(files) and (name := path.removeprefix(files).partition("/")[2]) in self.files:
            self._answer(200, self.files[name], ETag=_digest(self.files[name]))
        else:
            known = path.startswith((api, files))
            self._answer(404, b"", **{"X-Error-Code": "EntryNotFound" if known else "RepoNotFound"})

    def _inside(self, folder: str) -> list[dict[str, Any]]:
        """Return the direct entries of a folder."""
        below = {name.removeprefix(f"{folder}/" if folder else ""): content for name, content in self.files.items()}
        top = f"{folder}/" if folder else ""
        found = {name.partition("/")[0]: (None if "/" in name else content) for name, content in below.items()}
        return [
            {"type": "directory", "path": top + name, "oid": COMMIT, "size": 0}
            if content is None
            else {"type": "file", "path": top + name, "oid": _digest(content), "size": len(content)}
            for name, content in found.items()
        ]

    def _say(self, facts: object) -> None:
        self._answer(200, json.dumps(facts).encode())

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for key, value in {"X-Repo-Commit": COMMIT, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _digest(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    _Hub.files = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    with ThreadingHTTPServer(("127.0.0.1", 0), _Hub) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def main(folder: Path) -> None:
    """Print one line of JSON for each request."""
    with _served(folder) as address:
        os.environ["HF_ENDPOINT"] = address  # before the library is imported, which reads it at import
        from frostline.core.errors import UserError
        from frostline.data import hub

        def ask(name: str, **options: str) -> None:
            try:
                found = hub.read(name, options)
            except UserError as error:
                said: object = str(error)
            else:
                said = {split: [label for (label,) in own.labels] for split, own in found.splits.items()}
            sys.stdout.write(json.dumps(said) + "\n")

        ask(NAME)
        ask(NAME, revision=COMMIT)
        ask(NAME, config="deflaut")
        ask("owner/nobody")
    ask(NAME)
    ask(NAME, revision=COMMIT)
    ask(NAME, revision="1" * 40)
    ask("owner/nobody")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

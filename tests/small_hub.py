"""A hub of our own that serves one repository, as the real one answers its client: metadata and files."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What is served, what was asked for, and where it gives up.

    Attributes:
        repository: Its id.
        files: Content by name.
        stops_after: Bytes after which a file of that name hangs until the client leaves; once.
        asked: Method and path of each request.
        hanging: Set while a file hangs.
    """

    repository: str
    files: Mapping[str, bytes]
    stops_after: dict[str, int] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    hanging: threading.Event = field(default_factory=threading.Event)
    url: str = ""


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve it on a port of this machine."""
    done = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            hub.asked.append((self.command, self.path))
            name = self.path.partition(f"/resolve/{COMMIT}/")[2]
            if self.path.startswith(f"/api/models/{hub.repository}/tree/{COMMIT}"):
                self.answer(json.dumps([{"type": "file", "path": name, "size": len(body), "oid": COMMIT} for name, body in hub.files.items()]).encode())
            elif self.path.startswith(f"/api/models/{hub.repository}/revision/"):
                self.answer(json.dumps({"id": hub.repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in hub.files]}).encode())
            elif name in hub.files:
                self.answer(hub.files[name], hub.stops_after.pop(name, None) if self.command == "GET" else None)
            else:
                self.send_error(404)

        do_GET = do_HEAD

        def answer(self, body: bytes, stops_after: int | None = None) -> None:
            self.send_response(200)
            headers = {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "X-Repo-Commit": COMMIT, "Content-Length": str(len(body))}
            for header, value in headers.items():
                self.send_header(header, value)
            self.end_headers()
            if self.command != "GET":
                return
            if stops_after is None:
                self.wfile.write(body)
                return
            self.wfile.write(body[:stops_after])
            self.wfile.flush()
            hub.hanging.set()
            done.wait(120)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hub.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield hub
        finally:
            done.set()
            server.shutdown()

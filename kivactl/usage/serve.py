"""Inside the engine: answers `GET /kiva/usage?file=ID&from=BYTES` with what the engine has counted, for gateways on other machines.

Only with `KIVA_USAGE_SERVED=1`; without it the engine knows no such path. Whoever may ask is the network's business (NetworkPolicy):
the gateway's routes never lead here. An answer is whole lines of one file, at most 1 MiB. `x-kiva-file` says of which, `x-kiva-from`
where they begin; both may differ from what was asked:

- a file read to its end is followed by the next one, from its beginning;
- a file that is no more (set aside and deleted, or of an engine that was here before) is followed by the oldest there is;
- a place that is no line's beginning, for the disk has lost some of the file, by the file's beginning.

Files are known by what is in them: the replica's name and a hash of the first whole line, which holds a time and a request's id. So a copy of
a file, byte by byte from its beginning, is all that a reader has to keep: its size is where to go on.

What the engine has counted is on the pod's disk and outlives its container. With the pod goes what nobody has fetched: nothing in an
orderly end, for the engine goes on answering for `OUTLIVES_S` after its last request; the records of one fetch interval (2 s) when the
pod is killed or its node dies. The gateway's own log still says what they were, with tokens estimated from the bytes sent.
Standard library only.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from kivactl.stack.asgi import App, Receive, Scope, Send

PATH = "/kiva/usage"
FILE, FROM = "x-kiva-file", "x-kiva-from"

PIECE_BYTES = 2**20
SET_ASIDE_BYTES = 16 * 2**20
"""Size above which the engine begins a new file."""
KEPT_ASIDE = 4
"""Files set aside that are kept for whoever is late; with the live one at most 80 MiB and a line."""
OUTLIVES_S = 5.0
"""Seconds that an engine which has ended its work still answers: two intervals of fetching and a little."""

_FIRST_LINE_BYTES = 4096
_ASIDE = re.compile(r"\.[0-9]{1,20}")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """Some whole lines of a file.

    Attributes:
        file: Id of the file; empty when there is none yet.
        start: Where the lines begin, bytes.
        lines: With their ends; empty when there is nothing new.
    """

    file: str
    start: int
    lines: bytes


class Files:
    """A record and the files set aside of it.

    Args:
        path: The record's.
        replica: Name of the engine; part of the files' ids.
    """

    def __init__(self, path: Path, replica: str, piece_bytes: int = PIECE_BYTES) -> None:
        self._path = path
        self._replica = re.sub(r"[^A-Za-z0-9-]", "-", replica)[:100]
        self._piece_bytes = piece_bytes

    def answer(self, file: str, start: int) -> Answer:
        """What follows.

        Args:
            file: Id of the file that the asker reads; empty when it reads none.
            start: How much of it the asker has, bytes.
        """
        with ExitStack() as opened:
            found = self._opened(opened)
            names = [name for name, _ in found]
            reads = names.index(file) if file in names else -1
            for at in range(max(reads, 0), len(found)):
                name, descriptor = found[at]
                begins = _begins(descriptor, start) if at == reads else 0
                data = os.pread(descriptor, self._piece_bytes, begins)
                lines = data[: data.rfind(b"\n") + 1]
                if lines or at == len(found) - 1:
                    return Answer(name, begins, lines)
        return Answer("", 0, b"")

    def _opened(self, until: ExitStack) -> list[tuple[str, int]]:
        """The files that can be named, oldest first, open: their names may change at any time."""
        found: dict[int, tuple[str, int]] = {}
        # The live one first: when it is set aside just now, it is found twice and not missed.
        live = self._open(self._path, until, found)
        for path in sorted(aside_of(self._path), key=lambda path: int(path.suffix[1:])):
            self._open(path, until, found)
        if live in found:
            found[live] = found.pop(live)
        return list(found.values())

    def _open(self, path: Path, until: ExitStack, found: dict[int, tuple[str, int]]) -> int:
        """Its inode; -1 when it is no more."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return -1
        until.callback(os.close, descriptor)
        inode = os.fstat(descriptor).st_ino
        start = os.pread(descriptor, _FIRST_LINE_BYTES, 0)
        # A full disk may have cut the first line short, or to nothing: what is left of it tells no file from another.
        first = next((line for line in start.split(b"\n")[:-1] if line.endswith(b"}")), start if len(start) == _FIRST_LINE_BYTES else None)
        if first is not None:  # else nothing whole is in it yet
            found.setdefault(inode, (f"{self._replica}-{hashlib.sha256(first).hexdigest()[:24]}", descriptor))
        return inode


class ServeUsage:
    """Wraps an ASGI application; answers what was counted itself.

    Args:
        app: The engine's.
        path: The record that `CountUsage` writes.
        replica: Name of the engine.
    """

    def __init__(self, app: App, path: str, replica: str) -> None:
        self._app = app
        self._files = Files(Path(path), replica)
        self._outlives = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "http":
            self._outlive(scope)
            if scope["path"] == PATH:
                await self._answer(scope, send)
                return
        await self._app(scope, receive, send)

    async def _answer(self, scope: Scope, send: Send) -> None:
        asked = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        file, start = asked.get("file", [""])[0], asked.get("from", ["0"])[0]
        if scope["method"] != "GET" or not (start.isascii() and start.isdigit() and len(start) < 16):
            status, answer = 400, Answer("", 0, b"")
        else:
            try:
                status, answer = 200, await asyncio.to_thread(self._files.answer, file, int(start))
            except OSError as error:
                _log.warning("what was counted cannot be read: %s", error.strerror)
                status, answer = 503, Answer("", 0, b"")
        headers = [
            (b"content-type", b"application/x-ndjson"),
            (b"content-length", b"%d" % len(answer.lines)),
            (b"cache-control", b"no-store"),
            (FILE.encode(), answer.file.encode()),
            (FROM.encode(), b"%d" % answer.start),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.lines, "more_body": False})

    def _outlive(self, scope: Scope) -> None:
        """Let the engine's end take a little longer than its work; once.

        vLLM's API server answers while it waits for its engine to finish what is under way, and closes its socket at once after that.
        """
        if self._outlives:
            return
        self._outlives = True
        try:
            client = scope["app"].state.engine_client
            shutdown = client.shutdown
        except (AttributeError, KeyError):
            _log.warning("this engine ends in another way: what it counts of its last requests may be gone before it is fetched")
            return
        waited = False

        def shutdown_and_wait(*args: Any, **kwargs: Any) -> Any:
            nonlocal waited
            done = shutdown(*args, **kwargs)
            if not waited:
                waited = True
                time.sleep(OUTLIVES_S)  # in a thread of its own: the server goes on
            return done

        client.shutdown = shutdown_and_wait


def _begins(descriptor: int, start: int) -> int:
    """Where a reader that has so much goes on."""
    if start <= 0 or start > os.fstat(descriptor).st_size or os.pread(descriptor, 1, start - 1) != b"\n":
        return 0
    return start


def aside_of(path: Path) -> list[Path]:
    """The files that were set aside of a record."""
    return [file for file in path.parent.glob(f"{path.name}.*") if _ASIDE.fullmatch(file.name.removeprefix(path.name))]


def aside_for(path: Path, stamp: int) -> Path:
    """The name under which to set a record aside: behind all that there are, whose order is that of their numbers, and none of theirs.

    Args:
        path: The record's.
        stamp: The number that it should have at least.
    """
    return Path(f"{path}.{max([stamp, *(int(file.suffix[1:]) + 1 for file in aside_of(path))])}")


def set_aside(path: Path) -> None:
    """Begin a new file with the next line; the oldest beyond `KEPT_ASIDE` go."""
    path.rename(aside_for(path, time.time_ns()))
    for old in sorted(aside_of(path), key=lambda file: int(file.suffix[1:]))[:-KEPT_ASIDE]:
        old.unlink(missing_ok=True)

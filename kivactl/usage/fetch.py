"""Fetches what engines on other machines have counted, so that the meter beside this gateway can read it.

Runs as `python -m kivactl.usage.fetch ORDERS`, on the meter's orders: every two seconds it asks the name service who the engines are
(`engines`), asks each of them for what is new, and appends that to files in the meter's folder. Events go to standard output, a JSON
object a line. SIGTERM ends it after a last round.

An engine that the name service knows no more is asked until it answers no more. When an engine dies with its machine, what it
counted since the last round is lost, two seconds of it; `kivactl.usage.serve` says the rest.
Several gateways each fetch everything; the ledger they share takes each request once.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from kivactl.errors import PreconditionError
from kivactl.stack.metering import read_orders
from kivactl.usage.copies import Copies
from kivactl.usage.serve import FILE, FROM, PATH, PIECE_BYTES, Answer

ROUND_S = 2.0
"""Seconds from one round to the next."""
ENGINE_PORT = 8000
MOST_ON_DISK_BYTES = 512 * 2**20
"""Size of all copies above which nothing is fetched, give or take a piece of each engine: the meter is behind, and they still have it."""

_AT_ONCE = 16
_PIECES_A_ROUND = 64
_CONNECT_S = 3.0
_ANSWER_S = 10.0
_GONE_AFTER_S = 60.0
_NO_SUCH_NAME = frozenset({socket.EAI_NONAME, socket.EAI_NODATA})


class _Unanswered(Exception):
    """An engine does not answer, or not as engines do."""


def _resolved(host: str) -> list[str] | None:
    """The addresses of a name, none when there is no such name now; None when the name service does not say."""
    try:
        return sorted({str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)})
    except socket.gaierror as error:
        return [] if error.errno in _NO_SUCH_NAME else None
    except (OSError, UnicodeError):
        return None


def ask(address: str, port: int, file: str, start: int) -> Answer:
    """Ask an engine what follows.

    Args:
        address: IP address.
        port: TCP port.
        file: Id of the file that is read; empty when none is.
        start: How much of it is here, bytes.

    Raises:
        OSError: It does not answer.
        ValueError: It answers as no engine does.
    """
    until_s = time.monotonic() + _ANSWER_S
    with closing(http.client.HTTPConnection(address, port, timeout=_CONNECT_S)) as connection:
        try:
            connection.request("GET", f"{PATH}?{urlencode({'file': file, 'from': start})}")
            response = connection.getresponse()
            length = int(response.headers.get("content-length", "-1"))
            if response.status != 200 or not 0 <= length <= PIECE_BYTES or FILE not in response.headers:
                msg = f"status {response.status} to a question for its use"
                raise ValueError(msg)
            lines = bytearray()
            while len(lines) < length:
                received = response.read1(length - len(lines))
                if not received or time.monotonic() > until_s:
                    msg = "its answer broke off"
                    raise ConnectionError(msg)
                lines += received
            return Answer(response.headers[FILE], int(response.headers.get(FROM, "")), bytes(lines))
        except http.client.HTTPException as error:
            msg = f"no HTTP: {type(error).__name__}"
            raise ValueError(msg) from error


def _print(line: str) -> None:
    with suppress(OSError):  # nobody may be there to read it
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


@dataclass(frozen=True, slots=True)
class World:
    """What fetching needs of the world, so that tests can have their own.

    Attributes:
        now_s: A clock that only goes forward, seconds.
        say: Takes an event, a JSON object in a line.
        resolved: The addresses of a host name; None when they are not known now.
        ask: Asks an engine at an address and a port for what follows a place in a file.
        most_bytes: Size of all copies above which nothing is fetched.
    """

    now_s: Callable[[], float] = time.monotonic
    say: Callable[[str], None] = _print
    resolved: Callable[[str], list[str] | None] = _resolved
    ask: Callable[[str, int, str, int], Answer] = ask
    most_bytes: int = MOST_ON_DISK_BYTES


class Fetcher:
    """Fetches for one platform.

    Args:
        path: The meter's orders; read again each round.
        world: Clock, output, name service, engines.

    Raises:
        PreconditionError: There are no orders, their folder cannot be used, or another works on it.
    """

    def __init__(self, path: Path, world: World | None = None) -> None:
        self._path = path
        self._world = world or World()
        try:
            self._orders = read_orders(path)
            folder = self._orders.usage_folder
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _alone(folder)
            self._copies = Copies(folder)
        except (OSError, ValueError) as error:
            raise PreconditionError(f"fetching by the orders {path} is not possible: {error}", "kivactl deploy") from None
        self._found: dict[str, list[str]] = {}
        now_s = self._world.now_s()
        self._seen_s = dict.fromkeys(self._copies.readers(), now_s)
        self._heard: set[str] = set()
        self._trouble: dict[str, str] = {}
        self._used_bytes = 0
        self._pool = ThreadPoolExecutor(_AT_ONCE)

    def run_round(self) -> None:
        """Ask everybody once."""
        self._read_orders()
        now_s = self._world.now_s()
        known = self._engines()
        self._seen_s |= dict.fromkeys(known, now_s)
        self._used_bytes = self._copies.size_bytes()
        if self._used_bytes > self._world.most_bytes:
            self._stumble("disk", f"{self._used_bytes} bytes wait for the meter; nothing is fetched until it has entered them")
            return
        self._recover("disk")
        for engine, trouble in list(zip(self._seen_s, self._pool.map(self._fetch, list(self._seen_s)), strict=True)):
            if trouble is None:
                self._heard.add(engine)
                self._seen_s[engine] = now_s
                self._recover(engine)
            elif engine in known:
                self._stumble(engine, trouble)
            elif now_s - self._seen_s[engine] >= _GONE_AFTER_S:
                self._let_go(engine)
        # Who was not heard yet may still read one of them.
        if all(engine in self._heard or self._copies.place(engine)[0] for engine in self._seen_s):
            try:
                self._copies.end_unread()
            except OSError as error:
                self._stumble("folder", str(error))

    def close(self) -> None:
        """Let go of everything."""
        self._pool.shutdown()
        os.close(self._lock)

    def _read_orders(self) -> None:
        try:
            self._orders = read_orders(self._path)
        except (OSError, ValueError) as error:
            self._stumble("orders", str(error))
        else:
            self._recover("orders")

    def _engines(self) -> set[str]:
        """Who the engines are: `ADDRESS:PORT`."""
        services = [_host_and_port(name) for name in self._orders.engines]
        for (host, _), addresses in zip(services, self._pool.map(self._world.resolved, [host for host, _ in services]), strict=True):
            if addresses is None:
                self._stumble(host, "the name service does not answer")
            else:
                self._recover(host)
                self._found[host] = addresses
        self._found = {host: self._found.get(host, []) for host, _ in services}
        return {f"{address}:{port}" for host, port in services for address in self._found[host]}

    def _fetch(self, engine: str) -> str | None:
        """Take over what is new of an engine; what is in the way of it."""
        address, _, port = engine.rpartition(":")
        try:
            for _ in range(_PIECES_A_ROUND):
                file, start = self._copies.place(engine)
                answer = self._asked(address, int(port), file, start)
                more = self._copies.take(engine, (file, start), answer)
                self._used_bytes += len(answer.lines)
                if not more or self._used_bytes > self._world.most_bytes:
                    break
        except (_Unanswered, ValueError) as error:
            return str(error)
        except OSError as error:
            return f"its copy cannot be written: {error.strerror}"
        return None

    def _asked(self, address: str, port: int, file: str, start: int) -> Answer:
        try:
            return self._world.ask(address, port, file, start)
        except OSError as error:
            raise _Unanswered(str(error)) from error

    def _let_go(self, engine: str) -> None:
        try:
            self._copies.forget(engine)
        except OSError as error:
            self._stumble("folder", str(error))
            return
        del self._seen_s[engine]
        self._heard.discard(engine)
        self._trouble.pop(engine, None)

    def _stumble(self, what: str, why: str) -> None:
        """Say what does not work, once as long as it does not."""
        if what not in self._trouble:
            self._say("trouble", what=what, why=why)
        self._trouble[what] = why

    def _recover(self, what: str) -> None:
        if self._trouble.pop(what, None) is not None:
            self._say("recovered", what=what)

    def _say(self, event: str, **facts: Any) -> None:
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._world.say(json.dumps({"at": at, "event": event, **facts}))


def main(argv: Sequence[str]) -> int:
    """Fetch until SIGTERM or SIGINT.

    Args:
        argv: Path of the meter's orders.

    Returns:
        Exit code.
    """
    if len(argv) != 1:
        sys.stderr.write("usage: python -m kivactl.usage.fetch ORDERS\n")
        return 2
    endings = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, endings)
    try:
        fetcher = Fetcher(Path(argv[0]))
    except PreconditionError as error:
        sys.stderr.write(f"{error.message}\n")
        return error.exit_code
    began_s = time.monotonic()
    fetcher.run_round()
    while signal.sigtimedwait(endings, max(0.0, ROUND_S - (time.monotonic() - began_s))) is None:
        began_s = time.monotonic()
        fetcher.run_round()
    fetcher.run_round()
    fetcher.close()
    return 0


def _host_and_port(name: str) -> tuple[str, int]:
    host, _, port = name.rpartition(":")
    return (host, int(port)) if host and port.isdigit() else (name, ENGINE_PORT)


def _alone(folder: Path) -> int:
    """Hold the lock that keeps a second one away."""
    descriptor = os.open(folder / "fetch.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise PreconditionError(f"another one fetches into {folder}", "kivactl status") from None
    return descriptor


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

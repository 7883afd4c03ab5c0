"""The meter: a small process that enters the logs of gateway and engines into the ledger and tells the gateway who is above a limit.

Runs as `python -m kivactl.usage.meter ORDERS`, writes events to standard output, a JSON object a line, and ends on SIGTERM with
everything entered. What cannot be done just now (a locked database, a full disk) is tried again; nothing is read twice or lost.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from kivactl.errors import KivaError, PreconditionError
from kivactl.stack.gateway.quota import quota_for
from kivactl.stack.metering import Orders, read_orders
from kivactl.usage.copies import ENDED
from kivactl.usage.follow import Follower, Piece, Source
from kivactl.usage.join import StreamAverages, day_of
from kivactl.usage.ledger import Ledger, Position, Warned, open_ledger
from kivactl.usage.limits import WINDOW_S, Window, exceeded_by, warnings_due
from kivactl.usage.posting import Batch, Change, batch_of, post
from kivactl.usage.pricing import price_list_of, spent_by_tenant

PASS_S = 0.5
"""Seconds from one look at the logs to the next."""

_ASIDE_KEPT = 4
_SHORTEST_KEEP_S = 3600.0
_FORGET_AT_ONCE = 5000
_LONGEST_PAUSE_S = 30.0
_FETCHED_LATE_S = 600.0
_LOOK_AROUND_S = 2.0
_READER_GONE_S = 7 * 86_400.0


def _print(line: str) -> None:
    # Nobody may be there to read it, or the disk below may be full: no reason to stop metering.
    with suppress(OSError):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def _reopen_logs(admin_socket: Path) -> bool:
    from kivactl.tools.envoy import Admin

    return Admin(admin_socket).reopen_logs()


@dataclass(frozen=True, slots=True)
class World:
    """What the meter needs of the world, so that tests can have their own.

    Attributes:
        now_s: Wall clock, seconds since 1970 UTC.
        say: Takes an event, a JSON object in a line.
        open_ledger: Opens a ledger by address and platform.
        reopen_logs: Tells the gateway behind an admin socket to open its logs anew; False when it does not answer.
        name: Of this meter, where several share a ledger; a pod's host name is its own.
    """

    now_s: Callable[[], float] = time.time
    say: Callable[[str], None] = _print
    open_ledger: Callable[[str, str], Ledger] = open_ledger
    reopen_logs: Callable[[Path], bool] = _reopen_logs
    name: str = field(default_factory=socket.gethostname)


@dataclass(slots=True)
class _Books:
    """An open ledger and what is remembered of it."""

    ledger: Ledger
    averages: StreamAverages
    window: Window
    month: str = ""
    orders: Orders | None = None
    spent: dict[str, Decimal] = field(default_factory=dict)
    look_at_s: float = 0.0


class Meter:
    """Meters one platform.

    Args:
        path: The orders file; read again when it changes.
        world: Clock, output, ledger, gateway.

    Raises:
        PreconditionError: There are no orders, or another meter works on them.
    """

    def __init__(self, path: Path, world: World | None = None) -> None:
        self._path = path
        self._world = world or World()
        self._signature = _signature(path)
        try:
            self._orders = read_orders(path)
        except (OSError, ValueError) as error:
            raise PreconditionError(f"the meter's orders {path} cannot be read: {error}", "kivactl deploy") from None
        self._lock = _alone(path, self._orders)
        self._follower = _follower(self._orders)
        self._books: _Books | None = None
        self._trouble: dict[str, str] = {}
        self._pause_s = 0.0
        self._try_again_s = 0.0
        self._forget_at_s = 0.0

    def run_pass(self, *, patient: bool = True) -> bool:
        """Look at everything once.

        Args:
            patient: Whether to wait a while before a ledger that could not be used is tried again.

        Returns:
            Whether there is more to read at once.
        """
        self._read_orders()
        if patient and self._world.now_s() < self._try_again_s:
            return False
        try:
            books = self._opened()
            pieces = self._follower.read()
            self._enter(books, pieces)
            self._look_around(books)
            self._forget(books)
        except KivaError as error:
            self._stumble("ledger", error.message)
            self._let_go()
            self._pause_s = min(_LONGEST_PAUSE_S, max(1.0, 2 * self._pause_s))
            self._try_again_s = self._world.now_s() + self._pause_s
            return False
        except OSError as error:
            self._stumble("logs", str(error))
            self._let_go()
            return False
        self._recover("ledger")
        self._recover("logs")
        self._pause_s = 0.0
        self._refuse(books)
        self._rotate()
        return any(piece.more for piece in pieces)

    def close(self) -> None:
        """Let go of everything."""
        self._let_go()
        self._follower.close()
        os.close(self._lock)

    def _read_orders(self) -> None:
        signature = _signature(self._path)
        if signature == self._signature:
            return
        try:
            orders = read_orders(self._path)
        except (OSError, ValueError) as error:
            self._stumble("orders", str(error))
            return
        self._recover("orders")
        self._signature = signature
        if (orders.ledger, orders.platform) != (self._orders.ledger, self._orders.platform):
            self._let_go()
        if (orders.access_log, orders.usage_folder) != (self._orders.access_log, self._orders.usage_folder):
            self._let_go()
            self._follower.close()
            self._follower = _follower(orders)
        self._orders = orders

    def _opened(self) -> _Books:
        if self._books is None:
            ledger = self._world.open_ledger(self._orders.ledger, self._orders.platform)
            try:
                recent = ledger.recent_tokens(round((self._world.now_s() - WINDOW_S) * 1000))
                self._follower.rewind(ledger.positions(self._reader))
                self._books = _Books(ledger, StreamAverages(ledger.averages()), Window(recent))
            except BaseException:
                ledger.close()
                raise
        return self._books

    @property
    def _reader(self) -> str:
        return self._world.name if self._orders.shared else ""

    def _let_go(self) -> None:
        if self._books is not None:
            self._books.ledger.close()
            self._books = None

    def _enter(self, books: _Books, pieces: list[Piece]) -> None:
        """Enter what was read, and what follows from it, in one transaction; only then it counts as read."""
        now_ms = round(self._world.now_s() * 1000)
        month = day_of(now_ms)[:7]
        gone = self._follower.gone()
        if not pieces and not gone and (books.month, books.orders) == (month, self._orders):
            return
        batch = batch_of(pieces, str(self._orders.access_log))
        with books.ledger.transaction():
            changes, spent, warnings = self._entered(books, batch, pieces, gone, month, now_ms)
        self._follower.accept(pieces)
        self._follower.forget(gone)
        for old, new in changes:
            books.window.replace(old, new)
        books.month, books.orders, books.spent = month, self._orders, spent
        for warned in warnings:
            self._say("budget", **_shown(warned))
        for log, lines in batch.unreadable.items():
            self._say("unreadable", log=log, lines=lines)

    def _entered(
        self, books: _Books, batch: Batch, pieces: list[Piece], gone: list[Position], month: str, now_ms: int
    ) -> tuple[list[Change], dict[str, Decimal], list[Warned]]:
        orders, ledger = self._orders, books.ledger
        if (books.month, books.orders) != (month, orders):
            ledger.keep_price_list(month, orders.currency, orders.tariffs)
        too_old_ms = now_ms - round((self._keep_s - _FETCHED_LATE_S) * 1000) if orders.engines else None
        changes = post(ledger, batch, orders.accounts, books.averages, too_old_ms)
        ledger.keep_positions([piece.position for piece in pieces], gone, self._reader)
        prices = price_list_of(month, ledger.price_lists())
        spent = spent_by_tenant(ledger.month(month), prices.tariffs if prices else {})
        given = {(warned.tenant, warned.level) for warned in ledger.warnings(month)}
        warnings = list(warnings_due(orders.accounts, spent, given, month=month, currency=orders.currency, now_ms=now_ms))
        ledger.warn(warnings)
        return changes, spent, warnings

    def _look_around(self, books: _Books) -> None:
        """Take what the others have entered into account; the rarer, the longer it takes."""
        now_s = self._world.now_s()
        if not self._orders.shared or now_s < books.look_at_s:
            return
        began_s = time.monotonic()
        prices = price_list_of(books.month, books.ledger.price_lists())
        books.spent = spent_by_tenant(books.ledger.month(books.month), prices.tariffs if prices else {})
        books.window = Window(books.ledger.recent_tokens(round((now_s - WINDOW_S) * 1000)))
        books.look_at_s = now_s + max(_LOOK_AROUND_S, 10 * (time.monotonic() - began_s))

    @property
    def _keep_s(self) -> float:
        return max(self._orders.keep_s, _SHORTEST_KEEP_S)

    def _forget(self, books: _Books) -> None:
        """Delete old entries, a few at a time, and the positions of meters that are no more."""
        now_s = self._world.now_s()
        if now_s < self._forget_at_s:
            return
        before_ms = round((now_s - self._keep_s) * 1000)
        with books.ledger.transaction():
            if self._reader:
                books.ledger.keep_reader(self._reader, round(now_s * 1000), round((now_s - _READER_GONE_S) * 1000))
            forgotten = books.ledger.forget_requests(before_ms, _FORGET_AT_ONCE)
        if forgotten < _FORGET_AT_ONCE:
            self._forget_at_s = now_s + 60

    def _refuse(self, books: _Books) -> None:
        """Tell the gateway who is above a limit; it takes the file when it is renamed into place."""
        window = books.window.tokens(round(self._world.now_s() * 1000))
        text = json.dumps(quota_for(exceeded_by(self._orders.accounts, window, books.spent)), indent=1) + "\n"
        path = self._orders.quota
        try:
            if not path.exists() or path.read_text() != text:
                beside = path.with_name(f".{path.name}.meter")
                beside.write_text(text)
                beside.replace(path)
        except OSError as error:
            self._stumble("quota", str(error))
        else:
            self._recover("quota")

    def _rotate(self) -> None:
        try:
            self._follower.drop_old(_ASIDE_KEPT)
            self._follower.drop_ended(ENDED)
            only = str(self._orders.access_log) if self._orders.engines else None  # a copy is as long as its engine makes it
            self._follower.set_aside(self._orders.rotate_bytes, round(self._world.now_s() * 1000), only)
            # A gateway that does not run begins a new log when it starts; until then nothing is written.
            lost = self._follower.missing(str(self._orders.access_log)) and not self._world.reopen_logs(self._orders.admin_socket)
        except (KivaError, OSError) as error:
            self._stumble("rotation", str(error))
        else:
            self._stumble("rotation", "the gateway does not answer, and keeps its old log") if lost else self._recover("rotation")

    def _say(self, event: str, **facts: Any) -> None:
        at = datetime.fromtimestamp(self._world.now_s(), UTC).isoformat(timespec="milliseconds")
        self._world.say(json.dumps({"at": at, "event": event, **facts}))

    def _stumble(self, what: str, why: str) -> None:
        """Say what does not work, once as long as it does not."""
        if self._trouble.get(what) != why:
            self._trouble[what] = why
            self._say("trouble", what=what, why=why)

    def _recover(self, what: str) -> None:
        if self._trouble.pop(what, None) is not None:
            self._say("recovered", what=what)


def main(argv: Sequence[str]) -> int:
    """Meter until SIGTERM or SIGINT.

    Args:
        argv: Path of the orders file.

    Returns:
        Exit code.
    """
    if len(argv) != 1:
        sys.stderr.write("usage: python -m kivactl.usage.meter ORDERS\n")
        return 2
    # Blocked and waited for: a signal ends a pause at once and a pass never in its middle.
    endings = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, endings)
    try:
        meter = Meter(Path(argv[0]))
    except KivaError as error:
        sys.stderr.write(f"{error.message}\n")
        return error.exit_code
    os.nice(10)  # what is behind by seconds is caught up with; requests must not wait for it
    more = False
    while True:
        began_s = time.monotonic()
        more = meter.run_pass()
        rest_s = 0.0 if more else max(0.0, PASS_S - (time.monotonic() - began_s))
        if signal.sigtimedwait(endings, rest_s) is not None:
            break
    while meter.run_pass(patient=False):
        pass
    meter.close()
    return 0


def _follower(orders: Orders) -> Follower:
    return Follower([Source(orders.access_log.parent, orders.access_log.name), Source(orders.usage_folder, "*.jsonl")])


def _signature(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _alone(path: Path, orders: Orders) -> int:
    """Hold the lock that keeps a second meter away; the system lets go of it when the process ends, however it does."""
    try:
        # Beside what it reads, for the orders may lie where nobody may write; the first meter of a new pod makes its folders.
        orders.usage_folder.mkdir(parents=True, exist_ok=True)
        orders.quota.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(orders.usage_folder / "meter.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise PreconditionError(f"the meter cannot write into {error.filename}: {error.strerror}", "kivactl status") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise PreconditionError(f"another meter works on {path}", "kivactl status") from None
    return descriptor


def _shown(warned: Warned) -> dict[str, Any]:
    return {
        "tenant": warned.tenant,
        "month": warned.month,
        "percent": warned.level,
        "spent": f"{warned.spent:f}",
        "budget": f"{warned.budget:f}",
        "currency": warned.currency,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

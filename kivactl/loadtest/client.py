"""Sends requests and times their answers: all of a process on one thread, no switch of context for a token.

Each socket is watched by one `epoll`; what is there is read, and looked at only then. Its stamp is the kernel's, of when it arrived; where
there is none, of when it was read. A descriptor of its own makes the client part of any other loop: watch it, and call `work` when it is
readable. Nothing here knows Locust.
"""

from __future__ import annotations

import _socket  # not `socket`: Locust replaces that by sockets which switch greenlets at each call
import errno
import os
import select
import ssl
import time
from collections.abc import Callable
from typing import Protocol

from kivactl.loadtest.answer import Answer, Order, Progress
from kivactl.loadtest.kernel_stamps import ANCILLARY_BYTES, KernelStamps, ask_for
from kivactl.loadtest.record import Record
from kivactl.loadtest.server import Server

_READ_BYTES = 1 << 16
_AFTER_DONE_NS = 1_000_000_000
"""Once `[DONE]` is there the answer is whole; only the connection's next use depends on the rest."""
_LONGEST_TURN_NS, _MOST_AT_A_TIME = 500_000, 32
"""What else runs in the process, such as a request that is due, has its turn after so long, however much there is to read: what waits has its stamp."""
_IN, _OUT = select.EPOLLIN, select.EPOLLOUT

OnEnd = Callable[[Answer, Record], None]


class Poller(Protocol):
    """The part of `select.epoll` that is used."""

    def register(self, fd: int, eventmask: int = ..., /) -> None: ...
    def modify(self, fd: int, eventmask: int, /) -> None: ...
    def unregister(self, fd: int, /) -> None: ...
    def poll(self, timeout: float | None = ..., maxevents: int = ...) -> list[tuple[int, int]]: ...
    def fileno(self) -> int: ...
    def close(self) -> None: ...


class _Connection:
    """A socket, with TLS where asked for, and the answer it brings at the moment."""

    __slots__ = ("address", "answer", "events", "fd", "incoming", "is_open", "on_end", "outgoing", "raw", "seen_ns", "tls", "unsent")

    def __init__(self, server: Server, address: int) -> None:
        family, where = server.addresses[address]
        self.address = address
        self.raw = _socket.socket(family, _socket.SOCK_STREAM)
        self.raw.setblocking(False)
        self.raw.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        ask_for(self.raw)
        self.seen_ns = 0  # the last moment at which something arrived or was sent
        self.fd = self.raw.fileno()
        self.is_open = False
        self.events = 0
        self.unsent: memoryview | bytes = b""
        self.answer: Answer | None = None
        self.on_end: OnEnd | None = None
        self.tls: ssl.SSLObject | None = None
        if server.context is not None:
            self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            self.tls = server.context.wrap_bio(self.incoming, self.outgoing, server_hostname=server.host)
        status = self.raw.connect_ex(where)
        if status not in (0, errno.EINPROGRESS):
            self.raw.close()
            raise OSError(status, os.strerror(status))


class Client:
    """Has any number of requests under way.

    Args:
        server: Where they go.
        poller: A fresh `epoll`; Locust's process has hidden it from `select`.
    """

    def __init__(self, server: Server, poller: Poller | None = None) -> None:
        self._server = server
        self._poller = poller or select.epoll()
        self._connections: dict[int, _Connection] = {}
        self._idle: list[_Connection] = []  # the last used comes first: the fewer are kept busy, the fewer grow stale
        self._stamps = KernelStamps()
        self.under_way = 0
        self.token_events = 0
        self.by_kernel = True  # whether all stamps so far are the kernel's

    def fileno(self) -> int:
        """Readable when there is work."""
        return self._poller.fileno()

    def send(self, order: Order, on_end: OnEnd) -> Answer:
        """Begin a request.

        Args:
            order: The request.
            on_end: Called once, with the answer and its record, when it is complete, failed or cut; maybe at once.
        """
        answer = Answer(order, time.perf_counter_ns())
        self.under_way += 1
        connection = self._take_idle()
        if connection is None:
            self._connect(answer, on_end, 0)
        else:
            connection.answer, connection.on_end = answer, on_end
            self._begin(connection)
        return answer

    def work(self) -> None:
        """Read what is there; returns when nothing is, or others must have their turn."""
        until_ns = time.perf_counter_ns() + _LONGEST_TURN_NS
        while ready := self._poller.poll(0, _MOST_AT_A_TIME):
            self._stamps.look()
            for fd, events in ready:
                connection = self._connections.get(fd)
                if connection is not None:
                    if events & ~_OUT:  # also when it is broken: reading says how
                        self._read(connection)
                    if events & _OUT and connection.fd in self._connections:
                        self._write(connection)
            if time.perf_counter_ns() > until_ns:
                break

    def expire(self) -> None:
        """Give up what is past its time; to be called some ten times a second."""
        now_ns = time.perf_counter_ns()
        for connection in list(self._connections.values()):
            answer = connection.answer
            if answer is None or answer.deadline_ns > now_ns:
                continue
            if answer.is_done:
                answer.connection_ended(now_ns)
            else:
                answer.timed_out()
            self._finish(connection, reusable=False)

    def run(self, until: Callable[[], bool]) -> None:
        """Work alone, without any other loop, until something is so."""
        while not until():
            if select.select([self.fileno()], [], [], 0.02)[0]:
                self.work()
            self.expire()

    def cut(self) -> None:
        """End at once; what is under way becomes neither success nor failure."""
        for connection in list(self._connections.values()):
            if connection.answer is not None:
                connection.answer.is_cut = True
                self._finish(connection, reusable=False)
            else:
                self._close(connection)

    def close(self) -> None:
        """End, and close the poller."""
        self.cut()
        self._poller.close()

    def _take_idle(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if self._connections.get(connection.fd) is not connection:
                continue
            try:
                connection.raw.recv(1, _socket.MSG_PEEK)
            except BlockingIOError:
                return connection
            except OSError:
                pass
            self._close(connection)  # ended by the other side, or it speaks unasked
        return None

    def _connect(self, answer: Answer, on_end: OnEnd, address: int) -> None:
        try:
            connection = _Connection(self._server, address)
        except OSError as error:
            self._end_without(answer, on_end, error)
            return
        connection.answer, connection.on_end = answer, on_end
        self._connections[connection.fd] = connection
        connection.events = _IN | _OUT
        self._poller.register(connection.fd, connection.events)

    def _end_without(self, answer: Answer, on_end: OnEnd, error: OSError) -> None:
        answer.connection_ended(time.perf_counter_ns(), _words(error))
        self.under_way -= 1
        on_end(answer, answer.record(time.perf_counter_ns()))

    def _begin(self, connection: _Connection) -> None:
        """Send the request on an open connection."""
        answer = connection.answer
        assert answer is not None
        answer.sent_ns = connection.seen_ns = time.perf_counter_ns()
        if connection.tls is None:
            connection.unsent = memoryview(answer.order.request)
        else:
            connection.tls.write(answer.order.request)
        self._flush(connection)

    def _flush(self, connection: _Connection) -> None:
        """Send what waits to be sent, as far as the kernel takes it."""
        try:
            while True:
                if connection.tls is not None and not connection.unsent:
                    connection.unsent = memoryview(connection.outgoing.read())
                if not connection.unsent:
                    break
                sent = connection.raw.send(connection.unsent)
                connection.unsent = connection.unsent[sent:]
        except BlockingIOError:
            self._await(connection, _IN | _OUT)
            return
        except OSError as error:
            self._broken(connection, error)
            return
        if connection.events != _IN and connection.is_open:
            self._await(connection, _IN)

    def _await(self, connection: _Connection, events: int) -> None:
        if connection.events != events:
            connection.events = events
            self._poller.modify(connection.fd, events)

    def _write(self, connection: _Connection) -> None:
        if connection.is_open:
            self._flush(connection)
            return
        status = connection.raw.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
        if status:
            self._broken(connection, OSError(status, os.strerror(status)))
        elif connection.tls is None:
            self._opened(connection)
        else:
            self._await(connection, _IN)
            self._shake_hands(connection)

    def _shake_hands(self, connection: _Connection) -> None:
        assert connection.tls is not None
        try:
            connection.tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush(connection)
            return
        except OSError as error:
            self._flush(connection)  # the alert that says why
            if connection.fd in self._connections:
                self._broken(connection, error)
            return
        self._opened(connection)

    def _opened(self, connection: _Connection) -> None:
        answer = connection.answer
        assert answer is not None
        connection.is_open = True
        answer.connect_ns = time.perf_counter_ns() - answer.start_ns
        self._begin(connection)

    def _read(self, connection: _Connection) -> None:
        try:
            received, ancillary, _, _ = connection.raw.recvmsg(_READ_BYTES, ANCILLARY_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._broken(connection, error)
            return
        read_ns = time.perf_counter_ns()
        arrival_ns = self._stamps.arrival_ns(ancillary, connection.seen_ns, read_ns)
        stamp_ns = connection.seen_ns = read_ns if arrival_ns is None else arrival_ns
        if connection.tls is not None:
            plain = self._decrypted(connection, received)
            if plain is None:
                return
            received, is_end = plain
        else:
            is_end = not received
        answer = connection.answer
        if answer is None:
            self._close(connection)
            return
        if received:
            if arrival_ns is None:
                self.by_kernel = answer.by_kernel = False
            before = len(answer.token_ns)
            progress = answer.feed(received, stamp_ns)
            self.token_events += len(answer.token_ns) - before
            if progress is Progress.ENDED:
                self._finish(connection, reusable=answer.can_keep_connection and not is_end)
                return
            if progress is Progress.DONE_SAID:
                answer.deadline_ns = min(answer.deadline_ns, stamp_ns + _AFTER_DONE_NS)
        if is_end:
            answer.connection_ended(stamp_ns)
            self._finish(connection, reusable=False)

    def _decrypted(self, connection: _Connection, received: bytes) -> tuple[bytes, bool] | None:
        """What was meant, and whether it was the last; None when there is nothing to look at."""
        assert connection.tls is not None
        if received:
            connection.incoming.write(received)
        else:
            connection.incoming.write_eof()
        if not connection.is_open:
            self._shake_hands(connection)
            if not (connection.is_open and connection.incoming.pending):
                return None
        pieces, is_end = [], False
        try:
            while piece := connection.tls.read(_READ_BYTES):
                pieces.append(piece)
            is_end = True
        except ssl.SSLWantReadError:
            is_end = not received
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            is_end = True
        except OSError as error:
            self._broken(connection, error)
            return None
        return (b"".join(pieces), is_end) if pieces or is_end else None

    def _broken(self, connection: _Connection, error: OSError) -> None:
        answer, on_end = connection.answer, connection.on_end
        if answer is None or on_end is None:
            self._close(connection)
            return
        is_refused = not connection.is_open and not isinstance(error, ssl.SSLError)
        if is_refused and connection.address + 1 < len(self._server.addresses):
            self._close(connection)
            self._connect(answer, on_end, connection.address + 1)
            return
        answer.connection_ended(time.perf_counter_ns(), _words(error))
        self._finish(connection, reusable=False)

    def _finish(self, connection: _Connection, *, reusable: bool) -> None:
        answer, on_end = connection.answer, connection.on_end
        assert answer is not None
        assert on_end is not None
        connection.answer = connection.on_end = None
        self.under_way -= 1
        if reusable and not connection.unsent:
            self._idle.append(connection)
        else:
            self._close(connection)
        on_end(answer, answer.record(time.perf_counter_ns()))

    def _close(self, connection: _Connection) -> None:
        if self._connections.pop(connection.fd, None) is not None:
            self._poller.unregister(connection.fd)
            connection.raw.close()


def _words(error: OSError) -> str:
    return f"[Errno {error.errno}] {error.strerror}" if error.errno and error.strerror and not isinstance(error, ssl.SSLError) else str(error)

"""One process of the load generator: sends what is due, keeps what comes of it. Belongs to Locust's processes (see `user`).

The phases are ours, for Locust's would cut off the requests under way at the end, the slow ones first: warm-up; measuring;
finishing, in which the load goes on, so that the last measured requests end under the same load.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import itertools
import math
import os
import resource
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

import gevent
from gevent import monkey
from gevent.event import AsyncResult, Event

from kivactl.loadtest.alarm import Alarm
from kivactl.loadtest.answer import Answer, Order
from kivactl.loadtest.arrivals import share_of
from kivactl.loadtest.assignment import Assignment, Folder
from kivactl.loadtest.client import Client
from kivactl.loadtest.conversation import Conversation, Conversations
from kivactl.loadtest.histogram import Histogram
from kivactl.loadtest.record import FailureKind, Record
from kivactl.loadtest.server import open_server

_PROBE_S = 0.01
_EXPIRE_S = 0.05
_TICK_S = 0.25
_COLLECT_EVERY = 1200
"""Once a minute: what refers to itself must not add up in a test of a day."""
_PAUSE_AFTER_FAILURE_S = 0.25
"""Failures come fast: without a pause a dead replica would draw nearly all requests of a closed loop, thousands a second."""
_MOST_CONNECTIONS = 1 << 16
_MOST_GAPS = 16
"""So many gaps of an answer are looked at for what is shown meanwhile; the figures are of all."""


class Generator:
    """One process's part of a load test.

    Args:
        folder: Of the run.
        assignment: What to do.
        tokens: Bearer token by tenant.
        post: Tells the conductor something: a kind of message and its facts.
        heed: Told of each record, for Locust's own page; None without.
    """

    def __init__(
        self,
        folder: Folder,
        assignment: Assignment,
        tokens: Mapping[str, str],
        post: Callable[[str, dict[str, Any]], None],
        heed: Callable[[Record], None] | None = None,
    ) -> None:
        self.work = assignment
        self._folder, self._tokens, self._post, self._heed = folder, tokens, post, heed
        self._worker, self._workers = 0, 1
        self._start_ns = 0
        self.window_start_ns: float = math.inf
        self.window_end_ns: float = math.inf
        self._has_begun = Event()
        self._is_finishing = False
        self._is_exhausted = False
        self._has_failed = False
        self._client: Client | None = None
        self._spool = -1
        self._indices = itertools.count()
        self._left = math.inf  # measured requests that may still be sent, in a closed loop with a number of them
        self._lag, self._ttft, self._itl = Histogram(), Histogram(), Histogram()
        self._requests = self._failures = self._warm_requests = self._sent = 0
        self._measured_under_way = 0

    def begin(self, start_ns: int, worker: int, workers: int) -> None:
        """Prepare everything, and begin at a moment of the monotonic clock."""
        self._worker, self._workers, self._start_ns = worker, workers, start_ns
        work = self.work
        self.window_start_ns = start_ns + round(work.warm_up_s * 1e9)
        if work.is_open or not work.requests:
            self.window_end_ns = self.window_start_ns + round(work.duration_s * 1e9)
        if work.requests and not work.is_open:
            self._left = work.requests // workers + (worker < work.requests % workers)
        self._indices = itertools.count(worker, workers)
        try:
            self._open()
        except OSError as error:
            self.fail(f"the load generator cannot begin: {error.strerror or error}")
            return
        gc.collect()
        gc.freeze()
        gc.disable()  # a collection would stop the clock; there is one now and then, where it does least harm
        for task in (self._watch_time, self._probe, self._tick, *((self._arrive,) if work.is_open else ())):
            gevent.spawn(task).link_exception(lambda greenlet: self.fail(repr(greenlet.exception)))
        self._has_begun.set()

    def converse(self) -> None:
        """One user's way through one conversation, in a closed loop."""
        self._has_begun.wait()
        index = next(self._indices)  # so the first ones number the users
        _sleep_until(self._start_ns + round(self.work.begins_s(index) * 1e9))
        conversation = self._conversations.begin(index)
        while self._may_ask():
            ended: AsyncResult[tuple[Answer, Record]] = AsyncResult()
            self._send(conversation, conversation.order(), lambda answer, record, ended=ended: ended.set((answer, record)))  # type: ignore[misc]
            answer, record = ended.get()
            if record.failure is not None:
                gevent.sleep(_PAUSE_AFTER_FAILURE_S)
                return
            if conversation.is_over:
                gevent.sleep(self.work.think_s)
                return
            conversation.answered(answer.text)
            gevent.sleep(conversation.kind.pause_s)
        gevent.sleep(3600)

    def end(self, end_ns: int) -> None:
        """Close the measured phase early; nothing new is asked."""
        self.window_end_ns = min(self.window_end_ns, end_ns)
        self._is_finishing = True

    def finish(self) -> None:
        """All measured requests of all processes have ended: ask nothing new, and leave the rest."""
        self._is_finishing = True
        self.cut()
        self._report(finished=True)

    def cut(self) -> None:
        """End at once: what is under way is neither success nor failure."""
        self._is_finishing = True
        if self._client is not None:
            client, self._client = self._client, None
            self._watcher.stop()
            client.close()

    def fail(self, reason: str) -> None:
        """Give up: what follows would not be a measurement."""
        if not self._has_failed:
            self._has_failed = self._is_finishing = True
            self._post("failed", {"reason": reason})

    def _open(self) -> None:
        work = self.work
        server = open_server(work.url, work.ca)
        self._conversations = Conversations(work, server, self._tokens)
        self._spool = os.open(self._folder.records_of(self._worker), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        _make_room_for_connections(self._spool)
        self._client = Client(server, monkey.get_original("select", "epoll")())
        self._watcher = gevent.get_hub().loop.io(self._client.fileno(), 1)
        self._watcher.start(self._work)

    def _work(self) -> None:
        if self._client is not None:
            try:
                self._client.work()
            except Exception as error:  # noqa: BLE001  # the loop would only print it, and go on with a request less
                self.fail(repr(error))

    def _arrive(self) -> None:
        """The open loop: each request at its moment; what is late is sent at once, and nothing is left out."""
        with closing(Alarm()) as alarm:
            for index, at_s in share_of(self.work.schedule(), self._worker, self._workers):
                due_ns = self._start_ns + round(at_s * 1e9)
                conversation = self._conversations.begin(index)
                order = conversation.order(due_ns)
                alarm.sleep_until(due_ns)
                if self._is_finishing:
                    return
                self._send(conversation, order)
        self._is_exhausted = True

    def _go_on(self, conversation: Conversation, due_ns: int) -> None:
        """The next turn of a conversation in an open loop, when it is due."""
        self._send(conversation, conversation.order(due_ns))

    def _send(self, conversation: Conversation, order: Order, ended: Callable[[Answer, Record], None] | None = None) -> None:
        """Send a request; what becomes of it is kept, and told."""
        if self._client is None:
            return
        moment_ns = time.perf_counter_ns() if order.scheduled_ns is None else order.scheduled_ns
        is_measured = self.window_start_ns <= moment_ns < self.window_end_ns
        self._measured_under_way += is_measured
        self._sent += 1
        if is_measured:
            self._left -= 1

        def on_end(answer: Answer, record: Record) -> None:
            self._measured_under_way -= is_measured
            self._keep(record)
            if ended is not None:
                ended(answer, record)
            elif record.succeeded and not conversation.is_over:
                conversation.answered(answer.text)
                pause_s = conversation.kind.pause_s
                gevent.spawn_later(pause_s, self._go_on, conversation, record.end_ns + round(pause_s * 1e9))

        self._client.send(order, on_end)

    def _may_ask(self) -> bool:
        if self._left <= 0 and time.perf_counter_ns() >= self.window_start_ns:
            self._is_exhausted = True
        return not self._is_finishing and not self._is_exhausted

    def _keep(self, record: Record) -> None:
        line = (record.to_json() + "\n").encode()
        try:
            written = os.write(self._spool, line)
        except OSError as error:
            self.fail(f"the records could not be written: {error.strerror}")
            return
        if written < len(line):
            self.fail("the records could not be written: no space left on the disk")
        if record.failure is FailureKind.CONNECTION and f"[Errno {errno.EMFILE}]" in record.reason:
            self.fail("this machine allows the load generator too few open connections: raise its limit of open files (ulimit -n)")
        if record.is_cut:
            return
        # What begins in the warm-up and ends in the measured phase belongs to neither count.
        if self.window_start_ns <= record.moment_ns < self.window_end_ns:
            self._requests += 1
            self._failures += record.failure is not None
        elif record.end_ns < self.window_start_ns:
            self._warm_requests += 1
        self._show(record)

    def _show(self, record: Record) -> None:
        stamps = record.token_ns
        if stamps and record.is_streamed:
            self._ttft.add(stamps[0] - record.moment_ns if record.scheduled_ns is not None else stamps[0] - (record.sent_ns or stamps[0]))
            step = 1 + len(stamps) // _MOST_GAPS
            for number in range(1, len(stamps), step):
                self._itl.add(stamps[number] - stamps[number - 1])
        if self._heed is not None:
            self._heed(record)

    def _watch_time(self) -> None:
        for number in itertools.count(1):
            if self._client is None:
                return
            self._client.expire()
            if number % _COLLECT_EVERY == 0:
                gc.collect(1)
            gevent.sleep(_EXPIRE_S)

    def _tick(self) -> None:
        while True:
            self._report()
            gevent.sleep(_TICK_S)

    def _report(self, *, finished: bool = False) -> None:
        told = {
            "worker": self._worker,
            "at_ns": time.perf_counter_ns(),
            "requests": self._requests,
            "failures": self._failures,
            "warm_requests": self._warm_requests,
            "sent": self._sent,
            "under_way": self._client.under_way if self._client else 0,
            "measured_under_way": self._measured_under_way,
            "token_events": self._client.token_events if self._client else 0,
            "exhausted": self._is_exhausted,
            "finished": finished,
            "by_kernel": self._client.by_kernel if self._client else True,
            "lag": self._lag.as_dict(),
            "ttft": self._ttft.as_dict(),
            "itl": self._itl.as_dict(),
        }
        self._ttft, self._itl = Histogram(), Histogram()
        self._post("tick", told)

    def _probe(self) -> None:
        while True:
            before_ns = time.perf_counter_ns()
            gevent.sleep(_PROBE_S)
            now_ns = time.perf_counter_ns()
            if self.window_start_ns <= before_ns and now_ns < self.window_end_ns:
                self._lag.add(now_ns - before_ns - round(_PROBE_S * 1e9))


def _make_room_for_connections(opened: int) -> None:
    """Allow as many open files as this user may have, and let the kernel have its table of them ready.

    It doubles the table when it is full, and waits for all processors meanwhile: up to 15 ms, in which nothing would be sent or read.

    Args:
        opened: Any open file's descriptor, which is copied to the end of the table for a moment.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    most = _MOST_CONNECTIONS if hard == resource.RLIM_INFINITY else min(hard, _MOST_CONNECTIONS)
    os.close(fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, most - 1))  # the table stays as large


def _sleep_until(moment_ns: float) -> None:
    remaining_s = (moment_ns - time.perf_counter_ns()) / 1e9
    if remaining_s > 0:
        gevent.sleep(remaining_s)

"""The Locust file: users in a closed loop. Runs in Locust's process only; importing it here would patch this process.

The phases are ours, for Locust's would cut off the requests under way at the end, the slow ones first: warm-up; measuring;
finishing, in which the users go on, so that the last measured requests end under the same load. The last then quits.
A file `end` in the run's folder ends the measuring early; then the users ask nothing new.

It speaks to kivactl by lines on standard output, each a marker and a JSON object with its `event`:
`spawned`, `measuring`, `progress` (every second), `failed` (the measurement is lost), `ended`.
"""

from __future__ import annotations

import gc
import itertools
import json
import math
import os
import ssl
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import gevent
from locust import User, constant, events
from locust.runners import LocalRunner

from kivactl.loadtest.assignment import FOLDER_VARIABLE, TOKEN_VARIABLE, Assignment, Folder, parse_assignment
from kivactl.loadtest.client import Client
from kivactl.loadtest.lag import LagHistogram
from kivactl.loadtest.record import Record
from kivactl.tools.locust import MARKER

_PROBE_S = 0.01
_LOOK_FOR_END_S = 0.1
_PRECEDENCE = Path("/proc/self/autogroup"), "-10"
"""Linux shares processors out between sessions first, whatever the niceness within; this is the session's own niceness."""
_PAUSE_AFTER_FAILURE_S = 0.25
"""Failures come fast: without a pause a dead replica would draw nearly all requests of a closed loop, thousands a second."""

# Locust reads its options from LOCUST_* too, after it has loaded this file; an operator's master or processes would
# change what is measured.
for _name in [name for name in os.environ if name.startswith("LOCUST_")]:
    del os.environ[_name]


class _Run:
    """One load test: its phases, counters and spool, shared by all users of this process."""

    def __init__(self, folder: Folder, token: str) -> None:
        self.assignment: Assignment = parse_assignment(folder.scenario.read_text())
        self.token = token
        self.context = ssl.create_default_context(cafile=self.assignment.ca) if self.assignment.url.startswith("https:") else None
        self.indices = itertools.count()
        self.window_start_ns: float = math.inf
        self.window_end_ns: float = math.inf
        self.measured_under_way = 0
        self.requests = 0
        self.failures = 0
        self.token_events = 0
        self.lag = LagHistogram()
        self.phase = "starting"
        self.has_failed = False
        self.is_ending = False
        self._end = folder.end
        self._began_ns = time.perf_counter_ns()
        self._spool = os.open(folder.records, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._runner: Any = None

    def client(self) -> Client:
        work = self.assignment
        return Client(work.url, self.token, work.ca, work.timeout_s, self.context)

    def ask(self, client: Client) -> Record:
        """Send the next request and keep its record, whatever becomes of it."""
        index = next(self.indices)
        body = self.assignment.request_body(index)
        is_measured = self.window_start_ns <= time.perf_counter_ns() < self.window_end_ns
        self.measured_under_way += is_measured
        try:
            return client.ask(index, body, on_token=self._count_token, on_end=self._keep)
        finally:
            self.measured_under_way -= is_measured

    def begin(self, runner: Any) -> None:
        self._runner = runner
        self.phase = "warm-up"
        # Engines that compute on all processors would keep the clock from being looked at. Only root may; others measure as they are.
        with suppress(OSError):
            _PRECEDENCE[0].write_text(_PRECEDENCE[1])
        gc.collect()
        gc.freeze()
        for work in (self._report, self._probe):
            gevent.spawn(work).link_exception(lambda greenlet: self.fail(repr(greenlet.exception)))

    def measure(self) -> None:
        """Called once all users are there."""
        self.say("spawned", users=self.assignment.concurrency)
        self.window_start_ns = time.perf_counter_ns() + round(self.assignment.warm_up_s * 1e9)
        self.window_end_ns = self.window_start_ns + round(self.assignment.duration_s * 1e9)
        gevent.spawn(self._conduct).link_exception(lambda greenlet: self.fail(repr(greenlet.exception)))

    def fail(self, reason: str) -> None:
        """Give up: what follows would not be a measurement."""
        if not self.has_failed:
            self.has_failed = True
            self.say("failed", reason=reason)
            self._quit()

    def say(self, event: str, **facts: Any) -> None:
        try:
            sys.stdout.write(f"{MARKER}{json.dumps({'event': event, **facts})}\n")
            sys.stdout.flush()
        except OSError:
            # Nobody listens: kivactl is gone, and so is the reason to load the platform.
            os._exit(1)

    def _quit(self) -> None:
        # Not at once: quitting ends the greenlet that asks for it.
        if self._runner is not None:
            gevent.spawn(self._runner.quit)

    def _conduct(self) -> None:
        _sleep_until(self.window_start_ns)
        self.phase, self.requests, self.failures = "measuring", 0, 0
        self.say("measuring", start_ns=self.window_start_ns, end_ns=self.window_end_ns)
        while (remaining_s := (self.window_end_ns - time.perf_counter_ns()) / 1e9) > 0:
            if self._end.exists():
                self.window_end_ns, self.is_ending = time.perf_counter_ns(), True
            else:
                gevent.sleep(min(remaining_s, _LOOK_FOR_END_S))
        self.phase = "finishing"
        while self.measured_under_way:
            gevent.sleep(0.02)
        self.phase = "finished"
        self._quit()

    def _report(self) -> None:
        token_events, then_ns = 0, time.perf_counter_ns()
        while True:
            gevent.sleep(1.0)
            now_ns = time.perf_counter_ns()
            self.say(
                "progress",
                phase=self.phase,
                elapsed_s=round((now_ns - self._began_ns) / 1e9, 3),
                requests=self.requests,
                failures=self.failures,
                tokens_per_s=round((self.token_events - token_events) / ((now_ns - then_ns) / 1e9), 1),
                generator_lag_p99_ms=self.lag.percentile_ms(99),
                generator_lag_worst_ms=self.lag.percentile_ms(100),
            )
            token_events, then_ns = self.token_events, now_ns

    def _probe(self) -> None:
        while True:
            before_ns = time.perf_counter_ns()
            gevent.sleep(_PROBE_S)
            if self.phase == "measuring":
                self.lag.add(time.perf_counter_ns() - before_ns - round(_PROBE_S * 1e9))

    def _count_token(self) -> None:
        self.token_events += 1

    def _keep(self, record: Record) -> None:
        line = (record.to_json() + "\n").encode()
        try:
            written = os.write(self._spool, line)
        except OSError as error:
            self.fail(f"the records could not be written: {error.strerror}")
            return
        if written < len(line):
            self.fail("the records could not be written: no space left on the disk")
        # What began in the warm-up and ends in the measured phase belongs to neither count.
        if not record.is_cut and (self.phase == "warm-up" or self.window_start_ns <= record.start_ns < self.window_end_ns):
            self.requests += 1
            self.failures += record.failure is not None


def _sleep_until(moment_ns: float) -> None:
    gevent.sleep(max(0.0, (moment_ns - time.perf_counter_ns()) / 1e9))


_RUN = _Run(Folder(Path(os.environ[FOLDER_VARIABLE])), os.environ.pop(TOKEN_VARIABLE))


def _ask(user: ChatUser) -> None:
    if _RUN.is_ending:
        gevent.sleep(3600)
        return
    try:
        record = _RUN.ask(user.chat)
    except Exception as error:  # noqa: BLE001  # Locust would log it and go on with a request less
        _RUN.fail(repr(error))
        gevent.sleep(3600)
        return
    if record.failure is not None:
        gevent.sleep(_PAUSE_AFTER_FAILURE_S)


class ChatUser(User):  # type: ignore[misc]  # Locust is not followed by mypy
    """Asks, reads the answer to its end, asks again."""

    wait_time = constant(0)
    tasks = [_ask]

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.chat = _RUN.client()


def _on_init(environment: Any, **_: Any) -> None:
    if not isinstance(environment.runner, LocalRunner):
        _RUN.fail("a Locust configuration file (~/.locust.conf) makes this process a master or a worker")
        sys.exit(1)


def _on_test_start(environment: Any, **_: Any) -> None:
    _RUN.begin(environment.runner)


def _on_spawning_complete(**_: Any) -> None:
    _RUN.measure()


def _on_quitting(**_: Any) -> None:
    lag = _RUN.lag
    _RUN.say("ended", is_complete=_RUN.phase == "finished", generator_lag_p99_ms=lag.percentile_ms(99), generator_lag_worst_ms=lag.percentile_ms(100))


events.init.add_listener(_on_init)
events.test_start.add_listener(_on_test_start)
events.spawning_complete.add_listener(_on_spawning_complete)
events.quitting.add_listener(_on_quitting)

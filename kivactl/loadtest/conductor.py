"""Conducts the load generator's processes: begins, watches and ends them, and says how it goes. Belongs to Locust's master (see `user`).

It speaks to kivactl by lines on standard output, each a marker and a JSON object with its `event`:
`spawned`, `measuring`, `progress` (every second), `failed` (the measurement is lost), `ended`.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import gevent

from kivactl.loadtest.assignment import Assignment, Folder
from kivactl.loadtest.histogram import Histogram
from kivactl.tools.locust import MARKER

_LOOK_S = 0.05
_SAY_S = 1.0
_SHOWN_S = 10.0
"""Percentiles that are shown are of so many last seconds."""
_SILENT_S = 10.0
"""A process that says nothing for so long has ended or hangs; a busy one is late by less."""
_BEGIN_AFTER_NS = 300_000_000
"""Time for all processes to hear of the beginning."""


class Conductor:
    """The one that all processes of the generator listen to.

    Args:
        folder: Of the run.
        assignment: What is done.
        tell: Tells all processes something: a kind of message and its facts.
        leave: Ends Locust.
    """

    def __init__(self, folder: Folder, assignment: Assignment, tell: Callable[[str, dict[str, Any]], None], leave: Callable[[], None]) -> None:
        self._work, self._folder = assignment, folder
        self._tell, self._leave = tell, leave
        self._ticks: dict[int, dict[str, Any]] = {}
        self._heard_at_s: dict[int, float] = {}
        self._recent: deque[tuple[float, Histogram, Histogram]] = deque()
        self._workers = 1
        self._began_ns = 0
        self._window_start_ns: float = math.inf
        self._window_end_ns: float = math.inf
        self._is_complete = False
        self._has_failed = False

    def begin(self, workers: int) -> None:
        """All processes are there."""
        work, self._workers = self._work, workers
        self._began_ns = time.perf_counter_ns() + (_BEGIN_AFTER_NS if workers > 1 else 0)
        self._window_start_ns = self._began_ns + round(work.warm_up_s * 1e9)
        if work.is_open or not work.requests:
            self._window_end_ns = self._window_start_ns + round(work.duration_s * 1e9)
        self._heard_at_s = dict.fromkeys(range(workers), time.monotonic() + _BEGIN_AFTER_NS / 1e9)
        self._tell("begin", {"start_ns": self._began_ns, "workers": workers})
        if self._has_failed:
            return
        self.say("spawned", users=work.users, processes=workers)
        for task in (self._conduct, self._speak):
            gevent.spawn(task).link_exception(lambda greenlet: self.fail(repr(greenlet.exception)))

    def take(self, kind: str, facts: dict[str, Any]) -> None:
        """Hear what a process says."""
        if kind == "failed":
            self.fail(str(facts["reason"]))
            return
        worker = facts["worker"]
        if facts["finished"]:
            before = self._ticks.get(worker, facts)
            facts = {**facts, "token_events": before["token_events"]}
        self._ticks[worker], self._heard_at_s[worker] = facts, time.monotonic()
        self._recent.append((time.monotonic(), Histogram.from_dict(facts["ttft"]), Histogram.from_dict(facts["itl"])))

    def fail(self, reason: str) -> None:
        """Give up: what follows would not be a measurement."""
        if not self._has_failed:
            self._has_failed = True
            self.say("failed", reason=reason)
            gevent.spawn(self._leave)  # not at once: leaving ends the greenlet that asks for it

    def ended(self) -> None:
        """Say how it ended."""
        self.say("ended", is_complete=self._is_complete and not self._has_failed, **self._lags())

    def say(self, event: str, **facts: Any) -> None:
        """Tell kivactl."""
        try:
            sys.stdout.write(f"{MARKER}{json.dumps({'event': event, **facts})}\n")
            sys.stdout.flush()
        except OSError:
            # Nobody listens: kivactl is gone, and so is the reason to load the platform.
            os._exit(1)

    @property
    def _phase(self) -> str:
        now_ns = time.perf_counter_ns()
        if self._is_complete:
            return "finished"
        return "warm-up" if now_ns < self._window_start_ns else "measuring" if now_ns < self._window_end_ns else "finishing"

    def _conduct(self) -> None:
        while time.perf_counter_ns() < self._window_start_ns:
            self._look()
        self.say("measuring", start_ns=self._window_start_ns, end_ns=None if math.isinf(self._window_end_ns) else self._window_end_ns)
        while time.perf_counter_ns() < self._window_end_ns and not self._is_exhausted:
            self._look()
        if time.perf_counter_ns() < self._window_end_ns:
            self._window_end_ns = time.perf_counter_ns()
            self._tell("end", {"end_ns": self._window_end_ns})
            self.say("measuring", start_ns=self._window_start_ns, end_ns=self._window_end_ns)
        end_ns = self._window_end_ns
        while not all(tick["at_ns"] >= end_ns and not tick["measured_under_way"] for tick in self._all_ticks()):
            self._look()
        self._tell("finish", {})
        while not all(tick["finished"] for tick in self._all_ticks()):
            self._look()
        self._is_complete = True
        gevent.spawn(self._leave)

    @property
    def _is_exhausted(self) -> bool:
        """Whether as many requests as were asked for are done, in a closed loop; or whether somebody wants the end."""
        if self._folder.end.exists():
            return True
        counted = bool(self._work.requests) or bool(self._work.trace)
        ticks = self._all_ticks()
        return counted and all(tick["exhausted"] and not tick["measured_under_way"] for tick in ticks)

    def _all_ticks(self) -> list[dict[str, Any]]:
        missing = {"at_ns": 0, "measured_under_way": 1, "exhausted": False, "finished": False}
        return [self._ticks.get(worker, missing) for worker in range(self._workers)]

    def _look(self) -> None:
        silent = [worker for worker, at_s in self._heard_at_s.items() if time.monotonic() - at_s > _SILENT_S]
        if silent:
            self.fail(f"{len(silent)} of {self._workers} processes of the load generator stopped answering")
            gevent.sleep(3600)
        gevent.sleep(_LOOK_S)

    def _speak(self) -> None:
        tokens, sent, then_ns = 0, 0, time.perf_counter_ns()
        while True:
            gevent.sleep(_SAY_S)
            now_ns = time.perf_counter_ns()
            ticks = [self._ticks[worker] for worker in sorted(self._ticks)]
            total = {key: sum(tick[key] for tick in ticks) for key in ("requests", "failures", "warm_requests", "under_way", "token_events", "sent")}
            phase, seconds = self._phase, (now_ns - then_ns) / 1e9
            ttft, itl = self._shown()
            self.say(
                "progress",
                phase=phase,
                elapsed_s=round((now_ns - self._began_ns) / 1e9, 3),
                requests=total["warm_requests"] if phase == "warm-up" else total["requests"],
                failures=total["failures"],
                under_way=total["under_way"],
                requests_per_s=round((total["sent"] - sent) / seconds, 1),
                tokens_per_s=round((total["token_events"] - tokens) / seconds, 1),
                ttft_p50_ms=ttft.percentile_ms(50),
                ttft_p95_ms=ttft.percentile_ms(95),
                itl_p50_ms=itl.percentile_ms(50),
                itl_p95_ms=itl.percentile_ms(95),
                **self._lags(),
            )
            tokens, sent, then_ns = total["token_events"], total["sent"], now_ns

    def _shown(self) -> tuple[Histogram, Histogram]:
        while self._recent and self._recent[0][0] < time.monotonic() - _SHOWN_S:
            self._recent.popleft()
        ttft, itl = Histogram(), Histogram()
        for _, of_ttft, of_itl in self._recent:
            ttft.join(of_ttft)
            itl.join(of_itl)
        return ttft, itl

    def _lags(self) -> dict[str, float | None]:
        lag = Histogram()
        for tick in self._ticks.values():
            lag.join(Histogram.from_dict(tick["lag"]))
        return {"generator_lag_p99_ms": lag.percentile_ms(99), "generator_lag_worst_ms": lag.percentile_ms(100)}

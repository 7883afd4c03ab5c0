"""Conducts the load generator's processes: begins, watches and ends them, and says how it goes. Belongs to Locust's master (see `user`).

It speaks to kivactl by lines on standard output, each a marker and a JSON object with its `event`:
`clocks` (of processes on other machines), `spawned`, `measuring`, `progress` (every second), `failed` (the measurement is lost), `ended`.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

import gevent

from kivactl.loadtest.assignment import Assignment, Folder
from kivactl.loadtest.clocks import Exchange, Offset, error_after, offset_from
from kivactl.loadtest.histogram import Histogram
from kivactl.tools.locust import MARKER

_LOOK_S = 0.05
_SAY_S = 1.0
_SHOWN_S = 10.0
"""Percentiles that are shown are of so many last seconds."""
_SILENT_S = 10.0
"""A process that says nothing for so long has ended or hangs; a busy one is late by less."""
_BEGIN_AFTER_NS = 300_000_000
"""Time for all processes to hear of the beginning and to get ready: without a warm-up the first request may be due at once."""
_PINGS = 25
_PING_EVERY_S = 0.02
_PONGS_WITHIN_S = 5.0
_FEWEST_LATER = 10
"""In fewer seconds than that clocks do not drift, and a quick exchange need not have been among them."""


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
        self._exchanges: defaultdict[int, deque[Exchange]] = defaultdict(lambda: deque(maxlen=60))
        self._offsets: list[Offset] = [Offset()] * assignment.processes
        self._machine_of: dict[int, str] = {}
        self._heard_at_s: dict[int, float] = {}
        self._recent: deque[tuple[float, Histogram, Histogram]] = deque()
        self._workers = 1
        self._began_ns = 0
        self._window_start_ns: float = math.inf
        self._window_end_ns: float = math.inf
        self._is_begun = False
        self._is_complete = False
        self._has_failed = False
        if assignment.machines:
            gevent.spawn(self._heed_losses)

    def begin(self, workers: int) -> None:
        """All processes are there. Where Locust says so again, having lost one, the measurement has begun already."""
        if self._is_begun:
            return
        self._is_begun = True
        if self._work.machines:
            gevent.spawn(self._begin_apart, workers).link_exception(lambda greenlet: self.fail(repr(greenlet.exception)))
        else:
            self._begin(workers, _BEGIN_AFTER_NS)

    def _begin_apart(self, workers: int) -> None:
        """Compare the clocks of other machines with this one, then begin."""
        for _ in range(_PINGS):
            self._tell("ping", {"sent_ns": time.perf_counter_ns()})
            gevent.sleep(_PING_EVERY_S)
        until_s = time.monotonic() + _PONGS_WITHIN_S
        while time.monotonic() < until_s and not all(len(self._exchanges[worker]) == _PINGS for worker in range(workers)):
            gevent.sleep(_LOOK_S)
        silent = sum(not self._exchanges[worker] for worker in range(workers))
        if silent:
            self.fail(f"{silent} of {workers} processes of the load generator did not tell their clock")
            return
        self._offsets = [offset_from(self._exchanges[worker]) for worker in range(workers)]
        self._exchanges.clear()
        self._say_clocks()
        # The furthest has to hear of it in time, however the way there and back divide its round trip.
        self._begin(workers, _BEGIN_AFTER_NS + 4 * max(offset.error_ns for offset in self._offsets))

    def _say_clocks(self) -> None:
        told = []
        for worker, offset in enumerate(self._offsets):
            later = self._exchanges[worker]
            error_ns = error_after(offset, later if len(later) >= _FEWEST_LATER else ())
            told.append({"worker": worker, "machine": self._machine_of[worker], "offset_ns": offset.offset_ns, "error_ns": error_ns})
        self.say("clocks", workers=told)

    def _begin(self, workers: int, after_ns: int) -> None:
        work, self._workers = self._work, workers
        self._began_ns = time.perf_counter_ns() + after_ns
        self._window_start_ns = self._began_ns + round(work.warm_up_s * 1e9)
        if work.is_open or not work.requests:
            self._window_end_ns = self._window_start_ns + round(work.duration_s * 1e9)
        self._heard_at_s = dict.fromkeys(range(workers), time.monotonic() + after_ns / 1e9)
        self._tell("begin", {"start_ns": self._began_ns, "workers": workers, "offsets_ns": self._offsets_ns})
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
        if worker >= len(self._offsets):  # none of ours
            return
        if kind == "pong":
            self._exchanges[worker].append(Exchange(facts["sent_ns"], facts["there_ns"], time.perf_counter_ns()))
            self._machine_of[worker] = facts["machine"]
            return
        facts = {**facts, "at_ns": facts["at_ns"] - self._offsets[worker].offset_ns}
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
    def _offsets_ns(self) -> list[int]:
        return [offset.offset_ns for offset in self._offsets]

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
            self._tell("end", {"end_ns": self._window_end_ns, "offsets_ns": self._offsets_ns})
            self.say("measuring", start_ns=self._window_start_ns, end_ns=self._window_end_ns)
        end_ns = self._window_end_ns
        while not all(tick["at_ns"] >= end_ns and not tick["measured_under_way"] for tick in self._all_ticks()):
            self._look()
        self._tell("finish", {})
        while not all(tick["finished"] for tick in self._all_ticks()):
            self._look()
        if self._work.machines:
            self._say_clocks()
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
            where = sorted({machine for worker in silent if (machine := self._machine_of.get(worker))})
            of_machines = f" on {', '.join(where)}" if where else ""
            self.fail(f"{len(silent)} of {self._workers} processes of the load generator stopped answering{of_machines}")
            gevent.sleep(3600)
        gevent.sleep(_LOOK_S)

    def _heed_losses(self) -> None:
        """kivactl sees first when a machine is gone, and says so in a file."""
        while not self._folder.broken.exists():
            gevent.sleep(_LOOK_S)
        self.fail(self._folder.broken.read_text())

    def _speak(self) -> None:
        tokens, sent, then_ns = 0, 0, time.perf_counter_ns()
        while True:
            gevent.sleep(_SAY_S)
            if self._work.machines:
                self._tell("ping", {"sent_ns": time.perf_counter_ns()})
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
                stamps_by_kernel=all(tick["by_kernel"] for tick in ticks),
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

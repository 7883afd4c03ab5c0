"""The load test's load while something else happens: begun and ended from outside, its records on disk as they come.

A thread listens to the load generator; nothing is judged here. Ending lets the requests under way be answered. When
kivactl dies, however it dies, the generator notices within a second that nobody listens, and ends as well.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kivactl.errors import KivaError, NotReadyError, ToolError
from kivactl.flows.load_worker import USER_FILE
from kivactl.loadtest.assignment import FOLDER_VARIABLE, TOKENS_VARIABLE, Assignment, Folder
from kivactl.loadtest.record import Record, read_records
from kivactl.stack.endpoint import Endpoint
from kivactl.tools import locust
from kivactl.tools.clock import Clock

LONGEST_S = 86400.0
"""A load that nobody ends, ends by itself after so many seconds."""

_BEGINS_WITHIN_S = 60.0
_GRACE_S = 15.0
"""Time for the generator to end, beside the requests under way."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What the generator has said so far.

    Attributes:
        started_s: When the load began, in seconds of the monotonic clock; None before.
        answered: Requests that succeeded.
        failed: Requests that failed.
        lag_p99_ms: How late its event loop was, all but the latest hundredth.
        lag_worst_ms: How late it was at worst.
        complete: Whether it ended by itself, with every request answered.
        broken: Why its records are no measurement; empty while they are.
    """

    started_s: float | None = None
    answered: int = 0
    failed: int = 0
    lag_p99_ms: float | None = None
    lag_worst_ms: float | None = None
    complete: bool = False
    broken: str = ""


class BackgroundLoad:
    """Load on a platform from `begin` to `end`.

    Args:
        assignment: How; its warm-up and duration are left out of account.
        endpoint: Whom to load.
        folder: New or empty folder for scenario.json and the records.
        clock: Time.
    """

    def __init__(self, assignment: Assignment, endpoint: Endpoint, folder: Path, clock: Clock) -> None:
        self.assignment = assignment.lasting(LONGEST_S)
        self.files = Folder(folder.absolute())
        self._endpoint = endpoint
        self._clock = clock
        self._heard = Heard()
        self._fault: KivaError | None = None
        self._abandoned = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="background load", daemon=True)

    @property
    def heard(self) -> Heard:
        """What the generator has said so far."""
        return self._heard

    @property
    def alive(self) -> bool:
        """Whether the generator runs."""
        return self._thread.is_alive()

    @property
    def records(self) -> list[Record]:
        """What is on disk so far, of all of the generator's processes, in the order in which it ended."""
        return read_records(*self.files.spools)

    def begin(self) -> None:
        """Start the load; returns once all users ask.

        Raises:
            PreconditionError: Locust is not installed.
            ToolError: It does not start.
            NotReadyError: It takes too long.
        """
        locust.require()
        self.files.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.files.scenario.write_text(self.assignment.to_json() + "\n")
        self._thread.start()
        try:
            for _ in self._clock.ticks(_BEGINS_WITHIN_S, every_s=0.05):
                if self._heard.started_s is not None:
                    return
                if not self._thread.is_alive():
                    raise self._fault or ToolError(f"the load generator did not start: {self._heard.broken or 'it ended at once'}")
            raise NotReadyError(f"the load generator did not start within {_BEGINS_WITHIN_S:g} s")
        except BaseException:
            self.abandon()
            raise

    def end(self) -> Heard:
        """Ask nothing new, let the requests under way be answered, and end the generator."""
        self.files.end.touch(mode=0o600)
        self._thread.join(self.assignment.timeout_s + _GRACE_S)
        if self._thread.is_alive():
            self.abandon()
            self._heard = replace(self._heard, complete=False, broken=self._heard.broken or "the load generator did not end by itself")
        return self._heard

    def abandon(self) -> None:
        """End the generator at once; what is under way is cut off."""
        self._abandoned.set()
        if self._thread.is_alive():
            self._thread.join(_GRACE_S)

    def _listen(self) -> None:
        try:
            with closing(self._events()) as events:
                for event in events:
                    self._take(event)
                    if self._abandoned.is_set():
                        return
        except KivaError as error:
            self._fault = error
            self._heard = replace(self._heard, complete=False, broken=self._heard.broken or f"the load generator did not finish: {error.message}")

    def _events(self) -> Generator[dict[str, Any], None, None]:
        work = self.assignment
        env = {FOLDER_VARIABLE: str(self.files.path), TOKENS_VARIABLE: json.dumps({"": self._endpoint.token.reveal()})}
        timeout_s = work.duration_s + work.timeout_s + _GRACE_S
        return locust.watch(locust.command_for(USER_FILE, users=work.users, processes=work.processes), cwd=self.files.path, env=env, timeout_s=timeout_s)

    def _take(self, event: dict[str, Any]) -> None:
        match event["event"]:
            case "measuring":
                self._heard = replace(self._heard, started_s=event["start_ns"] / 1e9)
            case "failed":
                self._heard = replace(self._heard, broken=str(event["reason"]))
            case "ended":
                self._heard = replace(self._with_lag(event), complete=bool(event["is_complete"]))
            case "progress":
                self._heard = replace(self._with_lag(event), answered=event["requests"] - event["failures"], failed=event["failures"])

    def _with_lag(self, event: dict[str, Any]) -> Heard:
        return replace(self._heard, lag_p99_ms=event["generator_lag_p99_ms"], lag_worst_ms=event["generator_lag_worst_ms"])

"""Ends what hangs: a time limit that also reaches an action that waits in the operating system and yields nothing."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from kivactl.errors import NotReadyError
from kivactl.plan import Outcome
from kivactl.spec.quantities import format_duration
from kivactl.tools.clock import Clock

_AGAIN_S = 5.0
"""An alarm that was swallowed on its way comes again."""


class _Overdue(BaseException):
    """Raised by the alarm; no action catches it by mistake."""


def limited(outcomes: Iterator[Outcome], timeout_s: float, title: str, clock: Clock) -> Iterator[Outcome]:
    """What an action yields, until its time is over.

    In the main thread an alarm of the operating system interrupts whatever the action waits for (a socket, a child, a pause); elsewhere, and
    where the action computes without end outside Python, the limit is looked at between two outcomes only.

    Raises:
        NotReadyError: The action did not end in time.
    """
    started_s = clock.now_s()
    late = NotReadyError(f"the step '{title}' did not end within {format_duration(timeout_s)}", "kivactl status")
    while True:
        left_s = timeout_s - (clock.now_s() - started_s)
        if left_s <= 0:
            raise late
        try:
            with _alarm(left_s):
                outcome = next(outcomes, None)
        except _Overdue:
            raise late from None
        if outcome is None:
            return
        yield outcome


@contextmanager
def _alarm(after_s: float) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def overdue(_signal: int, _frame: FrameType | None) -> None:
        raise _Overdue

    before = signal.signal(signal.SIGALRM, overdue)
    try:
        signal.setitimer(signal.ITIMER_REAL, after_s, _AGAIN_S)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

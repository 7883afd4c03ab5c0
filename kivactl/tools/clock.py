"""Time as the flows see it, so that tests can have their own.

Durations and deadlines use the monotonic clock: a jump of the wall clock changes neither.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """The two things a flow asks of time: seconds that never jump, and waiting."""

    now_s: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def ticks(self, within_s: float, every_s: float = 0.2) -> Iterator[float]:
        """Yield the elapsed seconds at once and then every `every_s`, at last once at or after `within_s`."""
        start_s = self.now_s()
        while True:
            elapsed_s = self.now_s() - start_s
            yield elapsed_s
            if elapsed_s >= within_s:
                return
            self.sleep(every_s)

"""An engine as a queue: so many requests are served at a time, others wait; what a load test of it would see."""

from __future__ import annotations

import heapq
import random

PLACES, LEAST_TTFT_S, SPREAD_S, REST_S, LIMIT_S = 16, 0.1, 0.1, 0.3, 0.4
CAPACITY_RPS = 30.9
"""Above that less than 95 % of the requests have their first token within `LIMIT_S`, in the long run."""


def in_time(rate_rps: float, seconds: float, source: random.Random, warm_up_s: float = 0.5) -> list[bool]:
    """Which requests have their first token in time when they come at a Poisson rate, in order."""
    free, found, now_s = [-1e9] * PLACES, [], -warm_up_s
    while (now_s := now_s + source.expovariate(rate_rps)) < seconds:
        ttft_s = LEAST_TTFT_S + SPREAD_S * source.random()
        begin_s = max(now_s, free[0])
        heapq.heapreplace(free, begin_s + ttft_s + REST_S)
        if now_s >= 0:
            found.append(begin_s + ttft_s - now_s <= LIMIT_S)
    return found

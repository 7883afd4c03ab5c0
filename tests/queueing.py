"""An engine as a queue: so many requests are served at a time, others wait; what a load test of it would see."""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass

from kivactl.loadtest.capacity import Search, Share
from kivactl.loadtest.intervals import parts_of

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


@dataclass(frozen=True)
class Searched:
    """What came of one search for the capacity.

    Attributes:
        error: Of the rate that was found, relative.
        holds: Whether the truth lies in its interval.
        requests: That were measured.
        seconds: Of load, warm-ups included.
    """

    error: float
    holds: bool
    requests: int
    seconds: float


def searched(seed: int, probe_s: float, precision: float, warm_up_s: float = 0.5) -> Searched:
    """One search, as in test E of `benchmarks/generators`, with probes of that length."""
    source, search = random.Random(seed), Search(4, 256, precision)
    requests, seconds = 0, 0.0
    while (probe := search.next_probe()) is not None:
        rate_rps, length = probe
        good = in_time(rate_rps, probe_s * length, source, warm_up_s)
        requests, seconds = requests + len(good), seconds + warm_up_s + probe_s * length
        search.take([Share("ttft_p95", sum(good), len(good), 0.95, parts_of(good))])
    holds = search.surely_met_rps <= CAPACITY_RPS <= (search.surely_missed_rps or math.inf)
    return Searched(search.met_rps / CAPACITY_RPS - 1, holds, requests, seconds)

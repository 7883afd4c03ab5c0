"""How much the mock engine can bear when it serves so many requests at a time: reckoned by simulation, with its own schedule. Pure."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass

_GOLDEN = 0.6180339887498949
_REQUESTS = 20_000
"""Many more than any generator sends: what is found is the long run."""


@dataclass(frozen=True)
class Queue:
    """The mock engine with `--capacity`: whoever comes when all places are taken waits in the order of arrival. Times in seconds.

    Attributes:
        ttft_s: From the begin of a service to its first token, at least.
        spread_s: By how much that differs among requests, as with `--spread-us`.
        rest_s: From the first token to the last.
        capacity: Places.
    """

    ttft_s: float
    spread_s: float
    rest_s: float
    capacity: int

    def attainment_of_streams(self, count: int, limit_s: float, requests: int = _REQUESTS) -> float:
        """The share of requests with a TTFT within the limit when so many streams ask again as soon as they are answered."""
        ready = [0.0] * count
        free = [0.0] * self.capacity
        good = 0
        for number in range(requests):
            asked = ready[0]
            first = self._first_token_s(number)
            begin = max(asked, free[0])
            good += begin - asked + first <= limit_s
            heapq.heapreplace(free, begin + first + self.rest_s)
            heapq.heapreplace(ready, begin + first + self.rest_s)
        return good / requests

    def attainment_of_rate(self, per_s: float, limit_s: float, requests: int = _REQUESTS) -> float:
        """The same when requests come at a Poisson rate."""
        source = random.Random(1)
        free = [0.0] * self.capacity
        asked, good = 0.0, 0
        for number in range(requests):
            asked += source.expovariate(per_s)
            first = self._first_token_s(number)
            begin = max(asked, free[0])
            good += begin - asked + first <= limit_s
            heapq.heapreplace(free, begin + first + self.rest_s)
        return good / requests

    def streams_within(self, limit_s: float, attainment: float) -> int:
        """The most streams of which that share is in time."""
        count = 0
        while self.attainment_of_streams(count + 1, limit_s) >= attainment:
            count += 1
        return count

    def rate_within(self, limit_s: float, attainment: float) -> float:
        """The highest Poisson rate, 1/s, of which that share is in time; to 0.2 %."""
        low, high = 0.0, self.capacity / (self.ttft_s + self.rest_s)
        while high - low > 0.002 * high:
            middle = (low + high) / 2
            low, high = (middle, high) if self.attainment_of_rate(middle, limit_s) >= attainment else (low, middle)
        return low

    def _first_token_s(self, number: int) -> float:
        return self.ttft_s + self.spread_s * (number * _GOLDEN % 1)

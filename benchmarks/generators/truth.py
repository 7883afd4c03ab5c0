"""What the mock engine wrote down about a run, and the figures a perfect generator would have reported. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

LATE_MS = 0.5
"""A run in which the mock's own 99th percentile of lateness is beyond this says nothing about a generator."""


@dataclass(frozen=True)
class Request:
    """One request as the engine saw it. Stamps are nanoseconds of CLOCK_MONOTONIC.

    Attributes:
        number: From 0, in the order of arrival.
        tokens: Of the whole answer, those of faulty ones included.
        fault: The kind of fault it was chosen for; empty for none.
        how: `finished`, `fault`, `gone` (its client went), `open` (under way at the end).
        accepted_ns: When its connection was taken on.
        arrived_ns: When all of it had been read.
        due_ns: When each event was due.
        sent_ns: When each event was handed to the kernel.
    """

    number: int
    id: str
    connection: int
    chat: bool
    stream: bool
    bytes: int
    tokens: int
    fault: str
    how: str
    accepted_ns: int
    arrived_ns: int
    due_ns: tuple[int, ...]
    sent_ns: tuple[int, ...]

    @property
    def ttft_ms(self) -> float:
        return (self.sent_ns[0] - self.arrived_ns) / 1e6

    @property
    def e2e_ms(self) -> float:
        return (self.sent_ns[-1] - self.arrived_ns) / 1e6

    @property
    def gaps_ms(self) -> list[float]:
        return [(after - before) / 1e6 for before, after in pairwise(self.sent_ns)]

    def itl_ms(self, tokens_per_event: int) -> list[float]:
        """A value for each token behind the first event: its event's gap, shared among the tokens of the event."""
        found: list[float] = []
        for number, gap in enumerate(self.gaps_ms, 1):
            tokens = min(tokens_per_event, self.tokens - number * tokens_per_event)
            found += [gap / tokens] * tokens
        return found

    def tpot_ms(self, tokens_per_event: int) -> float | None:
        """Time per token behind the first event; None when there is none behind it."""
        rest = self.tokens - min(tokens_per_event, self.tokens)
        return (self.sent_ns[-1] - self.sent_ns[0]) / 1e6 / rest if rest else None


@dataclass(frozen=True)
class Truth:
    """A run as the engine saw it.

    Attributes:
        requests: In order of arrival.
        connections: How many the generator opened.
        engine_cpu_s: CPU time of the mock.
    """

    requests: tuple[Request, ...]
    connections: int
    engine_cpu_s: float

    @property
    def late_p99_ms(self) -> float:
        """How late the mock's events were."""
        late = [(sent - due) / 1e6 for request in self.requests for due, sent in zip(request.due_ns, request.sent_ns, strict=True)]
        return percentile(late, 99) if late else 0.0


def read_truth(path: Path) -> Truth:
    """Read a truth file."""
    *lines, last = path.read_text().splitlines()
    end = json.loads(last)
    requests = tuple(_request(json.loads(line)) for line in lines)
    if len(requests) != end["requests"]:
        raise ValueError(f"{path} has {len(requests)} of {end['requests']} requests")
    return Truth(requests, end["connections"], end["cpu_s"])


def _request(fields: dict[str, Any]) -> Request:
    return Request(**{**fields, "due_ns": tuple(fields["due_ns"]), "sent_ns": tuple(fields["sent_ns"])})


def percentile(values: Sequence[float], percent: float) -> float:
    """Linear between the nearest ranks, as numpy and so every contender but Locust reckons it."""
    ranked = sorted(values)
    if not ranked:
        raise ValueError("no values")
    place = (len(ranked) - 1) * percent / 100
    below = math.floor(place)
    above = min(below + 1, len(ranked) - 1)
    return ranked[below] + (ranked[above] - ranked[below]) * (place - below)

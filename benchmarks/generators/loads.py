"""What generators are asked to do, and what each says it measured. Types only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Kind = Literal["closed", "poisson", "constant"]


@dataclass(frozen=True)
class Load:
    """One run.

    Attributes:
        kind: `closed`: each of `streams` asks again when it is answered; else requests come by themselves, at `rate_per_s`.
        seconds: How long requests are sent, about; generators that know only numbers of requests get `requests`.
        tokens: Of every answer.
        service_s: How long an answer takes when nothing is in its way.
        streams: Of a closed loop.
        rate_per_s: Of the others.
        prompt_tokens: About as many; what counts is that all are alike.
        ramp_s: Over which the streams of a closed loop start, where the generator can do that.
        seed: Of arrivals and prompts.
    """

    kind: Kind
    seconds: float
    tokens: int
    service_s: float
    streams: int = 1
    rate_per_s: float = 0.0
    prompt_tokens: int = 32
    ramp_s: float = 0.0
    seed: int = 1

    @property
    def requests(self) -> int:
        """How many requests the run is worth."""
        return self.streams * max(1, round(self.seconds / self.service_s)) if self.kind == "closed" else max(1, round(self.rate_per_s * self.seconds))


@dataclass(frozen=True)
class Goal:
    """A search for the capacity: the most with which a share of the requests has its first token in time.

    Attributes:
        ttft_ms: The limit.
        attainment: The share, 0..1.
        seconds: Of every probe, for generators that are told.
        tokens: Of every answer.
        limit: The most that is to be tried.
    """

    ttft_ms: float
    attainment: float
    seconds: float
    tokens: int
    limit: int
    prompt_tokens: int = 32
    seed: int = 1


@dataclass(frozen=True)
class Found:
    """A capacity: streams of a closed loop, or requests a second."""

    domain: Literal["streams", "rate"]
    value: float


@dataclass(frozen=True)
class Target:
    """Whom to load.

    Attributes:
        url: Without a path.
        model: Its name.
        tokenizer: Folder of a tokenizer that all generators can load.
    """

    url: str
    model: str
    tokenizer: Path


@dataclass(frozen=True)
class Command:
    """How a generator is run in an empty folder of its own.

    Attributes:
        argv: Its command line.
        files: Written there before it starts, by name.
        env: Added to its environment; None removes a variable.
    """

    argv: tuple[str, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Figures:
    """What a generator reported of a run; None where it has no such figure.

    Attributes:
        requests: Those it calls successful.
        failed: Those it says went wrong.
        gap_p50_ms: Between events, over all events of all requests.
        itl_p50_ms: What it calls inter-token latency, whatever that is.
        tpot_p50_ms: Time per token behind the first, one value for each request.
        attained_rps: Requests a second, as it says.
        window_ns: From when to when requests had to begin to be counted, on CLOCK_MONOTONIC; None: all are counted.
        lag_p99_ms: How late it says it sent what was due.
    """

    requests: int
    failed: int = 0
    ttft_p50_ms: float | None = None
    ttft_p99_ms: float | None = None
    gap_p50_ms: float | None = None
    gap_p99_ms: float | None = None
    itl_p50_ms: float | None = None
    itl_p99_ms: float | None = None
    tpot_p50_ms: float | None = None
    tpot_p99_ms: float | None = None
    e2e_p50_ms: float | None = None
    e2e_p99_ms: float | None = None
    attained_rps: float | None = None
    window_ns: tuple[int, int] | None = None
    lag_p99_ms: float | None = None

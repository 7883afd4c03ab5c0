"""From records to what users saw: exact percentiles, rates, and whether the service levels were met; pure.

Measured are the requests that began within the window, each to its end, however late: leaving out those still under
way when the window closes would leave out the slow ones. Rates count what came within the window, whenever it began.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kivactl.loadtest.record import Record
from kivactl.spec.platform import ServiceLevels

_FEWEST_FOR_P95 = 20
_TOKENS_PER_EVENT = 1.05
_LAG_OF_TTFT_RATIO = 0.1
_LAG_OF_TPOT_RATIO = 0.1
_LEAST_LAG_MS = 2.0


@dataclass(frozen=True, slots=True)
class Distribution:
    """Percentiles and mean of `count` values, in seconds."""

    count: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """One service level: its name, the limit, what was measured (None: nothing to measure), and whether it was met."""

    name: str
    limit: float
    measured: float | None
    met: bool


@dataclass(frozen=True, slots=True)
class Window:
    """The measured phase, in nanoseconds of the monotonic clock: [start, end)."""

    start_ns: int
    end_ns: int

    @property
    def duration_s(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9

    def holds(self, stamp_ns: int) -> bool:
        """Whether a stamp lies within."""
        return self.start_ns <= stamp_ns < self.end_ns


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the records cannot say.

    Attributes:
        scenario: Its name.
        model: What was asked.
        concurrency: Users.
        generator_lag_p99_ms: How late the generator's loop was; None when it did not say.
        is_interrupted: Whether the user ended the run early.
        broken: Why the run cannot be believed, as one sentence; empty when it can.
    """

    scenario: str
    model: str
    concurrency: int
    generator_lag_p99_ms: float | None = None
    is_interrupted: bool = False
    broken: str = ""


@dataclass(frozen=True, slots=True)
class Summary:
    """A load test's result. Distributions are None where there is nothing to measure.

    Attributes:
        window_s: Length of the measured phase.
        requests: Measured requests that succeeded or failed.
        failures: How many failed, by kind.
        failure_examples: One sentence per kind.
        cut: Measured requests that the end of the load test cut off; they count nowhere else.
        requests_per_s: Requests that succeeded within the window, over its length.
        output_tokens_per_s: Tokens that came within the window, over its length.
        prompt_tokens: Of the measured successes, as the engine counted.
        output_tokens: Likewise.
        tokens_per_event: Above 1.05 the engine joins tokens, and gaps between events are not gaps between tokens.
        invalid: Why the figures cannot be believed; None when they can.
    """

    scenario: str
    model: str
    concurrency: int
    window_s: float
    requests: int
    succeeded: int
    failures: dict[str, int]
    failure_examples: dict[str, str]
    cut: int
    error_ratio: float
    ttft_s: Distribution | None
    tpot_s: Distribution | None
    icl_s: Distribution | None
    e2e_s: Distribution | None
    connect_s: Distribution | None
    requests_per_s: float
    output_tokens_per_s: float
    prompt_tokens: int
    output_tokens: int
    tokens_per_event: float | None
    generator_lag_p99_ms: float | None
    service_levels: tuple[Verdict, ...]
    warnings: tuple[str, ...]
    invalid: str | None
    interrupted: bool

    def as_dict(self) -> dict[str, Any]:
        """The summary as JSON-ready data."""
        return asdict(self)


def summary_for(records: Iterable[Record], window: Window | None, levels: ServiceLevels, conditions: Conditions) -> Summary:
    """Judge a run.

    Args:
        records: All of the run, in any order.
        window: The measured phase; None when it was not reached.
        levels: What is promised.
        conditions: What else is known.
    """
    window = window or Window(0, 0)
    everything = list(records)
    measured = [record for record in everything if window.holds(record.start_ns)]
    good = [record for record in measured if record.succeeded]
    bad = [record for record in measured if record.failure is not None]
    error_ratio = len(bad) / (len(good) + len(bad)) if good or bad else 0.0
    ttft_s = distribution_of(_known(record.ttft_s for record in good))
    tpot_s = distribution_of(_known(record.tpot_s for record in good))
    tokens_per_event = _tokens_per_event(good)
    lag_ms = conditions.generator_lag_p99_ms
    window_s = window.duration_s
    return Summary(
        scenario=conditions.scenario,
        model=conditions.model,
        concurrency=conditions.concurrency,
        window_s=window_s,
        requests=len(good) + len(bad),
        succeeded=len(good),
        failures=dict(Counter(str(record.failure) for record in bad).most_common()),
        failure_examples={str(record.failure): record.reason for record in reversed(bad)},
        cut=sum(record.is_cut for record in measured),
        error_ratio=error_ratio,
        ttft_s=ttft_s,
        tpot_s=tpot_s,
        icl_s=distribution_of([gap_s for record in good for gap_s in record.gaps_s]),
        e2e_s=distribution_of(_known(record.e2e_s for record in good)),
        connect_s=distribution_of([record.connect_ns / 1e9 for record in good if record.connect_ns]),
        requests_per_s=sum(record.succeeded and window.holds(record.end_ns) for record in everything) / window_s if window_s else 0.0,
        output_tokens_per_s=sum(record.tokens_within(window.start_ns, window.end_ns) for record in everything) / window_s if window_s else 0.0,
        prompt_tokens=sum(record.prompt_tokens or 0 for record in good),
        output_tokens=sum(record.tokens for record in good),
        tokens_per_event=tokens_per_event,
        generator_lag_p99_ms=lag_ms,
        service_levels=verdicts_for(levels, ttft_s, tpot_s, error_ratio, succeeded=len(good)),
        warnings=tuple(_warnings(good, tokens_per_event, lag_ms, levels)),
        invalid=_invalid(conditions, len(good) + len(bad), ttft_s, window_s),
        interrupted=conditions.is_interrupted,
    )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The exact percentile of ascending values, linear between neighbours (as NumPy and `vllm bench serve` do).

    Args:
        ordered: Ascending, at least one.
        percent: 0..100.
    """
    position = (len(ordered) - 1) * percent / 100
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def distribution_of(values: Iterable[float]) -> Distribution | None:
    """Percentiles and mean; None without values."""
    ordered = sorted(values)
    if not ordered:
        return None
    p50, p90, p95, p99 = (percentile(ordered, percent) for percent in (50, 90, 95, 99))
    return Distribution(len(ordered), sum(ordered) / len(ordered), p50, p90, p95, p99)


def verdicts_for(levels: ServiceLevels, ttft_s: Distribution | None, tpot_s: Distribution | None, error_ratio: float, *, succeeded: int) -> tuple[Verdict, ...]:
    """Hold the figures against what is promised. Without a success no time is met; answers of one token have no TPOT to miss."""
    ttft_p95 = ttft_s.p95 if ttft_s else None
    tpot_p95 = tpot_s.p95 if tpot_s else None
    return (
        Verdict("ttft_p95", levels.ttft_p95, ttft_p95, ttft_p95 is not None and ttft_p95 <= levels.ttft_p95),
        Verdict("tpot_p95", levels.tpot_p95, tpot_p95, tpot_p95 <= levels.tpot_p95 if tpot_p95 is not None else succeeded > 0),
        Verdict("error_ratio", levels.error_ratio, error_ratio, error_ratio <= levels.error_ratio),
    )


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _tokens_per_event(records: Sequence[Record]) -> float | None:
    """N over token events; the token that only says `stop` is counted by the engine but brings no event."""
    counted = [record for record in records if record.completion_tokens is not None]
    events = sum(len(record.token_ns) for record in counted)
    tokens = sum((record.completion_tokens or 0) - (record.finish_reason == "stop") for record in counted)
    return tokens / events if events else None


def _warnings(good: Sequence[Record], tokens_per_event: float | None, lag_ms: float | None, levels: ServiceLevels) -> Iterable[str]:
    if 0 < len(good) < _FEWEST_FOR_P95:
        yield f"only {len(good)} requests succeeded: a 95th percentile of so few says little"
    uncounted = sum(record.completion_tokens is None for record in good)
    if uncounted:
        yield f"the engine did not count the tokens of {uncounted} answers: their token events were counted instead"
    if tokens_per_event is not None and tokens_per_event > _TOKENS_PER_EVENT:
        yield f"the engine joins {tokens_per_event:.2f} tokens per event: gaps between events are not gaps between tokens"
    if lag_ms is not None and lag_ms > max(_LEAST_LAG_MS, levels.tpot_p95 * 1e3 * _LAG_OF_TPOT_RATIO):
        yield f"the load generator was up to {lag_ms:.1f} ms late (p99): it shares its processors with something busy, and times are too long by as much"


def _invalid(conditions: Conditions, requests: int, ttft_s: Distribution | None, window_s: float) -> str | None:
    if conditions.broken:
        return conditions.broken
    if not requests and window_s and not conditions.is_interrupted:
        return f"no request began within the measured {window_s:.1f} s: answers take longer than that, so measure for longer"
    if not requests:
        return "no request was measured"
    lag_ms = conditions.generator_lag_p99_ms
    if lag_ms is not None and ttft_s is not None and lag_ms > ttft_s.p50 * 1e3 * _LAG_OF_TTFT_RATIO:
        return f"the load generator was late by {lag_ms:.1f} ms (p99), over a tenth of the median time to the first token ({ttft_s.p50 * 1e3:.1f} ms)"
    return None

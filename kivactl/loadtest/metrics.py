"""From records to what users saw: exact percentiles, rates, and whether the service levels were met; pure.

Measured are the requests that were due within the window, each to its end, however late: leaving out those still under
way when the window closes would leave out the slow ones. Rates count what came within the window, whenever it was due.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any

from kivactl.loadtest import validity
from kivactl.loadtest.distribution import Distribution, distribution_of
from kivactl.loadtest.intervals import parts_of, share_interval
from kivactl.loadtest.levels import ATTAINMENT, ERROR_RATIO, Level, thresholds_from
from kivactl.loadtest.record import Record


@dataclass(frozen=True, slots=True)
class Verdict:
    """One service level: its name, the limit, what was measured (None: nothing to measure), and whether it was met."""

    name: str
    limit: float
    measured: float | None
    met: bool


_SURELY_BY_KERNEL_RATIO = 0.99
"""A jump of the wall clock leaves a stamp to the generator here and there."""


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
        concurrency: Users of a closed loop; 0 for an open one.
        load: The load in words.
        due: Requests that were due within the window, by the schedule; None in a closed loop.
        generator_lag_p99_ms: How late the generator's loop was; None when it did not say.
        processes: Of the generator.
        seed: Of all that was random.
        is_interrupted: Whether the user ended the run early.
        broken: Why the run cannot be believed, as one sentence; empty when it can.
        machines: Other machines that generated the load; each with `name`, `processes` and `clock_error_ms`, among others.
        warm_up_s: Length of an open loop's warm-up; None where there is none to be had, in a trace or a closed loop.
        is_calibrated: Whether prompts were as long as asked for, in tokens.
    """

    scenario: str
    model: str
    concurrency: int
    load: str = ""
    due: int | None = None
    generator_lag_p99_ms: float | None = None
    processes: int = 1
    seed: int = 0
    is_interrupted: bool = False
    broken: str = ""
    machines: tuple[dict[str, Any], ...] = ()
    warm_up_s: float | None = None
    is_calibrated: bool = True


@dataclass(frozen=True, slots=True)
class Attainment:
    """How many of the requests that were due kept every limit.

    Attributes:
        good: Requests that did.
        due: Requests that should have been sent; those that failed, were dropped or cut count as bad.
        ratio: One over the other.
        low: Lower end of the interval (Wilson, 95 %, of as many requests as are independent).
        high: Its upper end.
        thresholds: The limits, in seconds by metric.
    """

    good: int
    due: int
    ratio: float
    low: float
    high: float
    thresholds: dict[str, float]


@dataclass(frozen=True, slots=True)
class Summary:
    """A load test's result. Distributions are None where there is nothing to measure.

    Attributes:
        load: The load in words.
        window_s: Length of the measured phase.
        due: Requests that were due within it.
        requests: Measured requests that succeeded or failed.
        failures: How many failed, by kind.
        failure_examples: One sentence per kind.
        cut: Measured requests that the end of the load test cut off; they count nowhere else.
        ttft_due_s: TTFT from when a request was due; an open loop is judged by it.
        itl_s: Time between tokens; where the engine joins tokens and does not say how many, None.
        offered_rps: Requests that were due, over the window's length.
        requests_per_s: Requests that succeeded within the window, over its length.
        goodput_rps: Requests that kept every limit, over its length, as `vllm bench serve` counts.
        output_tokens_per_s: Tokens that came within the window, over its length.
        prompt_tokens: Of the measured successes, as the engine counted.
        output_tokens: Likewise.
        cached_ratio: Of the prompt tokens those that the engine had in its prefix cache; None where it does not say.
        tokens_per_event: Above 1.05 the engine joins tokens, and gaps between events are not gaps between tokens.
        most_under_way: Requests under way at the same time, at most.
        send_lag_p99_ms: How late the generator turned to requests; None in a closed loop.
        stamps_by_kernel: Whether tokens were stamped by the kernel, as they arrived; else as the generator came to read them.
        groups: The same in short for each kind of requests in a mix.
        machines: Other machines that generated the load, and how well each one's clock is known; empty where this one did.
        invalid: Why the figures cannot be believed; None when they can.
    """

    scenario: str
    model: str
    load: str
    concurrency: int
    processes: int
    seed: int
    window_s: float
    due: int
    requests: int
    succeeded: int
    failures: dict[str, int]
    failure_examples: dict[str, str]
    cut: int
    error_ratio: float
    ttft_s: Distribution | None
    ttft_due_s: Distribution | None
    ttfo_s: Distribution | None
    tpot_s: Distribution | None
    itl_s: Distribution | None
    icl_s: Distribution | None
    e2e_s: Distribution | None
    e2e_due_s: Distribution | None
    connect_s: Distribution | None
    offered_rps: float
    requests_per_s: float
    goodput_rps: float
    output_tokens_per_s: float
    prompt_tokens: int
    output_tokens: int
    cached_ratio: float | None
    tokens_per_event: float | None
    most_under_way: int
    generator_lag_p99_ms: float | None
    send_lag_p99_ms: float | None
    stamps_by_kernel: bool
    attainment: Attainment
    service_levels: tuple[Verdict, ...]
    warnings: tuple[str, ...]
    invalid: str | None
    interrupted: bool
    groups: dict[str, dict[str, Any]] = field(default_factory=dict)
    machines: tuple[dict[str, Any], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The summary as JSON-ready data."""
        return asdict(self)


def summary_for(records: Iterable[Record], window: Window | None, levels: tuple[Level, ...], conditions: Conditions) -> Summary:
    """Judge a run.

    Args:
        records: All of the run, in any order.
        window: The measured phase; None when it was not reached.
        levels: What is promised.
        conditions: What else is known.
    """
    window = window or Window(0, 0)
    everything = list(records)
    measured = [record for record in everything if window.holds(record.moment_ns)]
    good = [record for record in measured if record.succeeded]
    bad = [record for record in measured if record.failure is not None]
    window_s = window.duration_s
    is_open = any(record.scheduled_ns is not None for record in measured)
    due = max(len(measured), conditions.due or 0)
    times = _times(good)
    tokens_per_event = _tokens_per_event(good)
    attainment = attainment_of(measured, due, levels)
    error_ratio = len(bad) / (len(good) + len(bad)) if good or bad else 0.0
    lag = distribution_of(_known(record.send_lag_s for record in measured))
    by_kernel = bool(good) and sum(record.by_kernel for record in good) >= _SURELY_BY_KERNEL_RATIO * len(good)
    lags = validity.Lags(conditions.generator_lag_p99_ms, lag.p99 * 1e3 if lag else None, by_kernel)
    prompt_tokens = sum(record.prompt_tokens or 0 for record in good)
    cached = _known(record.cached_tokens for record in good)
    return Summary(
        scenario=conditions.scenario,
        model=conditions.model,
        load=conditions.load,
        concurrency=conditions.concurrency,
        processes=conditions.processes,
        seed=conditions.seed,
        window_s=window_s,
        due=due,
        requests=len(good) + len(bad),
        succeeded=len(good),
        failures=dict(Counter(str(record.failure) for record in bad).most_common()),
        failure_examples={str(record.failure): record.reason for record in reversed(bad)},
        cut=sum(record.is_cut for record in measured),
        error_ratio=error_ratio,
        **times,
        offered_rps=due / window_s if window_s else 0.0,
        requests_per_s=sum(record.succeeded and window.holds(record.end_ns) for record in everything) / window_s if window_s else 0.0,
        goodput_rps=attainment.good / window_s if window_s else 0.0,
        output_tokens_per_s=sum(record.tokens_within(window.start_ns, window.end_ns) for record in everything) / window_s if window_s else 0.0,
        prompt_tokens=prompt_tokens,
        output_tokens=sum(record.tokens for record in good),
        cached_ratio=sum(cached) / prompt_tokens if cached and prompt_tokens else None,
        tokens_per_event=tokens_per_event,
        most_under_way=most_under_way(everything),
        generator_lag_p99_ms=lags.loop_ms,
        send_lag_p99_ms=lags.send_ms,
        stamps_by_kernel=by_kernel,
        attainment=attainment,
        service_levels=verdicts_for(levels, times, error_ratio, attainment, is_open=is_open),
        warnings=tuple(
            validity.warnings(good, tokens_per_event, lags, times["itl_s"], times["e2e_s"], conditions.warm_up_s, is_calibrated=conditions.is_calibrated)
        ),
        invalid=conditions.broken or validity.fault(measured, good, due, window_s, levels, lags, times["itl_s"], is_interrupted=conditions.is_interrupted),
        interrupted=conditions.is_interrupted,
        groups=_groups(measured, levels),
        machines=conditions.machines,
    )


def verdicts_for(
    levels: tuple[Level, ...], times: dict[str, Distribution | None], error_ratio: float, attainment: Attainment, *, is_open: bool
) -> tuple[Verdict, ...]:
    """Hold the figures against what is promised. Without a success no time is met; answers of one token have no TPOT to miss.

    Args:
        levels: What is promised.
        times: Distributions by the names of `Summary`.
        error_ratio: Failed requests over all.
        attainment: Good requests over those due.
        is_open: Whether times count from when a request was due.
    """
    ratios = {ERROR_RATIO: error_ratio, ATTAINMENT: attainment.ratio}
    found = []
    for level in levels:
        if level.percent is None:
            measured: float | None = ratios[level.name]
        else:
            name = f"{level.metric}_due_s" if is_open and level.metric in ("ttft", "e2e") else f"{level.metric}_s"
            known = times[name]
            measured = known.at(level.percent) if known else None
        nothing_to_miss = measured is None and level.metric in ("tpot", "itl") and times["e2e_s"] is not None
        found.append(Verdict(level.name, level.limit, measured, nothing_to_miss if measured is None else level.holds(measured)))
    return tuple(found)


def attainment_of(measured: Sequence[Record], due: int, levels: tuple[Level, ...]) -> Attainment:
    """How many requests kept every limit, of all that were due."""
    thresholds = thresholds_from(levels)
    kept = [record.keeps(thresholds) for record in sorted(measured, key=lambda record: record.moment_ns)]
    good = sum(kept)
    low, high = share_interval(good, due, parts_of(kept))
    return Attainment(good, due, good / due if due else 0.0, low, high, thresholds)


def most_under_way(records: Iterable[Record]) -> int:
    """How many requests were under way at the same time, at most."""
    moments = sorted(chain.from_iterable(((record.start_ns, 1), (record.end_ns, -1)) for record in records))
    most = now = 0
    for _, change in moments:
        now += change
        most = max(most, now)
    return most


def _times(good: Sequence[Record]) -> dict[str, Any]:
    """Distributions by the names of `Summary`."""
    counted = all(record.token_counts or not record.is_streamed for record in good)
    joined = _tokens_per_event(good)
    knows_gaps = counted or joined is None or joined <= validity.TOKENS_PER_EVENT
    return {
        "ttft_s": distribution_of(_known(record.ttft_s for record in good)),
        "ttft_due_s": distribution_of(_known(record.ttft_due_s for record in good)),
        "ttfo_s": distribution_of(_known(record.ttfo_s for record in good)),
        "tpot_s": distribution_of(_known(record.tpot_s for record in good)),
        "itl_s": distribution_of(gap_s for record in good for gap_s in record.itls_s) if knows_gaps else None,
        "icl_s": distribution_of(gap_s for record in good for gap_s in record.gaps_s),
        "e2e_s": distribution_of(_known(record.e2e_s for record in good)),
        "e2e_due_s": distribution_of(_known(record.e2e_due_s for record in good)),
        "connect_s": distribution_of(record.connect_ns / 1e9 for record in good if record.connect_ns),
    }


def _groups(measured: Sequence[Record], levels: tuple[Level, ...]) -> dict[str, dict[str, Any]]:
    names = sorted({record.group for record in measured if record.group})
    return {name: _group([record for record in measured if record.group == name], levels) for name in names}


def _group(measured: Sequence[Record], levels: tuple[Level, ...]) -> dict[str, Any]:
    good = [record for record in measured if record.succeeded]
    times = {name: distribution_of(_known(getattr(record, name) for record in good)) for name in ("ttft_s", "tpot_s", "e2e_s")}
    return {
        "requests": sum(not record.is_cut for record in measured),
        "succeeded": len(good),
        "output_tokens": sum(record.tokens for record in good),
        "attainment": asdict(attainment_of(measured, len(measured), levels)),
        **{name: asdict(known) if known else None for name, known in times.items()},
    }


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _tokens_per_event(records: Sequence[Record]) -> float | None:
    """N over token events; the token that only says `stop` is counted by the engine but brings no event."""
    counted = [record for record in records if record.completion_tokens is not None and record.is_streamed]
    events = sum(len(record.token_ns) for record in counted)
    tokens = sum((record.completion_tokens or 0) - (record.finish_reason == "stop") for record in counted)
    return tokens / events if events else None

"""What runs are judged by: figures against the truth, arrivals against their distribution, a search for the most. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from generators.loads import Figures
from generators.truth import Request, Truth, percentile


@dataclass(frozen=True)
class Errors:
    """What a generator reported beyond the truth, in milliseconds; None where it reports nothing.

    Attributes:
        ttft_p50: Of the time to the first token.
        itl_p50: Of what it calls inter-token latency, against the time between tokens: gaps shared among the tokens of an event.
        gap_p99: Of the gaps between events; of the time per token where it has no gaps, which levels them out.
        missed: Requests that were good and are not among those it calls good, or the other way round.
    """

    ttft_p50: float | None
    ttft_p99: float | None
    itl_p50: float | None
    gap_p99: float | None
    missed: int


def counted(truth: Truth, ahead: int = 0, window_ns: tuple[int, int] | None = None) -> list[Request]:
    """The requests that a generator may have counted: whole streams that began within its window, without what it sent ahead."""
    good = [request for request in truth.requests[ahead:] if request.how == "finished" and request.stream]
    return good if window_ns is None else [request for request in good if window_ns[0] <= request.arrived_ns < window_ns[1]]


def errors_of(figures: Figures, truth: Truth, tokens_per_event: int = 1, ahead: int = 0) -> Errors:
    """Hold figures against the truth.

    Args:
        figures: What the generator said.
        truth: Of the same run.
        tokens_per_event: As the mock engine was told.
        ahead: How many requests the generator sent before those it counts.
    """
    good = counted(truth, ahead, figures.window_ns)
    if not good:
        return Errors(None, None, None, None, figures.requests)
    ttft = [request.ttft_ms for request in good]
    itl = [value for request in good for value in request.itl_ms(tokens_per_event)]
    if figures.gap_p99_ms is not None:
        gap_p99 = _beyond(figures.gap_p99_ms, [gap for request in good for gap in request.gaps_ms], 99)
    else:
        gap_p99 = _beyond(figures.tpot_p99_ms, [value for request in good if (value := request.tpot_ms(tokens_per_event)) is not None], 99)
    return Errors(
        _beyond(figures.ttft_p50_ms, ttft, 50),
        _beyond(figures.ttft_p99_ms, ttft, 99),
        _beyond(figures.itl_p50_ms, itl, 50),
        gap_p99,
        abs(figures.requests - len(good)),
    )


def _beyond(said: float | None, values: Sequence[float], percent: float) -> float | None:
    return None if said is None or not values else said - percentile(values, percent)


def arrivals_s(truth: Truth, ahead: int = 0, window_ns: tuple[int, int] | None = None) -> list[float]:
    """When requests arrived, in seconds from the first: those within a generator's window, which may go on with its load beyond."""
    stamps = [request.arrived_ns for request in truth.requests[ahead:] if window_ns is None or window_ns[0] <= request.arrived_ns < window_ns[1]]
    if not stamps:
        return []
    return [(stamp - stamps[0]) / 1e9 for stamp in stamps]


def streams_of(truth: Truth, after_s: float, ahead: int = 0) -> float:
    """How many streams were open at a time, on average from `after_s` behind the first arrival until the last one."""
    requests = [request for request in truth.requests[ahead:] if request.sent_ns]
    begin, end = requests[0].arrived_ns + int(after_s * 1e9), requests[-1].arrived_ns
    if end <= begin:
        return 0.0
    return sum(max(0, min(request.sent_ns[-1], end) - max(request.arrived_ns, begin)) for request in requests) / (end - begin)


def rate_of(arrivals: Sequence[float]) -> float:
    """Arrivals a second."""
    return (len(arrivals) - 1) / (arrivals[-1] - arrivals[0]) if len(arrivals) > 1 and arrivals[-1] > arrivals[0] else 0.0


def exponential_p(arrivals: Sequence[float], rate_per_s: float) -> float:
    """The p-value of the Kolmogorov-Smirnov test that gaps are exponential with this rate; 1 when there are none.

    Source: Marsaglia, Tsang, Wang (2003) for the statistic; the asymptotic series with Stephens' correction for its tail.
    """
    gaps = sorted(after - before for before, after in pairwise(arrivals))
    count = len(gaps)
    if not count:
        return 1.0
    expected = [1 - math.exp(-rate_per_s * gap) for gap in gaps]
    distance = max(max((rank + 1) / count - value, value - rank / count) for rank, value in enumerate(expected))
    root = math.sqrt(count)
    scaled = distance * (root + 0.12 + 0.11 / root)
    if scaled < 0.2:  # the series needs ever more terms; its value is 1 to ten digits
        return 1.0
    return min(1.0, max(0.0, 2 * sum((-1) ** (k - 1) * math.exp(-2 * k * k * scaled * scaled) for k in range(1, 101))))


def variation_of(arrivals: Sequence[float]) -> float:
    """The coefficient of variation of gaps: 1 for Poisson arrivals, 0 for even ones."""
    gaps = [after - before for before, after in pairwise(arrivals)]
    if len(gaps) < 2:
        return 0.0
    mean = sum(gaps) / len(gaps)
    return math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / (len(gaps) - 1)) / mean if mean else 0.0


def most(passes: Callable[[int], bool], start: int, limit: int, tolerance: float = 0.08, least: int = 1, step: float = 2.0) -> int:
    """The greatest number that passes: multiplied (or divided) by `step` from `start` on until it is bracketed, then bisected.

    Args:
        passes: Whether a number is managed; assumed to be true up to some number and false beyond.
        start: Tried first.
        limit: Nothing greater is tried.
        tolerance: Bisected until the bracket is narrower than this share of its lower end.
        least: Nothing smaller is tried.
        step: Above 1; a small one where `start` is near.

    Returns:
        0 when not even `least` passes.
    """
    good, bad, number = 0, limit + 1, min(start, limit)
    while True:
        if passes(number):
            good = number
            if number == limit:
                return good
            number = min(max(number + 1, round(step * number)), limit)
        else:
            bad = number
        if good and bad <= limit:
            break
        if not good:
            if number <= least:
                return 0
            number = max(least, min(number - 1, int(number / step)))
    while bad - good > max(1, good * tolerance):
        middle = (good + bad) // 2
        if passes(middle):
            good = middle
        else:
            bad = middle
    return good


def frozen_percentile_ms(percent: float, ttft_ms: float, seconds: float, frozen_s: float) -> float:
    """The percentile of TTFT that users see when requests come evenly for `seconds` and the server stands still for `frozen_s` of them.

    Who is waiting when it stops waits all of that longer, who comes meanwhile its rest; nobody else waits.
    """
    worse_s = (1 - percent / 100) * seconds  # so long did those come who wait longer
    return ttft_ms + min(frozen_s, max(0.0, frozen_s + ttft_ms / 1000 - worse_s)) * 1000

"""Whether a measurement can be believed, and what to keep in mind about it; pure.

A generator that was late measures itself. Each rule compares a delay of the generator with the time it would falsify.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from kivactl.loadtest.distribution import Distribution
from kivactl.loadtest.levels import Level
from kivactl.loadtest.record import Record
from kivactl.loadtest.wording import limit_text, time_text

TOKENS_PER_EVENT = 1.05
"""Above it the engine joins tokens."""

_FEWEST_FOR_P95 = 20
_LEAST_SEND_LAG_MS, _SEND_LAG_OF_TTFT_RATIO = 5.0, 0.05
_LEAST_LOOP_LAG_MS, _LOOP_LAG_OF_ITL_RATIO = 2.0, 0.1
_LOOP_LAG_OF_ITL_RATIO_BY_KERNEL = 0.5
"""Where the kernel stamps what arrives, a late loop falsifies nothing, until a token waits so long that the next one joins it."""
_RATE_OFF_RATIO = 0.01


@dataclass(frozen=True, slots=True)
class Lags:
    """How late the generator was, 99th percentile in milliseconds; None where it is not known.

    Attributes:
        loop_ms: Of its loop: each stamp that is not the kernel's may be late by as much.
        send_ms: Of turning to requests that were due.
        by_kernel: Whether stamps are the kernel's.
    """

    loop_ms: float | None
    send_ms: float | None
    by_kernel: bool = False


def fault(
    measured: Sequence[Record],
    good: Sequence[Record],
    due: int,
    window_s: float,
    levels: tuple[Level, ...],
    lags: Lags,
    itl_s: Distribution | None,
    *,
    is_interrupted: bool,
) -> str | None:
    """Why the figures cannot be believed, as one sentence; None when they can.

    Args:
        measured: Requests that were due within the window.
        good: Those of them that succeeded.
        due: How many should have been sent.
        window_s: Its length.
        levels: What is promised; a delay may be a fraction of what it falsifies.
        lags: Of the generator.
        itl_s: Time between tokens.
        is_interrupted: Whether the user ended the run, so that there may be little.
    """
    if not measured and window_s and not is_interrupted:
        return f"no request began within the measured {window_s:.1f} s: answers take longer than that, so measure for longer"
    if not any(not record.is_cut for record in measured):
        return "no request was measured"
    return _of_schedule(measured, due, window_s, levels, lags, is_interrupted=is_interrupted) or _of_loop(good, levels, lags, itl_s)


def allowed_send_lag_ms(levels: Iterable[Level]) -> float:
    """How late requests may be sent (p99), in milliseconds: a fraction of the least TTFT that is promised."""
    ttft_ms = min((level.limit * 1e3 for level in levels if level.metric == "ttft"), default=0.0)
    return max(_LEAST_SEND_LAG_MS, ttft_ms * _SEND_LAG_OF_TTFT_RATIO)


def allowed_loop_lag_ms(levels: Iterable[Level], itl_p50_s: float | None, *, by_kernel: bool) -> float:
    """How late the generator's loop may be (p99), in milliseconds: a fraction of the least time between tokens that is promised, or that was measured.

    Args:
        levels: What is promised.
        itl_p50_s: What was measured.
        by_kernel: Whether stamps are the kernel's, so that a late loop falsifies only what it joins.
    """
    ratio = _LOOP_LAG_OF_ITL_RATIO_BY_KERNEL if by_kernel else _LOOP_LAG_OF_ITL_RATIO
    promised_s = min((level.limit for level in levels if level.metric in ("tpot", "itl")), default=None)
    return max(_LEAST_LOOP_LAG_MS, (itl_p50_s or 0.0 if promised_s is None else promised_s) * 1e3 * ratio)


def warnings(
    good: Sequence[Record],
    tokens_per_event: float | None,
    lags: Lags,
    itl_s: Distribution | None,
    e2e_s: Distribution | None,
    warm_up_s: float | None,
    *,
    is_calibrated: bool,
) -> Iterator[str]:
    """What to keep in mind about the figures.

    Args:
        good: Measured requests that succeeded.
        tokens_per_event: That the engine sent together, on average.
        lags: Of the generator.
        itl_s: Time between tokens.
        e2e_s: Time of whole answers.
        warm_up_s: Of an open loop.
        is_calibrated: Whether prompts were as long as asked for, in tokens.
    """
    if lags.loop_ms is not None and itl_s is not None and lags.loop_ms > allowed_loop_lag_ms((), itl_s.p50, by_kernel=lags.by_kernel):
        effect = "tokens that came meanwhile count as one event" if lags.by_kernel else "times between tokens are too long by as much"
        yield f"the load generator was up to {time_text(lags.loop_ms / 1e3)} late (p99): {effect} here and there"
    if e2e_s is not None and warm_up_s is not None and e2e_s.p95 > warm_up_s:
        too_few = "so at its end fewer requests were under way than later, and the first measured ones had it easier"
        yield f"whole answers took {time_text(e2e_s.p95)} (p95), the warm-up {warm_up_s:g} s, {too_few}: --warm-up {math.ceil(e2e_s.p95)}s"
    if 0 < len(good) < _FEWEST_FOR_P95:
        yield f"only {len(good)} requests succeeded: a 95th percentile of so few says little"
    uncounted = sum(record.completion_tokens is None for record in good)
    if uncounted:
        yield f"the engine did not count the tokens of {uncounted} answers: their token events were counted instead"
    if good and not is_calibrated:
        yield "the engine did not say how many tokens a word is: prompts have as many words as tokens were asked for"
    if tokens_per_event is not None and tokens_per_event > TOKENS_PER_EVENT:
        yield f"the engine joins {tokens_per_event:.2f} tokens per event: gaps between events are not gaps between tokens"


def _of_schedule(measured: Sequence[Record], due: int, window_s: float, levels: tuple[Level, ...], lags: Lags, *, is_interrupted: bool) -> str | None:
    """An open loop is one only when every request was sent, and when it was due."""
    if lags.send_ms is None:
        return None
    allowed_ms = allowed_send_lag_ms(levels)
    if due > len(measured) and not is_interrupted:
        return f"{due - len(measured)} of {due} requests that were due were never sent{_remedy(measured, window_s)}"
    if lags.send_ms > allowed_ms:
        return f"requests were sent {time_text(lags.send_ms / 1e3)} late (p99), more than {limit_text(allowed_ms / 1e3)}{_remedy(measured, window_s)}"
    first_ns = min(record.moment_ns for record in measured)
    begun = sum(first_ns <= record.start_ns <= first_ns + window_s * 1e9 for record in measured)
    if abs(begun - len(measured)) > max(1.0, _RATE_OFF_RATIO * len(measured)):
        return f"{begun} of {len(measured)} requests were sent within the measured phase{_remedy(measured, window_s)}"
    return None


def _of_loop(good: Sequence[Record], levels: tuple[Level, ...], lags: Lags, itl_s: Distribution | None) -> str | None:
    if lags.loop_ms is None or not good:
        return None
    allowed_ms = allowed_loop_lag_ms(levels, itl_s.p50 if itl_s else None, by_kernel=lags.by_kernel)
    if lags.loop_ms <= allowed_ms:
        return None
    part = "half" if lags.by_kernel else "a tenth"
    of_what = limit_text(allowed_ms / 1e3) + (f", {part} of the time between tokens" if allowed_ms > _LEAST_LOOP_LAG_MS else "")
    cause = "it shares its processors with something busy, or has too much to do"
    return f"the load generator was late by {time_text(lags.loop_ms / 1e3)} (p99), more than {of_what}: {cause}"


def _remedy(measured: Sequence[Record], window_s: float) -> str:
    """What this generator can do: the rate at which it did send."""
    stamps = sorted(record.start_ns for record in measured)
    span_s = max(window_s, (stamps[-1] - stamps[0]) / 1e9) if stamps else 0.0
    return f": this generator reached {len(stamps) / span_s:.1f} requests/s; give it more --processes, or machines (--on)" if span_s else ""

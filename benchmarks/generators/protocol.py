"""The tests: accuracy (A), most streams (B), highest rate (C), a server that stands still (D), capacity (E), long prompts (F).

Each for one contender, once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from generators.capacity import Queue
from generators.contenders import Contender
from generators.judging import (
    Errors,
    arrivals_s,
    counted,
    errors_of,
    exponential_p,
    frozen_percentile_ms,
    most,
    rate_of,
    streams_of,
    variation_of,
)
from generators.loads import Goal, Load
from generators.running import Bench, Run, progress, run, search

Result = dict[str, Any]

TTFT_LIMIT_MS = 5.0
LAG_LIMIT_MS = 5.0
GAP_LIMIT_MS = 2.0
KS_LIMIT = 0.01
_START, _LIMIT = 64, 8192
"""Of a search for the most streams or the highest rate."""
_AGAIN = 3
"""How often a run is repeated in which the mock engine was late."""


@dataclass(frozen=True)
class Pace:
    """How the mock engine answers: the pace in seconds, and its other options."""

    ttft_s: float
    itl_s: float
    tokens: int

    @property
    def service_s(self) -> float:
        return self.ttft_s + (self.tokens - 1) * self.itl_s

    def options(self, **others: object) -> dict[str, object]:
        """The mock engine's options; streams that begin together get their events at different moments."""
        itl_us = round(self.itl_s * 1e6)
        spread = {"ttft-us": round(self.ttft_s * 1e6), "itl-us": itl_us, "spread-us": itl_us}
        return {**spread, "tokens": self.tokens, **{key.replace("_", "-"): value for key, value in others.items()}}


MODES: Mapping[str, dict[str, object]] = {
    "plain": {},
    "role first": {"role_first": True},
    "4 tokens an event": {"tokens_per_event": 4},
    "reasoning": {"reasoning": 24},
    "reasoning_content": {"reasoning": 24, "reasoning_field": "reasoning_content"},
    "split events": {"split_us": 5000},
    "truncated": {"fault": "truncated:20"},
    "error inside": {"fault": "error:20"},
    "unfinished": {"fault": "unfinished:20"},
}

_ACCURACY = Pace(0.2, 0.02, 48)
_STREAMS = Pace(0.2, 0.02, 100)
_RATE = Pace(0.1, 0.01, 16)
_FROZEN_PER_S, _FROZEN_S = 50.0, 2.0
_PROMPTS = Pace(2.0, 0.02, 16)
_CAPACITY = Pace(0.1, 0.01, 31)
_CAPACITY_PLACES, _CAPACITY_SPREAD_S, _CAPACITY_LIMIT_S = 16, 0.1, 0.4
"""So many are served at a time; their first tokens take 0.1 to 0.2 s, so that streams do not keep step; and they are to come within 0.4 s."""
_SEARCH_S = 900
"""What a search may take beyond its probes: some generators start themselves anew for each."""


def valid_run(bench: Bench, contender: Contender, load: Load, options: Mapping[str, object]) -> Run:
    """A run that counts: repeated while the mock engine was late in it, and void when it was late each time."""
    for attempt in range(_AGAIN + 1):
        done = run(bench, contender, load, options)
        if not done.is_void:
            break
        progress(f"    {contender.name}: {done.broken}" + (", once more" if attempt < _AGAIN else ""))
    return done


def accuracy(bench: Bench, contender: Contender, seconds: float, tolerance: float, near: int = 0) -> Result:  # noqa: ARG001  # tests are called alike
    """A: what is reported beyond the truth when four streams make no work, in every manner in which an engine answers."""
    found: Result = {}
    for mode, others in MODES.items():
        load = Load("closed", seconds, _ACCURACY.tokens, _ACCURACY.service_s, streams=4)
        done = valid_run(bench, contender, load, _ACCURACY.options(**others))
        found[mode] = _told(done, contender, int(str(others.get("tokens_per_event", 1))))
        progress(f"  A {contender.name}, {mode}: {_line(found[mode])}")
    return found


def streams(bench: Bench, contender: Contender, seconds: float, tolerance: float, near: int = 0) -> Result:
    """B: the most streams at 50 tokens/s each with 99th percentiles that are right.

    Who has no gaps is judged by the time per token, which levels gaps out: that is in its favour.
    """
    tries: list[Result] = []

    def passes(count: int) -> bool:
        load = Load("closed", max(seconds, 3 * _STREAMS.service_s), _STREAMS.tokens, _STREAMS.service_s, streams=count, ramp_s=_STREAMS.service_s)
        done = valid_run(bench, contender, load, _STREAMS.options())
        told = _told(done, contender)
        if done.figures and not done.broken:
            told["open"] = streams_of(done.truth, _STREAMS.service_s, contender.ahead)
            told["passes"] = _is_right(told) and told["open"] >= 0.95 * count
        tries.append({"streams": count, "passes": False, **told})
        progress(f"  B {contender.name}, {count} streams: {_line(tries[-1])}")
        return bool(tries[-1]["passes"])

    return {"most": _most(passes, near, tolerance), "tries": tries}


def rate(bench: Bench, contender: Contender, seconds: float, tolerance: float, near: int = 0) -> Result:
    """C: the highest rate of Poisson arrivals that is kept, and whether the arrivals are Poisson: their gaps exponential, at whatever rate.

    Only kivactl says how late it sent what was due; the others are judged by what the mock engine saw alone, which is in their favour.
    """
    tries: list[Result] = []

    def passes(per_s: int) -> bool:
        load = Load("poisson", seconds, _RATE.tokens, _RATE.service_s, rate_per_s=per_s)
        done = valid_run(bench, contender, load, _RATE.options())
        told = _told(done, contender)
        if done.figures and not done.broken:
            window_ns = done.figures.window_ns
            arrivals = arrivals_s(done.truth, contender.ahead, window_ns)
            # A Poisson process of n arrivals is itself off by 1/sqrt(n); twice that is forgiven.
            floor = 0.99 * (1 - 2 / math.sqrt(max(len(arrivals), 1)))
            told |= {"kept": rate_of(arrivals) / per_s, "ks_p": exponential_p(arrivals, rate_of(arrivals)), "variation": variation_of(arrivals)}
            told["passes"] = bool(arrivals) and told["kept"] >= floor and len(counted(done.truth, contender.ahead, window_ns)) >= 0.99 * len(arrivals)
            told["right"] = told["passes"] and told["ks_p"] >= KS_LIMIT and _is_in_time(told)
        tries.append({"per_s": per_s, "passes": False, **told})
        progress(f"  C {contender.name}, {per_s}/s: {_line(tries[-1])}")
        return bool(tries[-1]["passes"])

    return {"most": _most(passes, near, tolerance), "tries": tries}


def frozen(bench: Bench, contender: Contender, seconds: float, tolerance: float, near: int = 0) -> Result:  # noqa: ARG001  # tests are called alike
    """D: requests come evenly, and in their midst the engine stands still: are they sent, and is their waiting told?"""
    load = Load("constant", max(seconds, 10.0), _RATE.tokens, _RATE.service_s, rate_per_s=_FROZEN_PER_S)
    done = valid_run(bench, contender, load, _RATE.options(freeze=f"{load.seconds / 2:g}:{_FROZEN_S:g}"))
    told = _told(done, contender)
    if done.figures and not done.broken:
        arrivals = arrivals_s(done.truth, contender.ahead)
        told["issued"] = sum(at <= load.seconds for at in arrivals) / load.requests
        expected = frozen_percentile_ms(99, (_RATE.ttft_s + _RATE.itl_s / 2) * 1000, load.seconds, _FROZEN_S)
        told["p99_off"] = done.figures.ttft_p99_ms / expected - 1 if done.figures.ttft_p99_ms is not None else None
    progress(f"  D {contender.name}: {_line(told)}")
    return told


def capacity(bench: Bench, contender: Contender, seconds: float, tolerance: float, near: int = 0) -> Result:  # noqa: ARG001  # tests are called alike
    """E: the generator's own search for the capacity of an engine whose capacity is known."""
    goal = Goal(_CAPACITY_LIMIT_S * 1000, 0.95, seconds, _CAPACITY.tokens, limit=256)
    spread_us = round(_CAPACITY_SPREAD_S * 1e6)
    options = {**_CAPACITY.options(capacity=_CAPACITY_PLACES), "spread-us": spread_us}
    done = search(bench, contender, goal, options, within_s=_SEARCH_S + 40 * seconds)
    told: Result = {"broken": done.broken, "sent": done.requests, "wall_s": done.wall_s}
    if done.found is not None:
        queue = Queue(_CAPACITY.ttft_s, _CAPACITY_SPREAD_S, _CAPACITY.service_s - _CAPACITY.ttft_s, _CAPACITY_PLACES)
        find = queue.streams_within if done.found.domain == "streams" else queue.rate_within
        told |= {"domain": done.found.domain, "found": done.found.value, "true": find(_CAPACITY_LIMIT_S, goal.attainment)}
    progress(f"  E {contender.name}: {told}")
    return told


def prompts(bench: Bench, contender: Contender, seconds: float, tolerance: float, near: int = 0) -> Result:  # noqa: ARG001  # tests are called alike
    """F: 64 prompts of 50,000 tokens at once: does the client collapse under its own requests?"""
    load = Load("closed", 1, _PROMPTS.tokens, _PROMPTS.service_s, streams=64, prompt_tokens=50_000)
    done = valid_run(bench, contender, load, _PROMPTS.options())
    told = _told(done, contender)
    if done.figures and not done.broken:
        good = counted(done.truth, contender.ahead)
        told["bytes"] = sum(request.bytes for request in good) / len(good) if good else 0.0
        # A client that is busy with its prompts sees first tokens in time and the others late, or the other way round.
        off = [(told["errors"]["ttft_p99"], _PROMPTS.ttft_s), (told["errors"]["itl_p50"], _PROMPTS.itl_s)]
        told["passes"] = len(good) >= load.requests and all(error is not None and abs(error) <= 100 * true_s for error, true_s in off)
    progress(f"  F {contender.name}: {_line(told)}")
    return told


def _most(passes: Callable[[int], bool], near: int, tolerance: float) -> int:
    """A search that begins at what an earlier round found, where there is one: that takes half the runs."""
    return most(passes, near, _LIMIT, tolerance, step=1.25) if near else most(passes, _START, _LIMIT, tolerance)


def _told(done: Run, contender: Contender, tokens_per_event: int = 1) -> Result:
    """What a run says, for the report."""
    told: Result = {"broken": done.broken, "cpu_s": done.cpu_s, "late_p99_ms": done.truth.late_p99_ms, "sent": len(done.truth.requests)}
    if done.figures is not None and not done.broken:
        errors = errors_of(done.figures, done.truth, tokens_per_event, contender.ahead)
        told |= {
            "figures": asdict(done.figures),
            "errors": asdict(errors),
            "connections": done.truth.connections,
        }
    return told


def _is_right(told: Result) -> bool:
    errors = Errors(**told["errors"])
    return (
        errors.ttft_p99 is not None
        and abs(errors.ttft_p99) <= TTFT_LIMIT_MS
        and errors.gap_p99 is not None
        and abs(errors.gap_p99) <= GAP_LIMIT_MS
        and errors.missed <= 0.01 * told["figures"]["requests"]
    )


def _is_in_time(told: Result) -> bool:
    """Whether requests were sent when they were due, as far as the generator says, and first tokens told as they came."""
    return abs(told["errors"]["ttft_p99"] or 0.0) <= TTFT_LIMIT_MS and (told["figures"]["lag_p99_ms"] or 0.0) <= LAG_LIMIT_MS


_SHOWN: Mapping[str, Callable[[Any], str]] = {
    "open": lambda value: f"{value:.0f} open",
    "kept": lambda value: f"{value:.1%} of the rate",
    "ks_p": lambda value: f"KS p {value:.3f}",
    "issued": lambda value: f"{value:.1%} issued",
    "p99_off": lambda value: "no TTFT" if value is None else f"p99 off by {value:+.1%}",
    "passes": lambda value: "passes" if value else "fails",
}


def _line(told: Result) -> str:
    if told["broken"]:
        return str(told["broken"])
    errors = told["errors"]
    parts = [f"{name} {errors[name]:+.2f} ms" for name in ("ttft_p50", "ttft_p99", "itl_p50", "gap_p99") if errors[name] is not None]
    parts += [f"{errors['missed']} missed"] if errors["missed"] else []
    return ", ".join(parts + [show(told[key]) for key, show in _SHOWN.items() if key in told])

"""Runs of a load test as data, for the tests of its reports."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kivactl.loadtest.bottleneck import bottleneck_of
from kivactl.loadtest.engine_samples import EngineSample
from kivactl.loadtest.levels import levels_from
from kivactl.loadtest.material import Material
from kivactl.loadtest.metrics import Conditions, Summary, Window, summary_for
from kivactl.loadtest.probe import Probe
from kivactl.loadtest.record import FailureKind, Record

MS = 1_000_000
S = 1000 * MS
WINDOW = Window(10 * S, 20 * S)
LEVELS = levels_from({"ttft_p95": 0.5, "tpot_p95": 0.05, "error_ratio": 0.1, "attainment": 0.9})


def answered(index: int, at_ns: int, ttft_ms: int = 100, gap_ms: int = 20, tokens: int = 11, **changes: Any) -> Record:
    stamps = tuple(at_ns + ttft_ms * MS + number * gap_ms * MS for number in range(tokens))
    record = Record(index, at_ns, stamps[-1], sent_ns=at_ns, token_ns=stamps, completion_tokens=tokens, prompt_tokens=3, status=200, finish_reason="length")
    return replace(record, **changes)


def failed(index: int, at_ns: int, kind: FailureKind = FailureKind.STATUS, reason: str = "status 500: no") -> Record:
    return Record(index, at_ns, at_ns + 30 * MS, sent_ns=at_ns, status=500, failure=kind, reason=reason)


def some_records(count: int = 120, group: str = "") -> list[Record]:
    """From 2 s before the measured phase to its end, each tenth a failure."""
    step_ns = 12 * S // count
    times = [8 * S + number * step_ns for number in range(count)]
    return [failed(number, at_ns) if number % 10 == 9 else answered(number, at_ns, 80 + number % 7 * 9, group=group) for number, at_ns in enumerate(times)]


def summary_of(records: list[Record], window: Window | None = WINDOW, levels: Any = LEVELS, **known: Any) -> Summary:
    names = {"scenario": "smoke", "model": "m", "concurrency": 2, "load": "2 users in a closed loop", **known}
    return summary_for(records, window, levels, Conditions(**names))


def samples(replicas: tuple[str, ...] = ("m-0", "m-1"), seconds: int = 14) -> tuple[EngineSample, ...]:
    return tuple(
        EngineSample(
            7 * S + second * S,
            name,
            4.0 + second % 3,
            second % 2,
            0.5,
            second,
            second * 900,
            second * 400,
            second * 0.2,
            second,
            second,
            second,
            second,
            second * 50,
            second * 100,
        )
        for second in range(seconds)
        for name in replicas
    )


def probe(load: float, met: bool | None, tokens_per_s: float = 100.0, ttft_p95_s: float | None = 0.3, unit: str = "requests/s") -> Probe:
    return Probe(load, unit, met, 95, 100, 0.88, 0.98, 0.1, ttft_p95_s, 0.02, 0.03, 1.5, load, tokens_per_s, 0.01, f"probe-{load:g}")


def material(records: list[Record] | None = None, window: Window | None = WINDOW, **changes: Any) -> Material:
    """A whole run with all that there may be."""
    known = some_records() if records is None else records
    summary = summary_of(known, window)
    found = bottleneck_of(summary, samples(), window)
    told = {**summary.as_dict(), "bottleneck": found.as_dict() if found else None}
    probes = (probe(2, True, 200), probe(4, True, 400), probe(8, None, 700, 0.4), probe(16, False, 800, 2.0), probe(32, False, 790, None))
    environment = {"client": {"cores": 4, "pinned": [0, 1], "limits": {"files": 1024}}, "note": "none", "proxy": None}
    return replace(Material(told, known, window, environment, samples(), probes), **changes)

"""One run of several: of a sweep, or of the search for the capacity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kivactl.loadtest.assignment import RATE


@dataclass(frozen=True, slots=True)
class Probe:
    """What came of one load. Times are seconds, None where there was nothing to measure.

    Attributes:
        load: Users or requests per second.
        unit: `USERS` or `RATE`.
        met: Whether the service levels were met; None where that could not be told.
        good: Requests that kept every limit.
        due: Requests that were due.
        low: Lower end of the interval of their share (95 %).
        high: Its upper end.
        folder: Of the run, from the folder of all of them on.
        invalid: Why what was measured cannot be believed, as one sentence; None where it can.
    """

    load: float
    unit: str
    met: bool | None
    good: int
    due: int
    low: float
    high: float
    ttft_p50_s: float | None
    ttft_p95_s: float | None
    tpot_p50_s: float | None
    tpot_p95_s: float | None
    e2e_p95_s: float | None
    requests_per_s: float
    output_tokens_per_s: float
    error_ratio: float
    folder: str
    invalid: str | None = None


def probe_of(summary: Mapping[str, Any], load: float, unit: str, met: bool | None, folder: str) -> Probe:
    """A probe from the summary of its run."""
    attainment = summary["attainment"]
    ttft = summary["ttft_due_s"] if unit == RATE else summary["ttft_s"]
    e2e = summary["e2e_due_s"] if unit == RATE else summary["e2e_s"]

    def of(times: Mapping[str, float] | None, name: str) -> float | None:
        return times[name] if times else None

    return Probe(
        load=load,
        unit=unit,
        met=met,
        good=attainment["good"],
        due=attainment["due"],
        low=attainment["low"],
        high=attainment["high"],
        ttft_p50_s=of(ttft, "p50"),
        ttft_p95_s=of(ttft, "p95"),
        tpot_p50_s=of(summary["tpot_s"], "p50"),
        tpot_p95_s=of(summary["tpot_s"], "p95"),
        e2e_p95_s=of(e2e, "p95"),
        requests_per_s=summary["requests_per_s"],
        output_tokens_per_s=summary["output_tokens_per_s"],
        error_ratio=summary["error_ratio"],
        folder=folder,
        invalid=summary["invalid"],
    )

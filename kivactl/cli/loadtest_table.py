"""A load test's summary as tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kivactl.cli.output import Sink

_DISTRIBUTIONS = (("ttft_s", "time to first token"), ("tpot_s", "time per further token"), ("e2e_s", "whole answer"))


def show_summary(sink: Sink, summary: Mapping[str, Any]) -> None:
    """Show what was measured: rates, latencies, service levels."""
    failed = summary["requests"] - summary["succeeded"]
    sink.text(
        f"{summary['scenario']}: {summary['requests']} requests ({failed} failed) in {summary['window_s']:.0f} s, "
        f"{summary['concurrency']} users, {summary['requests_per_s']:.2f} requests/s, {summary['output_tokens_per_s']:.1f} tokens/s"
    )
    rows = [(label, *(_ms(summary[key][column]) for column in ("p50", "p90", "p95", "p99"))) for key, label in _DISTRIBUTIONS if summary.get(key)]
    if rows:
        sink.table(("LATENCY (ms)", "P50", "P90", "P95", "P99"), rows)
    levels = [
        (level["name"], _value(level["name"], level["limit"]), _value(level["name"], level["measured"]), "met" if level["met"] else "missed")
        for level in summary["service_levels"]
    ]
    sink.table(("SERVICE LEVEL", "PROMISED", "MEASURED", ""), levels, {"met": "green", "missed": "red"})
    for kind, count in summary["failures"].items():
        sink.warn(f"{count} x {kind}: {summary['failure_examples'].get(kind, '')}")
    if summary["invalid"]:
        sink.warn(f"the measurement is invalid: {summary['invalid']}")
    for warning in summary.get("warnings", ()):
        sink.warn(warning)
    if summary.get("report"):
        sink.note(f"report: {summary['report']}")


def _ms(value_s: float) -> str:
    return f"{value_s * 1000:.1f}"


def _value(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value * 100:.2f} %" if name.endswith("_ratio") else f"{value * 1000:.0f} ms"

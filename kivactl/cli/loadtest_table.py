"""A load test's summary as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kivactl.cli.output import Sink
from kivactl.loadtest.levels import ATTAINMENT, ERROR_RATIO
from kivactl.loadtest.wording import decided_text, level_text, measured_text, processes_text, ratio_text, time_text

if TYPE_CHECKING:
    from kivactl.loadtest.comparison import Difference

_DISTRIBUTIONS = (
    ("ttft_s", "time to first token"),
    ("ttft_due_s", "first token since due"),
    ("tpot_s", "time per further token"),
    ("itl_s", "time between tokens"),
    ("e2e_s", "whole answer"),
)


def show_summary(sink: Sink, summary: Mapping[str, Any]) -> None:
    """Show what was measured: rates, latencies, service levels."""
    failed = summary["requests"] - summary["succeeded"]
    sink.text(
        f"{summary['scenario']}: {summary['requests']} requests ({failed} failed) in {summary['window_s']:.0f} s, "
        f"{summary['load']}; {summary['requests_per_s']:.2f} answers/s, {summary['output_tokens_per_s']:.1f} tokens/s"
    )
    shown = [pair for pair in _DISTRIBUTIONS if pair[0] != "ttft_due_s" or summary["send_lag_p99_ms"] is not None]
    rows = [(label, *(time_text(summary[key][column]) for column in ("p50", "p90", "p95", "p99"))) for key, label in shown if summary.get(key)]
    if rows:
        sink.table(("LATENCY", "P50", "P90", "P95", "P99"), rows)
    levels = [
        (name, level_text(name, limit), measured_text(name, level["measured"], limit), "met" if level["met"] else "missed")
        for level in summary["service_levels"]
        for name, limit in [(level["name"], level["limit"])]
    ]
    sink.table(("SERVICE LEVEL", "PROMISED", "MEASURED", ""), levels, {"met": "green", "missed": "red"})
    if summary.get("answer"):
        show_probes(sink, summary)
    if summary.get("bottleneck"):
        sink.text(f"bottleneck: {summary['bottleneck']['name']}. {summary['bottleneck']['sentence']}")
    for kind, count in summary["failures"].items():
        sink.warn(f"{count} x {kind}: {summary['failure_examples'].get(kind, '')}")
    if summary["invalid"]:
        sink.warn(f"the measurement is invalid: {summary['invalid']}")
    for warning in summary.get("warnings", ()):
        sink.warn(warning)
    if summary.get("report"):
        sink.note(f"report: {summary['report']}")


def show_probes(sink: Sink, summary: Mapping[str, Any]) -> None:
    """Show the runs of a search or a sweep, and what they say together."""
    rows = [
        (
            f"{probe['load']:.4g}",
            f"{probe['good']} of {probe['due']}",
            *("-" if probe[name] is None else time_text(probe[name]) for name in ("ttft_p50_s", "ttft_p95_s", "tpot_p95_s")),
            f"{probe['output_tokens_per_s']:.1f}",
            "no measurement" if probe.get("invalid") else {True: "met", False: "missed", None: "undecided"}[probe["met"]],
        )
        for probe in summary["probes"]
    ]
    unit = summary["probes"][0]["unit"].upper() if summary["probes"] else "LOAD"
    sink.table((unit, "GOOD", "TTFT P50", "TTFT P95", "TPOT P95", "TOKENS/S", ""), rows, {"met": "green", "missed": "red"})
    if decided := decided_text(summary["probes"]):
        sink.text(decided)
    sink.text(f"{summary['answer'][0].upper()}{summary['answer'][1:]}.")


def show_plan(sink: Sink, told: Mapping[str, Any]) -> None:
    """Show what would be sent."""
    each = "" if told["runs"] == 1 else " each"
    length = f", measured for {told['duration_s']:g} s{each}" if told["duration_s"] else ""
    requests = f": {told['requests']} requests" if told["requests"] else ""
    sink.text(f"{told['scenario']}: {told['load']}, {told['warm_up_s']:g} s of warm-up{length}{requests}")
    where = f" on each of {', '.join(told['machines'])}" if told["machines"] else ""
    sink.text(f"Sent by {processes_text(told['processes'])} of the load generator{where}.")
    if told["warning"]:
        sink.warn(told["warning"])
    total = sum(kind["share"] for kind in told["kinds"])
    rows = [
        (
            kind["name"] or "all",
            f"{kind['share'] / total:.0%}",
            kind["tenant"] or "-",
            f"{kind['prompt_tokens']:g}" if kind["prompt_tokens"] else "-",
            str(kind["output_tokens"]),
        )
        for kind in told["kinds"]
    ]
    sink.table(("REQUESTS", "SHARE", "TENANT", "PROMPT TOKENS", "ANSWER, AT MOST"), rows)


def show_comparison(sink: Sink, first: str, second: str, differences: Sequence[Difference], doubts: Sequence[str]) -> None:
    """Show two runs side by side."""
    rows = [
        (
            found.name,
            _value(found.name, found.first.value),
            _value(found.name, found.second.value),
            "-" if found.change_ratio is None else f"{found.change_ratio:+.1%}",
            f"{_value(found.name, found.low)} to {_value(found.name, found.high)}",
            found.verdict,
        )
        for found in differences
    ]
    sink.text(f"A: {first}\nB: {second}")
    sink.table(("FIGURE", "A", "B", "CHANGE", "B - A, 95 %", ""), rows, {"better": "green", "worse": "red"})
    for doubt in doubts:
        sink.warn(doubt)


def _value(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    if name.endswith("_per_s"):
        return f"{value:.2f}"
    return ratio_text(value) if name in (ERROR_RATIO, ATTAINMENT) else time_text(value)

"""The report of a load test as Markdown, for people; the figures for machines are in `summary.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kivactl.loadtest.distribution import Distribution
from kivactl.loadtest.metrics import Summary
from kivactl.loadtest.wording import TIMES, is_told_already, level_text, measured_text, ratio_text, sentence_of, time_text


def report_for(summary: Summary) -> str:
    """The report: verdict first, then the figures, then what to keep in mind."""
    parts = [
        f"# Load test '{summary.scenario}'",
        sentence_of(summary.as_dict()),
        f"{summary.load} on model '{summary.model}', measured for {summary.window_s:.1f} s (seed {summary.seed}).",
        _service_levels(summary),
        _times(summary),
        _rates(summary),
        _failures(summary),
    ]
    if summary.warnings:
        parts.append("## Keep in mind\n\n" + "\n".join(f"- {warning}" for warning in summary.warnings))
    return "\n\n".join(part for part in parts if part) + "\n"


def search_report_for(told: Mapping[str, Any]) -> str:
    """The report of several runs: the answer, then each run."""
    rows = []
    for probe in told["probes"]:
        times = " | ".join("-" if probe[name] is None else time_text(probe[name]) for name in ("ttft_p50_s", "ttft_p95_s", "tpot_p95_s", "e2e_p95_s"))
        met = {True: "yes", False: "**no**", None: "unsure"}[probe["met"]]
        ratio = f"{probe['good']} of {probe['due']}"
        rows.append(f"| [{probe['load']:.4g}]({probe['folder']}/report.md) | {met} | {ratio} | {times} | {probe['output_tokens_per_s']:.1f} |")
    unit = told["probes"][0]["unit"] if told["probes"] else "load"
    head = (unit, "levels met", "good requests", "TTFT p50", "TTFT p95", "TPOT p95", "E2E p95", "tokens/s")
    reason = f"Invalid: {told['invalid']}." if told["invalid"] else "Interrupted." if told["interrupted"] else ""
    answer = f"{told['answer'][0].upper()}{told['answer'][1:]}."
    return "\n\n".join(part for part in (f"# Load test '{told['scenario']}'", reason, answer, _table(head, rows)) if part) + "\n"


def _service_levels(summary: Summary) -> str:
    rows = []
    for verdict in summary.service_levels:
        promised, measured = level_text(verdict.name, verdict.limit), measured_text(verdict.name, verdict.measured, verdict.limit)
        rows.append(f"| {verdict.name} | {promised} | {measured} | {'yes' if verdict.met else '**no**'} |")
    return _table(("Service level", "promised", "measured", "met"), rows)


def _times(summary: Summary) -> str:
    rows, told = [], summary.as_dict()
    for title, name in TIMES:
        times: Distribution | None = getattr(summary, name)
        if times and not is_told_already(told, name):
            rows.append(f"| {title} | {' | '.join(time_text(value) for value in (times.mean, times.p50, times.p90, times.p95, times.p99))} | {times.count} |")
    return _table(("Time", "mean", "p50", "p90", "p95", "p99", "values"), rows) if rows else ""


def _rates(summary: Summary) -> str:
    good = summary.attainment
    rows = [
        f"| Requests due / measured | {summary.due} / {summary.requests} |",
        f"| Failed | {summary.requests - summary.succeeded} ({ratio_text(summary.error_ratio)}) |",
        f"| Requests per second, due / answered | {summary.offered_rps:.2f} / {summary.requests_per_s:.2f} |",
        f"| Good requests (within every limit) | {good.good} ({ratio_text(good.ratio)}; {ratio_text(good.low)} to {ratio_text(good.high)}) |",
        f"| Goodput | {summary.goodput_rps:.2f} requests/s |",
        f"| Under way at the same time, at most | {summary.most_under_way} |",
        f"| Output tokens per second | {summary.output_tokens_per_s:.1f} |",
        f"| Tokens, prompts / answers | {summary.prompt_tokens} / {summary.output_tokens} |",
    ]
    if summary.cut:
        rows.append(f"| Cut off by the end | {summary.cut} |")
    if summary.generator_lag_p99_ms is not None:
        rows.append(f"| Generator's lag, p99 | {time_text(summary.generator_lag_p99_ms / 1e3)} |")
    if summary.send_lag_p99_ms is not None:
        rows.append(f"| Requests sent late by, p99 | {time_text(summary.send_lag_p99_ms / 1e3)} |")
    if summary.cached_ratio is not None:
        rows.append(f"| Prompt tokens from the prefix cache | {ratio_text(summary.cached_ratio)} |")
    return _table(("Figure", "value"), rows)


def _failures(summary: Summary) -> str:
    cell = {kind: example.replace("|", "\\|").replace("\n", " ") for kind, example in summary.failure_examples.items()}
    rows = [f"| {kind} | {count} | {cell[kind]} |" for kind, count in summary.failures.items()]
    return _table(("Failure", "requests", "for example"), rows) if rows else ""


def _table(head: tuple[str, ...], rows: list[str]) -> str:
    return "\n".join([f"| {' | '.join(head)} |", "|" + "---|" * len(head), *rows])

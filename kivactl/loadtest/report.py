"""The report of a load test as Markdown, for people; the figures for machines are in `summary.json`."""

from __future__ import annotations

from kivactl.loadtest.metrics import Distribution, Summary

_ROWS = (
    ("Time to first token (TTFT)", "ttft_s"),
    ("Time per further token (TPOT)", "tpot_s"),
    ("Gap between token events (ICL)", "icl_s"),
    ("Whole answer (E2E)", "e2e_s"),
    ("New connection", "connect_s"),
)


def report_for(summary: Summary) -> str:
    """The report: verdict first, then the figures, then what to keep in mind."""
    parts = [
        f"# Load test '{summary.scenario}'",
        verdict_sentence(summary),
        f"{summary.concurrency} users in a closed loop on model '{summary.model}', measured for {summary.window_s:.1f} s.",
        _service_levels(summary),
        _times(summary),
        _rates(summary),
        _failures(summary),
    ]
    if summary.warnings:
        parts.append("## Keep in mind\n\n" + "\n".join(f"- {warning}" for warning in summary.warnings))
    return "\n\n".join(part for part in parts if part) + "\n"


def verdict_sentence(summary: Summary) -> str:
    """The result in one sentence."""
    missed = ", ".join(verdict.name for verdict in summary.service_levels if not verdict.met)
    result = summary.invalid or (f"service levels missed: {missed}" if missed else "all service levels met")
    if summary.interrupted:
        return f"Interrupted; until then: {result}."
    return f"Invalid: {result}." if summary.invalid else f"{result[0].upper()}{result[1:]}."


def _service_levels(summary: Summary) -> str:
    rows = []
    for verdict in summary.service_levels:
        shown = _ratio if verdict.name.endswith("_ratio") else _time
        measured = "-" if verdict.measured is None else shown(verdict.measured)
        rows.append(f"| {verdict.name} | {shown(verdict.limit)} | {measured} | {'yes' if verdict.met else '**no**'} |")
    return _table(("Service level", "promised", "measured", "met"), rows)


def _times(summary: Summary) -> str:
    rows = []
    for title, name in _ROWS:
        times: Distribution | None = getattr(summary, name)
        if times:
            rows.append(f"| {title} | {' | '.join(_time(value) for value in (times.mean, times.p50, times.p90, times.p95, times.p99))} | {times.count} |")
    return _table(("Time", "mean", "p50", "p90", "p95", "p99", "values"), rows) if rows else ""


def _rates(summary: Summary) -> str:
    rows = [
        f"| Requests measured | {summary.requests} |",
        f"| Failed | {summary.requests - summary.succeeded} ({_ratio(summary.error_ratio)}) |",
        f"| Requests per second | {summary.requests_per_s:.2f} |",
        f"| Output tokens per second | {summary.output_tokens_per_s:.1f} |",
        f"| Tokens, prompts / answers | {summary.prompt_tokens} / {summary.output_tokens} |",
    ]
    if summary.cut:
        rows.append(f"| Cut off by the end | {summary.cut} |")
    if summary.generator_lag_p99_ms is not None:
        rows.append(f"| Generator's lag, p99 | {summary.generator_lag_p99_ms:.2f} ms |")
    return _table(("Figure", "value"), rows)


def _failures(summary: Summary) -> str:
    cell = {kind: example.replace("|", "\\|").replace("\n", " ") for kind, example in summary.failure_examples.items()}
    rows = [f"| {kind} | {count} | {cell[kind]} |" for kind, count in summary.failures.items()]
    return _table(("Failure", "requests", "for example"), rows) if rows else ""


def _table(head: tuple[str, ...], rows: list[str]) -> str:
    return "\n".join([f"| {' | '.join(head)} |", "|" + "---|" * len(head), *rows])


def _time(value_s: float) -> str:
    return f"{value_s * 1e3:.1f} ms" if value_s < 1 else f"{value_s:.2f} s"


def _ratio(value: float) -> str:
    return f"{value * 100:.2f} %"

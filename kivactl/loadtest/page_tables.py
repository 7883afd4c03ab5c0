"""The tables of a load test's page; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kivactl.loadtest.distribution import percentile
from kivactl.loadtest.levels import ATTAINMENT, Level
from kivactl.loadtest.material import Material
from kivactl.loadtest.page_course import Course
from kivactl.loadtest.page_parts import Row, Table
from kivactl.loadtest.record import Record
from kivactl.loadtest.validity import allowed_loop_lag_ms, allowed_send_lag_ms
from kivactl.loadtest.wording import TIMES, generator_text, is_told_already, level_text, limit_text, measured_text, ratio_text, time_text

_COLUMNS = ("mean", "p50", "p90", "p95", "p99")
_MOST_SLICES, _PER_SLICE = 10, 5
_NAMES = {"ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "e2e": "E2E"}
_RATIOS = {"error_ratio": "Failed requests, at most", ATTAINMENT: "Good requests, at least"}
_PARTS = {
    "generator": "before it was sent",
    "gateway": "between client and engine",
    "queue": "in the engines' queue",
    "prefill": "prefill",
    "decode": "decode",
}


def facts(told: Mapping[str, Any]) -> Table:
    """What was measured, and how."""
    rows = [
        ("Load", told["load"]),
        ("Model", told["model"]),
        ("Measured phase", f"{told['window_s']:.1f} s"),
        (
            "Requests",
            f"{told['due']} due, {told['requests']} measured, {told['requests'] - told['succeeded']} failed"
            + (f", {told['cut']} cut off" if told["cut"] else ""),
        ),
        ("Seed", str(told["seed"])),
        ("Generator", generator_text(told)),
    ]
    return Table("What was measured", ("", ""), tuple(Row(row) for row in rows))


def tiles(told: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The figures that are asked for first: name, value, what else."""
    is_open = told["send_lag_p99_ms"] is not None
    for name, key in (("TTFT p95", "ttft_due_s" if is_open else "ttft_s"), ("TPOT p95", "tpot_s"), ("E2E p95", "e2e_due_s" if is_open else "e2e_s")):
        times = told[key]
        if times:
            yield name, time_text(times["p95"]), f"median {time_text(times['p50'])}"
    yield "Output tokens", f"{told['output_tokens_per_s']:.0f}/s", f"{told['output_tokens']:,} in all"
    yield "Answered", f"{told['requests_per_s']:.2f}/s", f"{told['offered_rps']:.2f}/s due"
    good = told["attainment"]
    yield "Good requests", f"{good['ratio'] * 100:.1f} %", f"{good['low'] * 100:.1f} to {good['high'] * 100:.1f} %, of {good['due']}"
    yield "Failed", f"{told['error_ratio'] * 100:.2f} %", f"{told['requests'] - told['succeeded']} of {told['requests']}"


def service_levels(told: Mapping[str, Any]) -> Table | None:
    """What was promised, and what was measured of it."""
    rows = []
    for level in told["service_levels"]:
        measured, limit = level["measured"], level["limit"]
        of_limit = f"{measured / limit * 100:.0f} %" if measured is not None and limit and level["name"] != ATTAINMENT else "-"
        cells = (level_name(level["name"]), level["name"], level_text(level["name"], limit), measured_text(level["name"], measured, limit), of_limit)
        rows.append(Row((*cells, "✔ met" if level["met"] else "✘ missed"), "good" if level["met"] else "bad"))
    head = ("Service level", "name", "promised", "measured", "of the limit", "result")
    return Table("What was promised, and what was measured", head, tuple(rows), numbers=(2, 3, 4)) if rows else None


def level_name(name: str) -> str:
    """A service level in words."""
    level = Level(name, 0)
    if level.percent is None:
        return _RATIOS.get(name, name)
    return f"{_NAMES[level.metric]}, {level.percent}th percentile, at most"


def bottleneck_parts(found: Mapping[str, Any]) -> Table | None:
    """Where the time of an answer goes."""
    parts: Mapping[str, float] = found.get("parts_s") or {}
    total_s = sum(parts.values())
    if not total_s:
        return None
    # Without the engines' own figures, all that comes before the first token is one part.
    names = _PARTS if "queue" in parts else {**_PARTS, "prefill": "to the first token"}
    rows = [
        Row((names.get(name, name), time_text(part_s), f"{part_s / total_s:.0%}"), "warn" if name == found["name"] else "", part_s / total_s)
        for name, part_s in parts.items()
    ]
    return Table("Where the time of an answer goes, on average", ("Part", "time", "share"), tuple(rows), numbers=(1,))


def failures(told: Mapping[str, Any]) -> Table | None:
    """How many requests failed of each kind, and one example."""
    total = told["requests"]
    rows = [
        Row((kind, str(count), ratio_text(count / total if total else 0.0), told["failure_examples"].get(kind, ""))) for kind, count in told["failures"].items()
    ]
    return Table("Failures by kind", ("Kind", "requests", "of all", "for example"), tuple(rows), numbers=(1, 2)) if rows else None


def times(told: Mapping[str, Any]) -> Table | None:
    """All distributions."""
    rows = [
        Row((title, *(time_text(told[name][column]) for column in _COLUMNS), f"{told[name]['count']:,}"))
        for title, name in TIMES
        if told[name] and not is_told_already(told, name)
    ]
    return Table("Times of the requests that succeeded", ("Time", *_COLUMNS, "n"), tuple(rows), numbers=tuple(range(1, 7))) if rows else None


def figures(told: Mapping[str, Any]) -> Table:
    """All that is not a time."""
    good = told["attainment"]
    rows = [
        ("Requests per second, due / answered", f"{told['offered_rps']:.2f} / {told['requests_per_s']:.2f}"),
        ("Goodput: good requests per second", f"{told['goodput_rps']:.2f}"),
        ("Good requests (95 % interval)", f"{good['good']} of {good['due']} ({ratio_text(good['low'])} to {ratio_text(good['high'])})"),
        ("Output tokens per second", f"{told['output_tokens_per_s']:.1f}"),
        ("Tokens of prompts / answers", f"{told['prompt_tokens']:,} / {told['output_tokens']:,}"),
        ("Requests under way at the same time, at most", str(told["most_under_way"])),
    ]
    if told["cached_ratio"] is not None:
        rows.append(("Prompt tokens from the prefix cache", ratio_text(told["cached_ratio"])))
    if told["tokens_per_event"] is not None:
        rows.append(("Tokens per event", f"{told['tokens_per_event']:.2f}"))
    return Table("Rates and amounts", ("Figure", "value"), tuple(Row(row) for row in rows))


def over_time(course: Course) -> Table | None:
    """The measured phase in equal parts: the pictures as figures."""
    rows = []
    for begin_s, end_s, part in course.slices(min(_MOST_SLICES, max(1, len(course.measured) // _PER_SLICE))):
        good = [record for record in part if record.succeeded]
        failed = sum(record.failure is not None for record in part)
        times_s = [_sorted(good, name) for name in (("ttft_due_s", "e2e_due_s") if course.is_open else ("ttft_s", "e2e_s"))]
        shown = [time_text(percentile(known, percent)) if known else "-" for known in times_s for percent in (50, 95)]
        rows.append(Row((f"{begin_s:.4g} to {end_s:.4g} s", str(len(part)), str(len(good)), str(failed), *shown)))
    head = ("From the begin", "due" if course.is_open else "begun", "answered", "failed", "TTFT p50", "TTFT p95", "E2E p50", "E2E p95")
    return Table("The measured phase in equal parts, by when requests were due", head, tuple(rows), numbers=tuple(range(1, 8))) if rows else None


def mix(told: Mapping[str, Any]) -> Table | None:
    """The kinds of requests of a mix."""
    rows = []
    for name, group in told["groups"].items():
        good, shown = group["attainment"], []
        for key in ("ttft_s", "tpot_s", "e2e_s"):
            shown += [time_text(group[key][column]) for column in ("p50", "p95")] if group[key] else ["-", "-"]
        rows.append(
            Row((name, str(group["requests"]), str(group["requests"] - group["succeeded"]), f"{group['output_tokens']:,}", *shown, ratio_text(good["ratio"])))
        )
    head = ("Kind", "requests", "failed", "output tokens", "TTFT p50", "TTFT p95", "TPOT p50", "TPOT p95", "E2E p50", "E2E p95", "good")
    return Table("The kinds of requests", head, tuple(rows), numbers=tuple(range(1, 11))) if rows else None


def validity(told: Mapping[str, Any]) -> Table:
    """How late the generator was, and how late it might have been."""
    levels = [Level(level["name"], level["limit"]) for level in told["service_levels"]]
    itl_s, by_kernel = told["itl_s"]["p50"] if told["itl_s"] else None, told.get("stamps_by_kernel", False)
    rows = [
        _lag("Lag of the generator's loop, p99", told["generator_lag_p99_ms"], allowed_loop_lag_ms(levels, itl_s, by_kernel=by_kernel)),
        _lag("Delay of sending requests that were due, p99", told["send_lag_p99_ms"], allowed_send_lag_ms(levels)),
    ]
    rows.append(Row(("Tokens are stamped", "by the kernel, as they arrive" if by_kernel else "by the generator, as it reads them", "", "")))
    if told["send_lag_p99_ms"] is not None:
        unsent = told["due"] - told["requests"] - told["cut"]
        rows.append(Row(("Requests that were due and never sent", str(unsent), "0", "✘ no" if unsent else "✔ yes"), "bad" if unsent else "good"))
    return Table("Checks of the load generator", ("Check", "measured", "at most", "kept"), tuple(rows), numbers=(1, 2))


def _lag(title: str, lag_ms: float | None, allowed_ms: float) -> Row:
    if lag_ms is None:
        return Row((title, "-", limit_text(allowed_ms / 1e3), "not applicable"))
    keeps = lag_ms <= allowed_ms
    return Row((title, time_text(lag_ms / 1e3), limit_text(allowed_ms / 1e3), "✔ yes" if keeps else "✘ no"), "good" if keeps else "bad")


def environment(material: Material) -> tuple[Table, ...]:
    """A table for each section; what is no section stands in one of its own."""
    sections = {name: value for name, value in material.environment.items() if isinstance(value, Mapping)}
    alone = {name: value for name, value in material.environment.items() if not isinstance(value, Mapping)}
    shown = [(str(name), value) for name, value in [("general", alone), *sections.items()] if value]
    return tuple(Table(name.replace("_", " "), ("What", "value"), tuple(Row(row) for row in _flat(value))) for name, value in shown)


def _flat(values: Mapping[Any, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        name = f"{before}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}: ")
        elif isinstance(value, list | tuple):
            yield name, ", ".join(str(part) for part in value) or "-"
        else:
            yield name, "-" if value is None else {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def _sorted(records: list[Record], name: str) -> list[float]:
    return sorted(found for record in records if (found := getattr(record, name)) is not None)

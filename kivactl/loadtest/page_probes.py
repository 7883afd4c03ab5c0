"""Several runs at different loads: the curve of throughput and latency, its knee, and what was measured at each load; pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict

from kivactl.loadtest.levels import Level
from kivactl.loadtest.material import Material
from kivactl.loadtest.page_course import Points
from kivactl.loadtest.page_parts import Row, Table
from kivactl.loadtest.probe import Probe
from kivactl.loadtest.wording import decided_text, ratio_text, time_text
from kivactl.tools.chart import Chart, Look, Mark, Note, Panel, Series, Tone

KNEEDLE = 'V. Satopää et al., "Finding a Kneedle in a Haystack: Detecting Knee Points in System Behavior" (2011)'
_FEWEST = 4
_LEAST_BEND = 0.08
"""A curve that bends less is a line: noise would name its knee."""
_MOST_NAMED = 12


def believed(probes: Sequence[Probe]) -> tuple[Probe, ...]:
    """Those that are measurements; only they are part of a curve."""
    return tuple(probe for probe in probes if not probe.invalid)


def capacity_of(probes: Sequence[Probe]) -> float | None:
    """The largest load that met the service levels, the last time that could be told; None without one.

    Args:
        probes: In the order in which they ran.
    """
    decided = {probe.load: probe.met for probe in probes if probe.met is not None}
    return max((load for load, met in decided.items() if met), default=None)


def knee_of(probes: Sequence[Probe]) -> float | None:
    """The load from which on more load hardly brings more throughput: where the curve is farthest above its chord.

    Both axes are scaled to 0..1 before; the curve is that of output tokens per second over the load.

    Args:
        probes: In any order; of the same load their mean counts.

    Returns:
        None of fewer than four loads, and where the curve does not bend.

    Source: V. Satopää et al., "Finding a Kneedle in a Haystack: Detecting Knee Points in System Behavior" (2011)
    """
    curve = _means(probes, lambda probe: probe.output_tokens_per_s)
    if len(curve) < _FEWEST:
        return None
    (first, low), (last, _) = curve[0], curve[-1]
    high = max(value for _, value in curve)
    if high <= low:
        return None
    bends = [((value - low) / (high - low) - (load - first) / (last - first), load) for load, value in curve]
    bend, load = max(bends)
    return load if bend >= _LEAST_BEND else None


def knee_sentences(probes: Sequence[Probe]) -> Iterator[str]:
    """What the loads together say."""
    probes = believed(probes)
    if not probes:
        return
    unit, capacity, knee = probes[0].unit, capacity_of(probes), knee_of(probes)
    if capacity is not None:
        missed = min((probe.load for probe in probes if probe.met is False and probe.load > capacity), default=None)
        above = f"; {missed:.4g} {unit} missed them" if missed is not None else "; no higher load missed them"
        yield f"Capacity: {capacity:.4g} {unit} is the largest load that met the service levels{above}."
    elif any(probe.met is False for probe in probes):
        yield "No load that was tried met the service levels."
    if knee is not None:
        yield f"Knee: from {knee:.4g} {unit} on more load brings hardly more output tokens per second (largest distance from the chord, Kneedle)."
    elif len({probe.load for probe in probes}) >= _FEWEST:
        yield "The throughput has no knee within these loads."
    if decided := decided_text([asdict(probe) for probe in probes]):
        yield decided


def load_chart(material: Material) -> Chart | None:
    """The curves of a sweep or a search; None without at least two loads."""
    probes = sorted(believed(material.probes), key=lambda probe: probe.load)
    if len({probe.load for probe in probes}) < 2:
        return None
    levels = [Level(level["name"], level["limit"]) for level in material.summary["service_levels"]]
    unit = probes[0].unit
    capacity, knee = capacity_of(material.probes), knee_of(probes)
    moments = [Mark(f"capacity: {capacity:.4g} {unit}", capacity)] if capacity is not None else []
    if knee is not None:
        moments.append(Mark(f"knee: {knee:.4g} {unit}", knee))
    limits = tuple(Mark(f"p{level.percent} ≤ {level.limit:g} s", level.limit) for level in levels if level.is_time and level.metric == "ttft")
    latency = (
        Series("p95", _means(probes, lambda probe: probe.ttft_p95_s), Look.LINE, Tone.BLUE, 1.6),
        Series("p50", _means(probes, lambda probe: probe.ttft_p50_s), Look.DASHES, Tone.BLUE, 1.2),
        *_dots(probes, lambda probe: (probe.load, probe.ttft_p95_s)),
    )
    tokens = (
        Series("", _means(probes, lambda probe: probe.output_tokens_per_s), Look.LINE, Tone.GREEN, 1.6),
        *_dots(probes, lambda probe: (probe.load, probe.output_tokens_per_s)),
    )
    path = _path(probes)
    curve = tuple((throughput, ttft_s) for _, throughput, ttft_s in path)
    both = (Series("", curve, Look.LINE, Tone.PURPLE, 1.2), *_dots(probes, lambda probe: (probe.output_tokens_per_s, probe.ttft_p95_s)))
    panels = (
        Panel("Time to first token (s)", f"Load ({unit})", latency, limits, tuple(moments), is_log=True),
        Panel("Output tokens per second", f"Load ({unit})", tokens, moments=tuple(moments)),
        Panel(
            f"Time to first token, p95 (s), against throughput; numbers are loads ({unit})",
            "Output tokens per second",
            both,
            limits,
            notes=tuple(_notes(path)),
            is_log=True,
        ),
    )
    return Chart("load", _description(unit, capacity, knee), panels, row_inch=2.4)


def probes_table(probes: Sequence[Probe]) -> Table:
    """What was measured at each load, in the order in which it was tried.

    Args:
        probes: At least one.
    """
    head = (probes[0].unit, "good requests", "interval", "TTFT p50 / p95", "TPOT p50 / p95", "E2E p95", "requests/s", "tokens/s", "errors", "folder", "levels")
    return Table("Loads in the order in which they were tried", head, tuple(_row(probe) for probe in probes), numbers=tuple(range(9)))


def _row(probe: Probe) -> Row:
    found = {True: ("✔ met", "good"), False: ("✘ missed", "bad"), None: ("? undecided", "warn")}[probe.met]
    result, mark = ("! no measurement", "warn") if probe.invalid else found
    cells = (
        f"{probe.load:.4g}",
        f"{probe.good} of {probe.due}",
        f"{probe.low * 100:.1f} to {probe.high * 100:.1f} %",
        _both(probe.ttft_p50_s, probe.ttft_p95_s),
        _both(probe.tpot_p50_s, probe.tpot_p95_s),
        "-" if probe.e2e_p95_s is None else time_text(probe.e2e_p95_s),
        f"{probe.requests_per_s:.2f}",
        f"{probe.output_tokens_per_s:.0f}",
        ratio_text(probe.error_ratio),
        probe.folder,
        result,
    )
    return Row(cells, mark)


def _both(p50_s: float | None, p95_s: float | None) -> str:
    """Two times with one unit, where they have the same."""
    first, second = ("-" if value_s is None else time_text(value_s) for value_s in (p50_s, p95_s))
    unit = second.partition(" ")[2]
    return f"{first.removesuffix(f' {unit}')} / {second}" if unit else f"{first} / {second}"


def _description(unit: str, capacity: float | None, knee: float | None) -> str:
    found = [f"capacity at {capacity:.4g} {unit}"] if capacity is not None else []
    found += [f"knee at {knee:.4g} {unit}"] if knee is not None else []
    marked = f"; marked: {', '.join(found)}" if found else ""
    return f"Time to first token and output tokens per second over the load, and one against the other{marked}."


def _means(probes: Sequence[Probe], value: Callable[[Probe], float | None]) -> Points:
    """One point for each load, by load."""
    found: dict[float, list[float]] = {}
    for probe in sorted(probes, key=lambda probe: probe.load):
        known = value(probe)
        if known is not None:
            found.setdefault(probe.load, []).append(known)
    return tuple((load, sum(values) / len(values)) for load, values in found.items())


def _dots(probes: Sequence[Probe], place: Callable[[Probe], tuple[float, float | None]]) -> Iterator[Series]:
    """Shapes say what came of a load."""
    for met, label, look, tone, size in (
        (True, "met", Look.DOTS, Tone.GREEN, 6.0),
        (False, "missed", Look.CROSSES, Tone.VERMILLION, 6.0),
        (None, "undecided", Look.RINGS, Tone.GREY, 6.0),
    ):
        points = tuple((x, y) for x, y in (place(probe) for probe in probes if probe.met is met) if y is not None)
        yield Series(label, points, look, tone, size)


def _path(probes: Sequence[Probe]) -> tuple[tuple[float, float, float], ...]:
    """Load, throughput and time to first token, by load; of the same load their means."""
    answered = [probe for probe in probes if probe.ttft_p95_s is not None]
    throughput = _means(answered, lambda probe: probe.output_tokens_per_s)
    ttft = _means(answered, lambda probe: probe.ttft_p95_s)
    return tuple((load, tokens, ttft_s) for (load, tokens), (_, ttft_s) in zip(throughput, ttft, strict=True))


def _notes(path: Sequence[tuple[float, float, float]]) -> Iterator[Note]:
    """The loads beside the points of a path; of many only some."""
    every = -(-len(path) // _MOST_NAMED)
    for load, throughput, ttft_s in path[::every] if every else ():
        yield Note(f"{load:.4g}", throughput, ttft_s)

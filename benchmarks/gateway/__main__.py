"""Measures what a gateway costs: kivactl's, LiteLLM and vllm-router before one fast mock engine, and the engine directly.

Run: .venv/bin/python benchmarks/gateway [--rounds 5] [--seconds 4] [--only direct,gateway-2,...] [--loads ...] [--json FILE]

Generator, gateway and mock engine share the same two cores. All contenders run all the time; each round measures every one
of them in turn, beginning with another one. Figures are medians over the rounds with the least and the greatest.
`cpu_us` is the CPU time of a contender's processes for each answer, its meter's included, which depends little on what else the machine does.

  answers   64 connections, each sends its next request when its answer of ~670 bytes is complete: the most there is.
  latency   The same with 1 connection: what a gateway adds when nothing waits. The engine answers at once.
  streams   64 connections, 32 events an answer, each event a write of its own, as fast as possible; whole streams are counted.
  paced     256 connections, 32 events at 10 ms each, as from an engine: 800 streams/s are the most there can be. Twice the time,
            as for the rate, so that opening so many connections matters little.
  first     Single streams on one connection: time to the first event's first byte and to the last byte.
  rate      8,000 requests/s on a schedule over 512 connections; the rate reached and how late answers were.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

sys.path[:0] = [str(Path(__file__).parents[2])]

from contenders import CORES, NAMES, REMARKS, Contender, all_running  # noqa: E402
from measure import as_json, body_for, first_bytes, load  # noqa: E402
from programs import cpu_s, find, pin, version_of  # noqa: E402

Figures = dict[str, float]
PACE_US = 10_000
GOAL_PER_S = 8000

Measurement = Callable[[Contender, Path, float], Figures]
LOADS: dict[str, Measurement] = {
    "answers": lambda one, folder, s: as_json(load(one.target, folder, body_for(), connections=64, seconds=s)),
    "latency": lambda one, folder, s: as_json(load(one.target, folder, body_for(), connections=1, seconds=s)),
    "streams": lambda one, folder, s: as_json(load(one.target, folder, body_for(stream=True), connections=64, seconds=s)),
    "paced": lambda one, folder, s: as_json(load(one.target, folder, body_for(stream=True, pace_us=PACE_US), connections=256, seconds=2 * s)),
    "first": lambda one, folder, s: as_json(first_bytes(one.target, s / 2)),  # noqa: ARG005
    "rate": lambda one, folder, s: as_json(load(one.target, folder, body_for(), connections=512, seconds=2 * s, per_s=GOAL_PER_S)),
}
UNSHOWN = {"answers", "refused", "broken", "settled_s", "others_load"}
NOT_FOR = {"rate": ("litellm",)}
"""Who is left out of which load: what is far below the rate only fills its queue."""


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # so that nothing it started outlives it
    cores = pin(CORES)
    versions = _versions(options.only)
    print(f"cores {cores}; " + "; ".join(f"{name} {version}" for name, version in versions.items()))
    for name in options.only:
        print(f"  {name:<20} {REMARKS[name]}")
    # In memory: a slow disk would stop the mock engine, which writes down what it counts as it goes.
    with tempfile.TemporaryDirectory(prefix="kiva-bench-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        folder = Path(name)
        with all_running(options.only, folder) as (contenders, mock):
            rounds = [_round(number, contenders, mock, folder, options) for number in range(options.rounds)]
    summary = {what: {name: _medians([one[what][name] for one in rounds]) for name in rounds[0][what]} for what in options.loads}
    for what, figures in summary.items():
        _print(what, figures)
    print()
    for line in _verdicts(summary):
        print(line)
    if options.json:
        options.json.write_text(json.dumps({"cores": cores, "versions": versions, "seconds": options.seconds, "rounds": rounds, "summary": summary}, indent=1))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/gateway", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4, help="for each load and contender in a round")
    parser.add_argument("--only", default=",".join(NAMES), help=f"contenders, of {', '.join(NAMES)}")
    parser.add_argument("--loads", default=",".join(LOADS), help=f"of {', '.join(LOADS)}")
    parser.add_argument("--json", type=Path, help="file for every figure of every round")
    options = parser.parse_args()
    for key, known in (("only", NAMES), ("loads", tuple(LOADS))):
        asked = tuple(getattr(options, key).split(","))
        if unknown := set(asked) - set(known):
            parser.error(f"--{key}: {', '.join(sorted(unknown))} is none of {', '.join(known)}")
        setattr(options, key, asked)
    if options.rounds < 1:
        parser.error("--rounds: at least 1")
    return options


def _versions(names: tuple[str, ...]) -> dict[str, str]:
    """Of every program that takes part; ends the benchmark when one is missing, before anything is started."""
    find("gcc"), find("wrk")
    versions = {"wrk": _wrk_version()}
    if any(name.startswith("gateway") for name in names):
        versions["envoy"] = version_of("envoy").split("version:")[-1].strip().split("/")[1]
    packages = {"litellm": "litellm", "vllm-router": "vllm-router"}
    return versions | {name: version_of(name, package) for name, package in packages.items() if name in names}


def _wrk_version() -> str:
    import subprocess

    return subprocess.run([find("wrk"), "-v"], check=False, capture_output=True, text=True).stdout.split()[1]


def _round(number: int, contenders: Mapping[str, Contender], mock: int, folder: Path, options: argparse.Namespace) -> dict[str, dict[str, Figures]]:
    names = list(contenders)
    turn = number % len(names)
    measured: dict[str, dict[str, Figures]] = {what: {} for what in options.loads}
    for name in names[turn:] + names[:turn]:
        contender = contenders[name]
        if "answers" in options.loads or "streams" in options.loads:
            load(contender.target, folder, body_for(), connections=8, seconds=1)
        for what in options.loads:
            if name in NOT_FOR.get(what, ()):
                continue
            before, engine = _busy(contender.pids), _busy([mock])
            figures = LOADS[what](contender, folder, options.seconds)
            if figures.get("refused") or figures.get("broken"):
                print(f"  round {number + 1}: {name}, {what}: {figures['refused']:g} refused, {figures['broken']:g} broken", file=sys.stderr)
            if "per_s" in figures:
                shared = 1e6 / max(figures["answers"], 1)
                figures |= {"cpu_us": (_busy(contender.pids) - before) * shared, "engine_cpu_us": (_busy([mock]) - engine) * shared}
            figures["settled_s"] = _until_metered(contender)
            figures["others_load"] = os.getloadavg()[0]
            measured[what][name] = figures
        _throw_away(contender)
    _progress(number, measured)
    return measured


def _busy(pids: list[int]) -> float:
    return cpu_s(pids) if pids else 0.0


def _until_metered(contender: Contender, within_s: float = 60) -> float:
    """Let the meter finish, so that the next contender has the cores for itself; how long that took."""
    began = time.monotonic()
    if contender.meter is None:
        return 0.0
    while time.monotonic() - began < within_s:
        before = _busy([contender.meter])
        time.sleep(0.5)
        if _busy([contender.meter]) - before < 0.03:
            break
    return time.monotonic() - began


def _throw_away(contender: Contender) -> None:
    """Empty the logs nobody rotates; they lie in memory."""
    if contender.meter is None and contender.access_log and contender.usage_folder:
        for log in (contender.access_log, *contender.usage_folder.glob("*.jsonl")):
            if log.exists():
                os.truncate(log, 0)


def _medians(rounds: list[Figures]) -> dict[str, list[float]]:
    """Median, least and greatest of every figure."""
    columns = {key: [one[key] for one in rounds] for key in rounds[0]}
    return {key: [median(values), min(values), max(values)] for key, values in columns.items()}


def _print(what: str, figures: Mapping[str, Mapping[str, list[float]]]) -> None:
    shown = [key for key in next(iter(figures.values())) if key not in UNSHOWN]
    print(f"\n{what:<20}" + "".join(f"{key:>24}" for key in shown) + f"{'failed':>8}")
    for name, row in figures.items():
        cells = "".join(f"{_number(middle):>8} {f'({_number(least)} - {_number(most)})':>15}" for middle, least, most in (row[key] for key in shown))
        failed = row.get("refused", [0] * 3)[2] + row.get("broken", [0] * 3)[2]
        print(f"{name:<20}{cells}{failed:>8.0f}")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _verdicts(summary: Mapping[str, Mapping[str, Mapping[str, list[float]]]]) -> list[str]:
    lines = []
    for name in (name for name in ("gateway-2", "gateway-1", "gateway-2-unmetered") if any(name in rows for rows in summary.values())):
        for what in ("answers", "streams", "paced"):
            rows = summary.get(what, {})
            if name not in rows:
                continue
            if ratios := [_ratio(rows, name, other) for other in ("direct", "litellm", "vllm-router") if other in rows]:
                lines.append(f"{name}, {what}: {_number(rows[name]['per_s'][0])}/s = {', '.join(ratios)}")
        for what, key in (("latency", "p50_ms"), ("first", "first_p50_ms"), ("first", "last_p50_ms")):
            rows = summary.get(what, {})
            if name in rows and "direct" in rows:
                lines.append(f"{name}, {what}: adds {rows[name][key][0] - rows['direct'][key][0]:.3f} ms ({key})")
        if name in summary.get("rate", {}):
            row = summary["rate"][name]
            lines.append(
                f"{name}, rate: {_number(row['per_s'][0])}/s of {GOAL_PER_S:,} asked for, p95 {row['p95_ms'][0]:.2f} ms, p99 {row['p99_ms'][0]:.2f} ms"
            )
    return lines


def _ratio(rows: Mapping[str, Mapping[str, list[float]]], name: str, other: str) -> str:
    ours, theirs = rows[name]["per_s"][0], rows[other]["per_s"][0]
    return f"{ours / theirs:.2f} x {other}" if theirs else f"({other} finished nothing)"


def _progress(number: int, measured: dict[str, dict[str, Figures]]) -> None:
    what = next(iter(measured))
    rates = ", ".join(f"{name} {_number(figures.get('per_s', figures.get('first_p50_ms', 0)))}" for name, figures in measured[what].items())
    print(f"round {number + 1}: {what}: {rates}; load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

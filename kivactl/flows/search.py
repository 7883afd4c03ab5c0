"""Several runs in one: the search for the capacity, and a sweep over loads. Each run has its folder; the result is of all."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from kivactl import errors
from kivactl.errors import UsageError
from kivactl.flows.loadtest import Bench, preflight, run_assignment, verdict
from kivactl.loadtest.assignment import RATE, USERS, Assignment, Folder
from kivactl.loadtest.capacity import Finding, Search, Share, finding_of, settling_s, shares_of
from kivactl.loadtest.engine_samples import read_samples
from kivactl.loadtest.levels import Level
from kivactl.loadtest.material import Material
from kivactl.loadtest.metrics import Window
from kivactl.loadtest.probe import Probe, probe_of
from kivactl.loadtest.processes import staffed
from kivactl.loadtest.record import read_records
from kivactl.loadtest.results import write_search
from kivactl.loadtest.scenario import Capacity, Scenario, levels_for
from kivactl.plan import Outcome, Status
from kivactl.tools.machine import usable_processors

_HOPELESS_RATIO = 3.0
_HOPELESS_AFTER_S = 8.0
_HOPELESS_ANSWERS = 20
"""Whole answers that make sure that a time per token is missed; each has one, and none while it is under way."""


def run_search(bench: Bench, scenario: Scenario, folder: Path) -> Iterator[Outcome]:
    """Find the capacity of a platform, or sweep over loads.

    Args:
        bench: Whom, and what is shared.
        scenario: With `capacity` or `sweep`.
        folder: New or empty folder; each run gets one within it.

    Yields:
        As `run_loadtest`, for each run; at last the step `NAME` DONE. Its data are the summary of the run that the answer stands
        on, with `probes`, and of a search `capacity`. Pass it to `verdict`.

    Raises:
        KivaError: As `run_loadtest`.
    """
    folder = folder.absolute()
    if (folder / "probes").exists() or Folder(folder).summary.exists():
        raise UsageError(f"{folder} holds the records of another load test", "choose another folder")
    assignment = yield from preflight(bench, scenario)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    Folder(folder).environment.write_text(json.dumps(dict(bench.environment), indent=2) + "\n")
    series = _Series(bench, levels_for(scenario, bench.levels), folder, assignment, scenario.processes)
    began_s = bench.clock.now_s()
    yield Outcome(scenario.name, Status.STARTED, "the search for the capacity" if scenario.capacity else "a sweep over loads")
    if scenario.capacity is not None:
        assert scenario.load.rate is not None
        told = yield from _capacity(series, scenario.load.rate, scenario.capacity)
    else:
        told = yield from _sweep(series, *loads_of(scenario))
    stands_on = Folder(Path(told["report"]).parent)
    told = {**told, "probes": [asdict(probe) for probe in series.probes], "report": str(Folder(folder).page)}
    with errors.told(folder):
        write_search(Folder(folder), _material(told, stands_on, bench, series))
    yield Outcome(scenario.name, Status.DONE, told["answer"], bench.clock.now_s() - began_s, told)


def _material(told: Mapping[str, Any], stands_on: Folder, bench: Bench, series: _Series) -> Material:
    """What the page of all runs is made of: the run that the answer stands on, and the loads of all."""
    window = json.loads(stands_on.summary.read_text())["window"]
    records, samples = read_records(stands_on.packed), read_samples(stands_on.samples)
    return Material(told, records, Window(**window) if window else None, bench.environment, tuple(samples), tuple(series.probes))


@dataclass(slots=True)
class _Series:
    """Runs one after the other, and what came of them.

    Each has as many processes of the generator as its own load needs, unless `processes` says how many, and where arrivals have a rate a
    warm-up as long as whole answers took in those before it that did not miss. `count` is how many runs there will be, where that is known.
    """

    bench: Bench
    levels: tuple[Level, ...]
    folder: Path
    assignment: Assignment
    processes: int | None = None
    count: int | None = None
    probes: list[Probe] = field(default_factory=list)
    summaries: list[dict[str, Any]] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        """Whether what came last leaves no sense in going on."""
        return bool(self.summaries) and bool(self.summaries[-1]["interrupted"] or self.summaries[-1]["invalid"])

    def run(self, load: float, unit: str, length: int = 1) -> Generator[Outcome, None, tuple[Share, ...]]:
        """One run with a load, so many times as long as others; a second one where the first cannot be believed: the machine was busy, maybe for a moment."""
        shares = yield from self._run(load, unit, length)
        last = self.summaries[-1]
        if last["interrupted"] or not last["invalid"]:
            return shares
        yield Outcome(f"run {len(self.probes)}", Status.SKIPPED, f"does not count, and is tried once more: {last['invalid']}")
        self.count = self.count and self.count + 1
        return (yield from self._run(load, unit, length))

    def _run(self, load: float, unit: str, length: int) -> Generator[Outcome, None, tuple[Share, ...]]:
        """One run; the seed is another one each time."""
        name = f"{len(self.probes) + 1:02d}"
        folder = self.folder / "probes" / name
        assignment = self.assigned(load, unit, length)
        material = yield from run_assignment(
            replace(self.bench, with_page=False),
            assignment,
            self.levels,
            folder,
            is_hopeless=self._hopeless(unit),
            series=self._place(load, unit),
        )
        if material.summary.get("unwritten"):
            verdict(material.summary)  # the others stand on it
        summary, shares = dict(material.summary), self._shares(material)
        self.summaries.append(summary)
        finding = Finding.UNDECIDED if self.is_over else finding_of(shares)
        met = None if finding is Finding.UNDECIDED else finding is Finding.MET
        self.probes.append(probe_of(summary, load, unit, met, f"probes/{name}"))
        if unit == RATE and finding is not Finding.MISSED:
            settled_s = settling_s(self.assignment.warm_up_s, self.probes[-1].e2e_p95_s, self.assignment.duration_s)
            self.assignment = replace(self.assignment, warm_up_s=settled_s)
        return shares

    def assigned(self, load: float, unit: str, length: int = 1) -> Assignment:
        """What a run with a load would be told.

        Raises:
            UsageError: It cannot be shared out among the machines.
        """
        work = replace(self.assignment, duration_s=self.assignment.duration_s * length)
        work = work.with_load(load, unit, secrets.randbelow(2**31))
        return staffed(work, self.processes, usable_processors(), self.bench.machines)

    def _place(self, load: float, unit: str) -> dict[str, Any]:
        """Which run comes next, of how many where that is known, and between which loads the answer lies so far."""
        missed = min((probe.load for probe in self.probes if probe.met is False), default=None)
        # What was kept once and missed when tried again is missed.
        met = max((probe.load for probe in self.probes if probe.met and (missed is None or probe.load < missed)), default=None)
        return {"number": len(self.probes) + 1, "of": self.count, "load": load, "unit": unit, "met": met, "missed": missed}

    def settle(self, met: bool) -> None:
        """What was decided on the last load, though its run alone did not say."""
        self.probes[-1] = replace(self.probes[-1], met=met)

    def last_that_kept(self, load: float) -> int:
        """The run that an answer stands on: of those with that load the last that kept the levels, not one that was cut off; without any the last of all."""
        kept = (number for number, probe in enumerate(self.probes) if probe.load == load and probe.met)
        return max(kept, default=len(self.probes) - 1)

    def result(self, chosen: int, answer: str, **more: Any) -> dict[str, Any]:
        """The result, which stands on one of the runs; what the last one broke off with counts for all."""
        last = self.summaries[-1]
        measured = sum(probe.due for probe in self.probes)
        # What was interrupted may be too little to be a measurement, and that is the reason.
        invalid = "" if last["interrupted"] else last["invalid"]
        return {**self.summaries[chosen], "interrupted": last["interrupted"], "invalid": invalid, "answer": answer, "measured": measured, **more}

    def _shares(self, material: Material) -> tuple[Share, ...]:
        window = material.window
        if window is None:
            return ()
        return shares_of([record for record in material.records if window.holds(record.moment_ns)], material.summary["due"], self.levels)

    def _hopeless(self, unit: str) -> Callable[[Mapping[str, Any]], bool]:
        """What only grows need not be waited for: half of the first tokens, or of the times between tokens, already take a multiple of what is promised.

        In a closed loop nothing grows.
        """
        ttft_ms, tpot_ms = (
            min((level.limit * 1e3 * _HOPELESS_RATIO for level in self.levels if level.metric == metric), default=math.inf) for metric in ("ttft", "tpot")
        )

        def look(facts: Mapping[str, Any]) -> bool:
            if unit != RATE or facts["elapsed_s"] - self.assignment.warm_up_s <= _HOPELESS_AFTER_S:
                return False
            is_slow = (facts["itl_p50_ms"] or 0) > tpot_ms and facts["requests"] >= _HOPELESS_ANSWERS
            return is_slow or (facts["ttft_p50_ms"] or 0) > ttft_ms

        return look


def loads_of(scenario: Scenario) -> tuple[tuple[float, ...], str]:
    """The loads of a sweep, and their unit."""
    assert scenario.sweep is not None
    return (scenario.sweep.users, USERS) if scenario.sweep.users else (scenario.sweep.rates or (), RATE)


def _capacity(series: _Series, start_rps: float, wanted: Capacity) -> Generator[Outcome, None, dict[str, Any]]:
    search = Search(start_rps, wanted.limit, wanted.precision)
    while (probe := search.next_probe()) is not None:
        rate_rps, length = probe
        shares = yield from series.run(rate_rps, RATE, length)
        if series.is_over:
            break
        met = search.take(shares)
        if met is not None:
            series.settle(met)
    found = search.met_rps
    spent = sum(probe.due for probe in series.probes)
    capacity = {
        "rate_rps": found,
        "low_rps": search.surely_met_rps,
        "high_rps": search.surely_missed_rps,
        "is_confirmed": search.confirmed_rps == found and found > 0,
        "is_limit": found >= wanted.limit,
        "requests": spent,
        "probes": len(series.probes),
    }
    return series.result(series.last_that_kept(found), _capacity_sentence(capacity), capacity=capacity)


def _capacity_sentence(capacity: Mapping[str, Any]) -> str:
    if not capacity["rate_rps"]:
        return "no rate was found at which the service levels are kept"
    doubt = "" if capacity["is_confirmed"] else ", not confirmed"
    limit = "; nothing higher was to be tried" if capacity["is_limit"] else ""
    interval = _interval_words(capacity["low_rps"], capacity["high_rps"])
    return f"the service levels are kept up to {capacity['rate_rps']:.3g} requests/s ({interval}{doubt}{limit})"


def _interval_words(low_rps: float, high_rps: float | None) -> str:
    if high_rps is None:
        return f"at least {low_rps:.3g}" if low_rps else "too few requests to be sure of any rate"
    return f"between {low_rps:.3g} and {high_rps:.3g}" if low_rps else f"surely below {high_rps:.3g}"


def _sweep(series: _Series, loads: Sequence[float], unit: str) -> Generator[Outcome, None, dict[str, Any]]:
    series.count = len(loads)
    for load in loads:  # before the first of them runs
        series.assigned(load, unit)
    for load in loads:
        shares = yield from series.run(load, unit)
        if series.is_over:
            break
        series.settle(all(share.holds for share in shares))
    met = [number for number, probe in enumerate(series.probes) if probe.met]
    best = max(met, key=lambda number: series.probes[number].load, default=None)
    probe = series.probes[0 if best is None else best]
    kept = f"the service levels are kept up to {probe.load:g} {unit}" if best is not None else "no load was found at which the service levels are kept"
    return series.result(0 if best is None else best, f"{kept}; {len(series.probes)} loads")

"""The search for the highest rate that keeps the service levels; pure: it says what to try next, and is told what came of it.

Rates double until one misses; then the gap between the highest that met and the lowest that missed is halved by ratio, until
it is as narrow as asked for. What is found has to hold once more, with another seed and for longer, before it is believed: a queue
that grows slowly shows only then.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import reduce
from operator import add

from kivactl.loadtest.intervals import Part, parts_of, share_interval
from kivactl.loadtest.levels import ATTAINMENT, ERROR_RATIO, Level, thresholds_from
from kivactl.loadtest.record import Record

_LOWEST_OF_START = 1 / 64
"""A platform that keeps nothing at a so much lower rate than the first has no capacity worth a figure."""

_TRIES = (1, 2, 4)
"""Lengths of a rate's probes. Near the limit a short one says little: it begins with an empty queue, and what a queue did for a moment decides it."""


class Finding(StrEnum):
    """What a probe says."""

    MET = "met"
    MISSED = "missed"
    UNDECIDED = "undecided"
    """Too few requests to say: the interval of their share holds what is promised."""


@dataclass(frozen=True, slots=True)
class Share:
    """Of the requests that were due, those that kept one level, and how many must.

    Attributes:
        level: Its name.
        good: How many did.
        due: How many should have been sent.
        ratio: What is promised, 0..1.
        parts: Those that came, in order.
    """

    level: str
    good: int
    due: int
    ratio: float
    parts: tuple[Part, ...] = ()

    def __add__(self, other: Share) -> Share:
        """Of two probes together: of one rate, or of rates of which one speaks for the other."""
        return Share(self.level, self.good + other.good, self.due + other.due, self.ratio, self.parts + other.parts)

    @property
    def finding(self) -> Finding:
        low, high = share_interval(self.good, self.due, self.parts)
        if low >= self.ratio or (self.ratio >= 1 and self.good == self.due > 0):
            return Finding.MET
        return Finding.MISSED if high < self.ratio else Finding.UNDECIDED

    @property
    def holds(self) -> bool:
        """Whether the share itself is as promised, however sure that is."""
        return bool(self.due) and self.good >= self.ratio * self.due


def shares_of(measured: Sequence[Record], due: int, levels: tuple[Level, ...]) -> tuple[Share, ...]:
    """Each level as a share of requests.

    Args:
        measured: Requests that were due.
        due: How many should have been sent; those that are missing kept nothing.
        levels: What is promised.
    """
    found = []
    in_order = sorted(measured, key=lambda record: record.moment_ns)
    answered = [record for record in in_order if record.succeeded]
    for level in levels:
        if level.name == ERROR_RATIO:
            found.append(_share(level.name, [record.succeeded for record in in_order], due, 1 - level.limit))
        elif level.name != ATTAINMENT:
            # A time is promised to those who are answered; how many that must be is a level of its own.
            kept = [record.keeps({level.metric: level.limit}) for record in answered]
            found.append(_share(level.name, kept, due - (len(in_order) - len(answered)), (level.percent or 0) / 100))
    attainment = next((level for level in levels if level.name == ATTAINMENT), None)
    if attainment is not None:
        thresholds = thresholds_from(levels)
        found.append(_share(ATTAINMENT, [record.keeps(thresholds) for record in in_order], due, attainment.limit))
    return tuple(found)


def _share(level: str, good: Sequence[bool], due: int, ratio: float) -> Share:
    return Share(level, sum(good), due, ratio, parts_of(good))


def finding_of(shares: Sequence[Share]) -> Finding:
    """What several levels together say: one that is surely missed decides."""
    findings = {share.finding for share in shares}
    # Failures are so rare that hundreds of requests could not make sure; what was seen of them decides.
    errors = [share for share in shares if share.level == ERROR_RATIO]
    others = {share.finding for share in shares if share.level != ERROR_RATIO}
    if Finding.MISSED in findings or any(not share.holds for share in errors):
        return Finding.MISSED
    return Finding.UNDECIDED if Finding.UNDECIDED in others else Finding.MET


def settling_s(warm_up_s: float, answer_s: float | None, probe_s: float) -> float:
    """How long a load has to last before as many requests are under way as will be: as long as whole answers take.

    Args:
        warm_up_s: At least so long.
        answer_s: What a whole answer took at a load like it; None where nobody knows.
        probe_s: Of a probe: at most so long, for in an overloaded platform answers take ever longer.
    """
    return max(warm_up_s, min(math.ceil(answer_s or 0.0), probe_s))


def _together(tries: Sequence[tuple[Share, ...]]) -> tuple[Share, ...]:
    """Several probes as one."""
    return tuple(reduce(add, shares_of_level) for shares_of_level in zip(*tries, strict=True))


@dataclass(slots=True)
class Search:
    """A search under way.

    Attributes:
        start_rps: The first rate.
        limit_rps: Nothing higher is tried.
        precision: How near the highest that met and the lowest that missed must be, as a ratio.
        met: Rates that met, ascending.
        missed_rps: The lowest that missed; infinite while there is none.
        confirmed_rps: A rate that met once more; None while there is none.
        tries: What came of the rate that is being tried.
        seen: What came of each rate that was, all its probes together.
    """

    start_rps: float
    limit_rps: float
    precision: float
    met: list[float] = field(default_factory=list)
    missed_rps: float = math.inf
    confirmed_rps: float | None = None
    tries: list[tuple[Share, ...]] = field(default_factory=list)
    seen: dict[float, tuple[Share, ...]] = field(default_factory=dict)

    @property
    def met_rps(self) -> float:
        """The highest rate that met; 0 while there is none."""
        return self.met[-1] if self.met else 0.0

    @property
    def is_rising(self) -> bool:
        """Whether no rate missed yet, so that a higher one is tried anyway."""
        return math.isinf(self.missed_rps)

    def next_probe(self) -> tuple[float, int] | None:
        """The rate to try, and for how many lengths of a probe; None when the search is over."""
        rate_rps = self.next_rps()
        return None if rate_rps is None else (rate_rps, self._lengths_of(rate_rps)[len(self.tries)])

    def take(self, shares: Sequence[Share]) -> bool | None:
        """What came of the probe that `next_probe` named.

        Returns:
            Whether its rate met; None when that takes a further probe.
        """
        rate_rps = self.next_rps()
        assert rate_rps is not None
        self.tries.append(tuple(shares))
        together = _together(self.tries)
        finding = finding_of(together)
        # What does not decide is judged by what was seen; while rates rise, the next one tells more than the same once more.
        met = finding is Finding.MET or (finding is Finding.UNDECIDED and all(share.holds for share in together))
        is_last = len(self.tries) == len(self._lengths_of(rate_rps))
        if finding is Finding.UNDECIDED and not is_last and not (met and self.is_rising):
            return None
        self.tries = []
        self.seen[rate_rps] = _together([self.seen[rate_rps], together]) if rate_rps in self.seen else together
        self.tell(rate_rps, met=met)
        return met

    @property
    def surely_met_rps(self) -> float:
        """The highest rate, up to what was found, of which requests make sure that it meets; 0 without one.

        What is seen at higher rates counts too: a lower one keeps the levels no worse.
        """
        rates_rps = sorted((rate_rps for rate_rps in self.seen if rate_rps <= self.met_rps), reverse=True)
        return self._first_that(Finding.MET, rates_rps) or 0.0

    @property
    def surely_missed_rps(self) -> float | None:
        """The lowest rate above what was found of which requests make sure that it misses; None without one. Those at lower rates count too."""
        return self._first_that(Finding.MISSED, sorted(rate_rps for rate_rps in self.seen if rate_rps > self.met_rps))

    def _first_that(self, finding: Finding, rates_rps: Sequence[float]) -> float | None:
        """The first rate of which that is sure by itself, or with some of those just before it."""
        for end, rate_rps in enumerate(rates_rps, 1):
            stretches = (rates_rps[begin:end] for begin in reversed(range(end)))
            if any(finding_of(_together([self.seen[known_rps] for known_rps in stretch])) is finding for stretch in stretches):
                return rate_rps
        return None

    def _lengths_of(self, rate_rps: float) -> tuple[int, ...]:
        """How long a rate is tried, a further time where those before did not decide; what met is confirmed as long as the longest of them."""
        return _TRIES[-1:] if rate_rps in self.met else _TRIES

    def next_rps(self) -> float | None:
        """The rate to try; None when the search is over."""
        if self.confirmed_rps is not None and self.confirmed_rps == self.met_rps:
            return None
        if not self.met:
            if self.is_rising:
                return min(self.start_rps, self.limit_rps)
            lower = self.missed_rps / 2
            return lower if lower >= self.start_rps * _LOWEST_OF_START else None
        if self.met_rps >= self.limit_rps or self.missed_rps <= self.met_rps * (1 + self.precision):
            return self.met_rps  # once more, to be sure
        if self.is_rising:
            return min(self.met_rps * 2, self.limit_rps)
        return math.sqrt(self.met_rps * self.missed_rps)

    def tell(self, rate_rps: float, *, met: bool) -> None:
        """What came of a rate that `next_rps` named."""
        if not met:
            self.missed_rps = min(self.missed_rps, rate_rps)
            self.met = [known for known in self.met if known < rate_rps]
        elif self.met and rate_rps == self.met_rps:
            self.confirmed_rps = rate_rps
        else:
            self.met = sorted({*self.met, rate_rps})

"""From what was seen during a run to its figures: requests, health of the components, and moments; pure.

All times are seconds of one monotonic clock, those of requests and of health alike. A figure that could not be measured is
absent: who asks for it has not met it. What nobody saw counts against the platform: a gap between two looks counts as degraded, and
nothing counts as healed before the last one is over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from kivactl.loadtest.distribution import Distribution, distribution_of
from kivactl.loadtest.record import Record

SERVING = "serving"


@dataclass(frozen=True, slots=True)
class Look:
    """The components at one moment.

    Attributes:
        at_s: When.
        components: Health and process, by name; empty when nothing is deployed.
    """

    at_s: float
    components: Mapping[str, tuple[str, str]]

    @property
    def full(self) -> bool:
        """Whether everything serves."""
        return bool(self.components) and all(health == SERVING for health, _ in self.components.values())

    def differs(self, other: Look) -> bool:
        """Whether a component is in another state, or another process."""
        return self.components != other.components


@dataclass(frozen=True, slots=True)
class Gap:
    """A time in which nobody looked.

    Attributes:
        start_s: The last look before it, or the begin of the load.
        end_s: The first look after it, or the end of the load.
    """

    start_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        """How long it was."""
        return self.end_s - self.start_s


@dataclass(frozen=True, slots=True)
class Story:
    """The moments of a run under load.

    Attributes:
        began_s: Begin of the load.
        ended_s: Its end.
        fault_s: When something was broken; None when nothing was.
        noticed_s: When the platform knew.
        recovered_s: When everything served again, and went on serving until the end.
        degraded_s: Time with less than full capacity.
    """

    began_s: float
    ended_s: float
    fault_s: float | None
    noticed_s: float | None
    recovered_s: float | None
    degraded_s: float


@dataclass(frozen=True, slots=True)
class Phase:
    """The requests of one part of the run: those that ended before the fault; then those that began before full capacity; then the rest.

    Attributes:
        name: `before`, `during`, `after`.
        start_s: Its begin.
        end_s: Its end.
        answered: Requests that succeeded.
        lost: Requests that failed before anything of their answer came.
        cut: Answers that broke off.
        ttft_s: Time to the first token.
        e2e_s: Time to the last one.
    """

    name: str
    start_s: float
    end_s: float
    answered: int
    lost: int
    cut: int
    ttft_s: Distribution | None
    e2e_s: Distribution | None


def story_for(looks: Sequence[Look], marks: Iterable[tuple[str, float]], began_s: float, ended_s: float, gaps: Iterable[Gap] = ()) -> Story:
    """Find the moments, each the latest that agrees with what was seen.

    From the fault on capacity is missing, whether or not anybody has noticed. A component that is another process than
    before the fault was noticed too: it was started anew between two looks.

    Args:
        looks: In order.
        marks: Kind and time; the first `fault` counts.
        began_s: Begin of the load.
        ended_s: Its end.
        gaps: Times in which something may have been down unseen; they count as degraded.
    """
    unseen = [(gap.start_s, gap.end_s) for gap in gaps]
    missing = [*_missing(looks, ended_s), *unseen]
    fault_s = next((at_s for kind, at_s in marks if kind == "fault"), None)
    if fault_s is None:
        return Story(began_s, ended_s, None, None, None, _covered_s(missing, began_s, ended_s))
    before = next((look for look in reversed(looks) if look.at_s < fault_s), None)
    later = [look for look in looks if look.at_s >= fault_s]
    noticed = next((look for look in later if not look.full or (before is not None and _exchanged(before, look))), None)
    if noticed is None:
        return Story(began_s, ended_s, fault_s, None, None, _covered_s([*missing, (fault_s, ended_s)], began_s, ended_s))
    last_missing = next((index for index in range(len(later) - 1, -1, -1) if not later[index].full), None)
    well = later[later.index(noticed) :] if last_missing is None else later[last_missing + 1 :]
    # What it did in a gap is not known: it is only known to serve, and to go on doing so, from the first look after the last gap on.
    seen_from_s = max((end_s for _, end_s in unseen), default=began_s)
    back = next((look for look in well if look.at_s >= seen_from_s), None)
    degraded_s = _covered_s([*missing, (fault_s, noticed.at_s)], began_s, ended_s)
    return Story(began_s, ended_s, fault_s, noticed.at_s, back.at_s if back else None, degraded_s)


def figures_for(story: Story, records: Iterable[Record]) -> dict[str, float]:
    """The figures by the names of `format.Objectives`; those that could not be measured are absent."""
    counted = [record for record in records if not record.is_cut]
    lost, cut = _failures(counted)
    figures: dict[str, float] = {"degraded": story.degraded_s}
    if story.fault_s is not None and story.noticed_s is not None:
        figures["detection"] = story.noticed_s - story.fault_s
    if story.fault_s is not None and story.recovered_s is not None:
        figures["recovery"] = story.recovered_s - story.fault_s
    if counted:
        figures |= {"outage": outage_s(story, counted), "lost_requests": lost, "cut_streams": cut, "error_ratio": (lost + cut) / len(counted)}
    return {name: round(value, 6 if name == "error_ratio" else 3) for name, value in figures.items()}


def outage_s(story: Story, records: Iterable[Record]) -> float:
    """The longest time without any finished answer, from the begin of the load to its end."""
    ends = sorted(min(max(record.end_ns / 1e9, story.began_s), story.ended_s) for record in records if record.succeeded)
    return max(later - earlier for earlier, later in pairwise([story.began_s, *ends, story.ended_s]))


def phases_for(story: Story, records: Iterable[Record]) -> tuple[Phase, ...]:
    """The requests before the fault, until full capacity, and after; one phase `before` when there was no fault."""
    counted = [record for record in records if not record.is_cut]
    if story.fault_s is None:
        return (_phase("before", story.began_s, story.ended_s, counted),)
    fault_s, back_s = story.fault_s, story.ended_s if story.recovered_s is None else story.recovered_s
    before = [record for record in counted if record.end_ns / 1e9 < fault_s]
    after = [record for record in counted if story.recovered_s is not None and record.start_ns / 1e9 >= back_s]
    known = {id(record) for record in (*before, *after)}
    during = [record for record in counted if id(record) not in known]
    phases = [_phase("before", story.began_s, fault_s, before), _phase("during", fault_s, back_s, during)]
    return tuple(phases if story.recovered_s is None else [*phases, _phase("after", back_s, story.ended_s, after)])


def changes_in(looks: Iterable[Look]) -> list[Look]:
    """The first look, and each that differs from the one before it."""
    kept: list[Look] = []
    for look in looks:
        if not kept or look.differs(kept[-1]):
            kept.append(look)
    return kept


def gaps_in(looks: Sequence[Look], began_s: float, ended_s: float, longer_than_s: float) -> tuple[Gap, ...]:
    """The times under load between two looks that are longer than so many seconds."""
    stamps = [began_s, *(look.at_s for look in looks if began_s < look.at_s < ended_s), ended_s]
    return tuple(Gap(earlier, later) for earlier, later in pairwise(stamps) if later - earlier > longer_than_s)


def _phase(name: str, start_s: float, end_s: float, records: Sequence[Record]) -> Phase:
    good = [record for record in records if record.succeeded]
    lost, cut = _failures(records)
    times = [[value for record in good if (value := getattr(record, key)) is not None] for key in ("ttft_s", "e2e_s")]
    return Phase(name, start_s, end_s, len(good), lost, cut, *map(distribution_of, times))


def _failures(records: Iterable[Record]) -> tuple[int, int]:
    """How many were lost and how many were cut."""
    failed = [record for record in records if record.failure is not None]
    cut = sum(record.has_body and record.status is not None and 200 <= record.status < 300 for record in failed)
    return len(failed) - cut, cut


def _exchanged(before: Look, look: Look) -> bool:
    return any(look.components.get(name, ("", ""))[1] != process for name, (_, process) in before.components.items())


def _missing(looks: Sequence[Look], until_s: float) -> list[tuple[float, float]]:
    """The times that began with a look at which something did not serve, each until the next look."""
    stamps = [*(look.at_s for look in looks), until_s]
    return [(look.at_s, later) for look, later in zip(looks, stamps[1:], strict=True) if not look.full]


def _covered_s(spans: Iterable[tuple[float, float]], from_s: float, until_s: float) -> float:
    """How much of a time is covered by spans that may overlap."""
    covered_s = 0.0
    for start_s, end_s in sorted(spans):
        if (end_s := min(end_s, until_s)) > (start_s := max(start_s, from_s)):
            covered_s, from_s = covered_s + end_s - start_s, end_s
    return covered_s

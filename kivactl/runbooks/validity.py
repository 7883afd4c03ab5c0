"""Whether a measurement under load can be believed; pure. What is doubtful is neither passed nor missed, but invalid."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from kivactl.flows.background_load import Heard
from kivactl.runbooks.figures import Gap, Phase, Story
from kivactl.runbooks.format import Objectives
from kivactl.runbooks.notes import Note

_LATEST_MS = 1000.0
_LATE_RATIO = 0.1
_LEAST_LATE_MS = 100.0
BLIND_FROM_S = 3.0
"""So long without a look counts against the platform; a busy machine has such times."""

_LONGEST_BLIND_S = 10.0
_LAG_OF_TTFT_RATIO = 0.1
FEWEST_ANSWERS = 10
"""So many answers before the first step show that the load works."""

_OF_A_FAULT = ("detection", "recovery")
_OF_LOOKS = ("detection", "degraded", "recovery")
_TIMES = ("detection", "degraded", "recovery", "outage")


def allowed_lag_ms(objectives: Objectives) -> float:
    """How late the load generator may be at worst: a tenth of the shortest time that is asked for, and never more than a second."""
    wanted_s = [value for name in _TIMES if (value := getattr(objectives, name)) is not None and value > 0]
    return max(_LEAST_LATE_MS, min(_LATEST_MS, *(value * 1e3 * _LATE_RATIO for value in wanted_s))) if wanted_s else _LATEST_MS


def doubt_about_load(heard: Heard, objectives: Objectives) -> str | None:
    """Why the requests' records are no measurement; None when they are."""
    if heard.broken:
        return heard.broken
    if not heard.complete:
        return "the load generator was stopped before the end"
    if heard.lag_worst_ms is None:
        return "the load generator did not say how late it was"
    allowed_ms = allowed_lag_ms(objectives)
    if heard.lag_worst_ms > allowed_ms:
        return f"the load generator was late by {heard.lag_worst_ms:.0f} ms at worst, more than the {allowed_ms:.0f} ms that the objectives allow"
    return None


def doubt_about_looks(gaps: Sequence[Gap], began_s: float, trouble: str) -> str | None:
    """Why the components' health is not known well enough; None when it is."""
    longest = max(gaps, key=lambda gap: gap.length_s, default=None)
    if longest is None or longest.length_s <= _LONGEST_BLIND_S:
        return None
    return _not_seen(longest, began_s) + (f": {trouble}" if trouble else "")


def doubt_about_gaps(
    gaps: Sequence[Gap], began_s: float, counted: Mapping[str, float], uncounted: Mapping[str, float], objectives: Objectives, trouble: str
) -> str | None:
    """Why what was not seen decides; None when the verdict is the same whatever happened in the gaps.

    Args:
        gaps: When nobody looked.
        began_s: Begin of the load.
        counted: The figures when gaps count against the platform; one that is absent meets no objective.
        uncounted: Those when they do not.
        objectives: What was asked for.
        trouble: What the last look failed with; empty when it did not.
    """
    if not gaps:
        return None
    # What was noticed, or healed, at the end of a gap may have been so at its begin already.
    unseen_s = sum(gap.length_s for gap in gaps)
    open_ = []
    for name in _OF_LOOKS:
        most, least = objectives.limits.get(name), uncounted.get(name)
        if most is None or counted.get(name, most + 1) <= most:
            continue
        # Without detection everything between fault and recovery may have happened unseen.
        if (least is None and "detection" not in uncounted) or (least is not None and least - unseen_s <= most):
            open_.append(name)
    if not open_:
        return None
    decides = f"what happened meanwhile decides whether {' and '.join(open_)} met the objective"
    return f"{_not_seen(max(gaps, key=lambda gap: gap.length_s), began_s)}, and {decides}" + (f": {trouble}" if trouble else "")


def doubt_about_story(story: Story, objectives: Objectives) -> str | None:
    """Why the moments say nothing; None when they do."""
    wanted = [name for name in _OF_A_FAULT if getattr(objectives, name) is not None]
    if wanted and story.fault_s is None:
        return f"there was no fault to measure {' and '.join(wanted)} from: the run was taken up again after it, or no step broke anything"
    return None


def doubt_about_phases(phases: Sequence[Phase]) -> str | None:
    """Why there is nothing to compare with; None when there is."""
    answered = phases[0].answered if phases else 0
    if answered < FEWEST_ANSWERS:
        return f"only {answered} requests were answered before the first step: too few to tell what is lost later"
    return None


def notes_on(heard: Heard | None, phases: Iterable[Phase], gaps: Iterable[Gap], began_s: float) -> list[Note]:
    """What to keep in mind of figures that can be believed."""
    notes = [Note("unseen", {"for_s": round(gap.length_s, 1), "since_s": round(gap.start_s - began_s)}) for gap in gaps]
    ttft_s = next((phase.ttft_s for phase in phases if phase.ttft_s is not None), None)
    lag_ms = heard.lag_p99_ms if heard is not None else None
    if lag_ms is not None and ttft_s is not None and lag_ms > ttft_s.p50 * 1e3 * _LAG_OF_TTFT_RATIO:
        notes.append(Note("late", {"ms": round(lag_ms, 1)}))
    return notes


def _not_seen(gap: Gap, began_s: float) -> str:
    return f"the components could not be looked at for {gap.length_s:.1f} s, from second {gap.start_s - began_s:.0f} on"

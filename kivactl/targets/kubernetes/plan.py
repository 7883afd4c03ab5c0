"""The course of a rollout in its order, and as the plan that people read before they say yes. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kivactl.errors import PreconditionError
from kivactl.plan import Change, Difference, Plan, Verb
from kivactl.targets.kubernetes.course import Act, Course, Step
from kivactl.targets.kubernetes.desired import GATEWAY, MONITORING, step_of
from kivactl.targets.kubernetes.difference import subject_of
from kivactl.targets.kubernetes.feasibility import Way

_FOLLOWS = ("labels.app.kubernetes.io/version", "annotations.kiva/version")
"""What changes whenever something else does, on every object: told only where it is all."""


@dataclass(frozen=True, slots=True)
class Phase:
    """What is done together, before the next phase begins: steps, or removals of releases by name."""

    steps: tuple[Step, ...] = ()
    removals: tuple[str, ...] = ()


def phases_of(course: Course) -> list[Phase]:
    """The order of doing.

    Whatever watches comes first. The gateway names a new model only when its engine answers, and forgets one before its engine
    goes; where the place of what goes is needed, both come before the engines.
    """
    monitoring = tuple(step for step in course.steps if step.release.chart == MONITORING)
    gateway = tuple(step for step in course.steps if step.release.chart == GATEWAY)
    engines = [step for step in course.steps if step not in monitoring and step not in gateway]
    waves: dict[int, list[Step]] = {}
    for step in engines:
        waves.setdefault(step.decision.wave if step.decision else 0, []).append(step)
    exchange = [Phase(tuple(steps)) for _, steps in sorted(waves.items())]
    going = [Phase(removals=course.removals)]
    if course.feasibility.removal_first:
        return _acting([Phase(monitoring), Phase(gateway), *going, *exchange])
    return _acting([Phase(monitoring), *exchange, Phase(gateway), *going])


def plan_of(course: Course, title: str) -> Plan:
    """What people read.

    Raises:
        PreconditionError: It cannot fit.
    """
    if course.feasibility.faults:
        first, *others = course.feasibility.faults
        raise PreconditionError(first, "fewer `replicas`, a smaller model or more GPUs; see what is there: kubectl describe nodes", tuple(others))
    changes = [Change(Verb.CREATE if differences[0].before is None else Verb.UPDATE, subject_of(one), differences) for one, differences in course.objects]
    for phase in phases_of(course):
        changes += [_change(step) for step in phase.steps]
        changes += [Change(Verb.DELETE, f"release {name}", disruption=_gone(course, name)) for name in phase.removals]
    unfinished = course.seen.record.unfinished
    if unfinished and not changes:
        changes = [Change(Verb.UPDATE, "verification")]
    return Plan(title, tuple(changes), (*_notes(course), *course.notes), course.basis)


def _acting(phases: list[Phase]) -> list[Phase]:
    found = [Phase(tuple(step for step in phase.steps if step.act is not Act.KEEP), phase.removals) for phase in phases]
    return [phase for phase in found if phase.steps or phase.removals]


def _change(step: Step) -> Change:
    differences = tuple(one for one in step.differences if not one.path.endswith(_FOLLOWS)) or step.differences
    if step.reason:
        differences = (Difference(f"release {step.release.name}", step.reason, "again" if step.acts else "is waited for"), *differences)
    return Change(_verb(step), step_of(step.release), differences, step.decision.disruption if step.decision else "")


def _verb(step: Step) -> Verb:
    if step.act is Act.INSTALL:
        return Verb.CREATE
    exchanges = step.decision is not None and step.decision.way not in {Way.SCALE, Way.START}
    return Verb.REPLACE if exchanges else Verb.UPDATE


def _gone(course: Course, name: str) -> str:
    deployed = course.seen.deployed[name]
    model = str((deployed.newest.values.get("model") or {}).get("name") or "")
    return f"'{model}' is not served any more" if model else ""


def _notes(course: Course) -> Iterator[str]:
    record = course.seen.record
    if record.unfinished:
        yield f"an earlier {record.unfinished.verb} ({record.unfinished.by}, {record.unfinished.since}) did not finish: this one goes on from there"
    if record.stopped_at:
        yield f"the platform was stopped at {record.stopped_at}: a deploy starts it again"
    for step in course.steps:
        if step.decision and step.acts and step.decision.way not in {Way.START, Way.SCALE} and not step.decision.disruption:
            how = "all new pods beside the old ones" if step.decision.way is Way.BLUE_GREEN else "a new pod answers before an old one goes"
            yield f"{step_of(step.release)}: {step.decision.way.value}, {how}"

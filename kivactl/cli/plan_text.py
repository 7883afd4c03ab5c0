"""A plan as lines with their colour. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from kivactl.plan import Change, Difference, Plan, Verb

_SIGNS = {
    Verb.CREATE: ("+", "green"),
    Verb.START: ("+", "green"),
    Verb.UPDATE: ("~", "yellow"),
    Verb.REPLACE: ("-/+", "yellow"),
    Verb.STOP: ("-", "red"),
    Verb.DELETE: ("-", "red"),
}


def lines_for(plan: Plan) -> Iterator[tuple[str, str]]:
    """The lines of a plan, each with its style: the title, the changes, the notes, how many of each there are."""
    if plan.empty:
        yield f"{plan.title}: nothing to change.", ""
    else:
        yield f"{plan.title}:", "bold"
        for change in plan.changes:
            yield from _change(change)
    for note in plan.notes:
        yield f"note: {note}", ""
    if not plan.empty:
        counts = {verb: sum(change.verb is verb for change in plan.changes) for verb in Verb}
        yield ", ".join(f"{count} to {verb.value}" for verb, count in counts.items() if count), "bold"


def _change(change: Change) -> Iterator[tuple[str, str]]:
    sign, style = _SIGNS[change.verb]
    yield f"  {sign:>3} {change.verb.value} {change.subject}", style
    width = max((len(difference.path) for difference in change.differences), default=0)
    for difference in change.differences:
        yield _difference(difference, width)
    if change.disruption:
        yield f"        {change.disruption}", "dim"


def _difference(difference: Difference, width: int) -> tuple[str, str]:
    path = f"        {difference.path.ljust(width)}  "
    match difference.before, difference.after:
        case None, after:
            return f"{path}{after}", "green"
        case before, None:
            return f"{path}{before} -> (removed)", "red"
        case before, after:
            return f"{path}{before} -> {after}", "yellow"

"""A plan as lines with their colour. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from kivactl.plan import Change, Difference, Plan, Verb

_LONGEST = 8
"""Lines that are shown of a text: of most files enough to know which it is."""

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
        yield from _difference(difference, width)
    if change.disruption:
        yield f"        {change.disruption}", "dim"


def _difference(difference: Difference, width: int) -> Iterator[tuple[str, str]]:
    path, before, after = f"        {difference.path.ljust(width)}  ", difference.before, difference.after
    if "\n" in f"{before}{after}":
        if difference.path:
            yield path.rstrip(), ""
        yield from _side("-", "red", before)
        yield from _side("+", "green", after)
    elif before is None:
        yield f"{path}{after}", "green"
    elif after is None:
        yield f"{path}{before} -> (removed)", "red"
    else:
        yield f"{path}{before} -> {after}", "yellow"


def _side(sign: str, style: str, value: str | None) -> Iterator[tuple[str, str]]:
    """One side of a difference of several lines; of a long one the beginning."""
    lines = (value or "").splitlines()
    shown = lines if len(lines) <= _LONGEST + 1 else lines[:_LONGEST]
    yield from ((f"          {sign} {line}".rstrip(), style) for line in shown)
    if len(shown) < len(lines):
        yield f"          {sign} ... and {len(lines) - len(shown)} more lines, which --output json has", "dim"

"""A runbook as a sheet that people read, in English or German, and as data. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kivactl.runbooks.bound import Bound, BoundAction, BoundCheck, BoundStep
from kivactl.runbooks.checks import described
from kivactl.runbooks.format import ROLES, Objectives, Parameter
from kivactl.runbooks.placeholders import labelled
from kivactl.spec.quantities import format_duration

Line = tuple[str, str]
"""A line and its style."""

_WORDS = {
    "purpose": ("Purpose", "Zweck"),
    "roles": ("Roles", "Rollen"),
    "responsible": ("responsible", "verantwortlich für die Durchführung"),
    "accountable": ("accountable", "rechenschaftspflichtig"),
    "consulted": ("consulted", "wird einbezogen"),
    "informed": ("informed", "wird informiert"),
    "approval": ("Approval by a second person", "Freigabe durch eine zweite Person"),
    "approval_text": ("{roles}, within {time}", "{roles}, innerhalb von {time}"),
    "parameters": ("Parameters", "Parameter"),
    "required": ("required", "erforderlich"),
    "optional": ("optional", "optional"),
    "default": ("default", "Vorgabe"),
    "one_of": ("one of", "eines von"),
    "least": ("at least", "mindestens"),
    "most": ("at most", "höchstens"),
    "preconditions": ("Preconditions", "Voraussetzungen"),
    "before": ("Has to hold before the first step", "Muss vor dem ersten Schritt gelten"),
    "during": ("Is watched all the time", "Wird fortlaufend beobachtet"),
    "after": ("Has to hold after the last step", "Muss nach dem letzten Schritt gelten"),
    "load": ("Background load", "Hintergrundlast"),
    "load_text": ("scenario {scenario}, users: {users}", "Szenario {scenario}, Benutzer: {users}"),
    "steps": ("Steps", "Schritte"),
    "asks": ("asks", "fragt"),
    "does": ("does", "führt aus"),
    "only_if": ("only if", "nur wenn"),
    "check": ("check", "Prüfung"),
    "undo": ("undo", "rückgängig"),
    "disruption": ("users notice", "Benutzer merken"),
    "timeout": ("ends within", "endet innerhalb von"),
    "retries": ("tried again", "Wiederholungen"),
    "retries_text": ("up to {times} times, {pause} apart", "bis zu {times}, im Abstand von {pause}"),
    "destructive": ("destructive: takes something away", "einschneidend: nimmt etwas weg"),
    "objectives": ("Objectives", "Ziele"),
    "escalation": ("Escalation", "Eskalation"),
    "at_once": ("on failure", "bei Fehlschlag"),
    "longer": ("after {time}", "nach {time}"),
    "within": ("within", "innerhalb von"),
    "only_on": ("only on", "nur auf"),
    "counts": ("steps: {steps}, destructive: {destructive}", "Schritte: {steps}, davon einschneidend: {destructive}"),
    "times": ("{times} times in a row", "{times}-mal in Folge"),
}
_OBJECTIVES = {
    "rto": ("the platform answers again (RTO)", "die Plattform antwortet wieder (RTO)"),
    "rpo": ("changes that may be lost (RPO)", "Änderungen, die verloren gehen dürfen (RPO)"),
    "detection": ("the fault is noticed", "der Fehler wird bemerkt"),
    "degraded": ("time with less than full capacity", "Zeit mit verminderter Kapazität"),
    "recovery": ("full capacity again", "volle Kapazität wieder da"),
    "outage": ("longest time without an answer", "längste Zeit ohne Antwort"),
    "lost_requests": ("requests lost before their first token", "vor dem ersten Token verlorene Anfragen"),
    "cut_streams": ("answers cut off", "abgebrochene Antworten"),
    "error_ratio": ("failed requests over all", "Anteil fehlgeschlagener Anfragen"),
}


def word(key: str, language: str) -> str:
    """A heading or label in `en` or `de`."""
    return _WORDS[key][1 if language == "de" else 0]


def role_text(role: str, contacts: Mapping[str, str], language: str) -> str:
    """A role as people read it: what it is called, and who fills it."""
    called = ROLES[role].in_language(language) if role in ROLES else role
    return f"{called} ({contacts[role]})" if role in contacts else called


def objective_lines(objectives: Objectives, language: str) -> Iterator[tuple[str, str]]:
    """The objectives that are set: what, and the most that is allowed."""
    for name in sorted(objectives.model_fields_set, key=list(_OBJECTIVES).index):
        value = getattr(objectives, name)
        if value is None:
            continue
        text = str(value) if name in {"lost_requests", "cut_streams"} else f"{value:.2%}" if name == "error_ratio" else format_duration(value)
        yield _OBJECTIVES[name][1 if language == "de" else 0], f"≤ {text}"


def sheet(bound: Bound, contacts: Mapping[str, str], language: str) -> Iterator[Line]:
    """The whole runbook for people: purpose, roles, preconditions, steps, checks, undo, objectives, escalation."""
    runbook = bound.runbook
    yield f"{runbook.title.in_language(language)} ({bound.name})", "bold"
    yield runbook.purpose.in_language(language), ""
    yield from _section("roles", _roles(bound, contacts, language), language)
    if runbook.approval is not None:
        roles = ", ".join(role_text(role, contacts, language) for role in runbook.approval.by)
        text = word("approval_text", language).format(roles=roles, time=format_duration(runbook.approval.within))
        yield from _section("approval", [(f"  {text}", "")], language)
    yield from _section("parameters", parameter_lines(runbook.parameters, language), language)
    yield from _section("preconditions", _checks(bound.preconditions, language), language)
    yield from _section("before", _checks(bound.before, language), language)
    yield from _section("during", _checks(bound.during, language), language)
    if runbook.load is not None:
        text = word("load_text", language).format(scenario=Path(runbook.load.scenario).stem, users=runbook.load.users)
        yield from _section("load", [(f"  {text}", "")], language)
    yield from _section("steps", [line for number, step in enumerate(bound.steps, 1) for line in step_lines(number, step, language)], language)
    yield from _section("after", _checks(bound.after, language), language)
    yield from _section("objectives", ((f"  {what}: {most}", "") for what, most in objective_lines(runbook.objectives, language)), language)
    yield from _section("escalation", _escalation(bound, contacts, language), language)


def plan_lines(bound: Bound, steps: Sequence[BoundStep], notes: Sequence[str], contacts: Mapping[str, str], language: str) -> Iterator[Line]:
    """What a person reads before saying yes: who is told, the steps, what users notice, how much is taken away.

    Args:
        bound: The runbook.
        steps: Those that would be done.
        notes: Further sentences.
        contacts: Who fills the roles.
        language: `en` or `de`.
    """
    runbook = bound.runbook
    yield f"{runbook.title.in_language(language)} ({bound.name})", "bold"
    first = len(bound.steps) - len(steps)
    for number, step in enumerate(steps, first + 1):
        yield from step_lines(number, step, language, whole=False)
    if runbook.roles.informed:
        yield f"  {word('informed', language)}: {', '.join(role_text(role, contacts, language) for role in runbook.roles.informed)}", ""
    if runbook.approval is not None:
        yield f"  {word('approval', language)}: {', '.join(role_text(role, contacts, language) for role in runbook.approval.by)}", "yellow"
    for note in notes:
        yield f"  {note}", ""
    destructive = sum(step.destructive for step in steps)
    yield word("counts", language).format(steps=len(steps), destructive=destructive), "red" if destructive else ""


def step_lines(number: int, step: BoundStep, language: str, *, whole: bool = True) -> Iterator[Line]:
    """A step: number, title, what users notice; as a `whole` also its checks, its undo and its limits."""
    mark, style = ("!", "red") if step.destructive else (" ", "")
    yield f"  {mark} {number:>2}. {step.title(language)}  [{step.name}]", style
    if step.destructive:
        yield f"        {word('destructive', language)}", "red"
    if step.disruption(language):
        yield f"        {word('disruption', language)}: {step.disruption(language)}", "yellow"
    if step.step.ask is not None:
        yield f"        {word('asks', language)}: {step.step.ask.in_language(language)}", ""
    if not whole:
        return
    if step.precondition is not None:
        yield f"        {word('only_if', language)}: {check_text(step.precondition, language)}", ""
    if step.do is not None:
        yield f"        {word('does', language)}: {action_text(step.do, step.step.params)}", "dim"
    if step.check is not None:
        yield f"        {word('check', language)}: {check_text(step.check, language)}", ""
    if step.undo is not None and step.step.undo is not None:
        yield f"        {word('undo', language)}: {action_text(step.undo, step.step.undo.params)}", ""
    if step.step.only_on is not None:
        yield f"        {word('only_on', language)} {step.step.only_on}", "dim"
    limits = [] if step.step.ask is not None else [f"{word('timeout', language)} {format_duration(step.timeout_s)}"]
    if step.step.retries is not None:
        repeated = word("retries_text", language).format(times=step.step.retries.times, pause=format_duration(step.step.retries.pause))
        limits.append(f"{word('retries', language)}: {repeated}")
    if limits:
        yield f"        {', '.join(limits)}", "dim"


def check_text(bound: BoundCheck, language: str) -> str:
    """A check: title, probe, tolerance, patience."""
    check = bound.check
    patience = f", {word('within', language)} {format_duration(check.within)}" if check.within else ""
    times = f", {word('times', language).format(times=check.times)}" if check.times > 1 else ""
    where = f", {word('only_on', language)} {check.only_on}" if check.only_on else ""
    return f"{check.title.in_language(language)} ({check.probe} {described(check.tolerance, bound.probe.kind)}{patience}{times}{where})"


def action_text(bound: BoundAction, written: Mapping[str, Any] | None = None) -> str:
    """An action with what it is given; with what is `written`, `<name>` stands for what is chosen or found out only when it runs."""
    given = bound.params.model_dump(mode="json", exclude_unset=True) if written is None else written
    return bound.name + (f" ({', '.join(f'{key}: {_given(value)}' for key, value in given.items())})" if given else "")


def parameter_lines(declared: Mapping[str, Parameter], language: str) -> Iterator[Line]:
    """The parameters: how they are set, what they are for, what they may be."""
    for name, parameter in declared.items():
        facts = []
        if parameter.default is not None:
            facts.append(f"{word('default', language)} {_given(parameter.default)}")
        else:
            facts.append(word("optional" if parameter.optional else "required", language))
        if parameter.choices is not None:
            facts.append(f"{word('one_of', language)} {', '.join(parameter.choices)}")
        if parameter.minimum is not None:
            facts.append(f"{word('least', language)} {parameter.minimum}")
        if parameter.maximum is not None:
            facts.append(f"{word('most', language)} {parameter.maximum}")
        if parameter.only_on is not None:
            facts.append(f"{word('only_on', language)} {parameter.only_on}")
        yield f"  --set {name}={parameter.type.value.upper()}", ""
        yield f"        {parameter.description.in_language(language)} ({', '.join(facts)})", ""


def as_dict(bound: Bound, contacts: Mapping[str, str]) -> dict[str, Any]:
    """The whole runbook as JSON-ready data: as written, with what actions and roles mean."""
    steps = [
        {
            **step.step.model_dump(mode="json", exclude_none=True, exclude={"params"}),
            "params": step.do.params.model_dump(mode="json") if step.do else {},
            "destructive": step.destructive,
            "repeatable": step.do.action.repeatable if step.do else True,
        }
        for step in bound.steps
    ]
    whole = bound.runbook.model_dump(mode="json", exclude_none=True)
    return {"name": bound.name, "path": str(bound.path), "sha256": bound.text_sha256, **whole, "steps": steps, "contacts": dict(contacts)}


def _section(key: str, lines: Iterable[Line], language: str) -> Iterator[Line]:
    listed = list(lines)
    if listed:
        yield "", ""
        yield word(key, language), "bold"
        yield from listed


def _roles(bound: Bound, contacts: Mapping[str, str], language: str) -> Iterator[Line]:
    roles = bound.runbook.roles
    for key, names in (("responsible", roles.responsible), ("accountable", (roles.accountable,)), ("consulted", roles.consulted), ("informed", roles.informed)):
        if names:
            yield f"  {word(key, language)}: {', '.join(role_text(role, contacts, language) for role in names)}", ""


def _checks(checks: Iterable[BoundCheck], language: str) -> Iterator[Line]:
    return ((f"  - {check_text(check, language)}", "") for check in checks)


def _escalation(bound: Bound, contacts: Mapping[str, str], language: str) -> Iterator[Line]:
    for one in bound.runbook.escalation:
        when = word("longer", language).format(time=format_duration(one.after)) if one.after else word("at_once", language)
        yield f"  {when}: {role_text(one.to, contacts, language)}: {one.text.in_language(language)}", ""


def _given(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return ", ".join(f"{key}={_given(one)}" for key, one in value.items())
    return ", ".join(map(_given, value)) if isinstance(value, (list, tuple)) else labelled(str(value))

"""From a run to its report, as data in one language: the same for Markdown and HTML. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kivactl.runbooks.evidence import course, surroundings
from kivactl.runbooks.evidence.material import Material, Section, Table, row
from kivactl.runbooks.evidence.wording import FIGURES, STATES, VERDICTS, Voice
from kivactl.runbooks.format import Objectives
from kivactl.runbooks.record import Verdict


@dataclass(frozen=True, slots=True)
class Report:
    """A report.

    Attributes:
        language: `en` or `de`.
        kind: What the run is called.
        title: Of the runbook.
        verdict: The result in a word or two.
        mark: `good`, `bad` or `warn`.
        reason: Why it did not pass; empty when it did.
        facts: Label and value, below the verdict.
        sections: In order.
        footer: What is printed on each page.
        page: The word for a page.
    """

    language: str
    kind: str
    title: str
    verdict: str
    mark: str
    reason: str
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    footer: str
    page: str


def report_for(material: Material, language: str) -> Report:
    """The report in `en` or `de`."""
    record, voice = material.record, Voice("de" if language == "de" else "en")
    sections = [
        _objectives(material, voice),
        course.steps(material, voice),
        course.load(material, voice),
        course.checks(material, voice),
        course.people(material, voice),
        course.undo(material, voice),
        surroundings.raci(material, voice),
        surroundings.parameters(material, voice),
        surroundings.environment(material, voice),
        surroundings.hashes(material, voice),
    ]
    verdict = voice.of(VERDICTS[record.verdict] if record.verdict else STATES[record.state])
    return Report(
        language=voice.language,
        kind=voice.word("evidence"),
        title=material.bound.runbook.title.in_language(language),
        verdict=verdict,
        mark=_mark(record.verdict),
        reason=record.reason,
        facts=tuple(_facts(material, voice)),
        sections=tuple(section for section in sections if section is not None),
        footer=f"{record.run} · {record.platform} · {verdict}",
        page=voice.word("page"),
    )


def met(objective: float, measured: float | None) -> bool:
    """Whether a value is within its objective; one that was not measured is not."""
    return measured is not None and measured <= objective


def _facts(material: Material, voice: Voice) -> Iterable[tuple[str, str]]:
    record = material.record
    yield voice.word("purpose"), material.bound.runbook.purpose.in_language(voice.language)
    yield voice.word("platform"), record.platform
    yield voice.word("runbook"), record.runbook
    yield voice.word("run"), record.run
    yield voice.word("operator"), record.operator.name
    yield voice.word("began"), voice.moment(record.opened_at)
    if record.closed_at is not None:
        yield voice.word("ended"), voice.moment(record.closed_at)
        yield voice.word("took"), voice.seconds((record.closed_at - record.opened_at).total_seconds())


def _objectives(material: Material, voice: Voice) -> Section:
    record, objectives = material.record, material.bound.runbook.objectives
    rows = []
    for name in Objectives.model_fields:
        limit, measured = getattr(objectives, name), record.measured.get(name)
        if limit is None and measured is None:
            continue
        shown = voice.word("not_measured") if measured is None else voice.figure(name, measured)
        if limit is None:
            rows.append(row(voice.of(FIGURES[name]), voice.word("no_limit"), shown, "–"))
        else:
            good = met(limit, measured)
            rows.append(row(voice.of(FIGURES[name]), voice.figure(name, limit), shown, voice.truth(good), mark="good" if good else "bad"))
    rows += [row(name, voice.word("no_limit"), voice.figure(name, value), "–") for name, value in record.measured.items() if name not in FIGURES]
    texts = (voice.word("invalid", reason=record.reason.removesuffix(".")),) if record.verdict is Verdict.INVALID else ()
    if not rows:
        return Section(voice.word("objectives"), (*texts, voice.word("no_objectives")))
    head = tuple(voice.word(key) for key in ("objective", "allowed", "measured", "met"))
    return Section(voice.word("objectives"), texts, (Table(head, tuple(rows)),))


def _mark(verdict: Verdict | None) -> str:
    if verdict is Verdict.PASSED:
        return "good"
    return "warn" if verdict in {None, Verdict.INVALID, Verdict.INTERRUPTED} else "bad"

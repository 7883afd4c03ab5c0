"""From a run to its report, as data in one language: the same for Markdown and HTML. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kivactl.runbooks.binding import Bound
from kivactl.runbooks.evidence.wording import FIGURES, STATES, VERDICTS, Voice
from kivactl.runbooks.format import Objectives, Text
from kivactl.runbooks.record import Record, Verdict

Lines = tuple[str, ...]
"""What stands in a cell of a table, line by line."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table; `mark` is `good`, `bad`, `warn` or nothing."""

    cells: tuple[Lines, ...]
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table; `code` are the columns with hashes and names of files."""

    head: tuple[str, ...]
    rows: tuple[Row, ...]
    code: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture: SVG that is safe inside HTML, and the file in the run's folder, empty when there is none."""

    title: str
    svg: str
    path: str


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report."""

    title: str
    texts: Lines = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    commands: Lines = ()


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


@dataclass(frozen=True, slots=True)
class Material:
    """All that a report is made of.

    Attributes:
        record: The run.
        bound: The runbook as it was run.
        entries: The journal's.
        environment: As `environment_of` has it.
        contacts: Who fills a role.
        summary: Of the observation, as `measurements/summary.json` has it; empty without one.
        pictures: Content of each picture by its path in the folder.
        files: SHA-256 of each file by its path in the folder, without the reports themselves.
        journal_head: SHA-256 of the journal's last line.
        signer: Fingerprint of the certificate that signs; empty while nothing is signed.
    """

    record: Record
    bound: Bound
    entries: Sequence[Mapping[str, Any]]
    environment: Mapping[str, Any]
    contacts: Mapping[str, str]
    summary: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    journal_head: str = ""
    signer: str = ""

    def titles(self, language: str) -> dict[str, str]:
        """What the runbook's sentences, as the journal has them, are in a language."""
        told: dict[str, str] = {}
        for text in self._texts():
            told[text.in_language(self.record.language)] = text.in_language(language)
        return told

    def _texts(self) -> Iterable[Text]:
        bound = self.bound
        for step in bound.steps:
            yield step.step.title
            if step.step.ask is not None:
                yield step.step.ask
            yield from (check.check.title for check in (step.precondition, step.check) if check is not None)
        yield from (check.check.title for check in (*bound.preconditions, *bound.before, *bound.during, *bound.after))


def report_for(material: Material, language: str) -> Report:
    """The report in `en` or `de`."""
    from kivactl.runbooks.evidence import course, surroundings

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


def row(*cells: str | Iterable[str], mark: str = "") -> Row:
    """A row; a text is one line."""
    return Row(tuple((cell,) if isinstance(cell, str) else tuple(cell) for cell in cells), mark)


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

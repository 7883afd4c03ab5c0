"""What a report is made of, and the parts it is built from: sections, tables, rows, pictures. Types only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kivactl.runbooks.bound import Bound
from kivactl.runbooks.format import Text
from kivactl.runbooks.record import Record

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
class Material:
    """All that a report is made of.

    Attributes:
        record: The run.
        bound: The runbook as it was run.
        entries: The journal's.
        environment: As `surroundings_of` has it.
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


def row(*cells: str | Iterable[str], mark: str = "") -> Row:
    """A row; a text is one line."""
    return Row(tuple((cell,) if isinstance(cell, str) else tuple(cell) for cell in cells), mark)

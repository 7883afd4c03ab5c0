"""What a page is made of, before it is one: sections with texts, tables and figures. All texts are plain; the template escapes them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table.

    Attributes:
        cells: The first names the row.
        mark: `good`, `bad` or `warn`; empty for none.
        share: Of the whole, 0..1, drawn as a bar in the last cell; None for no bar.
    """

    cells: tuple[str, ...]
    mark: str = ""
    share: float | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its heads.

    Attributes:
        caption: What it holds.
        head: Of each column.
        rows: From the top.
        numbers: Columns whose cells stand at the right.
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[Row, ...]
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture: its name, and what is to be seen."""

    name: str
    caption: str


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page.

    Attributes:
        name: Where links lead.
        title: Above it.
        texts: Paragraphs.
        points: A list below them.
        figures: Pictures below that; those that are not there are left out.
        tables: At its end.
        terms: Terms with their definitions, each with a formula or an empty text.
    """

    name: str
    title: str
    texts: tuple[str, ...] = ()
    points: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    terms: tuple[tuple[str, str, str], ...] = ()

"""A report as Markdown and as one HTML file. What is not part of a template is escaped and struck of secrets, always."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from kivactl.runbooks.evidence.report import Report
from kivactl.stack.redaction import redacted

if TYPE_CHECKING:
    from jinja2 import Environment

FORMS = ("md", "html")
_TEMPLATES = Path(__file__).parent / "templates"
_SIGNS = re.compile(r"([\\`*\[\]<>|#~&]|(?<![^\W_])_|_(?![^\W_]))")
_LONGEST_WHOLE = 24
"""Longer words are broken where the line ends; shorter ones make their column wide enough."""
_UNITS = re.compile(r"(?<=\d) (?=(?:ms|s|min|h|d|%|[KMGT]?i?B)(?!\w))")
_BLANKS = re.compile(r"\s+")


class _Verbatim(str):
    """A text of ours that means what it says: a command, a file's name in angle brackets."""

    __slots__ = ()


def markdown(report: Report) -> str:
    """The report as Markdown (GitHub's tables)."""
    return _for_markdown().get_template("report.md.j2").render(report=report)


def html(report: Report) -> str:
    """The report as one HTML file that needs nothing else, made for paper of size A4."""
    from markupsafe import Markup

    style = Markup((_TEMPLATES / "print.css").read_text())  # noqa: S704  (our own file)
    return _for_html().get_template("report.html.j2").render(report=report, style=style, footer=Markup(_css_text(redacted(report.footer))))  # noqa: S704  (escaped)


def markdown_text(text: str) -> str:
    """A text as it stands in Markdown: on one line, no sign means anything, no secret."""
    return _SIGNS.sub(r"\\\1", _BLANKS.sub(" ", redacted(text)))


def _css_text(text: str) -> str:
    """A text as a string of a style sheet that stands in a page."""
    return '"' + "".join(sign if sign.isalnum() or sign in " .:-·" else f"\\{ord(sign):x} " for sign in text) + '"'


@cache
def _for_markdown() -> Environment:
    """Made once, as a run has a report in each language and templates take the time."""
    environment = _environment(autoescape=False)
    environment.finalize = lambda value: value if isinstance(value, _Verbatim) else markdown_text(str(value))
    environment.filters["verbatim"] = _Verbatim
    return environment


@cache
def _for_html() -> Environment:
    from markupsafe import Markup

    environment = _environment(autoescape=True)
    environment.finalize = lambda value: value if isinstance(value, Markup) else _UNITS.sub("\u00a0", redacted(str(value)))
    environment.tests["long"] = lambda lines: any(len(word) > _LONGEST_WHOLE for line in lines for word in line.split())
    environment.filters["picture"] = Markup  # SVG that `pictures` has made harmless
    return environment


def _environment(*, autoescape: bool) -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(autoescape=autoescape, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)  # noqa: S701  (Markdown has its own)
    environment.loader = FileSystemLoader(_TEMPLATES)
    return environment

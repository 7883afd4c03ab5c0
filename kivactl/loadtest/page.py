"""The report of a load test as one HTML file that needs nothing else: no other file, no network, no script.

What comes from outside (names of models, examples of failures) is escaped by the template and struck of secrets; only pictures,
which `tools.plot` has drawn, stand in it as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from kivactl.loadtest import page_tables
from kivactl.loadtest.material import Material
from kivactl.loadtest.page_course import Course, course_of
from kivactl.loadtest.page_engines import engines_table
from kivactl.loadtest.page_glossary import CAPACITY_TERM, KNEE_TERM, STAMPS, TERMS
from kivactl.loadtest.page_parts import Figure, Section, Table
from kivactl.loadtest.page_plots import pictures_for
from kivactl.loadtest.page_probes import knee_sentences, probes_table
from kivactl.loadtest.wording import Status, sentence_of, status_of
from kivactl.stack.redaction import redacted

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["page_for", "pictures_for"]

_LONGEST_WHOLE = 24
"""Longer words are broken where the line ends; shorter ones make their column wide enough."""
_TEMPLATES = Path(__file__).parent / "templates"
_MARKS = {Status.MET: "good", Status.MISSED: "bad", Status.INVALID: "warn", Status.INTERRUPTED: "warn", Status.MEASURED: "plain"}
_SIGNS = {"good": "✔", "bad": "✘", "warn": "▲", "plain": "●"}


def page_for(material: Material, pictures: Mapping[str, str], *, missing: str = "") -> str:
    """The page.

    Args:
        material: Of the run.
        pictures: Elements `svg` by the names of `pictures_for`; those that are not there are left out.
        missing: Why pictures are left out, as one sentence; empty when none is.
    """
    told, course = material.summary, course_of(material)
    status = status_of(told)
    mark = _MARKS[status]
    return _template().render(
        title=told["scenario"],
        status=f"{_SIGNS[mark]} {status.value.capitalize()}",
        mark=mark,
        sentence=sentence_of(told),
        answer=_answer(material),
        missing=missing,
        tiles=tuple(page_tables.tiles(told)),
        facts=page_tables.facts(told),
        sections=[section for section in _sections(material, course) if section is not None],
        pictures=pictures,
    )


def _answer(material: Material) -> str:
    """What several runs together say; empty for a single one."""
    answer = material.summary.get("answer")
    return f"{answer}. The figures are those of the run with {material.summary['load']}; all loads are under 'Load and latency'." if answer else ""


def _sections(material: Material, course: Course) -> Iterator[Section | None]:
    """In the page's order; None for one that there is nothing to say in."""
    told = material.summary
    since = "was due" if course.is_open else "began"
    yield _loads(material)
    yield _service_levels(material)
    yield _bottleneck(material)
    yield Section(
        "latency",
        "Latency over time",
        ("Each dot is a request." if course.records else "No request was made.",),
        figures=(
            Figure(
                "latency",
                f"Each request at the moment at which it {since}; crosses are failures, dashed lines across are promises, the warm-up and the end are shaded.",
            ),
        ),
    )
    yield Section(
        "distributions",
        "Distributions",
        () if told["succeeded"] else ("No measured request succeeded.",),
        figures=(
            Figure(
                "distributions", "Share of requests (ITL: of gaps) that took at most so long, of measured requests that succeeded. Upright lines are promises."
            ),
        ),
    )
    yield Section(
        "throughput",
        "Throughput over time",
        figures=(Figure("throughput", f"In stretches of {course.bin_s:g} s; answers and failures count when they end."),),
        tables=_present(page_tables.over_time(course), page_tables.figures(told)),
    )
    yield Section(
        "errors",
        "Errors",
        () if told["failures"] else ("No measured request failed.",),
        figures=(Figure("errors", "Failures by kind, those outside the measured phase included."),),
        tables=_present(page_tables.failures(told)),
    )
    yield _engines(material)
    yield Section("times", "Times", () if told["succeeded"] else ("There is no time to tell.",), tables=_present(page_tables.times(told)))
    yield Section("mix", "Mix", tables=_present(page_tables.mix(told))) if told["groups"] else None
    yield _validity(material)
    tables = page_tables.environment(material)
    yield Section("environment", "Environment", tables=tables) if tables else None
    terms = (*TERMS, CAPACITY_TERM, KNEE_TERM) if material.probes else TERMS
    yield Section("terms", "Terms", (STAMPS,), terms=terms)


def _service_levels(material: Material) -> Section:
    told = material.summary
    table = page_tables.service_levels(told)
    good = told["attainment"]
    texts = [] if table else ["No service level was promised."]
    if good["thresholds"]:
        interval = f"95 % interval {good['low'] * 100:.1f} to {good['high'] * 100:.1f} %"
        texts.append(f"{good['good']} of {good['due']} requests that were due kept every promised time: {good['ratio'] * 100:.1f} % ({interval}).")
    return Section("levels", "Service levels", tuple(texts), tables=_present(table))


def _bottleneck(material: Material) -> Section | None:
    found = material.summary.get("bottleneck")
    if not found:
        return None
    return Section("bottleneck", "The bottleneck", (found["sentence"],), tuple(found["evidence"]), tables=_present(page_tables.bottleneck_parts(found)))


def _engines(material: Material) -> Section | None:
    if not material.engine:
        return None
    figures = (Figure("engines", "What the engines said of themselves, the highest value of each stretch of time."),)
    return Section("engines", "The engines", figures=figures, tables=_present(engines_table(material.engine, material.window)))


def _loads(material: Material) -> Section | None:
    if not material.probes:
        return None
    figures = (
        Figure(
            "load",
            "Dots met the service levels, crosses missed them, rings are undecided; dashed lines across are promises, upright ones are named.",
        ),
    )
    return Section("loads", "Load and latency", tuple(knee_sentences(material.probes)), figures=figures, tables=(probes_table(material.probes),))


def _validity(material: Material) -> Section:
    told = material.summary
    texts: Sequence[str] = (f"The measurement is invalid: {told['invalid']}.",) if told["invalid"] else ("The measurement is valid.",)
    if told["warnings"]:
        texts = (*texts, "Keep in mind:")
    return Section("validity", "Validity", tuple(texts), tuple(told["warnings"]), tables=(page_tables.validity(told),))


def _present(*tables: Table | None) -> tuple[Table, ...]:
    return tuple(table for table in tables if table is not None)


@cache
def _template() -> Template:
    """Made once, as making it takes longer than using it."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=FileSystemLoader(_TEMPLATES))
    environment.finalize = lambda value: value if isinstance(value, Markup) else redacted(str(value))
    environment.tests["long"] = lambda text: any(len(word) > _LONGEST_WHOLE for word in text.split())
    environment.filters["drawn"] = Markup  # of `tools.plot`, which escapes what it is given
    environment.globals["style"] = Markup((_TEMPLATES / "page.css").read_text())  # noqa: S704  (our own file)
    return environment.get_template("page.html.j2")

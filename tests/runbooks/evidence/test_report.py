"""What a report says, in both languages and forms, and what it never says."""

from __future__ import annotations

import html
import json
import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.errors import PreconditionError
from kivactl.runbooks import evidence
from kivactl.runbooks.evidence.pages import markdown_text
from kivactl.runbooks.evidence.report import met
from kivactl.runbooks.evidence.wording import FIGURES, STATES, STEP_STATES, VERDICTS, WORDS, Voice
from kivactl.runbooks.format import Objectives
from kivactl.runbooks.notes import Note
from kivactl.runbooks.record import State, StepState, Verdict

VOID = {"meta", "br", "link", "img"}
HOSTILE = "<script>alert(1)</script> | `x` [a](http://evil.example) \"'> {{ 7*7 }} </style>"


class Page(HTMLParser):
    """A page as a browser takes it apart: elements, attributes, and what is visible."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.attributes, self.cells = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)
        if tag in {"td", "th"}:
            self.cells.append("")

    def handle_startendtag(self, tag, attrs):
        self.elements.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data


def both(run, language="en"):
    return [evidence.report(run.folder, language, form) for form in ("md", "html")]


def visible(text):
    """A page's words without its markup."""
    return html.unescape(re.sub(r"<[^>]+>", " ", text.partition("</style>")[2] or text)).replace("\u00a0", " ")


@pytest.mark.parametrize("language", ["en", "de"])
def test_verdict_objectives_steps_checks_people_roles_and_hashes_are_there(drill, authority, language):
    drill.write()
    expected = {
        "en": [
            "Passed",
            "Failover drill",
            "15 s",
            "400 ms",
            "1.25 %",
            "Kill the replica",
            "It serves again as a new process",
            "false, not = true",
            "Platform lead",
        ],
        "de": [
            "Bestanden",
            "Ausfallübung",
            "15 s",
            "400 ms",
            "1,25 %",
            "Replikat gewaltsam beenden",
            "Als neuer Prozess",
            "false, not = true",
            "Plattformleitung",
        ],
    }[language]
    for text in both(drill, language):
        said = visible(text).replace("\\", "")
        for words in (*expected, "IT-Betrieb, Tel. 4711", "a.lovelace@ops1", drill.record.runbook_sha256, drill.record.plan, "chat-0 was killed (pid 4711)"):
            assert words in said, words


def test_the_verdict_is_on_top(drill, authority):
    drill.write()
    text, page = both(drill)
    assert text.startswith("# Passed: Failover drill")
    assert page.index("✔ Passed") < page.index("<h2>")


def test_the_page_needs_nothing_else(drill, authority):
    drill.write()
    for language in ("en", "de"):
        page = Page(evidence.report(drill.folder, language, "html"))
        assert page.open == []
        assert not {"script", "link", "img", "iframe", "object", "base", "form"} & set(page.elements)
        assert page.elements.count("svg") == 2
        for key, value in page.attributes:
            assert not key.startswith("on")
            assert key not in {"href", "src", "xlink:href", "action"} or value.startswith("#"), (key, value)
        assert "@page { size: A4" in evidence.report(drill.folder, language, "html")
        assert ("lang", language) in page.attributes


def test_markdown_has_as_many_cells_in_each_row_as_in_the_head(drill, authority):
    drill.write()
    for language in ("en", "de"):
        for block in evidence.report(drill.folder, language, "md").split("\n\n"):
            if block.startswith("|"):
                counts = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
                assert len(counts) == 1, block


def test_nothing_that_anybody_wrote_becomes_markup(new_run, authority):
    run = new_run("key-rotation")
    run.opens(operator={"name": HOSTILE, "user": HOSTILE, "host": HOSTILE}, parameters={HOSTILE: HOSTILE})
    run.does("present", HOSTILE)
    run.says("checked", phase=HOSTILE, step=HOSTILE, check=HOSTILE, probe="x", value=1, tolerance=HOSTILE, met=True, message=HOSTILE)
    run.says("asked", step="told", question=HOSTILE)
    run.says("answered", step="told", by={"name": HOSTILE, "user": "a", "host": "b"}, answer=HOSTILE)
    run.says("begun", step=HOSTILE, attempt=1)
    run.says("failed", step=HOSTILE, reason=HOSTILE, attempt=1, elapsed_s=1.0)
    run.says("closed", verdict="failed", reason=HOSTILE)
    run.write()
    for language in ("en", "de"):
        text = evidence.report(run.folder, language, "html")
        page = Page(text)
        assert page.open == []
        assert not {"script", "a"} & set(page.elements)
        assert "49" not in [cell.strip() for cell in page.cells]
        assert any(HOSTILE in cell for cell in page.cells)
        told = evidence.report(run.folder, language, "md")
        assert "<script" not in re.sub(r"\\.", "", told)
        assert "](http" not in re.sub(r"\\.", "", told)


def test_a_platforms_name_cannot_leave_the_style_sheet(drill, authority):
    from dataclasses import replace

    material_record = replace(drill.record, platform='"; } </style><script>')
    page = Page(evidence.render(drill.folder, material_record, drill.bound, drill.deployment, "en", "html"))
    assert "script" not in page.elements


def test_who_approved_in_which_role_and_when(new_run, authority):
    run = new_run("key-rotation", "de")
    run.opens(approval=["security-officer"])
    run.says("approved", by={"name": "grace", "user": "g.hopper", "host": "ops2"}, role="security-officer", user="g.hopper", host="ops2", plan=run.record.plan)
    run.says("closed", verdict="passed", reason="")
    run.write()
    (line,) = [line for line in evidence.report(run.folder, "en", "md").splitlines() if "approved the plan" in line]
    assert re.fullmatch(r"\| \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC \| grace \| g\.hopper@ops2 \| Security officer \| approved the plan<br>[0-9a-f]{16} \|", line)
    assert "gab den Plan frei" in evidence.report(run.folder, None, "md")


def test_undo_interruption_and_resumption_are_told(new_run, authority):
    run = new_run(replica="chat-0")
    run.opens()
    run.says("begun", step="kill", attempt=1)
    run.says("interrupted", step="kill", reason="SIGINT")
    run.says("undoing", step="kill")
    run.says("undone", step="kill")
    run.says("closed", verdict="interrupted", reason="interrupted by SIGINT")
    run.write()
    text = evidence.report(run.folder, "en", "md")
    assert text.startswith("# Interrupted: ")
    assert re.search(r"\| Kill the replica \| replica\.repair \(replica: chat-0\) \| done \(.* UTC\) \|", text)
    assert re.search(r"UTC \| interrupted \| Kill the replica \| SIGINT \|", text)
    run.says("resumed", operator={"name": "grace", "user": "g", "host": "h"}, done=["kill"], again=[])
    run.says("closed", verdict="passed", reason="")
    run.write()
    assert "took the run up again<br>said that it was done: kill" in evidence.report(run.folder, "en", "md")


def test_an_objective_without_a_value_is_not_met(drill, authority):
    assert not met(5.0, None)
    assert met(0, 0)
    run = drill
    run.says("observed", measured={"lost_requests": 2})
    run.write()
    text = evidence.report(run.folder, "en", "md")
    assert "| Requests lost before their answer began | 0 | 2 | no |" in text
    assert "| Answers that broke off | no objective | 3 | – |" in text


def test_a_measurement_that_cannot_be_believed_says_so(new_run, authority):
    run = new_run()
    run.opens()
    run.says("closed", verdict="invalid measurement", reason="x")
    run.says("resumed", operator={})
    run.says("closed", verdict="measurement invalid", reason="the load generator was late by 2000 ms")
    run.write()
    text = evidence.report(run.folder, "en", "md")
    assert text.startswith("# Measurement invalid: ")
    assert "The measurement cannot be relied on: the load generator was late by 2000 ms." in text
    assert "| From the fault until it was noticed | 15 s | not measured | no |" in text


@pytest.mark.parametrize("load", [True, False])
def test_what_is_to_be_kept_in_mind_of_a_measurement_is_told_in_the_readers_language(drill, authority, load):
    path = drill.folder / "measurements" / "summary.json"
    notes = [Note("unseen", {"for_s": 4.2, "since_s": 12}).as_dict(), Note("late", {"ms": 7.5}).as_dict(), "a note of an older version"]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"notes": notes} | ({} if load else {"load": None})))
    drill.write()
    english, german = (evidence.report(drill.folder, language, "md") for language in ("en", "de"))
    assert "The components could not be looked at for 4.2 s, from second 12 on: counted as degraded." in english
    assert "times to the first token may be too long" in english
    assert "Die Komponenten waren 4,2 s lang nicht zu sehen, von Sekunde 12 an: als eingeschränkter Betrieb gezählt." in german
    assert "Der Lastgenerator kam bis zu 7,5 ms zu spät" in german
    assert "could not be looked at" not in german
    assert "a note of an older version" in english
    assert "a note of an older version" in german


def test_a_run_that_has_not_ended_has_a_report_that_is_not_signed(new_run):
    run = new_run()
    run.opens()
    with pytest.raises(PreconditionError, match="has not ended"):
        evidence.report(run.folder)
    text = evidence.render(run.folder, run.record, run.bound, run.deployment, "de", "md")
    assert text.startswith("# Unterbrochen: ")
    assert "Dieser Bericht ist nicht signiert" in text
    assert not (run.folder / "report.de.md").exists()


def test_reports_are_the_same_for_the_same_run(drill, authority):
    one = evidence.render(drill.folder, drill.record, drill.bound, drill.deployment, "en", "html")
    assert one == evidence.render(drill.folder, drill.record, drill.bound, drill.deployment, "en", "html")


def test_every_word_is_there_in_both_languages():
    for words in (WORDS, FIGURES, VERDICTS, STATES, STEP_STATES):
        for key, pair in words.items():
            assert len(pair) == 2, key
            assert all(pair), key
            fields = [set(re.findall(r"\{(\w+)\}", text)) for text in pair]
            assert fields[0] == fields[1], key
    assert set(VERDICTS) == set(Verdict)
    assert set(STATES) == set(State)
    assert set(STEP_STATES) == set(StepState)
    assert set(FIGURES) == set(Objectives.model_fields)


@pytest.mark.parametrize(
    ("value_s", "en", "de"),
    [
        (0, "0 s", "0 s"),
        (0.25, "250 ms", "250 ms"),
        (0.9999, "1 s", "1 s"),
        (12.34, "12.3 s", "12,3 s"),
        (125, "2 min 5 s", "2 min 5 s"),
        (3600, "1 h", "1 h"),
        (12_000, "3 h 20 min", "3 h 20 min"),
        (604_800, "7 d", "7 d"),
        (-1.5, "−1.5 s", "−1,5 s"),
    ],
)
def test_durations(value_s, en, de):
    assert (Voice("en").seconds(value_s), Voice("de").seconds(value_s)) == (en, de)


def test_moments_and_sizes():
    at = datetime(2026, 3, 1, 9, 5, 7, tzinfo=UTC)
    assert (Voice("en").moment(at), Voice("de").moment(at)) == ("2026-03-01 09:05:07 UTC", "01.03.2026 09:05:07 UTC")
    assert (Voice("en").size(25_232_932_864), Voice("de").size(25_232_932_864)) == ("23.5 GiB", "23,5 GiB")


@given(st.text())
def test_any_text_in_markdown_is_one_line_without_markup(text):
    shown = markdown_text(text)
    assert len(shown.splitlines()) <= 1
    assert not re.search(r"[|<>`*]", re.sub(r"\\[\\`*_\[\]<>|#~&]", "", shown))

"""The report as an HTML page."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from generated import examples
from hypothesis import given
from hypothesis import strategies as st
from loadtest_material import MS, WINDOW, S, answered, failed, material, samples, some_records, summary_of

from kivactl.loadtest.material import Material
from kivactl.loadtest.page import page_for, pictures_for
from kivactl.tools import plot

VOID = {"meta", "br", "img", "link", "input", "hr"}
HOSTILE = "</td></svg><script>alert(1)</script>\"'&<img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """What a page says, and whether its elements are well nested."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        if "id" in known:
            self.ids.append(known["id"] or "")
        for name, value in attrs:
            assert not name.startswith("on"), (tag, name)
            if name in ("href", "xlink:href", "src", "srcset", "data", "action"):
                (self.links if (value or "").startswith("#") else self.loaded).append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def checked(text: str) -> Page:
    """A page that needs nothing else and shares no names."""
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert page.loaded == []
    assert "script" not in page.tags
    assert "Content-Security-Policy" in text
    assert "default-src 'none'" in text
    assert not re.search(r"(?:url\(|@import)\s*['\"]?(?!#)", text)
    return page


def whole(run: Material) -> str:
    return page_for(run, {chart.name: plot.inline(chart) for chart in pictures_for(run)})


def test_the_whole_page() -> None:
    text = whole(material())
    page = checked(text)
    assert not re.search(r"https?:", text)
    titles = ["Load and latency", "Service levels", "The bottleneck", "Latency over time", "Distributions", "Throughput over time", "Errors", "The engines"]
    titles += ["Times", "Validity", "Environment", "Terms"]
    assert re.findall(r"<h2 [^>]*>([^<]*)</h2>", text) == titles
    assert page.tags.count("svg") == 6
    assert page.tags.count("figure") == 6
    for words in ("All service levels met.", "95 % interval", "z − q", "capacity: 4 requests/s", "limits: files", "1024"):
        assert words in page.text, words


def test_the_order_of_pictures() -> None:
    assert [chart.name for chart in pictures_for(material())] == ["load", "latency", "distributions", "throughput", "errors", "engines"]


@pytest.mark.parametrize(
    ("run", "status", "sentence"),
    [
        (summary_of(some_records()), "Met", "All service levels met."),
        (summary_of([answered(0, 11 * S, ttft_ms=501)]), "Missed", "Service levels missed: ttft_p95, attainment."),
        (summary_of([], None), "Invalid", "Invalid: no request was measured."),
        (summary_of([answered(0, 11 * S)], is_interrupted=True), "Interrupted", "Interrupted; until then: all service levels met."),
        (summary_of([answered(0, 11 * S)], levels=()), "Measured", "No service level was promised."),
    ],
)
def test_the_verdict_comes_first(run, status, sentence) -> None:
    text = page_for(Material(run.as_dict(), [], WINDOW), {})
    assert re.search(r"<strong>. (\w+)</strong>\s*<p>([^<]*)</p>", text).groups() == (status, sentence)
    assert text.index("<strong>") < text.index("<h2")


def test_a_run_without_records_has_a_page() -> None:
    run = Material(summary_of([], None).as_dict(), [])
    page = checked(whole(run))
    assert "No request was made." in page.text
    assert pictures_for(run) == ()


def test_a_run_without_success_has_a_page() -> None:
    records = [failed(number, 10 * S + number * 100 * MS) for number in range(30)]
    page = checked(whole(Material(summary_of(records).as_dict(), records, WINDOW)))
    assert "No measured request succeeded." in page.text
    assert "status 500: no" in page.text


def test_a_run_that_never_reached_its_measured_phase_has_a_page() -> None:
    records = some_records()
    checked(whole(Material(summary_of(records, None, broken="it died").as_dict(), records)))


def test_an_open_loop_tells_what_was_due_and_how_late_it_was_sent() -> None:
    records = [replace(record, scheduled_ns=record.start_ns - 3 * MS) for record in some_records()]
    text = whole(Material(summary_of(records).as_dict(), records, WINDOW))
    page = checked(text)
    assert "Delay of sending requests that were due, p99 3.00 ms 25 ms ✔ yes" in page.text
    assert "at the moment at which it was due" in page.text
    assert "TTFT from when it was due" in page.text


def test_warnings_are_kept_in_mind() -> None:
    run = Material(summary_of([answered(0, 11 * S)]).as_dict(), [answered(0, 11 * S)], WINDOW)
    assert "Keep in mind: only 1 requests succeeded" in checked(whole(run)).text


def test_a_mix_has_a_table() -> None:
    records = [*some_records(40, "chat"), *some_records(40, "rag")]
    page = checked(page_for(Material(summary_of(records).as_dict(), records, WINDOW), {}))
    assert "The kinds of requests" in page.text


def test_without_pictures_the_page_says_so_and_has_all_figures() -> None:
    page = checked(page_for(material(), {}, missing="This page has no pictures: why."))
    assert "This page has no pictures: why." in page.text
    assert "figure" not in page.tags
    assert "The measured phase in equal parts" in page.text


def hostile_run(text: str) -> Material:
    records = [replace(record, group=text, reason=text if record.failure else "") for record in some_records()]
    told = {**summary_of(records, scenario=text, model=text, load=text, broken=text).as_dict(), "warnings": [text]}
    told["bottleneck"] = {"name": text, "sentence": text, "evidence": [text], "parts_s": {text: 1.0}}
    run = material(records, summary=told, environment={text: {text: text}, "x": {text: [text]}}, engine=samples((text, "b")))
    return replace(run, probes=tuple(replace(probe, unit=text, folder=text) for probe in run.probes))


def test_hostile_names_mean_nothing() -> None:
    text = whole(hostile_run(HOSTILE))
    page = checked(text)
    assert "<script" not in text
    assert "<img" not in text
    assert HOSTILE in " ".join(page.words)


def test_secrets_are_struck() -> None:
    text = page_for(hostile_run("refused: authorization: Bearer abcdefghijk"), {})
    assert "abcdefghijk" not in text


@examples(0.3)
@given(st.text(max_size=30))
def test_any_name_gives_a_page(text: str) -> None:
    checked(page_for(hostile_run(text), {}))


def test_ten_thousand_requests_stay_small() -> None:
    records = [answered(number, 8 * S + number * S // 1000, 50 + number % 400, tokens=5) for number in range(10_000)]
    run = Material(summary_of(records).as_dict(), records, WINDOW)
    assert len(whole(run).encode()) < 1_500_000

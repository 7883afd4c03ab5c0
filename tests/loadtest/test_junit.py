"""The result for a build server."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from generated import examples
from hypothesis import given
from hypothesis import strategies as st
from loadtest_material import S, answered, some_records, summary_of

from kivactl.loadtest.junit import junit_for


def suite_of(summary) -> ET.Element:
    root = ET.fromstring(junit_for(summary.as_dict()).encode())
    (suite,) = root
    assert (root.tag, suite.tag) == ("testsuites", "testsuite")
    cases = suite.findall("testcase")
    counted = {"tests": len(cases), **{name: sum(case.find(tag) is not None for case in cases) for name, tag in COUNTS.items()}}
    assert {name: int(suite.get(name, "")) for name in counted} == counted
    return suite


COUNTS = {"failures": "failure", "errors": "error", "skipped": "skipped"}


def results(suite: ET.Element) -> dict[str, str]:
    found = {}
    for case in suite.findall("testcase"):
        problem = next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")
        found[case.get("name", "")] = problem
    return found


def test_each_service_level_is_a_case() -> None:
    suite = suite_of(summary_of([answered(0, 11 * S, ttft_ms=501), *some_records()[20:]]))
    assert results(suite) == {"measurement is valid": "passed", "ttft_p95": "passed", "tpot_p95": "passed", "attainment": "failure", "error_ratio": "passed"}


def test_a_level_that_is_missed_is_a_failure_with_what_was_measured() -> None:
    suite = suite_of(summary_of([answered(0, 11 * S, ttft_ms=501)]))
    assert results(suite)["ttft_p95"] == "failure"
    failure = suite.find("testcase[@name='ttft_p95']/failure")
    assert failure is not None
    assert failure.get("message") == "ttft_p95: measured 501 ms, promised 500 ms"


def test_an_invalid_measurement_is_an_error_and_judges_nothing() -> None:
    suite = suite_of(summary_of([answered(0, 11 * S, ttft_ms=501)], broken="the generator died"))
    assert set(results(suite).values()) == {"error", "skipped"}
    error = suite.find("testcase/error")
    assert error is not None
    assert error.get("message") == "Invalid: the generator died."


def test_an_interrupted_one_is_an_error_too() -> None:
    suite = suite_of(summary_of([answered(0, 11 * S)], is_interrupted=True))
    assert results(suite) == {"measurement is valid": "error", "ttft_p95": "passed", "tpot_p95": "passed", "attainment": "passed", "error_ratio": "passed"}


def test_figures_are_properties() -> None:
    suite = suite_of(summary_of(some_records()))
    figures = {found.get("name"): found.get("value") for found in suite.findall("properties/property")}
    assert figures["requests"] == "100"
    assert float(figures["ttft_p95_s"] or "") < 0.5
    assert "send_lag_p99_ms" not in figures


def test_nothing_measured() -> None:
    assert results(suite_of(summary_of([], None, levels=()))) == {"measurement is valid": "error"}


@examples(0.5)
@given(st.text(max_size=40))
@pytest.mark.filterwarnings("ignore")
def test_any_name_gives_xml(text: str) -> None:
    suite_of(summary_of([answered(0, 11 * S)], scenario=text, model=text, load=text, broken=text))

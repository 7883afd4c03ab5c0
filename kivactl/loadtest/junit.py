"""The result of a load test for a build server: a test case for each service level, and one for the measurement itself (JUnit's XML); pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree as ET

from kivactl.loadtest.wording import Status, level_text, measured_text, sentence_of, status_of

_NO_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Signs that XML cannot hold, not even escaped."""
_FIGURES = (
    "load",
    "model",
    "seed",
    "window_s",
    "due",
    "requests",
    "succeeded",
    "error_ratio",
    "offered_rps",
    "requests_per_s",
    "goodput_rps",
    "output_tokens_per_s",
    "generator_lag_p99_ms",
    "send_lag_p99_ms",
)
_TIMES = ("ttft_s", "ttft_due_s", "tpot_s", "itl_s", "e2e_s", "e2e_due_s")


def junit_for(told: Mapping[str, Any]) -> str:
    """The result as JUnit's XML.

    Service levels of an invalid measurement are skipped: they are neither met nor missed.

    Args:
        told: The summary, as in `summary.json`.
    """
    status, levels = status_of(told), told["service_levels"]
    is_invalid = bool(told["invalid"])
    counts = {
        "tests": len(levels) + 1,
        "failures": 0 if is_invalid else sum(not level["met"] for level in levels),
        "errors": int(is_invalid or status is Status.INTERRUPTED),
        "skipped": len(levels) if is_invalid else 0,
    }
    described = {"name": _text(f"load test {told['scenario']}"), **{name: str(count) for name, count in counts.items()}, "time": f"{told['window_s']:.3f}"}
    root = ET.Element("testsuites", described)
    suite = ET.SubElement(root, "testsuite", described)
    properties = ET.SubElement(suite, "properties")
    for name, value in _figures(told).items():
        ET.SubElement(properties, "property", {"name": name, "value": _text(value)})
    valid = _case(suite, told, "measurement is valid")
    if counts["errors"]:
        problem = sentence_of(told)
        ET.SubElement(valid, "error", {"type": status.value, "message": _text(problem)}).text = _text(problem)
    for level in levels:
        _judge(_case(suite, told, level["name"]), level, is_invalid=is_invalid)
    ET.indent(root)
    return f"<?xml version='1.0' encoding='utf-8'?>\n{ET.tostring(root, encoding='unicode')}\n"


def _case(suite: ET.Element, told: Mapping[str, Any], name: str) -> ET.Element:
    return ET.SubElement(suite, "testcase", {"classname": _text(f"loadtest.{told['scenario']}"), "name": _text(name), "time": "0"})


def _judge(case: ET.Element, level: Mapping[str, Any], *, is_invalid: bool) -> None:
    name, promised = level["name"], level_text(level["name"], level["limit"])
    measured = measured_text(name, level["measured"], level["limit"])
    sentence = f"{name}: measured {'nothing' if level['measured'] is None else measured}, promised {promised}"
    if is_invalid:
        ET.SubElement(case, "skipped", {"message": _text(f"the measurement is invalid; {sentence}")})
    elif not level["met"]:
        ET.SubElement(case, "failure", {"type": "missed", "message": _text(sentence)}).text = _text(sentence)
    else:
        ET.SubElement(case, "system-out").text = _text(sentence)


def _figures(told: Mapping[str, Any]) -> dict[str, str]:
    found = {name: str(told[name]) for name in _FIGURES if told[name] is not None}
    found["attainment"] = str(told["attainment"]["ratio"])
    for name in _TIMES:
        for column in ("p50", "p95", "p99"):
            if told[name]:
                found[f"{name.removesuffix('_s')}_{column}_s"] = str(told[name][column])
    return found


def _text(text: str) -> str:
    return _NO_XML.sub("\ufffd", text)

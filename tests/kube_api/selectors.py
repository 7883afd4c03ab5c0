"""Label and field selectors."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from kube_api.answers import Refusal

Json = dict[str, Any]
Test = Callable[[Json], bool]


def selector(labels: str, fields: str) -> Test:
    """Whether an object is meant by both.

    Args:
        labels: Such as `app=x,tier!=y,zone in (a,b),!old`; everything when empty.
        fields: Such as `metadata.name=x,status.phase!=Running`.
    """
    tests = [*_label_tests(labels), *_field_tests(fields)]
    return lambda one: all(test(one) for test in tests)


def matches(wanted: Json | None, labels: Json) -> bool:
    """Whether labels fit a `LabelSelector` as objects hold it; an empty one fits all, None none."""
    if wanted is None:
        return False
    if any(labels.get(key) != value for key, value in (wanted.get("matchLabels") or {}).items()):
        return False
    for one in wanted.get("matchExpressions") or ():
        value, values = labels.get(one["key"]), one.get("values") or ()
        fits = {
            "In": value in values,
            "NotIn": value not in values,
            "Exists": one["key"] in labels,
            "DoesNotExist": one["key"] not in labels,
        }
        if not fits[one["operator"]]:
            return False
    return True


def _label_tests(text: str) -> list[Test]:
    tests: list[Test] = []
    for part in re.split(r",(?![^(]*\))", text) if text else ():
        part = part.strip()
        if match := re.fullmatch(r"([^\s!=]+)\s+(in|notin)\s+\(([^)]*)\)", part):
            tests.append(_membership(match[1], {one.strip() for one in match[3].split(",")}, match[2] == "in"))
        elif match := re.fullmatch(r"([^\s!=]+)\s*(==|=|!=)\s*([^\s]*)", part):
            tests.append(_membership(match[1], {match[3]}, match[2] != "!="))
        elif match := re.fullmatch(r"(!?)\s*([^\s!=]+)", part):
            tests.append(_presence(match[2], not match[1]))
        else:
            raise Refusal(400, f"unable to parse requirement: {part}")
    return tests


def _membership(key: str, values: set[str], wanted: bool) -> Test:
    return lambda one: ((one["metadata"].get("labels") or {}).get(key) in values) == wanted


def _presence(key: str, wanted: bool) -> Test:
    return lambda one: (key in (one["metadata"].get("labels") or {})) == wanted


def _field_tests(text: str) -> list[Test]:
    tests: list[Test] = []
    for part in text.split(",") if text else ():
        match = re.fullmatch(r"([^=!]+)(==|=|!=)(.*)", part)
        if match is None:
            raise Refusal(400, f"invalid selector: '{part}'; can't understand '{part}'")
        tests.append(_field(match[1], match[3], match[2] != "!="))
    return tests


def _field(path: str, value: str, wanted: bool) -> Test:
    def test(one: Json) -> bool:
        found: Any = one
        for key in path.split("."):
            found = found.get(key, "") if isinstance(found, dict) else ""
        return (str(found) == value) == wanted

    return test

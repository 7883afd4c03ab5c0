"""Whether a tolerance goes with what a probe returns. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from kivactl.runbooks.actions.action import Kind
from kivactl.runbooks.format import Tolerance
from kivactl.spec.document import shown
from kivactl.spec.quantities import parse_bytes, parse_duration

_ORDERED = ("equals", "at_least", "at_most", "between", "one_of")
KEYS: dict[Kind, tuple[str, ...]] = {
    Kind.TEXT: ("equals", "one_of", "matches", "empty"),
    Kind.FLAG: ("equals",),
    Kind.NUMBER: _ORDERED,
    Kind.BYTES: _ORDERED,
    Kind.SECONDS: _ORDERED,
    Kind.LIST: ("empty", "equals", "at_least", "at_most", "between"),
}
"""What may be asked of a value; numbers asked of a list count its entries."""


def faults_of(tolerance: Tolerance, kind: Kind) -> Iterator[tuple[str, str]]:
    """What does not fit: key and message of each."""
    (key,) = tolerance.model_fields_set
    value = getattr(tolerance, key)
    if key not in KEYS[kind]:
        yield key, f"does not go with {_described(kind)}; valid here: {', '.join(KEYS[kind])}"
        return
    if value is None:
        yield key, "must not be empty"
        return
    for item in value if isinstance(value, tuple) else (value,):
        if message := _unfit(key, item, kind):
            yield key, message
            return
    if isinstance(value, tuple) and not value:
        yield key, "must not be empty"
    elif key == "between" and limit(value[0], kind) > limit(value[1], kind):
        yield key, f"the first must not be more than the second, as {value[0]} is than {value[1]}"


def limit(value: str | float, kind: Kind) -> float:
    """The number that a tolerance names: bytes for a size, seconds for a duration.

    Raises:
        ValueError: It is none.
    """
    if isinstance(value, str):
        if kind is Kind.BYTES:
            return parse_bytes(value)
        if kind is Kind.SECONDS:
            return parse_duration(value)
    if isinstance(value, (str, bool)) or not _finite(value):
        msg = f"must be a number, not {shown(value)}"
        raise ValueError(msg)
    return value


def _finite(value: float) -> bool:
    return isinstance(value, int) or math.isfinite(value)


def _unfit(key: str, value: Any, kind: Kind) -> str:
    """Why one value does not fit; empty when it does."""
    if key == "empty":
        return ""
    if key == "matches":
        try:
            re.compile(value)
        except (re.error, OverflowError, RecursionError) as error:
            return f"{shown(value)} is no regular expression: {error}"
        return ""
    if kind is Kind.TEXT:
        return "" if isinstance(value, str) else f"must be text, not {shown(value)}; put it in quotes"
    if kind is Kind.FLAG:
        return "" if isinstance(value, bool) else f"must be true or false, not {shown(value)}"
    try:
        limit(value, kind)
    except ValueError as error:
        return str(error)
    return ""


def _described(kind: Kind) -> str:
    return {
        Kind.TEXT: "text",
        Kind.FLAG: "a flag",
        Kind.NUMBER: "a number",
        Kind.BYTES: "a size",
        Kind.SECONDS: "a duration",
        Kind.LIST: "a list",
    }[kind]

"""Holds what a probe sees against a tolerance: the rule is pure, `look` adds patience."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kivactl.errors import KivaError
from kivactl.runbooks.actions.action import Kind, Site
from kivactl.runbooks.format import Tolerance
from kivactl.runbooks.tolerances import limit
from kivactl.spec.quantities import format_bytes, format_duration
from kivactl.tools.clock import Clock

if TYPE_CHECKING:
    from kivactl.runbooks.bound import BoundCheck

_LONGEST_SHOWN = 120


@dataclass(frozen=True, slots=True)
class Seen:
    """What a check saw at last.

    Attributes:
        value: The probe's value; None when there was nothing to see.
        met: Whether the check is met: as often in a row as it asks for.
        message: What a person wants to read: the value and what it should be, or why there is none.
    """

    value: Any
    met: bool
    message: str


def look(site: Site, bound: BoundCheck, clock: Clock, read: Callable[[], Any] | None = None) -> Seen:
    """Look until the check is met or its time is over.

    It is met once the value was within the tolerance `times` times in a row, `every` apart; a row that began in time may come to its end.

    Args:
        site: What the probe looks at.
        bound: The check.
        clock: Time.
        read: How the probe is read; as it is when absent.
    """
    check, row = bound.check, 0
    started_s = clock.now_s()
    while True:
        seen = _seen(read or (lambda: bound.probe.read(site, bound.params)), bound)
        row = row + 1 if seen.met else 0
        if row >= check.times:
            return seen
        left_s = check.within - (clock.now_s() - started_s)
        if row == 0 and left_s <= 0:
            return seen
        clock.sleep(check.every if row else min(check.every, left_s))


def met(kind: Kind, tolerance: Tolerance, value: Any) -> bool:
    """Whether a value is within a tolerance; nothing (None) never is.

    Args:
        kind: What the probe returns.
        tolerance: Exactly one demand; numbers asked of a list count its entries.
        value: What the probe returned: a number of bytes or seconds where it is a size or a duration.
    """
    if value is None:
        return False
    (key,) = tolerance.model_fields_set
    wanted = getattr(tolerance, key)
    match key:
        case "empty":
            return (len(value) == 0) is bool(wanted)
        case "matches":
            return re.search(wanted, str(value)) is not None
        case "one_of":
            return any(_equal(kind, item, value) for item in wanted)
        case "equals":
            return _equal(kind, wanted, value)
    number = _number(value)
    if number is None:
        return False
    low, high = wanted if key == "between" else (wanted, wanted)
    return (key == "at_most" or number >= limit(low, kind)) and (key == "at_least" or number <= limit(high, kind))


def described(tolerance: Tolerance, kind: Kind) -> str:
    """A tolerance in signs that need no translation: `≥ 10GiB`, `= serving`, `1 … 3`, `∈ a, b`."""
    (key,) = tolerance.model_fields_set
    value = getattr(tolerance, key)
    match key:
        case "at_least":
            return f"≥ {_written(value, kind)}"
        case "at_most":
            return f"≤ {_written(value, kind)}"
        case "between":
            return f"{_written(value[0], kind)} … {_written(value[1], kind)}"
        case "one_of":
            return f"∈ {', '.join(_written(item, kind) for item in value)}"
        case "matches":
            return f"~ {value}"
        case "empty":
            return "= []" if value else "≠ []"
        case _:
            return f"= {_written(value, kind)}"


def shown_value(value: Any, kind: Kind) -> str:
    """A probe's value as people read it: `3.2GiB`, `1m30s`, `a, b`."""
    if value is None:
        return "–"
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple, set, frozenset)) else _written(value, kind)
    text = text or ("[]" if kind is Kind.LIST else "''")
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 1] + "…"


def _seen(read: Callable[[], Any], bound: BoundCheck) -> Seen:
    tolerance, kind = bound.check.tolerance, bound.probe.kind
    try:
        value = read()
    except KivaError as error:
        return Seen(None, met=False, message=error.message)
    except OSError as error:  # a socket or a file that is not there is something seen, not a bug
        return Seen(None, met=False, message=str(error))
    message = shown_value(value, kind)
    if met(kind, tolerance, value):
        return Seen(value, met=True, message=message)
    return Seen(value, met=False, message=f"{message}, not {described(tolerance, kind)}")


def _equal(kind: Kind, wanted: Any, value: Any) -> bool:
    if kind is Kind.TEXT or isinstance(wanted, bool) or isinstance(value, bool):
        return type(wanted) is type(value) and bool(wanted == value)
    number = _number(value)
    return number is not None and number == limit(wanted, kind)


def _number(value: Any) -> float | None:
    if isinstance(value, (list, tuple, set, frozenset, dict)):
        return len(value)
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _written(value: Any, kind: Kind) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)) and kind is Kind.BYTES:
        return format_bytes(int(value))
    if isinstance(value, (int, float)) and kind is Kind.SECONDS:
        return format_duration(float(value))
    return f"{value:g}" if isinstance(value, float) else str(value)

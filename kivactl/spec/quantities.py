"""Quantities as people write them: `16GiB`, `512MB`, `90s`, `1h30m`; numbers once parsed."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

_BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER = r"[0-9]{1,18}(?:\.[0-9]{1,18})?"
_SIZE = re.compile(rf"({_NUMBER})\s*([A-Za-z]+)")
_DURATION_PART = re.compile(rf"({_NUMBER})(ms|s|m|h|d)")


def parse_bytes(text: str) -> int:
    """Parse a size with its unit.

    Args:
        text: A number and one of B, kB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB (powers of 1024).

    Returns:
        Bytes, rounded down.

    Raises:
        ValueError: Not a size; the message names the units.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or match[2] not in _BYTES:
        msg = f"'{text}' is not a size: write a number and a unit, such as 16GiB or 500MB"
        raise ValueError(msg)
    return int(Decimal(match[1]) * _BYTES[match[2]])


def parse_duration(text: str) -> float:
    """Parse a duration with its units.

    Args:
        text: Parts of a number and one of ms, s, m, h, d, such as `90s` or `1h30m`.

    Returns:
        Seconds.

    Raises:
        ValueError: Not a duration; the message names the units.
    """
    parts = _DURATION_PART.findall(text.strip())
    if not parts or "".join(number + unit for number, unit in parts) != text.strip():
        msg = f"'{text}' is not a duration: write numbers and units, such as 90s, 10m or 1h30m"
        raise ValueError(msg)
    return float(sum(Decimal(number) * Decimal(str(_SECONDS[unit])) for number, unit in parts))


def format_bytes(size_bytes: int) -> str:
    """The shortest exact or rounded binary form: `1GiB`, `1.5GiB`, `620MiB`, `12B`."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size_bytes >= _BYTES[unit]:
            return f"{size_bytes / _BYTES[unit]:.1f}".removesuffix(".0") + unit
    return f"{size_bytes}B"


def format_duration(duration_s: float) -> str:
    """The form people write: `1h30m`, `90s` becomes `1m30s`, `250ms`."""
    if duration_s < 0.9995:
        return f"{round(duration_s * 1000)}ms"
    text, rest = "", round(duration_s)
    for unit in ("d", "h", "m", "s"):
        count, rest = divmod(rest, int(_SECONDS[unit]))
        text += f"{count}{unit}" if count else ""
    return text


def write_bytes(size_bytes: int) -> str:
    """The shortest form that `parse_bytes` reads back exactly: `1536MiB`, `500MB`, `12B`."""
    if size_bytes == 0:
        return "0B"
    count, _, unit = min((size_bytes // factor, -factor, unit) for unit, factor in _BYTES.items() if size_bytes % factor == 0)
    return f"{count}{unit}"


def write_duration(duration_s: float) -> str:
    """A form that `parse_duration` reads back exactly: `1h30m`, `0.5ms`, `90.25s` becomes `1m30.25s`."""
    exact = Decimal(str(duration_s))
    if exact < 1:
        return f"{(exact * 1000).normalize():f}ms"
    text, rest = "", exact
    for unit in ("d", "h", "m"):
        count, rest = divmod(rest, int(_SECONDS[unit]))
        text += f"{count:f}{unit}" if count else ""
    return text + (f"{rest.normalize():f}s" if rest else "")


@dataclass(frozen=True, slots=True)
class _Written:
    """Tells pydantic that a number is written as text with a unit; pydantic itself loads only when a model is built."""

    read: Callable[[str], float]
    write: Callable[[Any], str]
    pattern: str
    examples: tuple[str, str]

    def value(self, given: Any) -> float:
        """The number that a text means."""
        if isinstance(given, str):
            return self.read(given)
        fault = "is empty" if given is None else f"'{given}' has no unit"
        msg = f"{fault}: write for instance {' or '.join(self.examples)}"
        raise ValueError(msg)

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        from pydantic_core import core_schema

        as_text = core_schema.plain_serializer_function_ser_schema(self.write, return_schema=core_schema.str_schema())
        return core_schema.no_info_before_validator_function(self.value, handler(source), serialization=as_text)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return {"type": "string", "pattern": self.pattern, "examples": list(self.examples)}


Bytes = Annotated[int, _Written(parse_bytes, write_bytes, r"^[0-9]{1,18}(\.[0-9]{1,18})?\s*(B|kB|MB|GB|TB|KiB|MiB|GiB|TiB)$", ("16GiB", "500MB"))]
"""A size in bytes, written with its unit."""

Duration = Annotated[float, _Written(parse_duration, write_duration, r"^([0-9]{1,18}(\.[0-9]{1,18})?(ms|s|m|h|d))+$", ("90s", "10m"))]
"""A duration in seconds, written with its units."""

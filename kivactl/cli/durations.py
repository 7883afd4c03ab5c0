"""Durations on the command line."""

from __future__ import annotations

from datetime import timedelta

from kivactl.errors import UsageError
from kivactl.spec.quantities import parse_duration

NEVER = "never"
_LONGEST = timedelta(days=36500)


def duration_of(option: str, text: str) -> timedelta:
    """What an option says, in whole seconds.

    Raises:
        UsageError: It is no duration, less than a second, or more than a hundred years.
    """
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None
    if not 1 <= seconds <= _LONGEST.total_seconds():
        raise UsageError(f"{option}: '{text}' is not between a second and a hundred years")
    return timedelta(seconds=int(seconds))


def lifetime_of(option: str, text: str) -> timedelta | None:
    """What an option says; None for `never`.

    Raises:
        UsageError: It is neither `never` nor a duration.
    """
    return None if text == NEVER else duration_of(option, text)

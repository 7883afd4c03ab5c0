"""How many processes generate a load; pure.

One process uses one processor. It is given what keeps that processor half busy: more would make it late, and its
measurement invalid. What a load is before it runs can only be guessed; a scenario or `--processes` knows better.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import urlsplit

from kivactl.errors import UsageError
from kivactl.loadtest.assignment import Assignment
from kivactl.loadtest.wording import processes_text

_EVENTS_PER_S = 40_000
"""What one process carries: 800 streams of 50 tokens/s, at 12.5 us of a processor's time for each token event."""
_MOST_EVENTS_PER_S = 2 * _EVENTS_PER_S
"""What keeps a processor fully busy."""
_STREAM_TOKENS_PER_S = 50
"""Of a stream in a closed loop, whose pace is the engine's; few engines give one user more."""
_EVENTS_OF_REQUEST = 25
"""A request itself (encoded, sent, its record written and read) costs as much as so many token events: 0.3 ms."""
_MOST = 256


def processes_for(work: Assignment, processors: int) -> int:
    """How many processes a load needs, and the machine can give.

    Args:
        work: The load; its own `processes` is not looked at.
        processors: Of this machine, that the process may use.

    Returns:
        1 for usual loads. At most all processors but one; where the endpoint is on this machine at most half of them, for the
        platform needs the others.
    """
    spare = processors // 2 if is_here(work.url) else processors - 1
    return max(1, min(math.ceil(events_per_s(work) / _EVENTS_PER_S), spare, _MOST))


def staffed(work: Assignment, wanted: int | None, processors: int, machines: Sequence[str] = ()) -> Assignment:
    """The same with so many processes as are wanted, or, where nobody said, as it needs.

    There are never more than users in a closed loop: each process has one at least, and more would ask than the results say.

    Args:
        work: The load.
        wanted: On each machine.
        processors: Of this machine, that the process may use.
        machines: Others that generate the load instead of this one, each its part. How many processors they have, nobody knows yet.

    Raises:
        UsageError: There are more machines than users.
    """
    if not machines:
        return replace(work, machines=(), processes=_at_most(work, wanted or processes_for(work, processors), 1))
    each = _at_most(work, wanted or min(math.ceil(events_per_s(work) / _EVENTS_PER_S / len(machines)), _MOST), len(machines))
    if not each:
        users = "1 user" if work.users == 1 else f"{work.users} users"
        raise UsageError(f"{users} cannot be shared out among {len(machines)} machines", "more --users, or fewer machines")
    return replace(work, machines=tuple(machines), processes=each * len(machines))


def _at_most(work: Assignment, each: int, machines: int) -> int:
    return min(max(1, each), work.users // machines) if work.users else max(1, each)


def beyond(work: Assignment) -> str:
    """What is to be expected when the load is more than its processes can carry on a processor each, in a sentence's part; else empty."""
    events, most = events_per_s(work), work.processes * _MOST_EVENTS_PER_S
    if events <= most:
        return ""
    readable = f"{processes_text(work.processes)} can read {most:,}"
    remedy = "--on names more machines, --rate and --users ask less"
    return f"up to {events:,.0f} token events/s, of which {readable}: the measurement is likely to be invalid; {remedy}"


def events_per_s(work: Assignment) -> float:
    """What the load makes of work at its highest, in token events a second."""
    total = sum(kind.share for kind in work.kinds)
    if work.users:
        return work.users * _STREAM_TOKENS_PER_S * sum(kind.share / total for kind in work.kinds if kind.is_streamed)
    tokens = sum(kind.share / total * kind.output.average for kind in work.kinds if kind.is_streamed)
    if not work.trace:
        return max(max(piece.from_rps, piece.until_rps) for piece in work.pieces) * (_EVENTS_OF_REQUEST + tokens)
    seconds: dict[int, float] = {}
    for at_s, _, answer in work.trace:
        seconds[int(at_s)] = seconds.get(int(at_s), 0.0) + _EVENTS_OF_REQUEST + (answer or tokens)
    return max(seconds.values())


def is_here(url: str) -> bool:
    """Whether an endpoint is on this machine: a loopback address."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")

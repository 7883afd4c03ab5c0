"""Joins what the gateway and the engines say of a request into the ledger's entry. Pure, and the order of arrival does not matter."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from kivactl.usage.records import Access, Count

_DAY_MS = 86_400_000


class Counted(StrEnum):
    """How an entry's tokens were counted."""

    ENGINE = "engine"
    """By the engine that finished the answer."""
    AT_CANCEL = "engine at cancel"
    """By the engine when the client was gone."""
    ESTIMATED = "estimated"
    """From the bytes sent, for the engine died before it could say."""
    NONE = "none"
    """Refused or failed before anything was generated."""


class Entry(NamedTuple):
    """A request in the ledger; the fields are the columns of its table.

    Attributes:
        request_id: Made by the gateway.
        at_ms: When it began, milliseconds since 1970 UTC.
        ended_ms: When it ended.
        tenant: None as long as only an engine spoke of it.
        token_id: Of the tenant's token.
        token_name: Of the tenant's token.
        cost_centre: Of the tenant when the request was metered.
        model: Public name asked for.
        version: Model of the spec that served it.
        method: HTTP method.
        path: Path without the query.
        status: HTTP status; None as long as only an engine spoke of it.
        details: Why Envoy answered so.
        flags: Envoy's flags.
        attempts: How many replicas were tried.
        first_byte_ms: Until the first byte of the answer.
        duration_ms: Until the end.
        sent_bytes: Size of the answer's body.
        replica: Who served it: the engine's name, or its address when it said nothing.
        trace_id: W3C trace id.
        prompt_tokens: All of the prompt.
        cached_tokens: Those of the prompt that came out of the cache.
        completion_tokens: Of the answer.
        counted: How the tokens were counted.
    """

    request_id: str
    at_ms: int
    ended_ms: int
    tenant: str | None
    token_id: str | None
    token_name: str | None
    cost_centre: str | None
    model: str | None
    version: str | None
    method: str | None
    path: str | None
    status: int | None
    details: str | None
    flags: str | None
    attempts: int
    first_byte_ms: int | None
    duration_ms: int | None
    sent_bytes: int
    replica: str | None
    trace_id: str | None
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    counted: str

    @property
    def from_engine(self) -> bool:
        """Whether an engine counted its tokens."""
        return self.counted == Counted.ENGINE or self.counted == Counted.AT_CANCEL

    @property
    def tokens(self) -> int:
        """Prompt and answer."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def failed(self) -> bool:
        """Whether the client did not get what it asked for, by no choice of its own."""
        if self.status is None:
            return False
        gone = self.flags is not None and "DC" in self.flags
        return self.status >= 400 or (not gone and (self.status == 0 or self.flags not in {None, "-"}))


class DayKey(NamedTuple):
    """What the sums of a day are kept by; unknown is empty."""

    day: str
    tenant: str
    cost_centre: str
    model: str
    version: str


class Sums(NamedTuple):
    """What is summed."""

    requests: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    def plus(self, other: Sums) -> Sums:
        """Both together."""
        return Sums(*[mine + its for mine, its in zip(self, other, strict=True)])

    def minus(self, other: Sums) -> Sums:
        """What is more in this than in the other."""
        return Sums(*[mine - its for mine, its in zip(self, other, strict=True)])


class StreamAverages:
    """How many bytes of a stream there are to a token, by model; what an engine that died left uncounted is estimated by it.

    Whoever meets an engine's death with something in hand reads a stream, and an answer in one piece has far fewer bytes to
    a token: only answers with an event's weight to each token are taken into the average.

    Args:
        sums: Bytes and tokens so far, by model of the spec.
    """

    FIRST_GUESS_BYTES = 240
    """An event of vLLM's with a short word in it."""
    LIGHTEST_EVENT_BYTES = 60

    def __init__(self, sums: Mapping[str, tuple[int, int]]) -> None:
        self.sums = dict(sums)

    def learn(self, entry: Entry) -> tuple[int, int] | None:
        """Take a whole entry into the average.

        Returns:
            The bytes and tokens it added; None when it is no stream.
        """
        if entry.counted != Counted.ENGINE or entry.status != 200 or entry.completion_tokens == 0 or entry.version is None:
            return None
        if entry.sent_bytes < self.LIGHTEST_EVENT_BYTES * entry.completion_tokens:
            return None
        sent_bytes, tokens = self.sums.get(entry.version, (0, 0))
        self.sums[entry.version] = (sent_bytes + entry.sent_bytes, tokens + entry.completion_tokens)
        return entry.sent_bytes, entry.completion_tokens

    def tokens(self, version: str, sent_bytes: int) -> int:
        """The tokens that so many bytes of a stream probably were; at least one."""
        known_bytes, known_tokens = self.sums.get(version, (0, 0))
        average_bytes = known_bytes / known_tokens if known_tokens else self.FIRST_GUESS_BYTES
        return max(1, round(sent_bytes / average_bytes))


def joined(old: Entry | None, access: Access | None, count: Count | None, cost_centre: str | None, averages: StreamAverages) -> Entry:
    """The entry of a request after what is new about it.

    Args:
        old: As it stands in the ledger.
        access: What the gateway says; a second word on the same request changes nothing.
        count: What an engine says; the best word counts (`better`).
        cost_centre: Of the access record's tenant.
        averages: For what no engine counted.

    Raises:
        ValueError: There is nothing at all.
    """
    entry = old
    if access is not None and (entry is None or entry.status is None):
        entry = _with_access(entry, access, cost_centre, averages)
    if count is not None and (entry is None or better(count, entry)):
        entry = _with_count(entry, count)
    if entry is None:
        msg = "neither an entry nor a record to join"
        raise ValueError(msg)
    return entry


def better(count: Count, than: Count | Entry) -> bool:
    """Whether a count wins: an engine's over an estimate, a finished one over a cancelled one, then the larger one."""
    if isinstance(than, Entry):
        if not than.from_engine:
            return True
        other = (than.counted == Counted.ENGINE, than.completion_tokens, than.prompt_tokens, than.cached_tokens, than.replica or "")
    else:
        other = (than.finished, than.completion_tokens, than.prompt_tokens, than.cached_tokens, than.replica)
    return (count.finished, count.completion_tokens, count.prompt_tokens, count.cached_tokens, count.replica) > other


def key_of(entry: Entry) -> DayKey:
    """Where an entry counts. A model that nobody serves is whatever a client made up: it gets no sum of its own."""
    served = entry.version is not None
    return DayKey(day_of(entry.at_ms), entry.tenant or "", entry.cost_centre or "", (entry.model or "") if served else "", entry.version or "")


def sums_of(entry: Entry) -> Sums:
    """What an entry adds."""
    return Sums(int(entry.status is not None), int(entry.failed), entry.prompt_tokens, entry.cached_tokens, entry.completion_tokens)


def day_of(at_ms: int) -> str:
    """The day (UTC), as `2026-11-23`."""
    return _day(at_ms // _DAY_MS)


@lru_cache(maxsize=1024)
def _day(days: int) -> str:
    return datetime.fromtimestamp(days * 86_400, UTC).strftime("%Y-%m-%d")


def generates(path: str | None) -> bool:
    """Whether an answer from this path consists of tokens."""
    return path is not None and path.rstrip("/").endswith(("/completions", "/responses", "/messages"))


_UNKNOWN = Entry("", 0, 0, None, None, None, None, None, None, None, None, None, None, None, 0, None, None, 0, None, None, 0, 0, 0, str(Counted.NONE))


def _with_access(entry: Entry | None, access: Access, cost_centre: str | None, averages: StreamAverages) -> Entry:
    if entry is not None:
        prompt, cached, completion, counted = entry.prompt_tokens, entry.cached_tokens, entry.completion_tokens, entry.counted
    else:
        prompt, cached, completion, counted = 0, 0, 0, Counted.NONE
        if access.version is not None and 200 <= access.status < 300 and access.sent_bytes > 0 and generates(access.path):
            # Until the engine speaks of it, which it mostly has done already.
            completion, counted = averages.tokens(access.version, access.sent_bytes), Counted.ESTIMATED
    return Entry(
        access.request_id,
        access.at_ms,
        access.at_ms + access.duration_ms,
        access.tenant,
        access.token_id,
        access.token_name,
        cost_centre,
        access.model,
        access.version or (entry.version if entry else None),
        access.method,
        access.path,
        access.status,
        access.details,
        access.flags,
        access.attempts,
        access.first_byte_ms,
        access.duration_ms,
        access.sent_bytes,
        entry.replica if entry else access.replica,
        access.trace_id,
        prompt,
        cached,
        completion,
        str(counted),
    )


def _with_count(entry: Entry | None, count: Count) -> Entry:
    counted = str(Counted.ENGINE if count.finished else Counted.AT_CANCEL)
    if entry is None:
        entry = _UNKNOWN._replace(request_id=count.request_id)
    attributed = entry.status is not None
    return entry._replace(
        at_ms=entry.at_ms if attributed else count.at_ms,
        ended_ms=entry.ended_ms if attributed else count.at_ms,
        version=(entry.version if attributed else None) or count.model or None,
        replica=count.replica,
        prompt_tokens=count.prompt_tokens,
        cached_tokens=count.cached_tokens,
        completion_tokens=count.completion_tokens,
        counted=counted,
    )

"""What one request experienced: the raw stamps of one clock, and the figures that follow from them.

`s` is the moment at which the request was due, `q` the stamp when it was about to be sent on an open connection, `e_1 .. e_k`
are the token events, `z` is the last of them, and N the completion tokens that the engine counted.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Any


class FailureKind(StrEnum):
    """Why a request failed; the values are what records and reports say."""

    STATUS = "status"
    """The answer's status was not 2xx."""
    ERROR_EVENT = "error_event"
    """An error came inside the stream."""
    NO_FINISH = "no_finish"
    """The stream ended without a finish reason."""
    NO_TOKENS = "no_tokens"
    """The answer finished without a single token."""
    TIMEOUT = "timeout"
    TRUNCATED = "truncated"
    """The connection ended inside the body."""
    MALFORMED = "malformed"
    """What came is not HTTP, or not the JSON it should be."""
    CONNECTION = "connection"
    """No connection, or it ended before the answer began."""


@dataclass(frozen=True, slots=True)
class Record:
    """One request. Stamps are nanoseconds of the monotonic clock, the same for all processes of a machine; those of other machines are
    shifted into the clock of the one that conducts.

    Attributes:
        index: Number of the request in its run.
        start_ns: When the user turned to it.
        sent_ns: `q`; None when no connection came about.
        connect_ns: Time for the new connection with TLS; 0 on a connection that was open already.
        token_ns: Stamps of the token events, in order.
        end_ns: When the answer was complete, or given up.
        completion_tokens: N as the engine counted; None when it did not say.
        prompt_tokens: Likewise, of the prompt.
        status: HTTP status; None when there was no answer.
        finish_reason: As the engine said.
        failure: None when the request succeeded.
        reason: The failure in one sentence.
        is_cut: Whether the load test ended while the request was under way: neither success nor failure.
        has_body: Whether anything of an answer came, beyond its head.
        scheduled_ns: When it was to be sent; None in a closed loop, where nobody waits but for the answer before.
        group: Which of the scenario's kinds of requests it was; empty where there is one.
        is_streamed: Whether the answer came in events; else its only stamp is that of its end.
        token_counts: How many tokens each token event brought, where the engine said so with each of them.
        first_output_ns: Stamp of the first token that is not reasoning.
        cached_tokens: Prompt tokens that the engine had in its prefix cache, where it says.
        turn: Of its conversation, from 0; all turns of one have the same index.
        by_kernel: Whether stamps are the kernel's, of when bytes arrived; else they are of when the generator came to read them.
    """

    index: int
    start_ns: int
    end_ns: int
    sent_ns: int | None = None
    connect_ns: int = 0
    token_ns: tuple[int, ...] = ()
    completion_tokens: int | None = None
    prompt_tokens: int | None = None
    status: int | None = None
    finish_reason: str | None = None
    failure: FailureKind | None = None
    reason: str = ""
    is_cut: bool = False
    has_body: bool = False
    scheduled_ns: int | None = None
    group: str = ""
    is_streamed: bool = True
    token_counts: tuple[int, ...] = ()
    first_output_ns: int | None = None
    cached_tokens: int | None = None
    turn: int = 0
    by_kernel: bool = False

    @property
    def succeeded(self) -> bool:
        return self.failure is None and not self.is_cut

    @property
    def moment_ns(self) -> int:
        """When it was due: the moment that decides whether it is measured."""
        return self.start_ns if self.scheduled_ns is None else self.scheduled_ns

    @property
    def tokens(self) -> int:
        """N, or the number of token events where the engine did not count."""
        return len(self.token_ns) if self.completion_tokens is None else self.completion_tokens

    @property
    def ttft_s(self) -> float | None:
        """Time to the first token, e_1 - q; None where the answer came in one piece."""
        return (self.token_ns[0] - self.sent_ns) / 1e9 if self.token_ns and self.sent_ns is not None and self.is_streamed else None

    @property
    def ttft_due_s(self) -> float | None:
        """Time to the first token from when the request was due, e_1 - s: what a user waited, whoever made them wait."""
        return (self.token_ns[0] - self.moment_ns) / 1e9 if self.token_ns and self.is_streamed else None

    @property
    def ttfo_s(self) -> float | None:
        """Time to the first token that is not reasoning."""
        return (self.first_output_ns - self.sent_ns) / 1e9 if self.first_output_ns is not None and self.sent_ns is not None and self.is_streamed else None

    @property
    def e2e_s(self) -> float | None:
        """Time to the last token, z - q."""
        return (self.token_ns[-1] - self.sent_ns) / 1e9 if self.token_ns and self.sent_ns is not None else None

    @property
    def e2e_due_s(self) -> float | None:
        """Time to the last token from when the request was due, z - s."""
        return (self.token_ns[-1] - self.moment_ns) / 1e9 if self.token_ns else None

    @property
    def tpot_s(self) -> float | None:
        """Time per further token, (z - e_1) / (N - n_1), where n_1 came in the first event; undefined where none came later."""
        first = self.token_counts[0] if self.token_counts else 1
        if not self.token_ns or not self.is_streamed or self.tokens <= first:
            return None
        return (self.token_ns[-1] - self.token_ns[0]) / 1e9 / (self.tokens - first)

    @property
    def gaps_s(self) -> tuple[float, ...]:
        """Time between neighbouring token events (ICL), as they came."""
        return tuple((later - earlier) / 1e9 for earlier, later in pairwise(self.token_ns))

    @property
    def itls_s(self) -> tuple[float, ...]:
        """Time between neighbouring tokens (ITL): a gap over as many tokens as it brought; the gaps, where nobody counted."""
        if not self.token_counts:
            return self.gaps_s
        spread: list[float] = []
        for gap_s, count in zip(self.gaps_s, self.token_counts[1:], strict=True):
            spread += [gap_s / count] * count if count > 0 else [gap_s]
        return tuple(spread)

    @property
    def send_lag_s(self) -> float | None:
        """How late the generator turned to it; None in a closed loop."""
        return None if self.scheduled_ns is None else (self.start_ns - self.scheduled_ns) / 1e9

    def keeps(self, thresholds: Mapping[str, float]) -> bool:
        """Whether the request succeeded within limits.

        Args:
            thresholds: Seconds by metric: `ttft`, `tpot`, `itl` (its own mean), `e2e`. Times count from when it was due. A time that
                is undefined, as TPOT of an answer of one token, is kept.
        """
        if not self.succeeded:
            return False
        measured = {"ttft": self.ttft_due_s, "tpot": self.tpot_s, "itl": self.tpot_s, "e2e": self.e2e_due_s}
        return all((time_s := measured[metric]) is None or time_s <= limit_s for metric, limit_s in thresholds.items())

    def tokens_within(self, from_ns: int, until_ns: int) -> float:
        """How many of its tokens came in [from, until): N shared evenly among the token events."""
        if not self.token_ns:
            return 0.0
        events = sum(from_ns <= stamp_ns < until_ns for stamp_ns in self.token_ns)
        return self.tokens * events / len(self.token_ns)

    def shifted(self, by_ns: int) -> Record:
        """The same with its stamps as a clock has them that is so far ahead; no duration changes."""
        return replace(
            self,
            start_ns=self.start_ns + by_ns,
            end_ns=self.end_ns + by_ns,
            sent_ns=None if self.sent_ns is None else self.sent_ns + by_ns,
            token_ns=tuple(stamp_ns + by_ns for stamp_ns in self.token_ns),
            scheduled_ns=None if self.scheduled_ns is None else self.scheduled_ns + by_ns,
            first_output_ns=None if self.first_output_ns is None else self.first_output_ns + by_ns,
        )

    def to_json(self) -> str:
        """One line of JSON, without its line end."""
        told = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps(told, separators=(",", ":"))


def parse_record(line: str) -> Record:
    """Read what `to_json` wrote.

    Raises:
        ValueError: It is no such line.
    """
    try:
        fields: dict[str, Any] = json.loads(line)
        failure = fields.pop("failure")
        tuples = {name: tuple(fields.get(name, ())) for name in ("token_ns", "token_counts")}
        return Record(**{**fields, **tuples, "failure": FailureKind(failure) if failure else None})
    except (AttributeError, KeyError, TypeError) as error:
        msg = f"not a record of a load test: {error}"
        raise ValueError(msg) from error


def read_records(*spools: Path) -> list[Record]:
    """All records of some spools, compressed or not, in the order in which they ended.

    A half-written last line (the generator was killed) is left out, a missing file is empty.

    Raises:
        ValueError: Another line is broken.
    """
    found = [record for spool in spools if spool.exists() for record in _records(spool)]
    return sorted(found, key=lambda record: record.end_ns) if len(spools) > 1 else found


def _records(spool: Path) -> Iterator[Record]:
    with gzip.open(spool, "rt") if spool.suffix == ".gz" else spool.open() as lines:
        for line in lines:
            if line.endswith("\n"):
                yield parse_record(line)

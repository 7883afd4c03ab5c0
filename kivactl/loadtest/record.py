"""What one request experienced: the raw stamps of one clock, and the figures that follow from them.

`q` is the stamp when the request was about to be sent on an open connection, `e_1 .. e_k` are the token events, `z` is
the last of them, and N the completion tokens that the engine counted.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
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
    """One request. Stamps are nanoseconds of the monotonic clock, the same for all processes of a machine.

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

    @property
    def succeeded(self) -> bool:
        return self.failure is None and not self.is_cut

    @property
    def tokens(self) -> int:
        """N, or the number of token events where the engine did not count."""
        return len(self.token_ns) if self.completion_tokens is None else self.completion_tokens

    @property
    def ttft_s(self) -> float | None:
        """Time to the first token, e_1 - q."""
        return (self.token_ns[0] - self.sent_ns) / 1e9 if self.token_ns and self.sent_ns is not None else None

    @property
    def e2e_s(self) -> float | None:
        """Time to the last token, z - q."""
        return (self.token_ns[-1] - self.sent_ns) / 1e9 if self.token_ns and self.sent_ns is not None else None

    @property
    def tpot_s(self) -> float | None:
        """Time per further token, (z - e_1) / (N - 1); undefined for a single token."""
        return (self.token_ns[-1] - self.token_ns[0]) / 1e9 / (self.tokens - 1) if self.token_ns and self.tokens > 1 else None

    @property
    def gaps_s(self) -> tuple[float, ...]:
        """Time between neighbouring token events (ICL), as they came."""
        return tuple((later - earlier) / 1e9 for earlier, later in pairwise(self.token_ns))

    def tokens_within(self, from_ns: int, until_ns: int) -> float:
        """How many of its tokens came in [from, until): N shared evenly among the token events."""
        if not self.token_ns:
            return 0.0
        events = sum(from_ns <= stamp_ns < until_ns for stamp_ns in self.token_ns)
        return self.tokens * events / len(self.token_ns)

    def to_json(self) -> str:
        """One line of JSON, without its line end."""
        return json.dumps(asdict(self), separators=(",", ":"))


def parse_record(line: str) -> Record:
    """Read what `to_json` wrote.

    Raises:
        ValueError: It is no such line.
    """
    try:
        fields: dict[str, Any] = json.loads(line)
        failure = fields.pop("failure")
        return Record(**{**fields, "token_ns": tuple(fields["token_ns"]), "failure": FailureKind(failure) if failure else None})
    except (AttributeError, KeyError, TypeError) as error:
        msg = f"not a record of a load test: {error}"
        raise ValueError(msg) from error


def read_records(path: Path) -> list[Record]:
    """All records of a spool; a half-written last line (the generator was killed) is left out, a missing file is empty.

    Raises:
        ValueError: Another line is broken.
    """
    if not path.exists():
        return []
    whole, _, _ = path.read_text().rpartition("\n")
    return [parse_record(line) for line in whole.split("\n") if line]

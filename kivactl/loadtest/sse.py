"""Reads a stream of server-sent events and says which of them bring tokens; pure, no clock and no socket.

A token event has non-empty content, reasoning or tool calls. A role alone, an empty delta, usage, a comment and
`[DONE]` are none: an engine that announces the role at once would otherwise seem to answer at once.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_ABORTED = {"abort", "error"}
"""Finish reasons by which vLLM says that it gave up."""


class EventParser:
    """Turns bytes, cut anywhere, into the data of events."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[str] = []
        self._is_first_line = True
        self._after_carriage_return = False

    def feed(self, chunk: bytes) -> list[str]:
        """Take the next bytes.

        Returns:
            The `data` of each event that these bytes complete, in order.
        """
        if self._after_carriage_return and chunk:
            # The line ended at CR already; an LF that follows belongs to that ending.
            chunk = chunk.removeprefix(b"\n")
            self._after_carriage_return = False
        buffered = self._rest + chunk
        lines, self._rest = _split(buffered)
        if buffered.endswith(b"\r"):
            self._after_carriage_return = True
        return [event for line in lines if (event := self._take(line)) is not None]

    @property
    def is_inside_event(self) -> bool:
        """Whether an event has begun whose end has not come."""
        return bool(self._rest or self._data)

    def _take(self, line: bytes) -> str | None:
        if self._is_first_line:
            line = line.removeprefix(_BYTE_ORDER_MARK)
            self._is_first_line = False
        if not line:
            event = "\n".join(self._data) if self._data else None
            self._data = []
            return event
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" ").decode(errors="replace"))
        return None


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one event of a chat completion says.

    Attributes:
        has_tokens: Whether it is a token event.
        finish_reason: Why the answer ends, where it does.
        completion_tokens: `usage.completion_tokens`, where it is given.
        prompt_tokens: `usage.prompt_tokens`, where it is given.
        error: The error inside the stream, in one sentence; empty when there is none.
        malformed: Whether the event is not the JSON it should be.
        done: Whether it is the closing `[DONE]`.
    """

    has_tokens: bool = False
    finish_reason: str | None = None
    completion_tokens: int | None = None
    prompt_tokens: int | None = None
    error: str = ""
    malformed: bool = False
    done: bool = False


def parse_chunk(data: str) -> Chunk:
    """Read the data of one event."""
    if data.strip() == "[DONE]":
        return Chunk(done=True)
    try:
        body = json.loads(data)
    except ValueError:
        return Chunk(malformed=True)
    if not isinstance(body, dict):
        return Chunk(malformed=True)
    if body.get("error") or body.get("object") == "error":
        return Chunk(error=error_text(body))
    choices = body.get("choices") or []
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        return Chunk(malformed=True)
    usage = body.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    reason = next((str(choice["finish_reason"]) for choice in choices if choice.get("finish_reason")), None)
    return Chunk(
        has_tokens=any(_brings_tokens(choice.get("delta")) for choice in choices),
        finish_reason=reason,
        completion_tokens=_count(usage.get("completion_tokens")),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        error=f"the engine ended the answer with '{reason}'" if reason in _ABORTED else "",
    )


def error_text(body: Any) -> str:
    """The sentence in an error body of OpenAI's form or vLLM's older one; its beginning as JSON when there is none."""
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, dict) and isinstance(error.get("message"), str) and error["message"]:
        return str(error["message"])[:500]
    return error[:500] if isinstance(error, str) else json.dumps(error)[:500]


def _brings_tokens(delta: Any) -> bool:
    return isinstance(delta, dict) and any(delta.get(field) for field in ("content", "reasoning", "reasoning_content", "tool_calls"))


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _split(buffered: bytes) -> tuple[list[bytes], bytes]:
    """Whole lines (ended by LF, CR or CRLF) and the unfinished rest; not `splitlines`, which knows further endings in str."""
    lines = buffered.splitlines(keepends=True)  # of bytes: LF, CR and CRLF only
    rest = lines.pop() if lines and not lines[-1].endswith((b"\n", b"\r")) else b""
    return [line.rstrip(b"\r\n") for line in lines], rest

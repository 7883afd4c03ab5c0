"""Reads a stream of server-sent events and says which of them bring tokens; pure, no clock and no socket.

A token event has non-empty content, reasoning or tool calls. A role alone, an empty delta, usage, a comment and
`[DONE]` are none: an engine that announces the role at once would otherwise seem to answer at once.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_USUAL_BEGIN, _USUAL_END = b"data: ", b"\n\n"
_OUTPUT, _REASONING = ("content", "tool_calls"), ("reasoning", "reasoning_content")
_WORD = re.compile(rb'"(content|reasoning|reasoning_content)": ?"((?:[^"\\]|\\.)*)"')
_CREATED = re.compile(rb'"created": ?([1-9][0-9]*)')
_ABORTED = {"abort", "error"}
"""Finish reasons by which vLLM says that it gave up."""


class EventParser:
    """Turns bytes, cut anywhere, into the data of events."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._is_first_line = True
        self._after_carriage_return = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take the next bytes.

        Returns:
            The `data` of each event that these bytes complete, in order.
        """
        if not self._rest and not self._data and not self._is_first_line and chunk.startswith(_USUAL_BEGIN) and chunk.endswith(_USUAL_END):
            # As engines write them, one line each: nothing to look for but the ends.
            events = chunk[len(_USUAL_BEGIN) : -len(_USUAL_END)].split(_USUAL_END + _USUAL_BEGIN)
            if all(b"\n" not in event and b"\r" not in event for event in events):
                self._after_carriage_return = False
                return events
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

    def _take(self, line: bytes) -> bytes | None:
        if self._is_first_line:
            line = line.removeprefix(_BYTE_ORDER_MARK)
            self._is_first_line = False
        if not line:
            event = b"\n".join(self._data) if self._data else None
            self._data = []
            return event
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
        return None


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one event of a chat completion says.

    Attributes:
        has_tokens: Whether it is a token event.
        is_output: Whether some of its tokens belong to the answer itself, not to the reasoning before.
        finish_reason: Why the answer ends, where it does.
        completion_tokens: `usage.completion_tokens`, where it is given.
        prompt_tokens: `usage.prompt_tokens`, where it is given.
        cached_tokens: How many of those the engine had in its prefix cache, where it says.
        error: The error inside the stream, in one sentence; empty when there is none.
        malformed: Whether the event is not the JSON it should be.
        done: Whether it is the closing `[DONE]`.
    """

    has_tokens: bool = False
    is_output: bool = False
    finish_reason: str | None = None
    completion_tokens: int | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    error: str = ""
    malformed: bool = False
    done: bool = False


def parse_chunk(data: bytes) -> Chunk:
    """Read the data of one event, or an answer that came as a whole."""
    if data.strip() == b"[DONE]":
        return Chunk(done=True)
    body = _json(data)
    if not isinstance(body, dict):
        return Chunk(malformed=True)
    if body.get("error") or body.get("object") == "error":
        return Chunk(error=error_text(body))
    choices = body.get("choices") or []
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        return Chunk(malformed=True)
    usage = body.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    details = usage.get("prompt_tokens_details")
    reason = next((str(choice["finish_reason"]) for choice in choices if choice.get("finish_reason")), None)
    parts = [part for choice in choices if isinstance(part := _part(choice), dict)]
    is_output = any(part.get(field) for part in parts for field in _OUTPUT)
    return Chunk(
        has_tokens=is_output or any(part.get(field) for part in parts for field in _REASONING),
        is_output=is_output,
        finish_reason=reason,
        completion_tokens=_count(usage.get("completion_tokens")),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        cached_tokens=_count(details.get("cached_tokens")) if isinstance(details, dict) else None,
        error=f"the engine ended the answer with '{reason}'" if reason in _ABORTED else "",
    )


def word_span(event: bytes) -> tuple[int, int] | None:
    """Where the word lies in an event that brings one word and nothing else: begin and end of what stands within the quotes.

    None when that cannot be told for sure, so that nothing is learned from the event.
    """
    found = [match for match in _WORD.finditer(event) if match[2]]
    body = _json(event)
    if len(found) != 1 or not isinstance(body, dict):
        return None
    try:
        (choice,) = body["choices"]
        brought = {key: value for key, value in choice["delta"].items() if value and key != "role"}
        word = {found[0][1].decode(): json.loads(found[0][0].partition(b":")[2])}
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return found[0].span(2) if brought == word else None


def created_span(event: bytes, end: int) -> tuple[int, int] | None:
    """Where before `end` the digits of an event's `created` are; None where it has none, or several."""
    found = list(_CREATED.finditer(event, 0, end))
    return found[0].span(1) if len(found) == 1 else None


def text_of(data: bytes) -> str:
    """The answer's text in an event, or in an answer that came as a whole."""
    body = _json(data)
    choices = body.get("choices") if isinstance(body, dict) else None
    parts = [_part(choice) for choice in choices or () if isinstance(choice, dict)]
    return "".join(part["content"] for part in parts if isinstance(part, dict) and isinstance(part.get("content"), str))


def error_text_of(body: bytes) -> str:
    """What a refusal says, in one sentence."""
    text = body.decode(errors="replace").strip()
    return parse_chunk(body).error or text[:200] or "no explanation"


def error_text(body: Any) -> str:
    """The sentence in an error body of OpenAI's form or vLLM's older one; its beginning as JSON when there is none."""
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, dict) and isinstance(error.get("message"), str) and error["message"]:
        return str(error["message"])[:500]
    return error[:500] if isinstance(error, str) else json.dumps(error)[:500]


def _json(data: bytes) -> Any:
    try:
        return json.loads(data.decode(errors="replace"))
    except (ValueError, RecursionError):
        return None


def _part(choice: dict[str, Any]) -> Any:
    """What a choice brings: of a chat a `delta`, or a `message` when it comes as a whole; of a plain completion its `text`."""
    return {"content": choice["text"]} if "text" in choice else choice.get("delta", choice.get("message"))


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _split(buffered: bytes) -> tuple[list[bytes], bytes]:
    """Whole lines (ended by LF, CR or CRLF) and the unfinished rest; not `splitlines`, which knows further endings in str."""
    lines = buffered.splitlines(keepends=True)  # of bytes: LF, CR and CRLF only
    rest = lines.pop() if lines and not lines[-1].endswith((b"\n", b"\r")) else b""
    return [line.rstrip(b"\r\n") for line in lines], rest

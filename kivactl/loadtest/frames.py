"""What a machine that generates load says to the one that conducts, over a connection on which others may speak as well; pure.

A frame is a mark, one line of JSON with its `kind`, its facts and the `bytes` of its body, then the body. A login may print before the
first frame, and anything between two: what is no frame is passed over.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

MARK = b"\x1ekivactl "
"""Begins a frame: a sign that no text holds, and our name."""
LARGEST_BODY_BYTES = 1 << 20

_LARGEST_HEAD_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Frame:
    """One message.

    Attributes:
        kind: What it is.
        facts: JSON-ready.
        body: At most `LARGEST_BODY_BYTES`.
    """

    kind: str
    facts: dict[str, Any] = field(default_factory=dict)
    body: bytes = b""

    def encoded(self) -> bytes:
        """As it is sent."""
        head = json.dumps({**self.facts, "kind": self.kind, "bytes": len(self.body)}, separators=(",", ":"))
        return MARK + head.encode() + b"\n" + self.body


class FrameReader:
    """Finds the frames in what comes, however it is cut into pieces."""

    def __init__(self) -> None:
        self._kept = b""
        self._begun: tuple[str, dict[str, Any], int] | None = None

    def feed(self, piece: bytes) -> Iterator[Frame]:
        """The frames that a further piece completes, in order. To be run to its end before the next piece."""
        self._kept += piece
        while (frame := self._next()) is not None:
            yield frame

    def _next(self) -> Frame | None:
        while self._begun is None:
            begins = self._kept.find(MARK)
            if begins < 0:
                self._kept = self._kept[-len(MARK) + 1 :]  # maybe the beginning of a mark
                return None
            ends = self._kept.find(b"\n", begins)
            if ends < 0 and len(self._kept) - begins <= _LARGEST_HEAD_BYTES:
                self._kept = self._kept[begins:]
                return None
            self._begun = None if ends < 0 else _head(self._kept[begins + len(MARK) : ends])
            # What only looks like a frame may hold one.
            self._kept = self._kept[begins + len(MARK) :] if self._begun is None else self._kept[ends + 1 :]
        kind, facts, length = self._begun
        if len(self._kept) < length:
            return None
        body, self._kept, self._begun = self._kept[:length], self._kept[length:], None
        return Frame(kind, facts, body)


def _head(line: bytes) -> tuple[str, dict[str, Any], int] | None:
    try:
        facts = json.loads(line)
        kind, length = facts.pop("kind"), facts.pop("bytes")
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(kind, str) or type(length) is not int or not 0 <= length <= LARGEST_BODY_BYTES:
        return None
    return kind, facts, length

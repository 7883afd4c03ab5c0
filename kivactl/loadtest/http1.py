"""Reads an HTTP/1.1 answer from bytes that were cut anywhere; pure, no socket and no clock.

It exists beside `http.client` because that reads from a socket and waits: a generator with a thousand answers under way
must take what is there and go on.

Source: RFC 9112, sections 4, 6 and 7.
"""

from __future__ import annotations

from enum import Enum, auto

_LONGEST_HEAD_BYTES = 1 << 16
_LONGEST_LINE_BYTES = 1 << 12
_WITHOUT_BODY = {204, 304}


class MalformedAnswerError(Exception):
    """What came is not an answer of HTTP/1.1; the message is one sentence."""


class _Awaits(Enum):
    HEAD = auto()
    CHUNK_SIZE = auto()
    CHUNK = auto()
    CHUNK_END = auto()
    TRAILER = auto()
    LENGTH = auto()
    END_OF_CONNECTION = auto()
    NOTHING = auto()


class AnswerParser:
    """One answer.

    Attributes:
        status: HTTP status; None until the head has come. Informational answers (1xx) are passed over.
        headers: By name in lower case.
        rest: What has come but cannot be understood yet.
    """

    __slots__ = ("_awaits", "_missing", "headers", "rest", "status")

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.rest = b""
        self._awaits = _Awaits.HEAD
        self._missing = 0

    @property
    def is_whole(self) -> bool:
        """Whether the whole answer has come."""
        return self._awaits is _Awaits.NOTHING

    @property
    def is_between_chunks(self) -> bool:
        """Whether the next byte begins a chunk."""
        return self._awaits is _Awaits.CHUNK_SIZE and not self.rest

    @property
    def keeps_connection(self) -> bool:
        """Whether the connection can be used again, once the answer is whole."""
        return self.is_whole and not self.rest and "close" not in self.headers.get("connection", "").lower()

    def feed(self, received: bytes) -> list[bytes]:
        """Take the next bytes.

        Returns:
            What they bring of the body.

        Raises:
            MalformedAnswerError: They are not HTTP.
        """
        data = self.rest + received if self.rest else received
        position, pieces = 0, []
        while position < len(data) or (self._awaits in (_Awaits.CHUNK, _Awaits.LENGTH) and not self._missing):
            match self._awaits:
                case _Awaits.CHUNK_SIZE:
                    end = self._line_end(data, position)
                    if end < 0:
                        break
                    self._missing = _chunk_size(data[position:end])
                    position = end + 2
                    self._awaits = _Awaits.CHUNK if self._missing else _Awaits.TRAILER
                case _Awaits.CHUNK | _Awaits.LENGTH:
                    piece = data[position : position + self._missing]
                    position += len(piece)
                    self._missing -= len(piece)
                    if piece:
                        pieces.append(piece)
                    if not self._missing:
                        self._awaits = _Awaits.CHUNK_END if self._awaits is _Awaits.CHUNK else _Awaits.NOTHING
                case _Awaits.CHUNK_END:
                    if len(data) - position < 2:
                        break
                    if data[position : position + 2] != b"\r\n":
                        raise MalformedAnswerError("a chunk is longer than it says")
                    position += 2
                    self._awaits = _Awaits.CHUNK_SIZE
                case _Awaits.TRAILER:
                    end = self._line_end(data, position)
                    if end < 0:
                        break
                    self._awaits = _Awaits.NOTHING if end == position else _Awaits.TRAILER
                    position = end + 2
                case _Awaits.END_OF_CONNECTION:
                    pieces.append(data[position:])
                    position = len(data)
                case _Awaits.HEAD:
                    end = data.find(b"\r\n\r\n", position)
                    if end < 0:
                        _refuse_early(data[position:])
                        break
                    self._take_head(data[position:end])
                    position = end + 4
                case _Awaits.NOTHING:
                    break
        self.rest = data[position:]
        return pieces

    def end(self) -> bool:
        """The connection has ended: whether the answer is whole."""
        if self._awaits is _Awaits.END_OF_CONNECTION:
            self._awaits = _Awaits.NOTHING
            self.headers["connection"] = "close"
        return self.is_whole

    @staticmethod
    def _line_end(data: bytes, position: int) -> int:
        end = data.find(b"\r\n", position)
        if end < 0 and len(data) - position > _LONGEST_LINE_BYTES:
            raise MalformedAnswerError("a chunk has no size")
        return end

    def _take_head(self, head: bytes) -> None:
        first, *lines = head.decode("latin-1").split("\r\n")
        version, _, rest = first.partition(" ")
        status = rest[:3]
        if not version.startswith("HTTP/1.") or not (status.isascii() and status.isdigit()):
            raise MalformedAnswerError("the answer is not HTTP/1.1")
        if 100 <= int(status) < 200:
            return
        self.status = int(status)
        for line in lines:
            name, _, value = line.partition(":")
            self.headers[name.strip().lower()] = value.strip()
        if version == "HTTP/1.0":
            self.headers.setdefault("connection", "close")
        self._awaits = self._body()

    def _body(self) -> _Awaits:
        if self.status in _WITHOUT_BODY:
            return _Awaits.NOTHING
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            return _Awaits.CHUNK_SIZE
        length = self.headers.get("content-length")
        if length is None:
            return _Awaits.END_OF_CONNECTION
        if not (length.isascii() and length.isdigit()):
            raise MalformedAnswerError("the answer's length is not a number")
        self._missing = int(length)
        return _Awaits.LENGTH


def _refuse_early(begin: bytes) -> None:
    """Refuse what cannot become a head any more, for its end may never come."""
    if not b"HTTP/1.".startswith(begin[:7]):
        raise MalformedAnswerError("the answer is not HTTP/1.1")
    if len(begin) > _LONGEST_HEAD_BYTES:
        raise MalformedAnswerError("the answer's head does not end")


def _chunk_size(line: bytes) -> int:
    digits = line.partition(b";")[0].strip()
    try:
        if not digits or digits.strip(b"0123456789abcdefABCDEF"):
            raise ValueError
        return int(digits, 16)
    except ValueError:
        raise MalformedAnswerError("a chunk's size is not a number") from None

"""HTTP/1.1 byte for byte: a client's connection that sends anything, and answers as they came."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import Any, Self

Headers = list[tuple[str, str]]


@dataclass(frozen=True)
class Answer:
    """An HTTP answer as it came over the wire."""

    status: int
    headers: Headers
    body: bytes

    def header(self, name: str) -> str | None:
        values = [value for key, value in self.headers if key == name]
        assert len(values) < 2, f"{name} twice: {values}"
        return values[0] if values else None

    def json(self) -> Any:
        return json.loads(self.body)

    def refuses(self, status: int, code: str | None = None, *, identified: bool = True) -> dict[str, Any]:
        """Check that it is a refusal as OpenAI's clients read it; returns the error. What could not even be read as a request has no id."""
        assert self.status == status, (self.status, self.body)
        assert self.header("content-type") == "application/json"
        assert bool(self.header("x-request-id")) == identified
        error = self.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert isinstance(error["message"], str)
        assert error["message"].endswith(".")
        assert isinstance(error["type"], str)
        assert error["param"] is None or isinstance(error["param"], str)
        assert isinstance(error["code"], str)
        if code is not None:
            assert error["code"] == code
        return error


class Connection:
    """A client's connection; it sends any bytes."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.buffer = sock, b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def send_what_is_taken(self, data: bytes, piece_bytes: int = 65536) -> None:
        """Send until the gateway will not have more."""
        try:
            for start in range(0, len(data), piece_bytes):
                self.send(data[start : start + piece_bytes])
        except OSError:
            return

    def head(self) -> list[str] | None:
        """The lines before the next answer's body; None when the gateway closed the connection before it began."""
        while b"\r\n\r\n" not in self.buffer:
            if not self._more():
                assert not self.buffer, f"half an answer: {self.buffer!r}"
                return None
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        return head.decode("latin-1").split("\r\n")

    def answer(self) -> Answer | None:
        """The next answer; None when the gateway closed the connection before it began."""
        head = self.head()
        if head is None:
            return None
        first, *lines = head
        headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        values = dict(headers)
        if "chunked" in values.get("transfer-encoding", ""):
            body = self._chunks()
        elif "content-length" in values:
            body = self._exactly(int(values["content-length"]))
        else:
            while self._more():
                pass
            body, self.buffer = self.buffer, b""
        return Answer(int(first.split(" ")[1]), headers, body)

    def closed(self) -> bool:
        """Whether the gateway says nothing more and closes the connection."""
        return not self.buffer and not self._more()

    def _chunks(self) -> bytes:
        body = b""
        while True:
            while b"\r\n" not in self.buffer:
                assert self._more(), "the answer was cut"
            size, self.buffer = self.buffer.split(b"\r\n", 1)
            piece = self._exactly(int(size, 16) + 2)[:-2]
            if not piece:
                return body
            body += piece

    def _exactly(self, count: int) -> bytes:
        while len(self.buffer) < count:
            assert self._more(), "the answer was cut"
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def _more(self) -> bool:
        try:
            data = self.sock.recv(65536)
        except ConnectionError:
            return False
        self.buffer += data
        return bool(data)

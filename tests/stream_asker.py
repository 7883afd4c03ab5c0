"""The load test's client without a load test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kivactl.loadtest.answer import Order
from kivactl.loadtest.client import Client
from kivactl.loadtest.record import Record
from kivactl.loadtest.server import open_server, request_for


class Asker:
    """One user who asks, reads the whole answer and asks again."""

    def __init__(self, url: str, token: str = "the-right-token", ca: Path | None = None, timeout_s: float = 10.0) -> None:
        self.server = open_server(url, str(ca) if ca else None)
        self.client = Client(self.server)
        self._token, self._timeout_s = token, timeout_s

    def ask(self, index: int, body: bytes = b'{"model": "scripted"}', **order: Any) -> Record:
        ended: list[Record] = []
        request = request_for(self.server, "/v1/chat/completions", self._token, body)
        self.client.send(Order(index, request, self._timeout_s, **order), lambda _, record: ended.append(record))
        self.client.run(lambda: bool(ended))
        return ended[0]

    def close(self) -> None:
        self.client.close()

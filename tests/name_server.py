"""A DNS server for tests: addresses by name, which change, vanish and fail as the test wishes."""

from __future__ import annotations

import socket
import struct
import threading

_A = 1
_NO_ERROR, _SERVER_FAILURE, _NO_SUCH_NAME = 0, 2, 3


class NameServer(threading.Thread):
    """Answers over UDP on a loopback port.

    Attributes:
        addresses: IPv4 addresses by name; an empty list is a name without addresses, an absent name does not exist.
        failing: Whether every question is answered with a failure.
        asked: Names that were asked for.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.addresses: dict[str, list[str]] = {}
        self.failing = False
        self.asked: list[str] = []
        self._done = False
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.start()

    def run(self) -> None:
        while not self._done:
            question, client = self._socket.recvfrom(4096)
            if question:
                self._socket.sendto(self._answer(question), client)
        self._socket.close()

    def stop(self) -> None:
        self._done = True
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", ("127.0.0.1", self.port))
        self.join()

    def _answer(self, question: bytes) -> bytes:
        place, labels = 12, []
        while length := question[place]:
            labels.append(question[place + 1 : place + 1 + length].decode())
            place += 1 + length
        (kind,) = struct.unpack("!H", question[place + 1 : place + 3])
        name = ".".join(labels)
        self.asked.append(name)
        found = self.addresses.get(name)
        code = _SERVER_FAILURE if self.failing else _NO_SUCH_NAME if found is None else _NO_ERROR
        entries = [b"\xc0\x0c" + struct.pack("!HHIH", _A, 1, 5, 4) + socket.inet_aton(address) for address in found or () if kind == _A and code == _NO_ERROR]
        return question[:2] + struct.pack("!HHHHH", 0x8180 | code, 1, len(entries), 0, 0) + question[12 : place + 5] + b"".join(entries)

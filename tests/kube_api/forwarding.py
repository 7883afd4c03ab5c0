"""A pod's port over a WebSocket, as `kubectl port-forward` and kivactl have it: what comes in goes to a listener that a test has put there."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from websockets.frames import Opcode
from websockets.server import ServerProtocol

PROTOCOL = "v4.channel.k8s.io"
_DATA, _ERROR = b"\x00", b"\x01"


def forward(connection: socket.socket, handshake: bytes, port: int, address: tuple[str, int] | None) -> None:
    """Serve one connection to its end.

    Args:
        connection: The client's.
        handshake: Its request, as it came.
        port: Of the pod.
        address: Who listens there; None when nobody does.
    """
    protocol = ServerProtocol(subprotocols=[PROTOCOL])  # type: ignore[list-item]
    guard = threading.Lock()

    def flush() -> None:
        for data in protocol.data_to_send():
            if data:
                connection.sendall(data)

    def send(channel: bytes, data: bytes) -> None:
        with guard:
            protocol.send_binary(channel + data)
            flush()

    protocol.receive_data(handshake)
    (request,) = protocol.events_received()
    protocol.send_response(protocol.accept(request))  # type: ignore[arg-type]
    flush()
    number = struct.pack("<H", port)
    send(_DATA, number)
    send(_ERROR, number)
    try:
        pod = socket.create_connection(address or ("127.0.0.1", 9), timeout=30)
    except OSError as error:
        send(_ERROR, f"error forwarding port {port} to pod: {error}".encode())
        _close(protocol, connection, guard)
        return
    pod.settimeout(None)
    back = threading.Thread(target=_copied, args=(pod, send), daemon=True)
    back.start()
    with pod:
        for data in _received(protocol, connection, guard):
            if data[:1] == _DATA:
                with suppress(OSError):
                    pod.sendall(data[1:])
        with suppress(OSError):
            pod.shutdown(socket.SHUT_RDWR)
    back.join(5)


def _received(protocol: ServerProtocol, connection: socket.socket, guard: threading.Lock) -> Iterator[bytes]:
    while True:
        try:
            data = connection.recv(65536)
        except OSError:
            return
        with guard:
            if data:
                protocol.receive_data(data)
            else:
                protocol.receive_eof()
            frames: list[Any] = protocol.events_received()
            with suppress(OSError):
                for answer in protocol.data_to_send():
                    if answer:
                        connection.sendall(answer)
        yield from (bytes(frame.data) for frame in frames if frame.opcode is Opcode.BINARY and frame.data)
        if not data or any(frame.opcode is Opcode.CLOSE for frame in frames):
            return


def _copied(pod: socket.socket, send: Any) -> None:
    with suppress(OSError):
        while piece := pod.recv(65536):
            send(_DATA, piece)


def _close(protocol: ServerProtocol, connection: socket.socket, guard: threading.Lock) -> None:
    with guard, suppress(OSError):
        protocol.send_close()
        for data in protocol.data_to_send():
            if data:
                connection.sendall(data)

"""A program in a container over a WebSocket, as `kubectl exec` and kivactl run one: a test says what it does."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from contextlib import suppress

from websockets.server import ServerProtocol

PROTOCOLS = ["v5.channel.k8s.io", "v4.channel.k8s.io"]
_STDOUT, _STDERR, _ERROR = b"\x01", b"\x02", b"\x03"


def execute(connection: socket.socket, handshake: bytes, run: Callable[[], tuple[int, str, str]]) -> None:
    """Serve one connection to its end.

    Args:
        connection: The client's.
        handshake: Its request, as it came.
        run: Exit code, stdout and stderr of the program.
    """
    protocol = ServerProtocol(subprotocols=PROTOCOLS)  # type: ignore[arg-type]
    protocol.receive_data(handshake)
    (request,) = protocol.events_received()
    protocol.send_response(protocol.accept(request))  # type: ignore[arg-type]
    code, out, said = run()
    for channel, text in ((_STDOUT, out), (_STDERR, said)):
        if text:
            protocol.send_binary(channel + text.encode())
    failed = {"status": "Failure", "reason": "NonZeroExitCode", "message": f"command terminated with exit code {code}"}
    failed |= {"details": {"causes": [{"reason": "ExitCode", "message": str(code)}]}}  # type: ignore[dict-item]
    protocol.send_binary(_ERROR + json.dumps(failed if code else {"metadata": {}, "status": "Success"}).encode())
    protocol.send_close()
    with suppress(OSError):
        for data in protocol.data_to_send():
            if data:
                connection.sendall(data)

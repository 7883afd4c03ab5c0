"""vLLM: asks a replica over its socket whether it generates. Readiness is a generated token; `/health` alone proves nothing."""

from __future__ import annotations

import http.client
from pathlib import Path

from kivactl.stack.generating import PATH
from kivactl.tools.supervisor import UnixConnection


def generates(path: Path, timeout_s: float = 30) -> bool:
    """Whether the replica behind a socket generates tokens now; it proves it to itself, see `stack.generating`.

    Args:
        path: The replica's socket.
        timeout_s: Seconds to wait for the proof.
    """
    connection = UnixConnection(path, timeout_s)
    try:
        connection.request("GET", PATH)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()

"""vLLM: asks a replica for a token over its socket. Readiness is a generated token; `/health` alone proves nothing."""

from __future__ import annotations

import http.client
import json
from pathlib import Path

from kivactl.tools.supervisor import UnixConnection


def generates(path: Path, model: str, timeout_s: float = 30) -> bool:
    """Whether the replica behind a socket generates a token now.

    Args:
        path: The replica's socket.
        model: The name it serves.
        timeout_s: Seconds to wait for the token.
    """
    body = json.dumps({"model": model, "prompt": "Hello", "max_tokens": 1, "temperature": 0})
    connection = UnixConnection(path, timeout_s)
    try:
        connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status == 200 and json.loads(answer.read())["usage"]["completion_tokens"] >= 1
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return False
    finally:
        connection.close()

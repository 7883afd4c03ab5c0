"""A client of a platform in another network: a request through its gateway, over TLS."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

_ASK = """
import http.client, json, ssl, sys
address, port, ca, token, body = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
connection = http.client.HTTPSConnection(address, int(port), context=context, timeout=60)
connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json", **({"Authorization": "Bearer " + token} if token else {})})
version = connection.sock.version()
answer = connection.getresponse()
print(json.dumps({"status": answer.status, "tls": version, "body": answer.read().decode()}))
"""


def ask(namespace: str, address: str, port: int, authority: Path, model: str, token: str) -> dict[str, Any]:
    """What a platform answers to a question.

    Args:
        namespace: The client's network namespace.
        address: The gateway's.
        port: The gateway's.
        authority: Certificate that vouches for it.
        model: The model asked for.
        token: None is shown when empty.

    Returns:
        `status` (0 when there was no answer), `tls`, `body`.
    """
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "What is the capital of Germany?"}], "max_tokens": 8})
    words = ["ip", "netns", "exec", namespace, sys.executable, "-c", _ASK, address, str(port), str(authority), token, body]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=100)
    return json.loads(done.stdout) if done.returncode == 0 else {"status": 0, "body": done.stderr}

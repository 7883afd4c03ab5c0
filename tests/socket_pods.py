"""A cluster whose pods are reached by WebSocket, as a kubelet answers for them."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scripted_api import Waits
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Response
from websockets.sync.server import serve

from kivactl.tools.kube import Cluster, open_cluster


@contextlib.contextmanager
def reached(
    folder: Path, protocol: str, act: Callable[[Any], None], refusal: tuple[int, dict[str, Any]] | None = None
) -> Iterator[tuple[Cluster, list[tuple[str, str | None]]]]:
    """The cluster, and the paths that were asked for with the credentials that came along.

    Args:
        folder: For the kubeconfig.
        protocol: That the kubelet speaks.
        act: What a pod does with a connection.
        refusal: Status and body with which every connection is refused.
    """
    asked: list[tuple[str, str | None]] = []

    def refuse(_connection, request):
        asked.append((request.path, request.headers.get("authorization")))
        if refusal is None:
            return None
        code, body = refusal
        content = json.dumps(body).encode()
        return Response(code, "No", Headers([("content-length", str(len(content)))]), content)

    def handle(connection):
        with contextlib.suppress(ConnectionClosed):
            act(connection)

    with serve(handle, "127.0.0.1", 0, subprotocols=[protocol], process_request=refuse) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        config = {
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.socket.getsockname()[1]}"}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "prod", "context": {"cluster": "c", "user": "u"}}],
        }
        (folder / "config").write_text(json.dumps(config))
        try:
            yield open_cluster("prod", "kiva", folder / "config", clock=Waits().clock), asked
        finally:
            server.shutdown()
            thread.join()

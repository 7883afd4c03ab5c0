"""A port of a pod on this machine's loopback, by the WebSocket client of the package: for a gateway that nothing outside the cluster leads to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from kivactl.errors import KivaError, ToolError
from kivactl.tools.kube_access import Access
from kivactl.tools.kube_connections import configuration_for
from kivactl.tools.kube_errors import Missing, Unreachable
from kivactl.tools.kube_exec import trusted
from kivactl.tools.kube_failure import Question, fault_for, refusal_for

_PIECE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Way:
    """Where a pod's ports are.

    Attributes:
        question: For the sentence when it fails.
        path: Of the pod's `portforward`.
    """

    question: Question
    path: str


class Forward:
    """Listens until it is closed or the process ends; each connection has one of its own to a pod: the first of some that takes it.

    Attributes:
        port: TCP port on 127.0.0.1.
    """

    def __init__(self, access: Access, pods: Callable[[], Sequence[Way]], pod_port: int) -> None:
        """Begin to listen; the cluster is asked once, so that a missing permission is told here and not to a client.

        Args:
            access: Where and as whom.
            pods: Gives the ways to the pods that may take a connection, the first to be tried first; at least one.
            pod_port: Theirs.

        Raises:
            KivaError: The cluster refuses, or does not answer.
        """
        self._access, self._pods, self._pod_port = access, pods, pod_port
        self._connected().close()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._serve, name="kivactl-forward", daemon=True).start()

    def close(self) -> None:
        """Take no more connections; those that are there go on."""
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for the next one
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._pass_on, args=(client,), name="kivactl-forwarded", daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        """A client whose connection cannot be had sees it closed, as when the gateway itself were away."""
        with client:
            try:
                forward = self._connected()
            except KivaError:
                return
            pod = forward.socket(self._pod_port)
            back = threading.Thread(target=_copy, args=(pod, client), name="kivactl-forwarded", daemon=True)
            back.start()
            _copy(client, pod)
            with suppress(OSError):
                pod.close()
            back.join()

    def _connected(self) -> Any:
        """A connection to the first pod that takes it; a pod that is gone meanwhile is passed over."""
        *firsts, last = self._pods()
        for way in firsts:
            with suppress(Missing, ToolError, Unreachable):
                return _connected(self._access, way, self._pod_port)
        return _connected(self._access, last, self._pod_port)


def _copy(source: Any, sink: Any) -> None:
    """Until one side is closed; then the other one is told."""
    with suppress(OSError):
        while piece := source.recv(_PIECE_BYTES):
            sink.sendall(piece)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def _connected(access: Access, way: Way, pod_port: int) -> Any:
    from kubernetes.stream.ws_client import PortForward, create_websocket, get_websocket_url
    from websocket import WebSocketBadStatusException, WebSocketException

    configuration = configuration_for(access)
    headers = {"sec-websocket-protocol": "v4.channel.k8s.io", **{key.lower(): value for key, value in access.credentials.headers().items()}}
    try:
        with trusted(access, configuration):
            opened = create_websocket(configuration, get_websocket_url(f"{access.server}{way.path}?ports={pod_port}"), headers)
    except WebSocketBadStatusException as error:
        raise refusal_for(way.question, error.status_code, error.resp_body or b"") from None
    except (WebSocketException, OSError) as error:
        raise fault_for(way.question, error) from None
    return PortForward(opened, [pod_port])

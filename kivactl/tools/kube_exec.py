"""Runs a program in a container, by the WebSocket client of the package."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any
from urllib.parse import urlencode

from kivactl.errors import KivaError, ToolError
from kivactl.tools.clock import Clock
from kivactl.tools.kube_access import Access
from kivactl.tools.kube_connections import certificate_files, configuration_for
from kivactl.tools.kube_errors import Missing
from kivactl.tools.kube_failure import Question, fault_for, refusal_for, told
from kivactl.tools.kube_objects import Json, Ran

_STDOUT, _STDERR, _ERROR = 1, 2, 3
"""Channels: https://kubernetes.io/docs/reference/using-api/ (remotecommand, `v5.channel.k8s.io`)."""
_STDIN = 0


def run_in(access: Access, question: Question, path: str, container: str, argv: Sequence[str], *, stdin: str, timeout_s: float, clock: Clock) -> Ran:
    """See `Cluster.run_in`.

    Args:
        access: Where and as whom.
        question: For the sentence when it fails.
        path: Of the pod's `exec`.
        container: Name of the container.
        argv: Program and arguments.
        stdin: Text for its standard input.
        timeout_s: Seconds it may take.
        clock: For the seconds.
    """
    flags = [("container", container), ("stdin", "true" if stdin else "false"), ("stdout", "true"), ("stderr", "true"), ("tty", "false")]
    target = f"{path}?{urlencode([('command', word) for word in argv] + flags)}"
    parts: dict[int, bytes] = {_STDOUT: b"", _STDERR: b"", _ERROR: b""}
    start_s = clock.now_s()
    with _connected(access, question, target) as socket:
        if stdin:
            socket.write_channel(_STDIN, stdin.encode())
            socket.close_channel(_STDIN)
        while socket.is_open():
            left_s = timeout_s - (clock.now_s() - start_s)
            if left_s <= 0:
                raise ToolError(f"'{argv[0]}' in {question.subject} did not end within {timeout_s:g} s")
            socket.update(timeout=min(left_s, 1.0))
            for channel in parts:
                parts[channel] += socket.read_channel(channel)
    return Ran(_code(question, argv[0], parts[_ERROR]), *(parts[channel].decode(errors="replace") for channel in (_STDOUT, _STDERR)))


def _code(question: Question, program: str, said: bytes) -> int:
    """The exit code in the Status at the end."""
    try:
        status: Json = json.loads(said)
    except ValueError:
        raise ToolError(f"the connection to '{program}' in {question.subject} broke off") from None
    if status.get("status") == "Success":
        return 0
    for cause in (status.get("details") or {}).get("causes") or []:
        if cause.get("reason") == "ExitCode" and str(cause.get("message")).isdigit():
            return int(cause["message"])
    message = str(status.get("message") or "")
    if "executable file not found" in message or "no such file or directory" in message:
        raise Missing(f"there is no program '{program}' in {question.subject}")
    raise ToolError(f"'{program}' could not be run in {question.subject}: {told(message)}")


@contextmanager
def _connected(access: Access, question: Question, target: str) -> Iterator[Any]:
    from kubernetes.stream.ws_client import WSClient, get_websocket_url
    from websocket import WebSocketBadStatusException, WebSocketException

    configuration = configuration_for(access)
    headers = {key.lower(): value for key, value in access.credentials.headers().items()}
    try:
        with trusted(access, configuration):
            socket = WSClient(configuration, get_websocket_url(access.server + target), headers, capture_all=False, binary=True)
    except WebSocketBadStatusException as error:
        raise refusal_for(question, error.status_code, error.resp_body or b"") from None
    except (WebSocketException, OSError) as error:
        raise fault_for(question, error) from None
    try:
        yield socket
    except (WebSocketException, OSError) as error:
        raise _broken(question, error) from None
    finally:
        socket.sock.shutdown()  # its `close` leaves the connection open once the server has said goodbye


@contextmanager
def trusted(access: Access, configuration: Any) -> Iterator[None]:
    """The files that the WebSocket client reads while it connects."""
    with certificate_files(access) as files, NamedTemporaryFile(prefix="kivactl-", suffix=".pem") as authority:
        Path(authority.name).write_text(access.authority)
        configuration.ssl_ca_cert = authority.name if access.authority else None
        if files is not None:
            configuration.cert_file, configuration.key_file = map(str, files)
        yield


def _broken(question: Question, error: Exception) -> KivaError:
    return ToolError(f"the connection to {question.subject} broke off: {told(str(error)) or type(error).__name__}")

"""Where requests go: an address that was looked up once, and requests as they go over the wire."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Server:
    """Where requests go.

    Attributes:
        host: Name or address.
        port: TCP port.
        addresses: What the name stands for, as `(family, socket address)`; the first that takes a connection is used.
        context: Of TLS; None without.
    """

    host: str
    port: int
    addresses: tuple[tuple[int, Any], ...]
    context: ssl.SSLContext | None

    @property
    def authority(self) -> str:
        """For the `Host` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def open_server(url: str, ca: str | None) -> Server:
    """Look a server up.

    Args:
        url: Base URL of the API.
        ca: PEM file with the authority to trust; None for the system's.

    Raises:
        OSError: Its name stands for nothing, or the file cannot be read.
    """
    parts = urlsplit(url)
    is_tls = parts.scheme == "https"
    host, port = parts.hostname or "", parts.port or (443 if is_tls else 80)
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = tuple((int(family), address) for family, _, _, _, address in found)
    return Server(host, port, addresses, ssl.create_default_context(cafile=ca) if is_tls else None)


def request_for(server: Server, path: str, token: str, body: bytes, *, is_streamed: bool = True) -> bytes:
    """A request as it goes over the wire.

    Args:
        server: Where it goes.
        path: Of the URL.
        token: Bearer token.
        body: JSON.
        is_streamed: Whether events are wanted.
    """
    accept = "text/event-stream" if is_streamed else "application/json"
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {server.authority}\r\nContent-Type: application/json\r\nAccept: {accept}\r\n"
        f"Authorization: Bearer {token}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("latin-1") + body

"""TLS from the outside: which certificate a server shows."""

from __future__ import annotations

import hashlib
import socket
import ssl


def shown_fingerprint(address: str, port: int, timeout_s: float = 2) -> str | None:
    """SHA-256 of the certificate that a server shows a new client, 64 hexadecimal characters; None when it shows none.

    Args:
        address: IP address.
        port: TCP port.
        timeout_s: Seconds that connecting and each answer may take.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # it is looked at, not trusted: nothing is sent
    try:
        with socket.create_connection((address, port), timeout=timeout_s) as plain, context.wrap_socket(plain) as connection:
            certificate = connection.getpeercert(binary_form=True)
    except (OSError, ssl.SSLError):
        return None
    return None if certificate is None else hashlib.sha256(certificate).hexdigest()

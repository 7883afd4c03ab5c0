"""A renewal under load: new connections never fail, old ones stay, and the gateway never meets a key beside a strange certificate."""

from __future__ import annotations

import http.client
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kivactl.flows.certs import apply_certificate, shown
from kivactl.flows.deployment import Deployment
from kivactl.plan import Status
from kivactl.spec.load import Loaded
from kivactl.stack.certificates import authority_for, new_key
from kivactl.tools.tls import shown_fingerprint

pytestmark = pytest.mark.real

RENEWALS = 15


@pytest.fixture
def serving(start_gateway, certificate) -> Iterator[tuple]:
    """A gateway, its deployment, and a client's trust in its first certificate and in its authority."""
    gateway = start_gateway()
    layout = gateway.layout
    key = new_key()
    layout.ca_key.write_bytes(key)
    layout.ca_certificate.write_bytes(authority_for(key, platform=gateway.platform.name, now=datetime.now(UTC)))
    loaded = Loaded(gateway.platform, (), Path(layout.state.parent), "digest")
    trust = ssl.create_default_context(cafile=str(certificate[0]))
    trust.load_verify_locations(cafile=str(layout.ca_certificate))
    yield gateway, Deployment(loaded, layout, lambda: loaded), trust
    gateway.stop()


def _ask(connection: http.client.HTTPSConnection, token: str) -> int:
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    connection.request("POST", "/v1/chat/completions", b'{"model": "m", "messages": []}', headers)
    answer = connection.getresponse()
    answer.read()
    return answer.status


def _connect(port: int, trust: ssl.SSLContext) -> http.client.HTTPSConnection:
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=60, context=trust)
    connection.connect()
    return connection


class Client(threading.Thread):
    """Asks until told to stop, on one connection or on a new one each time."""

    def __init__(self, port: int, trust: ssl.SSLContext, token: str, *, lasting: bool) -> None:
        super().__init__()
        self.port, self.trust, self.token, self.lasting = port, trust, token, lasting
        self.done, self.asked, self.failures = threading.Event(), 0, []
        self.kept = _connect(port, trust)
        self.start()

    def run(self) -> None:
        while not self.done.is_set():
            try:
                if self.lasting:
                    if self.kept.sock is None:  # the library would connect again by itself
                        self.failures.append("the connection was closed")
                        return
                    status = _ask(self.kept, self.token)
                else:
                    connection = _connect(self.port, self.trust)
                    status = _ask(connection, self.token)
                    connection.close()
                if status != 200:
                    self.failures.append(f"status {status}")
                self.asked += 1
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))

    def end(self) -> None:
        self.done.set()
        self.join()
        self.kept.close()


def test_renewals_under_load_fail_nothing(serving):
    gateway, deployment, trust = serving
    token = gateway.token()
    clients = [Client(gateway.port, trust, token, lasting=number < 2) for number in range(4)]
    fingerprints = [shown_fingerprint("127.0.0.1", gateway.port)]
    try:
        for _ in range(RENEWALS):
            outcomes = list(apply_certificate(deployment))
            assert outcomes[-1].status is Status.DONE
            assert outcomes[-1].data["served"] is True
            fingerprints.append(shown_fingerprint("127.0.0.1", gateway.port))
            assert fingerprints[-1] == outcomes[-1].data["fingerprint"]
        gateway.until(lambda: all(client.asked > RENEWALS or not client.is_alive() for client in clients))
    finally:
        for client in clients:
            client.end()
    assert [client.failures for client in clients] == [[]] * 4
    assert all(client.asked > RENEWALS for client in clients), [client.asked for client in clients]
    assert len(set(fingerprints)) == RENEWALS + 1
    sds, listener = gateway.admin.counters("sds.gateway."), gateway.admin.counters(f"listener.127.0.0.1_{gateway.port}.")
    assert (sds["sds.gateway.key_rotation_failed"], sds["sds.gateway.update_rejected"]) == (0, 0)
    assert listener[f"listener.127.0.0.1_{gateway.port}.ssl.connection_error"] == 0
    assert listener[f"listener.127.0.0.1_{gateway.port}.server_ssl_socket_factory.ssl_context_update_by_sds"] == RENEWALS + 1
    (of_gateway,) = [entry for entry in shown(deployment) if entry.role == "gateway"]
    assert (of_gateway.good, of_gateway.served) == (True, True)
    assert len(list((gateway.layout.tls / "pairs").iterdir())) == 2


def test_what_the_gateway_does_not_show_is_told(serving):
    gateway, deployment, _ = serving
    list(apply_certificate(deployment))
    for name in ("gateway.pem", "gateway.key"):  # written in place: nothing is renamed, so the gateway keeps what it has
        (gateway.layout.tls / "pairs/2" / name).write_bytes((gateway.layout.tls / "pairs/1" / name).read_bytes())
    (of_gateway,) = [entry for entry in shown(deployment) if entry.role == "gateway"]
    assert (of_gateway.fault, of_gateway.served) == ("", False)

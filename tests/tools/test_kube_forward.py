"""A pod's port on the loopback, against a server that speaks the WebSocket protocol of the kubelet."""

from __future__ import annotations

import socket
import struct
import threading

import pytest
from socket_pods import reached

from kivactl.tools.kube_errors import Denied

DATA, ERROR = b"\x00", b"\x01"


@pytest.fixture
def pod(tmp_path):
    """A cluster with a pod that answers in capitals, and the paths that were asked for."""

    def act(connection):
        port = struct.pack("<H", 4000)
        connection.send(DATA + port)
        connection.send(ERROR + port)
        for frame in connection:
            assert frame[:1] == DATA
            connection.send(DATA + frame[1:].upper())

    def of(refusal=None):
        return reached(tmp_path, "v4.channel.k8s.io", act, refusal and (refusal["code"], refusal))

    return of


def ask(port, text):
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(text)
        answer = b""
        while len(answer) < len(text):
            piece = client.recv(65536)
            assert piece, answer[-20:]
            answer += piece
    return answer


def test_what_clients_send_reaches_the_pod_and_comes_back(pod):
    with pod() as (cluster, paths):
        forward = cluster.forward("kiva-gateway-0", 4000)
        assert ask(forward.port, b"hello") == b"HELLO"
        assert {path for path, _ in paths} == {"/api/v1/namespaces/kiva/pods/kiva-gateway-0/portforward?ports=4000"}


def test_several_clients_have_a_connection_each_and_large_answers_arrive_whole(pod):
    with pod() as (cluster, _):
        forward = cluster.forward("p", 4000)
        answers = {}
        texts = {n: bytes([97 + n]) * (300_000 + n) for n in range(4)}
        threads = [threading.Thread(target=lambda n=n: answers.update({n: ask(forward.port, texts[n])})) for n in texts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == {n: text.upper() for n, text in texts.items()}


def test_a_closed_forward_takes_nobody_else(pod):
    with pod() as (cluster, _):
        forward = cluster.forward("p", 4000)
        forward.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", forward.port), timeout=5)


def test_a_missing_permission_is_told_before_any_client_comes(pod):
    message = 'pods "p" is forbidden: User "u" cannot create resource "pods/portforward" in API group "" in the namespace "kiva"'
    refusal = {"kind": "Status", "status": "Failure", "reason": "Forbidden", "code": 403, "message": message, "details": {"name": "p", "kind": "pods"}}
    with pod(refusal) as (cluster, _), pytest.raises(Denied, match="pods/portforward"):
        cluster.forward("p", 4000)

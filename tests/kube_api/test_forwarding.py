"""A forwarded port of the tests' API, with the client that kivactl has."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

import pytest

from kivactl.errors import KivaError
from kivactl.tools.kube import open_cluster
from kivactl.tools.kube_errors import Denied, Missing


@pytest.fixture
def pod(api, kubelet):
    """A pod that runs."""
    api.add({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "x"}]}}, "kiva")
    kubelet.tick(3)


@pytest.fixture
def cluster(api, kubeconfig):
    return open_cluster("kiva-test", "kiva", kubeconfig)


@pytest.fixture
def loud(api):
    """What answers on the pod's port 80, in capitals."""
    server = socket.create_server(("127.0.0.1", 0))
    api.ports[80] = server.getsockname()

    def work():
        with suppress(OSError):
            while True:
                client, _ = server.accept()
                with client:
                    while piece := client.recv(65536):
                        client.sendall(piece.upper())

    threading.Thread(target=work, daemon=True).start()
    yield
    server.close()


def test_what_is_sent_comes_back_whole(pod, cluster, loud, api):
    forward = cluster.forward("p", 80)
    text = b"x" * 200_000
    with socket.create_connection(("127.0.0.1", forward.port), timeout=10) as client:
        threading.Thread(target=client.sendall, args=(text,), daemon=True).start()
        answer = b""
        while len(answer) < len(text):
            piece = client.recv(65536)
            assert piece
            answer += piece
    assert answer == text.upper()
    assert api.writes() == []


def test_a_port_that_nobody_listens_on_is_closed(pod, cluster):
    forward = cluster.forward("p", 81)
    with socket.create_connection(("127.0.0.1", forward.port), timeout=10) as client:
        assert client.recv(10) == b""


def test_a_pod_that_is_not_there_one_that_does_not_run_and_a_missing_permission_are_refused(api, cluster, kubelet):
    with pytest.raises(Missing, match="there is no Pod p in namespace kiva of cluster 'kiva-test'"):
        cluster.forward("p", 80)
    api.add({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "x"}]}}, "kiva")
    with pytest.raises(KivaError, match="pod is not running"):
        cluster.forward("p", 80)
    api.admission.forbid("create", "pods/portforward")
    with pytest.raises(Denied, match="pods/portforward"):
        cluster.forward("p", 80)

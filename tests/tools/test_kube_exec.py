"""A program that is run in a container, against a server that speaks the WebSocket protocol of the kubelet."""

from __future__ import annotations

import json

import pytest
from socket_pods import reached

from kivactl.errors import ToolError
from kivactl.tools.kube_errors import Denied, Missing
from kivactl.tools.kube_objects import Ran

SUCCESS = {"kind": "Status", "status": "Success", "metadata": {}}
FAILED = {"status": "Failure", "reason": "NonZeroExitCode", "message": "command terminated with exit code 3"}
FAILED["details"] = {"causes": [{"reason": "ExitCode", "message": "3"}]}
NO_PROGRAM = {
    "status": "Failure",
    "reason": "InternalError",
    "message": "Internal error occurred: error executing command in container: failed to exec in container: failed to start exec: OCI runtime exec failed: "
    'exec failed: unable to start container process: exec: "psql": executable file not found in $PATH: unknown',
}


@pytest.fixture
def pod(tmp_path):
    """A cluster whose pods do what a function says, and the paths that were asked for."""

    def of(act, refusal=None):
        return reached(tmp_path, "v5.channel.k8s.io", act, refusal)

    return of


def sends(*frames, status=SUCCESS):
    def act(connection):
        for channel, content in frames:
            connection.send(bytes([channel]) + content)
        connection.send(b"\x03" + json.dumps(status).encode())

    return act


def test_what_a_program_says_and_how_it_ends(pod):
    with pod(sends((1, b"one "), (2, b"bad "), (1, "zw\u00f6".encode()[:3]), (1, "zw\u00f6".encode()[3:]), (2, b"news\xff"))) as (cluster, paths):
        assert cluster.run_in("p", "meter", ["kivactl", "usage", "--month", "2026-03"]) == Ran(0, "one zw\u00f6", "bad news\ufffd")
    words = "command=kivactl&command=usage&command=--month&command=2026-03&container=meter&stdin=false&stdout=true&stderr=true&tty=false"
    assert paths == [(f"/api/v1/namespaces/kiva/pods/p/exec?{words}", "Bearer t")]


def test_more_than_a_frame_can_hold(pod):
    with pod(sends(*[(1, b"x" * 40_000)] * 50)) as (cluster, _):
        assert len(cluster.run_in("p", "c", ["cat"]).stdout) == 2_000_000


def test_an_exit_code(pod):
    with pod(sends((2, b"no\n"), status=FAILED)) as (cluster, _):
        assert cluster.run_in("p", "c", ["false"]) == Ran(3, "", "no\n")


def test_what_goes_in_ends(pod):
    def echo(connection):
        taken = b""
        while (frame := connection.recv())[:1] != b"\xff":
            assert frame[:1] == b"\0"
            taken += frame[1:]
        assert frame == b"\xff\0"
        connection.send(b"\x01" + taken.upper())
        connection.send(b"\x03" + json.dumps(SUCCESS).encode())

    with pod(echo) as (cluster, _):
        assert cluster.run_in("p", "c", ["cat"], stdin="gr\u00fc\u00dfe").stdout.startswith("GR")


@pytest.mark.parametrize(
    ("act", "kind", "message"),
    [
        (sends(status=NO_PROGRAM), Missing, "there is no program 'psql' in Pod p"),
        (sends(status={"status": "Failure", "message": "container is gone"}), ToolError, "'psql' could not be run in Pod p: container is gone"),
        (lambda _: None, ToolError, "the connection to 'psql' in Pod p broke off"),
        (lambda connection: connection.socket.close(), ToolError, "the connection to "),
    ],
)
def test_what_may_go_wrong(pod, act, kind, message):
    with pod(act) as (cluster, _), pytest.raises(kind) as caught:
        cluster.run_in("p", "c", ["psql"])
    assert message in caught.value.message


def test_a_refusal(pod):
    forbidden = 'pods "p" is forbidden: User "anna" cannot create resource "pods/exec" in API group "" in the namespace "kiva"'
    with pod(sends(), refusal=(403, {"kind": "Status", "message": forbidden})) as (cluster, _), pytest.raises(Denied) as caught:
        cluster.run_in("p", "c", ["true"])
    assert caught.value.message == "the account anna lacks the permission to create pods/exec in namespace kiva of cluster 'prod'"
    gone = {"kind": "Status", "message": 'pods "p" not found', "details": {"name": "p", "kind": "pods"}}
    with pod(sends(), refusal=(404, gone)) as (cluster, _), pytest.raises(Missing, match="there is no Pod p in namespace kiva"):
        cluster.run_in("p", "c", ["true"])


def test_a_program_that_does_not_end(pod):
    with pod(lambda connection: connection.recv()) as (cluster, _), pytest.raises(ToolError, match="'sleep' in Pod p did not end within 0 s"):
        cluster.run_in("p", "c", ["sleep"], timeout_s=0)

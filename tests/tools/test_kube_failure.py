"""What an API server says when it refuses, and the sentence that is made of it.

`recorded/kube/refusals.json` is put together by hand, not recorded: by the sources of Kubernetes 1.35 and by what users of Kyverno, Gatekeeper
and Pod Security have reported.
"""

from __future__ import annotations

import json
import socket
import ssl
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, ProtocolError, ReadTimeoutError, SSLError

from kivactl.errors import KivaError, PreconditionError, ToolError
from kivactl.tools import kube_errors
from kivactl.tools.kube_errors import Unreachable, Untrusted
from kivactl.tools.kube_failure import Question, fault_for, refusal_for, told
from kivactl.tools.kube_kinds import KINDS
from kivactl.tools.kube_objects import Owner

REFUSALS = json.loads((Path(__file__).parent / "recorded" / "kube" / "refusals.json").read_text())
SERVER = "https://10.0.0.1:6443"


def asked(verb="get", kind="Deployment", name="kiva-qwen", namespace="kiva", subresource=""):
    return Question("prod", SERVER, verb, KINDS[kind], name, namespace, subresource)


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case["name"])
def test_a_refusal_is_one_sentence(case):
    body = case["body"] if isinstance(case["body"], str) else json.dumps(case["body"])
    error = refusal_for(asked(**case["asked"]), case["code"], body.encode())
    assert type(error).__name__ == case["error"]
    assert error.message == case["message"]
    assert "\n" not in error.message
    if "hint" in case:
        assert error.hint == case["hint"]
    assert list(error.details) == case.get("details", [])
    for name, value in case.get("attributes", {}).items():
        assert getattr(error, name) == (tuple(Owner(*one) for one in value) if name == "owners" else value)
    assert "hunter2" not in f"{error.message} {error.hint} {error.details}"


def test_every_kind_of_refusal_has_a_case():
    classes = {
        name for name, one in vars(kube_errors).items() if isinstance(one, type) and issubclass(one, KivaError) and one.__module__ == kube_errors.__name__
    }
    assert classes - {case["error"] for case in REFUSALS} == {"Untrusted"}  # which is no answer, see below


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a  b\n\n c.", "a b c"),
        ("x" * 301, "x" * 299 + "…"),
        ("password: hunter2hunter2", "password: ***"),
        ('data[tls.key]: Invalid value: "MIIEvQIBADANBg": must be PEM', "data[tls.key]: Invalid value: ***: must be PEM"),
        ('Invalid value: "a \\"quoted\\" word": no', "Invalid value: ***: no"),
        ('Unsupported value: "x": supported values: "a", "b"', 'Unsupported value: ***: supported values: "a", "b"'),
        ("token eyJhbGciOi.eyJzdWIi.c2ln is old", "token *** is old"),
    ],
)
def test_what_is_shown_of_a_text(text, shown):
    assert told(text) == shown


@given(st.binary(max_size=200), st.integers(300, 599))
def test_whatever_an_answer_is_it_becomes_a_short_sentence(body, code):
    error = refusal_for(asked(), code, body)
    assert isinstance(error, PreconditionError | ToolError | Unreachable)
    assert 0 < len(error.message) < 600


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
    ),
    st.sampled_from([400, 401, 403, 404, 409, 410, 422, 429, 500]),
)
def test_a_status_with_anything_in_it_is_no_bug_of_ours(anything, code):
    for field in ("message", "reason", "details"):
        refusal_for(asked(), code, json.dumps({"kind": "Status", field: anything}).encode())
    refusal_for(asked(), code, json.dumps({"kind": "Status", "reason": "Conflict", "details": {"causes": [anything]}}).encode())


def verification():
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "unable to get local issuer certificate"
    return error


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (SSLError(verification()), Untrusted, "is not vouched for by the authority in the kubeconfig: unable to get local issuer certificate"),
        (NewConnectionError(None, "x"), Unreachable, "broke off the connection"),
        (ConnectionRefusedError(111, "Connection refused"), Unreachable, f"nothing answers at the API server of cluster 'prod' ({SERVER}): connection refused"),
        (
            socket.gaierror(-2, "Name or service not known"),
            Unreachable,
            f"the name of the API server of cluster 'prod' ({SERVER}) is not known: name or service",
        ),
        (ProtocolError("Connection aborted.", ConnectionResetError(104, "Connection reset by peer")), Unreachable, "broke off the connection"),
        (ProtocolError("Response ended prematurely"), Unreachable, "broke off the connection: Response ended prematurely"),
        (ConnectTimeoutError(None, "Connection to 10.0.0.1 timed out."), Unreachable, "does not answer in time"),
        (ReadTimeoutError(None, None, "Read timed out."), Unreachable, "does not answer in time"),
        (OSError(113, "No route to host"), Unreachable, "cannot be reached: no route to host"),
        (SSLError(ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number")), Unreachable, "does not speak TLS as expected"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_no_answer_is_one_sentence(error, kind, said):
    found = fault_for(asked(), error)
    assert type(found) is kind
    assert said in found.message
    assert found.hint

"""Requests to an API server that fails now and then: which are tried again, for how long, and what is said in the end."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_api import Reply, Reset, Stream, Waits, in_turn, scripted, status

from kivactl.errors import KivaError, ToolError
from kivactl.tools.kube_access import Access, Credentials
from kivactl.tools.kube_calls import FAILING_S, FIRST_S, GONE_S, Calls, Cut, Request, Trouble, parse_retry_after, pause_s
from kivactl.tools.kube_errors import AlreadyThere, Denied, Missing, Unauthenticated, Unreachable
from kivactl.tools.kube_failure import Question
from kivactl.tools.kube_kinds import KINDS

GET = Request("GET", "/api/v1/namespaces/kiva/pods/p")
OK = Reply(200, {"kind": "Pod"})
NOWHERE = "http://127.0.0.1:9"


def access(server, tmp_path, **user):
    credentials = Credentials(user, tmp_path / "config", {"server": server}, "prod")
    credentials.renew()
    return Access("prod", server, "", True, "", "", credentials)


def question(verb="get"):
    return Question("prod", "http://k8s", verb, KINDS["Pod"], "p", "kiva")


@pytest.fixture
def waits():
    return Waits()


@pytest.fixture
def asking(tmp_path, waits):
    """Asks a server with a script; gives what came of it, and what the server was asked."""

    def ask(*replies, request=GET, verb="get", before=None, **user):
        with scripted(in_turn(*replies)) as api:
            calls = Calls(access(api.url, tmp_path, **user), waits.clock)
            if before is not None:
                calls.ask(question(), before)
            try:
                return calls.ask(question(verb), request), api.requests
            except KivaError as error:
                return error, api.requests

    return ask


@pytest.mark.parametrize(
    ("code", "retry_after_s", "attempt", "spent_s", "answered", "waited_s"),
    [
        (0, None, 1, 0, False, 0.2),
        (0, None, 4, 3.0, False, 1.6),
        (0, None, 5, FIRST_S - 1, False, None),
        (0, None, 5, FIRST_S - 1, True, 3.2),
        (0, None, 9, 50, True, 5.0),
        (0, None, 9, GONE_S - 1, True, None),
        (429, None, 1, 0, True, 0.2),
        (429, 7, 1, 0, True, 7),
        (429, 7, 1, 0, False, 7),
        (429, GONE_S + 1, 1, 0, True, None),
        (500, None, 1, 0, True, 0.2),
        (500, None, 8, FAILING_S, True, None),
        (502, None, 2, 0, True, 0.4),
        (503, 1, 1, GONE_S - 2, True, 1),
        (504, None, 3, 0, True, 0.8),
        *((code, 1, 1, 0, True, None) for code in (301, 400, 401, 403, 404, 405, 409, 410, 413, 415, 422)),
    ],
)
def test_what_is_tried_again(code, retry_after_s, attempt, spent_s, answered, waited_s):
    assert pause_s(Trouble(code, retry_after_s), attempt, spent_s, answered=answered) == waited_s


@given(st.sampled_from([0, 429, 500, 503]), st.none() | st.floats(0, 1000), st.booleans(), st.floats(1, 100))
def test_patience_always_ends(code, retry_after_s, answered, longest_s):
    spent_s, attempt = 0.0, 1
    while (wait_s := pause_s(Trouble(code, retry_after_s), attempt, spent_s, answered=answered, longest_s=longest_s)) is not None:
        assert wait_s > 0
        spent_s, attempt = spent_s + wait_s, attempt + 1
    assert spent_s <= min(GONE_S, longest_s)
    assert attempt < 40


@pytest.mark.parametrize(("text", "seconds"), [(None, None), ("", None), ("3", 3), (" 3 ", 3), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("-1", None)])
def test_how_long_a_server_asks_to_wait(text, seconds):
    assert parse_retry_after(text) == seconds


@pytest.mark.parametrize(
    "trouble", [Reset(), status(503), status(504), status(500), status(502), status(429), Reply(502, "<html>"), Stream([b'{"ki'], cut=True)]
)
def test_trouble_that_passes_is_not_seen(asking, waits, trouble):
    answer, requests = asking(trouble, trouble, OK)
    assert answer.content == {"kind": "Pod"}
    assert len(requests) == 3
    assert waits.waits == [0.2, 0.4]


def test_a_server_that_asks_to_wait_is_left_alone_for_so_long(asking, waits):
    answer, _ = asking(Reply(429, {}, [("retry-after", "4")]), OK)
    assert answer.content == {"kind": "Pod"}
    assert waits.waits == [4]


def test_a_server_that_stays_away_is_told_once(asking, waits):
    error, requests = asking(OK, Reset(), before=GET)
    assert isinstance(error, Unreachable)
    assert "broke off the connection" in error.message
    assert sum(waits.waits) <= GONE_S
    assert len(requests) > 10


def test_a_server_that_was_never_there_is_given_up_soon(tmp_path, waits):
    calls = Calls(access(NOWHERE, tmp_path), waits.clock)
    with pytest.raises(Unreachable, match=r"nothing answers at the API server of cluster 'prod' .*: connection refused"):
        calls.ask(question(), GET)
    assert sum(waits.waits) <= FIRST_S


def test_an_impatient_one_gives_up_sooner(tmp_path, waits):
    with scripted(in_turn(OK, status(503))) as api:
        calls = Calls(access(api.url, tmp_path), waits.clock)
        calls.ask(question(), GET)
        with pytest.raises(Unreachable):
            calls.impatient(2).ask(question(), GET)
        assert 0 < sum(waits.waits) <= 2


@pytest.mark.parametrize(
    ("reply", "kind"),
    [(status(403, "Forbidden", 'User "a" cannot get resource "pods"'), Denied), (status(404, "NotFound", name="p"), Missing), (status(401), Unauthenticated)],
)
def test_a_refusal_is_told_at_once(asking, waits, reply, kind):
    error, requests = asking(reply)
    assert type(error) is kind
    assert len(requests) == 1
    assert not waits.waits


def test_a_write_whose_answer_is_lost_is_sent_again_as_it_was(asking):
    request = Request("PATCH", "/apis/apps/v1/x", {"fieldManager": "kivactl", "force": ""}, {"spec": {"password": "hush"}}, "application/apply-patch+yaml")
    answer, requests = asking(Reset(), OK, request=request)
    assert answer.content == {"kind": "Pod"}
    assert requests[0] == requests[1]
    assert requests[0].body == {"spec": {"password": "hush"}}
    assert requests[0].query == {"fieldManager": "kivactl"}
    assert requests[0].headers["content-type"] == "application/apply-patch+yaml"


@pytest.mark.parametrize(
    ("lost", "perhaps"),
    [(Reset(), True), (status(504), True), (status(500, message="etcdserver: request timed out"), True), (status(429), False), (status(503), False)],
)
def test_what_an_earlier_try_may_have_done_is_marked(asking, lost, perhaps):
    error, _ = asking(lost, status(409, "AlreadyExists"), request=Request("POST", "/x", body={}), verb="create")
    assert isinstance(error, AlreadyThere)
    assert error.perhaps_ours is perhaps
    error, _ = asking(lost, status(404, name="p"), request=Request("DELETE", "/x"), verb="delete")
    assert isinstance(error, Missing)
    assert error.perhaps_ours is perhaps


def test_a_token_that_was_renewed_in_its_file_is_used_once_the_old_one_is_refused(tmp_path, waits):
    (tmp_path / "token").write_text("old\n")

    def script(asked):
        return OK if asked.headers["authorization"] == "Bearer new" else status(401, "Unauthorized")

    with scripted(script) as api:
        calls = Calls(access(api.url, tmp_path, tokenFile="token"), waits.clock)
        with pytest.raises(Unauthenticated):
            calls.ask(question(), GET)
        assert len(api.requests) == 2
        (tmp_path / "token").write_text("new\n")
        assert calls.ask(question(), GET).content == {"kind": "Pod"}
        assert len(api.requests) == 4


def test_warnings_come_with_the_answer(asking):
    header = 'would violate PodSecurity \\"restricted:latest\\": seccompProfile (pod or container \\"engine\\" must set it)'
    answer, _ = asking(Reply(200, {}, [("warning", f'299 - "{header}"'), ("warning", '299 - "autoscaling/v2beta2 is deprecated"')]))
    assert len(answer.warnings) == 2
    assert answer.warnings[0].startswith("would violate PodSecurity")
    assert answer.warnings[1] == "autoscaling/v2beta2 is deprecated"


@pytest.mark.parametrize("body", ["", "<html>", "[1]", "3"])
def test_an_answer_that_is_none(asking, body):
    error, _ = asking(Reply(200, body))
    assert isinstance(error, ToolError)
    assert "does not answer as an API server does" in error.message


def lines(tmp_path, waits, *replies):
    with scripted(in_turn(*replies)) as api:
        calls = Calls(access(api.url, tmp_path), waits.clock)
        with calls.lines(question("watch"), GET) as found:
            yield from found


@given(st.lists(st.binary(max_size=20).map(lambda line: line.replace(b"\n", b"")), max_size=6), st.lists(st.integers(1, 9), min_size=1))
def test_lines_are_whole_however_they_come(tmp_path_factory, texts, sizes):
    whole, pieces = b"".join(text + b"\n" for text in texts), []
    while whole:
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(whole[:size])
        whole = whole[size:]
    assert list(lines(tmp_path_factory.getbasetemp(), Waits(), Stream(pieces))) == texts


def test_a_stream_that_breaks_off_says_so(tmp_path, waits):
    found = lines(tmp_path, waits, Reset(), Stream([b"a\n", b"b"], cut=True))
    assert next(found) == b"a"
    with pytest.raises(Cut):
        next(found)


def test_a_stream_of_a_server_without_chunks(tmp_path, waits):
    assert list(lines(tmp_path, waits, Reply(200, "a\nb\nc"))) == [b"a", b"b", b"c"]


def test_a_reader_that_has_seen_enough_is_in_nobodys_way(tmp_path, waits):
    over = threading.Event()
    with scripted(in_turn(Stream([b"a\n"], until=over), OK)) as api:
        calls = Calls(access(api.url, tmp_path), waits.clock)
        with calls.lines(question("watch"), GET) as found:
            assert next(found) == b"a"
        assert calls.impatient(5).ask(question(), GET).content == {"kind": "Pod"}
        assert not waits.waits
        over.set()


def test_nothing_is_sent_where_an_answer_points_to(asking):
    with scripted(in_turn(OK)) as other:
        error, requests = asking(Reply(307, "", [("location", f"{other.url}/x")]), request=Request("POST", "/x", body={"data": {"key": "hush"}}), verb="create")
        assert isinstance(error, ToolError)
        assert len(requests) == 1
        assert not other.requests

"""Hostile clients that want the gateway and the engine to disagree on where a request ends: whatever the engine gets, the gateway has checked as a request."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest

pytestmark = pytest.mark.real

BODY = b'{"model": "m", "messages": []}'
SMUGGLED = b"POST /v1/smuggled HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nx-smuggled: yes\r\ncontent-length: 30\r\n\r\n" + BODY
LENGTH = f"content-length: {len(BODY)}"


def chunked(body, *, ending=b"0\r\n\r\n"):
    return b"%x\r\n%s\r\n%s" % (len(body), body, ending)


def attack(gateway, lines, body, suffix=SMUGGLED, case="single"):
    """Send a request with these header lines as they are, then what is to be smuggled; all answers until the gateway closes the connection or waits."""
    token = gateway.token()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\nx-case: {quote(case)}\r\ncontent-type: application/json\r\n"
    )
    with gateway.connect(timeout_s=5) as connection:
        connection.send((head + "".join(f"{line}\r\n" for line in lines) + "\r\n").encode("latin-1") + body + suffix)
        answers = []
        while suffix or not answers:
            answer = connection.answer()
            if answer is None:
                break
            answers.append(answer)
    return answers


def nothing_smuggled(gateway):
    """What the engine has as requests are requests that the gateway routed there; the smuggled one is none of them."""
    for entry in gateway.received:
        assert entry["path"] == "/v1/chat/completions", entry
        assert "x-smuggled" not in dict(entry["headers"])
        assert json.loads(entry["body"])["model"] == "m"


@pytest.fixture(scope="module")
def attacked(gateway):
    """All attacks at once, for the gateway takes a second to close a connection: by name, the answers and what the engine got."""
    heads = {
        name: (lines, chunked(BODY) if "chunked" in " ".join(lines) and LENGTH not in lines else BODY) for name, lines in {**REFUSED, **MADE_PLAIN}.items()
    }
    bodies = {name: (["transfer-encoding: chunked"], body) for name, body in CHUNKS.items()}
    with ThreadPoolExecutor(32) as pool:
        runs = {name: pool.submit(attack, gateway, *what, case=name) for name, what in {**heads, **bodies}.items()}
    return {name: (run.result(), [entry for entry in gateway.received if dict(entry["headers"]).get("x-case") == quote(name)]) for name, run in runs.items()}


REFUSED = {
    "length and chunked": [LENGTH, "transfer-encoding: chunked"],
    "chunked and length 0": ["content-length: 0", "transfer-encoding: chunked"],
    "two lengths": [LENGTH, "content-length: 0"],
    "two lengths in one": [f"content-length: {len(BODY)}, 0"],
    "equal lengths in one": [f"content-length: {len(BODY)}, {len(BODY)}"],
    "negative length": ["content-length: -1"],
    "length with a plus": [f"content-length: +{len(BODY)}"],
    "hexadecimal length": ["content-length: 0x1e"],
    "length as a float": ["content-length: 30.0"],
    "length in two words": ["content-length: 3 0"],
    "length too big for a number": ["content-length: 18446744073709551646"],
    "length of nothing": ["content-length:"],
    "chunked misspelt": ["transfer-encoding: xchunked"],
    "chunked in quotes": ['transfer-encoding: "chunked"'],
    "chunked not last": ["transfer-encoding: chunked, identity"],
    "chunked twice": ["transfer-encoding: chunked", "transfer-encoding: chunked"],
    "chunked after identity": ["transfer-encoding: identity", "transfer-encoding: chunked"],
    "chunked with gzip": ["transfer-encoding: gzip, chunked"],
    "identity": ["transfer-encoding: identity", LENGTH],
    "vertical tab before chunked": ["transfer-encoding: \x0bchunked"],
    "form feed after chunked": ["transfer-encoding: chunked\x0c"],
    "space before the colon": ["transfer-encoding : chunked"],
    "space before the colon of the length": [f"content-length : {len(BODY)}"],
    "tab before the colon": ["transfer-encoding\t: chunked"],
    "space before the name": [" transfer-encoding: chunked"],
    "NUL in a value": ["x-nul: a\x00b", LENGTH],
    "NUL in a name": ["x-n\x00ul: a", LENGTH],
    "no name": [": value", LENGTH],
    "no colon": ["transfer-encoding chunked", LENGTH],
    "brackets in a name": ["x[y]: a", LENGTH],
    "not ASCII in a name": ["x-\xe4: a", LENGTH],
    "underscore": ["transfer_encoding: chunked", LENGTH],
    "underscore in the tenant's header": ["x_kiva_tenant: tax", LENGTH],
    "two hosts": ["host: other", LENGTH],
}


NOT_IMPLEMENTED = {"chunked misspelt", "chunked in quotes", "chunked not last", "chunked twice", "chunked after identity", "chunked with gzip"}
"""Transfer codings that the gateway does not have: RFC 9112 wants 501."""


@pytest.mark.parametrize("name", REFUSED)
def test_an_ambiguous_head_is_refused_and_the_connection_closed(attacked, name):
    (first, *others), received = attacked[name]
    # What cannot be read as a request gets no id; a header line that begins with a space only continues the one before.
    first.refuses(501 if name in NOT_IMPLEMENTED else 400, identified=name in {"space before the name", "two hosts"})
    assert others == [], "the connection has to end: what comes next on it is the attacker's choice"
    assert received == []


MADE_PLAIN = {
    "folded": (["x-folded: a", " b", LENGTH]),
    "folded transfer-encoding": ["transfer-encoding:", " chunked"],
    "carriage return in a value": ["x-cr: a\rtransfer-encoding: chunked", LENGTH],
}


@pytest.mark.parametrize("name", MADE_PLAIN)
def test_what_the_gateway_takes_though_it_is_odd_reaches_the_engine_plain(attacked, name):
    (first, second), (request,) = attacked[name]
    assert first.status == 200
    second.refuses(401)
    headers = dict(request["headers"])
    assert ("content-length" in headers) != ("transfer-encoding" in headers)
    assert not {"\r", "\n", "\0"} & set("".join(headers.values()))
    assert json.loads(request["body"]) == json.loads(BODY)


CHUNKS = {
    "no number": b"Z\r\n" + BODY + b"\r\n0\r\n\r\n",
    "negative": b"-1\r\n" + BODY + b"\r\n0\r\n\r\n",
    "with 0x": b"0x1e\r\n" + BODY + b"\r\n0\r\n\r\n",
    "space first": b" 1e\r\n" + BODY + b"\r\n0\r\n\r\n",
    "too big for a number": b"1000000000000001e\r\n" + BODY + b"\r\n0\r\n\r\n",
    "empty size": b"\r\n" + BODY + b"\r\n0\r\n\r\n",
    "data longer than its size": b"1d\r\n" + BODY + b"\r\n0\r\n\r\n",
    "data shorter than its size": b"20\r\n" + BODY + b"\r\n0\r\n\r\n",
    "ended by line feeds": b"1e\n" + BODY + b"\n0\n\n",
    "line feed in an extension": b"1e;a=\nb\r\n" + BODY + b"\r\n0\r\n\r\n",
    "carriage return alone after the size": b"1e\rX" + BODY + b"\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("name", CHUNKS)
def test_garbage_between_chunks_is_refused_and_the_connection_closed(attacked, name):
    (first, *others), received = attacked[name]
    first.refuses(400)
    assert others == []
    assert received == []


def test_the_gateway_outlives_all_attacks(unharmed, attacked):
    nothing_smuggled(unharmed)


ENDINGS = [
    b"0\r\n\r\n",
    b"000\r\n\r\n",
    b"0\r\nx-trailer: a\r\n\r\n",
    b"0\r\ncontent-length: 3\r\nauthorization: x\r\n\r\n",
    b"0;last\r\n\r\n",
    b"0;a=\x00\r\n\r\n",
]


def test_good_chunks_are_one_request_and_what_follows_is_another(unharmed):
    before = len(unharmed.received)
    cases = [(line, ending) for line in ("transfer-encoding: chunked", "Transfer-Encoding: Chunked", "transfer-encoding: \tchunked ") for ending in ENDINGS]
    with ThreadPoolExecutor(len(cases)) as pool:
        runs = [pool.submit(attack, unharmed, [line], chunked(BODY, ending=ending)) for line, ending in cases]
    for run in runs:
        first, second = run.result()
        assert first.status == 200
        second.refuses(401)
    assert len(unharmed.received) == before + len(cases)
    nothing_smuggled(unharmed)


@pytest.mark.parametrize("lines", [[LENGTH], [f"content-length:{len(BODY)}"], [f"content-length: \t{len(BODY)} "], [f"content-length: 0{len(BODY)}"]])
def test_what_follows_a_body_of_known_length_is_a_request_that_needs_a_token_of_its_own(unharmed, lines):
    first, second = attack(unharmed, lines, BODY)
    assert first.status == 200
    second.refuses(401)
    nothing_smuggled(unharmed)


def test_equal_lengths_in_two_headers_do_not_disagree(unharmed):
    """RFC 9112 lets a recipient choose between refusing and taking one of them."""
    first, *_ = attack(unharmed, [LENGTH, LENGTH], BODY)
    assert first.status in {200, 400}
    nothing_smuggled(unharmed)
    if first.status == 200:
        assert [name for name, _ in unharmed.received[-1]["headers"]].count("content-length") == 1


def test_a_body_that_reads_like_a_request_stays_a_body(unharmed):
    inner = json.dumps({"model": "m", "messages": [], "x": SMUGGLED.decode()}).encode()
    before = len(unharmed.received)
    first, *_ = attack(unharmed, [f"content-length: {len(inner)}"], inner, suffix=b"")
    assert first.status == 200
    assert len(unharmed.received) == before + 1
    assert unharmed.received[-1]["body"].encode() == inner


def test_bare_line_feeds_make_no_second_request(unharmed):
    before = len(unharmed.received)
    head = unharmed.head(headers=[("content-type", "application/json"), ("content-length", str(len(BODY)))])
    with unharmed.connect(timeout_s=2) as connection:
        connection.send(head.replace(b"\r\n", b"\n") + BODY + SMUGGLED.replace(b"\r\n", b"\n"))
        answer = connection.answer()
    assert answer.status in {200, 400}
    assert len(unharmed.received) - before == (answer.status == 200)
    nothing_smuggled(unharmed)


def test_pipelined_requests_are_checked_each_by_itself(unharmed):
    before = len(unharmed.received)
    good = unharmed.head(headers=[("content-type", "application/json"), ("content-length", str(len(BODY)))]) + BODY
    bad = unharmed.head(headers=[("content-type", "application/json"), ("content-length", str(len(BODY)))], tenant=None) + BODY
    with unharmed.connect() as connection:
        connection.send(good + good + bad + good)
        assert [connection.answer().status for _ in range(3)] == [200, 200, 401]
        assert connection.closed(), "what comes behind a refused request is not read"
    assert len(unharmed.received) == before + 2


def test_a_body_that_never_comes_is_not_taken_from_the_next_client(unharmed):
    before = len(unharmed.received)
    with unharmed.connect() as first:
        first.send(unharmed.head(headers=[("content-type", "application/json"), ("content-length", "500")]) + BODY)
        assert unharmed.serves()
    assert len(unharmed.received) == before + 1


OTHER_VERSIONS = {"HTTP/0.9", "HTTP/1.0", "HTTP/2.0 in clear words", "HTTP/9.9"}

LINES = {
    "HTTP/0.9": b"GET /v1/models\r\n\r\n",
    "HTTP/2.0 in clear words": b"GET /v1/models HTTP/2.0\r\nhost: localhost\r\n\r\n",
    "HTTP/9.9": b"GET /v1/models HTTP/9.9\r\nhost: localhost\r\n\r\n",
    "HTTP/1.0": b"GET /v1/models HTTP/1.0\r\nhost: localhost\r\n\r\n",
    "no version": b"GET /v1/models HTTP\r\nhost: localhost\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no method": b" /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "method with a NUL": b"GE\x00T /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "method with brackets": b"G(E)T /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "no target": b"GET  HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "space in the target": b"GET /v1/mod els HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "no host": b"GET /v1/models HTTP/1.1\r\n\r\n",
    "TLS in TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    "binary": bytes(range(256)) * 8,
    "an SMTP client": b"EHLO example.com\r\nMAIL FROM:<a@example.com>\r\n\r\n",
}


def first_answer(gateway, data):
    with gateway.connect(timeout_s=5) as connection:
        connection.send(data)
        answer = connection.answer()
        assert connection.closed()
        return answer


@pytest.fixture(scope="module")
def greeted(gateway):
    """The answers to all first lines, asked for at once."""
    with ThreadPoolExecutor(len(LINES)) as pool:
        return dict(zip(LINES, pool.map(lambda line: first_answer(gateway, line), LINES.values()), strict=True))


@pytest.mark.parametrize("name", LINES)
def test_a_first_line_that_is_none_is_refused_and_the_connection_closed(greeted, name):
    greeted[name].refuses(426 if name in OTHER_VERSIONS else 400, identified=False)

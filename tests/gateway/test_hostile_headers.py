"""Hostile clients with headers: nothing that only the gateway may say comes from outside, no secret goes further than the gateway, nothing is too large."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.real

GOOD = {"model": "m", "messages": []}
MARK = "chosen-by-the-client"

INJECTED = [
    "x-kiva-tenant",
    "X-KIVA-TENANT",
    "x-kiva-token",
    "x-kiva-priority",
    "x-kiva-cluster",
    "x-kiva-pause",
    "x-kiva-affinity",
    "x-kiva-version",
    "x-kiva-anything",
    "x-vllm-priority",
    "x-data-parallel-rank",
    "x-request-id",
    "X-Request-ID",
    "x-envoy-external-address",
    "x-envoy-internal",
    "x-envoy-original-path",
    "x-envoy-original-host",
    "x-envoy-original-dst-host",
    "x-envoy-decorator-operation",
    "x-envoy-attempt-count",
    "x-envoy-peer-metadata",
    "x-envoy-anything",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-forwarded-client-cert",
    "x-forwarded-user",
    "x-forwarded-email",
    "forwarded",
    "x-real-ip",
    "x-client-ip",
    "true-client-ip",
    "x-original-url",
    "x-rewrite-url",
    "x-http-method-override",
    "proxy-authorization",
    "proxy-connection",
    "keep-alive",
    "te",
    "trailer",
    "cookie",
    "api-key",
    "x-api-key",
]


def sent(gateway, headers, body=GOOD, **how):
    """Ask with these headers: the answer, what the engine got, the access record."""
    before = len(gateway.received)
    answer = gateway.ask(body, headers=headers, **how)
    return answer, gateway.received[before:], gateway.logged(answer.header("x-request-id"))


@pytest.mark.parametrize("name", INJECTED)
def test_what_only_the_gateway_may_say_is_not_taken_from_the_client(unharmed, name):
    answer, received, record = sent(unharmed, [(name, MARK), (name, MARK)] if name == "x-forwarded-for" else [(name, MARK)])
    assert answer.status == 200
    assert len(received) == 1
    assert MARK not in json.dumps(received)
    assert MARK not in json.dumps(record)
    assert MARK not in json.dumps(answer.headers)
    assert (record["tenant"], record["client"], record["model"], record["version"]) == ("police", "127.0.0.1", "m", "m")


@pytest.mark.parametrize("header", ["x-kiva-tenant", "x-KIVA-tenant", "x-kiva-tenant "])
@pytest.mark.parametrize("value", ["tax", "tax,police", "police"])
def test_no_client_asks_as_another_tenant(unharmed, header, value):
    answer = unharmed.ask({"model": "secret", "messages": []}, headers=[(header, value)])
    assert answer.status in {400, 403}
    answer.refuses(answer.status, identified=answer.status == 403)
    assert unharmed.engines["secret-0"].received == []


def test_a_tenant_in_a_header_replaces_no_token(untouched):
    untouched.ask(GOOD, tenant=None, headers=[("x-kiva-tenant", "police"), ("x-kiva-token", "token-of-police")]).refuses(401)


def test_the_engine_is_told_the_token_s_tenant_or_none(unharmed):
    for tenant in ("police", "tax"):
        _, (request,), record = sent(unharmed, [("x-kiva-tenant", "other")], tenant=tenant)
        assert dict(request["headers"]).get("x-kiva-tenant", tenant) == tenant
        assert record["tenant"] == tenant


def test_the_request_id_is_the_gateway_s_and_the_same_everywhere(unharmed):
    answers = [sent(unharmed, [("x-request-id", "11111111-1111-4111-8111-111111111111")]) for _ in range(2)]
    ids = [answer.header("x-request-id") for answer, _, _ in answers]
    assert len(set(ids)) == 2
    assert "11111111-1111-4111-8111-111111111111" not in ids
    for request_id, (_, (request,), record) in zip(ids, answers, strict=True):
        assert dict(request["headers"])["x-request-id"] == request_id
        assert record["request_id"] == request_id


def test_the_client_s_token_never_reaches_the_engine(unharmed):
    token = unharmed.token()
    _, (request,), record = sent(unharmed, [])
    assert "authorization" not in dict(request["headers"])
    for part in token.split("."):
        assert part not in json.dumps(request)
        assert part not in json.dumps(record)


def test_no_prompt_and_no_answer_stands_in_the_log(unharmed):
    answer = unharmed.ask(
        {"model": "m", "messages": [{"role": "user", "content": "a-secret-prompt"}], "user": "a-secret-user"}, target="/v1/chat/completions?q=a-secret-query"
    )
    unharmed.logged(answer.header("x-request-id"))
    text = unharmed.layout.access_log.read_text()
    for word in ("a-secret-prompt", "a-secret-user", "a-secret-query", "Berlin"):
        assert word not in text


def test_headers_of_one_hop_end_at_the_gateway(unharmed):
    hop = [
        ("connection", "close, x-nominated"),
        ("x-nominated", MARK),
        ("keep-alive", "timeout=5"),
        ("te", "trailers"),
        ("trailer", "x-a"),
        ("proxy-connection", "keep-alive"),
    ]
    answer, (request,), _ = sent(unharmed, hop)
    assert answer.status == 200
    left = set(dict(request["headers"])) & {"connection", "x-nominated", "keep-alive", "te", "trailer", "proxy-connection", "upgrade", "transfer-encoding"}
    assert left == set()


@pytest.mark.parametrize("nominated", ["authorization", "x-kiva-tenant", "x-request-id", "content-length", "host", "content-type", "x-forwarded-for"])
def test_a_nominated_header_takes_away_nothing_that_the_gateway_says(unharmed, nominated):
    """`Connection: NAME` asks a proxy to drop a header: an old way to get rid of what proxies add."""
    before = len(unharmed.received)
    answer = unharmed.ask(GOOD, headers=[("connection", f"close, {nominated}")])
    received = unharmed.received[before:]
    if answer.status != 200:
        answer.refuses(answer.status, identified=bool(answer.header("x-request-id")))
        assert received == []
        return
    headers = dict(received[0]["headers"])
    assert headers["x-request-id"] == answer.header("x-request-id")
    assert headers.get("x-kiva-tenant", "police") == "police"
    assert unharmed.logged(answer.header("x-request-id"))["tenant"] == "police"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-envoy-upstream-rq-timeout-ms", "1"),
        ("x-envoy-upstream-rq-per-try-timeout-ms", "1"),
        ("x-envoy-expected-rq-timeout-ms", "1"),
        ("grpc-timeout", "1m"),
        ("x-envoy-upstream-alt-stat-name", MARK),
        ("x-envoy-hedge-on-per-try-timeout", "true"),
        ("x-envoy-max-retries", "1000"),
        ("x-envoy-retry-on", "5xx"),
        ("x-envoy-retriable-status-codes", "200"),
        ("x-envoy-retriable-header-names", "content-type"),
        ("x-envoy-ip-tags", MARK),
        ("x-envoy-force-trace", "true"),
        ("x-envoy-fault-delay-request", "5000"),
        ("x-envoy-fault-abort-request", "503"),
    ],
)
def test_no_client_steers_the_gateway(unharmed, name, value):
    body = {**GOOD, "stand_in": {"do": "sleep", "for_s": 0.05}}
    answer, received, record = sent(unharmed, [(name, value)], body)
    assert answer.status == 200
    assert len(received) == record["attempts"] == 1
    assert name not in dict(received[0]["headers"])


def test_no_client_makes_the_gateway_ask_twice(unharmed):
    body = {**GOOD, "stand_in": {"do": "status", "status": 503}}
    retry = [("x-envoy-retry-on", "5xx,retriable-status-codes"), ("x-envoy-max-retries", "9"), ("x-envoy-retriable-status-codes", "503")]
    answer, received, _ = sent(unharmed, retry, body)
    assert (answer.status, len(received)) == (503, 1)


def test_a_trace_context_is_passed_on(unharmed):
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    _, (request,), _ = sent(unharmed, [("traceparent", parent), ("tracestate", "a=b")])
    headers = dict(request["headers"])
    assert headers["traceparent"].split("-")[1] == parent.split("-")[1]
    assert headers["tracestate"] == "a=b"


@pytest.mark.parametrize("parent", ["x", "00-" + "f" * 32, "00-" + "0" * 32 + "-" + "0" * 16 + "-00", "\xe4" * 55, "0" * 5000])
def test_a_broken_trace_context_does_no_harm(unharmed, parent):
    assert unharmed.ask(GOOD, headers=[("traceparent", parent), ("baggage", parent)]).status == 200


def test_the_answer_says_nothing_of_the_gateway_s_inside(unharmed):
    refused = [unharmed.ask(GOOD, target="/x"), unharmed.ask(GOOD, tenant=None), unharmed.ask({"model": "secret"}), unharmed.ask({"model": "x"})]
    for answer in (unharmed.ask(GOOD), *refused):
        names = {name for name, _ in answer.headers}
        assert not {name for name in names if name.startswith(("x-envoy", "x-kiva"))}
        assert answer.header("server") == "kiva"
        text = answer.body.decode() + json.dumps(answer.headers)
        for word in ("envoy", str(unharmed.layout.state), ".sock", "upstream", "rbac", "engine-m"):
            assert word not in text.lower()


@pytest.mark.parametrize(
    "headers",
    [
        [("x-large", "x" * 40_000)],
        [("x-large", "x" * 1_000_000)],
        [(f"x-{number}", "x" * 500) for number in range(90)],
        [(f"x-{number}", "y") for number in range(150)],
        [(f"x-{number}", "y") for number in range(5000)],
        [("x" * 40_000, "y")],
        [("cookie", "a=b; " * 10_000)],
        [("authorization", "Bearer " + "x" * 40_000)],
    ],
    ids=["40 kB", "1 MB", "45 kB in many", "150", "5000", "name", "cookie", "token"],
)
def test_headers_that_are_too_large_are_refused(untouched, headers):
    with untouched.connect() as connection:
        connection.send_what_is_taken(untouched.head(headers=[("content-type", "application/json"), ("content-length", "2"), *headers]) + b"{}")
        connection.answer().refuses(431, "headers_too_large", identified=False)


def test_large_headers_below_the_limit_pass(unharmed):
    assert unharmed.ask(GOOD, headers=[("x-large", "x" * 20_000)]).status == 200


@pytest.mark.parametrize(
    "host",
    ["", " ", "evil.example", "localhost:99999", "localhost, other", "[::1", "a b", "../..", "%00", "x" * 10_000, "localhost/v1", "user@localhost"],
    ids=lambda host: host[:20],
)
def test_no_host_changes_where_a_request_goes(unharmed, host):
    before = len(unharmed.received)
    head = unharmed.head(headers=[("content-type", "application/json"), ("content-length", "30")]).replace(b"host: localhost", b"host: " + host.encode())
    with unharmed.connect() as connection:
        connection.send(head + json.dumps(GOOD).encode())
        answer = connection.answer()
    received = unharmed.received[before:]
    if answer.status != 200:
        answer.refuses(answer.status, identified=bool(answer.header("x-request-id")))
        assert answer.status in {400, 404, 431}
        assert received == []
        return
    assert [entry["path"] for entry in received] == ["/v1/chat/completions"]
    assert len(host) < 5 or host not in json.dumps(received)

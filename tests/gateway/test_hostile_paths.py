"""Hostile clients with genuine tokens that look for more than the API: engines have no other path, method or protocol for them."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from kivactl.spec.gateway import Tenant
from kivactl.spec.platform import Model

pytestmark = pytest.mark.real

GOOD = {"model": "m", "messages": []}
PLAIN = {"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/rerank", "/v1/score", "/v1/pooling", "/v1/classify"}

INTERNAL = [
    "/",
    "/metrics",
    "/metrics/",
    "/health",
    "/healthz",
    "/ping",
    "/version",
    "/load",
    "/docs",
    "/redoc",
    "/openapi.json",
    "/kiva/generating",
    "/kiva/usage",
    "/tokenize",
    "/detokenize",
    "/tokenizer_info",
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/sleep",
    "/wake_up",
    "/is_sleeping",
    "/start_profile",
    "/stop_profile",
    "/reset_prefix_cache",
    "/reset_mm_cache",
    "/collective_rpc",
    "/server_info",
    "/invocations",
    "/scale_elastic_ep",
    "/is_scaling_elastic_ep",
    "/pause",
    "/resume",
    "/update_weights",
    "/init_weight_transfer_engine",
    "/v1",
    "/v1/",
    "/v1/audio/transcriptions",
    "/v1/messages",
    "/v1/responses/resp_1",
    "/v1/responses/resp_1/cancel",
    "/v1/chat/completions/1",
    "/v1/realtime",
    "/v2/rerank",
    "/inference/v1/generate",
    "/pooling",
    "/classify",
    "/score",
    "/rerank",
    "/generate",
    "/chat/completions",
    "/v1/chat",
    "/v1/files",
    "/v1/batches",
    "/v1/fine_tuning/jobs",
    "/ready",
    "/server_info?x=/v1/chat/completions",
    "/stats",
    "/stats/prometheus",
    "/config_dump",
    "/clusters",
    "/quitquitquit",
    "/logging",
    "/reopen_logs",
]


@pytest.mark.parametrize("path", INTERNAL)
def test_what_is_no_part_of_the_api_is_not_there(untouched, path):
    for method, body in (("GET", None), ("POST", GOOD)):
        untouched.ask(body, method=method, target=path).refuses(404, "unknown_url")


TRICKS = [
    "/v1/../metrics",
    "/v1/../../metrics",
    "/v1/chat/completions/../../../metrics",
    "/v1/chat/completions/..",
    "/v1/chat/completions/../load_lora_adapter",
    "/v1/%2e%2e/metrics",
    "/v1/%2E%2E/metrics",
    "/v1/.%2e/metrics",
    "/v1/%252e%252e/metrics",
    "/v1/..%2fmetrics",
    "/v1/..%5cmetrics",
    "/v1%2fchat%2fcompletions",
    "/v1/chat%2Fcompletions",
    "/v1/chat%5Ccompletions",
    "/v1/..;/metrics",
    "/v1/..\\metrics",
    "/v1\\..\\metrics",
    "\\metrics",
    "/v1/chat/completions;x=1",
    "/v1/chat/completions;/../../metrics",
    "/v1/chat/completions%3b",
    "/v1/chat/completions%00",
    "/v1/chat/completions%00.txt",
    "/v1/chat/completions%20",
    "/v1/chat/completions%0d%0ax-kiva-tenant:%20tax",
    "/v1/chat/completions/",
    "/v1/chat/completions#x",
    "/metrics#/v1/chat/completions",
    "/metrics?/v1/chat/completions",
    "/V1/CHAT/COMPLETIONS",
    "/v1/chat/\xe4completions",
    "/v1/chat/completion\xff",
    "/v1/chat/completions%ff/..",
    "/metrics/../v1/../metrics",
    "/...//metrics",
    "/.%00/metrics",
    "/models/m/v1/../../../metrics",
    "/models/m/v1/load_lora_adapter",
    "/models/m/metrics",
    "/models/m%2fv1%2fmetrics/v1/chat/completions",
    "/models/m/x/v1/chat/completions",
    "/models//v1/chat/completions",
    "/models/../v1/models/../../metrics",
    "/" + "a/../" * 2000 + "metrics",
    "/v1/" + "x" * 20_000,
    "http://localhost/metrics",
    "https://localhost/metrics",
    "http://127.0.0.1:1/metrics",
    "http://localhost/v1/../metrics",
    "ftp://localhost/v1/chat/completions",
    "unix:/metrics",
    "file:///etc/passwd",
    "//evil.example/metrics",
    "*",
    "metrics",
    "?",
]


@pytest.mark.parametrize("target", TRICKS, ids=lambda target: target[:40])
def test_no_spelling_of_a_path_leads_out_of_the_api(untouched, target):
    answer = untouched.ask(GOOD, target=target)
    assert answer.status in {400, 404}, answer
    answer.refuses(answer.status, identified=bool(answer.header("x-request-id")))


@pytest.mark.parametrize(
    "target",
    [
        "//v1//chat//completions",
        "/v1/./chat/completions",
        "/x/../v1/chat/completions",
        "/v1/chat%2e/../chat/completions",
        "/%76%31/chat/completions",
        "/v1\\chat\\completions",
        "http://evil.example/v1/chat/completions",
        "https://evil.example:9/v1/chat/completions",
    ],
)
def test_an_odd_spelling_of_an_api_path_is_refused_or_reaches_the_engine_plain(unharmed, target):
    before = len(unharmed.received)
    answer = unharmed.ask(GOOD, target=target)
    received = unharmed.received[before:]
    if answer.status == 200:
        assert [entry["path"] for entry in received] == ["/v1/chat/completions"]
        assert "evil.example" not in json.dumps(received)
    else:
        answer.refuses(404 if answer.status == 404 else 400)
        assert received == []


@pytest.mark.parametrize("query", ["?", "?a=b", "?path=/../../metrics", "?a=%00", "?" + "x" * 5000])
def test_a_query_does_not_change_the_path(unharmed, query):
    before = len(unharmed.received)
    assert unharmed.ask(GOOD, target="/v1/chat/completions" + query).status == 200
    assert [entry["path"].partition("?")[0] for entry in unharmed.received[before:]] == ["/v1/chat/completions"]


@pytest.mark.parametrize("path", sorted(PLAIN))
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "HEAD", "PROPFIND", "PURGE", "post", "POSTT", "M-SEARCH"])
def test_no_method_but_post_reaches_an_engine(untouched, path, method):
    if method == "HEAD":
        with untouched.connect() as connection:
            connection.send(untouched.head("HEAD", path))
            connection.send(untouched.head("GET", "/v1/models"))
            head = connection.sock.recv(65536)
        assert head.startswith(b"HTTP/1.1 405 ")
        return
    answer = untouched.ask(GOOD, method=method, target=path)
    assert answer.status in {400, 405}
    answer.refuses(answer.status, identified=answer.status == 405)


def test_the_gateway_is_no_proxy(untouched):
    """A good token does not help; CONNECT has no end, so that it may be refused as late as a request that never ends."""
    targets = ["localhost:443", "127.0.0.1:22", "/v1/chat/completions", "*"]
    with ThreadPoolExecutor() as pool:
        answers = [*pool.map(lambda target: untouched.ask(method="CONNECT", target=target, media=None), targets)]
    for answer in answers:
        assert answer.status in {400, 403, 404, 405, 408}, answer
        answer.refuses(answer.status, identified=bool(answer.header("x-request-id")))


@pytest.mark.parametrize("protocol", ["websocket", "h2c", "TLS/1.0", "connect-udp", "HTTP/3"])
def test_the_gateway_upgrades_to_nothing(untouched, protocol):
    upgrade = [("connection", "Upgrade, HTTP2-Settings"), ("upgrade", protocol), ("http2-settings", "AAMAAABkAAQAAP__"), ("sec-websocket-version", "13")]
    upgrade.append(("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="))
    answer = untouched.ask(method="GET", target="/v1/chat/completions", headers=upgrade, media=None)
    assert answer.status != 101
    answer.refuses(answer.status, identified=bool(answer.header("x-request-id")))
    assert answer.status in {400, 403, 404, 405, 426}


def test_an_upgrade_asked_for_by_the_way_is_not_asked_of_the_engine(unharmed):
    before = len(unharmed.received)
    answer = unharmed.ask(GOOD, headers=[("connection", "upgrade"), ("upgrade", "h2c"), ("http2-settings", "AAMAAABkAAQAAP__")])
    for entry in unharmed.received[before:]:
        assert not {"upgrade", "connection", "http2-settings"} & set(dict(entry["headers"]))
    assert answer.status in {200, 400, 403}


def test_the_list_of_models_has_what_the_tenant_may_use_and_nothing_reaches_an_engine(untouched):
    for tenant, names in (("police", ["m"]), ("tax", ["m", "secret"])):
        answer = untouched.ask(method="GET", target="/v1/models", tenant=tenant, media=None)
        assert answer.status == 200
        assert answer.header("content-type") == "application/json"
        assert answer.header("x-request-id")
        assert [entry["id"] for entry in answer.json()["data"]] == names


def test_a_model_that_the_tenant_may_not_use_is_not_shown_by_its_name(untouched):
    untouched.ask(method="GET", target="/v1/models/secret", media=None).refuses(404, "model_not_found")
    assert untouched.ask(method="GET", target="/v1/models/secret", tenant="tax", media=None).json()["id"] == "secret"
    untouched.ask(method="GET", target="/v1/models/m/../secret", media=None).refuses(404, "model_not_found")


@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT"])
def test_models_cannot_be_changed(untouched, method):
    for target in ("/v1/models", "/v1/models/m"):
        answer = untouched.ask(GOOD, method=method, target=target)
        assert answer.status in {404, 405}
        answer.refuses(answer.status)


def test_neither_path_nor_body_opens_a_model_that_the_tenant_may_not_use(untouched):
    for target, model in (("/v1/chat/completions", "secret"), ("/models/secret/v1/chat/completions", "m"), ("/models/secret/v1/chat/completions", "secret")):
        untouched.ask({"model": model, "messages": []}, target=target).refuses(403, "model_not_allowed")
    untouched.ask(b"x", target="/models/secret/v1/chat/completions", media="text/plain").refuses(403, "model_not_allowed")


def test_a_body_that_names_another_model_than_the_path_is_no_way_around(unharmed):
    before = len(unharmed.received)
    answer = unharmed.ask({"model": "secret", "messages": []}, target="/models/m/v1/chat/completions")
    assert [dict(entry["headers"]).get("x-kiva-cluster") for entry in unharmed.received[before:]] in ([], ["engine-m"])
    assert unharmed.engines["secret-0"].received == [] or answer.status == 403
    assert not any("secret" in entry["body"] for entry in unharmed.engines["secret-0"].received if dict(entry["headers"])["x-kiva-tenant"] == "police")


def test_versions_behind_an_alias_are_no_way_around(fresh_gateway):
    """Who pins a version of an alias gets only versions of this alias."""
    from kivactl.spec.platform import Alias

    gateway = fresh_gateway(
        models=tuple(Model(name=name, source="x") for name in ("v1", "v2", "secret")),
        aliases=(Alias(name="chat", models={"v1": 1, "v2": 1}),),
        tenants=(Tenant(name="police", models=("chat",)),),
    )
    for version, served in (("v2", {"v2"}), ("v1", {"v1"}), ("secret", {"v1", "v2"}), ("engine-secret", {"v1", "v2"}), ("", {"v1", "v2"})):
        answer = gateway.ask({"model": "chat", "messages": []}, headers=[("x-kiva-version", version)])
        assert answer.status == 200
        assert gateway.logged(answer.header("x-request-id"))["version"] in served
    for name in ("v1", "v2", "secret"):
        gateway.ask({"model": name, "messages": []}).refuses(403, "model_not_allowed")
    assert gateway.engines["secret-0"].received == []


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/config_dump",
        "/quitquitquit",
        "/stats",
        "/clusters",
        "/logging?level=trace",
        "/metrics/engines/m-0/../../../config_dump",
        "/metrics/gateway/../../config_dump",
    ],
)
def test_the_metrics_port_shows_metrics_only(untouched, path):
    import http.client

    for method in ("GET", "POST"):
        connection = http.client.HTTPConnection("127.0.0.1", untouched.platform.gateway.metrics_port, timeout=5)
        connection.request(method, path)
        answer = connection.getresponse()
        assert answer.status in {400, 404}, (method, path, answer.read())
        assert b"static_clusters" not in answer.read()
        connection.close()

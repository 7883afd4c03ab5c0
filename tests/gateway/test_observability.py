"""What can be seen from outside: metrics in one list, traces with their context, an access log without contents."""

from __future__ import annotations

import http.server
import json
import threading
import urllib.error
import urllib.request

import pytest

from kivactl.spec.gateway import Tracing

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def collector():
    """An OTLP/HTTP receiver: the bodies it got, by path."""
    got: list[tuple[str, bytes]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = b""
            while size := int(self.rfile.readline(), 16):  # it comes in chunks
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            got.append((self.path, body))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", got
    server.shutdown()


@pytest.fixture(scope="module")
def gateway(start_gateway, collector):
    gateway = start_gateway(tracing=Tracing(otlp=collector[0], sample_ratio=1.0))
    yield gateway
    gateway.stop()


TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_the_trace_context_is_passed_on_and_exported(gateway, collector):
    answer = gateway.ask({"model": "m"}, headers=[("traceparent", f"00-{TRACE}-{SPAN}-01")])
    seen = dict(gateway.received[-1]["headers"])["traceparent"]
    assert seen.split("-")[1] == TRACE, "the same trace"
    assert seen.split("-")[2] != SPAN, "another span"
    assert gateway.logged(answer.header("x-request-id"))["trace_id"] == TRACE
    exported = gateway.until(lambda: [body for path, body in collector[1] if path == "/v1/traces" and bytes.fromhex(TRACE) in body])
    assert b"kiva-gateway" in exported[0]
    assert b"police" in exported[0]


def test_one_list_leads_to_the_metrics_of_gateway_and_engines(gateway):
    from kivactl.stack.monitoring import scrape_targets_for

    for entry in scrape_targets_for(gateway.platform, {"m": ["m-0"]}):
        url = f"http://{entry['targets'][0]}{entry['labels']['__metrics_path__']}"
        with urllib.request.urlopen(url) as answer:
            text = answer.read()
        if entry["labels"]["component"] == "gateway":
            assert b"envoy_cluster_upstream_rq_total" in text
    assert gateway.received[-1]["path"] == "/metrics"


@pytest.mark.parametrize("path", ["/", "/stats", "/config_dump", "/quitquitquit", "/metrics/gateway/../../config_dump", "/metrics/engines/m-1", "/v1/models"])
def test_the_metrics_port_gives_nothing_else(gateway, path):
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://127.0.0.1:{gateway.platform.gateway.metrics_port}{path}")
    assert refused.value.code == 404


def test_metrics_are_read_only(gateway):
    request = urllib.request.Request(f"http://127.0.0.1:{gateway.platform.gateway.metrics_port}/metrics/gateway", data=b"", method="POST")
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(request)


def test_the_access_log_knows_everything_but_contents_and_tokens(gateway):
    answer = gateway.ask({"model": "m", "messages": [{"role": "user", "content": "a very secret question"}]})
    entry = gateway.logged(answer.header("x-request-id"))
    assert (entry["tenant"], entry["model"], entry["version"], entry["token_name"], entry["status"]) == ("police", "m", "m", "test", 200)
    text = gateway.layout.access_log.read_text()
    assert "secret" not in text
    assert gateway.token() not in text
    assert json.loads(text.splitlines()[-1])

"""Histograms as Prometheus' text format has them."""

import http.server
import math
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.errors import NotReadyError
from kivactl.tools.prometheus import Histogram, parse_histogram, scrape

TEXT = """\
# HELP vllm:time_to_first_token_seconds Histogram of time to first token in seconds.
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.1",model_name="v{1},2"} 2.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="1.0",model_name="v{1},2"} 10.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf",model_name="v{1},2"} 10.0
vllm:time_to_first_token_seconds_bucket{engine="1",le="0.1",model_name="v{1},2"} 1.0
vllm:time_to_first_token_seconds_bucket{engine="1",le="1.0",model_name="v{1},2"} 1.0
vllm:time_to_first_token_seconds_bucket{engine="1",le="+Inf",model_name="v{1},2"} 2.0
vllm:time_to_first_token_seconds_count{engine="0",model_name="v1"} 10.0
vllm:time_to_first_token_seconds_sum{engine="0",model_name="v1"} 3.0
vllm:time_to_first_token_seconds_created{engine="0",model_name="v1"} 1.7e+09
vllm:time_to_first_token_seconds_bucket_of_something_else{le="0.1"} 7.0
"""
NAME = "vllm:time_to_first_token_seconds"


def histogram(*counts, edges=(0.1, 1.0, math.inf)):
    return Histogram(dict(zip(edges, counts, strict=True)))


def test_the_labels_are_added_up():
    assert parse_histogram(TEXT, NAME) == histogram(3.0, 11.0, 12.0)


@pytest.mark.parametrize("text", ["", "# nothing", f'{NAME}_bucket{{le="0.1"}} 2.0', f"{NAME}_bucket 2.0", f"{NAME}_bucket{{garbage"])
def test_what_is_no_histogram_is_none(text):
    assert parse_histogram(text, NAME) is None


def test_the_difference_of_two_readings():
    assert histogram(3, 11, 12).since(histogram(1, 2, 2)) == histogram(2, 9, 10)


def test_a_process_started_anew_counts_from_nothing():
    assert histogram(1, 1, 1).since(histogram(3, 11, 12)) == histogram(1, 1, 1)


def test_two_replicas_together():
    assert histogram(1, 2, 3).with_those_of(histogram(10, 20, 30)) == histogram(11, 22, 33)


def test_probes_are_the_fastest():
    assert histogram(5, 8, 10).without_smallest(6) == histogram(0, 2, 4)


@pytest.mark.parametrize(
    ("counts", "ratio", "value"),
    [
        ((0, 0, 0), 0.95, None),
        ((10, 10, 10), 0.5, 0.05),
        ((0, 10, 10), 0.5, 0.55),
        ((2, 10, 10), 0.2, 0.1),
        ((0, 9, 10), 0.95, math.inf),
        ((0, 0, 3), 0.95, math.inf),
    ],
)
def test_quantiles_as_prometheus_estimates_them(counts, ratio, value):
    found = histogram(*counts).quantile(ratio)
    assert found == (value if value is None else pytest.approx(value))


@given(values=st.lists(st.floats(0, 3), min_size=1, max_size=50), ratio=st.floats(0.01, 1))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(values, ratio):
    edges = (0.1, 0.5, 1.0, 2.0, math.inf)
    found = Histogram({edge: float(sum(value <= edge for value in values)) for edge in edges}).quantile(ratio)
    rank = max(1, math.ceil(ratio * len(values) - 1e-9))
    true = sorted(values)[rank - 1]
    upper = next(edge for edge in edges if true <= edge)
    lower = max([0.0, *(edge for edge in edges if edge < upper)])
    assert found is not None
    assert lower <= found <= upper


def test_metrics_are_read_and_what_is_not_there_is_told():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/metrics" else 404)
            self.end_headers()
            self.wfile.write(b"up 1\n")

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            authority = f"127.0.0.1:{server.server_port}"
            assert scrape(authority, "/metrics") == "up 1\n"
            with pytest.raises(NotReadyError, match="status 404"):
                scrape(authority, "/nothing")
        finally:
            server.shutdown()
            thread.join()
    with pytest.raises(NotReadyError, match="no metrics"):
        scrape(authority, "/metrics")

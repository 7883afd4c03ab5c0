"""Stands in for vLLM where a test is about everything but the engine: starts at once, answers at once, counts its tokens.

Takes vLLM's arguments; `--uds` and `--served-model-name` matter.
"""

import argparse
import http.server
import json
import os
import signal
import socketserver
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--uds", type=Path)
parser.add_argument("--served-model-name")
options, _ = parser.parse_known_args()
PROMPT_TOKENS, TOKENS, GAP_S = 5, 4, 0.002
counters = {"prompt": 0, "generation": 0, "success": 0}
counting = threading.Lock()


def count(request_id, finished):
    with counting:
        counters["prompt"] += PROMPT_TOKENS
        counters["generation"] += TOKENS
        counters["success"] += 1
    if not request_id:  # did not come through the gateway: a proof that it generates
        return
    row = {
        "at": datetime.now(UTC).isoformat(),
        "request_id": request_id,
        "replica": os.environ.get("KIVA_REPLICA", ""),
        "model": options.served_model_name,
        "prompt_tokens": PROMPT_TOKENS,
        "cached_tokens": 0,
        "completion_tokens": TOKENS,
        "finished": finished,
    }
    with Path(os.environ["KIVA_USAGE_LOG"]).open("a") as file:
        file.write(json.dumps(row) + "\n")


def metrics():
    """The histograms and counters that a canary is judged by."""
    labels = f'{{model_name="{options.served_model_name}",engine="0"}}'
    lines = []
    for name, value_s in (("time_to_first_token_seconds", 0.01), ("request_time_per_output_token_seconds", 0.003), ("inter_token_latency_seconds", 0.003)):
        inner = labels[1:-1]
        lines += [
            f'vllm:{name}_bucket{{{inner},le="{edge}"}} {counters["success"]}.0'
            for edge in ("0.005", "0.02", "0.1", "1.0", "+Inf")
            if edge == "+Inf" or float(edge) >= value_s
        ]
        lines += [f"vllm:{name}_count{labels} {counters['success']}.0", f"vllm:{name}_sum{labels} {counters['success'] * value_s}"]
    lines += [f"vllm:prompt_tokens_total{labels} {counters['prompt']}.0", f"vllm:generation_tokens_total{labels} {counters['generation']}.0"]
    lines.append(f'vllm:request_success_total{{{labels[1:-1]},finished_reason="length"}} {counters["success"]}.0')
    lines += [f"vllm:num_requests_running{labels} 0.0", f"vllm:num_requests_waiting{labels} 0.0"]
    return "\n".join(lines) + "\n"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def send(self, content, kind="application/json"):
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        if self.path.startswith("/metrics"):
            self.send(metrics().encode(), "text/plain; version=0.0.4")
        elif self.path.startswith("/v1/models"):
            self.send(json.dumps({"object": "list", "data": [{"id": options.served_model_name, "object": "model"}]}).encode())
        else:
            self.send(b"{}")

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": TOKENS, "total_tokens": PROMPT_TOKENS + TOKENS}
        frame = {"id": self.headers.get("x-request-id", "1"), "created": int(time.time()), "model": options.served_model_name}
        if body.get("stream"):
            self.stream(frame, usage)
        else:
            message = {"role": "assistant", "content": "Berlin"}
            choice = {"index": 0, "text": "Berlin", "message": message, "finish_reason": "length"}
            self.send(json.dumps({**frame, "object": "chat.completion", "choices": [choice], "usage": usage}).encode())
        count(self.headers.get("x-request-id", ""), True)

    def stream(self, frame, usage):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for number in range(TOKENS):
            last = number == TOKENS - 1
            choice = {"index": 0, "text": "a", "delta": {"role": "assistant", "content": "a"}, "finish_reason": "length" if last else None}
            self.event({**frame, "object": "chat.completion.chunk", "choices": [choice], "usage": None})
            time.sleep(GAP_S)
        self.event({**frame, "object": "chat.completion.chunk", "choices": [], "usage": usage})
        self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")

    def event(self, content):
        self.chunk(f"data: {json.dumps(content)}\n\n".encode())

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def address_string(self):
        return "gateway"

    def log_message(self, *_):
        pass


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *_):
        pass


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with Server(str(options.uds), Handler) as server:
        Path(options.uds).chmod(0o600)
        server.serve_forever(poll_interval=0.05)

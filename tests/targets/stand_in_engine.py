"""A stand-in for an engine in the rollout's failure cases: speaks the API on a Unix socket, starts in milliseconds.

Arguments as the engine's; `--behaviour` chooses how it fails: `dies` at once, `mute` (never generates), `leaves-child`,
`slow-stop`, `deaf` (does not stop).
"""

import argparse
import http.server
import json
import os
import signal
import socketserver
import subprocess
import sys
import time

parser = argparse.ArgumentParser()
parser.add_argument("--uds")
parser.add_argument("--behaviour", default="")
parser.add_argument("--served-model-name", default="m")
parser.add_argument("--answer-after", type=float, default=0.0)
parser.add_argument("--listen-after", type=float, default=0.0)
options, _ = parser.parse_known_args()

if options.behaviour == "dies":
    print("INFO reading its configuration")
    sys.exit("ValueError: no such weights")
if options.behaviour == "leaves-child":
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body):
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        self.answer(503 if options.behaviour == "mute" else 200, {})

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        if options.behaviour == "mute":
            self.answer(500, {"error": {"message": "no tokens today"}})
            return
        time.sleep(options.answer_after)
        choice = {"index": 0, "text": "Berlin", "finish_reason": "length", "message": {"role": "assistant", "content": "Berlin"}}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        self.answer(200, {"id": "1", "object": "text_completion", "model": options.served_model_name, "choices": [choice], "usage": usage, "pid": os.getpid()})

    def address_string(self):
        return "gateway"

    def log_message(self, *_):
        pass


class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


def stop(*_):
    if options.behaviour == "deaf":
        return
    if options.behaviour == "slow-stop":
        time.sleep(2)
    os._exit(0)


signal.signal(signal.SIGTERM, stop)
time.sleep(options.listen_after)
Server(options.uds, Handler).serve_forever()

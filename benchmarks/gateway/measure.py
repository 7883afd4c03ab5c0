"""Load and what it shows: `wrk` for whole answers at any rate, a plain socket for the time to the first byte."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import quantiles

from programs import find

QUESTION = "What is the capital of Germany, and since when?"
EVENTS = 32

_SCRIPT = """\
wrk.method = "POST"
wrk.body = [==[@BODY@]==]
wrk.headers["content-type"] = "application/json"
wrk.headers["authorization"] = "Bearer @TOKEN@"
@PACE@
function done(summary, latency, requests)
  local e, keys = summary.errors, '{"answers":%d,"window_us":%d,"p50_us":%d,"p95_us":%d,"p99_us":%d,"refused":%d,"broken":%d}'
  io.write(string.format("RESULT " .. keys .. "\\n", summary.requests, summary.duration, latency:percentile(50), latency:percentile(95),
    latency:percentile(99), e.status, e.connect + e.read + e.write + e.timeout))
end
"""

# wrk asks for the delay before each request, on any connection of a thread: the next free place in the schedule.
_PACE = """\
local ffi = require("ffi")
ffi.cdef("typedef struct { long s; long ns; } kiva_time; int clock_gettime(int, kiva_time *);")
local t = ffi.new("kiva_time")
local function now() ffi.C.clock_gettime(1, t); return tonumber(t.s) * 1000 + tonumber(t.ns) / 1e6 end
local slot
function delay()
  local n = now()
  slot = math.max((slot or n) + @GAP_MS@, n - 100)
  return math.max(0, slot - n)
end
"""


@dataclass(frozen=True)
class Load:
    """What one run of the generator showed.

    Attributes:
        answers: Complete ones.
        per_s: Complete answers a second.
        p50_ms, p95_ms, p99_ms: From sending a request to its answer's last byte.
        refused: Answers other than 2xx.
        broken: Connections refused or cut, reads and writes failed, timeouts.
    """

    answers: int
    per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    refused: int
    broken: int


@dataclass(frozen=True)
class FirstByte:
    """What single streams, one after another on one connection, showed: milliseconds to the first and to the last byte."""

    first_p50_ms: float
    first_p99_ms: float
    last_p50_ms: float
    last_p99_ms: float


@dataclass(frozen=True)
class Target:
    """Where to send requests."""

    port: int
    tls: bool
    token: str

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/v1/chat/completions"


def body_for(*, stream: bool = False, pace_us: int = 0, events: int = EVENTS) -> dict[str, object]:
    """A chat request; `pace_us` is what the mock engine reads as the time between events."""
    body: dict[str, object] = {"model": "demo", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": events}
    if pace_us:
        body["seed"] = pace_us
    return {**body, "stream": True, "stream_options": {"include_usage": True}} if stream else body


def load(target: Target, folder: Path, body: dict[str, object], *, connections: int, seconds: float, per_s: float | None = None) -> Load:
    """Drive a target with keep-alive connections.

    Args:
        target: Where.
        folder: For the generator's script.
        body: Of every request.
        connections: Each sends its next request when its answer is complete.
        seconds: How long.
        per_s: Requests a second on a schedule, as far as the connections suffice; without end when None.
    """
    pace = "" if per_s is None else _PACE.replace("@GAP_MS@", repr(1000 / per_s))
    script = folder / "load.lua"
    script.write_text(_SCRIPT.replace("@BODY@", json.dumps(body)).replace("@TOKEN@", target.token).replace("@PACE@", pace))
    script.chmod(0o600)
    # One thread: it sends 100,000 requests a second, and two would only take the cores from what is measured.
    argv = [find("wrk"), "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "60s", "-s", script, target.url]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    seen = json.loads(line.removeprefix("RESULT "))
    return Load(
        answers=seen["answers"],
        per_s=seen["answers"] / seen["window_us"] * 1e6,
        p50_ms=seen["p50_us"] / 1000,
        p95_ms=seen["p95_us"] / 1000,
        p99_ms=seen["p99_us"] / 1000,
        refused=seen["refused"],
        broken=seen["broken"],
    )


def first_bytes(target: Target, seconds: float, most: int = 2000) -> FirstByte:
    """Streams one after another on one connection: the time until the first byte of an event, and until the last."""
    text = json.dumps(body_for(stream=True)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {target.token}\r\ncontent-type: application/json\r\n"
    request = f"{head}content-length: {len(text)}\r\n\r\n".encode() + text
    plain = socket.create_connection(("127.0.0.1", target.port), timeout=60)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection = ssl._create_unverified_context().wrap_socket(plain, server_hostname="localhost") if target.tls else plain
    firsts, lasts = [], []
    deadline = time.monotonic() + seconds
    with connection:
        for number in range(most + 20):
            if time.monotonic() > deadline and len(firsts) >= 20:
                break
            sent = time.perf_counter()
            connection.sendall(request)
            first, seen = 0.0, b""
            while not seen.endswith(b"\r\n0\r\n\r\n"):
                data = connection.recv(65536)
                now = time.perf_counter()
                if not data:
                    raise ConnectionError(f"the stream was cut: {seen[-200:]!r}")
                seen += data
                if not first and b"data: " in seen:
                    first = now
            if not seen.startswith(b"HTTP/1.1 200") or b"data: [DONE]" not in seen:
                raise ConnectionError(f"no whole stream: {seen[:300]!r}")
            if number >= 20:  # the first ones open connections behind what is measured
                firsts.append((first - sent) * 1000)
                lasts.append((now - sent) * 1000)
    first_cuts, last_cuts = quantiles(firsts, n=100), quantiles(lasts, n=100)
    return FirstByte(first_cuts[49], first_cuts[98], last_cuts[49], last_cuts[98])


def as_json(result: Load | FirstByte) -> dict[str, float]:
    """A result for the report."""
    return asdict(result)

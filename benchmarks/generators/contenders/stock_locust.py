"""Locust as most people use it for LLMs: its own HTTP users, lines read as they come, figures kept in Locust's statistics."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from generators.contenders import Contender
from generators.loads import Command, Figures, Load, Target

_USER = """import json, time
from locust import FastHttpUser, HttpUser, constant, constant_throughput, events, task

BODY = {body!r}

class Reader({user}):
    wait_time = {wait}

    @task
    def ask(self):
        began = time.perf_counter()
        first = last = None
        count = 0
        for line in self.lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            now = time.perf_counter()
            choices = json.loads(line[6:])["choices"]
            if choices and choices[0]["delta"].get("content"):
                if first is None:
                    first = now
                else:
                    self.said("gap", now - last)
                last = now
                count += 1
        if first is not None:
            self.said("ttft", first - began)
            self.said("e2e", last - began)
            if count > 1:
                self.said("tpot", (last - first) / (count - 1))

    def lines(self):
        {lines}

    def said(self, name, seconds):
        events.request.fire(request_type="LLM", name=name, response_time=seconds * 1000, response_length=0, exception=None)
"""
_LINES = {
    "HttpUser": """with self.client.post("/v1/chat/completions", json=BODY, stream=True, name="answer", catch_response=True) as response:
            for line in response.iter_lines():
                yield line.decode()""",
    "FastHttpUser": """yield from self.client.iter_lines("/v1/chat/completions", method="POST", json=BODY, name="answer")""",
}


def _command_for(user: str, load: Load, target: Target, programs: Path) -> Command:
    prompt = " ".join(["Hello"] * load.prompt_tokens)
    body = {"model": target.model, "messages": [{"role": "user", "content": prompt}], "max_tokens": load.tokens, "stream": True}
    if load.kind == "closed":
        users, spawn, wait = load.streams, load.streams / load.ramp_s if load.ramp_s else load.streams, "constant(0)"
    else:
        # Enough users that nobody is late while the engine keeps its pace; each begins when its turn in the rate is there.
        users, spawn = math.ceil(2 * load.rate_per_s * load.service_s), load.rate_per_s
        wait = f"constant_throughput({load.rate_per_s / users!r})"
    words = ["--locustfile", "locustfile.py", "--headless", "--host", target.url, "--users", str(users), "--spawn-rate", f"{spawn:g}"]
    words += ["--run-time", f"{max(1, round(load.seconds))}s", "--stop-timeout", f"{round(3 * load.service_s) + 10}", "--json-file", "result"]
    source = _USER.format(user=user, body=body, lines=_LINES[user], wait=wait)
    return Command((str(programs / "python"), "-m", "locust", *words), {"locustfile.py": source})


def http_user(load: Load, target: Target, programs: Path) -> Command:
    """HttpUser: `requests`, patched by gevent."""
    return _command_for("HttpUser", load, target, programs)


def fast_http_user(load: Load, target: Target, programs: Path) -> Command:
    """FastHttpUser: geventhttpclient."""
    return _command_for("FastHttpUser", load, target, programs)


def parse(folder: Path) -> Figures:
    """Locust's statistics, rounded as Locust rounds them."""
    rows = {row["name"]: row for row in json.loads((folder / "result.json").read_text())}
    if "answer" not in rows:
        raise ValueError("Locust has no answers in its statistics")

    def figure(name: str, percent: float) -> float | None:
        return percentile_of(rows[name], percent) if name in rows else None

    whole = rows.get("e2e", {"num_requests": 0})
    took_s = rows["answer"]["last_request_timestamp"] - rows["answer"]["start_time"]
    return Figures(
        requests=whole["num_requests"],
        failed=rows["answer"]["num_failures"],
        ttft_p50_ms=figure("ttft", 50),
        ttft_p99_ms=figure("ttft", 99),
        gap_p50_ms=figure("gap", 50),
        gap_p99_ms=figure("gap", 99),
        itl_p50_ms=figure("gap", 50),
        itl_p99_ms=figure("gap", 99),
        tpot_p50_ms=figure("tpot", 50),
        tpot_p99_ms=figure("tpot", 99),
        e2e_p50_ms=figure("e2e", 50),
        e2e_p99_ms=figure("e2e", 99),
        attained_rps=whole["num_requests"] / took_s if took_s else None,
    )


def percentile_of(row: dict[str, Any], percent: float) -> float:
    """A percentile as Locust reckons it from its rounded times (`calculate_response_time_percentile`)."""
    counts = {int(float(time)): count for time, count in row["response_times"].items()}
    wanted = int(row["num_requests"] * percent / 100)
    seen = 0
    for time in sorted(counts, reverse=True):
        seen += counts[time]
        if row["num_requests"] - seen <= wanted:
            return float(time)
    return 0.0


HTTP_USER = Contender(
    "locust-http", None, http_user, parse, frozenset({"closed", "constant"}), "HttpUser, one process; constant_throughput where a rate is asked for"
)
FAST_HTTP_USER = Contender("locust-fast", None, fast_http_user, parse, frozenset({"closed", "constant"}), "FastHttpUser, likewise")

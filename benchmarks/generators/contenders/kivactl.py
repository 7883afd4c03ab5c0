"""kivactl's own load test, driven by its command line as the others are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from generators.contenders import Contender
from generators.loads import Command, Figures, Found, Goal, Load, Target

ROOT = Path(__file__).parents[3]

_BOUNDLESS = {"ttft_p95": "1h", "tpot_p95": "1h", "error_ratio": 1.0}
"""Nothing is promised: whether figures are right is the question, not whether they are good."""


def command_for(load: Load, target: Target, programs: Path) -> Command:
    """Its command line."""
    how: dict[str, Any] = {"users": load.streams} if load.kind == "closed" else {"rate": load.rate_per_s, "arrivals": load.kind}
    # Users come within the first half of the warm-up.
    length = {"duration": f"{load.seconds:g}s", "warm_up": f"{2 * load.ramp_s:g}s"}
    return _command(target, programs, load.tokens, load.prompt_tokens, load=how, seed=load.seed, service_levels=_BOUNDLESS, **length)


def search_for(goal: Goal, target: Target, programs: Path) -> Command:
    """Its search for the highest rate at which a share of the requests is in time."""
    promised = {f"ttft_p{round(goal.attainment * 100)}": f"{goal.ttft_ms:g}ms", "tpot_p95": "1h", "error_ratio": 0.01}
    wanted = {"limit": goal.limit, "precision": 0.03}
    load, duration = {"rate": 4}, f"{goal.seconds:g}s"
    return _command(
        target, programs, goal.tokens, goal.prompt_tokens, load=load, duration=duration, warm_up="0s", seed=goal.seed, service_levels=promised, capacity=wanted
    )


def found(folder: Path) -> Found:
    """What its search ended with."""
    seen = json.loads((folder / "run" / "summary.json").read_text())
    if seen["invalid"]:
        raise ValueError(seen["invalid"])
    return Found("rate", float(seen["capacity"]["rate_rps"]))


def parse(folder: Path) -> Figures:
    """Its summary."""
    seen = json.loads((folder / "run" / "summary.json").read_text())

    def figure(name: str, which: str) -> float | None:
        return seen[name][which] * 1000 if seen[name] else None

    return Figures(
        requests=seen["succeeded"],
        failed=seen["requests"] - seen["succeeded"],
        ttft_p50_ms=figure("ttft_s", "p50"),
        ttft_p99_ms=figure("ttft_s", "p99"),
        gap_p50_ms=figure("icl_s", "p50"),
        gap_p99_ms=figure("icl_s", "p99"),
        itl_p50_ms=figure("itl_s", "p50"),
        itl_p99_ms=figure("itl_s", "p99"),
        tpot_p50_ms=figure("tpot_s", "p50"),
        tpot_p99_ms=figure("tpot_s", "p99"),
        e2e_p50_ms=figure("e2e_s", "p50"),
        e2e_p99_ms=figure("e2e_s", "p99"),
        attained_rps=seen["requests_per_s"],
        window_ns=(seen["window"]["start_ns"], seen["window"]["end_ns"]),
        lag_p99_ms=seen["send_lag_p99_ms"],
    )


def _command(target: Target, programs: Path, tokens: int, prompt_tokens: int, **scenario: Any) -> Command:
    common = {"name": "benchmark", "prompts": {"tokens": prompt_tokens}, "output": {"tokens": tokens}}
    argv = (str(programs / "python"), "-m", "kivactl", "loadtest", "scenario.yaml", "--url", f"{target.url}/v1", "--model", target.model, "--folder", "run")
    return Command(argv, {"scenario.yaml": json.dumps({**common, **scenario})}, {"PYTHONPATH": str(ROOT)})


KIVACTL = Contender("kivactl", None, command_for, parse, remark="one process of Locust beside its own", ahead=3, search=search_for, found=found)

"""How full engines treat their machine and each other: with kivactl's plugin for vLLM (`kivactl/stack/quiet_wait.py`), and without.

Run: .venv/bin/python benchmarks/engine_waiting.py [--model demo|tiny] [--engines N] [--rounds 5] [--json FILE]

Real engines, each with a core of its own, one set of them with the plugin and one without; one set computes at a time, in turn, each round
beginning with the other. Each engine gives four answers at a time. Beside them a process sleeps for 10 ms again and again, and another asks for
`/health`: how long did each have to wait, at worst? The ratio is that of the tokens a second. The long waits come with Linux 6.18; on an
older kernel nobody waits that long.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from agreement import demo_model

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

USERS, SECONDS, SLEEP_S = 4, 15, 0.01
TOKENS = {"demo": 32, "tiny": 1800}
WAYS = {"plugin": {}, "vLLM alone": {"VLLM_PLUGINS": ""}}  # an empty list lets none in
FIGURES = ("sleeper_waits_s", "health_waits_s", "tokens_per_s")


def main() -> None:
    options = _options()
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}
    engines: dict[str, list[Any]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory(prefix="kiva-bench-") as name:
        try:
            _start(engines, options, Path(name))
            for number in range(options.rounds):
                for way in list(WAYS)[:: 1 if number % 2 else -1]:
                    figures = asyncio.run(_beside_full(engines[way], TOKENS[options.model]))
                    rounds[way].append(figures)
                    print(f"round {number + 1}: {way:<12}" + ", ".join(f"{key} {value:.3g}" for key, value in figures.items()), flush=True)
        finally:
            for engine in (one for some in engines.values() for one in some):
                engine.end()
    _tell(rounds, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=tuple(TOKENS), default="demo", help="the demo model (prepared by `kivactl up`), or two random layers")
    parser.add_argument("--engines", type=int, default=os.cpu_count(), help="at most one for each core; as many unless told otherwise")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file for every figure of every round")
    return parser.parse_args()


def _start(engines: dict[str, list[Any]], options: argparse.Namespace, folder: Path) -> None:
    """Add to each way its engines, which generate; those that run already are there when one of them fails."""
    import tiny_engine
    import tiny_model

    is_demo = options.model == "demo"
    model, arguments = (demo_model(), ("--load-format", "auto", "--no-enforce-eager")) if is_demo else (tiny_model.build(folder / "model"), ())
    for way, environment in WAYS.items():
        for number in range(options.engines):
            place = folder / f"{way.replace(' ', '-')}-{number}"
            place.mkdir()
            bound = environment | {"VLLM_CPU_OMP_THREADS_BIND": str(number)}
            engines[way].append(tiny_engine.Engine(place, model, arguments=arguments, environment=bound))
            engines[way][-1].until_generating()


async def _beside_full(engines, tokens: int) -> dict[str, float]:
    waits: dict[str, list[float]] = {"sleeper": [], "health": []}
    given = 0

    async def sleeping() -> None:
        # As a process of its own: this one also waits for what its answers cost.
        code = f"import sys, time\nwhile True:\n    began = time.monotonic(); time.sleep({SLEEP_S}); print(time.monotonic() - began - {SLEEP_S}, flush=True)"
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
        try:
            async for line in process.stdout:
                waits["sleeper"].append(float(line))
        finally:
            process.kill()
            await process.wait()

    async def asking(client) -> None:
        while True:
            began_s = time.monotonic()
            (await client.get("/health")).raise_for_status()
            waits["health"].append(time.monotonic() - began_s)
            await asyncio.sleep(0.1)

    async def using(client, until_s: float) -> None:
        nonlocal given
        while time.monotonic() < until_s:
            answer = await client.post("/v1/completions", json={"prompt": "Name a colour.", "max_tokens": tokens, "ignore_eos": True})
            given += answer.raise_for_status().json()["usage"]["completion_tokens"]

    clients = [engine.async_client() for engine in engines]
    beside = [asyncio.create_task(sleeping()), asyncio.create_task(asking(clients[0]))]
    await asyncio.sleep(1)
    for seen in waits.values():
        seen.clear()
    began_s = time.monotonic()
    await asyncio.gather(*(using(client, began_s + SECONDS) for client in clients for _ in range(USERS)))
    took_s = time.monotonic() - began_s
    await asyncio.sleep(0.5)  # who waits until now has been told
    for task in beside:
        task.cancel()
    await asyncio.gather(*beside, *(client.aclose() for client in clients), return_exceptions=True)
    return {"sleeper_waits_s": max(waits["sleeper"]), "health_waits_s": max(waits["health"]), "tokens_per_s": given / took_s}


def _tell(rounds: dict[str, list[dict[str, float]]], options: argparse.Namespace) -> None:
    print(f"\nLinux {os.uname().release}, {os.cpu_count()} cores, {options.engines} engines\n{'':<12}" + "".join(f"{key:>34}" for key in FIGURES))
    for way, seen in rounds.items():
        columns = [[one[key] for one in seen] for key in FIGURES]
        print(f"{way:<12}" + "".join(f"{f'{median(values):.3g} ({min(values):.3g} to {max(values):.3g})':>34}" for values in columns))
    ratios = [ours["tokens_per_s"] / alone["tokens_per_s"] for ours, alone in zip(*rounds.values(), strict=True)]
    print(f"tokens/s, plugin / vLLM alone: {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    if options.json:
        report = {"kernel": os.uname().release, "cores": os.cpu_count(), "engines": options.engines, "model": options.model}
        options.json.write_text(json.dumps({**report, "rounds": rounds, "ratios": ratios}, indent=1))


if __name__ == "__main__":
    main()

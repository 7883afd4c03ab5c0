"""How a full engine treats the rest of its machine: with kivactl's plugin for vLLM (`kivactl/stack/fair_wait.py`), and without.

Run: .venv/bin/python benchmarks/engine_waiting.py [--rounds 5] [--json FILE]

Two real engines of a tiny model, one computing at a time, in turn, each round beginning with the other: sixteen answers of 1,800
tokens. Beside it a process sleeps for 10 ms again and again, and another asks for `/health`: how long did each have to wait, at worst? The
ratio is that of the tokens a second. Where the kernel is older than Linux 6.18 the plugin changes nothing.
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

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

ANSWERS, TOKENS = 16, 1800
SLEEP_S = 0.01
ENVIRONMENTS = {"plugin": {}, "vLLM alone": {"VLLM_PLUGINS": ""}}  # an empty list lets none in
FIGURES = ("sleeper_waits_s", "health_waits_s", "tokens_per_s")


def main() -> None:
    options = _options()
    import tiny_engine
    import tiny_model

    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in ENVIRONMENTS}
    engines: dict[str, tiny_engine.Engine] = {}
    with tempfile.TemporaryDirectory(prefix="kiva-bench-") as name:
        folder = Path(name)
        model = tiny_model.build(folder / "model")
        try:
            for way, environment in ENVIRONMENTS.items():
                place = folder / way.replace(" ", "-")
                place.mkdir()
                engines[way] = tiny_engine.Engine(place, model, environment=environment)
                engines[way].until_generating()
            for number in range(options.rounds):
                for way in list(engines)[:: 1 if number % 2 else -1]:
                    figures = asyncio.run(_beside_a_full(engines[way]))
                    rounds[way].append(figures)
                    print(f"round {number + 1}: {way:<12}" + ", ".join(f"{key} {value:.3g}" for key, value in figures.items()), flush=True)
        finally:
            for engine in engines.values():
                engine.end()
    print(f"\nLinux {os.uname().release}, {os.cpu_count()} cores\n{'':<12}" + "".join(f"{key:>34}" for key in FIGURES))
    for way, seen in rounds.items():
        columns = [[one[key] for one in seen] for key in FIGURES]
        print(f"{way:<12}" + "".join(f"{f'{median(values):.3g} ({min(values):.3g} to {max(values):.3g})':>34}" for values in columns))
    ratios = [ours["tokens_per_s"] / alone["tokens_per_s"] for ours, alone in zip(*rounds.values(), strict=True)]
    print(f"tokens/s, plugin / vLLM alone: {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    if options.json:
        options.json.write_text(json.dumps({"kernel": os.uname().release, "cores": os.cpu_count(), "rounds": rounds, "ratios": ratios}, indent=1))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file for every figure of every round")
    return parser.parse_args()


async def _beside_a_full(engine) -> dict[str, float]:
    waits: dict[str, list[float]] = {"sleeper": [], "health": []}
    async with engine.async_client() as client:

        async def sleeping() -> None:
            # As a process of its own: this one also waits for what its answers cost.
            code = (
                f"import sys, time\nwhile True:\n    began = time.monotonic(); time.sleep({SLEEP_S}); print(time.monotonic() - began - {SLEEP_S}, flush=True)"
            )
            process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
            try:
                async for line in process.stdout:
                    waits["sleeper"].append(float(line))
            finally:
                process.kill()
                await process.wait()

        async def asking() -> None:
            while True:
                began_s = time.monotonic()
                (await client.get("/health")).raise_for_status()
                waits["health"].append(time.monotonic() - began_s)
                await asyncio.sleep(0.1)

        beside = [asyncio.create_task(sleeping()), asyncio.create_task(asking())]
        await asyncio.sleep(1)
        for seen in waits.values():
            seen.clear()
        order = {"prompt": "a", "max_tokens": TOKENS, "ignore_eos": True}
        began_s = time.monotonic()
        for answer in await asyncio.gather(*(client.post("/v1/completions", json=order) for _ in range(ANSWERS))):
            answer.raise_for_status()
        took_s = time.monotonic() - began_s
        await asyncio.sleep(0.5)  # who waits until now has been told
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
    return {"sleeper_waits_s": max(waits["sleeper"]), "health_waits_s": max(waits["health"]), "tokens_per_s": ANSWERS * TOKENS / took_s}


if __name__ == "__main__":
    main()

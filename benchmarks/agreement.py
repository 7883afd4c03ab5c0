"""Do kivactl and `vllm bench serve` agree on a real engine? Both ask the same prompts of the same vLLM, in turn.

Run: .venv/bin/python benchmarks/agreement.py [--model FOLDER] [--rounds 5] [--streams 4] [--requests 48] [--json FILE]

A closed loop; prompts of about 60 tokens, answers of exactly 48. Ratios are of medians over the rounds, kivactl over vllm bench; the
order changes from round to round. Without a model it is the demo model, which `kivactl up` prepares.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kivactl.tools.ports import free_port

ROOT = Path(__file__).parents[1]
FIGURES = ("ttft_p50", "ttft_p95", "tpot_p50", "tpot_p95", "itl_p50", "e2e_p50", "e2e_p95", "requests_per_s", "output_tokens_per_s")
TOKENS, WORDS = 48, 50
_WORDS = "river stone cloud garden letter window market bridge engine forest silver morning paper winter signal harbour teacher island"
_BENCH = """import json, types
from vllm.benchmarks.datasets import datasets
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser

class Lines:
    columns = ("prompt",)
    def __init__(self, path):
        self.rows = [json.loads(line) for line in open(path)]
    def iterrows(self):
        return ((number, types.SimpleNamespace(to_dict=row.copy)) for number, row in enumerate(self.rows))

datasets.pd = types.SimpleNamespace(read_json=lambda path_or_buf, lines: Lines(path_or_buf))
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""
"""What the program `vllm` does behind `bench serve`, with the little of pandas that reading prompts takes, which is not installed here."""
_QUIET = {"DO_NOT_TRACK": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
_READY_WITHIN_S = 300.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of the model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model = options.model or demo_model()
    with tempfile.TemporaryDirectory(prefix="kiva-agreement-") as name, engine(model, Path(name)) as url:
        rounds: list[dict[str, dict[str, float]]] = []
        for number in range(options.rounds):
            tools = (("kivactl", with_kivactl), ("vllm bench", with_vllm_bench))
            folder = Path(name) / str(number)
            folder.mkdir()
            write_prompts(folder / "prompts.jsonl", options.requests, number)
            found = {}
            for tool, measure in tools if number % 2 else reversed(tools):
                found[tool] = measure(folder, url, model, options.streams, options.requests)
                print(f"round {number + 1}, {tool}: TTFT p50 {found[tool]['ttft_p50']:.1f} ms, TPOT p50 {found[tool]['tpot_p50']:.2f} ms", flush=True)
            rounds.append(found)
    show(rounds, options)


def demo_model() -> Path:
    """The demo model as `kivactl up` prepared it."""
    found = sorted(path for path in Path("~/.cache/kivactl/models").expanduser().glob("*smollm2*") if path.is_dir())
    if not found:
        sys.exit("the demo model is not prepared: kivactl up; or give another by --model")
    return found[-1]


def write_prompts(path: Path, count: int, seed: int) -> None:
    """Prompts that no engine knows, the same for both; more than are asked, so that none comes twice."""
    words = _WORDS.split()
    source = random.Random(seed)
    lines = [json.dumps({"prompt": " ".join(source.choices(words, k=WORDS))}) for _ in range(count)]
    path.write_text("\n".join(lines) + "\n")


@contextmanager
def engine(model: Path, folder: Path) -> Iterator[str]:
    """A vLLM with its prefix cache off, for both tools ask the same."""
    port = free_port()
    argv = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--served-model-name", "demo", "--host", "127.0.0.1"]
    argv += ["--port", str(port), "--max-model-len", "2048", "--max-num-seqs", "16", "--no-enable-prefix-caching", "--disable-uvicorn-access-log"]
    environment = {**os.environ, **_QUIET, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "0", "VLLM_CACHE_ROOT": str(folder / "cache")}
    with (folder / "engine.log").open("wb") as log:
        process = subprocess.Popen(argv, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        until = time.monotonic() + _READY_WITHIN_S
        while True:
            if process.poll() is not None or time.monotonic() > until:
                sys.exit("the engine did not start:\n" + (folder / "engine.log").read_text()[-2000:])
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=2):
                    break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def with_kivactl(folder: Path, url: str, _: Path, streams: int, requests: int) -> dict[str, float]:
    """What kivactl measures."""
    scenario = {
        "name": "agreement",
        "load": {"users": streams},
        "requests": requests,
        "warm_up": "0s",
        "prompts": {"file": "prompts.jsonl"},
        "output": {"tokens": TOKENS, "exact": True},
        "service_levels": {"ttft_p95": "1h", "tpot_p95": "1h"},
    }
    (folder / "scenario.yaml").write_text(json.dumps(scenario))
    argv = [sys.executable, "-m", "kivactl", "loadtest", "scenario.yaml", "--url", f"{url}/v1", "--model", "demo", "--folder", "run"]
    subprocess.run(argv, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False, capture_output=True)
    seen = json.loads((folder / "run" / "summary.json").read_text())
    if seen["succeeded"] != requests:
        sys.exit(f"kivactl had {seen['succeeded']} of {requests} answers: {seen['failure_examples']} {seen['invalid']}")
    times = {f"{name}_p{percent}": seen[f"{name}_s"][f"p{percent}"] * 1e3 for name in ("ttft", "tpot", "itl", "e2e") for percent in (50, 95)}
    return {**times, "requests_per_s": seen["requests_per_s"], "output_tokens_per_s": seen["output_tokens_per_s"]}


def with_vllm_bench(folder: Path, url: str, model: Path, streams: int, requests: int) -> dict[str, float]:
    """What `vllm bench serve` measures."""
    (folder / "start.py").write_text(_BENCH)
    words = ["--backend", "openai-chat", "--base-url", url, "--endpoint", "/v1/chat/completions", "--model", "demo", "--tokenizer", str(model)]
    words += ["--dataset-name", "custom", "--dataset-path", "prompts.jsonl", "--custom-output-len", str(TOKENS), "--skip-chat-template", "--ignore-eos"]
    words += ["--num-prompts", str(requests), "--request-rate", "inf", "--max-concurrency", str(streams), "--num-warmups", "0", "--disable-shuffle"]
    words += ["--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,95", "--disable-tqdm", "--temperature", "0"]
    words += ["--save-result", "--result-dir", ".", "--result-filename", "result.json"]
    ran = subprocess.run([sys.executable, "start.py", *words], cwd=folder, env={**os.environ, **_QUIET}, check=False, capture_output=True, text=True)
    if ran.returncode:
        sys.exit(f"vllm bench serve failed:\n{ran.stderr[-2000:]}")
    seen = json.loads((folder / "result.json").read_text())
    if seen["completed"] != requests:
        sys.exit(f"vllm bench serve had {seen['completed']} of {requests} answers")
    names = {"ttft": "ttft", "tpot": "tpot", "itl": "itl", "e2e": "e2el"}
    times = {f"{ours}_p{percent}": seen[f"p{percent}_{theirs}_ms"] for ours, theirs in names.items() for percent in (50, 95)}
    return {**times, "requests_per_s": seen["request_throughput"], "output_tokens_per_s": seen["output_throughput"]}


def show(rounds: list[dict[str, dict[str, float]]], options: argparse.Namespace) -> None:
    """The table, and the figures for machines."""
    print(f"\n{options.streams} streams, {options.requests} requests, {len(rounds)} rounds; times in ms")
    print(f"{'figure':<22}{'kivactl':>10}{'vllm bench':>12}{'ratio':>8}{'spread of the ratio':>24}")
    report = {}
    for name in FIGURES:
        ours, theirs = ([found[tool][name] for found in rounds] for tool in ("kivactl", "vllm bench"))
        ratios = sorted(one / other for one, other in zip(ours, theirs, strict=True))
        ratio = statistics.median(ours) / statistics.median(theirs)
        print(f"{name:<22}{statistics.median(ours):>10.2f}{statistics.median(theirs):>12.2f}{ratio:>8.3f}{f'{ratios[0]:.3f} to {ratios[-1]:.3f}':>24}")
        report[name] = {"kivactl": ours, "vllm bench": theirs, "ratio": ratio}
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()

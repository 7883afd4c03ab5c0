"""What the load generator's processes are told to do: everything but the tokens.

It lies in the run's folder as `scenario.json`; tokens go by an environment variable, so that they are in no file and in
no command line. Plain dataclasses, no pydantic: the generator starts faster without it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from kivactl.loadtest.arrivals import Piece, Process, Profile, arrivals_s, unit_process
from kivactl.loadtest.lengths import Lengths

FOLDER_VARIABLE = "KIVA_LOADTEST_FOLDER"
MACHINE_VARIABLE = "KIVA_LOADTEST_MACHINE"
TOKENS_VARIABLE = "KIVA_LOADTEST_TOKENS"  # a name, not a token
USERS, RATE = "users", "requests/s"
"""Units of a load: of a closed loop, and of an open one."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of requests in a mix.

    Attributes:
        name: Of the kind; in records under `group`. Empty where there is only one.
        share: Its weight among the kinds.
        tenant: Whose token it uses; empty for that of the endpoint.
        model: What it asks.
        texts: Prompts, in turn; empty for others.
        chats: File with conversations, JSON lines with `messages`; None for others.
        prompt: Length of a synthetic prompt, in tokens; None with texts or chats.
        prefix: Length of what several prompts begin with, in tokens; 0 without.
        prefixes: How many different beginnings there are.
        prefix_ratio: How many of the prompts have one, 0..1.
        system: Text of a system message; empty without.
        turns: Length of a conversation.
        pause_s: Seconds from an answer to the conversation's next turn.
        output: Longest answer, in tokens.
        is_exact: Whether the engine is told to fill that length.
        temperature: Of sampling.
        is_streamed: Whether answers come in events.
    """

    name: str
    share: float
    tenant: str
    model: str
    texts: tuple[str, ...]
    chats: str | None
    prompt: Lengths | None
    prefix: int
    prefixes: int
    prefix_ratio: float
    system: str
    turns: Lengths
    pause_s: float
    output: Lengths
    is_exact: bool
    temperature: float
    is_streamed: bool


@dataclass(frozen=True, slots=True)
class Assignment:
    """One run of a load test. A closed loop has `users`, an open one `pieces` or `trace`.

    Attributes:
        users: Users in a closed loop; 0 in an open one.
        think_s: Seconds between a user's answer and the next request.
        process: How arrivals follow each other in an open loop.
        burstiness: Shape of the gamma process.
        pieces: The rate over time, warm-up included.
        trace: Arrivals from a file, as `(seconds, prompt tokens, output tokens)`; lengths of 0 are the scenario's.
        requests: How many are measured; 0 for as many as come in `duration_s`.
        seed: Always set.
        processes: How many generate the load, on all machines together.
        machines: Other machines that generate it, by name, each with as many of the processes; empty where this one does.
        tokens_per_word: Tokens that a word of a synthetic prompt makes, as the engine counted; None where it did not say, and a word counts as one.
        overhead_tokens: Tokens that the engine puts around a prompt.
        has_page: Whether Locust's own page is served, and so has to be told of each request.
    """

    name: str
    url: str
    ca: str | None
    model: str
    users: int
    think_s: float
    process: Process
    burstiness: float
    pieces: tuple[Piece, ...]
    trace: tuple[tuple[float, int, int], ...]
    warm_up_s: float
    duration_s: float
    requests: int
    timeout_s: float
    seed: int
    kinds: tuple[Kind, ...]
    processes: int = 1
    machines: tuple[str, ...] = ()
    tokens_per_word: float | None = None
    overhead_tokens: int = 0
    has_page: bool = False

    @property
    def is_calibrated(self) -> bool:
        """Whether prompts have the tokens that were asked for; given texts are as long as they are."""
        return self.tokens_per_word is not None or not any(kind.prompt for kind in self.kinds)

    @property
    def is_open(self) -> bool:
        return not self.users

    @property
    def is_conducted(self) -> bool:
        """Whether a process conducts that does not generate itself."""
        return self.processes > 1 or bool(self.machines)

    @property
    def words(self) -> str:
        """The load in words."""
        if self.users:
            return "1 user in a closed loop" if self.users == 1 else f"{self.users} users in a closed loop"
        if self.trace:
            return f"{len(self.trace)} arrivals of a trace"
        measured = self._measured_pieces()
        rates = [f"{piece.from_rps:.4g}" if piece.from_rps == piece.until_rps else f"{piece.from_rps:.4g} to {piece.until_rps:.4g}" for piece in measured]
        return f"{self.process.capitalize()} arrivals at {', '.join(rates)} requests/s"

    def lasting(self, duration_s: float) -> Assignment:
        """The same load without a warm-up, for so long."""
        last = self.pieces[-1].until_rps if self.pieces else 0.0
        pieces = (Piece(duration_s, last, last),) if self.pieces else ()
        return replace(self, warm_up_s=0.0, duration_s=duration_s, requests=0, pieces=pieces)

    def with_load(self, load: float, unit: str, seed: int) -> Assignment:
        """The same with so many `USERS` or such a `RATE`, and nothing after the measured phase: what is under way is answered, and the platform is free."""
        if unit == USERS:
            return replace(self, users=round(load), seed=seed)
        spans_s = [span_s for span_s in (self.warm_up_s, self.duration_s) if span_s]
        return replace(self, pieces=tuple(Piece(span_s, load, load) for span_s in spans_s), seed=seed)

    def due_within(self, duration_s: float) -> int:
        """How many requests are due within the first seconds of the measured phase."""
        end_s = self.warm_up_s + duration_s
        return sum(1 for at_s in takewhile(lambda at_s: at_s < end_s, self.schedule()) if at_s >= self.warm_up_s)

    def begins_s(self, number: int) -> float:
        """When a user of a closed loop begins, in seconds from the beginning of the warm-up.

        They come one after another within half of it: answers of one length would let users that begin together keep step for good, and
        load the platform in waves.

        Args:
            number: Of the conversation, from 0: the first ones are each user's first, and those that follow begin at once.
        """
        return self.warm_up_s / 2 * number / self.users if number < self.users else 0.0

    def _measured_pieces(self) -> Iterator[Piece]:
        """The rate over the measured phase alone."""
        begins_s, end_s = 0.0, self.warm_up_s + self.duration_s
        for piece in self.pieces:
            if begins_s >= self.warm_up_s - 1e-9 and begins_s < end_s - 1e-9:
                yield piece
            begins_s += piece.duration_s

    def schedule(self) -> Iterator[float]:
        """When requests arrive in an open loop, in seconds from the beginning of the warm-up; the same for all processes."""
        if self.trace:
            return (at_s for at_s, _, _ in self.trace)
        if not self.requests:
            return self._arrivals()
        of_warm_up = sum(1 for _ in takewhile(lambda at_s: at_s < self.warm_up_s, self._arrivals()))
        return islice(self._arrivals(), of_warm_up + self.requests)

    def _arrivals(self) -> Iterator[float]:
        return arrivals_s(Profile(self.pieces), unit_process(self.process, self.seed, self.burstiness))

    def to_json(self) -> str:
        """The assignment as indented JSON."""
        return json.dumps(asdict(self), indent=2)


@dataclass(frozen=True, slots=True)
class Folder:
    """The files of one run."""

    path: Path

    @property
    def scenario(self) -> Path:
        return self.path / "scenario.json"

    @property
    def records(self) -> Path:
        return self.path / "records.jsonl"

    def records_of(self, worker: int) -> Path:
        """The spool of one of the generator's processes."""
        return self.records if worker == 0 else self.path / f"records-{worker}.jsonl"

    @property
    def spools(self) -> list[Path]:
        """All spools there are."""
        return [path for path in (self.records, *sorted(self.path.glob("records-*.jsonl"))) if path.exists()]

    @property
    def packed(self) -> Path:
        """All records, compressed, once the run is over."""
        return self.path / "records.jsonl.gz"

    @property
    def end(self) -> Path:
        """Once this file is there the users ask nothing new, and the generator ends when what is under way is answered."""
        return self.path / "end"

    @property
    def broken(self) -> Path:
        """Once this file is there the measurement is lost; it holds the reason as one sentence."""
        return self.path / "broken"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def report(self) -> Path:
        return self.path / "report.md"

    @property
    def page(self) -> Path:
        return self.path / "report.html"

    @property
    def junit(self) -> Path:
        return self.path / "junit.xml"

    @property
    def samples(self) -> Path:
        """What the engines said of themselves meanwhile."""
        return self.path / "engines.jsonl"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"


def parse_assignment(text: str) -> Assignment:
    """Read what `to_json` wrote."""
    fields: dict[str, Any] = json.loads(text)
    return Assignment(
        **{
            **fields,
            "process": Process(fields["process"]),
            "machines": tuple(fields["machines"]),
            "pieces": tuple(Piece(**piece) for piece in fields["pieces"]),
            "trace": tuple((at_s, prompt, output) for at_s, prompt, output in fields["trace"]),
            "kinds": tuple(_kind(kind) for kind in fields["kinds"]),
        }
    )


def _kind(fields: dict[str, Any]) -> Kind:
    lengths = {name: Lengths(**fields[name]) for name in ("turns", "output")}
    return Kind(**{**fields, **lengths, "texts": tuple(fields["texts"]), "prompt": Lengths(**fields["prompt"]) if fields["prompt"] else None})

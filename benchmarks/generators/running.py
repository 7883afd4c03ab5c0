"""One generator against one mock engine: each on a core of its own, both preferred to the machine's other work, what both said read."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from generators import mock
from generators.contenders import Contender
from generators.environments import QUIET
from generators.loads import Command, Figures, Found, Goal, Load, Target
from generators.truth import LATE_MS, Truth

_START_S = 90
"""What a generator may take to import, to make its prompts and to end, beyond the load itself."""
_PROMPT_TOKEN_S = 60e-6
"""What making a token of a prompt may take: tokenizers take their time for long ones."""

Read = TypeVar("Read")


@dataclass(frozen=True)
class Bench:
    """What all runs share.

    Attributes:
        mock_program: The compiled mock engine.
        tokenizer: Folder of the tokenizer.
        programs: Each contender's folder of programs.
        mock_core: Where the mock engine runs alone; None where there is one core only.
        cores: Where generators run.
        scratch: Folder for what runs leave; in memory, as no generator is to wait for a disk.
    """

    mock_program: Path
    tokenizer: Path
    programs: Mapping[str, Path]
    mock_core: int | None
    cores: frozenset[int]
    scratch: Path


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        figures: What the generator said; None when it failed or said nothing.
        truth: What the mock engine saw.
        cpu_s: CPU time of all of the generator's processes, start and end included.
        wall_s: How long it took, start and end included.
        broken: Why there are no figures, or why they do not count; empty when all is well.
    """

    contender: str
    load: Load
    figures: Figures | None
    truth: Truth
    cpu_s: float
    wall_s: float
    broken: str

    @property
    def is_void(self) -> bool:
        """Whether the mock engine itself was too late for the run to say anything."""
        return self.truth.late_p99_ms > LATE_MS


@dataclass(frozen=True)
class Searched:
    """What a search found.

    Attributes:
        found: None when it failed.
        requests: How many the mock engine got.
        wall_s: How long it took, start and end included.
        broken: Why nothing was found; empty when all is well.
    """

    found: Found | None
    requests: int
    wall_s: float
    broken: str


@dataclass(frozen=True)
class _Ended:
    """A program's run: the folder it worked in, the mock engine's truth, CPU and wall time, and why it did not end well."""

    folder: Path
    truth: Truth
    cpu_s: float
    wall_s: float
    said: str


def run(bench: Bench, contender: Contender, load: Load, options: Mapping[str, object]) -> Run:
    """Let a generator load a mock engine that was started for it.

    Args:
        bench: What all runs share.
        contender: The generator.
        load: What it is asked to do.
        options: The mock engine's.
    """
    within_s = _START_S + 3 * load.seconds + 5 * load.service_s + load.requests * load.prompt_tokens * _PROMPT_TOKEN_S
    with _ended(bench, contender, lambda target, programs: contender.command(load, target, programs), options, within_s) as done:
        figures, broken = _read(contender.parse, done)
        if not broken and done.truth.late_p99_ms > LATE_MS:
            broken = f"the mock engine was late (p99 {done.truth.late_p99_ms:.2f} ms): does not count"
        return Run(contender.name, load, figures, done.truth, done.cpu_s, done.wall_s, broken)


def search(bench: Bench, contender: Contender, goal: Goal, options: Mapping[str, object], within_s: float) -> Searched:
    """Let a generator search for the capacity of a mock engine."""
    if contender.search is None or contender.found is None:
        raise ValueError(f"{contender.name} has no search")
    find = contender.search
    with _ended(bench, contender, lambda target, programs: find(goal, target, programs), options, within_s) as done:
        found, broken = _read(contender.found, done)
        return Searched(found, len(done.truth.requests), done.wall_s, broken)


@contextmanager
def _ended(
    bench: Bench, contender: Contender, command_for: Callable[[Target, Path], Command], options: Mapping[str, object], within_s: float
) -> Iterator[_Ended]:
    """A generator's run from begin to end; what it left is there until the context is."""
    with tempfile.TemporaryDirectory(prefix=f"{contender.name}-", dir=bench.scratch) as name:
        folder = Path(name)
        work = folder / "work"
        work.mkdir()
        began = time.monotonic()
        with mock.serving(bench.mock_program, folder, options, bench.mock_core) as engine:
            command = command_for(Target(engine.url, mock.MODEL, bench.tokenizer), bench.programs[contender.name])
            for file, text in command.files.items():
                (work / file).write_text(text)
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            said = _end_of(bench, command, work, within_s)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            wall_s = time.monotonic() - began
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        yield _Ended(work, engine.truth(), cpu_s, wall_s, said)


def _end_of(bench: Bench, command: Command, folder: Path, within_s: float) -> str:
    """Run a program to its end; why it did not end well, or nothing."""
    ours = {**os.environ, **QUIET, "PYTHONPATH": None, **command.env}
    environment = {key: value for key, value in ours.items() if value is not None}
    with (folder / "output.txt").open("wb") as output:
        child = subprocess.Popen(
            ["taskset", "--cpu-list", ",".join(map(str, sorted(bench.cores))), *command.argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd=folder,
            env=environment,
        )
        # Not in real time: generators of several processes would then wait 100 ms for each other.
        mock.prefer(child.pid)
        try:
            code = child.wait(within_s)
            said = "" if code == 0 else f"ended with {code}"
        except subprocess.TimeoutExpired:
            said = f"did not end within {within_s:.0f} s"
        finally:
            _end_group(child)
    if said:
        lines = [line for line in (folder / "output.txt").read_text(errors="replace").splitlines() if line.strip()]
        said += f": {' / '.join(lines[-3:]).replace('|', '/')[-600:]}" if lines else ""
    return said


def _end_group(child: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, number)
            child.wait(5)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def _read(parse: Callable[[Path], Read], done: _Ended) -> tuple[Read | None, str]:
    if done.said.startswith("did not end"):
        return None, done.said
    try:
        # A program that complains of failed requests by its exit code has figures nonetheless.
        return parse(done.folder), ""
    except (OSError, ValueError, KeyError, TypeError) as error:
        return None, done.said or f"left no figures: {error!r}"


def progress(text: str) -> None:
    """Say on standard error what goes on."""
    print(text, file=sys.stderr, flush=True)

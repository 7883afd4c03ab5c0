"""Programs that the benchmark starts: found with advice on how to get them, pinned to its cores, and always ended."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from kivactl.tools.ports import free_pair

HERE = Path(__file__).parent
CACHE = Path("~/.cache/kivactl/benchmarks").expanduser()
ADVICE = {
    "wrk": "apt-get install wrk",
    "gcc": "apt-get install gcc libc6-dev",
    "envoy": "pip install 'kivactl[local]'",
    "litellm": f"python3 -m venv {CACHE}/litellm && {CACHE}/litellm/bin/pip install 'litellm[proxy]'",
    "vllm-router": f"python3 -m venv {CACHE}/vllm-router && {CACHE}/vllm-router/bin/pip install vllm-router==0.1.17",
}


def find(name: str) -> Path:
    """A program: in its own environment below the cache folder, beside this Python, or on PATH; ends the benchmark with advice."""
    for place in (CACHE / name / "bin" / name, Path(sys.executable).parent / name):
        if place.exists():
            return place
    found = shutil.which(name)
    if found is None:
        sys.exit(f"{name} is missing; get it with: {ADVICE[name]}")
    return Path(found)


def version_of(program: str, package: str | None = None) -> str:
    """What it says of its version; for a Python package, what its environment says."""
    if package is None:
        return subprocess.run([find(program), "--version"], check=False, capture_output=True, text=True).stdout.strip().splitlines()[0]
    asks = f"import importlib.metadata; print(importlib.metadata.version('{package}'))"
    return subprocess.run([find(program).parent / "python", "-c", asks], check=True, capture_output=True, text=True).stdout.strip()


def pin(count: int) -> tuple[int, ...]:
    """Bind this process and all it will start to the first cores it may use."""
    cores = tuple(sorted(os.sched_getaffinity(0)))[:count]
    os.sched_setaffinity(0, cores)
    return cores


def build_mock(folder: Path) -> Path:
    """Compile the mock engine into a folder."""
    program = folder / "mock_engine"
    subprocess.run([find("gcc"), "-O2", "-Wall", "-Wextra", "-o", program, HERE / "mock_engine.c"], check=True)
    return program


@contextmanager
def running(
    argv: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A program in a process group of its own, ended with all its children."""
    with log.open("ab") as output:
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd=folder, env={**os.environ, **(environment or {})}
        )
    try:
        yield child
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(child.pid, number)
                child.wait(5)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
        child.wait()


def free_pairs(count: int) -> list[int]:
    """Ports nobody listens on, each with the one after it."""
    found: set[int] = set()
    while len(found) < count:
        found.add(free_pair())
    return list(found)


def until_answers(port: int, tls: bool, token: str, body: bytes, log: Path, within_s: float, alive: Callable[[], bool]) -> None:
    """Wait until a request is answered with 200; ends the benchmark when that never happens."""
    deadline = time.monotonic() + within_s
    seen = ""
    while time.monotonic() < deadline and alive():
        context = ssl._create_unverified_context()  # a certificate made a moment ago for this run
        connection = (
            http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context) if tls else http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        )
        try:
            connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json", "authorization": f"Bearer {token}"})
            answer = connection.getresponse()
            seen = f"{answer.status} {answer.read()[:300]!r}"
            if answer.status == 200:
                return
        except (OSError, http.client.HTTPException) as error:
            seen = repr(error)
        finally:
            connection.close()
        time.sleep(0.2)
    sys.exit(f"{log.stem} does not answer: {seen or 'it ended'}\n{log.read_text(errors='replace')[-3000:]}")


def cpu_s(pids: Sequence[int]) -> float:
    """Seconds of CPU time of processes and their children so far."""
    import psutil

    total = 0.0
    for pid in pids:
        leader = psutil.Process(pid)
        for process in [leader, *leader.children(recursive=True)]:
            times = process.cpu_times()
            total += times.user + times.system
    return total

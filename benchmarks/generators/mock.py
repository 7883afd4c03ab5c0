"""The mock engine: compiled, started, ended, and what it wrote down."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from generators.truth import Truth, read_truth
from kivactl.tools.ports import free_port

HERE = Path(__file__).parent
MODEL = "demo"


@dataclass(frozen=True)
class Mock:
    """A running mock engine.

    Attributes:
        port: On 127.0.0.1.
        pid: Its process.
        truth_file: There once it has ended.
    """

    port: int
    pid: int
    truth_file: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def truth(self) -> Truth:
        """What it wrote down; only after its end."""
        return read_truth(self.truth_file)


def build(folder: Path) -> Path:
    """Compile the mock engine into a folder; ends the benchmark with advice where there is no compiler."""
    if shutil.which("gcc") is None:
        sys.exit("gcc is missing; get it with: apt-get install gcc libc6-dev")
    program = folder / "mock_engine"
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-o", program, HERE / "mock_engine.c"], check=True)
    return program


@contextmanager
def serving(program: Path, folder: Path, options: Mapping[str, object], core: int | None = None) -> Iterator[Mock]:
    """A mock engine that answers, ended on leaving.

    Args:
        program: What `build` made.
        folder: For its truth file.
        options: Its options without the dashes; None and False leave one out, True is one without a value, a list repeats it.
        core: Where alone it runs.
    """
    port = free_port()
    truth = folder / "truth.jsonl"
    argv = [program, "--port", str(port), "--truth", truth, "--model", MODEL, *words_for(options)]
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        if core is not None:
            os.sched_setaffinity(child.pid, {core})
        with suppress(OSError):  # it must not be late, and takes little; only root may
            os.sched_setscheduler(child.pid, os.SCHED_FIFO, os.sched_param(1))
        _until_listening(port, child)
        yield Mock(port, child.pid, truth)
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(60)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def words_for(options: Mapping[str, object]) -> list[str]:
    """The options as words of a command line."""
    words = []
    for name, value in options.items():
        for one in value if isinstance(value, list) else [value]:
            if one is True:
                words.append(f"--{name}")
            elif one is not None and one is not False:
                words += [f"--{name}", str(one)]
    return words


def prefer(pid: int) -> None:
    """Let a process that leads a session go before the machine's other work; only root may, others measure as they are."""
    with suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text("-10")


def _until_listening(port: int, child: subprocess.Popen[bytes], within_s: float = 10) -> None:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline and child.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    sys.exit(f"the mock engine does not listen on port {port}: {'it goes on' if child.poll() is None else f'it ended with {child.returncode}'}")

"""Programs that are spoken with while they run."""

from __future__ import annotations

import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from kivactl.errors import PreconditionError
from kivactl.tools.process import Dialogue

AT_ONCE = ((signal.SIGKILL, 5.0),)


def python(script: str) -> list[str]:
    return [sys.executable, "-c", script]


def heard(dialogue: Dialogue) -> bytes:
    whole = b""
    while piece := dialogue.hear():
        whole += piece
    return whole


def until_ended(pid: int) -> None:
    """What is killed goes when it is next on a processor, a moment later."""
    until_s = time.monotonic() + 10
    with suppress(psutil.NoSuchProcess):
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < until_s, "it goes on"
            time.sleep(0.01)


def test_bytes_go_in_and_come_out_and_errors_are_kept(tmp_path: Path) -> None:
    script = "import sys; sys.stderr.write('first\\r\\nlast'); data = sys.stdin.buffer.readline(); sys.stdout.buffer.write(data * 50_000); sys.exit(3)"
    dialogue = Dialogue(python(script), cwd=tmp_path, env={"X": "1"})
    assert dialogue.say(b"\xff\x00word\n")
    assert heard(dialogue) == b"\xff\x00word\n" * 50_000
    assert dialogue.hear() == b""
    assert dialogue.wait(10) == 3
    assert dialogue.talk == ("first", "last")
    assert not dialogue.say(b"more\n" * 100_000)
    assert dialogue.end() == 3
    assert dialogue.end() == 3


def test_it_sees_the_end_of_its_input() -> None:
    dialogue = Dialogue(python("import sys; sys.stdin.read(); print('over')"))
    assert dialogue.wait(0.05) is None
    dialogue.hush()
    assert heard(dialogue) == b"over\n"
    assert dialogue.wait(10) == 0
    assert not dialogue.say(b"x")


def test_what_goes_on_is_ended_with_all_it_started() -> None:
    # One write: `print` may give its end of line one of its own, which is then heard later.
    script = "import os, subprocess; child = subprocess.Popen(['sleep', '600']); os.write(1, f'{child.pid}\\n'.encode()); child.wait()"
    dialogue = Dialogue(python(script))
    child = int(dialogue.hear())
    assert dialogue.end(AT_ONCE) == -signal.SIGKILL
    assert dialogue.hear() == b""
    until_ended(child)


def test_what_only_talks_is_not_heard() -> None:
    dialogue = Dialogue(python("print('out', flush=True); import sys; sys.stderr.write('err')"), only_talks=True)
    assert dialogue.wait(10) == 0
    assert dialogue.talk == ("out", "err")


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(PreconditionError, match="is not there"):
        Dialogue(["/no/such/program"])

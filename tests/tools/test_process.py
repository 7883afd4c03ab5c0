"""Running programs, with real small children."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from kivactl.errors import PreconditionError, ToolError
from kivactl.tools import process


def python(code, **options):
    return process.run([sys.executable, "-c", code], **options)


def test_what_it_printed_is_kept():
    done = python("import sys; print('out'); print('err', file=sys.stderr)")
    assert (done.code, done.stdout, done.stderr) == (0, "out\n", "err\n")


def test_a_failure_names_the_program_and_shows_its_last_lines():
    with pytest.raises(ToolError, match=r"failed with exit code 42") as caught:
        python("import sys; sys.stderr.write('why it failed'); sys.exit(42)")
    assert caught.value.details == ("why it failed",)


def test_death_by_signal_is_named():
    with pytest.raises(ToolError, match="was ended by SIGKILL"):
        python("import os; os.kill(os.getpid(), 9)")


def test_a_missing_program():
    with pytest.raises(PreconditionError, match="no-such-program"):
        process.run(["no-such-program"])
    with pytest.raises(PreconditionError, match="not on PATH"):
        process.find("no-such-program")


def test_input_and_environment():
    assert python("print(input())", stdin="hello").stdout == "hello\n"
    assert python("import os; print(os.environ['A'])", env={"A": "1"}).stdout == "1\n"
    assert python("import os; print('HOME' in os.environ)", env={"A": "1"}, inherit=False).stdout == "False\n"


def running(pid):
    """Whether a process runs; one that ended but was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_time_out_ends_the_whole_group():
    code = "import subprocess, sys, time; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)']).pid, flush=True); time.sleep(99)"
    lines = process.stream([sys.executable, "-c", code], timeout_s=1)
    grandchild = int(next(lines))
    with pytest.raises(ToolError, match="did not end within 1 s"):
        list(lines)
    for _ in range(100):
        if not running(grandchild):
            return
        time.sleep(0.05)
    pytest.fail("the grandchild outlived its group")


def test_lines_come_while_it_runs():
    lines = process.stream([sys.executable, "-c", "print('a', flush=True); input()"], check=False)
    assert next(lines) == "a"
    lines.close()


def test_leaving_a_stream_early_ends_the_child():
    lines = process.stream([sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(99)"])
    pid = int(next(lines))
    lines.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_stream_that_fails_shows_its_last_lines():
    with pytest.raises(ToolError, match="exit code 3") as caught:
        list(process.stream([sys.executable, "-c", "print('last words'); raise SystemExit(3)"]))
    assert caught.value.details == ("last words",)


def test_a_child_that_ignores_interrupts_is_ended_all_the_same(monkeypatch):
    monkeypatch.setattr(process, "_LADDER", ((signal.SIGINT, 0.2), (signal.SIGTERM, 0.2), (signal.SIGKILL, 5.0)))
    code = "import signal, time; [signal.signal(s, signal.SIG_IGN) for s in (2, 15)]; print('ready', flush=True); time.sleep(99)"
    lines = process.stream([sys.executable, "-c", code])
    assert next(lines) == "ready"
    lines.close()

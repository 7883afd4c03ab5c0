"""Running programs, with real small children."""

import os
import signal
import subprocess
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


def test_a_child_that_ignores_interrupts_is_ended_all_the_same():
    code = "import signal, time; [signal.signal(s, signal.SIG_IGN) for s in (2, 15)]; print('ready', flush=True); time.sleep(99)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True) as child:
        assert child.stdout.readline() == "ready\n"
        process.end(child, ((signal.SIGINT, 0.2), (signal.SIGTERM, 0.2), (signal.SIGKILL, 5.0)))
        assert child.returncode == -signal.SIGKILL


def following(tmp_path, code, **options):
    return process.follow([sys.executable, "-c", code], tmp_path / "record", cwd=tmp_path, env=dict(os.environ), **options)


def test_what_goes_to_a_file_is_followed(tmp_path):
    lines, code = [], None
    run = following(tmp_path, "import sys; open('made', 'w')\nfor n in range(3): print(n, flush=True)\nsys.stderr.write('last'); sys.exit(3)")
    while code is None:
        try:
            lines.append(next(run))
        except StopIteration as ended:
            code = ended.value
    assert (lines, code) == (["0", "1", "2", "last"], 3)
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in ("record", "made")} == {0o600}


def test_one_that_is_followed_may_finish_its_work_when_interrupted(tmp_path):
    code = (
        "import signal, sys, pathlib\ndef done(*_): pathlib.Path('finished').touch(); print('x' * 200000, flush=True); sys.exit()\n"
        "signal.signal(signal.SIGINT, done); print('ready', flush=True); signal.pause()"
    )
    run = following(tmp_path, code)
    assert next(run) == "ready"
    run.close()
    assert (tmp_path / "finished").exists()


def test_one_that_is_followed_and_does_not_listen_is_killed(tmp_path):
    code = "import os, signal, time; [signal.signal(n, signal.SIG_IGN) for n in (2, 15)]; print(os.getpid(), flush=True); time.sleep(99)"
    run = following(tmp_path, code, ladder=((signal.SIGINT, 0.2), (signal.SIGTERM, 0.2), (signal.SIGKILL, 5.0)))
    child = int(next(run))
    run.close()
    assert not running(child)


def test_one_that_is_followed_outlives_a_killed_kivactl(tmp_path):
    code = "import time\nfor n in range(100): print(n, flush=True); time.sleep(0.01)\nopen('finished', 'w').close()"
    script = (
        "import os, sys; from pathlib import Path; from kivactl.tools import process\n"
        f"run = process.follow([sys.executable, '-c', {code!r}], Path('record'), cwd=Path({str(tmp_path)!r}), env=dict(os.environ))\n"
        "next(run); os.kill(os.getpid(), 9)"
    )
    assert python_in(tmp_path, script) == -9
    deadline = time.monotonic() + 30
    while not (tmp_path / "finished").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (tmp_path / "record").read_text().splitlines()[-1] == "99"


def test_a_further_interrupt_does_not_wait(tmp_path):
    code = (
        "import os, signal, threading, time; from pathlib import Path; from kivactl.tools import process\n"
        "run = process.follow(['sh', '-c', 'echo begun; trap \\'touch stopped; exit\\' INT; while :; do sleep 0.1; done'], Path('record'), cwd=Path.cwd(),\n"
        "                     env=dict(os.environ), ladder=((0, 600.0), (signal.SIGINT, 30.0)))\n"
        "next(run); signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()\n"
        "run.close(); print(Path('stopped').exists())"
    )
    assert process.run([sys.executable, "-c", code], cwd=tmp_path, timeout_s=60).stdout == "True\n"


def test_one_that_is_followed_has_a_time(tmp_path):
    with pytest.raises(ToolError, match="did not end within 1 s"):
        list(following(tmp_path, "import time; time.sleep(99)", timeout_s=1))


def python_in(folder, script):
    return process.run([sys.executable, "-c", script], cwd=folder, check=False).code

"""Whatever happens below the boundary becomes one sentence and an exit code."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import typer

from kivactl import errors
from kivactl.cli import app, boundary
from kivactl.cli.boundary import asked_mode, redacted
from kivactl.cli.commands import Entry
from kivactl.cli.output import Mode

TOKEN = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"


@pytest.fixture
def behaving(monkeypatch):
    """Put a command `try` on the command line that does what a function does."""

    def put(function):
        module = ModuleType("kivactl.cli.commands.try_")

        def command(context: typer.Context) -> None:
            """Try."""
            function()

        # Typer resolves annotations in the function's module, where they are not.
        command.__annotations__ = {"context": typer.Context}
        module.command = command
        monkeypatch.setitem(sys.modules, "kivactl.cli.commands.try_", module)
        monkeypatch.setattr(app, "registered", lambda: (Entry("try_", "Run", "Try."),))

    return put


def raising(error):
    def act():
        raise error

    return act


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.UsageError, 2),
        (errors.SpecError, 2),
        (errors.PreconditionError, 3),
        (errors.ToolError, 4),
        (errors.NotReadyError, 5),
        (errors.CheckError, 6),
        (errors.InvalidMeasurementError, 7),
        (errors.Interrupted, 130),
    ],
)
def test_each_error_has_its_code_sentence_details_and_hint(kivactl, behaving, kind, code):
    behaving(raising(kind("the engine died", "kivactl logs", ("line 1\nline 2", "line 3"))))
    seen = kivactl("try_")
    assert (seen.code, seen.stdout) == (code, "")
    assert seen.stderr == "error: the engine died\n  line 1\n  line 2\n  line 3\nhint: kivactl logs\n"


def test_programs_get_the_error_as_json_on_stdout(kivactl, behaving):
    behaving(raising(errors.ToolError("the engine died", "kivactl logs", ("line 1",))))
    seen = kivactl("try_", "--output", "json")
    assert (seen.code, seen.stderr) == (4, "")
    assert json.loads(seen.stdout) == {"error": {"code": 4, "message": "the engine died", "hint": "kivactl logs", "details": ["line 1"]}}


@pytest.mark.parametrize(("error", "code"), [(OSError(28, "full", "/x"), 3), (PermissionError(13, "no", "/x"), 3), (OSError(30, "ro", "/x"), 3)])
def test_the_systems_refusals_are_told(kivactl, behaving, error, code):
    behaving(raising(error))
    seen = kivactl("try_")
    assert seen.code == code
    assert "/x" in seen.stderr
    assert seen.stderr.count("error: ") == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), typer.Abort(), EOFError()])
def test_ctrl_c_is_one_sentence(kivactl, behaving, error):
    behaving(raising(error))
    seen = kivactl("try_")
    assert (seen.code, seen.stdout, seen.stderr) == (130, "", "error: interrupted\nhint: the same command goes on from here\n")


def test_an_exit_code_passes_through(kivactl, behaving):
    behaving(raising(typer.Exit(2)))
    assert kivactl("try_") == type(kivactl("try_"))(2, "", "")


@pytest.mark.parametrize("error", [ValueError(f"oops {TOKEN}"), OSError(5, "I/O error"), BrokenPipeError(32, "a socket's")])
def test_our_bug_leaves_a_private_traceback_without_secrets(kivactl, behaving, monkeypatch, tmp_path, error):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    behaving(raising(error))
    seen = kivactl("try_")
    (report,) = tmp_path.glob("kivactl-bug-*")
    assert seen.code == 1
    assert seen.stderr.startswith(f"error: kivactl has a bug: {type(error).__name__} at test_boundary.py:")
    assert str(report) in seen.stderr
    assert TOKEN not in seen.stderr + report.read_text()
    assert "Traceback" in report.read_text()
    assert "Traceback" not in seen.stderr
    assert stat.S_IMODE(report.stat().st_mode) == 0o600


@pytest.mark.parametrize("flag", ["--debug", "--verbose"])
def test_debug_shows_the_traceback_instead(kivactl, behaving, monkeypatch, tmp_path, flag):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    behaving(raising(ValueError(f"oops {TOKEN}")))
    seen = kivactl("try_", flag)
    assert seen.code == 1
    assert "Traceback" in seen.stderr
    assert TOKEN not in seen.stderr
    assert list(tmp_path.glob("kivactl-bug-*")) == []


def test_a_traceback_that_cannot_be_written_leads_to_debug(kivactl, behaving, monkeypatch):
    def full(**_):
        raise OSError(28, "full")

    monkeypatch.setattr(tempfile, "mkstemp", full)
    behaving(raising(ValueError("oops")))
    seen = kivactl("try_")
    assert seen.code == 1
    assert "--debug" in seen.stderr


def test_a_terminals_control_codes_are_made_visible(kivactl, behaving):
    behaving(raising(errors.ToolError("died", details=("\x1b[2Jgone\x07", "tab\tstays"))))
    assert kivactl("try_").stderr == "error: died\n  \\x1b[2Jgone\\x07\n  tab\tstays\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"GET / with {TOKEN}.", "GET / with ***."),
        (f"Authorization: Bearer {TOKEN}", "Authorization: Bearer ***"),
        ("authorization: bearer abcdefgh1234", "authorization: bearer ***"),
        ("api_key='abcdefgh'", "api_key='***'"),
        ("https://me:geheim@host/x", "https://me:***@host/x"),
        ("-----BEGIN EC PRIVATE KEY-----\nabc\n-----END EC PRIVATE KEY-----\nrest", "***\nrest"),
        ("-----BEGIN PRIVATE KEY-----\nabc", "***"),
        ("the token of tenant 'hr' has run out", "the token of tenant 'hr' has run out"),
        ("models[0].replicas: must be at least 1, not -2", "models[0].replicas: must be at least 1, not -2"),
    ],
)
def test_what_looks_like_a_secret_is_hidden(text, shown):
    assert redacted(text) == shown


@pytest.mark.parametrize(
    ("words", "mode"),
    [
        ([], Mode.HUMAN),
        (["x", "--output", "json"], Mode.JSON),
        (["-o", "json", "x"], Mode.JSON),
        (["--output=json", "-o", "human"], Mode.HUMAN),
        (["--output"], Mode.HUMAN),
        (["--output", "xml"], Mode.HUMAN),
    ],
)
def test_the_mode_is_read_off_a_wrong_command_line_too(words, mode):
    assert asked_mode(words) is mode


def test_sigterms_former_handler_comes_back(kivactl):
    before = signal.getsignal(signal.SIGTERM)
    kivactl("--version")
    assert signal.getsignal(signal.SIGTERM) is before


def test_signals_that_come_together_are_one(monkeypatch):
    now_s = 0.0
    monkeypatch.setattr(boundary, "time", SimpleNamespace(monotonic=lambda: now_s))
    with boundary._stopped_once():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        for later_s in (0.0, 0.1, 0.2):
            now_s = later_s
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
        now_s = 1.0
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_where_sigint_is_ignored_it_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with boundary._stopped_once():
            signal.raise_signal(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("mode", ["human", "json"])
def test_a_signal_ends_a_real_process_carefully(tmp_path: Path, number: signal.Signals, mode: str):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import signal, sys, time
        from types import ModuleType
        import typer
        from kivactl.cli import app
        from kivactl.cli.boundary import run
        from kivactl.cli.commands import Entry

        def command(context: typer.Context) -> None:
            try:
                print("ready", flush=True)
                signal.sigtimedwait([], 60)
            finally:
                print("cleaning up", flush=True)
                time.sleep(0.1)
                print("cleaned up", flush=True)

        module = ModuleType("kivactl.cli.commands.wait")
        module.command = command
        sys.modules["kivactl.cli.commands.wait"] = module
        app.registered = lambda: (Entry("wait", "Run", "Wait."),)
        sys.exit(run(sys.argv[1:]))
        """)
    )
    child = subprocess.Popen([sys.executable, str(script), "wait", "--output", mode], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        os.kill(child.pid, number)
        assert child.stdout.readline() == "cleaning up\n"
        os.kill(child.pid, signal.SIGINT)  # as `timeout` and shells do: to the program, and to its group
        stdout, stderr = child.communicate(timeout=60)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == 130
    assert stdout.startswith("cleaned up\n")
    if mode == "human":
        assert stderr == "error: interrupted\nhint: the same command goes on from here\n"
    else:
        assert json.loads(stdout.removeprefix("cleaned up\n"))["error"]["code"] == 130


def test_the_boundary_works_outside_the_main_thread(kivactl):
    import threading

    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(boundary.run(["--version"])))
    thread.start()
    thread.join()
    assert codes == [0]

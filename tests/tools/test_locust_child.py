from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from kivactl.errors import PreconditionError, ToolError
from kivactl.tools import locust
from kivactl.tools.ports import free_port


def test_the_command_line() -> None:
    command = locust.command_for(Path("/x/user.py"), users=7)
    assert command[:4] == (sys.executable, "-P", "-m", "locust")
    assert command[command.index("--locustfile") + 1] == "/x/user.py"
    assert command[command.index("--users") + 1] == command[command.index("--spawn-rate") + 1] == "7"
    assert {"--headless", "--only-summary"} <= set(command)


def test_several_processes_speak_on_a_port_of_the_loopback_interface() -> None:
    argv = locust.command_for(Path("/x/user.py"), users=2, processes=4)
    assert argv[argv.index("--processes") + 1] == "4"
    assert argv[argv.index("--users") + 1] == "4"  # one at least for each
    assert {argv[argv.index(option) + 1] for option in ("--master-host", "--master-bind-host")} == {"127.0.0.1"}
    assert argv[argv.index("--master-port") + 1] == argv[argv.index("--master-bind-port") + 1] != "0"


def test_a_page_is_served_on_the_loopback_interface_and_not_where_something_else_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PreconditionError, match=f"cannot be served on port {port}: Address already in use"):
            locust.command_for(Path("/x/user.py"), users=1, page_port=port)
    argv = locust.command_for(Path("/x/user.py"), users=1, page_port=free_port())
    assert argv[argv.index("--web-host") + 1] == "127.0.0.1"
    assert "--headless" not in argv
    with pytest.raises(PreconditionError, match="at most 65535"):
        locust.command_for(Path("/x/user.py"), users=1, page_port=70_000)


@pytest.mark.parametrize(
    ("line", "event"),
    [
        (locust.MARKER + '{"event": "ended", "x": 1}', {"event": "ended", "x": 1}),
        ("[2026-01-01] INFO/locust.main: Starting Locust", None),
        ('{"event": "ended"}', None),
        (locust.MARKER + '{"event": ', None),
        (locust.MARKER + '["event"]', None),
        (locust.MARKER + '{"event": 3}', None),
        ("", None),
    ],
)
def test_events_are_told_from_talk(line: str, event: dict[str, object] | None) -> None:
    assert locust.parse_event(line) == event


def test_without_locust_the_hint_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    locust.require()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PreconditionError) as caught:
        locust.require()
    assert "pip install" in caught.value.hint


def test_asking_for_locust_does_not_import_it() -> None:
    fresh = "import sys; from kivactl.tools import locust; locust.require(); print(sorted({'locust', 'gevent'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", fresh], check=True, capture_output=True, text=True).stdout == "[]\n"


def child(script: str) -> tuple[str, ...]:
    return (sys.executable, "-c", script)


def test_events_pass_and_talk_is_kept_for_the_failure(tmp_path: Path) -> None:
    script = f"print({locust.MARKER + json.dumps({'event': 'spawned'})!r}); print('No User class found!'); raise SystemExit(1)"
    events = locust.watch(child(script), cwd=tmp_path, env={}, timeout_s=30)
    assert next(events) == {"event": "spawned"}
    with pytest.raises(ToolError) as caught:
        next(events)
    assert caught.value.message == "Locust failed with exit code 1"
    assert caught.value.details == ("No User class found!",)


def test_a_killed_child_is_named_with_its_signal(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="Locust was ended by SIGKILL"):
        list(locust.watch(child("import os; os.kill(os.getpid(), 9)"), cwd=tmp_path, env={}, timeout_s=30))


def test_a_child_that_hangs_is_ended(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="Locust did not end within"):
        list(locust.watch(child("import time; time.sleep(60)"), cwd=tmp_path, env={}, timeout_s=0.5))


def test_processes_that_others_start_are_awaited_on_the_loopback_interface() -> None:
    argv = locust.command_for(Path("/x/user.py"), users=2, processes=4, master_port=4711)
    assert "--processes" not in argv
    assert argv[argv.index("--expect-workers") + 1] == "4"
    assert argv[argv.index("--master-bind-host") + 1] == "127.0.0.1"
    assert argv[argv.index("--master-bind-port") + 1] == "4711"
    assert "--master" in locust.command_for(Path("/x/user.py"), users=2, processes=1, master_port=4711)


@pytest.mark.parametrize(("processes", "forked"), [(1, False), (3, True)])
def test_the_command_line_of_processes_for_a_master_elsewhere(processes: int, forked: bool) -> None:
    argv = locust.worker_command_for(Path("/x/user.py"), processes=processes, master_port=4711)
    assert {"--worker", "--headless"} <= set(argv)
    assert (argv[argv.index("--master-host") + 1], argv[argv.index("--master-port") + 1]) == ("127.0.0.1", "4711")
    assert ("--processes" in argv) == forked

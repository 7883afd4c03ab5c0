"""Locust as a child process: its command line, and the events it says on standard output.

Locust's module is never imported here: `import locust` monkey-patches the process it happens in.
"""

from __future__ import annotations

import importlib.util
import json
import socket
import sys
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kivactl.errors import PreconditionError, ToolError
from kivactl.tools import process
from kivactl.tools.ports import LOOPBACK, free_port

MARKER = "kiva-loadtest "
"""Begins each line that is meant for us; whatever else the child prints is talk."""


def command_for(user_file: Path, *, users: int, processes: int = 1, page_port: int | None = None, master_port: int | None = None) -> tuple[str, ...]:
    """The command line of a run; the user file itself decides when it ends.

    Args:
        user_file: The Locust file.
        users: All of them start at once.
        processes: Several are workers of a master, which speaks to them on a port of the loopback interface.
        page_port: Where Locust's own page is served, on the loopback interface; None without.
        master_port: Of the loopback interface, where the master waits for as many processes that others start; None where it forks them.

    Raises:
        PreconditionError: Something else listens there.
    """
    if page_port is not None:
        _claim(page_port)
    port = str(master_port or (free_port() if processes > 1 else ""))
    awaited = ("--master", "--expect-workers", str(processes), "--master-bind-host", LOOPBACK, "--master-bind-port", port)
    forked = ("--processes", str(processes), "--master-bind-host", LOOPBACK, "--master-bind-port", port, "--master-host", LOOPBACK, "--master-port", port)
    page = ("--autostart", "--web-host", LOOPBACK, "--web-port", str(page_port))
    return (
        *_locust(user_file),
        *(page if page_port is not None else ("--headless", "--only-summary")),
        "--users",
        str(max(users, processes)),
        "--spawn-rate",
        str(max(users, processes)),
        *(awaited if master_port else forked if processes > 1 else ()),
    )


def worker_command_for(user_file: Path, *, processes: int, master_port: int) -> tuple[str, ...]:
    """The command line of processes that generate what a master elsewhere conducts.

    Args:
        user_file: The Locust file.
        processes: How many.
        master_port: Of the loopback interface; it leads to the master.
    """
    several = ("--processes", str(processes)) if processes > 1 else ()
    return (*_locust(user_file), "--headless", "--worker", "--master-host", LOOPBACK, "--master-port", str(master_port), *several)


def _locust(user_file: Path) -> tuple[str, ...]:
    # -P: a folder that happens to hold a json.py must not lend it to Locust
    return (sys.executable, "-P", "-m", "locust", "--locustfile", str(user_file), "--loglevel", "ERROR", "--exit-code-on-error", "0")


def _claim(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else "a port is at most 65535"
            raise PreconditionError(f"Locust's page cannot be served on port {port}: {reason}", "--ui PORT, with another port") from None


def require() -> None:
    """Make sure that Locust can be started.

    Raises:
        PreconditionError: It is not installed.
    """
    if importlib.util.find_spec("locust") is None:
        raise PreconditionError("Locust, which generates the load, is not installed", "pip install 'kivactl[local]'")


def parse_event(line: str) -> dict[str, Any] | None:
    """The event in a line; None when the line is talk."""
    if not line.startswith(MARKER):
        return None
    try:
        event = json.loads(line.removeprefix(MARKER))
    except json.JSONDecodeError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) else None


def watch(argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], timeout_s: float) -> Generator[dict[str, Any], None, None]:
    """Run Locust and yield its events as they come; leaving the loop early ends it.

    Args:
        argv: From `command_for`.
        cwd: Folder to run in; Locust puts it on the child's import path, so it must hold no Python files.
        env: Added to the child's environment.
        timeout_s: Seconds until the child is ended.

    Raises:
        ToolError: It failed, was killed, or ran past `timeout_s`; the details are its last talk.
    """
    talk: list[str] = []
    try:
        for line in process.stream(argv, cwd=cwd, env=env, timeout_s=timeout_s):
            event = parse_event(line)
            if event is None:
                talk = [*talk[-19:], line]
            else:
                yield event
    except ToolError as error:
        message = error.message.replace(f"'{Path(argv[0]).name}'", "Locust")
        raise ToolError(message, error.hint, tuple(talk)) from None

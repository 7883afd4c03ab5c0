"""Ends what a dead leader left behind, and leaders that hang: an event listener that the supervisor runs beside the processes.

An engine is a leader with children. When the leader is killed its children live on, hold the memory and would leave no
room for the next start. Every supervised process leads a process group of its own, so the group is ended with it.
Every five seconds it ends replicas that hang (`stalled`); the supervisor starts them anew.

Runs as `python -m kivactl.targets.reaper`; speaks supervisor's event protocol on standard input and output.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from kivactl.tools import leftovers
from kivactl.tools.clock import Clock

ENDED = frozenset({"PROCESS_STATE_BACKOFF", "PROCESS_STATE_EXITED", "PROCESS_STATE_STOPPED", "PROCESS_STATE_FATAL"})


def parse_tokens(line: str) -> dict[str, str]:
    """Parse `key:value key:value` into a dictionary. Source: http://supervisord.org/events.html"""
    return dict(word.split(":", 1) for word in line.split() if ":" in word)


def serve(
    events: TextIO, replies: TextIO, pid_of: Callable[[str], int], end_group: Callable[[int], None], stalled: Callable[[], Iterable[int]] = lambda: ()
) -> None:
    """Handle events until the supervisor ends.

    Args:
        events: The supervisor's events.
        replies: Where it waits for `READY` and `RESULT`.
        pid_of: Process id of a process by its name, 0 when it does not run. Asked at every start, for the event of
            an early death does not tell the id.
        end_group: Ends a process group.
        stalled: The process groups that hang now.
    """
    groups: dict[str, int] = {}
    while True:
        replies.write("READY\n")
        replies.flush()
        line = events.readline()
        if not line:
            return
        header = parse_tokens(line)
        payload = parse_tokens(events.read(int(header["len"])))
        name, event = payload.get("processname", ""), header.get("eventname", "")
        if event.startswith("TICK"):
            for group in stalled():
                end_group(group)
        elif event in ENDED:
            group = int(payload.get("pid", "0")) or groups.pop(name, 0)
            if group > 1:
                end_group(group)
        else:
            groups[name] = int(payload.get("pid", "0")) or pid_of(name)
        replies.write("RESULT 2\nOK")
        replies.flush()


def end_group(group: int) -> None:
    """Kill what is left of a process group, and remove its shared memory, which nobody else would."""
    segments = leftovers.segments_of(leftovers.in_group(group))
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
    for segment in segments:
        segment.unlink(missing_ok=True)


def _pid_of(name: str) -> int:
    from kivactl.tools.supervisor import Supervisor

    process = Supervisor.from_environment().states().get(name)
    return process.pid if process else 0


def _stalled() -> Callable[[], Iterable[int]]:
    """A function that looks for stalled replicas each time it is called, and says which it found in the log."""
    from kivactl.stack.layout import Layout
    from kivactl.targets.stalled import Watch, look
    from kivactl.tools.supervisor import Supervisor

    state, watch, clock = Path(os.environ["KIVA_STATE"]), Watch(), Clock()

    def groups() -> Iterable[int]:
        found = look(watch, Layout(state, state), Supervisor.from_environment().states(), clock.now_s())
        for name in found:
            print(f"{datetime.now(UTC).isoformat(timespec='seconds')} {name} generates nothing: ended, to be started anew", file=sys.stderr, flush=True)  # noqa: T201
        return found.values()

    return groups


if __name__ == "__main__":
    serve(sys.stdin, sys.stdout, _pid_of, end_group, _stalled())

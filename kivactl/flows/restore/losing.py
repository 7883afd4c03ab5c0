"""The disaster of a drill: every process is killed and all state is taken away, to where nothing looks for it. It can be undone."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from kivactl.errors import NotReadyError, PreconditionError
from kivactl.flows.deployment import Deployment
from kivactl.flows.restore.places import KEPT
from kivactl.plan import Outcome, Status
from kivactl.stack.layout import Layout
from kivactl.targets.rollout import STATE_VARIABLE
from kivactl.tools import leftovers
from kivactl.tools.folders import remove

STRUCK = "struck"
"""What an outcome is marked with that tells the moment of the disaster."""

_GONE_WITHIN_S = 10.0


def lost_of(layout: Layout) -> Path:
    """Where the state lies that the disaster took."""
    return layout.state / "backup" / "lost"


def strike(deployment: Deployment) -> Iterator[Outcome]:
    """Kill everything, take everything away. Done again, it takes nothing that came after it.

    Raises:
        NotReadyError: A process cannot be killed.
    """
    layout, lost = deployment.layout, lost_of(deployment.layout)
    done = lost / ".done"
    if not done.exists():
        lost.mkdir(mode=0o700, parents=True, exist_ok=True)
        segments = leftovers.segments_of(leftovers.marked(STATE_VARIABLE, str(layout.state)))
        _kill_all(deployment)
        for segment in segments:
            segment.unlink(missing_ok=True)
        shutil.rmtree(layout.run, ignore_errors=True)
        for path in sorted(layout.state.iterdir()):
            if path.name not in KEPT and not os.path.lexists(lost / path.name):
                path.rename(lost / path.name)
        done.touch()
    yield Outcome("disaster", Status.DONE, "every process is killed, all state is gone", data={STRUCK: True, "mark": "fault"})


def undo(deployment: Deployment) -> Iterator[Outcome]:
    """Put what was taken in place again, and start it."""
    layout, lost = deployment.layout, lost_of(deployment.layout)
    if lost.exists():
        yield from deployment.target.stop()
        (lost / ".done").unlink(missing_ok=True)
        for path in sorted(lost.iterdir()):
            here = layout.state / path.name
            remove(here)
            path.rename(here)
        lost.rmdir()
    yield Outcome("state", Status.DONE, "in place again")
    with suppress(PreconditionError):  # nothing was deployed
        yield from deployment.target.start()


def forget(deployment: Deployment) -> Iterator[Outcome]:
    """Remove what was taken; cut off in the middle, what is left of it is not put back."""
    lost = lost_of(deployment.layout)
    forgotten = lost.with_name("forgotten")
    remove(forgotten)
    if lost.exists():
        lost.rename(forgotten)
        remove(forgotten)
    yield Outcome("lost state", Status.DONE, "removed")


def _kill_all(deployment: Deployment) -> None:
    state = str(deployment.layout.state)
    for _ in deployment.clock.ticks(_GONE_WITHIN_S, every_s=0.05):
        pids = leftovers.marked(STATE_VARIABLE, state)
        if not pids:
            return
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    raise NotReadyError(f"processes of the platform cannot be killed: {', '.join(map(str, leftovers.marked(STATE_VARIABLE, state)))}", "kivactl down")

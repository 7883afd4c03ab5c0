"""What replicas do while others look, with a supervisor that is quicker than whoever asks it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import Any, cast

import pytest

from kivactl.errors import ToolError
from kivactl.plan import Status
from kivactl.stack.engine import Process
from kivactl.stack.layout import Layout
from kivactl.targets.release import Release
from kivactl.targets.replicas import Replicas
from kivactl.tools.supervisor import ProcessState, Supervisor

ENGINE = Process(name="m-0", argv=("engine",), stop_within_s=1, ready_within_s=1.2)


class Quick:
    """Has started an engine anew, with the next of these pids, before it is asked again."""

    def __init__(self, pids: Iterator[int]) -> None:
        self._pids = pids
        self.stopped: list[str] = []

    def states(self) -> dict[str, ProcessState]:
        return {"m-0": ProcessState("m-0", "RUNNING", next(self._pids), 1.0, 0, "")}

    def stop(self, name: str, *, wait: bool = True) -> None:
        self.stopped.append(name)


def replicas(folder: Path, **values: Any) -> Replicas:
    layout = Layout(folder / "state", folder / "cache")
    layout.logs.mkdir(parents=True)
    layout.log("m-0").write_text("EngineDeadError: illegal instruction\nINFO loading\n")
    layout.run.mkdir(parents=True)
    layout.engine_socket("m-0").touch()
    return Replicas(layout, Release(), {"m": ["m-0"]}, {}, Path("python"), "me", **values)


def test_an_engine_that_dies_of_its_first_token_is_not_waited_for_though_it_is_never_seen_dead(tmp_path: Path) -> None:
    supervisor = Quick(chain([7], repeat(8)))
    with pytest.raises(ToolError, match="engine m-0 dies at its start: EngineDeadError: illegal instruction"):
        list(replicas(tmp_path, generates=lambda _: False).until_ready(cast("Supervisor", supervisor), [ENGINE]))
    assert supervisor.stopped == ["m-0"]


def test_an_engine_that_keeps_its_process_is_waited_for(tmp_path: Path) -> None:
    answers = iter((False, True))
    outcomes = list(replicas(tmp_path, generates=lambda _: next(answers)).until_ready(cast("Supervisor", Quick(repeat(7))), [ENGINE]))
    assert [outcome.status for outcome in outcomes] == [Status.PROGRESS, Status.DONE]

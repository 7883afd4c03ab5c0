"""The load that is begun and ended from outside, against an engine that knows the truth."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from kivactl.errors import ToolError
from kivactl.flows.background_load import BackgroundLoad
from kivactl.loadtest.scenario import Scenario, assignment_for
from kivactl.tools.clock import Clock

pytestmark = pytest.mark.real
TOKENS = 4


def quick(answer: Any) -> None:
    answer.head()
    for number in range(TOKENS):
        time.sleep(0.01)
        answer.token(finish_reason="length" if number == TOKENS - 1 else None)
    answer.close(TOKENS)


def background(engine: Any, folder: Path, users: int = 3, processes: int = 1) -> BackgroundLoad:
    scenario = Scenario.model_validate(
        {
            "name": "test",
            "load": {"users": users},
            "duration": "1s",
            "timeout": "10s",
            "output": {"tokens": TOKENS},
            "prompts": {"tokens": 5},
            "processes": processes,
        }
    )
    endpoint = engine.endpoint()
    return BackgroundLoad(assignment_for(scenario, endpoint), endpoint, folder, Clock())


def until(condition: Any) -> None:
    for _ in Clock().ticks(60, every_s=0.05):
        if condition():
            return
    pytest.fail("never")


def generators() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if "locust" in " ".join(child.cmdline())]


@pytest.mark.parametrize("processes", [1, 2])
def test_it_lasts_until_it_is_ended_and_answers_what_is_under_way(engine: Any, tmp_path: Path, processes: int) -> None:
    engine.script = quick
    load = background(engine, tmp_path / "load", processes=processes)
    load.begin()
    until(lambda: load.heard.answered >= 20)
    assert load.alive
    heard = load.end()
    assert (heard.complete, heard.broken, heard.failed) == (True, "", 0)
    assert heard.lag_worst_ms >= heard.lag_p99_ms
    records = load.records
    assert all(record.succeeded and record.has_body for record in records), "ending cuts nothing off"
    assert len(records) == len(engine.truths)
    assert generators() == []


def test_a_request_under_way_at_the_end_is_waited_for_and_none_follows(engine: Any, tmp_path: Path) -> None:
    release = threading.Event()

    def held(answer: Any) -> None:
        answer.head()
        answer.token()
        release.wait(30)
        answer.token(finish_reason="length")
        answer.close(2)

    engine.script = held
    load = background(engine, tmp_path / "load", users=1)
    load.begin()
    until(lambda: engine.truths)
    ending = threading.Thread(target=load.end)
    ending.start()
    until(load.files.end.exists)
    release.set()
    ending.join(30)
    assert load.heard.complete
    assert all(record.succeeded for record in load.records)


def test_a_generator_that_is_killed_is_said_to_be(engine: Any, tmp_path: Path) -> None:
    engine.script = quick
    load = background(engine, tmp_path / "load")
    load.begin()
    os.killpg(os.getpgid(generators()[0].pid), signal.SIGKILL)
    until(lambda: not load.alive)
    assert not load.heard.complete
    assert "SIGKILL" in load.heard.broken
    assert load.end().broken == load.heard.broken


def test_abandoned_it_is_gone(engine: Any, tmp_path: Path) -> None:
    engine.script = quick
    load = background(engine, tmp_path / "load")
    load.begin()
    load.abandon()
    assert generators() == []
    assert not load.heard.complete


def test_a_folder_with_records_is_not_written_to_again(engine: Any, tmp_path: Path) -> None:
    engine.script = quick
    (tmp_path / "load").mkdir()
    (tmp_path / "load" / "records.jsonl").write_text("")
    with pytest.raises(ToolError):
        background(engine, tmp_path / "load").begin()
    assert generators() == []

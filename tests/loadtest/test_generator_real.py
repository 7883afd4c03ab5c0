"""Kinds of load, each by the real generator, against an engine that knows what it was asked and when."""

from __future__ import annotations

import json
import statistics
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from kivactl.errors import InvalidMeasurementError
from kivactl.flows.loadtest import Bench, run_loadtest, verdict
from kivactl.loadtest.assignment import parse_assignment
from kivactl.loadtest.record import Record, read_records
from kivactl.loadtest.scenario import Scenario
from kivactl.plan import Outcome, Status
from kivactl.spec.platform import ServiceLevels
from kivactl.stack.secret import Secret
from kivactl.tools.clock import Clock

pytestmark = pytest.mark.real
EASY = ServiceLevels.model_validate({"ttft_p95": "30s", "tpot_p95": "10s", "error_ratio": 0})


def quick(answer: Any) -> None:
    answer.head()
    for number in range(2):
        time.sleep(0.02)
        answer.token(finish_reason="length" if number else None)
    answer.close(2)


def ran(engine: Any, folder: Path, bench: dict[str, Any] | None = None, **what: Any) -> tuple[dict[str, Any], list[Record]]:
    """The summary and the records of a run."""
    common = {"name": "test", "warm_up": "500ms", "duration": "3s", "timeout": "5s", "prompts": {"texts": ["x"]}, "output": {"tokens": 2}, "seed": 7}
    wanted = Scenario.model_validate({**common, **what})
    engine.script = quick
    outcomes = list(run_loadtest(Bench(engine.endpoint(), EASY, Clock(), **(bench or {})), wanted, folder))
    return outcomes[-1].data, read_records(folder / "records.jsonl.gz")


def test_an_open_loop_sends_what_its_schedule_says(engine: Any, tmp_path: Path) -> None:
    summary, records = ran(engine, tmp_path / "run", load={"rate": 20, "arrivals": "constant"})
    work = parse_assignment((tmp_path / "run" / "scenario.json").read_text())
    assert summary["due"] == summary["requests"] == 60
    assert summary["load"] == "Constant arrivals at 20 requests/s"
    assert all(record.scheduled_ns is not None for record in records)
    by_index = sorted(records, key=lambda record: record.index)
    due_s = [record.scheduled_ns / 1e9 for record in by_index]  # type: ignore[operator]
    schedule = list(zip(range(len(due_s)), work.schedule(), strict=False))
    assert [at_s - due_s[0] for at_s in due_s] == pytest.approx([at_s - schedule[0][1] for _, at_s in schedule], abs=1e-6)
    assert all(record.start_ns >= record.scheduled_ns for record in records)  # type: ignore[operator]
    assert summary["offered_rps"] == pytest.approx(20)


def test_a_platform_that_stands_still_is_asked_all_the_same(engine: Any, tmp_path: Path) -> None:
    """A closed loop would wait with it, and hide what users would have seen."""
    gate = threading.Event()
    gate.set()

    def standing(answer: Any) -> None:
        gate.wait()
        quick(answer)

    common = {"name": "test", "warm_up": "0s", "duration": "4s", "timeout": "10s", "prompts": {"texts": ["x"]}, "output": {"tokens": 2}, "seed": 7}
    wanted = Scenario.model_validate({**common, "load": {"rate": 20, "arrivals": "constant"}})
    engine.script = standing
    last: Any = None
    for outcome in run_loadtest(Bench(engine.endpoint(), EASY, Clock()), wanted, tmp_path / "run"):
        last = outcome
        if outcome.status is Status.PROGRESS and gate.is_set() and outcome.data["phase"] == "measuring":
            gate.clear()
            threading.Timer(1.5, gate.set).start()
    assert last.data["due"] == last.data["requests"] == 80
    assert last.data["ttft_due_s"]["p99"] > 1.0
    assert last.data["most_under_way"] > 20


def test_several_processes_share_one_schedule(engine: Any, tmp_path: Path) -> None:
    summary, records = ran(engine, tmp_path / "run", load={"rate": 40}, processes=2)
    assert summary["processes"] == 2
    assert summary["due"] == summary["requests"] == summary["succeeded"]
    assert len({record.index for record in records}) == len(records)
    work = parse_assignment((tmp_path / "run" / "scenario.json").read_text())
    assert summary["due"] == work.due_within(3.0)
    due_ns = sorted(record.scheduled_ns for record in records)  # type: ignore[type-var]
    gaps_s = [(later - earlier) / 1e9 for earlier, later in pairwise(due_ns)]  # type: ignore[operator]
    assert statistics.mean(gaps_s) == pytest.approx(1 / 40, rel=0.3)
    assert not list((tmp_path / "run").glob("records-*"))


def test_a_process_that_is_killed_makes_the_measurement_invalid(engine: Any, tmp_path: Path) -> None:
    common = {"name": "test", "warm_up": "0s", "duration": "60s", "timeout": "5s", "prompts": {"texts": ["x"]}, "output": {"tokens": 2}}
    wanted = Scenario.model_validate({**common, "load": {"users": 4}, "processes": 2})
    engine.script = quick
    last: Outcome | None = None
    killed = False
    for outcome in run_loadtest(Bench(engine.endpoint(), EASY, Clock()), wanted, tmp_path / "run"):
        last = outcome
        if not killed and outcome.status is Status.PROGRESS and outcome.data["requests"]:
            killed = True
            (leader,) = [child for child in psutil.Process().children() if "locust" in " ".join(child.cmdline())]
            leader.children()[0].kill()
    assert last is not None
    assert last.data["requests"] > 0
    assert last.data["window_s"] < 59
    with pytest.raises(InvalidMeasurementError) as caught:
        verdict(last.data)
    assert caught.value.exit_code == 7


@pytest.mark.parametrize("load", [{"users": 3}, {"rate": 20}])
def test_a_number_of_requests_ends_the_run(engine: Any, tmp_path: Path, load: dict[str, Any]) -> None:
    common = {"name": "test", "warm_up": "500ms", "timeout": "5s", "prompts": {"texts": ["x"]}, "output": {"tokens": 2}, "seed": 7, "requests": 17}
    engine.script = quick
    outcomes = list(run_loadtest(Bench(engine.endpoint(), EASY, Clock()), Scenario.model_validate({**common, "load": load}), tmp_path / "run"))
    summary = outcomes[-1].data
    assert summary["requests"] == summary["succeeded"] == 17
    assert 0 < summary["window_s"] < 8
    assert summary["requests_per_s"] > 0


def test_a_trace_is_replayed(engine: Any, tmp_path: Path) -> None:
    lines = [{"at": number * 0.1, "prompt_tokens": 3 + number, "output_tokens": 1 + number} for number in range(20)]
    (tmp_path / "trace.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    common = {"name": "test", "timeout": "5s", "prompts": {"tokens": 9}, "output": {"tokens": 2}, "seed": 7}
    wanted = Scenario.model_validate({**common, "load": {"trace": str(tmp_path / "trace.jsonl")}})
    engine.script = quick
    summary = list(run_loadtest(Bench(engine.endpoint(), EASY, Clock()), wanted, tmp_path / "run"))[-1].data
    assert summary["due"] == summary["requests"] == 20
    asked = [(len(body["messages"][0]["content"].split()), body["max_tokens"]) for body in engine.bodies[2:]]
    assert asked == [(line["prompt_tokens"], line["output_tokens"]) for line in lines]


def test_a_mix_asks_with_the_tokens_of_its_tenants_and_each_kind_its_own(engine: Any, tmp_path: Path) -> None:
    mix = [
        {"name": "mine", "share": 1},
        {"name": "theirs", "share": 1, "tenant": "finance", "stream": False, "output": {"tokens": 5}},
    ]
    tenants = {"finance": Secret("another-token")}
    summary, records = ran(engine, tmp_path / "run", {"tenants": tenants}, load={"users": 4}, mix=mix)
    assert set(summary["groups"]) == {"mine", "theirs"}
    of_finance = [record for record in records if record.group == "theirs" and not record.is_cut]
    # The engine knows one token only: the tenant's is another, and refused.
    assert of_finance
    assert {record.status for record in of_finance} == {401}
    assert all(record.succeeded for record in records if record.group == "mine" and not record.is_cut)
    assert not any("another-token" in path.read_text() for path in (tmp_path / "run").glob("*.json"))


@pytest.mark.parametrize("load", [{"users": 2}, {"rate": 5}])
def test_conversations_go_on_with_what_was_said(engine: Any, tmp_path: Path, load: dict[str, Any]) -> None:
    prompts = {"texts": ["one", "two", "three"], "turns": 3, "pause": "50ms"}
    summary, records = ran(engine, tmp_path / "run", load=load, prompts=prompts)
    assert summary["requests"] == summary["succeeded"] > 3
    said = [[message["role"] for message in body["messages"]] for body in engine.bodies[1:]]
    assert ["user", "assistant", "user", "assistant", "user"] in said
    answers = {message["content"] for body in engine.bodies for message in body["messages"] if message["role"] == "assistant"}
    assert answers == {" word word"}
    assert {record.turn for record in records} == {0, 1, 2}
    if "rate" in load:
        later = [record for record in records if record.turn]
        assert all(record.scheduled_ns is not None for record in later)

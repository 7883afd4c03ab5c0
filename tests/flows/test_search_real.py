"""The search for the capacity and the sweep with real load, against an engine that serves only so many at a time."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from scripted_engine import TOKEN, engine_serving

from kivactl.errors import CheckError, Interrupted, InvalidMeasurementError, UsageError
from kivactl.flows.loadtest import Bench, verdict
from kivactl.flows.search import run_search
from kivactl.loadtest.scenario import Scenario
from kivactl.plan import Status
from kivactl.spec.platform import ServiceLevels
from kivactl.tools.clock import Clock

pytestmark = pytest.mark.real
SLOTS, SERVICE_S, GAP_S = 4, 0.4, 1.0
CAPACITY_RPS = SLOTS / SERVICE_S
LEVELS = ServiceLevels.model_validate({"ttft_p95": "1s", "tpot_p95": "5s", "error_ratio": 0.01})


def serving_few() -> Any:
    """An answer that takes a fixed time; two at a time, whoever comes later waits."""
    slots = threading.Semaphore(SLOTS)

    def answer_(answer: Any) -> None:
        answer.head()
        with slots:
            time.sleep(SERVICE_S)
            answer.token()
        time.sleep(GAP_S)  # long enough that a busy machine does not make the measurement invalid
        answer.token(finish_reason="length")
        answer.close(2)

    return answer_


def scenario(**what: Any) -> Scenario:
    common = {"name": "test", "prompts": {"texts": ["x"]}, "output": {"tokens": 2}, "timeout": "20s", "warm_up": "1s", "seed": 1}
    return Scenario.model_validate({**common, **what})


@pytest.fixture
def engine(tmp_path: Path) -> Any:
    with engine_serving() as engine:
        engine.script = serving_few()
        yield engine


def test_the_capacity_of_a_platform_is_found_with_its_interval(engine: Any, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    # No rate that is tried lies just at the capacity, where a busy machine decides; what is found is 8.9.
    wanted = scenario(load={"rate": 3.75, "arrivals": "constant"}, duration="4s", capacity={"limit": 100, "precision": 0.2})
    outcomes = list(run_search(Bench(engine.endpoint(), LEVELS, Clock()), wanted, folder))
    told = outcomes[-1].data
    assert outcomes[-1].status is Status.DONE
    if told["invalid"]:
        pytest.fail(told["invalid"])
    found = told["capacity"]
    warm_ups_s = [json.loads((folder / "probes" / f"{number + 1:02d}" / "scenario.json").read_text())["warm_up_s"] for number in range(len(told["probes"]))]
    assert warm_ups_s == sorted(warm_ups_s)
    assert warm_ups_s[0] == 1 < warm_ups_s[-1]  # an answer takes longer
    # What the engine can serve is known; a little more passes, for a queue that begins to grow is not over the limit at once.
    assert 0.6 * CAPACITY_RPS <= found["rate_rps"] <= 1.3 * CAPACITY_RPS
    assert found["low_rps"] <= found["rate_rps"]
    assert found["high_rps"] is None or found["rate_rps"] <= found["high_rps"]
    assert found["is_confirmed"]
    assert found["requests"] == sum(probe["due"] for probe in told["probes"])
    assert told["answer"].startswith("the service levels are kept up to")
    assert any(probe["met"] is False for probe in told["probes"])
    verdict(told)
    assert sorted(path.name for path in (folder / "probes").iterdir()) == [f"{number + 1:02d}" for number in range(len(told["probes"]))]
    assert json.loads((folder / "summary.json").read_text())["capacity"] == found
    report = (folder / "report.md").read_text()
    assert "probes/01/report.md" in report
    assert TOKEN not in report
    with pytest.raises(UsageError, match="another load test"):
        list(run_search(Bench(engine.endpoint(), LEVELS, Clock()), wanted, folder))


def test_a_sweep_has_a_run_for_each_load(engine: Any, tmp_path: Path) -> None:
    wanted = scenario(load={"users": 1}, duration="3s", warm_up="1s", sweep={"users": [1, 2, 60]})
    told = list(run_search(Bench(engine.endpoint(), LEVELS, Clock()), wanted, tmp_path / "run"))[-1].data
    if told["invalid"]:
        pytest.fail(told["invalid"])
    assert [(probe["load"], probe["unit"]) for probe in told["probes"]] == [(1, "users"), (2, "users"), (60, "users")]
    rates = [probe["requests_per_s"] for probe in told["probes"]]
    assert rates[0] < rates[1]
    assert told["probes"][2]["ttft_p50_s"] > 2 * told["probes"][0]["ttft_p50_s"]


def test_a_platform_that_keeps_nothing_misses(engine: Any, tmp_path: Path) -> None:
    strict = ServiceLevels.model_validate({"ttft_p95": "10ms", "tpot_p95": "5s", "error_ratio": 0})
    wanted = scenario(load={"users": 1}, duration="2s", warm_up="0s", sweep={"users": [1, 2]})
    told = list(run_search(Bench(engine.endpoint(), strict, Clock()), wanted, tmp_path / "run"))[-1].data
    if told["invalid"]:
        pytest.fail(told["invalid"])
    assert told["answer"].startswith("no load was found")
    with pytest.raises(CheckError) as caught:
        verdict(told)
    assert caught.value.exit_code == 6


def test_a_run_that_is_no_measurement_is_tried_once_more(engine: Any, tmp_path: Path) -> None:
    wanted = scenario(load={"users": 1}, duration="4s", warm_up="0s", sweep={"users": [1, 2]})
    skipped, last, begun = [], None, 0
    for last in run_search(Bench(engine.endpoint(), LEVELS, Clock()), wanted, tmp_path / "run"):
        begun += last.status is Status.STARTED and last.step.startswith("load test")
        if last.status is Status.PROGRESS and last.data["requests"] and begun == 1:
            kill_the_generator()
        if last.status is Status.SKIPPED:
            skipped.append(last.message)
    assert last is not None
    probes = last.data["probes"]
    assert [(probe["load"], bool(probe["invalid"]), probe["met"]) for probe in probes] == [(1, True, None), (1, False, True), (2, False, True)]
    assert skipped == [f"does not count, and is tried once more: {probes[0]['invalid']}"]
    verdict(last.data)
    assert "| no measurement |" in (tmp_path / "run" / "report.md").read_text()


def kill_the_generator() -> None:
    for child in psutil.Process().children(recursive=True):
        if "locust" in " ".join(child.cmdline()):
            child.kill()


def test_a_search_ends_with_a_probe_that_is_twice_no_measurement(engine: Any, tmp_path: Path) -> None:
    wanted = scenario(load={"users": 1}, duration="20s", warm_up="0s", sweep={"users": [1, 2]})
    last: Any = None
    for outcome in run_search(Bench(engine.endpoint(), LEVELS, Clock()), wanted, tmp_path / "run"):
        last = outcome
        if outcome.status is Status.PROGRESS and outcome.data["requests"]:
            kill_the_generator()
    assert len(last.data["probes"]) == 2
    with pytest.raises(InvalidMeasurementError):
        verdict(last.data)


def test_interrupted_it_tells_what_it_found_and_says_nothing_of_the_probe_that_was_cut(engine: Any, tmp_path: Path) -> None:
    wanted = scenario(load={"rate": 2, "arrivals": "constant"}, duration="4s", warm_up="0s", capacity={"limit": 4, "precision": 0.2})
    search = run_search(Bench(engine.endpoint(), LEVELS, Clock()), wanted, tmp_path / "run")
    assert isinstance(search, Generator)
    last: Any = None
    for outcome in search:
        last = outcome
        probes = tmp_path / "run" / "probes"
        if outcome.status is Status.PROGRESS and (probes / "02").exists() and outcome.data["requests"] >= 2:
            with suppress(StopIteration):
                last = search.throw(KeyboardInterrupt)
    told = last.data
    assert told["interrupted"]
    assert [probe["met"] for probe in told["probes"]] in ([True, None], [None, None])  # few requests may not make sure
    assert told["measured"] == sum(probe["due"] for probe in told["probes"])
    with pytest.raises(Interrupted, match=f"{told['measured']} requests were measured"):
        verdict(told)
    assert (tmp_path / "run" / "report.html").exists()

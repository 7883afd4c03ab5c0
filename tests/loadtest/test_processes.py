"""How many processes generate a load."""

from __future__ import annotations

from typing import Any

import pytest

from kivactl.errors import UsageError
from kivactl.loadtest.processes import beyond, events_per_s, is_here, processes_for, staffed
from kivactl.loadtest.scenario import Scenario, assignment_for
from kivactl.stack.endpoint import Endpoint
from kivactl.stack.secret import Secret

FAR, HERE = "https://llm.example.org/v1", "https://127.0.0.1:4000/v1"


def work(url: str = FAR, **what: Any) -> Any:
    common = {"name": "a", "prompts": {"texts": ["x"]}, "output": {"tokens": 175}}
    return assignment_for(Scenario.model_validate({**common, **what}), Endpoint(url, Secret("x"), None, "m"))


@pytest.mark.parametrize(
    ("what", "events"),
    [
        ({"load": {"users": 8}}, 400),
        ({"load": {"users": 800}}, 40_000),
        ({"load": {"users": 800}, "stream": False}, 0),
        ({"load": {"rate": 10}}, 2000),
        ({"load": {"rate": 10}, "stream": False}, 250),
        ({"load": {"ramp": {"start": 1, "end": 10}}}, 2000),
        ({"load": {"steps": [1, 10, 2]}}, 2000),
        ({"load": {"rate": 10}, "output": {"tokens": {"shape": "uniform", "min": 50, "max": 100}}}, 1000),
        ({"load": {"rate": 10}, "mix": [{"name": "a", "share": 3}, {"name": "b", "share": 1, "stream": False}]}, 1562.5),
    ],
)
def test_what_a_load_makes_of_work(what: dict[str, Any], events: float) -> None:
    assert events_per_s(work(**what)) == pytest.approx(events)


@pytest.mark.parametrize(
    ("rate", "processes", "warning"),
    [
        (400, 1, ""),
        (401, 1, "up to 80,200 token events/s, of which 1 process can read 80,000: the measurement is likely to be invalid"),
        (800, 2, ""),
        (5000, 2, "up to 1,000,000 token events/s, of which 2 processes can read 160,000: the measurement is likely to be invalid"),
    ],
)
def test_more_than_the_generator_can_is_said_beforehand(rate: float, processes: int, warning: str) -> None:
    assert beyond(staffed(work(load={"rate": rate}), processes, 4)).partition(";")[0] == warning


def test_a_trace_counts_with_its_busiest_second(tmp_path: Any) -> None:
    (tmp_path / "trace.jsonl").write_text(
        "".join(f'{{"at": {at}, "prompt_tokens": 1, "output_tokens": {tokens}}}\n' for at, tokens in [(0.1, 75), (1.2, 75), (1.9, 0)])
    )
    assert events_per_s(work(load={"trace": str(tmp_path / "trace.jsonl")})) == pytest.approx(100 + 200)


@pytest.mark.parametrize(
    ("users", "processors", "url", "processes"),
    [
        (4, 16, FAR, 1),
        (800, 16, FAR, 1),
        (801, 16, FAR, 2),
        (8000, 16, FAR, 10),
        (8000, 8, FAR, 7),
        (8000, 8, HERE, 4),
        (8000, 2, FAR, 1),
        (8000, 2, HERE, 1),
        (8000, 1, FAR, 1),
        (100_000, 1024, FAR, 125),
    ],
)
def test_as_many_as_it_needs_and_the_machine_has(users: int, processors: int, url: str, processes: int) -> None:
    load = work(url, load={"users": users})
    assert processes_for(load, processors) == staffed(load, None, processors).processes == processes
    assert staffed(load, 3, processors).processes == 3


@pytest.mark.parametrize(
    ("url", "here"),
    [
        (HERE, True),
        ("http://localhost:8000/v1", True),
        ("http://[::1]:8000/v1", True),
        ("http://kiva.localhost/v1", True),
        ("http://192.0.2.1/v1", False),
        (FAR, False),
    ],
)
def test_whether_an_endpoint_is_on_this_machine(url: str, here: bool) -> None:
    assert is_here(url) is here


@pytest.mark.parametrize(
    ("users", "wanted", "machines", "processes"),
    [
        (4, None, 1, 1),
        (4, None, 4, 4),
        (8000, None, 2, 10),
        (8000, 3, 2, 6),
        (5, 3, 2, 4),
        (2, 9, 0, 2),
    ],
)
def test_each_machine_has_its_part_and_each_process_a_user(users: int, wanted: int | None, machines: int, processes: int) -> None:
    names = [f"load-{number}" for number in range(machines)]
    told = staffed(work(load={"users": users}), wanted, 1, names)
    assert (told.processes, told.machines) == (processes, tuple(names))


def test_more_machines_than_users() -> None:
    with pytest.raises(UsageError, match="2 users cannot be shared out among 3 machines"):
        staffed(work(load={"users": 2}), None, 8, ["a", "b", "c"])
    with pytest.raises(UsageError, match="1 user cannot be shared out among 2 machines"):
        staffed(work(load={"users": 1}), 4, 8, ["a", "b"])
    assert staffed(work(load={"rate": 1}), None, 8, ["a", "b", "c"]).processes == 3

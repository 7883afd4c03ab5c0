from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl import root
from kivactl.errors import SpecError, UsageError
from kivactl.loadtest.assignment import parse_assignment
from kivactl.loadtest.prompts import prompt_for
from kivactl.loadtest.scenario import assignment_for, load_scenario
from kivactl.stack.endpoint import Endpoint
from kivactl.stack.secret import Secret

ENDPOINT = Endpoint("https://127.0.0.1:4000/v1", Secret("hush"), Path("/ca.pem"), "m")


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", [path.stem for path in root.content("loadtests").glob("*.yaml")])
def test_those_that_come_along_are_sound(name: str) -> None:
    scenario = load_scenario(name)
    assert scenario.name == name
    assert scenario.description
    assert assignment_for(scenario, ENDPOINT).prompt(0)


def test_smoke_and_chat_are_there() -> None:
    assert {path.stem for path in root.content("loadtests").glob("*.yaml")} >= {"smoke", "chat"}


def test_the_command_line_comes_before_the_file() -> None:
    scenario = load_scenario("smoke", duration="1m30s", concurrency=9, max_tokens=5)
    assert (scenario.duration, scenario.concurrency, scenario.max_tokens) == (90.0, 9, 5)
    assert scenario.prompts == load_scenario("smoke").prompts


@pytest.mark.parametrize(
    ("given_", "fault"),
    [
        ({"duration": "90"}, "--duration: '90' is not a duration"),
        ({"duration": "0s"}, "--duration: must be more than 0"),
        ({"concurrency": 0}, "--concurrency: must be at least 1"),
        ({"max_tokens": -1}, "--max-tokens: must be at least 1"),
    ],
)
def test_the_command_line_out_of_range(given_: dict[str, str | int], fault: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_scenario("smoke", **given_)  # type: ignore[arg-type]
    assert caught.value.details[0].startswith(fault)


@pytest.mark.parametrize(("name", "hint"), [("smok", "did you mean 'smoke'?"), ("zzz", "there are: chat, smoke")])
def test_an_unknown_name(name: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_scenario(name)
    assert caught.value.hint == hint
    assert name in caught.value.message


def test_a_missing_file() -> None:
    with pytest.raises(UsageError, match=r"there is no load test in nowhere/x\.yaml"):
        load_scenario("nowhere/x.yaml")


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("name: a\nprompts: [x]\nconcurency: 3\n", ["3: unknown key 'concurency'; did you mean 'concurrency'?"]),
        ("name: a\nprompts: [x]\nzebra: 3\n", ["3: unknown key 'zebra'"]),
        ("prompts: [x]\n", ["1: name: is missing"]),
        ("name: a\n", ["1: give either prompts or prompt_words"]),
        ("name: a\nprompts: [x]\nprompt_words: 3\n", ["1: give either prompts or prompt_words"]),
        ("name: a\nprompts: []\n", ["2: prompts: must not be empty"]),
        ("name: a\nprompts:\n  - x\n  - 3\n", ["4: prompts[1]: must be text"]),
        ("name: a\nprompt_words: 3\nduration: 20\n", ["3: duration: '20' has no unit"]),
        ("name: a\nprompt_words: 3\nduration: -5s\n", ["3: duration: '-5s' is not a duration"]),
        ("name: a\nprompt_words: 0\n", ["2: prompt_words: must be at least 1"]),
        ("name: A b\nprompt_words: 3\n", ["1: name: "]),
        (
            "concurrency: -1\nprompt_words: 3\ntemperature: 9\n",
            ["1: concurrency: must be at least 1", "1: name: is missing", "3: temperature: must be at most 2"],
        ),
        ("name: a\nprompt_words: 3\nname: b\n", ["3: name: stands here a second time"]),
        ("name: [a\n", ["2: a bracket is never closed"]),
        ("- a\n", ["1: must be a mapping"]),
        ("", ["1: the file is empty"]),
    ],
)
def test_faults_have_file_and_line(tmp_path: Path, text: str, faults: list[str]) -> None:
    path = written(tmp_path, text)
    with pytest.raises(SpecError) as caught:
        load_scenario(path)
    assert path in caught.value.message
    assert len(caught.value.details) == len(faults)
    for line, fault in zip(caught.value.details, faults, strict=True):
        assert line.startswith(f"mine.yaml:{fault}")


def test_an_assignment_survives_its_file_and_holds_no_token() -> None:
    assignment = assignment_for(load_scenario("chat", duration="1500ms"), ENDPOINT)
    text = assignment.to_json()
    assert "hush" not in text
    assert parse_assignment(text) == assignment
    assert assignment.duration_s == 1.5
    assert assignment.ca == "/ca.pem"


def test_a_request_asks_for_the_stream_and_its_usage() -> None:
    body = json.loads(assignment_for(load_scenario("smoke"), ENDPOINT).request_body(1))
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}
    assert body["model"] == "m"
    assert body["max_tokens"] == 32
    assert body["messages"] == [{"role": "user", "content": load_scenario("smoke").prompts[1]}]  # type: ignore[index]


def test_without_a_seed_each_run_draws_its_own(tmp_path: Path) -> None:
    drawn = {assignment_for(load_scenario("chat"), ENDPOINT).seed for _ in range(5)}
    assert len(drawn) > 1
    fixed = load_scenario(written(tmp_path, "name: a\nprompt_words: 3\nseed: 5\n"))
    assert assignment_for(fixed, ENDPOINT).seed == 5


@given(st.integers(1, 300), st.integers(0), st.integers(-1, 10**6))
def test_synthetic_prompts_have_their_length_and_repeat(words: int, seed: int, index: int) -> None:
    prompt = prompt_for((), words, seed, index)
    assert len(prompt.split()) == words
    assert prompt == prompt_for((), words, seed, index)


def test_each_synthetic_prompt_differs_from_its_first_words_on() -> None:
    starts = {tuple(prompt_for((), 50, 1, index).split()[:8]) for index in range(200)}
    assert len(starts) == 200


def test_given_prompts_come_in_turn() -> None:
    assert [prompt_for(("a", "b"), None, 0, index) for index in (-1, 0, 1, 2)] == ["b", "a", "b", "a"]


def test_no_kind_of_prompt_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="needs prompts"):
        prompt_for((), None, 0, 0)

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.loadtest.assignment import Assignment, Kind
from kivactl.loadtest.conversation import Conversations
from kivactl.loadtest.lengths import Lengths
from kivactl.loadtest.prompts import Prompts, Text
from kivactl.loadtest.scenario import Scenario, assignment_for
from kivactl.loadtest.server import Server
from kivactl.stack.endpoint import Endpoint
from kivactl.stack.secret import Secret

TEXT, SAME_TEXT = Text(7), Text(7)
ENDPOINT = Endpoint("http://127.0.0.1:4000/v1", Secret("hush"), None, "m")


def assignment(**parts: object) -> Assignment:
    return assignment_for(Scenario.model_validate({"name": "a", "load": {"users": 1}, "prompts": {"tokens": 50}, "seed": 1, **parts}), ENDPOINT)


def text_of(work: Assignment, index: int, prompts: Prompts | None = None) -> str:
    prompts = prompts or Prompts(work)
    return str(prompts.messages(work.kinds[0], index, prompts.source(index))[-1]["content"])


@given(st.integers(1, 200_000), st.integers(-1, 10**6))
def test_a_text_has_its_length_and_repeats(words: int, index: int) -> None:
    text = TEXT.words(words, Random(index))
    assert len(text.split(" ")) == words
    assert text == SAME_TEXT.words(words, Random(index))


def test_each_prompt_differs_from_its_first_words_on() -> None:
    work = assignment()
    prompts = Prompts(work)  # its long text takes a while to make
    assert len({tuple(text_of(work, index, prompts).split()[:6]) for index in range(500)}) == 500
    assert text_of(work, 3) == text_of(work, 3, prompts)
    assert text_of(replace(work, seed=2), 3) != text_of(work, 3)


def test_lengths_are_tokens_as_the_engine_counts_them() -> None:
    work = replace(assignment(), tokens_per_word=1.25, overhead_tokens=10)
    assert len(text_of(work, 0).split()) == 32


def test_given_prompts_come_in_turn() -> None:
    work = assignment(prompts={"texts": ["a", "b"]})
    assert [text_of(work, index) for index in range(3)] == ["a", "b", "a"]


def test_a_shared_beginning_is_the_same_for_its_group() -> None:
    work = assignment(prompts={"tokens": 60, "shared_prefix": {"tokens": 40, "groups": 3, "ratio": 0.5}})
    prompts = Prompts(work)
    texts = [text_of(work, index, prompts) for index in range(200)]
    beginnings = {text.split("\n\n")[0] for text in texts if "\n\n" in text}
    assert len(beginnings) == 3
    assert 60 < sum("\n\n" in text for text in texts) < 140
    assert {len(text.split()) for text in texts} == {60}


def test_a_request_asks_for_the_stream_and_its_usage() -> None:
    work = assignment(prompts={"texts": ["x"], "system": "be brief"}, output={"tokens": 32, "temperature": 0.5})
    prompts = Prompts(work)
    source = prompts.source(0)
    body = json.loads(prompts.body(work.kinds[0], prompts.messages(work.kinds[0], 0, source), source))
    assert body == {
        "model": "m",
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "x"}],
        "max_tokens": 32,
        "temperature": 0.5,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    exact: Kind = replace(work.kinds[0], is_exact=True, is_streamed=False)
    told = json.loads(prompts.body(exact, [], source, tokens=9))
    assert (told["max_tokens"], told["min_tokens"], told["ignore_eos"], "stream" in told) == (9, 9, True, False)


def test_kinds_come_by_their_share() -> None:
    work = assignment(mix=[{"name": "a", "share": 3}, {"name": "b"}])
    prompts = Prompts(work)
    names = [prompts.kind(prompts.source(index)).name for index in range(2000)]
    assert names.count("a") / 2000 == pytest.approx(0.75, abs=0.04)


def test_conversations_say_all_that_was_said_before() -> None:
    work = assignment(prompts={"texts": ["one", "two", "three"], "turns": 3, "system": "s"})
    server = Server("h", 80, (), None)
    conversation = Conversations(work, server, {"": "hush"}).begin(0)
    said = []
    for turn in range(3):
        order = conversation.order()
        assert (order.index, order.turn, order.keeps_text) == (0, turn, turn < 2)
        assert b"Authorization: Bearer hush" in order.request
        said.append([message["content"] for message in json.loads(order.request.partition(b"\r\n\r\n")[2])["messages"]])
        if not conversation.is_over:
            conversation.answered(f"answer {turn}")
    assert said == [["s", "one"], ["s", "one", "answer 0", "two"], ["s", "one", "answer 0", "two", "answer 1", "three"]]


def test_a_trace_says_how_long_prompts_and_answers_are() -> None:
    work = replace(assignment(), trace=((0.0, 20, 7), (1.0, 0, 0)))
    conversations = Conversations(work, Server("h", 80, (), None), {"": "hush"})
    bodies = [json.loads(conversations.begin(index).order().request.partition(b"\r\n\r\n")[2]) for index in range(2)]
    assert [len(body["messages"][0]["content"].split()) for body in bodies] == [20, 50]
    assert [body["max_tokens"] for body in bodies] == [7, 64]


@pytest.mark.parametrize(
    ("lengths", "mean", "sd"),
    [
        (Lengths("fixed", 7), 7, 0),
        (Lengths("uniform", 0, 0, 10, 30), 20, 6.06),
        (Lengths("normal", 100, 10), 100, 10),
        (Lengths("lognormal", 100, 50), 100, 50),
    ],
)
def test_lengths_have_their_mean_and_deviation(lengths: Lengths, mean: float, sd: float) -> None:
    source = Random(1)
    drawn = [lengths.draw(source) for _ in range(20_000)]
    assert statistics.mean(drawn) == pytest.approx(mean, rel=0.02)
    assert statistics.pstdev(drawn) == pytest.approx(sd, rel=0.06)
    assert max(drawn) <= max(lengths.longest, lengths.mean + 20 * lengths.sd)


@given(st.sampled_from(["normal", "lognormal"]), st.floats(1, 1e5), st.floats(0, 1e5), st.integers(1, 100), st.integers(0, 1000), st.integers())
def test_lengths_stay_within_their_ends(shape, mean: float, sd: float, least: int, more: int, seed: int) -> None:
    drawn = Lengths(shape, mean, sd, least, least + more).draw(Random(seed))
    assert least <= drawn <= least + more

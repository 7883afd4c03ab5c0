"""What the middleware writes down of real requests to a real engine equals the engine's answers and the engine's own counters."""

import asyncio
import json
import random
import time

import pytest
import tiny_engine
import tiny_model

from kivactl.loadtest.sse import EventParser

pytestmark = [pytest.mark.real, pytest.mark.alone]

TEXT = "What is the capital of Germany? A platform answers questions with models. "


@pytest.fixture(scope="session")
def engine(request):
    return tiny_engine.engine(request.config, tiny_model.build)


def until_quiet(engine, known):
    """The records of requests after the first `known`, once nothing is computed or written any more."""
    last, quiet_since = None, time.monotonic()
    while time.monotonic() - quiet_since < 1.5:
        time.sleep(0.1)
        state = (engine.counters(), len(engine.records()))
        if state != last:
            last, quiet_since = state, time.monotonic()
    return engine.records()[known:]


def order(rng, *, stream, n=1):
    """A random request: its path and body."""
    text = TEXT * rng.randint(1, 12) + str(rng.random())
    body = {"max_tokens": rng.randint(1, 120), "ignore_eos": True, "stream": stream, "n": n}
    if stream and rng.random() < 0.5:
        body["stream_options"] = {"include_usage": rng.random() < 0.8}
    match rng.randrange(3):
        case 0:
            return "/v1/completions", {**body, "prompt": text}
        case 1:
            return "/v1/completions", {**body, "prompt": [text, TEXT], "max_tokens": body["max_tokens"] // 2 + 1}
        case _:
            return "/v1/chat/completions", {**body, "messages": [{"role": "user", "content": text}]}


def events_of(text):
    """The events of a stream, by a parser that ends a line where the protocol does: a generated text may hold U+0085 or U+2028."""
    return [json.loads(event) for event in EventParser().feed(text.encode()) if event != b"[DONE]"]


async def post(client, name, path, body, leave_after_s):
    """The usage of the answer: None when it does not say or the client left."""

    async def go():
        async with client.stream("POST", path, json=body, headers={"x-request-id": name}) as answer:
            assert answer.status_code == 200, await answer.aread()
            return (await answer.aread()).decode()

    try:
        text = await asyncio.wait_for(go(), leave_after_s)
    except TimeoutError:
        return None, False
    if not body["stream"]:
        return json.loads(text)["usage"], True
    events = events_of(text)
    asked = body.get("stream_options", {}).get("include_usage", False)
    assert all(event["choices"] for event in (events[:-1] if asked else events)), "a chunk that the client did not ask for"
    assert not any(event.get("usage") for event in (events[:-1] if asked else events))
    return events[-1].get("usage"), True


async def post_all(engine, orders):
    """All of them, 24 at a time where the engine computes 8, so that some wait; usage and whether it ended, by request id."""
    async with engine.async_client() as client:
        places = asyncio.Semaphore(24)

        async def one(name, path, body, leave_after_s):
            async with places:
                return name, await post(client, name, path, body, leave_after_s)

        return dict(await asyncio.gather(*(one(*each) for each in orders)))


def test_records_agree_with_answers_and_counters(engine):
    rng = random.Random(3)
    orders = []
    for number in range(200):
        path, body = order(rng, stream=rng.random() < 0.5)
        leave_after_s = rng.choice([0.001, 0.02, 0.1, 0.3, 0.6, 1.0]) if rng.random() < 0.25 else None
        orders.append((f"mixed-{number}", path, body, leave_after_s))
    known, before = len(engine.records()), engine.counters()
    answers = asyncio.run(post_all(engine, orders))
    records = {record["request_id"]: record for record in until_quiet(engine, known)}
    after = engine.counters()

    left = [name for name, (_, ended) in answers.items() if not ended]
    assert 20 <= len(left) <= 80
    for name, (usage, ended) in answers.items():
        if not ended:  # whoever left at once has no record, for the engine never saw it
            continue
        record = records[name]
        assert record["finished"] is True
        assert (record["replica"], record["model"]) == ("tiny-0", "tiny")
        if usage:
            assert (record["prompt_tokens"], record["completion_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"])
            assert record["cached_tokens"] == usage["prompt_tokens_details"]["cached_tokens"]
    for index, key in enumerate(("prompt_tokens", "completion_tokens")):
        counted, metered = after[index] - before[index], sum(record[key] for record in records.values())
        print(f"{key}: engine {counted}, records {metered}, of {len(records)} requests, {len(left)} left")
        assert metered == pytest.approx(counted, rel=0.01)


def test_several_samples(engine):
    """The engine's counter takes the prompt once for each sample; its answer, and we, once."""
    rng = random.Random(4)
    orders = []
    for number in range(24):
        stream = number % 2 == 0
        body = {"prompt": TEXT * 4 + str(number), "n": 3, "max_tokens": 60, "ignore_eos": True, "stream": stream, "temperature": 1.0}
        orders.append((f"samples-{number}", "/v1/completions", body, rng.choice([0.05, 0.2, 0.4]) if number % 3 == 0 else None))
    known, before = len(engine.records()), engine.counters()
    answers = asyncio.run(post_all(engine, orders))
    records = {record["request_id"]: record for record in until_quiet(engine, known)}
    after = engine.counters()
    assert sum(record["completion_tokens"] for record in records.values()) == pytest.approx(after[1] - before[1], rel=0.01)
    for name, (_, ended) in answers.items():
        if ended:
            assert records[name]["completion_tokens"] == 180
            assert records[name]["prompt_tokens"] < 200


@pytest.mark.parametrize("stream", [False, True])
def test_responses(engine, stream):
    name = f"response-{stream}"
    body = {"input": TEXT, "max_output_tokens": 20, "stream": stream, "metadata": {"usage": "{}"}}
    with engine.client() as client:
        answer = client.post("/v1/responses", json=body, headers={"x-request-id": name})
    assert answer.status_code == 200
    response = answer.json() if not stream else events_of(answer.text)[-1]["response"]
    (record,) = [record for record in until_quiet(engine, 0) if record["request_id"] == name]
    assert (record["prompt_tokens"], record["completion_tokens"]) == (response["usage"]["input_tokens"], response["usage"]["output_tokens"])
    assert record["finished"] is True


def test_a_refused_request_costs_nothing(engine):
    known = len(engine.records())
    with engine.client() as client:
        assert client.post("/v1/completions", json={"prompt": 7}, headers={"x-request-id": "refused"}).status_code == 400
    (record,) = until_quiet(engine, known)
    assert record["request_id"] == "refused"
    assert (record["prompt_tokens"], record["completion_tokens"], record["finished"]) == (0, 0, True)


def test_probes_are_not_metered(engine):
    with engine.client() as client:
        time.sleep(2.1)
        known, before = len(engine.records()), engine.counters()
        assert client.get("/kiva/generating").status_code == 200
    assert len(until_quiet(engine, known)) == 0
    assert engine.counters()[1] - before[1] == 1

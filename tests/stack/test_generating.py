"""The check: 200 needs a proof, a proof is shared, and what only looks like one is none."""

import asyncio
import json
import time
from types import SimpleNamespace

import pytest

from kivactl.stack.generating import PATH, Books, Generating, books


class Clock:
    now_s = 1000.0

    def __call__(self):
        return self.now_s


class Engine:
    """A stand-in for vLLM: `answers` maps a path to a status or to "never"; "ends" when its client leaves."""

    def __init__(self, **answers):
        self.answers = {"/" + path.replace("_", "/"): what for path, what in answers.items()}
        self.asked, self.left = [], 0

    async def __call__(self, scope, receive, send):
        order = json.loads((await receive())["body"])
        self.asked.append((scope["path"], order))
        what = self.answers.get(scope["path"], 404)
        if what == "never":
            assert (await receive())["type"] == "http.disconnect"
            self.left += 1
            what = 200
        if what == "raises":
            raise RuntimeError
        if isinstance(what, dict):
            what = what["with priority" if "priority" in order else "without"]
        await reply(send, what, [b"{}"])


async def reply(send, status, chunks):
    await send({"type": "http.response.start", "status": status, "headers": []})
    for piece in chunks:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def check(app, *, method="GET", scope_app=None):
    sent = []

    async def send(message):
        sent.append(message)

    await app({"type": "http", "method": method, "path": PATH, "headers": [], "app": scope_app}, None, send)
    return sent[0]["status"]


async def serve(app, status, chunks, path="/v1/chat/completions", *, leaves=False):
    """A request of a client through the middleware around an application that answers so."""

    async def send(_):
        pass

    async def receive():
        return {"type": "http.disconnect" if leaves else "http.request"}

    async def inner(scope, receive, send):
        await receive()
        await reply(send, status, chunks)

    app._app, engine = inner, app._app
    await app({"type": "http", "method": "POST", "path": path, "headers": []}, receive, send)
    app._app = engine


def test_an_answer_is_a_proof_for_a_while():
    async def go():
        clock, engine = Clock(), Engine(v1_completions=500)
        app = Generating(engine, now_s=clock, proof_s=5)
        await serve(app, 200, [b"data: x\n\n"])
        clock.now_s += 5
        assert await check(app) == 200
        assert engine.asked == []
        clock.now_s += 0.1
        assert await check(app, method="HEAD") == 503
        assert len(engine.asked) == 1

    asyncio.run(go())


@pytest.mark.parametrize(
    ("status", "chunks", "path"),
    [
        (400, [b"no"], "/v1/completions"),
        (200, [], "/v1/completions"),
        (200, [b": keep-alive\n\n"], "/v1/completions"),
        (200, [b'data: {"error":{}}\n\n'], "/v1/completions"),
        (200, [b"[]"], "/tokenize"),
    ],
)
def test_what_is_no_proof(status, chunks, path):
    async def go():
        app = Generating(Engine(v1_completions=500))
        await serve(app, status, chunks, path)
        assert await check(app) == 503

    asyncio.run(go())


def test_what_is_said_to_a_client_that_left_is_no_proof():
    async def go():
        app = Generating(Engine(v1_completions=500))
        await serve(app, 200, [b"null"], leaves=True)
        assert await check(app) == 503

    asyncio.run(go())


def test_without_a_proof_one_token_is_asked_for_first_in_line():
    async def go():
        engine = Engine(v1_completions=200)
        app = Generating(engine)
        assert [await check(app), await check(app)] == [200, 200]
        assert engine.asked == [("/v1/completions", {"prompt": "Are you there?", "max_tokens": 1, "temperature": 0, "priority": -1_000_000})]

    asyncio.run(go())


def test_a_model_that_cannot_generate_does_what_it_can():
    async def go():
        clock, engine = Clock(), Engine(classify=200)
        app = Generating(engine, now_s=clock)
        assert await check(app) == 200
        clock.now_s += 60
        assert await check(app) == 200
        assert [path for path, _ in engine.asked] == ["/v1/completions", "/v1/embeddings", "/classify", "/classify"]

    asyncio.run(go())


def test_an_engine_without_priorities_is_asked_without():
    async def go():
        engine = Engine(v1_completions={"with priority": 400, "without": 200})
        assert await check(Generating(engine)) == 200
        assert ["priority" in order for _, order in engine.asked] == [True, False]

    asyncio.run(go())


@pytest.mark.parametrize("what", [400, 500, "raises"])
def test_a_failing_engine(what):
    assert asyncio.run(check(Generating(Engine(v1_completions=what)))) == 503


def test_checks_share_a_probe_that_leaves_when_its_time_is_up():
    async def go():
        engine = Engine(v1_completions="never")
        app = Generating(engine, probe_s=0.01)
        assert await asyncio.gather(*(check(app) for _ in range(5))) == [503] * 5
        await asyncio.gather(*app._asking)
        assert (len(engine.asked), engine.left) == (1, 1)
        assert await check(app) == 503
        assert len(engine.asked) == 2

    asyncio.run(go())


def vllm(tokens, ratio):
    """As much of vLLM as has books."""
    states = {name: SimpleNamespace(detokenizer=SimpleNamespace(num_output_tokens=lambda count=count: count)) for name, count in tokens.items()}
    stats = SimpleNamespace(last_scheduler_stats=SimpleNamespace(kv_cache_usage=ratio))
    loggers = [SimpleNamespace(per_engine_stat_loggers={0: stats}), SimpleNamespace()]
    client = SimpleNamespace(output_processor=SimpleNamespace(request_states=states), logger_manager=SimpleNamespace(stat_loggers=loggers))
    return SimpleNamespace(state=SimpleNamespace(engine_client=client))


async def probing(app, engine, working):
    """A check under way whose probe the engine has."""
    checking = asyncio.create_task(check(app, scope_app=working))
    while not engine.asked:
        await asyncio.sleep(0)
    return checking


def test_the_books_prove_while_the_probe_waits_its_turn():
    async def go():
        engine, working = Engine(v1_completions="never"), vllm({"a": 1}, 0.1)
        app = Generating(engine, probe_s=5)
        checking = await probing(app, engine, working)
        working.state.engine_client.logger_manager = vllm({}, 0.2).state.engine_client.logger_manager
        assert await checking == 200
        await asyncio.gather(*app._asking)
        assert engine.left == 1

    asyncio.run(go())


def test_while_this_process_gets_no_turn_no_time_passes_for_the_engine():
    async def go():
        engine, working = Engine(v1_completions="never"), vllm({"a": 1}, 0.1)
        app = Generating(engine, probe_s=0.3)
        checking = await probing(app, engine, working)
        time.sleep(0.5)  # as a machine that runs something else: the engine had no turn either
        await asyncio.sleep(0.05)
        working.state.engine_client.output_processor = vllm({"a": 2}, 0.1).state.engine_client.output_processor
        assert await checking == 200

    asyncio.run(go())


@pytest.mark.parametrize(
    ("before", "after", "progress"),
    [
        (Books({"a": 3}, (0.5,)), Books({"a": 3}, (0.5,)), False),
        (Books({"a": 3}, (0.5,)), Books({"a": 4}, (0.5,)), True),
        (Books({"a": 3}, (0.5,)), Books({"a": 3}, (0.6,)), True),
        (Books({"a": 3, "b": 9}, ()), Books({"a": 3}, ()), False),
        (Books({"a": 3}, ()), Books({"a": 3, "b": 0}, ()), False),
        (Books({}, ()), Books({"b": 1}, ()), True),
    ],
)
def test_progress(before, after, progress):
    assert after.shows_progress_since(before) is progress


def test_books_of_another_version_are_empty():
    assert books({}) == books({"app": SimpleNamespace(state=SimpleNamespace())}) == Books({}, ())
    app = vllm({"a": 2}, 0.5)
    assert books({"app": app}) == Books({"a": 2}, (0.5,))
    del app.state.engine_client.logger_manager
    assert books({"app": app}) == Books({"a": 2}, ())


def test_other_requests_pass():
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["type"])

    async def go():
        await Generating(app)({"type": "lifespan"}, None, None)
        await Generating(app)({"type": "http", "method": "POST", "path": PATH, "headers": []}, None, None)

    asyncio.run(go())
    assert seen == ["lifespan", "http"]

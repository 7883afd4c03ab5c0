"""The check on a real engine: it notices a stopped core behind a healthy API server, and does not take work for death."""

import asyncio
import os
import re
import signal
import time
from contextlib import contextmanager

import pytest
import tiny_engine
import tiny_model

from kivactl.stack.generating import PATH

pytestmark = [pytest.mark.real, pytest.mark.alone]

PROOF_S, PROBE_S = 2, 4  # as the engine of the tests is started


@pytest.fixture(scope="session")
def engine(request):
    return tiny_engine.engine(request.config, tiny_model.build)


@contextmanager
def stopped(process):
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process.pid, signal.SIGCONT)


def requests(metrics):
    """How many the engine computes, and how many wait."""
    return tuple(int(float(re.search(rf"^vllm:num_requests_{state}{{.*}} (\S+)$", metrics, re.MULTILINE)[1])) for state in ("running", "waiting"))


def test_a_stopped_core_is_noticed_and_so_is_its_return(engine):
    with engine.client() as client:
        assert client.get(PATH).status_code == 200
        with stopped(engine.core()):
            began_s = time.monotonic()
            while client.get(PATH).status_code == 200:
                assert time.monotonic() - began_s < PROOF_S + PROBE_S + 60
                time.sleep(0.1)
            noticed_s = time.monotonic() - began_s
            assert client.get("/health").status_code == 200
            assert client.get(PATH).status_code == 503
        began_s = time.monotonic()
        assert client.get(PATH).status_code == 200
        print(f"noticed after {noticed_s:.1f} s, back {time.monotonic() - began_s:.2f} s after it went on")
        while requests(client.get("/metrics").text) != (0, 0):  # no probe is left behind
            assert time.monotonic() - began_s < 60
            time.sleep(0.1)


def test_clients_that_leave_a_stopped_core_are_no_sign_of_life(engine):
    async def go():
        async with engine.async_client() as client:
            body = {"prompt": "a", "max_tokens": 1500, "ignore_eos": True}
            waiting = [asyncio.create_task(client.post("/v1/completions", json=body)) for _ in range(12)]
            await asyncio.sleep(0.5)
            with stopped(engine.core()):
                await asyncio.sleep(PROOF_S + 0.5)
                checking = asyncio.create_task(client.get(PATH))
                for task in waiting:
                    task.cancel()
                    await asyncio.sleep(0.05)
                assert (await checking).status_code == 503

    asyncio.run(go())


def test_a_full_engine_that_sends_nothing_is_alive(engine):
    """Eight long answers that are not streamed fill all places: the probe must wait, and the engine's books speak for it."""

    async def go():
        async with engine.async_client() as client:
            body = {"prompt": "a", "max_tokens": 1800, "ignore_eos": True}
            waiting = [asyncio.create_task(client.post("/v1/completions", json=body)) for _ in range(16)]
            for _ in range(12):
                await asyncio.sleep(0.4)
                assert (await client.get(PATH)).status_code == 200
            for task in waiting:
                task.cancel()

    asyncio.run(go())


def test_long_prompts_are_work(engine):
    async def go():
        async with engine.async_client() as client:
            waiting = [asyncio.create_task(client.post("/v1/completions", json={"prompt": [[7 + n] * 2000] * 8, "max_tokens": 1})) for n in range(8)]
            for _ in range(10):
                await asyncio.sleep(0.4)
                assert (await client.get(PATH)).status_code == 200
            await asyncio.gather(*waiting)

    asyncio.run(go())


def test_the_gateways_priority_decides_the_order(engine):
    """The client's wishes (in the body and by the engine's header) say the opposite."""

    async def go():
        done = []

        async def post(client, name, priority, own, length):
            body = {"prompt": "a", "max_tokens": length, "ignore_eos": True, "priority": own}
            headers = {"x-kiva-priority": str(priority), "x-vllm-priority": str(own)}
            assert (await client.post("/v1/completions", json=body, headers=headers)).status_code == 200
            done.append(name)

        async with engine.async_client() as client:
            asked = []
            # The core stands still meanwhile: it finds all of them at once, and work that fills its places until it knows each.
            with stopped(engine.core()):
                for name, priority, own, length in (("filling", -9, 0, 1900), ("late", 9, -5, 80), ("early", -5, 9, 40)):
                    asked += [asyncio.create_task(post(client, name, priority, own, length)) for _ in range(8)]
                    await asyncio.sleep(0.5)
            await asyncio.gather(*asked)
        # As many as there are places: whoever had to wait for the others' eight was the later one, and the late ones take longer besides.
        assert [name for name in done if name != "filling"] == ["early"] * 8 + ["late"] * 8

    asyncio.run(go())

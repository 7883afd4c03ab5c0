"""The benchmark of the gateway is itself no guess: its engine speaks vLLM's wire format, and its figures come out."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "gateway"

pytestmark = [
    pytest.mark.real,
    pytest.mark.alone,
    pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc, which compiles the mock engine, is not installed"),
]


@pytest.fixture
def programs(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARK))
    import programs

    return programs


@pytest.fixture
def engine(programs, tmp_path):
    """A mock engine's port and what it counted."""
    record = tmp_path / "record.jsonl"
    (port,) = programs.free_pairs(1)
    argv = [programs.build_mock(tmp_path), "--replica", "demo-7", "--record", record, "--listen", f"tcp:{port}", "--listen", f"unix:{tmp_path / 'engine.sock'}"]
    with programs.running(argv, tmp_path / "mock.log"):
        programs.until_answers(port, False, "none", b'{"model": "demo", "messages": []}', tmp_path / "mock.log", 10, alive=lambda: True)
        record.unlink()
        yield port, record


@pytest.fixture
def client(engine):
    from openai import OpenAI

    with ExitStack() as stack:
        yield stack.enter_context(OpenAI(base_url=f"http://127.0.0.1:{engine[0]}/v1", api_key="none", max_retries=0, timeout=20))


def counted(record, lines=1):
    for _ in range(200):
        if record.exists() and len(found := record.read_text().splitlines()) >= lines:
            return [json.loads(line) for line in found]
        time.sleep(0.05)
    raise AssertionError(f"{record} has no {lines} lines")


QUESTION = [{"role": "user", "content": "What is the capital of Germany?"}]


def test_an_answer(client, engine):
    answer = client.chat.completions.create(model="demo", messages=QUESTION, max_tokens=7, extra_headers={"x-request-id": "r-1"})
    assert answer.id == "chatcmpl-r-1"
    assert answer.choices[0].finish_reason == "stop"
    assert "Berlin" in answer.choices[0].message.content
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (12, 7, 19)
    (line,) = counted(engine[1])
    assert line.pop("at").endswith("Z")
    assert line == {
        "request_id": "r-1",
        "replica": "demo-7",
        "model": "demo",
        "prompt_tokens": 12,
        "cached_tokens": 0,
        "completion_tokens": 7,
        "finished": True,
    }


@pytest.mark.parametrize("usage", [True, False])
def test_a_stream(client, engine, usage):
    chunks = list(client.chat.completions.create(model="demo", messages=QUESTION, max_tokens=5, stream=True, stream_options={"include_usage": usage}))
    texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert texts == ["", *(f" token{number}" for number in range(1, 6))]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices] == [None] * 5 + ["length"]
    assert [chunk.usage.completion_tokens for chunk in chunks if chunk.usage] == ([5] if usage else [])
    assert counted(engine[1])[0]["completion_tokens"] == 5


def test_a_stream_keeps_its_pace(client):
    began = time.monotonic()
    stamps = [time.monotonic() - began for _ in client.chat.completions.create(model="demo", messages=QUESTION, max_tokens=5, seed=50_000, stream=True)]
    assert 0.25 <= stamps[-1] < 2
    assert stamps[1] >= 0.05


def test_a_client_that_goes_is_counted_as_far_as_it_got(client, engine):
    stream = client.chat.completions.create(model="demo", messages=QUESTION, max_tokens=1000, seed=20_000, stream=True)
    next(iter(stream))
    stream.close()
    (line,) = counted(engine[1])
    assert not line["finished"]
    assert 1 <= line["completion_tokens"] < 1000


def test_the_record_may_be_moved_away(client, engine):
    record = engine[1]
    for number in range(2):
        client.chat.completions.create(model="demo", messages=QUESTION)
        counted(record)
        record.rename(record.with_suffix(f".{number}"))
    assert all(len(counted(record.with_suffix(f".{number}"))) == 1 for number in range(2))


def test_models_and_unknown_paths(client, engine):
    from openai import NotFoundError

    assert [model.id for model in client.models.list()] == ["demo"]
    with pytest.raises(NotFoundError):
        client.embeddings.create(model="demo", input="x")
    assert not engine[1].exists()


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk, the load generator, is not installed")
def test_direct_and_gateway_are_measured(tmp_path):
    report = tmp_path / "report.json"
    words = ["--rounds", "2", "--seconds", "1", "--only", "direct,gateway-1", "--loads", "answers,streams,first", "--json", str(report)]
    done = subprocess.run([sys.executable, BENCHMARK, *words], check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    seen = json.loads(report.read_text())
    assert len(seen["rounds"]) == 2
    for what in ("answers", "streams"):
        for name in ("direct", "gateway-1"):
            figures = seen["summary"][what][name]
            assert figures["per_s"][0] > 0
            assert figures["p50_ms"][0] <= figures["p95_ms"][0] <= figures["p99_ms"][0]
            assert (figures["refused"][2], figures["broken"][2]) == (0, 0), done.stderr
    assert 0 < seen["summary"]["first"]["direct"]["first_p50_ms"][0] < seen["summary"]["first"]["gateway-1"]["first_p50_ms"][0]
    assert "x direct" in done.stdout


def test_what_is_missing_is_named(programs, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="wrk is missing; get it with: apt-get install wrk"):
        programs.find("wrk")


def test_unknown_contenders_are_named():
    done = subprocess.run([sys.executable, BENCHMARK, "--only", "direct,nginx"], check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "nginx is none of direct" in done.stderr

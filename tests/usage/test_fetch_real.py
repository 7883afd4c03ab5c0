"""Fetching from a real engine over TCP, by the process that does it; and the end of an engine that still has work to do."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
import tiny_engine
import tiny_model
from usage_lines import orders, until

from kivactl.tools.ports import free_port
from kivactl.usage.copies import ENDED

pytestmark = [pytest.mark.real, pytest.mark.alone]


@contextmanager
def fetching(path):
    process = subprocess.Popen([sys.executable, "-m", "kivactl.usage.fetch", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def engine():
    port = free_port()
    folder = Path(tempfile.mkdtemp(prefix="tiny-served-"))
    engine = tiny_engine.Engine(
        folder, tiny_model.build(folder / "model"), port=port, arguments=("--shutdown-timeout", "60"), environment={"KIVA_USAGE_SERVED": "1"}
    )
    try:
        engine.until_generating()
        yield engine
    finally:
        engine.end()


def fetched(folder):
    return Counter(line for path in folder.glob("*.jsonl*") for line in path.read_text().splitlines())


def complete(engine, name, tokens):
    with engine.client() as client:
        body = {"model": "tiny", "prompt": "The capital", "max_tokens": tokens, "ignore_eos": True}
        return client.post("/v1/completions", json=body, headers={"x-request-id": name})


def test_every_record_is_fetched_once_also_those_of_the_engines_last_requests(engine, tmp_path):
    orders_path, folder = tmp_path / "meter.json", tmp_path / "usage"
    orders_path.write_text(json.dumps(orders(tmp_path, engines=[f"127.0.0.1:{engine.port}"])))
    for number in range(3):
        with fetching(orders_path) as process:
            for turn in range(3):
                assert complete(engine, f"r{number}-{turn}", 4).status_code == 200
            if number == 1:
                until(lambda: fetched(folder).total() >= 6, within_s=60)
            process.kill()
    with fetching(orders_path):
        until(lambda: fetched(folder).total() >= 9, within_s=60)
    answers, core = [], engine.core()
    asking = [threading.Thread(target=lambda name=name: answers.append(complete(engine, name, 1500))) for name in ("last-1", "last-2")]
    for thread in asking:
        thread.start()
    # Both have begun: an engine that ends refuses what it has not. Where its processors are busy it may tell so only when both are answered.
    until(lambda: engine.running() == 2 or len(answers) == 2, within_s=120)
    engine.process.send_signal(signal.SIGTERM)
    for thread in asking:
        thread.join()
    core.wait(60)
    # Nothing computes any more, and nobody has asked for the last two.
    with fetching(orders_path) as process:
        engine.process.wait(60)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert [answer.json()["usage"]["completion_tokens"] for answer in answers] == [1500, 1500]
    assert fetched(folder) == Counter(engine.usage_log.read_text().splitlines())
    assert {json.loads(line)["request_id"] for line in fetched(folder)} >= {"last-1", "last-2", "r0-0", "r2-2"}
    assert list(folder.glob(f"*{ENDED}")) == []
    assert all(json.loads(line)["event"] in {"trouble", "recovered"} for line in out.splitlines())


@pytest.mark.parametrize(("argv", "code"), [((), 2), (("a", "b"), 2), (("/nowhere/meter.json",), 3)])
def test_what_it_cannot_start_with(argv, code):
    done = subprocess.run([sys.executable, "-m", "kivactl.usage.fetch", *argv], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)

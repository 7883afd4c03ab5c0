"""The whole way: flow, Locust in its child process, records and summary, against an engine that knows the truth."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from kivactl.errors import CheckError, Interrupted, InvalidMeasurementError, KivaError, PreconditionError, UsageError
from kivactl.flows.loadtest import Bench, run_loadtest, verdict
from kivactl.loadtest.assignment import Assignment, parse_assignment
from kivactl.loadtest.prompts import Prompts
from kivactl.loadtest.record import FailureKind, Record, read_records
from kivactl.loadtest.scenario import Scenario
from kivactl.plan import Outcome, Status
from kivactl.spec.platform import ServiceLevels
from kivactl.tools.clock import Clock

pytestmark = pytest.mark.real

TTFT_S, GAP_S, TOKENS = 0.12, 0.02, 8
EASY = ServiceLevels.model_validate({"ttft_p95": "30s", "tpot_p95": "10s", "error_ratio": 0})


def scenario(**changes: Any) -> Scenario:
    return Scenario.model_validate(
        {
            "name": "test",
            "load": {"users": 3},
            "duration": "2s",
            "warm_up": "500ms",
            "timeout": "5s",
            "prompts": {"tokens": 8},
            "output": {"tokens": TOKENS},
            **changes,
        }
    )


def script(gap_s: float = GAP_S) -> Callable[[Any], None]:
    """An answer with a known time to the first token and known gaps, after a role that comes at once."""

    def answer_(answer: Any) -> None:
        start_s = time.perf_counter()
        answer.head()
        answer.delta(role="assistant", content="")
        for number in range(TOKENS):
            time.sleep(max(0.0, start_s + TTFT_S + number * gap_s - time.perf_counter()))
            answer.token(finish_reason="length" if number == TOKENS - 1 else None)
        answer.close(TOKENS)

    return answer_


def generators() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if "locust" in " ".join(child.cmdline())]


@pytest.fixture(autouse=True)
def _leaves_nothing() -> Iterator[None]:
    yield
    assert generators() == []


def test_the_figures_agree_with_the_engines_own(engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCUST_PROCESSES", "2")  # an operator's own settings change nothing
    engine.script = script()
    folder = tmp_path / "run"
    outcomes = list(run_loadtest(Bench(engine.endpoint(), EASY, Clock()), scenario(), folder))
    summary = outcomes[-1].data

    steps = [(outcome.step, outcome.status) for outcome in outcomes]
    assert steps[:3] == [("preflight", Status.STARTED), ("preflight", Status.DONE), ("load test test", Status.STARTED)]
    assert steps[-1] == ("load test test", Status.DONE)
    progress = [outcome for outcome in outcomes if outcome.status is Status.PROGRESS]
    assert len(progress) >= 2
    assert {"phase", "elapsed_s", "requests", "failures", "tokens_per_s", "under_way", "ttft_p95_ms", "itl_p95_ms"} <= set(progress[0].data)

    records = read_records(folder / "records.jsonl.gz")
    whole = [record for record in records if not record.is_cut]
    truths = engine.truths[2:]  # the first were the preflight's
    assert all(record.succeeded for record in whole)
    # Every answer that the engine finished has its record, and no other has one that is not cut.
    assert len(whole) == sum(truth.finished for truth in truths)
    assert len(records) == len(truths)
    assert all((record.completion_tokens, len(record.token_ns), record.prompt_tokens) == (TOKENS, TOKENS, 7) for record in whole)
    assert len({record.index for record in records}) == len(records)

    # Three users, one request after the other, each on one connection (the preflight has its own).
    assert summary["concurrency"] == 3
    assert len(engine.connections) == 4
    assert max_overlap(records) == 3
    assert 3 <= summary["requests"] == summary["succeeded"] <= len(whole)
    assert summary["failures"] == {}
    assert summary["cut"] == 0
    assert summary["window_s"] == pytest.approx(2.0)

    # Against the engine's stamps, of the same clock: never early. By how much it is late is the machine's doing as well, so only that
    # tokens come one by one is asked for: one that waits for a full buffer sees all but the last of an answer late.
    assignment = parse_assignment((folder / "scenario.json").read_text())
    errors_s = sorted(delays_s(whole, truths, assignment))
    assert errors_s[0] >= 0
    assert errors_s[len(errors_s) // 4] < GAP_S * (TOKENS - 1)
    gaps_s = [(later - earlier) / 1e9 for record in whole for earlier, later in pairwise(record.token_ns)]
    assert min(gaps_s) <= summary["icl_s"]["p50"] <= max(gaps_s)
    assert summary["icl_s"]["count"] == summary["requests"] * (TOKENS - 1)
    times_s = [record.ttft_s for record in whole]
    assert TTFT_S <= min(times_s) <= summary["ttft_s"]["p50"] <= max(times_s)
    assert min(gaps_s) <= summary["tpot_s"]["p50"] <= max(gaps_s)
    assert summary["tokens_per_event"] == 1.0
    assert summary["output_tokens_per_s"] > 0

    assert json.loads((folder / "summary.json").read_text())["requests"] == summary["requests"]
    assert "TTFT" in (folder / "report.md").read_text()
    assert summary["report"] == str(folder / "report.html")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not any(b"the-right-token" in (gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()) for file in folder.iterdir())
    assert {body["max_tokens"] for body in engine.bodies[1:]} == {TOKENS}  # the first asked how long words are
    prompts = [body["messages"][0]["content"] for body in engine.bodies]
    assert len(set(prompts)) == len(prompts)

    with pytest.raises(UsageError, match="another load test"):
        list(run_loadtest(Bench(engine.endpoint(), EASY, Clock()), scenario(), folder))


def max_overlap(records: list[Record]) -> int:
    moments = sorted([(record.start_ns, 1) for record in records] + [(record.end_ns, -1) for record in records])
    most = now = 0
    for _, change in moments:
        now += change
        most = max(most, now)
    return most


def delays_s(records: list[Record], truths: list[Any], assignment: Assignment) -> Iterator[float]:
    """By how much each token was seen after it was sent; each request has a prompt of its own."""
    of_prompt, prompts = {truth.prompt: truth for truth in truths}, Prompts(assignment)
    for record in records:
        truth = of_prompt[prompts.messages(assignment.kinds[0], record.index, asked(prompts, record.index))[-1]["content"]]
        yield from ((seen - sent) / 1e9 for seen, sent in zip(record.token_ns, truth.sent_ns, strict=True))


def asked(prompts: Prompts, index: int) -> random.Random:
    """What is random about a request, once its conversation's length is drawn."""
    source = prompts.source(index)
    prompts.kind(source)
    return source


def test_failures_are_counted_by_kind_and_miss_the_service_level(engine: Any, tmp_path: Path) -> None:
    good, numbers, lock = script(), iter(range(10**6)), threading.Lock()

    def answer_(answer: Any) -> None:
        with lock:
            number = next(numbers)
        match number % 4 if number > 1 else 0:  # the first are the preflight's
            case 1:
                answer.head()
                answer.token()
                answer.event(error={"message": "the engine is dead"})
                answer.close()
            case 2:
                answer.head()
                answer.token()
                answer.raw(b"40\r\ndata")
                answer.hang_up()
            case 3:
                answer.refuse(500, "out of memory")
            case _:
                good(answer)

    engine.script = answer_
    levels = EASY.model_copy(update={"error_ratio": 0.01})
    summary = list(run_loadtest(Bench(engine.endpoint(), levels, Clock()), scenario(warm_up="0s"), tmp_path / "run"))[-1].data
    assert set(summary["failures"]) == {"error_event", "truncated", "status"}
    assert sum(summary["failures"].values()) == summary["requests"] - summary["succeeded"] > 0
    measured = [record for record in read_records(tmp_path / "run" / "records.jsonl.gz") if not record.is_cut]
    assert {record.failure for record in measured} == {None, FailureKind.ERROR_EVENT, FailureKind.TRUNCATED, FailureKind.STATUS}
    with pytest.raises(CheckError) as caught:
        verdict({**summary, "invalid": None})
    assert caught.value.exit_code == 6
    assert any(line.startswith("error_ratio: ") for line in caught.value.details)


def test_a_killed_generator_makes_the_measurement_invalid(engine: Any, tmp_path: Path) -> None:
    engine.script = script()
    last: Outcome | None = None
    for outcome in run_loadtest(Bench(engine.endpoint(), EASY, Clock()), scenario(duration="60s"), tmp_path / "run"):
        last = outcome
        if outcome.status is Status.PROGRESS and outcome.data["phase"] == "measuring" and outcome.data["requests"]:
            for child in generators():
                child.kill()
    assert last is not None
    assert last.status is Status.DONE
    assert last.data["requests"] > 0
    assert "SIGKILL" in last.data["invalid"]
    with pytest.raises(InvalidMeasurementError) as caught:
        verdict(last.data)
    assert caught.value.exit_code == 7
    assert "Invalid" in (tmp_path / "run" / "report.md").read_text()


def test_a_generator_that_is_told_to_stop_makes_the_measurement_invalid(engine: Any, tmp_path: Path) -> None:
    engine.script = script()
    last: Outcome | None = None
    for outcome in run_loadtest(Bench(engine.endpoint(), EASY, Clock()), scenario(duration="60s"), tmp_path / "run"):
        last = outcome
        if outcome.status is Status.PROGRESS and outcome.data["phase"] == "measuring":
            for child in generators():
                child.send_signal(signal.SIGTERM)
    assert last is not None
    assert last.data["invalid"] == "the load generator was stopped before the end"
    assert last.data["window_s"] < 30


def test_ctrl_c_ends_the_load_with_a_report_of_what_was_measured(engine: Any, tmp_path: Path) -> None:
    engine.script = script(gap_s=0.1)
    outcomes = []
    asked = False
    for outcome in run_loadtest(Bench(engine.endpoint(), EASY, Clock()), scenario(duration="60s"), tmp_path / "run"):
        outcomes.append(outcome)
        if not asked and outcome.status is Status.PROGRESS and outcome.data["phase"] == "measuring" and outcome.data["requests"]:
            asked = True
            threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    summary = outcomes[-1].data
    assert summary["interrupted"] is True
    assert summary["requests"] > 0
    assert 0 < summary["window_s"] < 30
    assert any(record.is_cut for record in read_records(tmp_path / "run" / "records.jsonl.gz"))
    with pytest.raises(Interrupted) as caught:
        verdict(summary)
    assert caught.value.exit_code == 130
    assert "Interrupted" in (tmp_path / "run" / "report.md").read_text()


def test_leaving_early_ends_the_load_and_writes_the_report(engine: Any, tmp_path: Path) -> None:
    engine.script = script()
    outcomes = run_loadtest(Bench(engine.endpoint(), EASY, Clock()), scenario(duration="60s"), tmp_path / "run")
    for outcome in outcomes:
        if outcome.status is Status.PROGRESS and outcome.data["phase"] == "measuring":
            break
    outcomes.close()  # type: ignore[attr-defined]
    assert generators() == []
    assert "Interrupted" in (tmp_path / "run" / "report.md").read_text()


def test_records_that_cannot_be_written_make_the_measurement_invalid(engine: Any, tmp_path: Path) -> None:
    engine.script = script()
    last: Outcome | None = None
    for outcome in run_loadtest(Bench(engine.endpoint(), EASY, Clock()), scenario(duration="60s"), tmp_path / "run"):
        last = outcome
        if outcome.status is Status.PROGRESS and outcome.data["phase"] == "measuring":
            for child in generators():
                size = (tmp_path / "run" / "records.jsonl").stat().st_size
                psutil.Process(child.pid).rlimit(psutil.RLIMIT_FSIZE, (size, size))
    assert last is not None
    assert last.data["invalid"].startswith("the records could not be written")


@pytest.mark.parametrize(
    ("token", "model", "kind", "words"),
    [
        ("a-wrong-token", "scripted", PreconditionError, "does not accept the token"),
        ("the-right-token", "gpt-9", UsageError, "serves no model named 'gpt-9'"),
    ],
)
def test_a_refusal_is_one_sentence_before_the_run(engine: Any, tmp_path: Path, token: str, model: str, kind: type[KivaError], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        list(run_loadtest(Bench(engine.endpoint(token, model), EASY, Clock()), scenario(), tmp_path / "run"))
    assert token not in caught.value.message
    assert not (tmp_path / "run").exists()


def test_through_tls_with_the_platforms_own_authority(tls_engine: Any, tmp_path: Path) -> None:
    tls_engine.script = script()
    summary = list(run_loadtest(Bench(tls_engine.endpoint(), EASY, Clock()), scenario(duration="1s"), tmp_path / "run"))[-1].data
    assert summary["requests"] == summary["succeeded"] > 0
    assert len(tls_engine.connections) == 4
    verdict({**summary, "invalid": None})


def test_an_untrusted_certificate_is_one_sentence_before_the_run(tls_engine: Any, tmp_path: Path) -> None:
    tls_engine.ca = None
    with pytest.raises(PreconditionError, match="is not vouched for"):
        list(run_loadtest(Bench(tls_engine.endpoint(), EASY, Clock()), scenario(), tmp_path / "run"))


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_kivactl_leaves_no_load_behind(engine: Any, tmp_path: Path, processes: int) -> None:
    engine.script = script()
    program = f"""
from pathlib import Path
from kivactl.flows.loadtest import Bench, run_loadtest
from kivactl.loadtest.scenario import Scenario
from kivactl.spec.platform import ServiceLevels
from kivactl.stack.endpoint import Endpoint
from kivactl.stack.secret import Secret
from kivactl.tools.clock import Clock

what = {{"prompts": {{"tokens": 3}}, "processes": {processes}}}
scenario = Scenario.model_validate({{"name": "test", "load": {{"users": {processes}}}, "duration": "60s", "warm_up": "0s", **what}})
endpoint = Endpoint({engine.url!r}, Secret("the-right-token"), None, "scripted")
for outcome in run_loadtest(Bench(endpoint, ServiceLevels(), Clock()), scenario, Path({str(tmp_path / "run")!r})):
    print(outcome.status.value, flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert any(line == "progress\n" for line in parent.stdout)
        left = [child for child in psutil.Process(parent.pid).children(recursive=True) if "locust" in " ".join(child.cmdline())]
        assert len(left) == (1 if processes == 1 else 3)
        parent.kill()
    _, alive = psutil.wait_procs(left, timeout=30)
    assert alive == []

from __future__ import annotations

import errno
import json
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn

import pytest

from kivactl.errors import CheckError, Interrupted, InvalidMeasurementError, NotReadyError, PreconditionError, ToolError
from kivactl.flows.loadtest import Bench, _calibrated, _counted, run_loadtest, verdict
from kivactl.flows.measure import Foreign, measure
from kivactl.loadtest.prompts import Prompts
from kivactl.loadtest.record import Record
from kivactl.loadtest.scenario import Scenario, assignment_for
from kivactl.plan import Outcome, Status
from kivactl.spec.platform import ServiceLevels
from kivactl.stack.endpoint import Endpoint
from kivactl.stack.secret import Secret
from kivactl.tools import locust
from kivactl.tools.clock import Clock

S = 10**9
SCENARIO = Scenario.model_validate({"name": "test", "load": {"users": 1}, "duration": "10s", "prompts": {"texts": ["x"]}, "timeout": "2s", "seed": 3})
LEVELS = ServiceLevels()
SPAWNED = {"event": "spawned", "users": 1}
MEASURING = {"event": "measuring", "start_ns": 10 * S, "end_ns": 20 * S}
ENDED = {"event": "ended", "is_complete": True, "generator_lag_p99_ms": 0.3}
PROGRESS = {
    "event": "progress",
    "phase": "measuring",
    "elapsed_s": 6.0,
    "requests": 1,
    "failures": 1,
    "under_way": 1,
    "requests_per_s": 0.2,
    "tokens_per_s": 4.5,
    "ttft_p50_ms": 100.0,
    "ttft_p95_ms": 200.0,
    "itl_p50_ms": None,
    "itl_p95_ms": None,
    "generator_lag_p99_ms": 0.2,
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    status = 200

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        self.reply(200, {"data": [{"id": "m"}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        if self.status != 200:
            self.reply(self.status, {"error": {"message": "no engine"}})
            return
        body = b'data: {"choices": [{"delta": {"content": "x"}, "finish_reason": "length"}]}\n\ndata: [DONE]\n\n'
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def reply(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def platform(status: int = 200) -> Iterator[Endpoint]:
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Scripted", (Handler,), {"status": status})) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield Endpoint(f"http://127.0.0.1:{server.server_address[1]}/v1", Secret("hush"), None, "m")
        server.shutdown()
        thread.join(5)


def answered(index: int, start_ns: int) -> Record:
    return Record(index, start_ns, start_ns + S, sent_ns=start_ns, token_ns=(start_ns + S // 2, start_ns + S), completion_tokens=2, finish_reason="length")


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What Locust would say and write: dicts are events, records and raw text go to the spool, exceptions are raised."""
    script: list[Any] = []

    def watch(argv: tuple[str, ...], *, cwd: Path, env: dict[str, str], timeout_s: float) -> Iterator[dict[str, Any]]:
        assert not any("hush" in word for word in argv)
        assert '{"": "hush"}' in env.values()
        for item in script:
            if isinstance(item, (Record, str)):
                with (cwd / "records.jsonl").open("a") as spool:
                    spool.write(item if isinstance(item, str) else item.to_json() + "\n")
            elif isinstance(item, BaseException):
                raise item
            else:
                yield item

    monkeypatch.setattr(locust, "watch", watch)
    return script


def ran(folder: Path) -> list[Outcome]:
    with platform() as endpoint:
        return list(run_loadtest(Bench(endpoint, LEVELS, Clock()), SCENARIO, folder))


def test_figures_that_cannot_be_written_are_shown_at_least(generator: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("kivactl.flows.loadtest.write_results", refuse)
    generator += [SPAWNED, MEASURING, answered(1, 11 * S), answered(2, 19 * S), ENDED]
    summary = ran(tmp_path / "run")[-1].data
    assert (summary["requests"], summary["report"]) == (2, "")
    with pytest.raises(PreconditionError, match=f"of the load test 'test' could not be written: no space left on the disk that holds {tmp_path / 'run'}"):
        verdict(summary)


def test_a_run_from_its_events_and_records(generator: list[Any], tmp_path: Path) -> None:
    generator += [SPAWNED, answered(0, 9 * S), MEASURING, PROGRESS, answered(1, 11 * S), answered(2, 19 * S), ENDED]
    outcomes = ran(tmp_path / "run")
    assert [(outcome.step, outcome.status) for outcome in outcomes] == [
        ("preflight", Status.STARTED),
        ("preflight", Status.DONE),
        ("load test test", Status.STARTED),
        ("load test test", Status.PROGRESS),
        ("load test test", Status.DONE),
    ]
    assert outcomes[3].message == "measuring: 1 requests, 1 failed, 1 under way, 4.5 tokens/s, TTFT 100/200 ms, lag 0.2 ms"
    begun = {"kind": "load", "warm_up_s": 5.0, "duration_s": 10.0, "requests": 0, "is_streamed": True, "series": None}
    assert {**begun, "levels": {name: limit for name, limit in LEVELS if limit is not None}} == outcomes[2].data
    assert outcomes[3].data == {**{name: fact for name, fact in PROGRESS.items() if name != "event"}, "due_rps": None}
    summary = outcomes[-1].data
    assert (summary["requests"], summary["window_s"], summary["generator_lag_p99_ms"], summary["invalid"]) == (2, 10.0, 0.3, None)
    assert {file.name for file in (tmp_path / "run").iterdir()} == {
        "scenario.json",
        "environment.json",
        "records.jsonl.gz",
        "summary.json",
        "report.md",
        "report.html",
        "junit.xml",
    }
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700
    assert "hush" not in (tmp_path / "run" / "scenario.json").read_text()
    json.dumps(outcomes[-1].as_dict())


@pytest.mark.parametrize(
    ("events", "invalid"),
    [
        ([SPAWNED, MEASURING, answered(0, 12 * S), ToolError("Locust was ended by SIGKILL")], "the load generator did not finish: Locust was ended by SIGKILL"),
        ([SPAWNED, MEASURING, answered(0, 12 * S), {**ENDED, "is_complete": False}], "the load generator was stopped before the end"),
        ([SPAWNED, MEASURING, {"event": "failed", "reason": "the records could not be written"}], "the records could not be written"),
        ([SPAWNED, ToolError("Locust was ended by SIGKILL")], "the load generator did not finish: Locust was ended by SIGKILL"),
    ],
)
def test_a_run_that_did_not_finish_is_invalid(generator: list[Any], tmp_path: Path, events: list[Any], invalid: str) -> None:
    generator += events
    summary = ran(tmp_path / "run")[-1].data
    assert summary["invalid"] == invalid
    with pytest.raises(InvalidMeasurementError):
        verdict(summary)


def test_a_half_written_record_is_left_out(generator: list[Any], tmp_path: Path) -> None:
    generator += [SPAWNED, MEASURING, answered(0, 12 * S), '{"index": 1, "sta', ToolError("Locust was ended by SIGKILL")]
    assert ran(tmp_path / "run")[-1].data["requests"] == 1


def test_a_generator_that_does_not_start_is_a_failed_tool(generator: list[Any], tmp_path: Path) -> None:
    generator.append(ToolError("Locust failed with exit code 1", details=("Traceback",)))
    with pytest.raises(ToolError) as caught:
        ran(tmp_path / "run")
    assert caught.value.details == ("Traceback",)


def test_ctrl_c_leaves_what_was_measured(generator: list[Any], tmp_path: Path) -> None:
    cut = Record(1, 13 * S, 14 * S, sent_ns=13 * S, is_cut=True)
    generator += [SPAWNED, MEASURING, answered(0, 12 * S), cut, KeyboardInterrupt()]
    summary = ran(tmp_path / "run")[-1].data
    assert (summary["interrupted"], summary["requests"], summary["cut"], summary["window_s"]) == (True, 1, 1, 4.0)
    with pytest.raises(Interrupted, match="1 requests were measured"):
        verdict(summary)


@pytest.mark.parametrize(
    ("broken", "message", "hint"),
    [
        ("preflight", "the load test 'test' was left before it began", ""),
        ("write_results", "the load test 'test' was left before its results were written", "what was measured is in {}, without a report"),
    ],
)
def test_a_further_ctrl_c_says_what_is_there(
    generator: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, message: str, hint: str
) -> None:
    def interrupt(*_: Any, **__: Any) -> NoReturn:
        raise KeyboardInterrupt

    generator += [SPAWNED, MEASURING, answered(0, 12 * S), KeyboardInterrupt()]
    monkeypatch.setattr(f"kivactl.flows.loadtest.{broken}", interrupt)
    file, folder = tmp_path / "test.yaml", tmp_path / "run"
    folder.mkdir()
    file.write_text(json.dumps({"name": "test", "load": {"users": 1}, "duration": "10s", "prompts": {"texts": ["x"]}, "timeout": "2s"}))
    with platform() as endpoint:
        token = tmp_path / "token"
        token.write_text("hush")
        with pytest.raises(Interrupted) as caught:
            list(measure(Foreign(endpoint.url, "m", None, token), str(file), folder=folder))
    assert (caught.value.message, caught.value.hint) == (message, hint.format(folder))
    assert (folder / "records.jsonl").exists() == bool(hint)


def test_leaving_early_writes_the_report(generator: list[Any], tmp_path: Path) -> None:
    generator += [SPAWNED, MEASURING, answered(0, 12 * S), PROGRESS, PROGRESS]
    with platform() as endpoint:
        outcomes = run_loadtest(Bench(endpoint, LEVELS, Clock()), SCENARIO, tmp_path / "run")
        while next(outcomes).status is not Status.PROGRESS:
            pass
        outcomes.close()  # type: ignore[attr-defined]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["interrupted"] is True


def test_verdicts(generator: list[Any], tmp_path: Path) -> None:
    generator += [SPAWNED, MEASURING, answered(0, 12 * S), ENDED]
    met = ran(tmp_path / "run")[-1].data
    levels = [{"name": name, "limit": 0.1, "measured": 0.05, "met": True} for name in ("ttft_p95", "tpot_p95", "error_ratio")]
    verdict({**met, "service_levels": levels})
    missed = [{**levels[0], "measured": 0.25, "met": False}, {**levels[1], "measured": None, "met": False}, {**levels[2], "measured": 0.5, "met": False}]
    with pytest.raises(CheckError) as caught:
        verdict({**met, "service_levels": missed})
    assert caught.value.exit_code == 6
    assert caught.value.details == (
        "ttft_p95: 250 ms, promised 100 ms",
        "tpot_p95: nothing to measure, promised 100 ms",
        "error_ratio: 50.00 %, promised 10.00 %",
    )
    assert caught.value.hint == f"see {tmp_path / 'run' / 'report.html'}"


def test_an_endpoint_that_is_down_is_one_sentence(generator: list[Any], tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = Endpoint(f"http://127.0.0.1:{unused.getsockname()[1]}/v1", Secret("hush"), None, "m")
        with pytest.raises(PreconditionError, match="nothing answers at"):
            list(run_loadtest(Bench(endpoint, LEVELS, Clock()), SCENARIO, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_platform_without_an_engine_is_not_ready(generator: list[Any], tmp_path: Path) -> None:
    with platform(503) as endpoint, pytest.raises(NotReadyError, match="no engine of 'm' answers"):
        list(run_loadtest(Bench(endpoint, LEVELS, Clock()), SCENARIO, tmp_path / "run"))


class Counting:
    """An engine's client: six tokens a word, ten around them, and a context of so many."""

    def __init__(self, context: int) -> None:
        self.context = context

    def prompt_tokens(self, prompt: str) -> int:
        tokens = 6 * len(prompt.split()) + 10
        if tokens >= self.context:
            raise ToolError("too long")
        return tokens


@pytest.mark.parametrize(
    ("context", "counted"), [(4096, {20: 130, 120: 730}), (512, {20: 130, 60: 370}), (300, {20: 130, 40: 250}), (200, {20: 130}), (100, {})]
)
def test_a_short_context_is_no_reason_not_to_know_how_long_words_are(context: int, counted: dict[int, int]) -> None:
    scenario = Scenario.model_validate({"name": "a", "load": {"users": 1}, "prompts": {"tokens": 100}})
    work = assignment_for(scenario, Endpoint("http://127.0.0.1/v1", Secret("x"), None, "m"))
    assert _counted(Counting(context), work) == counted  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("counted", "per_word", "overhead"),
    [
        ({20: 36, 120: 166}, 1.3, 10),
        ({20: 20, 120: 120}, 1.0, 0),
        ({20: 130, 60: 370}, 6.0, 10),
        ({120: 120}, None, 0),
        ({}, None, 0),
        ({20: 40, 120: 40}, None, 0),
    ],
)
def test_the_engine_says_how_long_words_are(counted: dict[int, int], per_word: float | None, overhead: int) -> None:
    scenario = Scenario.model_validate({"name": "a", "load": {"users": 1}, "prompts": {"tokens": 100}})
    work = _calibrated(assignment_for(scenario, Endpoint("http://127.0.0.1/v1", Secret("x"), None, "m")), counted)
    assert (work.tokens_per_word, work.overhead_tokens) == (per_word and pytest.approx(per_word), overhead)
    assert work.is_calibrated == (per_word is not None)
    prompts = Prompts(work)
    asked = prompts.messages(work.kinds[0], 0, prompts.source(0))[0]["content"]
    assert len(asked.split()) == round((100 - overhead) / (per_word or 1))

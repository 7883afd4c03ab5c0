"""Load from several machines by a real SSH server, whose second machine has a clock of its own, against an engine that knows the truth."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from scripted_engine import MODEL, TOKEN, tls_engine_serving
from ssh_ground import AHEAD_S, Ground, ssh_ground

from kivactl import __version__
from kivactl.errors import Interrupted, InvalidMeasurementError, PreconditionError
from kivactl.flows.loadtest import Bench, run_assignment, run_loadtest, verdict
from kivactl.flows.measure import remotes_from
from kivactl.flows.search import run_search
from kivactl.loadtest.assignment import parse_assignment
from kivactl.loadtest.processes import staffed
from kivactl.loadtest.record import Record, read_records
from kivactl.loadtest.scenario import Scenario, assignment_for
from kivactl.plan import Outcome, Status
from kivactl.spec.platform import ServiceLevels
from kivactl.tools.clock import Clock

pytestmark = pytest.mark.real
EASY = ServiceLevels.model_validate({"ttft_p95": "30s", "tpot_p95": "10s", "error_ratio": 0})
GAP_S = 0.02


def quick(answer: Any) -> None:
    answer.head()
    for number in range(2):
        time.sleep(GAP_S)
        answer.token(finish_reason="length" if number else None)
    answer.close(2)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    if subprocess.run(["unshare", "--time", "true"], check=False, capture_output=True).returncode:
        pytest.skip("a clock of its own takes root")
    with ssh_ground(tmp_path_factory.mktemp("ssh")) as ground:
        yield ground


@pytest.fixture(autouse=True)
def _leaves_nothing(ground: Ground) -> Iterator[None]:
    """Neither sessions nor Locust nor folders, here or there."""
    yield
    until(lambda: not ground.sessions())
    until(lambda: not locusts(ground))
    assert list(ground.temporary.iterdir()) == []


def until(what: Callable[[], Any]) -> Any:
    """Wait for something; the test's own time limit ends what never comes."""
    while not (found := what()):
        time.sleep(0.02)
    return found


def locusts(ground: Ground) -> list[psutil.Process]:
    """Locust's processes that generate, whoever is their parent."""
    return [process for process in psutil.process_iter() if belongs(process, ground)]


def belongs(process: psutil.Process, ground: Ground) -> bool:
    try:
        port = process.environ().get("SSH_CONNECTION", "0").split()[-1]
        return int(port) in ground.ports and "locust" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def commands(ground: Ground, machine: str) -> list[psutil.Process]:
    """What started them on a machine."""
    found = [process.parent() for process in locusts(ground) if process.environ()["KIVA_LOADTEST_MACHINE"] == machine]
    return [parent for parent in found if parent is not None and "locust" not in parent.cmdline()]


def scenario(**what: Any) -> Scenario:
    common = {"name": "test", "warm_up": "300ms", "duration": "2s", "timeout": "5s", "prompts": {"texts": ["x"]}, "output": {"tokens": 2}, "seed": 7}
    return Scenario.model_validate({**common, **what})


def bench(engine: Any, ground: Ground, *machines: str) -> Bench:
    engine.script = quick
    return Bench(engine.endpoint(), EASY, Clock(), remotes=remotes_from(machines, ground.config), with_page=False)


def by_moment(records: list[Record]) -> list[Record]:
    return sorted(records, key=lambda record: record.moment_ns)


def test_machines_with_different_clocks_keep_one_schedule(engine: Any, ground: Ground, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    began_ns = time.perf_counter_ns()
    outcomes = list(run_loadtest(bench(engine, ground, "one", "other"), scenario(load={"rate": 30, "arrivals": "constant"}, duration="1s"), folder))
    ended_ns, summary = time.perf_counter_ns(), outcomes[-1].data

    assert [(outcome.step, outcome.status) for outcome in outcomes if outcome.step == "machines"] == [("machines", Status.STARTED), ("machines", Status.DONE)]
    assert summary["due"] == summary["requests"] == summary["succeeded"] == 30
    records = by_moment(read_records(folder / "records.jsonl.gz"))
    assert len({record.index for record in records}) == len(records) == len(engine.truths[1:])

    # One schedule, of which each machine has every second arrival, though their clocks differ by more than a day.
    work = parse_assignment((folder / "scenario.json").read_text())
    assert (work.processes, work.machines) == (2, ("one", "other"))
    due_s = [at_s for at_s, _ in zip(work.schedule(), records, strict=False)]
    shifts_s = [record.moment_ns / 1e9 - at_s for record, at_s in zip(records, due_s, strict=True)]
    assert [record.index for record in records] == list(range(len(records)))
    assert shifts_s == pytest.approx([shifts_s[0]] * len(records), abs=1e-6)

    # Every stamp is of this clock, as well as the machine's is known.
    errors_s = {machine["name"]: machine["clock_error_ms"] / 1e3 for machine in summary["machines"]}
    assert set(errors_s) == {"one", "other"}
    error_ns = max(errors_s.values()) * 1e9
    assert error_ns < AHEAD_S * 1e9 / 1000
    assert all(began_ns - error_ns <= record.start_ns <= record.end_ns <= ended_ns + error_ns for record in records)
    # The engine's own stamps are of this clock as well: no token can have come before it was sent.
    sent_ns = sorted(truth.sent_ns[0] for truth in engine.truths[1:])
    seen_ns = sorted(record.token_ns[0] for record in records if record.token_ns)
    assert all(seen + error_ns >= sent for seen, sent in zip(seen_ns, sent_ns, strict=False))
    assert all(record.ttft_s >= GAP_S for record in records if record.token_ns)  # type: ignore[operator]

    environment = json.loads((folder / "environment.json").read_text())
    assert {name: found["processes"] for name, found in environment["generators"].items()} == {"one": 1, "other": 1}
    assert "Generated by 2 processes on one (clock known to " in (folder / "report.md").read_text()
    assert sorted(path.name for path in folder.iterdir()) == [
        "environment.json",
        "junit.xml",
        "records.jsonl.gz",
        "report.md",
        "scenario.json",
        "summary.json",
    ]


def test_each_run_of_a_sweep_has_the_machines_and_its_files_and_tokens_stand_nowhere(ground: Ground, tmp_path: Path) -> None:
    """A file of chats, an authority to trust, several processes; a closed loop with a number of requests."""
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps({"prompt": f"chat {number}"}) + "\n" for number in range(5)))
    seen: set[str] = set()
    sweep = {"load": {"users": 2}, "sweep": {"users": [2, 4]}, "prompts": {"file": str(tmp_path / "chats.jsonl")}, "processes": 2}
    with tls_engine_serving(tmp_path) as engine:
        wanted = scenario(warm_up="0s", **sweep).model_copy(update={"requests": 8})
        outcomes = []
        for outcome in run_search(bench(engine, ground, "other"), wanted, tmp_path / "run"):
            outcomes.append(outcome)
            started = [*psutil.Process().children(recursive=True), *psutil.Process(ground.server.pid).children(recursive=True)]
            seen |= {line_of(process) for process in started}
        asked = {truth.prompt for truth in engine.truths}
    told = outcomes[-1].data
    assert told["invalid"] is None
    assert any("kivactl loadtest worker" in line for line in seen)
    assert not any(TOKEN in line for line in seen)
    assert [(probe["load"], probe["due"], probe["good"]) for probe in told["probes"]] == [(2, 8, 8), (4, 8, 8)]
    assert [(machine["name"], machine["processes"]) for machine in told["machines"]] == [("other", 2)]
    assert asked == {f"chat {number}" for number in range(5)}
    assert not any(TOKEN in path.read_text() for path in (tmp_path / "run").rglob("*.json"))


def line_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@pytest.mark.parametrize("victim", ["session", "processes"])
def test_a_machine_that_is_lost_makes_the_measurement_invalid(engine: Any, ground: Ground, tmp_path: Path, victim: str) -> None:
    """What the other machine measured stays, and nothing of the lost one goes on."""
    last: Outcome | None = None
    is_lost = False
    for outcome in run_loadtest(bench(engine, ground, "one", "other"), scenario(load={"users": 4}, duration="60s"), tmp_path / "run"):
        last = outcome
        if not is_lost and outcome.status is Status.PROGRESS and outcome.data["requests"] > 20:
            is_lost = True
            (command,) = commands(ground, "one")
            sessions = [process for process in command.parents() if process.pid in ground.sessions()]
            for process in sessions if victim == "session" else command.children():
                process.kill()
    assert last is not None
    assert last.data["requests"] > 0
    assert last.data["window_s"] < 59
    with pytest.raises(InvalidMeasurementError, match="'one'"):
        verdict(last.data)
    records = read_records(tmp_path / "run" / "records.jsonl.gz")
    assert {record.index % 2 for record in records} == ({0, 1} if victim == "processes" else {records[0].index % 2})
    assert "one" in json.loads((tmp_path / "run" / "environment.json").read_text())["generators"]


def test_ctrl_c_brings_the_records_of_all_machines(engine: Any, ground: Ground, tmp_path: Path) -> None:
    run = run_loadtest(bench(engine, ground, "one", "other"), scenario(load={"users": 4}, duration="60s"), tmp_path / "run")
    last: Any = None
    for last in run:
        if last.status is Status.PROGRESS and last.data["requests"] > 20:
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
    assert last.data["requests"] > 20
    assert last.data["interrupted"]
    with pytest.raises(Interrupted):
        verdict(last.data)
    records = read_records(tmp_path / "run" / "records.jsonl.gz")
    assert {record.index % 2 for record in records} == {0, 1}


@pytest.mark.parametrize(
    ("machine", "message", "hint"),
    [
        ("closed", "'closed' cannot be reached: ssh: connect to host 127.0.0.1", "ssh -F "),
        ("unknown", "the host key of 'unknown' is not known on this machine", "compare the fingerprint"),
        ("changed", "'changed' shows another host key than the one known for it", "ssh-keygen -R"),
        ("stranger", "'stranger' does not let us log in", "ssh-copy-id"),
        ("narrow", "'narrow' lends no port: its SSH server refuses to forward one", "AllowTcpForwarding"),
        ("wide", "'wide' lends its port to its whole network", "GatewayPorts no"),
        ("no-such-host.invalid", "'no-such-host.invalid' cannot be reached: ssh: Could not resolve", "true"),
    ],
)
def test_a_machine_that_cannot_be_used_is_one_sentence(engine: Any, ground: Ground, tmp_path: Path, machine: str, message: str, hint: str) -> None:
    refused(engine, ground, tmp_path, machine, message, hint)


def refused(engine: Any, ground: Ground, tmp_path: Path, machine: str, message: str, hint: str, url: str = "") -> None:
    wanted = bench(engine, ground, machine)
    assignment = staffed(assignment_for(scenario(load={"users": 1}), wanted.endpoint), None, 1, wanted.machines)
    with pytest.raises(PreconditionError) as caught:
        list(run_assignment(wanted, replace(assignment, url=url or assignment.url), (), tmp_path / "run"))
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("program", "message", "hint"),
    [
        (None, "kivactl is not found on 'one'", f"install kivactl {__version__} there"),
        (
            "echo 'error: there is no load test named worker' >&2; exit 2",
            "kivactl on 'one' cannot generate load for another machine (exit code 2)",
            "--version",
        ),
        (
            r"""printf 'Hi!\036kivactl {"kind":"hello","bytes":0,"version":"0.0.9","locust":"2"}\n'; cat""",
            "'one' has kivactl 0.0.9, this machine has",
            "install",
        ),
        (
            rf"""printf '\036kivactl {{"kind":"hello","bytes":0,"version":"{__version__}","locust":null}}\n'; cat""",
            "Locust, which generates the load, is not installed on 'one'",
            "pip install 'kivactl[local]'",
        ),
    ],
)
def test_a_machine_without_the_right_kivactl(engine: Any, ground: Ground, tmp_path: Path, program: str | None, message: str, hint: str) -> None:
    there = ground.bin / "kivactl"
    right = there.read_text()
    there.unlink()
    try:
        if program is not None:
            there.write_text(f"#!/bin/sh\n{program}\n")
            there.chmod(0o755)
        refused(engine, ground, tmp_path, "one", message, hint)
    finally:
        there.write_text(right)
        there.chmod(0o755)


def test_a_machine_that_does_not_reach_the_platform(engine: Any, ground: Ground, tmp_path: Path) -> None:
    refused(engine, ground, tmp_path, "other", "'other' does not reach http://127.0.0.1:1/v1: Connection refused", "--url", "http://127.0.0.1:1/v1")


def test_whatever_is_killed_the_load_ends(engine: Any, ground: Ground, tmp_path: Path) -> None:
    """kivactl here, and at the same time what it started on one of the machines."""
    engine.script = quick
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "long.yaml").write_text("{name: long, load: {users: 4}, duration: 60s, warm_up: 0s, prompts: {texts: [x]}, output: {tokens: 2}}")
    options = ["--url", engine.url, "--model", MODEL, "--token-file", "token", "--on", "one", "--on", "other", "--ssh-config", str(ground.config)]
    words = [sys.executable, "-m", "kivactl", "loadtest", "long.yaml", *options]
    kivactl = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    until(lambda: len(engine.truths) > 50)
    (command,) = commands(ground, "other")
    command.kill()
    kivactl.kill()
    kivactl.wait()
    until(lambda: not locusts(ground))

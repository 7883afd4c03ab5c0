"""`loadtest` and its commands: what a person sees, and what a program reads."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kivactl.flows.loadtest_runs import find_run, runs_in
from kivactl.loadtest.assignment import Folder
from kivactl.loadtest.levels import levels_from
from kivactl.loadtest.metrics import Conditions, Window, summary_for
from kivactl.loadtest.record import Record

S, MS = 1_000_000_000, 1_000_000
WINDOW = Window(0, 10 * S)
Kivactl = Callable[..., Any]


def run_of(name: str, ttft_ms: int, at_s: int, load: str = "2 users in a closed loop", **changes: Any) -> Folder:
    """A finished load test in the state folder of the folder one is in."""
    folder = Folder(Path(".kiva", "loadtests", name))
    folder.path.mkdir(parents=True)
    records = []
    for index in range(100):
        first_ns = index * 100 * MS + ttft_ms * MS
        stamps = (first_ns, first_ns + 20 * MS)
        records.append(Record(index, index * 100 * MS, stamps[-1], sent_ns=index * 100 * MS, token_ns=stamps, completion_tokens=2, finish_reason="length"))
    summary = summary_for(records, WINDOW, levels_from({"ttft_p95": 0.15, "error_ratio": 0.1}), Conditions("chat", "m", 2, load))
    told = {**summary.as_dict(), "window": {"start_ns": 0, "end_ns": 10 * S}, **changes}
    folder.summary.write_text(json.dumps(told))
    folder.packed.write_bytes(gzip.compress("".join(record.to_json() + "\n" for record in records).encode()))
    os.utime(folder.summary, (at_s, at_s))
    return folder


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_of("chat-1", 100, 1000)
    run_of("chat-2", 200, 2000)


def test_scenarios_and_runs_are_listed(kivactl: Kivactl, runs: None) -> None:
    shown = kivactl("loadtest", "list")
    assert shown.code == 0
    assert "smoke " in shown.stdout
    assert "capacity " in shown.stdout
    lines = [line.split() for line in shown.stdout.splitlines() if line.startswith("chat-")]
    assert [(line[0], line[-1]) for line in lines] == [("chat-2", "missed"), ("chat-1", "met")]
    told = json.loads(kivactl("loadtest", "list", "--output", "json").stdout)
    assert [run["run"] for run in told["runs"]] == ["chat-2", "chat-1"]
    assert set(told["scenarios"]) >= {"smoke", "chat", "rag", "batch", "mixed", "soak", "capacity", "sweep", "background"}


def test_a_load_test_of_ones_own_is_listed_completed_and_planned_by_its_name(kivactl: Kivactl, completed: Kivactl, tmp_path: Path) -> None:
    (tmp_path / "loadtests").mkdir()
    (tmp_path / "loadtests" / "ours.yaml").write_text("name: ours\ndescription: Our own.\nload: {users: 3}\nprompts: {tokens: 3}\n")
    assert json.loads(kivactl("loadtest", "list", "--output", "json").stdout)["scenarios"]["ours"] == "Our own."
    assert "ours" in completed("kivactl loadtest our").stdout
    planned = kivactl("loadtest", "ours", "--plan")
    assert (planned.code, "3 users" in planned.stdout) == (0, True)


def test_a_run_is_shown_again(kivactl: Kivactl, runs: None) -> None:
    shown = kivactl("loadtest", "show", "chat-1")
    assert shown.code == 0
    assert "2 users in a closed loop" in shown.stdout
    assert "ttft_p95" in shown.stdout
    assert "missed" in kivactl("loadtest", "show").stdout
    assert json.loads(kivactl("loadtest", "show", ".kiva/loadtests/chat-1", "--output", "json").stdout)["scenario"] == "chat"


def test_two_runs_are_compared(kivactl: Kivactl, runs: None) -> None:
    shown = kivactl("loadtest", "compare", "chat-1")
    assert shown.code == 0
    row = next(line for line in shown.stdout.splitlines() if line.startswith("ttft_p50"))
    assert row.split()[1:] == ["100", "ms", "200", "ms", "+100.0%", "100", "ms", "to", "100", "ms", "worse"]
    assert next(line for line in shown.stdout.splitlines() if line.startswith("tpot_p50")).endswith("same")
    failed = kivactl("loadtest", "compare", "chat-1", "chat-2", "--fail-if-worse")
    assert failed.code == 6
    assert "'chat-2' is worse than 'chat-1' in ttft_p50" in failed.stderr
    assert kivactl("loadtest", "compare", "chat-2", "chat-1", "--fail-if-worse").code == 0
    told = json.loads(kivactl("loadtest", "compare", "chat-1", "chat-2", "--output", "json").stdout)
    assert {found["verdict"] for found in told["differences"]} == {"same", "worse"}


def test_different_loads_are_named(kivactl: Kivactl, runs: None) -> None:
    run_of("other", 100, 3000, load="Poisson arrivals at 4 requests/s")
    assert "the load differs: '2 users in a closed loop' and 'Poisson arrivals at 4 requests/s'" in kivactl("loadtest", "compare", "chat-1", "other").stderr


def test_what_is_not_there(kivactl: Kivactl, runs: None) -> None:
    missing = kivactl("loadtest", "show", "chat-9")
    assert (missing.code, missing.stderr) == (2, "error: there is no load test 'chat-9'\nhint: kivactl loadtest list\n")
    (Path(".kiva", "loadtests", "chat-1") / "records.jsonl.gz").unlink()
    refused = kivactl("loadtest", "compare", "chat-1", "chat-2")
    assert refused.code == 2
    assert "has no records to compare" in refused.stderr


def test_a_search_has_runs_of_its_own_to_compare(kivactl: Kivactl, runs: None) -> None:
    folder = run_of("capacity-1", 100, 4000, probes=[{"load": 1}], window=None)
    assert f"{folder.path / 'probes' / '01'}" in kivactl("loadtest", "compare", "capacity-1", "chat-1").stderr


def test_without_any_run(kivactl: Kivactl) -> None:
    assert "there is no load test in" in kivactl("loadtest", "show").stderr
    assert kivactl("loadtest", "list").code == 0


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["smoke"], "smoke: 4 users in a closed loop, 3 s of warm-up, measured for 20 s\n"),
        (["smoke", "--rate", "2", "--seed", "1", "--duration", "10s"], "smoke: Poisson arrivals at 2 requests/s, 3 s of warm-up, measured for 10 s: "),
        (["smoke", "--requests", "7"], "smoke: 4 users in a closed loop, 3 s of warm-up: 7 requests\n"),
        (
            ["capacity"],
            "capacity: Poisson arrivals at 0.5 requests/s, then ever closer to the highest rate that keeps the service levels, up to 500 requests/s, ",
        ),
        (["capacity", "--rate", "20", "--duration", "5s"], "capacity: Poisson arrivals at 20 requests/s, "),
        (["capacity", "--duration", "5s"], "5 s of warm-up, measured for 5 s each\n"),
        (["sweep"], "sweep: 1, 2, 4, 8, 16, 32 users, one run each, 5 s of warm-up, measured for 40 s each\n"),
        ([], "smoke: 4 users"),
        (["smoke"], "Sent by 1 process of the load generator.\n"),
        (["smoke", "--processes", "3"], "Sent by 3 processes of the load generator.\n"),
        (["smoke", "--on", "a", "--on", "ops@b:2200"], "Sent by 1 process of the load generator on each of a, ops@b:2200.\n"),
        (["smoke", "--on", "a", "--processes", "4"], "Sent by 4 processes of the load generator on each of a.\n"),
    ],
)
def test_a_plan_touches_nothing(kivactl: Kivactl, words: list[str], lines: str, tmp_path: Path) -> None:
    shown = kivactl("loadtest", *words, "--plan")
    assert shown.code == 0, shown.stderr
    assert lines in shown.stdout
    assert list(tmp_path.iterdir()) == []
    assert not shown.stderr


def test_a_sweep_has_loads_of_its_own(kivactl: Kivactl) -> None:
    for option in ("--users", "--rate"):
        refused = kivactl("loadtest", "sweep", option, "3", "--plan")
        assert (refused.code, refused.stderr.splitlines()[0]) == (2, "error: the load test 'sweep' is a sweep, which has loads of its own")


def test_a_plan_of_a_sweep_says_that_its_highest_load_is_beyond_the_generator(kivactl: Kivactl, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\nload: {rate: 1}\nprompts: {tokens: 3}\nsweep: {rates: [5000, 1]}\n")
    shown = kivactl("--output", "json", "loadtest", "mine.yaml", "--plan")
    assert json.loads(shown.stdout)["warning"].startswith("up to 445,000 token events/s")


def test_a_plan_says_that_a_load_is_beyond_the_generator(kivactl: Kivactl) -> None:
    shown = kivactl("loadtest", "chat", "--rate", "5000", "--plan")
    assert shown.code == 0
    assert "warning: up to " in shown.stderr
    assert "likely to be invalid; --on names more machines" in shown.stderr


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["smok"], "there is no load test named 'smok'"),
        (["smoke", "--url", "http://127.0.0.1:1/v1"], "an endpoint that no kiva.yaml describes needs the name of a model"),
        (["smoke", "--url", "127.0.0.1:1", "--model", "m"], "'127.0.0.1:1' is no URL"),
        (["smoke", "--url", "http://127.0.0.1:1/v1", "--model", "m"], "nothing answers at http://127.0.0.1:1/v1"),
        (["smoke", "--url", "http://127.0.0.1:1/v1", "--model", "m", "--token-file", "no"], "the token in no cannot be read: No such file or directory"),
        (["smoke", "--url", "http://127.0.0.1:1/v1", "--model", "m", "--tenant-token", "a"], "'a' is no tenant with a file"),
        (["smoke", "--users", "1", "--rate", "1"], "a load has either users or a rate"),
        (["smoke", "--on", "-oProxyCommand=x"], "'-oProxyCommand=x' is no machine to log in to"),
        (["smoke", "--on", "a", "--on", "a"], "the machine 'a' is named twice"),
        (["smoke", "--on", "a", "--ssh-config", "no"], "there is no configuration of ssh in no"),
    ],
)
def test_bad_input_is_one_sentence(kivactl: Kivactl, words: list[str], error: str) -> None:
    found = kivactl("loadtest", *words, *([] if "--url" in words else ["--plan"]))
    assert found.code in (2, 3)
    assert error in found.stderr
    assert len(found.stderr.splitlines()) <= 4


def test_a_token_file_is_one_word(kivactl: Kivactl, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("two words\n")
    found = kivactl("loadtest", "smoke", "--url", "http://127.0.0.1:1/v1", "--model", "m", "--token-file", "token")
    assert (found.code, "two words" in found.stderr) == (2, False)
    assert "does not hold a token" in found.stderr


def test_help_names_the_commands_and_the_options_of_a_run(kivactl: Kivactl) -> None:
    assert all(word in kivactl("loadtest", "--help").stdout for word in ("compare", "list", "show", "SCENARIO"))
    assert all(word in kivactl("loadtest", "run", "--help").stdout for word in ("--rate", "--users", "--ui", "--url", "--folder", "--on"))
    assert "worker" not in kivactl("loadtest", "--help").stdout


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--output", "json", "list"], '"scenarios"'),
        (["-o", "json", "list"], '"scenarios"'),
        (["--output=json", "list"], '"scenarios"'),
        (["--debug", "list"], "SCENARIO "),
        (["--rate", "2", "chat", "--plan"], "chat: Poisson arrivals at 2 requests/s"),
        (["--plan", "--output", "json", "chat"], '"scenario": "chat"'),
        (["--plan"], "smoke: 4 users"),
        (["chat", "--help"], "--tenant-token"),
        (["-h"], "compare"),
        (["--output", "json", "--help"], "compare"),
    ],
)
def test_options_may_stand_before_the_name(kivactl: Kivactl, words: list[str], shown: str) -> None:
    found = kivactl("loadtest", *words)
    assert found.code == 0, found.stderr
    assert shown in found.stdout


def test_an_option_that_a_command_does_not_have_is_refused(kivactl: Kivactl) -> None:
    assert "--rate" in kivactl("loadtest", "--rate", "2", "list").stderr


def test_what_is_unfinished_is_left_out(runs: None) -> None:
    folder = Path(".kiva", "loadtests")
    (folder / "half").mkdir()
    (folder / "old").mkdir()
    (folder / "old" / "summary.json").write_text("{}")
    assert [run.name for run in runs_in(folder)] == ["chat-2", "chat-1"]
    assert find_run("latest", folder).name == "chat-2"
    assert replace(find_run("chat-1", folder), summary={"interrupted": True}).result == "interrupted"
    assert replace(find_run("chat-1", folder), summary={"invalid": "late"}).result == "invalid"

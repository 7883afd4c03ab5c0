from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kivactl import root
from kivactl.errors import SpecError, UsageError
from kivactl.loadtest.arrivals import Piece, Process
from kivactl.loadtest.assignment import parse_assignment
from kivactl.loadtest.catalogue import Changes, described, load_scenario, scenarios
from kivactl.loadtest.prompts import Prompts
from kivactl.loadtest.scenario import assignment_for, levels_for
from kivactl.spec.platform import ServiceLevels
from kivactl.stack.endpoint import Endpoint
from kivactl.stack.secret import Secret

ENDPOINT = Endpoint("https://127.0.0.1:4000/v1", Secret("hush"), Path("/ca.pem"), "m")
SHORT = "name: a\nload: {users: 1}\nprompts: {tokens: 3}\n"


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", [path.stem for path in root.content("loadtests").glob("*.yaml")])
def test_those_that_come_along_are_sound(name: str) -> None:
    scenario = load_scenario(name)
    assert scenario.name == name
    assert scenario.description
    assignment = assignment_for(scenario, ENDPOINT)
    prompts = Prompts(assignment)
    assert all(prompts.messages(kind, 0, prompts.source(0)) for kind in assignment.kinds)
    assert parse_assignment(assignment.to_json()) == assignment


def test_smoke_and_chat_are_there() -> None:
    assert set(scenarios()) >= {"smoke", "chat"}


def test_the_command_line_comes_before_the_file() -> None:
    scenario = load_scenario("smoke", Changes(users=9, duration="1m30s", max_tokens=5, seed=3, processes=2, warm_up="0s"))
    assert (scenario.duration, scenario.load.users, scenario.output.tokens.mean) == (90.0, 9, 5)
    assert (scenario.seed, scenario.processes, scenario.warm_up) == (3, 2, 0)
    assert scenario.prompts == load_scenario("smoke").prompts


def test_a_rate_makes_a_closed_loop_an_open_one_and_users_the_other_way(tmp_path: Path) -> None:
    assert load_scenario("smoke", Changes(rate=2.5)).load.model_dump(exclude_unset=True) == {"rate": 2.5}
    gamma = written(tmp_path, "name: a\nload: {rate: 4, arrivals: gamma, burstiness: 0.5}\nprompts: {tokens: 3}\n")
    kept = load_scenario(gamma, Changes(rate=8.0)).load
    assert (kept.rate, kept.arrivals, kept.burstiness) == (8.0, Process.GAMMA, 0.5)
    assert load_scenario(gamma, Changes(users=2)).load.model_dump(exclude_unset=True) == {"users": 2}


def test_a_number_of_requests_stands_instead_of_a_duration() -> None:
    assert load_scenario("smoke", Changes(requests=10)).requests == 10
    with pytest.raises(UsageError) as caught:
        load_scenario("smoke", Changes(requests=10, duration="5s"))
    assert caught.value.details == ("give either duration or requests",)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        (Changes(duration="90"), "--duration: '90' is not a duration"),
        (Changes(duration="0s"), "--duration: must be more than 0"),
        (Changes(users=0), "--users: must be at least 1"),
        (Changes(rate=-1.0), "--rate: must be more than 0"),
        (Changes(processes=0), "--processes: must be at least 1"),
    ],
)
def test_the_command_line_out_of_range(changes: Changes, fault: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_scenario("smoke", changes)
    assert caught.value.details[0].startswith(fault)


def test_users_and_a_rate_are_two_loads() -> None:
    with pytest.raises(UsageError, match="either users or a rate"):
        load_scenario("smoke", Changes(users=1, rate=1.0))


@pytest.mark.parametrize(("name", "hint"), [("smok", "did you mean 'smoke'?"), ("zzz", "there are: ")])
def test_an_unknown_name(name: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_scenario(name)
    assert caught.value.hint.startswith(hint)
    assert name in caught.value.message


def test_ones_own_are_found_by_name_and_hide_those_that_come_along(tmp_path: Path) -> None:
    own = tmp_path / "loadtests"
    assert load_scenario("smoke", own=own).load.users == 4  # the folder need not be there
    own.mkdir()
    for name in ("mine", "smoke"):
        (own / f"{name}.yaml").write_text(SHORT + f"description: {name} of our own\n")
    assert load_scenario("mine", Changes(users=7), own).load.users == 7
    assert load_scenario("smoke", own=own).description == "smoke of our own"
    assert described(own) | {"mine": "mine of our own", "smoke": "smoke of our own"} == described(own)
    assert described().keys() | {"mine"} == described(own).keys()
    with pytest.raises(UsageError) as caught:
        load_scenario("mien", own=own)
    assert caught.value.hint == "did you mean 'mine'?"


def test_a_file_that_is_no_scenario_does_not_keep_the_others_from_being_named(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "gone.yaml").symlink_to(tmp_path / "nowhere")
    contents = {"broken": b"[1, 2\n", "listed": b"- a\n", "noise": b"\xff\xfe\x00", "nothing": b"", "ours": SHORT.encode() + b"description: Ours.\n"}
    for name, content in contents.items():
        (tmp_path / f"{name}.yaml").write_bytes(content)
    named = described(tmp_path)
    assert named == described() | dict.fromkeys(["folder", "gone", *contents], "") | {"ours": "Ours."}


def test_a_missing_file() -> None:
    with pytest.raises(UsageError, match=r"there is no load test in nowhere/x\.yaml"):
        load_scenario("nowhere/x.yaml")


ONE_LOAD = "give one of users, rate, ramp, steps and trace"


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        (SHORT + "duratoin: 3s\n", ["4: unknown key 'duratoin'; did you mean 'duration'?"]),
        ("name: a\nload: {user: 1}\nprompts: {tokens: 3}\n", ["2: load: unknown key 'user'; did you mean 'users'?"]),
        ("load: {users: 1}\nprompts: {tokens: 3}\n", ["1: name: is missing"]),
        ("name: a\nload: {users: 1}\n", ["1: prompts: is missing"]),
        ("name: a\nload: {}\nprompts: {tokens: 3}\n", [f"2: load: {ONE_LOAD}"]),
        ("name: a\nload: {users: 1, rate: 2}\nprompts: {tokens: 3}\n", [f"2: load: {ONE_LOAD}, not users and rate"]),
        ("name: a\nload: {rate: 1, think_time: 1s}\nprompts: {tokens: 3}\n", ["2: load: 'think_time' belongs to 'users', not to 'rate'"]),
        ("name: a\nload: {rate: 1, burstiness: 2}\nprompts: {tokens: 3}\n", ["2: load: 'burstiness' belongs to arrivals of the kind 'gamma'"]),
        ("name: a\nload: {rate: 1, arrivals: poison}\nprompts: {tokens: 3}\n", ["2: load.arrivals: must be constant, poisson or gamma"]),
        ("name: a\nload: {users: 1}\nprompts: {texts: []}\n", ["3: prompts.texts: must not be empty"]),
        ("name: a\nload: {users: 1}\nprompts: {texts: [x], tokens: 3}\n", ["3: prompts: give one of texts, tokens and file, not texts and tokens"]),
        ("name: a\nload: {users: 1}\nprompts: {tokens: 0}\n", ["3: prompts.tokens: must be more than 0"]),
        ("name: a\nload: {users: 1}\nprompts: {tokens: {shape: uniform, mean: 3}}\n", ["3: prompts.tokens: a uniform length has min and max"]),
        ("name: a\nload: {users: 1}\nprompts: {tokens: {sd: 3}}\n", ["3: prompts.tokens: a lognormal length needs its mean"]),
        ("name: a\nload: {users: 1}\nprompts: {tokens: {mean: 5, min: 9, max: 4}}\n", ["3: prompts.tokens: min is more than max (9 and 4)"]),
        ("name: a\nload: {users: 1}\nprompts: {file: no.jsonl}\n", ["3: prompts.file: cannot be read: No such file or directory"]),
        ("name: a\nload: {trace: no.jsonl}\nprompts: {tokens: 3}\n", ["2: load.trace: cannot be read: No such file or directory"]),
        (SHORT + "duration: 20\n", ["4: duration: '20' has no unit"]),
        (SHORT + "duration: 20s\nrequests: 5\n", ["1: give either duration or requests"]),
        (SHORT + "capacity: {}\n", ["1: a capacity search needs a load with a rate"]),
        (
            "name: a\nload: {rate: 9}\nprompts: {tokens: 3}\ncapacity: {limit: 8}\n",
            ["1: the search for the capacity begins at 9 requests/s, above its limit of 8"],
        ),
        ("name: a\nload: {rate: 1}\nrequests: 5\nprompts: {tokens: 3}\ncapacity: {}\n", ["1: runs at different rates are measured for a duration, "]),
        ("name: a\nload: {rate: 1}\nrequests: 5\nprompts: {tokens: 3}\nsweep: {rates: [1, 2]}\n", ["1: runs at different rates are measured for a duration, "]),
        (SHORT + "sweep: {rates: [1, 2]}\n", ["1: a sweep over rates needs a load with rate"]),
        (SHORT + "sweep: {}\n", ["4: sweep: give either users or rates"]),
        (SHORT + "mix: [{name: x}, {name: x}]\n", ["1: two parts of the mix are named 'x'"]),
        (SHORT + "service_levels: {preset: mlperf-9b}\n", ["4: service_levels.preset: must be one of mlperf-8b, "]),
        (SHORT + "service_levels: {ttft_p95: 2}\n", ["4: service_levels.ttft_p95: '2' has no unit"]),
        ("name: A b\nload: {users: 1}\nprompts: {tokens: 3}\n", ["1: name: "]),
        (SHORT + "name: b\n", ["4: name: stands here a second time"]),
        ("name: [a\n", ["2: a bracket is never closed"]),
        ("- a\n", ["1: must be a mapping"]),
        ("", ["1: the file is empty"]),
    ],
)
def test_faults_have_file_and_line(tmp_path: Path, text: str, faults: list[str]) -> None:
    path = written(tmp_path, text)
    with pytest.raises(SpecError) as caught:
        load_scenario(path)
    assert path in caught.value.message
    assert len(caught.value.details) == len(faults), caught.value.details
    for line, fault in zip(caught.value.details, faults, strict=True):
        assert line.startswith(f"mine.yaml:{fault}")


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("prompts", '{"messages": [{"role": "user", "content": "x"}]}\noops\n', ":2: is no line of JSON with 'messages' or 'prompt'"),
        ("prompts", "\n", ": holds no conversation"),
        ("trace", '{"at": 1}\n{"at": -1}\n', ":2: is no arrival"),
        ("trace", "", ": holds no arrival"),
    ],
)
def test_a_file_that_is_not_what_it_should_be(tmp_path: Path, name: str, text: str, fault: str) -> None:
    (tmp_path / "data.jsonl").write_text(text)
    load, prompts = ("{trace: data.jsonl}", "{tokens: 3}") if name == "trace" else ("{users: 1}", "{file: data.jsonl}")
    with pytest.raises(SpecError) as caught:
        load_scenario(written(tmp_path, f"name: a\nload: {load}\nprompts: {prompts}\n"))
    assert fault in caught.value.details[0]


def test_an_assignment_survives_its_file_and_holds_no_token() -> None:
    assignment = assignment_for(load_scenario("chat", Changes(duration="1500ms")), ENDPOINT)
    text = assignment.to_json()
    assert "hush" not in text
    assert parse_assignment(text) == assignment
    assert assignment.duration_s == 1.5
    assert assignment.ca == "/ca.pem"


def test_without_a_seed_each_run_draws_its_own(tmp_path: Path) -> None:
    drawn = {assignment_for(load_scenario("chat"), ENDPOINT).seed for _ in range(5)}
    assert len(drawn) > 1
    fixed = load_scenario(written(tmp_path, SHORT + "seed: 5\n"))
    assert assignment_for(fixed, ENDPOINT).seed == 5


def test_users_begin_one_after_another_within_half_of_the_warm_up(tmp_path: Path) -> None:
    work = assignment_for(load_scenario(written(tmp_path, SHORT.replace("users: 1", "users: 4") + "warm_up: 8s\n")), ENDPOINT)
    assert [work.begins_s(number) for number in range(6)] == [0, 1, 2, 3, 0, 0]
    assert replace(work, warm_up_s=0.0).begins_s(3) == 0


def test_the_rate_over_time_has_a_warm_up_and_goes_on_after_the_end(tmp_path: Path) -> None:
    path = written(tmp_path, "name: a\nload: {steps: [1, 3]}\nprompts: {tokens: 3}\nduration: 20s\nwarm_up: 5s\ntimeout: 60s\n")
    assignment = assignment_for(load_scenario(path), ENDPOINT)
    assert assignment.pieces == (Piece(5, 1, 1), Piece(10, 1, 1), Piece(10, 3, 3), Piece(60, 3, 3))
    assert assignment.words == "Poisson arrivals at 1, 3 requests/s"
    assert assignment.due_within(20.0) == sum(5 <= at_s < 25 for at_s in assignment.schedule())


def test_a_number_of_requests_in_an_open_loop_ends_the_schedule(tmp_path: Path) -> None:
    path = written(tmp_path, "name: a\nload: {rate: 10}\nprompts: {tokens: 3}\nrequests: 7\nwarm_up: 2s\nseed: 1\n")
    assignment = assignment_for(load_scenario(path), ENDPOINT)
    moments = list(assignment.schedule())
    assert sum(at_s >= 2 for at_s in moments) == 7
    assert assignment.due_within(1e9) == 7


def test_a_trace_is_replayed_at_its_speed(tmp_path: Path) -> None:
    lines = [{"timestamp": 3000, "input_length": 9, "output_length": 4}, {"at": 1, "prompt_tokens": 5}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    scenario = load_scenario(written(tmp_path, "name: a\nload: {trace: t.jsonl, speed: 2}\nprompts: {tokens: 3}\nwarm_up: 9s\n"))
    assignment = assignment_for(scenario, ENDPOINT)
    assert assignment.trace == ((0.0, 5, 0), (1.0, 9, 4))
    assert (list(assignment.schedule()), assignment.warm_up_s, assignment.words) == ([0.0, 1.0], 0.0, "2 arrivals of a trace")
    assert assignment.due_within(assignment.duration_s) == 2


def test_a_mix_has_each_kind_with_its_own(tmp_path: Path) -> None:
    rag = "{name: rag, model: big, stream: false, prompts: {texts: [x]}, output: {tokens: 9, exact: true}}"
    mix = f"mix:\n  - {{name: chat, share: 3, tenant: finance}}\n  - {rag}\n"
    scenario = load_scenario(written(tmp_path, SHORT + mix))
    assert scenario.named_tenants == ("finance",)
    chat, other = assignment_for(scenario, ENDPOINT).kinds
    assert (chat.share, chat.tenant, chat.model, chat.is_streamed, chat.output.mean) == (3.0, "finance", "m", True, 64)
    assert (other.tenant, other.model, other.is_streamed, other.texts, other.is_exact) == ("", "big", False, ("x",), True)


def test_requests_are_shared_out_among_all_tenants_where_that_is_wanted(tmp_path: Path) -> None:
    scenario = load_scenario(written(tmp_path, SHORT + "tenants: all\n"))
    assert [(part.name, part.tenant, part.share) for part in scenario.spread_over(["a", "b"]).mix] == [("a", "a", 0.5), ("b", "b", 0.5)]
    mixed = load_scenario(written(tmp_path, SHORT + "tenants: all\nmix: [{name: x, share: 3}, {name: y, tenant: c}]\n")).spread_over(["a", "b"])
    assert [(part.name, part.tenant, part.share) for part in mixed.mix] == [("x.a", "a", 1.5), ("x.b", "b", 1.5), ("y.c", "c", 1.0)]
    first = load_scenario("smoke")
    assert first.spread_over(["a"]) is first


PROMISED = ServiceLevels.model_validate({"ttft_p95": "1s", "tpot_p95": "100ms", "error_ratio": 0.01})


@pytest.mark.parametrize(
    ("own", "levels"),
    [
        ("{}", {"ttft_p95": 1.0, "tpot_p95": 0.1, "error_ratio": 0.01}),
        ("{ttft_p50: 300ms}", {"ttft_p50": 0.3, "tpot_p95": 0.1, "error_ratio": 0.01}),
        ("{e2e_p99: 9s, attainment: 0.9}", {"ttft_p95": 1.0, "tpot_p95": 0.1, "e2e_p99": 9.0, "attainment": 0.9, "error_ratio": 0.01}),
        ("{preset: mlperf-8b-interactive, error_ratio: 0}", {"ttft_p99": 0.5, "tpot_p99": 0.03, "error_ratio": 0.0}),
    ],
)
def test_a_scenarios_levels_stand_before_the_platforms(tmp_path: Path, own: str, levels: dict[str, float]) -> None:
    scenario = load_scenario(written(tmp_path, SHORT + f"service_levels: {own}\n"))
    assert {level.name: level.limit for level in levels_for(scenario, PROMISED)} == levels

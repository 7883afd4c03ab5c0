"""The reaper: what a dead leader left behind is ended, whichever way it died."""

import io

from kivactl.targets.reaper import parse_tokens, serve


def event(name, payload):
    return f"ver:3.0 server:supervisor serial:1 pool:reaper poolserial:1 eventname:{name} len:{len(payload)}\n{payload}"


def ended(*events, pids=None):
    groups: list[int] = []
    replies = io.StringIO()
    serve(io.StringIO("".join(events)), replies, lambda name: (pids or {}).get(name, 0), groups.append)
    assert replies.getvalue().count("READY\n") == len(events) + 1
    return groups


def test_the_group_of_an_exited_process_is_ended():
    assert ended(event("PROCESS_STATE_EXITED", "processname:m-0 groupname:m-0 from_state:RUNNING expected:0 pid:42")) == [42]


def test_an_early_death_tells_no_pid_so_it_was_asked_for_at_the_start():
    start = event("PROCESS_STATE_STARTING", "processname:m-0 groupname:m-0 from_state:STOPPED tries:0")
    backoff = event("PROCESS_STATE_BACKOFF", "processname:m-0 groupname:m-0 from_state:STARTING tries:1")
    assert ended(start, backoff, pids={"m-0": 43}) == [43]


def test_a_death_without_a_known_pid_ends_nothing():
    assert ended(event("PROCESS_STATE_BACKOFF", "processname:m-0 groupname:m-0 from_state:STARTING tries:1")) == []


def test_tokens():
    assert parse_tokens("a:1 b:x:y c") == {"a": "1", "b": "x:y"}


def test_what_hangs_is_ended_at_the_next_tick():
    groups: list[int] = []
    serve(io.StringIO(event("TICK_5", "when:1760000000")), io.StringIO(), lambda name: 0, groups.append, lambda: [44])
    assert groups == [44]

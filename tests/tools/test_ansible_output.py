"""What the adapter makes of ansible-runner's events; `recorded/ansible_events.jsonl` comes from a real run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kivactl.plan import Status
from kivactl.tools.ansible_output import Counts, Failure, PlaySummary, Reader, diff_lines, message_of, parse_stats

RECORDED = Path(__file__).parent / "recorded" / "ansible_events.jsonl"


@pytest.fixture
def events():
    return [json.loads(line) for line in RECORDED.read_text().splitlines()]


@pytest.fixture
def outcomes(events):
    reader = Reader()
    return [outcome for event in events for outcome in reader.read(event)]


def _ending(outcomes, task):
    (outcome,) = [each for each in outcomes if each.step == f"localhost: {task}" and each.status is not Status.STARTED]
    return outcome


def test_every_started_step_ends_once(outcomes):
    started = [outcome.step for outcome in outcomes if outcome.status is Status.STARTED]
    ended = [outcome.step for outcome in outcomes if outcome.status is not Status.STARTED]
    assert started == ended
    assert len(set(started)) == 8


def test_a_loop_names_the_items_that_changed(outcomes):
    folder = _ending(outcomes, "Folder")
    assert (folder.status, folder.message) == (Status.DONE, "changed")
    assert folder.data["items"] == ["zz"]
    assert folder.elapsed_s > 0


def test_debug_speaks_and_others_do_not(outcomes):
    assert _ending(outcomes, "dbg").message == "x"
    assert _ending(outcomes, "Notes").data["messages"] == ["first", "second"]
    assert "messages" not in _ending(outcomes, "Would").data


def test_a_skipped_task_is_skipped(outcomes):
    assert _ending(outcomes, "Never").status is Status.SKIPPED


def test_ignored_failures_do_not_fail(outcomes):
    denied = _ending(outcomes, "Denied")
    assert denied.status is Status.DONE
    assert "issue creating /proc/1/foo" in denied.message


def test_a_hidden_result_stays_hidden(outcomes):
    secret = _ending(outcomes, "Secret")
    assert secret.message == "failed, which the playbook ignores"
    assert "hunter2" not in json.dumps([outcome.as_dict() for outcome in outcomes])


def test_a_hidden_result_with_its_data_stays_hidden():
    reader = Reader()
    data = {
        "host": "h",
        "task": "t",
        "task_action": "ansible.builtin.debug",
        "duration": 1,
        "res": {"_ansible_no_log": True, "msg": "hunter2", "stderr": "hunter2"},
    }
    ok = list(reader.read({"event": "runner_on_ok", "event_data": data}))
    failed = list(reader.read({"event": "runner_on_failed", "event_data": data}))
    assert "hunter2" not in json.dumps([outcome.as_dict() for outcome in ok + failed])
    assert failed[0].message == "failed; the task hides its results"
    assert reader.failures == [Failure("h", "t", "")]


def test_each_item_of_a_loop_has_its_own_difference():
    results = [{"changed": True, "_ansible_item_label": name, "diff": {"before": "", "after": f"{name}\n"}} for name in ("a", "b")]
    results.append({"changed": False, "_ansible_item_label": "c"})
    event = {"event": "runner_on_ok", "event_data": {"host": "one", "task": "T", "res": {"changed": True, "results": results}}}
    (outcome,) = Reader().read(event)
    assert outcome.data["items"] == ["a", "b"]
    assert [lines[-1] for lines in outcome.data["diffs"]] == ["+a", "+b"]
    assert "diff" not in outcome.data


def test_hidden_items_of_a_loop_are_left_out():
    item = {"changed": True, "_ansible_no_log": True, "_ansible_item_label": "hunter2", "msg": "hunter2"}
    data = {"host": "h", "task": "t", "task_action": "ansible.builtin.copy", "res": {"changed": True, "results": [item]}}
    (outcome,) = Reader().read({"event": "runner_on_ok", "event_data": data})
    assert outcome.data["items"] == []


def test_the_failure_is_told_by_the_commands_last_line(events, outcomes):
    reader = Reader()
    for event in events:
        list(reader.read(event))
    assert reader.failures == [Failure("localhost", "Broken", "oh")]
    assert _ending(outcomes, "Broken").status is Status.FAILED
    assert reader.hosts == {"localhost": Counts(ok=6, changed=3, failed=1, unreachable=0)}


def test_an_unreachable_host_is_a_failure():
    reader = Reader()
    data = {"host": "gpu-1", "task": "Folder", "res": {"unreachable": True, "msg": "Failed to connect to the host via ssh: timed out"}}
    (outcome,) = reader.read({"event": "runner_on_unreachable", "event_data": data})
    assert outcome.status is Status.FAILED
    assert outcome.data["reached"] is False
    assert reader.failures[0].host == "gpu-1"


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"msg": "plain"}, "plain"),
        ({"msg": "non-zero return code", "stderr": "a\ncat: write error: No space left on device\n"}, "cat: write error: No space left on device"),
        ({"msg": "non-zero return code", "stderr": ""}, "non-zero return code"),
        ({"msg": "MODULE FAILURE: see stdout/stderr", "module_stderr": "sh: 1: python9: not found"}, "sh: 1: python9: not found"),
        ({"results": [{"failed": False, "msg": "no"}, {"failed": True, "msg": "the second"}], "msg": "One or more items failed"}, "the second"),
        ({"results": [{"failed": True, "_ansible_no_log": True, "msg": "hunter2"}]}, ""),
        ({}, ""),
    ],
)
def test_message_of(result, message):
    assert message_of(result) == message


def test_stats_of_several_hosts():
    data = {"processed": {"a": 1, "b": 1}, "ok": {"a": 3}, "changed": {"a": 1}, "dark": {"b": 1}, "failures": {}}
    hosts = parse_stats(data)
    assert hosts == {"a": Counts(ok=3, changed=1), "b": Counts(unreachable=1)}
    assert not PlaySummary(hosts).succeeded
    assert PlaySummary(hosts).changed == 1
    assert PlaySummary({"a": Counts(ok=1)}).succeeded


@pytest.mark.parametrize(
    ("diff", "lines"),
    [
        ({"before": "a\nb\n", "after": "a\nc\n", "after_header": "/etc/x (content)"}, ["/etc/x", "@@ -1,2 +1,2 @@", " a", "-b", "+c"]),
        ([{"prepared": "The following NEW packages will be installed:\n  chrony"}], ["The following NEW packages will be installed:", "  chrony"]),
        ({"before": {"mode": "0644"}, "after": {"mode": "0600"}}, ["@@ -1,3 +1,3 @@", " {", '- "mode": "0644"', '+ "mode": "0600"', " }"]),
        ({"before": "same\n", "after": "same\n", "after_header": "/etc/x"}, []),
        ([], []),
    ],
)
def test_differences_are_told_as_lines(diff, lines):
    assert diff_lines({"diff": diff}) == lines
    assert diff_lines({"diff": diff, "_ansible_no_log": True}) == []


def test_a_long_difference_is_cut():
    lines = diff_lines({"diff": {"before": "", "after": "x\n" * 1000}})
    assert len(lines) == 201
    assert lines[-1].startswith("... and ")

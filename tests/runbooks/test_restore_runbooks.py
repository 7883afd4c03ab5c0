"""Restore, verification and both drills as files: what they promise, and that the way back stands beside the step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cluster_specs import cluster
from staged_runbooks import Stage, step

from kivactl.errors import KivaError
from kivactl.runbooks.actions import ACTIONS, restore
from kivactl.runbooks.binding import bind
from kivactl.spec.load import load

NAMES = ("backup-verification", "restore", "restore-drill", "disaster-drill")


@pytest.mark.parametrize("name", NAMES)
def test_every_step_may_be_done_again(name):
    assert all(step.do is None or step.do.action.repeatable for step in bind(name).steps)


def actions_on(target, name, folder):
    spec = f"name: kiva\nmodels:\n  - {{name: tiny, source: a/b, revision: '{'a' * 40}'}}\ntarget: {target}\n"
    if target == "kubernetes":
        spec += f"kubernetes: {json.dumps(cluster())}\n"
    (folder / "kiva.yaml").write_text(spec)
    return [step.do.name for step in bind(name, load(folder / "kiva.yaml"), {}).steps]


def test_a_restore_in_a_cluster_stops_nothing_and_brings_the_ledger_when_somebody_is_there_to_take_it(tmp_path):
    names = actions_on("kubernetes", "restore", tmp_path)
    order = ["restore.admit", "backup.fetch", "backup.examine", "restore.note", "restore.put-back", "spec.deploy", "restore.put-ledger", "platform.answer"]
    assert names == [*order, "recovery.measure", "restore.finish"]
    assert "restore.clear" in actions_on("local", "restore", tmp_path)


@pytest.mark.parametrize("name", ["backup-verification", "restore-drill"])
def test_a_trial_starts_a_platform_on_one_machine_and_nothing_in_a_cluster(tmp_path, name):
    here, there = (actions_on(target, name, tmp_path) for target in ("local", "kubernetes"))
    assert ("backup.try" in here, "backup.rehearse" in here) == (True, False)
    assert there == [one if one != "backup.try" else "backup.rehearse" for one in here]
    purpose = bind(name, None, {}).runbook.purpose
    assert "no platform is started" in purpose.in_language("en").replace("\n", " ")
    assert "startet keine Plattform" in purpose.in_language("de").replace("\n", " ")


@pytest.mark.parametrize("name", ["backup-verification", "restore-drill"])
def test_a_trial_takes_nothing_away_and_cleans_up_after_itself(name):
    bound = bind(name, None, {})
    assert not bound.destructive
    assert {step.undo.name for step in bound.steps if step.undo} == {"backup.clean"}
    assert bound.steps[-1].do.name == "backup.clean"


def test_a_restore_is_refused_before_anything_is_fetched_and_overwrites_after_everything_was_examined():
    names = [step.do.name for step in bind("restore", None, {}).steps]
    assert names.index("restore.admit") < names.index("backup.fetch") < names.index("backup.examine") < names.index("restore.clear")
    assert names.index("restore.clear") < names.index("restore.put-back") < names.index("platform.answer") < names.index("restore.finish")


def test_what_a_restore_and_a_disaster_take_away_they_can_put_back():
    undo = {step.do.name: step.undo.name for name in ("restore", "disaster-drill") for step in bind(name, None, {}).steps if step.undo}
    assert undo == {
        "restore.clear": "restore.as-before",
        "restore.note": "restore.as-before",
        "restore.put-back": "restore.take-back",
        "restore.put-ledger": "restore.take-ledger-back",
        "disaster.strike": "disaster.undo",
    }
    destructive = {step.do.name for name in ("restore", "disaster-drill") for step in bind(name, None, {}).steps if step.destructive}
    assert destructive == set(undo) - {"restore.note"}


def test_a_disaster_needs_a_second_person_and_objectives():
    drill = bind("disaster-drill", None, {})
    assert drill.runbook.approval.by == ("platform-lead",)
    assert drill.runbook.objectives.limits == {"rto": 3600.0, "rpo": 3600.0}
    assert bind("restore", None, {}).runbook.objectives.limits == {}
    assert bind("restore", None, {"rto": "2h"}).runbook.objectives.limits == {"rto": 7200.0}


def test_nobody_else_has_the_names_of_these_actions():
    assert all(ACTIONS[name] is action for name, action in restore.ACTIONS.items())


HEAD = "objectives: {rto: 1h, rpo: 1d}\n"
MADE_AT = "2026-01-01T12:00:00+00:00"


def measuring(since=""):
    more = f", params: {{made_at: '{MADE_AT}'{since}}}"
    return step("break", "a") + step("measure", "recovery.measure", more)


def test_time_and_loss_are_measured_from_the_step_that_broke_it(stage: Stage):
    stage.run(stage.runbook(measuring(", since: break"), HEAD))
    record = stage.record
    assert 0 <= record.measured["rto"] < 3600
    assert record.measured["rpo"] > 86400
    assert record.reason.startswith("RPO")
    entries = [json.loads(line) for line in (stage.last / "journal.jsonl").read_text().splitlines()]
    assert [entry["event"] for entry in entries].count("begun") == 2


@pytest.mark.parametrize("starting", ["2m", "unknown"])
def test_time_for_pods_that_were_not_started_is_added_or_there_is_no_rto(stage: Stage, starting):
    stage.run(stage.runbook(measuring(f", since: break, starting: {starting}"), HEAD))
    measured = stage.record.measured
    assert measured.keys() == ({"rto", "rpo"} if starting == "2m" else {"rpo"})
    if starting == "2m":
        assert 120 <= measured["rto"] < 3600
    else:
        assert "RTO was not measured" in stage.record.reason


def test_what_was_not_done_in_this_run_cannot_be_measured_from(stage: Stage):
    path: Path = stage.runbook(measuring(", since: brake"), HEAD)
    with pytest.raises(KivaError, match="the step 'brake' was not done in this run"):
        stage.run(path)


def test_another_platform_than_the_spec_says_is_refused(stage: Stage):
    path = stage.runbook(step("fetch", "backup.fetch", ", params: {platform: other}"))
    with pytest.raises(KivaError, match="'other' was asked for, but the spec here is of 'test'"):
        stage.run(path)

"""The failover drills as files: what they promise, and that the steps hand on what the checks need."""

from __future__ import annotations

import pytest

from kivactl.runbooks.actions import ACTIONS, PROBES, faults
from kivactl.runbooks.binding import bind

DRILLS = ("failover-killed", "failover-hung", "failover-gateway")


@pytest.mark.parametrize("name", DRILLS)
def test_a_drill_is_gated_under_load_destructive_and_has_a_way_back(name):
    drill = bind(name, None, {"users": "3", "detection": "2s", "recovery": "1m"})
    fault = drill.steps[0]
    assert drill.destructive
    assert fault.undo.name in {"replica.repair", "gateway.repair"}
    assert (drill.runbook.load.users, drill.runbook.objectives.detection, drill.runbook.objectives.recovery) == (3, 2.0, 60.0)
    assert drill.before
    assert drill.during
    assert drill.after


@pytest.mark.parametrize("name", DRILLS)
def test_the_check_asks_for_another_process_than_the_one_that_was_broken(name):
    fault = bind(name, None, {}).steps[0]
    again = fault.with_results({fault.name: {"component": "m-1", "process": "99"}})
    assert (again.check.params.component, again.check.params.process) == ("m-1", "99")


@pytest.mark.parametrize("name", ["failover-killed", "failover-hung"])
def test_no_request_may_be_lost_where_another_replica_takes_over(name):
    drill = bind(name, None, {})
    assert drill.runbook.objectives.lost_requests == 0
    assert [check.check.probe for check in drill.preconditions] == ["replicas.serving-beside"]


def test_faults_may_be_done_again_and_no_other_module_has_their_names():
    assert all(action.repeatable for action in faults.ACTIONS.values())
    assert all(ACTIONS[name] is action for name, action in faults.ACTIONS.items())
    assert all(PROBES[name] is probe for name, probe in faults.PROBES.items())

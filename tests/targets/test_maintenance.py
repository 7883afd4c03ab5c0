"""Replicas restarted, taken out and brought back, with the real supervisor and gateway; the engines are stand-ins."""

import os
import signal
import time

import pytest
from stand_in_platform import Load, command_line

from kivactl.errors import PreconditionError, ToolError
from kivactl.plan import Status, Verb
from kivactl.targets.release import read_release, write_release
from kivactl.targets.status import Health, status_of
from kivactl.tools.supervisor import Supervisor

pytestmark = pytest.mark.real

SLOW = ("--answer-after", "0.05")


def health(site, name):
    return next(component.health for component in status_of(site.layout, "kiva").components if component.name == name)


def steps(outcomes):
    return [(outcome.step, outcome.message) for outcome in outcomes if outcome.status is Status.DONE]


def plan(site, what=None):
    found = site.target.plan(what or site.desired(), "look")
    return [(change.verb, change.subject) for change in found.changes], found.notes


def test_a_rolling_restart_loses_no_request(site):
    site.deploy(site.desired(2, *SLOW))
    before = {site.pid("m-0"), site.pid("m-1")}
    with Load(site) as load:
        list(site.target.restart(["m-0", "m-1"]))
    assert before.isdisjoint({site.pid("m-0"), site.pid("m-1")})
    assert len(load.statuses) > 20
    assert set(load.statuses) == {200}
    assert plan(site, site.desired(2, *SLOW)) == ([], ())


def test_one_replica_is_restarted_and_the_others_are_not_touched(site):
    site.deploy(site.desired())
    first, second = site.pid("m-0"), site.pid("m-1")
    list(site.target.restart(["m-0"]))
    assert site.pid("m-0") not in {0, first}
    assert site.pid("m-1") == second


@pytest.mark.parametrize("after", range(1, 8))
def test_a_restart_cut_off_anywhere_shows_in_the_plan_or_is_whole_and_can_be_done_again(site, after):
    site.deploy(site.desired())
    for count, _ in enumerate(site.target.restart(["m-0", "m-1"]), start=1):
        if count == after:
            break
    list(site.target.restart(["m-0", "m-1"]))
    site.until(Health.SERVING)
    assert plan(site) == ([], ())


def test_a_replica_left_draining_by_a_killed_command_is_mended_by_a_deploy(site):
    site.deploy(site.desired())
    next(site.target.restart(["m-0"]))
    replicas = site.target._deployed_replicas()
    replicas.tell_gateway("m", ["m-0"])
    assert plan(site)[0] == [(Verb.UPDATE, "gateway")]
    site.deploy(site.desired())
    site.until(Health.SERVING)
    assert plan(site) == ([], ())


def test_a_replica_that_is_taken_out_finishes_its_requests_and_stays_stopped_across_deploys_starts_and_crashes(site):
    site.deploy(site.desired(2, *SLOW))
    with Load(site) as load:
        list(site.target.take_out(["m-0"]))
        assert health(site, "m-0") is Health.MAINTENANCE
        assert status_of(site.layout, "kiva").health is Health.DEGRADED
        site.deploy(site.desired(2, *SLOW))
        changes, notes = plan(site, site.desired(2, *SLOW))
        assert changes == []
        assert notes[0].startswith("m-0 is in maintenance since")
        assert site.pid("m-0") == 0
    assert set(load.statuses) == {200}
    os.kill(int((site.layout.run / "supervisor.pid").read_text()), signal.SIGKILL)
    list(site.target.start())
    assert site.pid("m-0") == 0
    list(site.target.stop())
    list(site.target.start())
    assert health(site, "m-0") is Health.MAINTENANCE
    assert site.ask()[0] == 200
    with Load(site) as load:
        assert ("engine m-0", "back") in steps(site.target.bring_back(["m-0"]))
    assert set(load.statuses) == {200}
    site.until(Health.SERVING)
    assert plan(site, site.desired(2, *SLOW)) == ([], ())


def test_taking_out_and_bringing_back_again_changes_nothing(site):
    site.deploy(site.desired())
    list(site.target.take_out(["m-0"]))
    since = read_release(site.layout.release).maintenance["m-0"]
    list(site.target.take_out(["m-0"]))
    assert read_release(site.layout.release).maintenance == {"m-0": since}
    list(site.target.bring_back(["m-0"]))
    pid = site.pid("m-0")
    outcomes = list(site.target.bring_back(["m-0", "m-1"]))
    assert site.pid("m-0") == pid
    assert [outcome.status for outcome in outcomes] == [Status.SKIPPED, Status.SKIPPED]


@pytest.mark.parametrize("after", range(1, 5))
def test_taking_out_cut_off_anywhere_is_finished_by_a_deploy_or_by_doing_it_again(site, after):
    site.deploy(site.desired())
    for count, _ in enumerate(site.target.take_out(["m-0"]), start=1):
        if count == after:
            break
    if after % 2:
        site.deploy(site.desired())
    else:
        list(site.target.take_out(["m-0"]))
    if read_release(site.layout.release).maintenance:
        assert site.pid("m-0") == 0
    list(site.target.bring_back(["m-0"]))
    site.until(Health.SERVING)
    assert plan(site) == ([], ())


@pytest.mark.parametrize("after", range(1, 4))
def test_bringing_back_cut_off_anywhere_can_be_done_again(site, after):
    site.deploy(site.desired())
    list(site.target.take_out(["m-0", "m-1"]))
    for count, _ in enumerate(site.target.bring_back(["m-0", "m-1"]), start=1):
        if count == after:
            break
    list(site.target.bring_back(["m-0", "m-1"]))
    site.until(Health.SERVING)
    assert plan(site) == ([], ())


def test_a_replica_that_runs_though_it_is_in_maintenance_is_stopped_by_the_next_deploy(site):
    site.deploy(site.desired())
    release = read_release(site.layout.release)
    release.maintenance["m-0"] = "2026-01-01T00:00:00+00:00"
    write_release(site.layout.release, release)
    assert (Verb.STOP, "engine m-0") in plan(site)[0]
    site.deploy(site.desired())
    assert health(site, "m-0") is Health.MAINTENANCE
    assert site.ask()[0] == 200


def test_a_model_all_of_whose_replicas_are_out_refuses_at_once(site):
    site.deploy(site.desired(1))
    list(site.target.take_out(["m-0"]))
    began_s = time.monotonic()
    assert site.ask()[0] == 503
    assert time.monotonic() - began_s < site.platform().gateway.wait, "it would have waited for a replica so long"
    list(site.target.bring_back(["m-0"]))
    assert site.ask()[0] == 200


def test_what_changed_meanwhile_holds_when_it_comes_back(site):
    site.deploy(site.desired())
    list(site.target.take_out(["m-0"]))
    changed = site.desired(2, *SLOW)
    assert (Verb.UPDATE, "engine m-0") in plan(site, changed)[0]
    site.deploy(changed)
    assert plan(site, changed)[0] == []
    list(site.target.bring_back(["m-0"]))
    assert plan(site, changed) == ([], ())
    assert b"0.05" in command_line(site.pid("m-0"))


def test_one_that_does_not_come_up_stays_in_maintenance(site):
    site.deploy(site.desired())
    list(site.target.take_out(["m-0"]))
    site.deploy(site.desired())
    release = read_release(site.layout.release)
    release.processes["m-0"]["argv"] += ["--behaviour", "dies"]
    write_release(site.layout.release, release)
    with pytest.raises(ToolError, match="engine m-0 dies at its start"):
        list(site.target.bring_back(["m-0"]))
    assert health(site, "m-0") is Health.MAINTENANCE
    assert site.ask()[0] == 200


def test_a_replica_that_the_spec_no_longer_wants_is_forgotten(site):
    site.deploy(site.desired())
    list(site.target.take_out(["m-1"]))
    site.deploy(site.desired(1))
    assert read_release(site.layout.release).maintenance == {}
    site.deploy(site.desired())
    site.until(Health.SERVING)


def test_a_stopped_platform(site):
    site.deploy(site.desired())
    list(site.target.stop())
    with pytest.raises(PreconditionError, match="does not run"):
        list(site.target.restart(["m-0"]))
    list(site.target.take_out(["m-0"]))
    list(site.target.start())
    assert health(site, "m-0") is Health.MAINTENANCE
    list(site.target.stop())
    assert ("engine m-0", "starts with the platform") in steps(site.target.bring_back(["m-0"]))
    list(site.target.start())
    site.until(Health.SERVING)


def test_a_replica_that_hangs_is_taken_out_all_the_same(site):
    site.deploy(site.desired(2, "--behaviour", "deaf"))
    os.kill(site.pid("m-0"), signal.SIGSTOP)
    list(site.target.take_out(["m-0"]))
    assert health(site, "m-0") is Health.MAINTENANCE
    assert Supervisor(site.layout.supervisor_socket).states()["m-1"].alive


@pytest.mark.parametrize("verb", ["restart", "take_out", "bring_back"])
def test_an_unknown_replica_is_named_with_the_nearest(site, verb):
    with pytest.raises(PreconditionError, match="nothing is deployed"):
        list(getattr(site.target, verb)(["m-0"]))
    site.deploy(site.desired(1))
    with pytest.raises(PreconditionError, match="no replica named 'm-9'") as caught:
        list(getattr(site.target, verb)(["m-9"]))
    assert "m-0" in caught.value.hint

"""The rollout with the real supervisor and the real gateway; the engines are stand-ins, so that every failure takes seconds."""

import os
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest
from stand_in_platform import STAND_IN, Load

from kivactl.errors import NotReadyError, ToolError
from kivactl.plan import Status, Verb
from kivactl.targets.status import Health, status_of
from kivactl.tools import vllm
from kivactl.tools.supervisor import Supervisor

pytestmark = pytest.mark.real


def test_from_nothing_to_answers_and_back_to_nothing(site):
    site.deploy(site.desired())
    status, answer = site.ask()
    assert (status, answer["choices"][0]["text"]) == (200, "Berlin")
    assert site.target.plan(site.desired(), "again").empty
    site.until(Health.SERVING)
    list(site.target.stop())
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", site.port)) != 0


def test_what_was_stopped_starts_again_as_it_was(site):
    site.deploy(site.desired())
    list(site.target.stop())
    assert status_of(site.layout, "kiva").health is Health.STOPPED
    list(site.target.start())
    assert site.ask()[0] == 200


def test_a_changed_option_replaces_one_replica_after_the_other_without_a_failed_request(site):
    site.deploy(site.desired(2, "--answer-after", "0.05"))
    before = {site.pid("m-0"), site.pid("m-1")}
    with Load(site) as load:
        site.deploy(site.desired(2, "--answer-after", "0.06"))
    assert before.isdisjoint({site.pid("m-0"), site.pid("m-1")})
    assert len(load.statuses) > 20
    assert set(load.statuses) == {200}


def test_a_killed_replica_is_not_noticed_and_comes_back(site):
    site.deploy(site.desired(2, "--answer-after", "0.05"))
    victim = site.pid("m-0")
    with Load(site) as load:
        time.sleep(0.3)
        os.kill(victim, signal.SIGKILL)
        site.until(Health.SERVING, unlike=victim)
    assert set(load.statuses) == {200}
    assert site.pid("m-0") not in {0, victim}


def test_a_replica_started_anew_is_not_called_serving_on_the_word_about_the_one_before(site):
    site.deploy(site.desired(1, "--listen-after", "2"))
    site.until(Health.SERVING)
    victim = site.pid("m-0")
    os.kill(victim, signal.SIGKILL)
    while True:
        replica = next(component for component in status_of(site.layout, "kiva").components if component.name == "m-0")
        if replica.pid not in {0, victim} and replica.health is Health.SERVING:
            break
        time.sleep(0.05)
    assert vllm.generates(site.layout.engine_socket("m-0"))


def test_children_of_a_killed_replica_do_not_outlive_it(site):
    site.deploy(site.desired(1, "--behaviour", "leaves-child"))
    (before,) = site.children()
    os.kill(site.pid("m-0"), signal.SIGKILL)
    for _ in range(100):
        if len(site.children()) == 1 and before not in site.children():
            return
        time.sleep(0.1)
    pytest.fail(f"the child {before} lives on: {site.children()}")


def test_an_engine_that_dies_at_its_start_shows_its_last_words(site):
    with pytest.raises(ToolError, match="engine m-0 dies at its start: ValueError: no such weights") as caught:
        site.deploy(site.desired(1, "--behaviour", "dies"))
    assert any("no such weights" in line for line in caught.value.details)
    assert "kivactl logs m-0" in caught.value.hint


def test_a_gateway_that_dies_at_its_start_shows_its_last_words(site):
    desired = site.desired(1)
    dies = ("sh", "-c", "sleep 0.3; echo 'error: no such certificate' >&2; exit 1")
    desired.processes["gateway"] = replace(desired.processes["gateway"], argv=dies, settles_within_s=0)
    with pytest.raises(ToolError, match="the gateway dies at its start: error: no such certificate"):
        site.deploy(desired)


def test_an_engine_that_never_generates_is_given_up_in_time(site):
    with pytest.raises(NotReadyError, match="generated no token within 2 s"):
        site.deploy(site.desired(1, "--behaviour", "mute", ready_within_s=2.0))


def test_a_bad_change_stops_at_the_first_replica_and_goes_back(site):
    site.deploy(site.desired())
    with Load(site, streams=2) as load, pytest.raises(ToolError) as caught:
        site.deploy(site.desired(2, "--behaviour", "dies"))
    assert "went back" in caught.value.hint
    site.until(Health.SERVING)
    assert set(load.statuses) == {200}


def test_a_dead_supervisor_is_replaced_and_nothing_runs_twice(site):
    site.deploy(site.desired())
    supervisor = int((site.layout.run / "supervisor.pid").read_text())
    os.kill(supervisor, signal.SIGKILL)
    site.deploy(site.desired())
    assert site.ask()[0] == 200
    engines = [pid for pid in site.leftovers() if STAND_IN.name.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(engines) == 2


def test_a_stale_pid_file_of_an_earlier_boot_does_no_harm(site):
    (site.layout.run / "supervisor.pid").write_text("1\n")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(site.layout.supervisor_socket))
    site.deploy(site.desired(1))
    assert site.ask()[0] == 200


@pytest.mark.parametrize("after", range(1, 9))
def test_a_deploy_killed_at_any_step_is_gone_on_with(site, after):
    for count, _ in enumerate(site.target.apply(site.desired()), start=1):
        if count == after:
            break
    site.deploy(site.desired())
    assert site.ask()[0] == 200
    assert site.target.plan(site.desired(), "again").empty


def test_fewer_and_more_replicas(site):
    site.deploy(site.desired(1))
    plan = site.target.plan(site.desired(2), "grow")
    assert [(change.verb, change.subject) for change in plan.changes] == [(Verb.UPDATE, "gateway"), (Verb.CREATE, "engine m-1")]
    site.deploy(site.desired(2))
    outcomes = site.deploy(site.desired(1))
    assert any(outcome.step == "engine m-1" and outcome.message == "removed" and outcome.status is Status.DONE for outcome in outcomes)
    assert site.ask()[0] == 200


def test_a_deploy_killed_before_it_was_verified_is_not_taken_for_done(site):
    list(site.target.apply(site.desired()))
    plan = site.target.plan(site.desired(), "again")
    assert [(change.verb, change.subject) for change in plan.changes] == [(Verb.UPDATE, "verification")]
    assert "did not finish" in plan.notes[0]
    site.deploy(site.desired())
    assert site.target.plan(site.desired(), "again").empty


def test_starting_again_does_not_unfinish_what_was_finished(site):
    site.deploy(site.desired(1))
    list(site.target.stop())
    list(site.target.start())
    assert site.target.plan(site.desired(1), "again").empty


def test_a_deploy_killed_while_a_replica_stops_is_gone_on_with(site):
    site.deploy(site.desired(2, "--behaviour", "slow-stop"))
    Supervisor(site.layout.supervisor_socket).stop("m-0", wait=False)
    site.deploy(site.desired(2, "--answer-after", "0"))
    assert site.ask()[0] == 200


def test_an_engine_that_does_not_stop_is_killed_when_its_requests_are_finished(site):
    site.deploy(site.desired(1, "--behaviour", "deaf"))
    outcomes = list(replace(site.target, stop_within_s=0.5).stop())
    assert "killed: it did not stop by itself" in [outcome.message for outcome in outcomes if outcome.step == "engine m-0"]
    assert site.leftovers() == []


def test_replicas_that_cannot_start_anew_go_back_too(site):
    site.deploy(site.desired())
    Supervisor(site.layout.supervisor_socket).stop("m-0")
    with pytest.raises(ToolError) as caught:
        site.deploy(site.desired(2, "--behaviour", "dies"))
    assert "m-0 went back to what ran before" in caught.value.hint
    site.until(Health.SERVING)

"""Faults on purpose, done to processes that are nothing but processes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from types import SimpleNamespace

import psutil
import pytest

from kivactl.errors import NotReadyError, PreconditionError
from kivactl.flows import faults
from kivactl.plan import Status
from kivactl.targets import processes
from kivactl.targets.processes import Processes
from kivactl.targets.status import Component, Health
from kivactl.tools.clock import Clock


class Seconds:
    """Time that passes only by waiting."""

    def __init__(self):
        self.now_s = 100.0

    def sleep(self, duration_s):
        self.now_s += duration_s

    @property
    def clock(self):
        return Clock(lambda: self.now_s, self.sleep)


@pytest.fixture
def engine():
    """A leader with a child, in a process group of their own."""
    child = subprocess.Popen(["sh", "-c", "sleep 600 & wait"], start_new_session=True)
    yield child
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


@pytest.fixture
def deployment(tmp_path):
    clock, layout = Seconds().clock, SimpleNamespace(supervisor_socket=tmp_path / "none.sock")
    target = SimpleNamespace(breaking=Processes(layout, clock))
    return SimpleNamespace(clock=clock, platform=SimpleNamespace(name="p", models=[SimpleNamespace(name="m")]), target=target)


@pytest.fixture
def components(monkeypatch):
    """What status says, look after look; the last for ever."""

    def script(*seen):
        looks = iter(seen[:-1])
        monkeypatch.setattr(processes, "status_of", lambda *_: SimpleNamespace(components=next(looks, seen[-1])))

    return script


def component(name="m-0", health=Health.SERVING, pid=4711, model="m"):
    return Component(name, model, health, pid, 10.0, 0, "")


def test_a_killed_component_is_dead_and_the_moment_is_told(engine, deployment, components):
    components([component(pid=engine.pid)])
    outcome = list(faults.kill(deployment, "m-0"))[-1]
    assert engine.wait(10) == -signal.SIGKILL
    assert outcome.data == {"mark": "fault", "at_s": 100.0, "result": {"component": "m-0", "process": str(engine.pid)}}


def test_a_hanging_component_lives_and_does_nothing_with_its_children_until_it_is_repaired(engine, deployment, components):
    leader = psutil.Process(engine.pid)
    while not leader.children():
        pass
    components([component(pid=engine.pid)])
    assert list(faults.hang(deployment, "m-0"))[-1].data["mark"] == "fault"
    group = [leader, *leader.children()]
    for _ in range(600):  # the signal is sent; a busy machine may take a moment until each has it
        if {process.status() for process in group} == {psutil.STATUS_STOPPED}:
            break
        time.sleep(0.05)
    assert {process.status() for process in group} == {psutil.STATUS_STOPPED}
    assert list(faults.repair(deployment, "m-0", 10))[-1].status is Status.DONE
    assert psutil.STATUS_STOPPED not in {process.status() for process in group}


@pytest.mark.parametrize("health", [Health.STOPPED, Health.MAINTENANCE, Health.DRAINING])
def test_what_is_out_of_service_is_not_broken(health, deployment, components):
    components([component(health=health, pid=0)])
    with pytest.raises(PreconditionError, match="nothing to break"):
        list(faults.kill(deployment, "m-0"))


def test_what_is_not_deployed_is_not_broken(deployment, components):
    components([])
    with pytest.raises(PreconditionError, match="'gateway' is not deployed"):
        list(faults.kill(deployment, "gateway"))


def test_what_heals_is_broken_once_it_serves(engine, deployment, components):
    components([component(health=Health.STARTING, pid=1)], [component(health=Health.RESTARTING, pid=0)], [component(pid=engine.pid)])
    list(faults.kill(deployment, "m-0"))
    assert engine.wait(10) == -signal.SIGKILL


def test_what_never_serves_is_not_waited_for_for_ever(deployment, components):
    components([component(health=Health.STARTING)])
    with pytest.raises(NotReadyError, match="nothing to break"):
        list(faults.hang(deployment, "m-0"))


def test_what_ends_in_the_very_moment_is_no_fault_of_the_drill(deployment, components):
    gone = subprocess.Popen(["true"])
    gone.wait()
    components([component(pid=gone.pid)])
    with pytest.raises(PreconditionError, match="ended by itself"):
        list(faults.kill(deployment, "m-0"))


def test_repair_starts_what_has_ended_for_good_and_waits(deployment, components, monkeypatch):
    started = []
    monkeypatch.setattr(processes, "Supervisor", lambda *_: SimpleNamespace(start=started.append))
    stopped = [component(health=Health.STOPPED, pid=0)]
    components(stopped, stopped, stopped, [component(health=Health.STARTING)], [component()])
    assert list(faults.repair(deployment, "m-0", 10))[-1].status is Status.DONE
    assert started == ["m-0"]


def test_repair_does_not_wait_for_ever(deployment, components):
    components([component(health=Health.STARTING, pid=0)])
    with pytest.raises(NotReadyError, match="does not serve within 10 s"):
        list(faults.repair(deployment, "m-0", 10))


def test_restored_is_serving_by_another_process(deployment, components):
    for seen, restored in (([component(pid=1)], False), ([component(pid=2)], True), ([component(health=Health.STARTING, pid=2)], False), ([], False)):
        components(seen)
        assert faults.is_restored(deployment, "m-0", "1") is restored


def test_others_of_the_same_model_count(deployment, components, monkeypatch):
    monkeypatch.setattr(processes, "known_replica", lambda *_: None)
    components([component("gateway", model=""), component(), component("m-1"), component("m-2", Health.STARTING), component("n-0", model="n")])
    assert faults.serving_beside(deployment, None) == 1
    assert faults.serving_beside(deployment, "m-2") == 2
    assert faults.serving_beside(deployment, "n-0") == 0

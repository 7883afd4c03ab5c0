"""What a drill does to the processes in a container, done to real ones; and what is told where nothing can be done."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from types import SimpleNamespace

import psutil
import pytest

from kivactl.errors import PreconditionError, ToolError
from kivactl.targets.breaking import Part
from kivactl.targets.kubernetes.breaking import SIGNALLING, PodsToBreak
from kivactl.targets.status import Health
from kivactl.tools.kube_objects import Ran

POD = Part("kiva-qwen-7d9f-abcde", "qwen", Health.SERVING, "uid.0")


@pytest.fixture
def engine():
    """A first process with a child that has a child of its own, as an API server with what generates, and a helper of that."""
    first = subprocess.Popen(["sh", "-c", "sh -c 'sleep 600 & wait' & wait"], start_new_session=True)
    leader = psutil.Process(first.pid)
    while len(leader.children(recursive=True)) < 2:
        time.sleep(0.01)
    yield first
    for one in below(first):
        with suppress(psutil.NoSuchProcess):
            one.kill()
    first.kill()
    first.wait()


def below(first):
    try:
        return psutil.Process(first.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def sent(first, name):
    return subprocess.run([sys.executable, "-c", SIGNALLING, str(first), name], check=True, capture_output=True, text=True).stdout.strip()


def until(condition):
    for _ in range(1000):
        if condition():
            return True
        time.sleep(0.01)
    return False


def test_all_that_the_first_process_has_started_is_stopped_and_woken_and_it_itself_is_not(engine):
    leader = psutil.Process(engine.pid)
    started = below(engine)
    assert sent(engine.pid, "SIGSTOP") == "2"
    assert until(lambda: {one.status() for one in started} == {psutil.STATUS_STOPPED})
    assert leader.status() != psutil.STATUS_STOPPED
    assert sent(engine.pid, "SIGCONT") == "2"
    assert until(lambda: psutil.STATUS_STOPPED not in {one.status() for one in started})


def test_killed_they_are_gone_and_the_first_process_notices(engine):
    started = below(engine)
    assert sent(engine.pid, "SIGKILL") == "2"
    assert until(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in started))
    assert engine.wait(10) is not None, "it waited for them, as an API server watches its engine"


def test_one_without_children_has_nothing_that_takes_the_signal():
    alone = subprocess.Popen(["sleep", "600"])
    try:
        assert sent(alone.pid, "SIGSTOP") == "0"
        assert psutil.Process(alone.pid).status() != psutil.STATUS_STOPPED
    finally:
        alone.kill()
        alone.wait()


def pods(ran):
    cluster = SimpleNamespace(run_in=lambda *_args, **_more: ran, context="prod", namespace="kiva", flags="--context prod")
    return PodsToBreak("kiva", cluster)


def test_an_engine_of_one_process_is_not_said_to_hang():
    with pytest.raises(PreconditionError, match="has no process beside its first one") as failure:
        pods(Ran(0, "0\n", "")).hang(POD)
    assert failure.value.hint.startswith("kubectl --context prod -n kiva delete pod kiva-qwen-7d9f-abcde --grace-period=0 --force")


@pytest.mark.parametrize("ran", [Ran(1, "", "Traceback\nPermissionError: not permitted\n"), Ran(0, "", ""), Ran(127, "", "")])
def test_a_signal_that_could_not_be_sent_is_no_fault_that_was_injected(ran):
    with pytest.raises(ToolError, match=r"SIGKILL could not be sent in pod kiva-qwen-7d9f-abcde: (PermissionError: not permitted|exit code \d+)$"):
        pods(ran).kill(POD)


def thing(kind, name, component, **more):
    labels = {
        "kiva/platform": "kiva",
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/instance": more.pop("release"),
        "kiva/model": more.pop("model", ""),
    }
    return {"kind": kind, "metadata": {"name": name, "labels": labels, "uid": f"u-{name}"}, **more}


def ready(restarts=0):
    return {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}], "containerStatuses": [{"restartCount": restarts}]}


def test_a_pod_that_is_missing_is_told_under_the_name_of_what_makes_it():
    kinds = {
        "Pod": [
            thing("Pod", "kiva-gateway-1-a", "gateway", release="kiva-gateway", status=ready()),
            thing("Pod", "kiva-qwen-1-a", "engine", release="kiva-qwen", model="qwen", status=ready(2)),
            thing("Pod", "kiva-qwen-job", "preload", release="kiva-qwen", model="qwen", status={"phase": "Succeeded"}),
        ],
        "Deployment": [
            thing("Deployment", "kiva-gateway", "gateway", release="kiva-gateway", spec={"replicas": 2}),
            thing("Deployment", "kiva-qwen", "engine", release="kiva-qwen", model="qwen", spec={"replicas": 1}),
        ],
    }
    there = PodsToBreak("kiva", SimpleNamespace(list=lambda kind, _selector: SimpleNamespace(items=kinds[kind])))
    found = {one.name: (one.health, one.process, one.model) for one in there.parts()}
    assert found == {
        "kiva-gateway-1-a": (Health.SERVING, "u-kiva-gateway-1-a.0", ""),
        "kiva-qwen-1-a": (Health.SERVING, "u-kiva-qwen-1-a.2", "qwen"),
        "kiva-gateway": (Health.STARTING, "", ""),
    }
    assert [one.name for one in there.mates("kiva-gateway-1-gone")] == ["kiva-gateway-1-a", "kiva-gateway"]
    assert [one.name for one in there.mates("qwen")] == [one.name for one in there.mates("kiva-qwen-9-gone")] == ["kiva-qwen-1-a"]
    assert there.mates("somebody-else") == []
    assert there.outage(there.parts()[0]).startswith("it is the gateway's only pod")

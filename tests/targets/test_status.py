"""How a platform is, from what three sources say."""

from pathlib import Path

import pytest

from kivactl.stack.layout import Layout
from kivactl.targets.release import Release
from kivactl.targets.status import Health, status_from
from kivactl.tools.envoy import Upstream
from kivactl.tools.supervisor import ProcessState

LAYOUT = Layout(Path("/srv/kiva"), Path("/srv/cache"))
RELEASE = Release(platform="kiva", processes={"gateway": {}, "m-0": {}, "m-1": {}}, replicas={"m": ["m-0", "m-1"]}, endpoint="https://127.0.0.1:4000/v1")


def process(name, state="RUNNING"):
    return ProcessState(name, state, 7 if state in {"RUNNING", "STARTING"} else 0, 3.0, 0, "" if state == "RUNNING" else "Exited too quickly")


def upstream(name, healthy=True, draining=False, active=0):
    return Upstream("engine-m", str(LAYOUT.engine_socket(name)), healthy, draining, active)


def status(states, upstreams):
    return status_from(RELEASE, {name: process(name, state) for name, state in states.items()}, upstreams, LAYOUT, "kiva")


UP = {"gateway": "RUNNING", "m-0": "RUNNING", "m-1": "RUNNING"}


@pytest.mark.parametrize(
    ("states", "upstreams", "health"),
    [
        (UP, [upstream("m-0"), upstream("m-1")], Health.SERVING),
        (UP, [upstream("m-0"), upstream("m-1", healthy=False)], Health.DEGRADED),
        (UP, [upstream("m-0"), upstream("m-1", healthy=False, draining=True)], Health.DEGRADED),
        (UP, [upstream("m-0", healthy=False), upstream("m-1", healthy=False)], Health.STARTING),
        ({**UP, "m-1": "BACKOFF"}, [upstream("m-0"), upstream("m-1", healthy=False)], Health.DEGRADED),
        ({**UP, "gateway": "STOPPED"}, [], Health.STARTING),
        (dict.fromkeys(UP, "STOPPED"), [], Health.STOPPED),
        ({}, [], Health.STOPPED),
    ],
)
def test_the_whole(states, upstreams, health):
    assert status(states, upstreams).health is health


def test_nothing_deployed():
    assert status_from(Release(), {}, [], LAYOUT, "kiva").health is Health.ABSENT


def test_a_crashing_replica_says_why():
    crashing = status({**UP, "m-1": "BACKOFF"}, [upstream("m-0"), upstream("m-1", healthy=False)]).components[2]
    assert (crashing.health, crashing.reason) == (Health.RESTARTING, "Exited too quickly")


def test_requests_in_work_are_counted():
    components = status(UP, [upstream("m-0", active=3), upstream("m-1", active=4)]).components
    assert [component.active for component in components] == [7, 3, 4]

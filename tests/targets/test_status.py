"""How a platform is, from what three sources say."""

from pathlib import Path

import pytest

from kivactl.stack.layout import Layout
from kivactl.targets.release import Release
from kivactl.targets.stalled import GATEWAY_IS_LATE_S
from kivactl.targets.status import Health, doubtful, proved_by, status_from
from kivactl.tools.envoy import Upstream
from kivactl.tools.supervisor import ProcessState

LAYOUT = Layout(Path("/srv/kiva"), Path("/srv/cache"))
RELEASE = Release(platform="kiva", processes={"gateway": {}, "m-0": {}, "m-1": {}}, replicas={"m": ["m-0", "m-1"]}, endpoint="https://127.0.0.1:4000/v1")


def process(name, state="RUNNING", uptime_s=100.0):
    return ProcessState(name, state, 7 if state in {"RUNNING", "STARTING"} else 0, uptime_s, 0, "" if state == "RUNNING" else "Exited too quickly")


def upstream(name, healthy=True, draining=False, active=0):
    return Upstream("engine-m", str(LAYOUT.engine_socket(name)), healthy, draining, active)


def status(states, upstreams):
    return status_from(RELEASE, {name: process(name, state) for name, state in states.items()}, upstreams, (), LAYOUT, "kiva")


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
    assert status_from(Release(), {}, [], (), LAYOUT, "kiva").health is Health.ABSENT


def test_a_crashing_replica_says_why():
    crashing = status({**UP, "m-1": "BACKOFF"}, [upstream("m-0"), upstream("m-1", healthy=False)]).components[2]
    assert (crashing.health, crashing.reason) == (Health.RESTARTING, "Exited too quickly")


def test_requests_in_work_are_counted():
    components = status(UP, [upstream("m-0", active=3), upstream("m-1", active=4)]).components
    assert [component.active for component in components] == [7, 3, 4]


def health_of(process_, upstreams, proved=()):
    """The health of the first replica, beside a second that serves."""
    processes = {"gateway": process("gateway"), "m-0": process_, "m-1": process("m-1")}
    return status_from(RELEASE, processes, [*upstreams, upstream("m-1")], proved, LAYOUT, "kiva").components[1].health


@pytest.mark.parametrize("state", ["STARTING", "RUNNING"])
def test_one_just_started_is_not_taken_for_its_predecessor(state):
    young = process("m-0", state, uptime_s=1.0)
    assert health_of(young, [upstream("m-0")]) is Health.STARTING
    assert health_of(young, [upstream("m-0")], {"m-0"}) is Health.SERVING
    assert health_of(young, [upstream("m-0", healthy=False)], {"m-0"}) is Health.STARTING, "it gets no requests"
    assert health_of(young, [upstream("m-0", healthy=False, draining=True)]) is Health.DRAINING


def test_from_its_age_on_at_which_the_gateway_must_know_it_the_gateway_is_believed():
    assert health_of(process("m-0", uptime_s=GATEWAY_IS_LATE_S + 1), [upstream("m-0")]) is Health.SERVING


def test_only_whom_the_gateway_may_mistake_is_asked():
    def asked(process_, *upstreams):
        return doubtful(RELEASE, {"m-0": process_, "m-1": process("m-1")}, list(upstreams), LAYOUT)

    assert asked(process("m-0", uptime_s=1), upstream("m-0"), upstream("m-1")) == ["m-0"]
    assert asked(process("m-0", uptime_s=1), upstream("m-0", healthy=False), upstream("m-1")) == []
    assert asked(process("m-0", "BACKOFF", uptime_s=0), upstream("m-0"), upstream("m-1")) == []
    assert asked(process("m-0", uptime_s=1)) == []
    assert doubtful(RELEASE, {}, [upstream("m-0")], LAYOUT) == []


def test_all_questions_together_have_one_time_limit():
    now_s, given = 100.0, []

    def generates(path, timeout_s):
        nonlocal now_s
        now_s += 0.3
        given.append(timeout_s)
        return path == LAYOUT.engine_socket("m-1")

    assert proved_by(["m-0", "m-1", "m-2"], LAYOUT, generates, lambda: now_s) == {"m-1"}
    assert given == [pytest.approx(0.5), pytest.approx(0.2)]

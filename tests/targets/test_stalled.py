"""Which replicas hang: those that served, live on, and generate nothing."""

import pytest

from kivactl.targets.stalled import PATIENCE_S, Watch
from kivactl.tools.envoy import Upstream
from kivactl.tools.supervisor import ProcessState

REPLICAS = {"m-0": "/run/a.sock"}


def process(pid=7, uptime_s=100.0, state="RUNNING"):
    return {"m-0": ProcessState("m-0", state, pid, uptime_s, 0, "")}


def upstream(healthy, *, draining=False):
    return [Upstream("engine-m", "/run/a.sock", healthy=healthy, draining=draining, active=3)]


def looks(*seen):
    """What a watch finds at looks that are a patience apart."""
    watch = Watch()
    return [watch.stalled(processes, REPLICAS, upstreams, number * PATIENCE_S) for number, (processes, upstreams) in enumerate(seen)]


def test_one_that_served_and_stopped_is_found_once():
    assert looks((process(), upstream(True)), (process(), upstream(False)), (process(), upstream(False)), (process(), upstream(False))) == [
        {},
        {},
        {"m-0": 7},
        {},
    ]


@pytest.mark.parametrize(
    "then",
    [
        pytest.param((process(pid=8, uptime_s=1), upstream(False)), id="started anew, not yet ready"),
        pytest.param((process(), upstream(False, draining=True)), id="draining"),
        pytest.param((process(state="STARTING"), upstream(False)), id="starting"),
        pytest.param((process(), []), id="gateway silent"),
        pytest.param(({}, upstream(False)), id="not supervised"),
    ],
)
def test_what_does_not_hang_is_left_alone(then):
    assert looks((process(), upstream(True)), then, then, then) == [{}, {}, {}, {}]


def test_one_that_never_served_is_left_to_its_startup_budget():
    assert looks(*[(process(), upstream(False))] * 4) == [{}] * 4


def test_a_process_too_young_has_not_served_whatever_the_gateway_says():
    assert looks((process(uptime_s=3), upstream(True)), *[(process(), upstream(False))] * 3) == [{}] * 4


def test_a_short_stall_is_forgiven():
    assert looks(*[(process(), upstream(healthy)) for healthy in (True, False, True, False, True)]) == [{}] * 5

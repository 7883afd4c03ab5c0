"""The failover drills on a whole platform whose engines start at once: real supervisor, gateway, reaper and load generator.

The figures that are printed (`pytest -s`) are measurements, not promises.
"""

from __future__ import annotations

import json
import time
import xml.etree.ElementTree as ET
from dataclasses import replace

import psutil
import pytest
from light_platform import Light, interpreter

from kivactl import root
from kivactl.flows.deployment import Deployment
from kivactl.runbooks import observation
from kivactl.runbooks.actions.action import Site
from kivactl.runbooks.binding import bind
from kivactl.runbooks.checks import look
from kivactl.spec.load import load, paths
from kivactl.stack.layout import Layout
from kivactl.targets.rollout import STATE_VARIABLE
from kivactl.tools import leftovers

pytestmark = [pytest.mark.real, pytest.mark.alone]

UNDER_LOAD_S = 3.0
"""Before and after the fault; the shipped drills take longer."""


@pytest.fixture(scope="module")
def light(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drills")
    (folder / "platform").mkdir()
    light = Light(folder / "platform", interpreter(folder / "python"), folder / "cache")
    light.write()
    light.run("provision", "--yes")
    light.run("deploy", "--yes")
    try:
        yield light
        light.run("down", "--yes")
        assert light.pids() == []
    finally:
        leftovers.end_marked(STATE_VARIABLE, str(light.layout.state))


@pytest.fixture
def begun(light, tmp_path):
    """Begins a drill as the engine does: gates, then load and observation."""
    spec = light.folder / "kiva.yaml"
    loaded = load(spec)
    deployment = Deployment(loaded, Layout(*paths(loaded)), lambda: load(spec))
    observations = []

    def begun(name):
        drill = bind(name, loaded, {"users": "3"})
        shorter = drill.runbook.load.model_copy(update={"before": UNDER_LOAD_S, "after": UNDER_LOAD_S})
        drill = replace(drill, runbook=drill.runbook.model_copy(update={"load": shorter}))
        site = Site(deployment, tmp_path / "run", f"{name}-20260101T120000Z-1")
        assert_met(site, *drill.preconditions, *drill.before)
        observations.append(observation.begin(site, drill))
        return drill, site, observations[-1]

    yield begun
    for one in observations:
        one.abandon()


def assert_met(site, *checks):
    for check in checks:
        seen = look(site, check, site.deployment.clock)
        assert seen.met, f"{check.check.title.en}: {seen.message}"


def broken_and_healed(drill, site, observed):
    """The first step with its check, and the end of the observation; returns the figures."""
    step, results = drill.steps[0], {}
    for outcome in step.do.action.act(site, step.do.params):
        if "mark" in outcome.data:
            observed.mark(outcome.data["mark"], outcome.data["at_s"])
        results |= outcome.data.get("result", {})
    assert_met(site, step.with_results({step.name: results}).check)
    figures = observed.end()
    assert_met(site, *drill.after)
    print(f"{drill.name}: {figures}")
    return figures


def measured(begun, name):
    """A drill and its figures. A machine too busy to measure on makes a drill invalid: as an operator would, it is done again."""
    for _ in range(4):
        drill, site, observed = begun(name)
        figures = broken_and_healed(drill, site, observed)
        if observed.healthy() is None:
            break
    assert observed.healthy() is None
    return drill, site, figures


def objectives_met(drill, figures):
    limits = {name: limit for name in type(drill.runbook.objectives).model_fields if (limit := getattr(drill.runbook.objectives, name)) is not None}
    return {name: figures[name] <= limit for name, limit in limits.items()}


def generator():
    return next(child for child in psutil.Process().children(recursive=True) if "locust" in " ".join(child.cmdline()))


@pytest.mark.parametrize("name", ["failover-killed", "failover-hung"])
def test_a_replica_that_fails_is_replaced_and_no_request_is_lost_that_had_not_begun(name, begun):
    drill, site, figures = measured(begun, name)
    assert all(objectives_met(drill, figures).values()), figures
    assert figures["lost_requests"] == 0
    assert figures["cut_streams"] <= 3, "one for each user at most"
    summary = json.loads((site.folder / "measurements" / "summary.json").read_text())
    assert [phase["name"] for phase in summary["phases"]] == ["before", "during", "after"]
    for language in ("en", "de"):
        assert ET.parse(site.folder / "measurements" / f"load.{language}.svg").getroot().tag.endswith("svg")


def test_a_killed_gateway_comes_back_and_what_that_costs_is_counted(begun):
    drill, _, figures = measured(begun, "failover-gateway")
    assert all(objectives_met(drill, figures).values()), figures
    assert figures["lost_requests"] + figures["cut_streams"] > 0, "what is under way at the gateway breaks off"


def test_a_generator_that_was_late_makes_the_drill_invalid_whatever_it_measured(begun):
    drill, site, observed = begun("failover-killed")
    late = generator()
    late.suspend()
    stopped_s = time.monotonic()
    while time.monotonic() < stopped_s + 1.5:  # the fault is that time passes
        pass
    late.resume()
    figures = broken_and_healed(drill, site, observed)
    assert figures["lost_requests"] == 0
    assert "late" in observed.healthy()


def test_what_a_drill_broke_and_nobody_healed_is_repaired_by_its_undo(light, begun):
    drill, site, observed = begun("failover-hung")
    observed.abandon()
    step = drill.steps[0]
    outcomes = list(step.do.action.act(site, step.do.params))
    pid = int(outcomes[-1].data["result"]["process"])
    for _ in site.deployment.clock.ticks(5, every_s=0.02):  # the kernel delivers signals in its own time
        if psutil.Process(pid).status() == psutil.STATUS_STOPPED:
            break
    assert psutil.Process(pid).status() == psutil.STATUS_STOPPED
    list(step.undo.action.act(site, step.undo.params))
    assert psutil.Process(pid).status() != psutil.STATUS_STOPPED
    assert_met(site, *drill.after)


@pytest.fixture(scope="module")
def quick(light):
    """The drill of a killed replica, shorter, as a runbook of one's own."""
    text = (root.content("runbooks") / "failover-killed.yaml").read_text()
    for moment in ("before", "after"):
        assert f"  {moment}: 10s\n" in text
        text = text.replace(f"  {moment}: 10s\n", f"  {moment}: {UNDER_LOAD_S:g}s\n")
    (light.folder / "runbooks").mkdir()
    (light.folder / "runbooks" / "quick.yaml").write_text(text)
    return "quick"


def test_by_the_command_line_a_missed_objective_is_a_verdict_of_its_own(light, quick):
    for _ in range(4):
        child = light.start("runbook", quick, "--yes", "--set", "users=3", "--set", "recovery=1ms")
        out, err = child.communicate(timeout=300)
        folder = max((light.layout.state / "runs").glob(f"{quick}-*"), key=lambda path: path.stat().st_mtime)
        if json.loads((folder / "measurements" / "summary.json").read_text())["invalid"] is None:
            break
    end = json.loads((folder / "journal.jsonl").read_text().splitlines()[-1])
    assert (end["event"], end["verdict"]) == ("closed", "objectives missed"), f"{out}\n{err}"
    assert child.returncode == 6
    assert end["measured"]["recovery"] > 0.001
    assert end["measured"]["lost_requests"] == 0
    assert (folder / "measurements" / "load.de.svg").stat().st_size > 1000

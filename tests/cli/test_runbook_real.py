"""The shipped procedures from the command line, on a whole platform with a stand-in engine."""

from __future__ import annotations

import json

import pytest
from light_platform import Light, interpreter

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def light(tmp_path_factory):
    folder = tmp_path_factory.mktemp("light")
    (folder / "platform").mkdir()
    platform = Light(folder / "platform", interpreter(folder / "python"), folder / "cache")
    platform.write()
    platform.run("provision", "--yes")
    platform.run("deploy", "--yes")
    yield platform
    platform.run("down", "--yes", "--purge")
    assert platform.pids() == []


def verdicts(light):
    return [(run["runbook"], run["verdict"]) for run in json.loads(light.run("runbook", "history", "-o", "json")[0])["runs"]]


def test_stop_and_start_with_evidence(light):
    planned, _ = light.run("runbook", "stop", "--plan", "--lang", "de")
    assert "einschneidend" in planned
    out, err = light.run("runbook", "stop", "--yes", "--lang", "de")
    assert "passed" in out
    assert "Laufende Anfragen abschließen" in err
    assert light.pids() == []
    light.run("runbook", "start", "--yes")
    assert verdicts(light)[:2] == [("start", "passed"), ("stop", "passed")]
    assert "genuine" in light.run("runbook", "verify", "latest")[0]
    assert "# Bestanden: Plattform stoppen" in light.run("runbook", "report", "stop")[0]


def test_one_of_a_platform_that_is_stopped_is_refused_by_its_gate(light):
    light.run("runbook", "stop", "--yes")
    _, err = light.run("runbook", "failover-killed", "--yes", code=6)
    assert "cannot begin" in err
    assert light.run("runbook", "start", "--yes")


def test_a_rolling_restart_of_one_replica(light):
    facts = json.loads(light.run("runbook", "restart", "--yes", "--set", "replica=tiny-1", "-o", "json")[0])
    assert (facts["verdict"], facts["parameters"]["replica"], facts["objectives"]) == ("passed", "tiny-1", {"degraded": 7200.0})

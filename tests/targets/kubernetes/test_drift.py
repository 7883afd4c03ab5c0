"""Who changed what: the API server's notes on fields, read for people."""

from __future__ import annotations

import pytest

from kivactl.plan import Difference
from kivactl.targets.kubernetes.drift import Owner, drift_between, owner_of, paths_of

MANIFEST = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "kiva-smollm2", "labels": {"a": "b"}},
    "spec": {
        "replicas": 2,
        "template": {"spec": {"containers": [{"name": "engine", "image": "old", "args": ["--x"], "env": [{"name": "A", "value": "1"}]}]}},
    },
}


def entry(manager, fields, time="2026-11-29T12:00:00Z", **more):
    return {"manager": manager, "operation": "Update", "time": time, "fieldsType": "FieldsV1", "fieldsV1": fields, **more}


HELM = entry(
    "helm",
    {
        "f:metadata": {"f:labels": {"f:a": {}}},
        "f:spec": {
            "f:replicas": {},
            "f:template": {
                "f:spec": {
                    "f:containers": {
                        'k:{"name":"engine"}': {".": {}, "f:name": {}, "f:image": {}, "f:args": {}, "f:env": {'k:{"name":"A"}': {".": {}, "f:value": {}}}}
                    }
                }
            },
        },
    },
)
CONTAINER = ("spec", "template", "spec", "containers", "engine")


def live(*entries, **spec):
    container = {**MANIFEST["spec"]["template"]["spec"]["containers"][0], **spec.pop("container", {})}
    meta = {**MANIFEST["metadata"], "managedFields": [HELM, *entries]}
    return {**MANIFEST, "metadata": meta, "spec": {**MANIFEST["spec"], **spec, "template": {"spec": {"containers": [container]}}}}


def test_fields_are_read_as_paths_with_the_names_of_list_entries():
    assert paths_of(HELM["fieldsV1"]) >= {
        ("spec", "replicas"),
        (*CONTAINER, "image"),
        (*CONTAINER, "args"),
        (*CONTAINER, "env", "A", "value"),
        ("metadata", "labels", "a"),
    }
    assert paths_of({"f:x": {'v:"y"': {}, "k:broken": {}}}) == set()


def test_nothing_changed_is_no_drift():
    assert list(drift_between(live(), MANIFEST)) == []


def test_each_who_changed_something_is_named_with_the_time():
    edit = entry("kubectl-edit", {"f:spec": {"f:replicas": {}}}, "2026-11-29T13:00:00Z")
    k9s = entry("k9s", {"f:spec": {"f:template": {"f:spec": {"f:containers": {'k:{"name":"engine"}': {"f:image": {}}}}}}}, "2026-11-29T14:00:00Z")
    found = {drift.by: drift for drift in drift_between(live(edit, k9s, replicas=5, container={"image": "new"}), MANIFEST)}
    assert found["kubectl-edit"].differences == (Difference("Deployment kiva-smollm2 replicas", "2", "5"),)
    assert found["kubectl-edit"].at == "2026-11-29T13:00:00Z"
    assert found["k9s"].differences == (Difference("Deployment kiva-smollm2 containers.engine.image", "old", "new"),)


def test_what_somebody_added_is_drift_and_what_a_controller_adds_is_not():
    env = [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]
    fields = {"f:spec": {"f:template": {"f:spec": {"f:containers": {'k:{"name":"engine"}': {"f:env": {'k:{"name":"B"}': {".": {}, "f:value": {}}}}}}}}}
    (drift,) = drift_between(live(entry("kubectl-set", fields), container={"env": env}), MANIFEST)
    assert (drift.by, drift.differences) == ("kubectl-set", (Difference("Deployment kiva-smollm2 containers.engine.env.B", None, "2"),))
    assert list(drift_between(live(entry("kube-controller-manager", fields), container={"env": env}), MANIFEST)) == []


@pytest.mark.parametrize(
    ("entries", "owner"),
    [
        ((), Owner("helm", "2026-11-29T12:00:00Z")),
        ((entry("vi", {"f:spec": {"f:replicas": {}}}, "2026-11-29T11:00:00Z"),), Owner("vi", "2026-11-29T11:00:00Z")),
        ((entry("hpa", {"f:spec": {"f:replicas": {}}}, "2026-11-29T11:00:00Z", subresource="status"),), Owner("helm", "2026-11-29T12:00:00Z")),
    ],
)
def test_who_set_a_field_last(entries, owner):
    assert owner_of(live(*entries), ("spec", "replicas")) == owner


def test_a_field_that_nobody_owns_is_nobodys():
    assert owner_of({"metadata": {}}, ("spec", "replicas")) == Owner("", "")


def test_values_of_secrets_do_not_show():
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x", "managedFields": [entry("vi", {"f:data": {"f:k": {}}})]}, "data": {"k": "bmV3"}}
    manifest = {**secret, "metadata": {"name": "x"}, "data": {"k": "b2xk"}}
    assert "bmV3" not in repr(list(drift_between(secret, manifest)))

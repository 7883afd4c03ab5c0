"""Objects compared field by field: what shows, what does not, and what must never show."""

from __future__ import annotations

import copy
import json

import pytest
from gateway_specs import platform
from hypothesis import given
from hypothesis import strategies as st

from kivactl.plan import Difference
from kivactl.stack.gateway import access, routes
from kivactl.targets.kubernetes.difference import HIDDEN, differences, drifted, same_pods, subject_of

ARGS = ["--model", "/models/smollm2", "--served-model-name", "smollm2", "--max-model-len", "2048", "--enable-prompt-tokens-details"]
DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {
        "name": "kiva-smollm2",
        "namespace": "kiva",
        "uid": "c0ffee",
        "resourceVersion": "4711",
        "generation": 3,
        "creationTimestamp": "2026-11-29T12:00:00Z",
        "labels": {"app.kubernetes.io/instance": "kiva-smollm2"},
        "annotations": {"deployment.kubernetes.io/revision": "3", "meta.helm.sh/release-name": "kiva-smollm2"},
        "managedFields": [{"manager": "helm", "operation": "Apply"}],
    },
    "spec": {
        "replicas": 2,
        "selector": {"matchLabels": {"app.kubernetes.io/instance": "kiva-smollm2"}},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": {
            "metadata": {"labels": {"app.kubernetes.io/instance": "kiva-smollm2"}, "annotations": {"checksum/config": "abc"}},
            "spec": {
                "containers": [
                    {
                        "name": "engine",
                        "image": "registry.example.org/kiva/engine@sha256:" + "a" * 64,
                        "args": ARGS,
                        "env": [
                            {"name": "KIVA_MODEL", "value": "smollm2"},
                            {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}},
                        ],
                        "ports": [{"name": "http", "containerPort": 8000, "protocol": "TCP"}],
                        "resources": {"limits": {"memory": "16Gi", "nvidia.com/gpu": "1"}, "requests": {"cpu": "4", "memory": "16Gi"}},
                        "volumeMounts": [{"name": "models", "mountPath": "/models"}, {"name": "tmp", "mountPath": "/tmp"}],
                    }
                ],
                "terminationGracePeriodSeconds": 90,
            },
        },
    },
    "status": {"replicas": 2, "readyReplicas": 2},
}


def changed(*steps, value, of=DEPLOYMENT):
    thing = copy.deepcopy(of)
    place = thing
    for step in steps[:-1]:
        place = place[step]
    place[steps[-1]] = value
    return thing


CONTAINER = ("spec", "template", "spec", "containers", 0)


def test_what_the_server_notes_for_itself_is_no_difference():
    later = changed("metadata", "resourceVersion", value="4712")
    later = changed("metadata", "managedFields", value=[], of=later)
    later = changed("metadata", "generation", value=4, of=later)
    later = changed("metadata", "annotations", "deployment.kubernetes.io/revision", value="4", of=later)
    later = changed("status", "readyReplicas", value=0, of=later)
    assert differences(DEPLOYMENT, later) == ()
    assert subject_of(later) == "Deployment kiva-smollm2"


@pytest.mark.parametrize(
    ("steps", "value", "path", "before", "after"),
    [
        (("spec", "replicas"), 3, "replicas", "2", "3"),
        ((*CONTAINER, "args"), [*ARGS[:5], "4096", ARGS[6]], "containers.engine.args[5] (--max-model-len)", "2048", "4096"),
        ((*CONTAINER, "args"), [*ARGS, "--enforce-eager"], "containers.engine.args[7]", None, "--enforce-eager"),
        ((*CONTAINER, "args"), ARGS[:-1], "containers.engine.args[6]", "--enable-prompt-tokens-details", None),
        ((*CONTAINER, "args"), ["--dtype", "auto", *ARGS], "containers.engine.args[0]", None, "--dtype auto"),
        ((*CONTAINER, "env", 0, "value"), "other", "containers.engine.env.KIVA_MODEL", "smollm2", "other"),
        ((*CONTAINER, "env", 1, "valueFrom", "secretKeyRef", "name"), "x", "containers.engine.env.HF_TOKEN.valueFrom.secretKeyRef.name", "hub", "x"),
        ((*CONTAINER, "resources", "limits", "memory"), "32Gi", "containers.engine.resources.limits.memory", "16Gi", "32Gi"),
        ((*CONTAINER, "volumeMounts", 0, "readOnly"), True, "containers.engine.volumeMounts./models.readOnly", None, "true"),
        (("spec", "strategy"), {"type": "Recreate"}, "strategy.type", "RollingUpdate", "Recreate"),
        (("spec", "template", "spec", "terminationGracePeriodSeconds"), 120, "terminationGracePeriodSeconds", "90", "120"),
        (("spec", "template", "metadata", "annotations", "checksum/config"), "def", "pod.annotations.checksum/config", "abc", "def"),
        (("metadata", "labels", "kiva/model"), "smollm2", "labels.kiva/model", None, "smollm2"),
    ],
)
def test_a_field_that_differs_is_named_as_people_read_it(steps, value, path, before, after):
    found = differences(DEPLOYMENT, changed(*steps, value=value))
    assert found[0] == Difference(f"Deployment kiva-smollm2 {path}", before, after)
    assert len(found) == 1 or path == "strategy.type"


@pytest.mark.parametrize("same", ["16384Mi", "17179869184", 17179869184])
def test_the_same_quantity_in_other_words_is_no_difference(same):
    assert differences(DEPLOYMENT, changed(*CONTAINER, "resources", "limits", "memory", value=same)) == ()


def test_numbers_and_their_texts_are_the_same_and_truth_is_not_a_number():
    assert differences(DEPLOYMENT, changed("spec", "replicas", value="2")) == ()
    assert differences(changed("spec", "paused", value=True), changed("spec", "paused", value=1)) != ()


def test_labels_that_repeat_the_version_count_on_pods_only():
    assert differences(DEPLOYMENT, changed("metadata", "labels", "app.kubernetes.io/version", value="2")) == ()
    found = differences(DEPLOYMENT, changed("spec", "template", "metadata", "labels", "app.kubernetes.io/version", value="2"))
    assert [one.path for one in found] == ["Deployment kiva-smollm2 pod.labels.app.kubernetes.io/version"]


def test_the_order_of_named_entries_is_no_difference():
    mounts = DEPLOYMENT["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    assert differences(DEPLOYMENT, changed(*CONTAINER, "volumeMounts", value=mounts[::-1])) == ()


def test_what_a_dry_run_leaves_and_the_manifest_takes_away_is_a_difference():
    before, after = changed("metadata", "labels", "kiva/model", value="smollm2"), DEPLOYMENT
    assert differences(before, before, before, after) == (Difference("Deployment kiva-smollm2 labels.kiva/model", "smollm2", None),)


def test_many_differences_of_one_object_are_counted():
    env = [{"name": f"V{index}", "value": "x"} for index in range(40)]
    found = differences(DEPLOYMENT, changed(*CONTAINER, "env", value=env))
    assert len(found) == 12
    assert found[-1] == Difference("Deployment kiva-smollm2 and 32 more fields", None, "changed")


def secret(**data):
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "kiva-gateway-tls"}, "type": "kubernetes.io/tls", "data": data}


def test_a_secret_shows_only_that_it_changed():
    found = differences(secret(old="b2xk", key="YQ=="), secret(key="Yg==", new="bmV3"))
    assert found == (
        Difference("Secret kiva-gateway-tls key", HIDDEN, "changed"),
        Difference("Secret kiva-gateway-tls new", None, HIDDEN),
        Difference("Secret kiva-gateway-tls old", HIDDEN, None),
    )


@given(st.dictionaries(st.sampled_from("abc"), st.text("ABCDEFGHxyz", min_size=8)), st.dictionaries(st.sampled_from("abc"), st.text("ABCDEFGHxyz", min_size=8)))
def test_no_value_of_a_secret_ever_shows(old, new):
    shown = repr(differences(secret(**old), secret(**new)))
    assert not any(value in shown for value in (*old.values(), *new.values()))


def config(**files):
    data = {name.replace("_", "."): content if isinstance(content, str) else json.dumps(content) for name, content in files.items()}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kiva-gateway-routes"}, "data": data}


def test_other_weights_of_an_alias_are_named():
    old, new = (routes.routes_for(platform("v1", "v2", aliases={"chat": shares})) for shares in ({"v1": 90, "v2": 10}, {"v1": 50, "v2": 50}))
    assert differences(config(routes_json=old), config(routes_json=new)) == (
        Difference("ConfigMap kiva-gateway-routes routes.json: weights of chat", "v1 90, v2 10", "v1 50, v2 50"),
    )


def test_an_alias_that_leads_to_one_model_only_is_a_change_of_weights():
    old, new = (routes.routes_for(platform("v1", "v2", aliases={"chat": shares})) for shares in ({"v1": 90, "v2": 10}, {"v1": 0, "v2": 100}))
    assert differences(config(routes_json=old), config(routes_json=new)) == (
        Difference("ConfigMap kiva-gateway-routes routes.json: weights of chat", "v1 90, v2 10", "v2"),
    )


def test_a_model_that_comes_is_named_once():
    old, new = routes.routes_for(platform("v1")), routes.routes_for(platform("v1", "v2"))
    assert differences(config(routes_json=old), config(routes_json=new)) == (Difference("ConfigMap kiva-gateway-routes routes.json: routes of v2", None, "v2"),)


def test_other_parts_of_a_file_are_named_by_their_path():
    clusters = {"resources": [{"name": "engine-a", "connect_timeout": "1s"}, {"name": "engine-b", "connect_timeout": "1s"}]}
    after = copy.deepcopy(clusters)
    after["resources"][1]["connect_timeout"] = "2s"
    assert differences(config(clusters_json=clusters), config(clusters_json=after)) == (
        Difference("ConfigMap kiva-gateway-routes clusters.json: engine-b.connect_timeout", "1s", "2s"),
    )


def test_json_that_is_only_written_otherwise_is_no_difference():
    content = access.limits_for(platform("v1"))
    assert differences(config(limits_json=json.dumps(content)), config(limits_json=json.dumps(content, indent=2, sort_keys=True))) == ()


def test_text_that_is_no_json_is_compared_as_text():
    assert differences(config(rules_yaml="a: 1"), config(rules_yaml="a: 2\nb: 3\n")) == (
        Difference("ConfigMap kiva-gateway-routes rules.yaml", "a: 1", "2 lines"),
    )


def test_what_looks_like_a_secret_in_an_environment_is_taken_out():
    found = differences(DEPLOYMENT, changed(*CONTAINER, "env", 0, "value", value="postgresql://kiva:hunter22@db/kiva"))
    assert "hunter22" not in repr(found)


def test_drift_is_what_a_manifest_says_and_the_cluster_does_not():
    manifest = copy.deepcopy(DEPLOYMENT)
    del manifest["status"], manifest["metadata"]["managedFields"]
    live = changed("spec", "replicas", value=5)
    live = changed("spec", "template", "spec", "dnsPolicy", value="ClusterFirst", of=live)
    assert drifted(live, manifest) == (Difference("Deployment kiva-smollm2 replicas", "2", "5"),)


def test_a_field_that_somebody_took_away_is_drift():
    live = copy.deepcopy(DEPLOYMENT)
    del live["spec"]["template"]["spec"]["containers"][0]["args"]
    ((difference),) = drifted(live, DEPLOYMENT)
    assert (difference.path, difference.after) == ("Deployment kiva-smollm2 containers.engine.args", None)


def test_whether_pods_stay_as_they_are():
    assert same_pods(DEPLOYMENT, changed("spec", "replicas", value=5))
    assert same_pods(DEPLOYMENT, changed("metadata", "labels", "a", value="b"))
    assert not same_pods(DEPLOYMENT, changed(*CONTAINER, "image", value="other"))
    assert not same_pods(DEPLOYMENT, changed("spec", "template", "metadata", "annotations", "checksum/config", value="other"))


values = st.recursive(
    st.integers() | st.text(max_size=5) | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abname", max_size=4), inner, max_size=3),
    max_leaves=12,
)


@given(values)
def test_nothing_differs_from_itself(value):
    thing = {"kind": "Thing", "metadata": {"name": "x"}, "spec": {"field": value}}
    assert differences(thing, copy.deepcopy(thing)) == ()
    assert drifted(thing, copy.deepcopy(thing)) == ()


@given(values, values)
def test_what_differs_one_way_differs_the_other_way(one, other):
    first, second = ({"kind": "Thing", "metadata": {"name": "x"}, "spec": {"field": value}} for value in (one, other))
    assert bool(differences(first, second)) == bool(differences(second, first))

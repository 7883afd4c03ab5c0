"""Real kubectl, the newest and one of two years before, works with the tests' API server."""

from __future__ import annotations

import json
import threading

import pytest
import yaml
from kube_api.conftest import deployment

pytestmark = pytest.mark.charts


def said(answer, code=0):
    """What kubectl printed, when it ended as expected."""
    assert answer[0] == code, answer[1]
    return answer[1]


def test_apply_by_the_server_and_look_at_it(api, kubectl):
    text = said(kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump(deployment(replicas=2))))
    assert "deployment.apps/kiva-x serverside-applied" in text
    entry = api.get("Deployment", "kiva-x", "kiva")["metadata"]["managedFields"][0]
    assert (entry["manager"], entry["operation"]) == ("kubectl", "Apply")
    assert json.loads(said(kubectl("get", "deploy", "kiva-x", "-o", "json")))["spec"]["replicas"] == 2
    assert "kiva-x" in said(kubectl("get", "all"))
    assert said(kubectl("get", "deployments.apps", "-l", "app=other")).startswith("No resources found")


def test_the_diff_of_what_is_there_is_empty_and_of_anything_else_is_not(api, kubectl):
    said(kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump(deployment())))
    assert said(kubectl("diff", "--server-side", "-f", "-", stdin=yaml.safe_dump(deployment()))) == ""
    before = len(api.writes())
    changed = said(kubectl("diff", "--server-side", "-f", "-", stdin=yaml.safe_dump(deployment(replicas=3))), 1)
    assert "+  replicas: 3" in changed
    assert len(api.writes()) == before


def test_apply_by_the_client_merges_and_takes_away(api, kubectl):
    first = deployment(minReadySeconds=5)
    said(kubectl("apply", "-f", "-", stdin=yaml.safe_dump(first)))
    said(kubectl("apply", "-f", "-", stdin=yaml.safe_dump(deployment(image="registry.example.org/engine@sha256:2"))))
    spec = api.get("Deployment", "kiva-x", "kiva")["spec"]
    assert "minReadySeconds" not in spec
    assert [one["image"] for one in spec["template"]["spec"]["containers"]] == ["registry.example.org/engine@sha256:2"]


def test_a_conflict_names_its_owner(api, kubectl):
    said(kubectl("apply", "--server-side", "--field-manager=kivactl", "-f", "-", stdin=yaml.safe_dump(deployment())))
    text = said(kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump(deployment(replicas=3))), 1)
    assert 'conflict with "kivactl": .spec.replicas' in text
    said(kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=yaml.safe_dump(deployment(replicas=3))))
    assert api.get("Deployment", "kiva-x", "kiva")["spec"]["replicas"] == 3


def test_a_misspelt_field_is_refused(kubectl):
    text = said(kubectl("create", "-f", "-", stdin=yaml.safe_dump(deployment(replica=3))), 1)
    assert 'unknown field "spec.replica"' in text


def test_waiting_for_a_rollout(api, kubelet, kubectl):
    api.add(deployment(replicas=2))
    with kubelet.running():
        said(kubectl("wait", "--for=condition=Available", "deployment/kiva-x", "--timeout=20s"))
        assert "successfully rolled out" in said(kubectl("rollout", "status", "deployment/kiva-x", "--timeout=20s"))
        threading.Timer(0.2, api.drop_watches).start()
        said(kubectl("delete", "deployment", "kiva-x", "--timeout=20s"))
    assert api.list("ReplicaSet", "kiva") == []


def test_waiting_in_vain(api, kubelet, kubectl):
    kubelet.script(trouble="ImagePullBackOff")
    api.add(deployment())
    with kubelet.running():
        text = said(kubectl("wait", "--for=condition=Available", "deployment/kiva-x", "--timeout=1s"), 1)
    assert "timed out waiting" in text
    path = "jsonpath={.items[*].status.containerStatuses[*].state.waiting.reason}"
    assert said(kubectl("get", "pods", "-o", path)) in {"ErrImagePull", "ImagePullBackOff"}


def test_logs_events_and_descriptions(api, kubelet, kubectl):
    kubelet.script(log=("loading weights", "ready"))
    api.add(deployment())
    kubelet.tick(3)
    (pod,) = api.list("Pod", "kiva")
    assert said(kubectl("logs", pod["metadata"]["name"])) == "loading weights\nready\n"
    assert said(kubectl("logs", "deployment/kiva-x", "--tail=1")) == "ready\n"
    assert "Started container engine" in said(kubectl("events"))
    assert "Successfully assigned" in said(kubectl("describe", "pod", pod["metadata"]["name"]))


def test_scaling_permissions_namespaces_and_secrets(api, kubectl):
    api.add(deployment())
    said(kubectl("scale", "deployment/kiva-x", "--replicas=4"))
    assert api.get("Deployment", "kiva-x", "kiva")["spec"]["replicas"] == 4
    assert said(kubectl("auth", "can-i", "create", "pods")) == "yes\n"
    api.admission.forbid("create", "pods")
    assert said(kubectl("auth", "can-i", "create", "pods"), 1) == "no\n"
    said(kubectl("create", "namespace", "other"))
    said(kubectl("create", "secret", "generic", "word", "--from-literal=key=value", "--namespace", "other"))
    assert api.get("Secret", "word", "other")["data"] == {"key": "dmFsdWU="}
    said(kubectl("delete", "namespace", "other", "--timeout=20s"))
    assert api.get("Secret", "word", "other") is None


def test_custom_kinds(api, kubectl):
    assert "leaderworkersets" in said(kubectl("api-resources", "--api-group=leaderworkerset.x-k8s.io"))
    monitor = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": {"name": "engines"},
        "spec": {"podMetricsEndpoints": [{"port": "http"}]},
    }
    said(kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump(monitor)))
    said(kubectl("apply", "-f", "-", stdin=yaml.safe_dump({**monitor, "metadata": {"name": "others"}})))
    assert said(kubectl("get", "podmonitors", "-o", "name")).split() == ["podmonitor.monitoring.coreos.com/engines", "podmonitor.monitoring.coreos.com/others"]
    api.remove("CustomResourceDefinition", "podmonitors.monitoring.coreos.com")
    assert "doesn't have a resource type" in said(kubectl("get", "podmonitors", "--cache-dir", "/nonexistent/none"), 1)


def test_the_version(kubectl):
    assert "Server Version: v1.37.1" in said(kubectl("version"))

"""The chart kiva-engine: where the model's files are, and how they get there."""

from __future__ import annotations

from typing import Any

import pytest
from helm.charts import Json, kinds, the
from helm.engine_release import IMAGE, container, engine, environment, loading, marker, pod, refusal

pytestmark = pytest.mark.charts

# Where the model is


@pytest.mark.parametrize(
    ("storage", "volume"),
    [
        ({}, {"persistentVolumeClaim": {"claimName": "kiva-x-model"}}),
        ({"claim": "own"}, {"persistentVolumeClaim": {"claimName": "own"}}),
        ({"claim": "own", "create": False}, {"persistentVolumeClaim": {"claimName": "own"}}),
        ({"kind": "host-path", "hostPath": "/srv/models"}, {"hostPath": {"path": "/srv/models", "type": "Directory"}}),
        ({"kind": "image", "image": IMAGE}, {"image": {"reference": IMAGE, "pullPolicy": "IfNotPresent"}}),
    ],
)
def test_an_engine_reads_its_model_and_cannot_change_it(storage: Json, volume: Json):
    manifests = engine(storage=storage)
    assert {"name": "models", **volume} in pod(manifests)["spec"]["volumes"]
    assert {"name": "models", "mountPath": "/models", "readOnly": True} in container(manifests)["volumeMounts"]


def test_the_model_may_be_in_the_engines_image():
    assert "models" not in {volume["name"] for volume in pod(engine(storage={"kind": "none"}))["spec"]["volumes"]}


def test_a_claim_is_made_as_asked_and_outlives_its_release():
    claim = the(engine("tensor-parallel"), "PersistentVolumeClaim")
    assert claim["spec"] == {"accessModes": ["ReadWriteMany"], "storageClassName": "ceph-fs", "resources": {"requests": {"storage": "300Gi"}}}
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert "annotations" not in the(engine(storage={"keep": False}), "PersistentVolumeClaim")["metadata"]
    assert "storageClassName" not in the(engine(), "PersistentVolumeClaim")["spec"]


@pytest.mark.parametrize("shape", ["existing-claim", "host-path", "image-volume"])
def test_renders_no_claim_when_the_files_are_elsewhere(shape: str):
    assert "PersistentVolumeClaim" not in kinds(engine(shape))


def test_the_files_of_a_volume_are_not_given_to_the_group_at_each_start():
    assert pod(engine())["spec"]["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"storage": {"create": False}}, "storage.claim"),
        ({"storage": {"access": "ReadOnlyMany"}}, "storage.access"),
        ({"storage": {"kind": "host-path"}}, "storage.hostPath"),
        ({"storage": {"kind": "image"}}, "storage.image"),
        ({"storage": {"kind": "image", "image": "models:1"}}, "storage.image"),
        ({"image": {"reference": "kiva/engine:1.0"}}, "image.reference"),
        ({"image": {"reference": "kiva/engine:latest"}}, "has no digest"),
        ({"image": {"reference": ""}}, "image.reference is empty"),
        ({"preload": {"enabled": True}}, "preload.command"),
        ({"preload": {"enabled": True, "command": ["x"]}, "storage": {"kind": "image", "image": IMAGE}}, "preload.enabled"),
        ({"preload": {"enabled": True, "command": ["x"]}, "storage": {"create": False, "claim": "x", "access": "ReadOnlyMany"}}, "preload.enabled"),
        ({"disruptionBudget": {"maxUnavailable": 2}, "replicas": 2}, "disruptionBudget.maxUnavailable"),
        ({"autoscaling": {"kind": "hpa", "min": 3, "max": 2}}, "autoscaling.min"),
        ({"autoscaling": {"kind": "hpa", "min": 0, "max": 2}}, "only keda"),
        ({"autoscaling": {"kind": "keda", "min": 0, "max": 2}}, "autoscaling.prometheus"),
        ({"release": "7b"}, "cannot name a Service"),
        ({"release": "llama-3.1"}, "cannot name a Service"),
    ],
)
def test_what_cannot_work_is_refused_with_what_is_to_blame(values: Json, named: str):
    assert named in refusal(**values)


def test_images_go_by_tag_only_when_that_is_said():
    assert container(engine(image={"reference": "kiva/engine:dev", "unpinned": True}))["image"] == "kiva/engine:dev"


# How the model gets there


def test_engines_wait_for_exactly_the_file_that_the_job_leaves_when_all_is_loaded():
    manifests = engine("preload")
    (wait,) = pod(manifests)["spec"]["initContainers"]
    assert [one["name"] for one in loading(manifests)["initContainers"]] == ["load"]
    (mark,) = loading(manifests)["containers"]
    assert marker(wait) == marker(mark)


def test_the_small_programs_do_what_they_are_for(tmp_path):
    import subprocess
    import sys

    manifests = engine("preload")
    (wait,), (mark,) = pod(manifests)["spec"]["initContainers"], loading(manifests)["containers"]
    file = tmp_path / "marker"

    def start(of: Json) -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, *of["command"][1:-1], file], stdout=subprocess.PIPE, text=True)

    with start(wait) as waiting:
        assert waiting.stdout is not None
        assert "waiting for the job" in waiting.stdout.readline()
        assert waiting.poll() is None
        with start(mark) as marking:
            assert marking.wait(30) == 0
        assert waiting.stdout.read() == "the model is there\n"
    assert waiting.returncode == 0


def test_a_job_that_is_another_has_another_name_because_none_can_be_changed():
    name = the(engine("preload"), "Job")["metadata"]["name"]
    assert the(engine("preload", replicas=7, drain={"seconds": 1}), "Job")["metadata"]["name"] == name
    for other in (
        {"image": {"reference": IMAGE.replace("engine@sha256:e", "engine@sha256:0")}},
        {"preload": {"command": ["other"]}},
        {"labels": {"a": "b"}},
        {"placement": {"nodeSelector": {"a": "b"}}},
    ):
        assert the(engine("preload", **other), "Job")["metadata"]["name"] != name


def test_another_image_or_label_does_not_load_the_model_again_but_another_revision_does():
    def waits_for(**values: Any) -> str:
        return marker(pod(engine("preload", **values))["spec"]["initContainers"][0])

    first = waits_for()
    assert waits_for(image={"reference": IMAGE.replace("engine@sha256:e", "engine@sha256:0")}, labels={"a": "b"}) == first
    assert waits_for(model={"identity": "other"}) != first
    assert waits_for(preload={"command": ["other"]}) != first
    assert waits_for(preload={"environment": {"HF_ENDPOINT": "https://other.example.org"}}) != first


def test_only_the_job_has_the_way_to_the_hub_and_its_token():
    manifests = engine("preload")
    engines, job = the(manifests, "NetworkPolicy", "kiva-x")["spec"], the(manifests, "NetworkPolicy", "kiva-x-load")["spec"]
    assert engines["egress"] == []
    assert {"ports": [{"protocol": "TCP", "port": 443}]} in job["egress"]
    assert job["ingress"] == []
    job_labels, engine_labels = the(manifests, "Job")["spec"]["template"]["metadata"]["labels"], pod(manifests)["metadata"]["labels"]
    assert job["podSelector"]["matchLabels"].items() <= job_labels.items()
    assert not job["podSelector"]["matchLabels"].items() <= engine_labels.items()
    assert not engines["podSelector"]["matchLabels"].items() <= job_labels.items()
    assert "HF_TOKEN" in environment(loading(manifests)["initContainers"][0])
    assert "HF_TOKEN" not in str(pod(manifests))


def test_a_job_gets_no_requests_and_counts_for_no_disruption_budget():
    manifests = engine("preload")
    labels = the(manifests, "Job")["spec"]["template"]["metadata"]["labels"].items()
    for manifest in manifests:
        if manifest["kind"] in {"Service", "PodDisruptionBudget", "Deployment"}:
            selector = manifest["spec"]["selector"]
            assert not selector.get("matchLabels", selector).items() <= labels


def test_the_job_goes_to_the_node_that_has_the_volume_when_only_one_can():
    (term,) = loading(engine("preload-one-node"))["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["topologyKey"] == "kubernetes.io/hostname"
    assert term["labelSelector"]["matchLabels"].items() <= pod(engine("preload-one-node"))["metadata"]["labels"].items()
    assert "affinity" not in loading(engine("preload"))


def test_a_job_asks_for_no_gpu_but_goes_to_the_same_nodes():
    spec = loading(engine("preload", placement={"nodeSelector": {"pool": "gpu"}, "tolerations": [{"operator": "Exists"}]}, runtimeClass="nvidia"))
    assert "nvidia.com/gpu" not in str(spec)
    assert spec["nodeSelector"] == {"pool": "gpu"}
    assert spec["tolerations"] == [{"operator": "Exists"}]


def test_a_folder_of_each_node_is_filled_on_each_node():
    manifests = engine("host-path")
    assert "Job" not in kinds(manifests)
    (load,) = pod(manifests)["spec"]["initContainers"]
    assert load["name"] == "load"
    assert {"name": "models", "mountPath": "/models", "readOnly": False} in load["volumeMounts"]
    assert {"ports": [{"protocol": "TCP", "port": 443}]} in the(manifests, "NetworkPolicy")["spec"]["egress"]


def test_renders_no_job_and_no_way_out_when_nothing_is_loaded():
    manifests = engine()
    assert "Job" not in kinds(manifests)
    assert [manifest["spec"]["egress"] for manifest in manifests if manifest["kind"] == "NetworkPolicy"] == [[]]

"""What ended an engine in a pod, by what the kubelet and its log say, and what its GPUs say through the container."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from kivactl.errors import PreconditionError, UsageError
from kivactl.flows import pod_troubles, troubles
from kivactl.flows.diagnosis import Cause
from kivactl.flows.pod_troubles import advice_on, ended_by
from kivactl.spec.platform import Platform
from kivactl.targets.kubernetes.trouble import Logs
from kivactl.tools.kube_errors import Denied
from kivactl.tools.kube_objects import Event, Ran

AT = "2026-11-29T10:00:00Z"
LIMITS = {"memory": "64Gi", "nvidia.com/gpu": 1}
SPEC = {"nodeName": "gpu-1", "containers": [{"name": "engine", "resources": {"limits": LIMITS}}, {"name": "other", "resources": {"limits": {"memory": "1Gi"}}}]}


def pod(code=None, reason="Error", *, runs=True):
    end = {"terminated": {"exitCode": code, "reason": reason, "finishedAt": AT}}
    status = {"name": "engine", "state": {"running": {}} if runs else end, "lastState": end if runs and code is not None else {}, "restartCount": 1}
    labels = {"kiva/model": "qwen", "kiva/platform": "kiva"}
    return {"metadata": {"name": "p", "labels": labels}, "spec": SPEC, "status": {"containerStatuses": [{"name": "other", "state": {}}, status]}}


def killing(message="Container engine failed liveness probe, will be restarted"):
    return Event("Pod", "p", False, "Killing", message, 1, AT)


TORCH = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"


@pytest.mark.parametrize(
    ("seen", "events", "logs", "cause"),
    [
        (pod(), (), Logs(), Cause.NONE),
        (pod(137, "OOMKilled"), (), Logs(before=(TORCH,)), Cause.KERNEL),
        (pod(137, "OOMKilled", runs=False), (), Logs(), Cause.KERNEL),
        (pod(1), (), Logs(now=("fine",), before=("INFO", TORCH)), Cause.GPU_FULL),
        (pod(1, runs=False), (), Logs(now=(TORCH,)), Cause.GPU_FULL),
        (pod(1), (), Logs(before=("ValueError: No available memory for the cache blocks.",)), Cause.CACHE_TOO_SMALL),
        (pod(135), (), Logs(), Cause.SHARED_MEMORY),
        (pod(137), (killing(),), Logs(), Cause.STALLED),
        (pod(143), (killing(),), Logs(), Cause.STALLED),
        (pod(137), (killing("Stopping container engine"),), Logs(), Cause.KILLED),
        (pod(1), (killing(),), Logs(before=("RuntimeError: odd",)), Cause.OTHER),
        (pod(1), (), Logs(), Cause.OTHER),
    ],
)
def test_what_ended_it(seen, events, logs, cause):
    found = ended_by(seen, events, logs)
    assert found.cause is cause
    assert cause is Cause.NONE or AT in found.evidence[-1]


def test_values_are_proposed_where_they_follow_from_what_it_has():
    assert advice_on(Cause.KERNEL, SPEC, 10 * 2**30, "") == (
        "`kubernetes: {memory: 80GiB}` of the model instead of 64GiB, or `kv_cache: 8GiB` instead of 10GiB in kiva.yaml; then kivactl deploy"
    )
    assert advice_on(Cause.GPU_FULL, SPEC, None, "").startswith("a smaller `kv_cache`, or a lower `concurrency`")
    assert advice_on(Cause.KILLED, SPEC, None, "kubectl describe pod p") == "see who did: kubectl describe pod p"
    for cause in Cause:
        assert advice_on(cause, {}, None, "x")


SMI = """<?xml version="1.0" ?><nvidia_smi_log><gpu id="00000000:17:00.0"><product_name>NVIDIA H100</product_name><uuid>GPU-1</uuid></gpu></nvidia_smi_log>"""
XID = "NVRM: Xid (PCI:0000:17:00): 94, Contained: SM (0x1). RST: No, D-RST: No"


@pytest.fixture
def site(monkeypatch):
    """A pod whose container, log and node say what a test wants."""
    said = SimpleNamespace(ran=Ran(0, SMI, ""), events=[], logs=Logs(), pod=pod(), refused=None)

    def run(_pod, container, argv, **_more):
        assert (container, argv) == ("engine", ["nvidia-smi", "-q", "-x"])
        if said.refused:
            raise said.refused
        return said.ran

    cluster = SimpleNamespace(
        get=lambda *_: said.pod, events=lambda kind, *_, **_more: said.events if kind == "Node" else (), run_in=run, flags="--context prod", namespace="kiva"
    )

    def victim(replica, _model):
        if replica != "p":
            raise UsageError(f"there is no replica named '{replica}'")
        return replica

    monkeypatch.setattr(pod_troubles, "logs_of", lambda *_: {"engine": said.logs})
    monkeypatch.setattr(pod_troubles, "target_of", lambda _: SimpleNamespace(cluster=cluster, breaking=SimpleNamespace(victim=victim)))
    platform = Platform.model_construct(target="kubernetes", models=())
    said.deployment = SimpleNamespace(platform=platform)
    return said


def diagnosed(site):
    return list(troubles.diagnose_gpus(site.deployment, "p"))[-1].data


def test_gpus_that_are_well(site):
    assert diagnosed(site) == {"gpus": "GPU-1", "faults": "none", "remedy": "none", "node": "gpu-1"}
    assert (troubles.gpu_count(site.deployment, "p"), troubles.faults_now(site.deployment, "p")) == (1, [])


def test_an_xid_that_the_nodes_events_or_the_log_repeat_counts(site):
    site.events = [Event("Node", "gpu-1", True, "XidError", XID, 1, AT)]
    found = diagnosed(site)
    assert "GPU-1: Xid 94" in found["faults"]
    assert found["remedy"] != "none"
    site.events, site.logs = [], Logs(before=(XID,))
    assert diagnosed(site) == found


def test_a_pod_that_cannot_be_entered_is_known_by_what_is_said_of_it_or_not_at_all(site):
    site.refused = Denied("may not")
    with pytest.raises(Denied):
        diagnosed(site)
    site.logs = Logs(now=(XID,))
    assert "0000:17:00: Xid 94" in diagnosed(site)["faults"]


def test_one_without_a_gpu_or_that_is_not_there(site):
    site.pod = {**pod(), "spec": {"nodeName": "cpu-1", "containers": [{"name": "engine"}]}}
    assert troubles.gpu_count(site.deployment, "p") == 0
    with pytest.raises(PreconditionError, match="uses no GPU"):
        diagnosed(site)
    with pytest.raises(UsageError):
        list(troubles.diagnose(site.deployment, "q"))


def test_a_diagnosis_is_told_with_its_advice(site):
    site.pod = pod(137, "OOMKilled")
    last = list(troubles.diagnose(site.deployment, "p"))[-1]
    assert last.data["cause"] == "killed by the kernel for want of memory"
    assert "memory: 80GiB" in last.data["advice"]

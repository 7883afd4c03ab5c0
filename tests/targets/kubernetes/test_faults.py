"""The fault table: whatever goes wrong in a deploy ends in one sentence with the next command, what served serves on, and a deploy continues."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from cluster_site import IMAGE, NAMESPACE, Site, desired, engine, gateway

from kivactl.errors import KivaError, PreconditionError
from kivactl.plan import Difference
from kivactl.targets.kubernetes.desired import ClusterDesired

pytestmark = pytest.mark.charts

ROOT = Path(__file__).parents[3]

OTHER = IMAGE.replace("a" * 64, "b" * 64)
OLD = desired(engine("smollm2"))
NEW = desired(engine("smollm2", image={"reference": OTHER}), gateway=gateway("smollm2", "bbbb"))


def NOTHING(_: Site) -> None:
    """Breaks or mends nothing."""


@dataclass(frozen=True)
class Fault:
    """A line of the table.

    Attributes:
        name: What goes wrong.
        breaks: Makes it go wrong, once the old version serves.
        sentence: What the error says, as a pattern.
        mends: Takes the cause away.
        wanted: What is deployed meanwhile.
        serves: Whether the old version must serve after the failure.
    """

    name: str
    breaks: Callable[[Site], Any]
    sentence: str
    mends: Callable[[Site], Any] = NOTHING
    wanted: ClusterDesired = NEW
    serves: bool = True


def new_pods(**how: Any) -> Callable[[Site], None]:
    def script(site: Site) -> None:
        site.kubelet.script(pods="kiva-smollm2-*", image=OTHER, **how)

    return script


def healthy(site: Site) -> None:
    site.kubelet.script(pods="*")


def foreign_pods(site: Site) -> None:
    """Somebody else takes every free GPU, and nodes may not be read."""
    site.api.admission.forbid("list", "nodes")
    resources = {"limits": {"nvidia.com/gpu": "1"}, "requests": {"nvidia.com/gpu": "1"}}
    spec = {"containers": [{"name": "main", "image": "x", "resources": resources}]}
    site.api.add({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "foreign"}, "spec": spec})
    until(lambda: site.api.get("Pod", "foreign")["spec"].get("nodeName"))


def no_foreign_pods(site: Site) -> None:
    site.api.admission.clear()
    site.api.remove("Pod", "foreign")
    until(lambda: site.api.get("Pod", "foreign") is None)


def quota(site: Site, **hard: str) -> None:
    site.api.add({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "gpus"}, "spec": {"hard": hard}}, NAMESPACE)
    until(lambda: (site.api.get("ResourceQuota", "gpus", NAMESPACE).get("status") or {}).get("used"))


def no_quota(site: Site) -> None:
    site.api.remove("ResourceQuota", "gpus", NAMESPACE)


def until(what: Callable[[], Any], within: int = 400) -> None:
    for _ in range(within):
        if what():
            return
        threading.Event().wait(0.02)
    raise AssertionError("it never came true")


def later(action: Callable[[], Any], when: Callable[[], Any]) -> None:
    """Do something in another thread as soon as something is so."""

    def work() -> None:
        until(when)
        action()

    threading.Thread(target=work, daemon=True).start()


TABLE = [
    Fault(
        "an image that is not there",
        new_pods(trouble="ImagePullBackOff"),
        rf"^engine smollm2: pod kiva-smollm2-\S+: there is no image {re.escape(OTHER)}; it is back at revision 1$",
        healthy,
    ),
    Fault(
        "an image that may not be pulled",
        new_pods(trouble="ImagePullBackOff", message="failed to authorize: 401 Unauthorized"),
        r"the registry does not let it have the image .*; it is back at revision 1$",
        healthy,
    ),
    Fault(
        "a registry whose certificate nobody trusts",
        new_pods(trouble="ImagePullBackOff", message="tls: failed to verify certificate: x509: certificate signed by unknown authority"),
        r"the node does not trust the certificate of the registry of .*; it is back at revision 1$",
        healthy,
    ),
    Fault(
        "an engine that ends at its start",
        new_pods(trouble="CrashLoopBackOff", log=("ValueError: No available memory for the cache blocks.",)),
        r"^engine smollm2: pod \S+: engine ends at its start .*: ValueError: No available memory for the cache blocks\.; it is back at revision 1$",
        healthy,
    ),
    Fault(
        "an engine that needs more memory than it may have",
        new_pods(trouble="OOMKilled"),
        r"engine needed more than its memory limit of 2Gi at its start and was killed; it is back at revision 1$",
        healthy,
    ),
    Fault(
        "an engine that never generates a token",
        new_pods(trouble="NotReady", log=("INFO Starting to load model /models/x",)),
        r"^engine smollm2 did not become ready within \d+ s: .*loading weights; it is back at revision 1$",
        healthy,
    ),
    Fault(
        "a pod that finds no node",
        new_pods(trouble="Pending", message="0/1 nodes are available: 1 node(s) had untolerated taint {nvidia.com/gpu: present}."),
        r"none of 1 nodes is allowed: 1 tainted nvidia.com/gpu=present; it is back at revision 1$",
        healthy,
    ),
    Fault(
        "a GPU that somebody else took in the meantime",
        foreign_pods,
        r"^engine smollm2: pod \S+: it needs 1 nvidia.com/gpu, and no node has that free; it is back at revision 1$",
        no_foreign_pods,
    ),
    Fault(
        "a model that is too large for every node",
        NOTHING,
        r"^'smollm2' needs 4 nvidia.com/gpu on one node; the largest node has 2$",
        wanted=desired(engine("smollm2", gpus=4)),
    ),
    Fault(
        "labels that no node has",
        NOTHING,
        r"^'smollm2' finds no node: none has the label kiva/pool=gpu$",
        wanted=desired(engine("smollm2", selector={"kiva/pool": "gpu"})),
    ),
    Fault(
        "a quota that does not suffice",
        lambda site: quota(site, **{"requests.nvidia.com/gpu": "1"}),
        r"^'smollm2' needs 2 nvidia.com/gpu in all; the quota 'gpus' allows 1 nvidia.com/gpu \(requests.nvidia.com/gpu\)$",
        no_quota,
        wanted=desired(engine("smollm2", replicas=2)),
    ),
    Fault(
        "a quota that somebody sets in the meantime",
        lambda site: later(lambda: quota(site, pods="3"), lambda: site.target.record().unfinished),
        r"no pod of kiva-smollm2 is made: the quota 'gpus' is used up \(asked for pods=1, used pods=3, allowed pods=3\); it is back at revision 1$",
        no_quota,
    ),
    Fault(
        "an admission webhook that refuses the workload",
        lambda site: site.api.admission.deny("Deployment", "images must be signed", when=lambda one: OTHER in repr(one)),
        r"^the admission webhook policy.example.org of cluster 'prod' refuses Deployment kiva-smollm2: images must be signed$",
        lambda site: site.api.admission.clear(),
    ),
    Fault(
        "an admission webhook that refuses the pods",
        lambda site: site.api.admission.deny("Pod", "images must be signed", when=lambda one: OTHER in repr(one)),
        r"no pod of kiva-smollm2 is made: the admission webhook policy.example.org denies it: images must be signed; it is back at revision 1$",
        lambda site: site.api.admission.clear(),
    ),
    Fault(
        "an admission webhook that begins to refuse when Helm writes",
        lambda site: later(
            lambda: site.api.admission.deny("Deployment", "frozen until Monday", when=lambda one: OTHER in repr(one)), lambda: site.target.record().unfinished
        ),
        r"frozen until Monday.*; it is back at revision 1$",
        lambda site: site.api.admission.clear(),
    ),
    Fault(
        "a permission that is missing",
        lambda site: site.api.admission.forbid("patch", "deployments"),
        r"^the account kiva lacks the permission to patch deployments.apps in namespace kiva of cluster 'prod'$",
        lambda site: site.api.admission.clear(),
    ),
    Fault(
        "somebody else who deploys",
        lambda site: lock(site),
        r"^the platform 'kiva' is locked by .* deploy \(pid \d+, [0-9a-f]+\)$",
        lambda site: unlock(site),
    ),
    Fault(
        "an API server that is gone",
        lambda site: site.api.stop(),
        r"^nothing answers at the API server of cluster 'prod' \(http://127.0.0.1:\d+\): connection refused$",
        lambda site: site.api.start(),
        serves=False,
    ),
    Fault(
        "an API server that goes in the middle and does not come back",
        lambda site: later(site.api.stop, lambda: site.revision("kiva-smollm2") == 2),
        r"connection refused|broke off|API server of cluster|in the middle",
        lambda site: site.api.start(),
        serves=False,
    ),
    Fault(
        "a gateway whose image is not there",
        lambda site: site.kubelet.script(pods="kiva-gateway-*", image="broken", trouble="ImagePullBackOff"),
        r"^gateway: pod kiva-gateway-\S+: there is no image broken; it is back at revision 1$",
        healthy,
        wanted=desired(engine("smollm2"), gateway=gateway("smollm2", image={"reference": "broken"})),
    ),
    Fault(
        "a Secret that its environment needs and nobody made",
        NOTHING,
        r"there is no Secret 'hub', which its environment needs; it is back at revision 1$",
        wanted=desired(engine("smollm2", environmentFrom="hub")),
    ),
]

_LOCKS: dict[int, Any] = {}


def lock(site: Site) -> None:
    held = site.operator().lock.held("deploy")
    held.__enter__()
    _LOCKS[id(site)] = held
    # Renewals are what shows that the other one lives.
    stop = threading.Event()
    lease = "kivactl-kiva"

    def renew() -> None:
        while not stop.wait(0.1):
            with suppress(Exception):
                site.api.change("Lease", lease, {"metadata": {"annotations": {"seen": os.urandom(4).hex()}}}, NAMESPACE)

    threading.Thread(target=renew, daemon=True).start()
    _LOCKS[-id(site)] = stop


def unlock(site: Site) -> None:
    _LOCKS.pop(-id(site)).set()
    _LOCKS.pop(id(site)).__exit__(None, None, None)


def one_sentence(error: KivaError) -> None:
    assert "\n" not in error.message
    assert not error.message.endswith(".")
    assert len(error.message) < 700
    assert error.hint
    assert "\n" not in error.hint


def settles(site: Site, wanted: ClusterDesired, image: str) -> None:
    """A deploy continues from whatever was left, and then there is nothing more to do."""
    site.deploy(wanted)
    assert (site.image(), site.ready(), site.ready("kiva-gateway")) == (image, 1, 2)
    assert site.target.plan(wanted, "again").changes == ()
    assert site.target.record().unfinished is None
    assert {state.status for state in site.target.helm.releases()} == {"deployed"}


@pytest.mark.parametrize("fault", TABLE, ids=[fault.name for fault in TABLE])
def test_a_fault_ends_in_one_sentence_and_a_deploy_continues(site, fault):
    site.deploy(OLD)
    fault.breaks(site)
    with pytest.raises(KivaError) as failure:
        list(site.operator().apply(fault.wanted))
    one_sentence(failure.value)
    assert re.search(fault.sentence, failure.value.message), failure.value.message
    if fault.serves:
        until(lambda: site.ready() == 1)
        assert site.image() == IMAGE
    fault.mends(site)
    settles(site, NEW, OTHER)


def held_by_helm(site: Site, status: str, revision: int) -> None:
    """What a Helm that was killed leaves behind: a newest revision that nobody will ever finish."""
    secret = site.api.get("Secret", "sh.helm.release.v1.kiva-smollm2.v1", NAMESPACE)
    assert secret is not None
    stored = json.loads(gzip.decompress(base64.b64decode(base64.b64decode(secret["data"]["release"]))))
    stored["info"]["status"], stored["version"] = status, revision
    data = base64.b64encode(base64.b64encode(gzip.compress(json.dumps(stored).encode()))).decode()
    labels = {**secret["metadata"]["labels"], "status": status, "version": str(revision)}
    name = f"sh.helm.release.v1.kiva-smollm2.v{revision}"
    if revision == 1:
        site.api.change("Secret", name, {"metadata": {"labels": labels}, "data": {"release": data}}, NAMESPACE)
    else:
        made = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "labels": labels}, "type": "helm.sh/release.v1", "data": {"release": data}}
        site.api.add(made, NAMESPACE)


STUCK = [
    ("pending-upgrade", 2, "an earlier try was cut off"),
    ("pending-rollback", 2, "an earlier try was cut off"),
    ("pending-install", 1, "an earlier try was cut off"),
    ("uninstalling", 1, "an earlier try was cut off"),
    ("failed", 2, "an earlier try failed"),
    ("failed", 1, "an earlier try failed"),
]


@pytest.mark.parametrize(("status", "revision", "reason"), STUCK)
def test_a_stuck_release_is_freed_and_a_deploy_continues(site, status, revision, reason):
    site.deploy(OLD)
    held_by_helm(site, status, revision)
    (change,) = [change for change in site.target.plan(OLD, "x").changes if change.subject == "engine smollm2"]
    assert change.differences == (Difference("release kiva-smollm2", reason, "again"),)
    settles(site, NEW, OTHER)


def test_a_release_that_another_helm_is_still_writing_is_left_alone(site):
    site.deploy(OLD)
    held_by_helm(site, "pending-upgrade", 2)
    steps = site.operator().apply(NEW)
    assert next(steps).message.startswith("it is 'pending-upgrade'")
    held_by_helm(site, "pending-upgrade", 3)
    with pytest.raises(PreconditionError, match="another Helm is writing the release kiva-smollm2"):
        list(steps)
    assert site.image() == IMAGE
    site.api.remove("Secret", "sh.helm.release.v1.kiva-smollm2.v3", NAMESPACE)
    settles(site, NEW, OTHER)


def edited(kind: str, name: str, patch: dict[str, Any], by: str) -> Callable[[Site], Any]:
    return lambda site: site.api.change(kind, name, patch, NAMESPACE, by)


FOREIGN = [
    ("somebody scales", edited("Deployment", "kiva-smollm2", {"spec": {"replicas": 2}}, "kubectl-scale"), "replicas", "kubectl-scale"),
    (
        "somebody edits how long a pod may take to end",
        edited("Deployment", "kiva-smollm2", {"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 5}}}}, "kubectl-edit"),
        "terminationGracePeriodSeconds",
        "kubectl-edit",
    ),
    ("somebody deletes the Service", lambda site: site.api.remove("Service", "kiva-smollm2", NAMESPACE), "Service kiva-smollm2", ""),
    ("somebody writes other routes", edited("ConfigMap", "kiva-gateway-routes", {"data": {"routes.json": '{"resources": []}'}}, "vi"), "routes.json", "vi"),
]


@pytest.mark.parametrize(("change", "path", "by"), [line[1:] for line in FOREIGN], ids=[line[0] for line in FOREIGN])
def test_a_foreign_change_is_named_planned_and_taken_back(site, change, path, by):
    site.deploy(OLD)
    assert site.target.drift() == ()
    change(site)
    (drift,) = site.target.drift()
    assert (path in drift.differences[0].path, drift.by) == (True, by)
    assert [one.subject for one in site.target.plan(OLD, "x").changes] == ["gateway" if by == "vi" else "engine smollm2"]
    settles(site, OLD, IMAGE)
    assert site.target.drift() == ()


def test_what_others_add_is_named_and_left_alone(site):
    site.deploy(OLD)
    edited("Deployment", "kiva-smollm2", {"metadata": {"labels": {"team": "x"}}}, "k9s")(site)
    (drift,) = site.target.drift()
    assert (drift.differences, drift.by) == ((Difference("Deployment kiva-smollm2 labels.team", None, "x"),), "k9s")
    assert site.target.plan(OLD, "x").changes == ()


PASSING = [
    ("the server fails twice", {"verb": "patch", "kind": "ConfigMap", "answer": 500, "times": 2}),
    ("the server is busy", {"verb": "list", "kind": "Pod", "answer": 429, "times": 3, "seconds": 0}),
    ("the server is not available", {"verb": "list", "kind": "Deployment", "answer": 503, "times": 2, "seconds": 0}),
    ("a connection breaks", {"verb": "list", "kind": "Pod", "answer": "disconnect", "times": 2}),
    ("an answer is lost", {"verb": "patch", "kind": "ConfigMap", "answer": "lost", "times": 1}),
    ("an object is changed at the same time", {"verb": "update", "kind": "Lease", "answer": 409, "times": 2}),
]


@pytest.mark.parametrize("order", [line[1] for line in PASSING], ids=[line[0] for line in PASSING])
def test_what_passes_by_itself_is_not_even_noticed(site, order):
    site.deploy(OLD)
    fault = site.api.faults.add(**order)
    settles(site, NEW, OTHER)
    assert fault.seen >= 1


def test_the_way_back_is_open_where_no_gpu_is_free_either(site):
    """A rolling exchange would wait for ever here: the old pod for a GPU, and the broken one for the old pod to be ready."""
    site.deploy(desired(engine("smollm2"), engine("other")))
    new_pods(trouble="CrashLoopBackOff", log=("RuntimeError: broken",))(site)
    with pytest.raises(KivaError, match=r"RuntimeError: broken; it is back at revision 1$"):
        list(site.operator().apply(desired(engine("smollm2", image={"reference": OTHER}), engine("other"))))
    assert (site.image(), site.ready(), site.ready("kiva-other")) == (IMAGE, 1, 1)


def test_an_api_server_that_comes_back_is_waited_for(site):
    site.deploy(OLD)
    site.kubelet.script(pods="kiva-smollm2-*", image=OTHER, ready_after=40)

    def away() -> None:
        site.api.stop()
        threading.Event().wait(0.5)
        site.api.start()

    later(away, lambda: site.is_written("kiva-smollm2", 2))
    settles(site, NEW, OTHER)


class Killed:
    """A deploy in a process of its own, killed when it has made its n-th change, or is about to.

    Args:
        site: The cluster.
        place: Which change; leases do not count.
        helm: Whether a Helm that it has started dies too.
        before: Whether it dies before the change is made.
    """

    def __init__(self, site: Site, place: int, *, helm: bool, before: bool) -> None:
        self.site, self.place, self.helm, self.before = site, place, helm, before
        self.seen = 0
        self.child: subprocess.Popen[str] | None = None

    def run(self) -> bool:
        """Whether it was killed before it had ended."""
        answer = self.site.api.answer

        def counted(request: Any) -> Any:
            changes = request.writes and request.kind_name != "Lease"
            self.seen += changes
            here = changes and self.seen == self.place
            if here and self.before:
                self.kill()
                raise ConnectionAbortedError
            found = answer(request)
            if here:
                self.kill()
            return found

        self.site.api.answer = counted  # type: ignore[method-assign]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])}
        argv = [sys.executable, "-m", "cluster_deploy", str(self.site.kubeconfig), OTHER]
        self.child = subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
        output, _ = self.child.communicate(timeout=120)
        self.site.api.answer = answer  # type: ignore[method-assign]
        assert self.child.returncode in {0, -signal.SIGKILL}, output
        return self.child.returncode != 0

    def kill(self) -> None:
        assert self.child is not None
        helms = psutil.Process(self.child.pid).children(recursive=True)
        self.child.kill()
        for one in helms if self.helm else ():
            with suppress(psutil.NoSuchProcess):
                one.kill()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("turn", [0, pytest.param(1, marks=pytest.mark.drills)])
def test_a_deploy_that_is_killed_at_any_change_is_continued(tmp_path, helm_on_path, turn, capsys):
    place = 0
    while True:
        place += 1
        # Killed alone or with its Helm, after a change or before it: two of the four at each place.
        helm, before = place % 2 == turn, place % 4 // 2 == turn
        folder = tmp_path / str(place)
        folder.mkdir()
        site = Site(folder)
        site.kubelet.node("gpu-1", gpus=2)
        try:
            with site.kubelet.running():
                site.deploy(OLD)
                killed = Killed(site, place, helm=helm, before=before).run()
                if killed:
                    notes = site.target.plan(NEW, "x").notes
                    assert place == 1 or any("did not finish: this one goes on from there" in note for note in notes) or not site.target.plan(NEW, "x").changes
                settles(site, NEW, OTHER)
        finally:
            site.api.stop()
        if not killed:
            break
    with capsys.disabled():
        print(f"\nkilled at {place - 1} changes and continued", end="")
    assert place > 10


def test_the_table_is_counted(capsys):
    others = {"stuck releases": STUCK, "foreign changes": FOREIGN, "faults that pass": PASSING}
    with capsys.disabled():
        print(f"\nfault table: {len(TABLE)} faults that end in one sentence; {', '.join(f'{len(lines)} {name}' for name, lines in others.items())}", end="")
    assert len({fault.name for fault in TABLE}) == len(TABLE)

"""What a cluster can say of its platform: how it is, what it logs, what was deployed when, what somebody else changed; and the way back."""

from __future__ import annotations

from collections.abc import Iterator

from kivactl.errors import CheckError, PreconditionError, UsageError
from kivactl.flows.chat import known
from kivactl.flows.deployment import Deployment
from kivactl.flows.verification import generated
from kivactl.journal import Journal, run_name
from kivactl.plan import Outcome, Plan
from kivactl.plan import Status as Progress
from kivactl.spec.quantities import format_bytes
from kivactl.targets.kubernetes.capacity import ended
from kivactl.targets.kubernetes.drift import Drift
from kivactl.targets.kubernetes.record import Record
from kivactl.targets.kubernetes.seen import at_once, deployed_releases
from kivactl.targets.kubernetes.status import COMPONENT, MODEL, label, selector_of
from kivactl.targets.kubernetes.status import status_of as status_in
from kivactl.targets.kubernetes.target import KubernetesTarget
from kivactl.targets.kubernetes.trouble import Where
from kivactl.targets.kubernetes.volumes import Volume, volumes_of
from kivactl.targets.lock import held
from kivactl.targets.status import Health, Status
from kivactl.tools.kube import Cluster
from kivactl.tools.kube_objects import Json

_HERE = "kivactl runbook node-maintenance"
"""What one machine has instead."""


def history(deployment: Deployment) -> Record:
    """What is deployed, and what was.

    Raises:
        PreconditionError: The platform runs on one machine.
        KivaError: The cluster does not answer.
    """
    return target_of(deployment, "kivactl status").record()


def drift(deployment: Deployment) -> tuple[Drift, ...]:
    """What somebody else changed since it was deployed.

    Raises:
        PreconditionError: The platform runs on one machine, or nothing is deployed.
        KivaError: The cluster does not answer.
    """
    target = target_of(deployment, "kivactl deploy --plan")
    if target.record().last is None and not target.alive():
        raise PreconditionError(f"nothing of '{deployment.platform.name}' is deployed in the cluster '{target.cluster.context}'", "kivactl deploy")
    return target.drift()


def editing(deployment: Deployment, subject: str) -> str:
    """The command that takes away what somebody added to an object, such as `Deployment kiva-qwen`."""
    cluster = target_of(deployment, "kivactl status").cluster
    kind, _, name = subject.partition(" ")
    return Where(cluster.context, cluster.namespace, cluster.flags).command(f"edit {kind.lower()} {name}")


def plan_rollback(deployment: Deployment, number: int | None) -> Plan:
    """What going back to an earlier deploy would change.

    Args:
        deployment: The platform.
        number: Of the deploy, as `history` has it; when None the newest that was finished, or the one before it where nothing is unfinished.

    Raises:
        PreconditionError: The platform runs on one machine, or the deploy cannot be had back.
        UsageError: There is no such deploy.
    """
    target = target_of(deployment, "kivactl runbook model-rollback")
    return target.plan_return(number, f"roll {deployment.platform.name} back on {deployment.platform.target}")


def apply_rollback(deployment: Deployment, number: int | None, plan: Plan) -> Iterator[Outcome]:
    """Go back, and prove it with a generated token.

    Args:
        deployment: The platform.
        number: As for `plan_rollback`.
        plan: What was agreed to.

    Raises:
        PreconditionError: Somebody changes the platform now, or did since the plan was made.
        KivaError: A release does not come back; the sentence says what became of it.
    """
    layout, target = deployment.layout, target_of(deployment, "kivactl runbook model-rollback")
    with held(layout.lock, "rollback"), target.locked("rollback"):
        if plan_rollback(deployment, number).basis != plan.basis:
            raise PreconditionError("the platform changed since the plan was made", "kivactl rollback")
        with Journal(layout.journal, run_name("rollback"), {"plan": plan.as_dict(), "deploy": number}) as journal:
            yield from journal.record(target.go_back(number, lambda: _verified(deployment, target)))


def _verified(deployment: Deployment, target: KubernetesTarget) -> Iterator[Outcome]:
    """Which models there are now is the old deploy's to know: those that have a pod are asked."""
    components = status_in(target.cluster, deployment.platform.name).components
    models = sorted({one.model for one in components if one.model and one.health is Health.SERVING})
    yield from generated(deployment, models, "look why: kivactl logs; on from here: kivactl rollback; what kiva.yaml says: kivactl deploy")


def status_of(deployment: Deployment) -> Status:
    """The platform's status now.

    Raises:
        KivaError: The cluster does not answer.
    """
    return status_in(target_of(deployment, "kivactl status").cluster, deployment.platform.name)


def last_logs(deployment: Deployment, name: str | None, count: int) -> dict[str, list[str]]:
    """The last lines of pods, by `POD` or, where a pod has several containers, `POD/CONTAINER`.

    Args:
        deployment: The platform.
        name: A pod or the beginning of its name, a model, or `gateway`; all when absent.
        count: Lines of each, at most.

    Raises:
        UsageError: There is no such pod.
        PreconditionError: There are no pods.
    """
    cluster = target_of(deployment, "kivactl logs").cluster
    found = _containers(deployment, cluster, name)
    lines = at_once(lambda one: cluster.logs(*one, tail=count), found.values())
    return {shown: list(group) for shown, group in zip(found, lines, strict=True)}


def followed_logs(deployment: Deployment, names: list[str]) -> Iterator[tuple[str, str]]:
    """Yield (name, line) for what these pods write from now on, until the last of them has ended."""
    from queue import SimpleQueue
    from threading import Thread

    cluster = target_of(deployment, "kivactl logs").cluster
    coming: SimpleQueue[tuple[str, str | None]] = SimpleQueue()

    def read(shown: str, pod: str, container: str) -> None:
        try:
            for line in cluster.follow(pod, container, tail=0):
                coming.put((shown, line))
        finally:
            coming.put((shown, None))

    open_ones = {shown: one for shown, one in _containers(deployment, cluster, None).items() if shown in names}
    for shown, one in open_ones.items():
        Thread(target=read, args=(shown, *one), daemon=True).start()
    left = len(open_ones)
    while left:
        shown, line = coming.get()
        if line is None:
            left -= 1
        else:
            yield shown, line


def _containers(deployment: Deployment, cluster: Cluster, name: str | None) -> dict[str, tuple[str, str]]:
    """Pod and container by what people call them."""
    pods = sorted(cluster.list("Pod", selector_of(deployment.platform.name)).items, key=lambda pod: str(pod["metadata"]["name"]))
    if not pods:
        raise PreconditionError(f"there are no pods of '{deployment.platform.name}' in the cluster '{cluster.context}'", "kivactl deploy")
    chosen = [pod for pod in pods if name is None or str(pod["metadata"]["name"]).startswith(name) or name in _called(pod)]
    if not chosen:
        known = sorted({word for pod in pods for word in _called(pod)})
        raise UsageError(f"there is no pod of '{name}'", f"there are: {', '.join(known)}")
    found: dict[str, tuple[str, str]] = {}
    for pod in chosen:
        title = str(pod["metadata"]["name"])
        # What runs beside the main program all along is told as an init container that restarts.
        beside = [one for one in pod["spec"].get("initContainers") or () if one.get("restartPolicy") == "Always"]
        containers = [str(one["name"]) for one in (*pod["spec"]["containers"], *beside)]
        found |= {title if len(containers) == 1 else f"{title}/{container}": (title, container) for container in containers}
    return found


def _called(pod: Json) -> set[str]:
    return {word for key in (MODEL, COMPONENT) if (word := label(pod, key))}


def is_deployed(deployment: Deployment) -> bool:
    """Whether the last deploy finished, and was of the spec as it is now.

    Raises:
        KivaError: The cluster does not answer.
    """
    record = target_of(deployment).record()
    return record.last is not None and record.unfinished is None and record.last.spec == deployment.loaded.digest


def chosen(deployment: Deployment, model: str | None = None, replica: str | None = None) -> list[str]:
    """What is meant, as `target.restart` takes it: a pod, a model, or every model that is deployed.

    Raises:
        UsageError: The spec has no such model, or there is no such pod of it.
        PreconditionError: It is not deployed.
        KivaError: The cluster does not answer.
    """
    target = target_of(deployment)
    if replica is not None:
        pods = {str(pod["metadata"]["name"]): label(pod, MODEL) for pod in target.cluster.list("Pod", selector_of(deployment.platform.name)).items}
        engines = {name: of for name, of in pods.items() if of and model in {None, of}}
        if replica not in engines:
            whose = f" of '{model}'" if model else ""
            raise UsageError(f"there is no replica{whose} named '{replica}'", f"there are: {', '.join(sorted(engines)) or 'none'}")
        return [replica]
    if model is not None:
        known("model", model, [one.name for one in deployment.platform.models])
    deployed = [one.newest.values.get("model") or {} for one in deployed_releases(target.cluster, target.platform).values()]
    names = [name for one in deployed if (name := str(one.get("name") or "")) and model in {None, name}]
    if not names:
        raise PreconditionError(f"'{model}' is not deployed" if model else f"nothing is deployed in the cluster '{target.cluster.context}'", "kivactl deploy")
    return names


def take_out_node(deployment: Deployment, node: str, replica: str | None = None) -> Iterator[Outcome]:
    """Close a node of the cluster and let the platform's pods go elsewhere, or one of them.

    Raises:
        KivaError: As `Nodes.take_out`.
    """
    yield from target_of(deployment, _HERE).take_out_node(node, replica)


def bring_back_node(deployment: Deployment, node: str) -> Iterator[Outcome]:
    """Open a node that was closed.

    Raises:
        KivaError: As `Nodes.bring_back`.
    """
    yield from target_of(deployment, _HERE).bring_back_node(node)


def node_is_closed(deployment: Deployment, node: str) -> bool:
    """Whether a node takes no new pods, or is still to be opened by us."""
    return target_of(deployment, _HERE).nodes().closed(node)


def pods_on(deployment: Deployment, node: str) -> list[str]:
    """The platform's pods on a node."""
    return target_of(deployment, _HERE).nodes().pods(node)


def volumes(deployment: Deployment) -> list[Volume]:
    """How full the platform's volumes are, the one with the least room first.

    Raises:
        KivaError: They cannot be seen.
    """
    target = target_of(deployment, "kivactl runbook disk-full")
    return volumes_of(target.cluster, target.platform)


def volumes_told(deployment: Deployment) -> Iterator[Outcome]:
    """How full each volume is, as outcomes; the last one has `fullest` in words.

    Raises:
        PreconditionError: There is no volume in a running container.
        KivaError: They cannot be seen.
    """
    found = volumes(deployment)
    if not found:
        raise PreconditionError(
            "no running container of the platform has a volume of its own",
            "the nodes' disks are their keeper's: kubectl describe nodes; a ledger on a server is its database's",
        )
    told = [f"{one.claim}: {format_bytes(one.free_bytes)} of {format_bytes(one.size_bytes)} free" for one in found]
    for one, words in zip(found, told, strict=True):
        yield Outcome(f"volume {one.claim}", Progress.PROGRESS, words, data={"free_bytes": one.free_bytes, "size_bytes": one.size_bytes})
    yield Outcome("volumes", Progress.DONE, told[0], data={"result": {"fullest": told[0], "claim": found[0].claim}})


def nothing_left(deployment: Deployment) -> Iterator[Outcome]:
    """Check that no pod of the platform is left; its volumes, Secrets and releases stay.

    Raises:
        CheckError: One is; the message names it.
        KivaError: The cluster does not answer.
    """
    target = target_of(deployment)
    pods = [str(pod["metadata"]["name"]) for pod in target.cluster.list("Pod", selector_of(deployment.platform.name)).items if not ended(pod)]
    if pods:
        raise CheckError(f"pods of the platform are left: {', '.join(sorted(pods))}", "kivactl status")
    yield Outcome("check", Progress.DONE, "no pod is left")


def target_of(deployment: Deployment, instead: str = "") -> KubernetesTarget:
    """The platform in its cluster.

    Args:
        deployment: The platform.
        instead: The command that one machine has instead.

    Raises:
        PreconditionError: The platform runs on one machine.
    """
    target = deployment.target
    if not isinstance(target, KubernetesTarget):
        raise PreconditionError("on one machine there is only what is deployed now: earlier deploys are kept in a cluster", instead)
    return target

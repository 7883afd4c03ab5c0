"""What a restore has to do in a cluster: there the operator's files are exchanged under a platform that goes on, and the ledger lies in a volume."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from kivactl.errors import KivaError, PreconditionError
from kivactl.flows import ledger
from kivactl.flows.backup.cluster import FOLDER
from kivactl.flows.cluster import target_of
from kivactl.flows.deployment import Deployment
from kivactl.flows.provision import provisioned
from kivactl.flows.restore.manifest import Manifest
from kivactl.flows.trust import renew_announcement
from kivactl.plan import Outcome, Status
from kivactl.spec.platform import Platform
from kivactl.stack.kubernetes.names import cluster_of, gateway_release, release_for
from kivactl.stack.layout import Layout
from kivactl.targets.kubernetes.capacity import ended
from kivactl.targets.kubernetes.desired import CHARTS, GATEWAY
from kivactl.targets.kubernetes.record import Record, parse_record
from kivactl.targets.kubernetes.seen import deployed_releases
from kivactl.targets.kubernetes.status import selector_of
from kivactl.targets.kubernetes.target import KubernetesTarget
from kivactl.targets.kubernetes.trust import files_in, trust_in
from kivactl.targets.publication import key_id
from kivactl.targets.register import Entry, read_register, write_register
from kivactl.tools.kube_errors import Denied
from kivactl.usage.refilling import Refilled

Json = dict[str, Any]

RECORD = f"{FOLDER}/record.json"
_RELEASES = f"{FOLDER}/releases/"
_LEDGER = Path("state/usage/ledger.db")
_SKEW = timedelta(minutes=2)
"""By so much may the clocks of this machine and of the cluster differ."""

_LONGEST_START_S = 7 * 86_400.0
"""More is no time that a pod took."""


def is_of_cluster(manifest: Manifest) -> bool:
    """Whether a backup is of a platform in a cluster."""
    return RECORD in manifest.files


def running(deployment: Deployment) -> bool:
    """Whether a pod of the platform has not ended: one that does not serve yet, or any more, runs too.

    Raises:
        PreconditionError: There is no such namespace; kivactl makes none.
        KivaError: The cluster does not answer.
    """
    cluster = target_of(deployment).cluster
    with suppress(Denied):  # whoever may only work within a namespace may not ask for it
        if cluster.get("Namespace", cluster.namespace) is None:
            raise PreconditionError(
                f"there is no namespace '{cluster.namespace}' in the cluster '{cluster.context}'",
                f"kubectl {cluster.flags} create namespace {cluster.namespace}",
            )
    pods = cluster.list("Pod", selector_of(deployment.platform.name)).items
    return any(not ended(pod) for pod in pods)


def noted(deployment: Deployment) -> Json:
    """How the cluster is before a restore changes it: the deploy that counts, and whether it was stopped."""
    record = target_of(deployment).record()
    return {"running": running(deployment), "deploy": record.last.number if record.last else None, "stopped": bool(record.stopped_at)}


def as_before(deployment: Deployment, before: Json) -> Iterator[Outcome]:
    """Bring the cluster to the deploy that counted, with the keys and the certificate that are in place here.

    Args:
        deployment: The platform, with the files of before.
        before: As `noted` told it.

    Raises:
        KivaError: It does not come back; the sentence says what became of it.
    """
    target, number = target_of(deployment), before.get("deploy")
    record = target.record()
    if number is None:
        there = ": what was deployed since stays there" if deployed_releases(target.cluster, target.platform) else ""
        yield Outcome("platform", Status.DONE, f"nothing was deployed before{there}")
    elif record.last is not None and record.unfinished is None and record.last.number == number:
        yield Outcome("platform", Status.DONE, "as it was: nothing of it was changed")
    elif all(one.number != number for one in record.deploys):
        yield Outcome("platform", Status.DONE, f"the deploy {number} of before is not known any more: it is left as it is")
    else:
        # Helm's values go back but for keys and revocations, which no way back takes from a gateway: those it is told.
        yield from target.go_back(number, lambda: _trust_as_here(deployment, target))
        if before.get("stopped"):
            yield from target.stop()
        yield Outcome("platform", Status.DONE, f"back at deploy {number}")


def _trust_as_here(deployment: Deployment, target: KubernetesTarget) -> Iterator[Outcome]:
    layout, platform = deployment.layout, deployment.platform
    if not provisioned(layout, platform):
        return  # they were lost before, and those of the backup are the better ones
    yield from renew_announcement(deployment)
    if (
        platform.gateway.tls.certificate is None
        and cluster_of(platform).gateway.certificate == "own"
        and not target.gateway.holds(layout.certificate.read_bytes())
    ):
        told = target.gateway.show(layout.certificate_key.read_bytes(), layout.certificate.read_bytes(), ("", 0))
        yield Outcome("certificate", Status.DONE, "the one of before" + told.sentence("it shows it"))


def keep_revocations(deployment: Deployment, layout: Layout) -> Iterator[Outcome]:
    """A token that the gateway in the cluster refuses stays refused, also where the operator's files that knew of it are gone.

    Args:
        deployment: The platform.
        layout: The restored files, before they are in place.

    Raises:
        KivaError: The cluster does not answer.
    """
    target = target_of(deployment)
    found = next((one for one in deployed_releases(target.cluster, target.platform).values() if one.chart == GATEWAY), None)
    trust = trust_in(files_in(found.newest.values)) if found is not None else None
    if trust is None:
        return
    keys, revoked = {str(one.get("kid")) for one in trust[0].get("keys", ())}, trust[1]
    register, signing, now = read_register(layout), key_id(layout.signing_key.read_bytes()), datetime.now(UTC)
    known = {token.id for token in register.tokens}
    # Of those that were issued since the backup nothing is known but that they are refused.
    others = [Entry(one, "", "revoked since the backup", now, None, now, signing) for one in sorted(revoked - known)]
    merged = register.revoked(revoked, now)
    for entry in others:
        merged = merged.with_token(entry)
    if merged != register:
        write_register(layout, merged)
        count = len(others) + sum(old.revoked_at is None and new.revoked_at is not None for old, new in zip(register.tokens, merged.tokens, strict=False))
        yield Outcome("tokens", Status.DONE, f"{count} revoked since the backup, as the gateway in the cluster knows, stay so")
    if keys and signing not in keys:
        said = "the gateway in the cluster goes by another key: it was rotated since the backup, and is the one of the backup again"
        yield Outcome("signing key", Status.DONE, f"{said}; if that was in wrong hands: kivactl token rotate-keys --now")


def put_ledger(deployment: Deployment, tree: Path, manifest: Manifest, run: str, began_at: datetime, *, replace: bool) -> Iterator[Outcome]:
    """Bring the backup's ledger into the gateway's volume where there is none yet; one on PostgreSQL is not touched.

    Args:
        deployment: The platform; its gateway runs.
        tree: The fetched backup.
        manifest: What it says of itself.
        run: The run that restores.
        began_at: When that began: what is in a ledger from after it is none that was there.
        replace: Whether a ledger that is there is replaced.

    Raises:
        KivaError: It cannot be brought there.
    """
    if deployment.platform.usage.ledger != "sqlite":
        said = "it lies on PostgreSQL, which a restore does not touch: whether it has to come back, its server's own backups have to say"
        yield Outcome("ledger", Status.SKIPPED, said)
        return
    if manifest.ledger is None:
        yield Outcome("ledger", Status.SKIPPED, "the backup has none")
        return
    yield Outcome("ledger", Status.STARTED, f"bringing {manifest.ledger.requests} requests into the gateway's volume")
    did = ledger.put(deployment, tree / _LEDGER, run, round((began_at - _SKEW).timestamp() * 1000), replace=replace)
    said = {
        Refilled.FILLED: f"{manifest.ledger.requests} requests put back; those since stay",
        Refilled.REPLACED: f"replaced by the backup's, with {manifest.ledger.requests} requests",
        Refilled.LEFT: "there is one in the volume already: it stays as it is (to have the backup's instead: --set replace_ledger=yes)",
    }[did]
    yield Outcome("ledger", Status.DONE, said)


def take_ledger_back(deployment: Deployment, run: str) -> Iterator[Outcome]:
    """Give the ledger in the volume back what a run replaced.

    Raises:
        KivaError: It cannot be reached.
    """
    replaced = deployment.platform.usage.ledger == "sqlite" and ledger.put_back(deployment, run)
    yield Outcome("ledger", Status.DONE, "the one of before is in place again" if replaced else "nothing was replaced")


def forget_ledger(deployment: Deployment, run: str) -> None:
    """Remove the copy of the ledger that a run replaced; what cannot be reached is left, for it is in nobody's way."""
    if deployment.platform.usage.ledger == "sqlite":
        with suppress(KivaError):
            ledger.forget_replaced(deployment, run)


def record_in(tree: Path, platform: str) -> Record:
    """The cluster's record in a fetched backup; an empty one where it cannot be read."""
    try:
        return parse_record((tree / RECORD).read_text(), platform)
    except (OSError, UnicodeDecodeError):
        return Record(platform)


def faults_of_cluster(tree: Path, manifest: Manifest) -> Iterator[str]:
    """A record of deploys, or values of releases, that cannot be read or are not this platform's."""
    record = _object_in(tree, RECORD)
    if record is None:
        yield f"{RECORD} is no record of deploys"
    elif record.get("platform", "") not in ("", manifest.platform):  # of any type: it may come from anywhere
        yield f"{RECORD} is of the platform '{record.get('platform')}'"
    for name in sorted(manifest.files):
        if not name.startswith(_RELEASES):
            continue
        release = _object_in(tree, name)
        values = release.get("values") if release is not None else None
        if release is None or not isinstance(values, dict) or not isinstance(release.get("chart"), str) or not release.get("release"):
            yield f"{name} does not have the values of a release"
        elif values.get("platform") != manifest.platform:
            yield f"{name} is of the platform '{values.get('platform')}'"
        elif release["chart"].rpartition("-")[0] not in CHARTS:
            yield f"{name} is of the chart {release['chart']}, which this version of kivactl does not have"


def starting_s(record: Record, platform: Platform) -> float | None:
    """Seconds that the pods took to their first token when they started last: engines side by side, then the gateway; None when that is not known."""
    wanted = [release_for(platform, model.name) for model in platform.models]
    gateway = gateway_release(platform)
    times = {name: took_s for name, took_s in record.ready_s.items() if 0 <= took_s < _LONGEST_START_S}
    if any(name not in times for name in (*wanted, gateway)):
        return None
    return max(times[name] for name in wanted) + times[gateway]


def _object_in(tree: Path, name: str) -> Json | None:
    try:
        data = json.loads((tree / name).read_text())
    except (OSError, ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None

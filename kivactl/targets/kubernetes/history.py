"""What was deployed when, and the way back to one of it."""

from __future__ import annotations

from dataclasses import replace

from kivactl.errors import PreconditionError, UsageError
from kivactl.stack.kubernetes.releases import ChartRelease
from kivactl.targets.kubernetes.desired import ENGINE, GATEWAY, ClusterDesired
from kivactl.targets.kubernetes.record import Deploy, Record
from kivactl.targets.kubernetes.seen import at_once, deployed_releases, stored_revision
from kivactl.targets.kubernetes.trust import with_trust_of
from kivactl.tools.helm_output import StoredRelease
from kivactl.tools.kube import Cluster

BACK = "rollback to "
"""How the record calls a way back; the number of the deploy follows."""

_ORDER = {ENGINE: 0, GATEWAY: 1}


def deploy_of(record: Record, number: int | None) -> Deploy:
    """A deploy that is remembered.

    Args:
        record: The record.
        number: Of the deploy. When None: where a deploy is unfinished the newest finished one, where a return is unfinished the same
            once more, otherwise the one before the newest.

    Raises:
        UsageError: There is no such deploy; the hint has those that there are.
    """
    if number is None:
        number = _before(record)
    found = next((one for one in record.deploys if one.number == number), None)
    if found is not None:
        return found
    if number is None:
        raise UsageError("there is no deploy to go back to", "kivactl history" if record.deploys else "kivactl deploy")
    known = ", ".join(str(one.number) for one in record.deploys)
    raise UsageError(f"there is no deploy {number}", f"one of: {known}" if known else "kivactl deploy")


def _before(record: Record) -> int | None:
    """Number of the deploy that people mean who only say "back"; None when there is none."""
    if record.unfinished is not None:
        begun = record.unfinished.verb.removeprefix(BACK)
        return int(begun) if begun.isdigit() else record.last.number if record.last else None
    return record.deploys[-2].number if len(record.deploys) >= 2 else None


def desired_of(cluster: Cluster, record: Record, deploy: Deploy) -> ClusterDesired:
    """What an earlier deploy wanted, out of the revisions that Helm keeps; Secrets are left as they are.

    Raises:
        PreconditionError: A revision of then is no longer kept, so the way back is to deploy the spec of then.
    """
    found = dict(zip(deploy.releases, at_once(lambda one: stored_revision(cluster, *one), deploy.releases.items()), strict=True))
    gone = sorted(name for name, stored in found.items() if stored is None)
    if gone:
        raise PreconditionError(
            f"deploy {deploy.number} cannot be had back: Helm no longer keeps its revision of {', '.join(gone)}",
            f"deploy the spec of then, whose digest begins with {deploy.spec[:12]}",
        )
    releases = sorted((_release(stored) for stored in found.values() if stored is not None), key=lambda one: (one.order, one.name))
    there = deployed_releases(cluster, record.platform)
    # Who was refused since is not let in again.
    releases = [
        replace(one, values=with_trust_of(one.values, there[one.name].newest.values)) if one.chart == GATEWAY and one.name in there else one for one in releases
    ]
    return ClusterDesired(record.platform, record.endpoint, tuple(releases))


def notes_on(deploy: Deploy) -> tuple[str, ...]:
    """What is worth knowing before going back."""
    made = f"deploy {deploy.number} was made at {deploy.at} by {deploy.by or 'someone'}"
    return (made, "kiva.yaml stays as it is: the next deploy brings back what it says")


def _release(stored: StoredRelease) -> ChartRelease:
    chart = stored.state.chart.rpartition("-")[0]
    model = str((stored.values.get("model") or {}).get("name") or "") if chart == ENGINE else ""
    return ChartRelease(stored.state.name, chart, stored.namespace, dict(stored.values), _ORDER.get(chart, 2), model)

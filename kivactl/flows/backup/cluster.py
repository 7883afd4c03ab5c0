"""What a backup of a platform in a cluster holds besides the operator's own files: the record of deploys, and the values of every release."""

from __future__ import annotations

import json
from pathlib import Path

from kivactl.errors import PreconditionError
from kivactl.flows import ledger
from kivactl.flows.cluster import target_of
from kivactl.flows.deployment import Deployment
from kivactl.targets.kubernetes.record import format_record
from kivactl.targets.kubernetes.seen import deployed_releases
from kivactl.tools.folders import make_private
from kivactl.usage.snapshot import snapshot

FOLDER = "cluster"
"""In the backup's tree."""


def refuse_content(deployment: Deployment) -> None:
    """Refuse to back up the models themselves, which lie in the cluster's volumes.

    Raises:
        PreconditionError: The spec wants it.
    """
    if deployment.platform.backup.models == "content":
        raise PreconditionError(
            "the models of a platform in a cluster lie in its volumes, and cannot be backed up from here",
            "set `backup.models: manifest` in kiva.yaml; volumes are backed up by the storage's own means",
        )


def written(deployment: Deployment) -> dict[str, str]:
    """The files by their name in the tree; secrets are not among them, for Helm gets none.

    Raises:
        KivaError: The cluster does not answer.
    """
    target = target_of(deployment)
    files = {f"{FOLDER}/record.json": format_record(target.record())}
    for name, one in deployed_releases(target.cluster, target.platform).items():
        found = one.good or one.newest
        content = {
            "release": name,
            "namespace": found.namespace,
            "chart": found.state.chart,
            "revision": found.state.revision,
            "status": found.state.status,
            "values": found.values,
        }
        files[f"{FOLDER}/releases/{name}.json"] = json.dumps(content, indent=1, sort_keys=True) + "\n"
    return files


def copy_ledger(deployment: Deployment, into: Path) -> bool:
    """Copy the ledger as it is at one moment: from its server, or out of the gateway's volume.

    Returns:
        False when there is none yet.

    Raises:
        KivaError: It cannot be read.
    """
    make_private(into.parent)
    if deployment.platform.usage.ledger == "sqlite":
        return ledger.copy(deployment, into)
    snapshot(deployment.platform.usage.ledger, deployment.platform.name, into)
    return True

"""Frees releases that a killed Helm left behind as pending: nobody can upgrade them, and nobody writes them any more."""

from __future__ import annotations

from collections.abc import Iterator

from kivactl.errors import PreconditionError
from kivactl.plan import Outcome, Status
from kivactl.targets.kubernetes.seen import Deployed, deployed_releases
from kivactl.tools.clock import Clock
from kivactl.tools.helm import Helm
from kivactl.tools.kube import Cluster

STILL_S = 10.0
"""Seconds that a pending release is watched: a Helm that still writes it would change it. Helm never waits for pods when we call it."""


def recover(cluster: Cluster, helm: Helm, platform: str, clock: Clock, only: str = "") -> Iterator[Outcome]:
    """Make every release of a platform one that can be upgraded again.

    A revision that was never finished is taken out of Helm's history: what it wrote stays, and the next upgrade goes on from the
    one before. One that was being removed is removed.

    Args:
        cluster: The cluster.
        helm: Helm.
        platform: Whose lock we hold.
        clock: Time.
        only: Name of the one release that is meant; all when empty.

    Raises:
        PreconditionError: Somebody else's Helm is still writing one.
        KivaError: The cluster refuses.
    """
    stuck = {name: one for name, one in _stuck(deployed_releases(cluster, platform)).items() if name == (only or name)}
    if not stuck:
        return
    for name, one in stuck.items():
        yield Outcome(f"release {name}", Status.STARTED, f"it is '{one.newest.state.status}': looking whether somebody still writes it")
    clock.sleep(STILL_S)
    later = deployed_releases(cluster, platform)
    for name, one in stuck.items():
        step = f"release {name}"
        now = later.get(name)
        if now is None or not now.newest.state.pending:
            yield Outcome(step, Status.DONE, "it was finished meanwhile")
            continue
        if now.newest.state != one.newest.state:
            raise PreconditionError(f"another Helm is writing the release {name}", "wait until it has finished, then run the same command again")
        if now.newest.state.status == "uninstalling":
            helm.uninstall(name)
            yield Outcome(step, Status.DONE, "its removal, which was cut off, is finished")
            continue
        cluster.delete("Secret", f"sh.helm.release.v1.{name}.v{now.newest.state.revision}")
        before = f"revision {now.good.state.revision}" if now.good else "none"
        yield Outcome(step, Status.DONE, f"revision {now.newest.state.revision}, which was cut off, is dropped; the one before it is {before}")


def _stuck(releases: dict[str, Deployed]) -> dict[str, Deployed]:
    return {name: one for name, one in releases.items() if one.newest.state.pending}

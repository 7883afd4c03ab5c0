"""Replicas restarted in turn, taken out for maintenance and brought back: for one, for a model's, or for all of the platform.

None of these takes the platform's lock; who composes them (a runbook) holds it over the whole. Their last outcome has
how long the platform had less than its full capacity, as `measured`.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from kivactl.errors import PreconditionError, UsageError
from kivactl.flows.chat import known
from kivactl.flows.deployment import Deployment
from kivactl.plan import Outcome, Status
from kivactl.targets.maintenance import model_of
from kivactl.targets.release import read_release


def chosen(deployment: Deployment, model: str | None = None, replica: str | None = None) -> list[str]:
    """Names of the deployed replicas that are meant: one, a model's, or all; in a cluster a pod, or models, which it restarts as a whole.

    Raises:
        PreconditionError: Nothing is deployed, or not this.
        UsageError: The spec has no such model, or the replica is not of it.
    """
    if deployment.platform.target == "kubernetes":
        from kivactl.flows import cluster

        return cluster.chosen(deployment, model, replica)
    release = read_release(deployment.layout.release)
    if replica is not None:
        if model is not None and model_of(release, replica) != model:
            raise UsageError(f"'{replica}' is no replica of '{model}'", f"it has: {', '.join(release.replicas.get(model, []))}")
        model_of(release, replica)
        return [replica]
    if model is not None:
        known("model", model, [one.name for one in deployment.platform.models])
    names = [name for group, names in release.replicas.items() if model in {None, group} for name in names]
    if not names:
        raise PreconditionError(f"'{model}' is not deployed" if model else "nothing is deployed here", "kivactl deploy")
    return names


def restart(deployment: Deployment, model: str | None = None, replica: str | None = None) -> Iterator[Outcome]:
    """Start replicas anew, one after the other, each when the one before serves again.

    Raises:
        KivaError: As `chosen`; and when a replica does not come up again.
    """
    names = chosen(deployment, model, replica)
    began_s = deployment.clock.now_s()
    yield from deployment.target.restart(names)
    degraded_s = deployment.clock.now_s() - began_s
    told = _counted(names) if deployment.platform.target == "local" else ", ".join(names)  # models and pods, whose replicas nobody counts here
    yield Outcome("restart", Status.DONE, f"{told} started anew", degraded_s, {"measured": {"degraded": round(degraded_s, 3)}})


def take_out(deployment: Deployment, model: str | None = None, replica: str | None = None) -> Iterator[Outcome]:
    """Let replicas finish their requests and stop them, until they are brought back.

    Raises:
        KivaError: As `chosen`.
    """
    yield from deployment.target.take_out(chosen(deployment, model, replica))


def bring_back(deployment: Deployment, model: str | None = None, replica: str | None = None) -> Iterator[Outcome]:
    """Start replicas that were taken out, and give them requests again.

    Raises:
        KivaError: As `chosen`; and when a replica does not come up, which stays in maintenance then.
    """
    names = chosen(deployment, model, replica)
    since = [at for name, at in read_release(deployment.layout.release).maintenance.items() if name in names]
    yield from deployment.target.bring_back(names)
    if since:
        degraded_s = max(0.0, (datetime.now(UTC) - datetime.fromisoformat(min(since))).total_seconds())
        yield Outcome("maintenance", Status.DONE, f"{_counted(since)} back", 0.0, {"measured": {"degraded": round(degraded_s, 3)}})


def _counted(names: list[str]) -> str:
    return "one replica" if len(names) == 1 else f"{len(names)} replicas"

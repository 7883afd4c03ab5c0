"""What was deployed to a cluster and what became of it since: earlier deploys, the way back to one, changes that somebody else made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

from kivactl.errors import PreconditionError
from kivactl.flows.deployment import Deployment, endpoint_for
from kivactl.journal import Journal, run_name
from kivactl.plan import Outcome, Plan, Status
from kivactl.stack.metering import OPERATOR
from kivactl.targets.kubernetes.drift import Drift
from kivactl.targets.kubernetes.record import Record
from kivactl.targets.kubernetes.target import KubernetesTarget
from kivactl.targets.lock import held


def history(deployment: Deployment) -> Record:
    """What is deployed, and what was.

    Raises:
        PreconditionError: The platform runs on one machine.
        KivaError: The cluster does not answer.
    """
    return _cluster(deployment, "kivactl status").record()


def drift(deployment: Deployment) -> tuple[Drift, ...]:
    """What somebody else changed since it was deployed.

    Raises:
        PreconditionError: The platform runs on one machine, or nothing is deployed.
        KivaError: The cluster does not answer.
    """
    target = _cluster(deployment, "kivactl deploy --plan")
    if target.record().last is None and not target.alive():
        raise PreconditionError(f"nothing of '{deployment.platform.name}' is deployed in the cluster '{target.cluster.context}'", "kivactl deploy")
    return target.drift()


def plan_rollback(deployment: Deployment, number: int | None) -> Plan:
    """What going back to an earlier deploy would change.

    Args:
        deployment: The platform.
        number: Of the deploy, as `history` has it; the one before the newest when None.

    Raises:
        PreconditionError: The platform runs on one machine, or the deploy cannot be had back.
        UsageError: There is no such deploy.
    """
    target = _cluster(deployment, "kivactl runbook model-rollback")
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
    layout, target = deployment.layout, _cluster(deployment, "kivactl runbook model-rollback")
    with held(layout.lock, "rollback"), target.locked("rollback"):
        if plan_rollback(deployment, number).basis != plan.basis:
            raise PreconditionError("the platform changed since the plan was made", "kivactl rollback")
        with Journal(layout.journal, run_name("rollback"), {"plan": plan.as_dict(), "deploy": number}) as journal:
            yield from journal.record(_steps(deployment, target, number))


def _steps(deployment: Deployment, target: KubernetesTarget, number: int | None) -> Iterator[Outcome]:
    from kivactl.tools.http import open_client

    yield from target.go_back(number)
    yield Outcome("verification", Status.STARTED, "asking for a token through the gateway")
    began_s = deployment.clock.now_s()
    # Which models there are now is the old deploy's to know: one that both have is asked.
    endpoint = endpoint_for(deployment.platform, deployment.layout, tenant=OPERATOR, lifetime=timedelta(minutes=5))
    served = sorted(target.alive_models())
    with open_client(replace(endpoint, model=served[0] if served else endpoint.model)) as client:
        client.complete("Hello", max_tokens=1)
    yield Outcome("verification", Status.DONE, "a token came through the gateway", deployment.clock.now_s() - began_s)


def _cluster(deployment: Deployment, instead: str) -> KubernetesTarget:
    target = deployment.target
    if not isinstance(target, KubernetesTarget):
        raise PreconditionError("on one machine there is only what is deployed now: earlier deploys are kept in a cluster", instead)
    return target



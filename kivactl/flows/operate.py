"""Starting and stopping what is deployed, and asking whether it answers: the building blocks of procedures.

None of these takes the platform's lock; who composes them (a runbook, `up`, `down`) holds it over the whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from kivactl.errors import CheckError
from kivactl.flows.deployment import Deployment, endpoint_for
from kivactl.plan import Outcome, Status
from kivactl.stack.metering import OPERATOR
from kivactl.targets.lock import held
from kivactl.targets.rollout import STATE_VARIABLE
from kivactl.tools import leftovers, machine


def start(deployment: Deployment) -> Iterator[Outcome]:
    """Start what was deployed, as it was deployed.

    Raises:
        PreconditionError: Nothing is deployed.
    """
    yield from deployment.target.start()


def stop(deployment: Deployment) -> Iterator[Outcome]:
    """Finish the requests in work and stop every process, or every pod."""
    yield from deployment.target.stop()


def answer(deployment: Deployment, prompt: str, max_tokens: int) -> Iterator[Outcome]:
    """Ask the platform as a client does: TLS, a token, the gateway.

    Raises:
        KivaError: It does not answer; the leaf says how.
    """
    from kivactl.tools.http import open_client

    endpoint = endpoint_for(deployment, tenant=OPERATOR, lifetime=timedelta(minutes=5))
    started_s = deployment.clock.now_s()
    yield Outcome("answer", Status.STARTED, f"asking {endpoint.model}")
    with open_client(endpoint) as client:
        tokens = client.complete(prompt, max_tokens=max_tokens)
    yield Outcome("answer", Status.DONE, "a token came through the gateway", deployment.clock.now_s() - started_s, {"tokens": tokens})


def purge(deployment: Deployment) -> None:
    """Remove the state folder of a stopped platform; tokens issued before become worthless."""
    import shutil

    with held(deployment.layout.lock, "purge"):
        shutil.rmtree(deployment.layout.state)


def nothing_left(deployment: Deployment) -> Iterator[Outcome]:
    """Check that no process, socket or port of the platform is left; in a cluster, no pod.

    Raises:
        CheckError: Something is; the message names it.
    """
    if deployment.platform.target == "kubernetes":
        from kivactl.flows import cluster

        yield from cluster.nothing_left(deployment)
        return
    pids = leftovers.marked(STATE_VARIABLE, str(deployment.layout.state))
    if pids:
        raise CheckError(f"processes of the platform are left: {', '.join(map(str, pids))}", "kivactl down")
    if deployment.layout.run.exists():
        raise CheckError(f"the folder of sockets is left: {deployment.layout.run}", "kivactl down")
    gateway = deployment.platform.gateway
    holder = machine.holder_of(gateway.address, gateway.port)
    yield Outcome("check", Status.DONE, "nothing is left" if holder is None else f"nothing of ours is left; port {gateway.port} is now held by {holder}")

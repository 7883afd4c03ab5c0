"""Deploying to a cluster: Helm releases with all their values computed here, rolled out in order, a token generated through the gateway."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from kivactl.errors import PreconditionError, told
from kivactl.flows.deployment import Deployment
from kivactl.flows.provision import provisioned
from kivactl.flows.shares import notes_on, still_held
from kivactl.flows.verification import generated
from kivactl.plan import Outcome, Plan
from kivactl.stack import tokens
from kivactl.stack.gateway.files import Json
from kivactl.stack.kubernetes.names import cluster_of, endpoint_of, tls_secret
from kivactl.stack.kubernetes.parts import certificate_secret
from kivactl.targets.kubernetes.desired import ClusterDesired, cluster_desired_for
from kivactl.targets.kubernetes.target import KubernetesTarget
from kivactl.targets.publication import keys_of, revoked_of
from kivactl.targets.routing import with_shares
from kivactl.targets.steering import Shares


def plan(deployment: Deployment, title: str) -> Plan:
    """What a deploy would change, tried out on the API server without a change.

    Raises:
        PreconditionError: The keys are not there yet, or it cannot fit.
        KivaError: The cluster does not answer, or refuses an object.
    """
    _refuse_without_keys(deployment)
    target = deployment.target
    held = target.gateway.held_shares()
    found: Plan = target.plan(desired_for(deployment, held), title)
    return replace(found, notes=(*found.notes, *notes_on(held, deployment.platform)))


def steps(deployment: Deployment) -> Iterator[Outcome]:
    """Do it.

    Raises:
        KivaError: In one sentence, with what became of it; the next deploy goes on from there.
    """
    target = deployment.target
    assert isinstance(target, KubernetesTarget)
    with target.locked("deploy"):  # until it is proved: who begins meanwhile would be waiting for our pods
        held = target.gateway.held_shares()
        kept = still_held(held, deployment.platform)
        if kept != held:
            target.gateway.hold_shares(kept)
        yield from target.apply(desired_for(deployment, kept))
        yield from _verify(deployment, target)
        target.finish(deployment.loaded.digest, datetime.now(UTC).isoformat(timespec="seconds"))


def desired_for(deployment: Deployment, held: Shares) -> ClusterDesired:
    """All that should run, with the keys and the certificate of this machine.

    Args:
        deployment: The platform.
        held: Shares of requests that a rollout holds.

    Raises:
        PreconditionError: They are not there yet.
    """
    layout = deployment.layout
    platform = with_shares(deployment.platform, held)
    _refuse_without_keys(deployment)
    return cluster_desired_for(
        platform,
        endpoint=endpoint_of(platform),
        jwks=tokens.jwks_for(keys_of(layout)),
        revoked=revoked_of(layout),
        objects=[_certificate(deployment)] if cluster_of(platform).gateway.certificate == "own" else (),
    )


def _refuse_without_keys(deployment: Deployment) -> None:
    if not provisioned(deployment.layout, deployment.platform):
        raise PreconditionError(f"there are no keys and certificates for '{deployment.platform.name}' yet", "kivactl provision")


def _certificate(deployment: Deployment) -> Json:
    """The Secret with the gateway's certificate and key: Helm would keep them in its history."""
    platform, layout, tls = deployment.platform, deployment.layout, deployment.platform.gateway.tls
    given = tls.certificate is not None and tls.key is not None
    certificate, key = (Path(str(tls.certificate)), Path(str(tls.key))) if given else (layout.certificate, layout.certificate_key)
    with told(certificate.parent):
        return certificate_secret(tls_secret(platform), certificate.read_bytes(), key.read_bytes())


def _verify(deployment: Deployment, target: KubernetesTarget) -> Iterator[Outcome]:
    """A generated token per model, but for those that sleep until they are asked."""
    awake = [model.name for model in deployment.platform.models if model.kubernetes.autoscale is None or model.kubernetes.autoscale.min > 0]
    last = target.record().last
    back = f"; back to deploy {last.number}: kivactl rollback" if last else ""
    yield from generated(deployment, awake, f"look why: kivactl logs; on from here: kivactl deploy{back}")

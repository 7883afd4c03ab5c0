"""Deploying to a cluster: Helm releases with all their values computed here, rolled out in order, a token generated through the gateway."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from kivactl.errors import PreconditionError, told
from kivactl.flows.deployment import Deployment
from kivactl.flows.provision import provisioned
from kivactl.flows.verification import generated
from kivactl.plan import Outcome, Plan
from kivactl.stack import tokens
from kivactl.stack.gateway.files import Json
from kivactl.stack.kubernetes.names import cluster_of, endpoint_of, tls_secret
from kivactl.targets.kubernetes.desired import ClusterDesired, cluster_desired_for
from kivactl.targets.kubernetes.target import KubernetesTarget
from kivactl.targets.publication import keys_of, revoked_of


def plan(deployment: Deployment, title: str) -> Plan:
    """What a deploy would change, tried out on the API server without a change.

    Raises:
        PreconditionError: The keys are not there yet, or it cannot fit.
        KivaError: The cluster does not answer, or refuses an object.
    """
    return deployment.target.plan(desired_for(deployment), title)


def steps(deployment: Deployment) -> Iterator[Outcome]:
    """Do it.

    Raises:
        KivaError: In one sentence, with what became of it; the next deploy goes on from there.
    """
    target = deployment.target
    assert isinstance(target, KubernetesTarget)
    with target.locked("deploy"):  # until it is proved: who begins meanwhile would be waiting for our pods
        yield from target.apply(desired_for(deployment))
        yield from _verify(deployment, target)
        target.finish(deployment.loaded.digest, datetime.now(UTC).isoformat(timespec="seconds"))


def desired_for(deployment: Deployment) -> ClusterDesired:
    """All that should run, with the keys and the certificate of this machine.

    Raises:
        PreconditionError: They are not there yet.
    """
    platform, layout = deployment.platform, deployment.layout
    if not provisioned(layout, platform):
        raise PreconditionError(f"there are no keys and certificates for '{platform.name}' yet", "kivactl provision")
    return cluster_desired_for(
        platform,
        endpoint=endpoint_of(platform),
        jwks=tokens.jwks_for(keys_of(layout)),
        revoked=revoked_of(layout),
        objects=[_certificate(deployment)] if cluster_of(platform).gateway.certificate == "own" else (),
    )


def _certificate(deployment: Deployment) -> Json:
    """The Secret with the gateway's certificate and key: Helm would keep them in its history."""
    platform, layout, tls = deployment.platform, deployment.layout, deployment.platform.gateway.tls
    given = tls.certificate is not None and tls.key is not None
    certificate, key = (Path(str(tls.certificate)), Path(str(tls.key))) if given else (layout.certificate, layout.certificate_key)
    with told(certificate.parent):
        data = {"tls.crt": certificate.read_bytes(), "tls.key": key.read_bytes()}
    labels = {"app.kubernetes.io/part-of": "kiva", "app.kubernetes.io/managed-by": "kivactl"}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {"name": tls_secret(platform), "labels": labels},
        "data": {name: b64encode(content).decode() for name, content in data.items()},
    }


def _verify(deployment: Deployment, target: KubernetesTarget) -> Iterator[Outcome]:
    """A generated token per model, but for those that sleep until they are asked."""
    awake = [model.name for model in deployment.platform.models if model.kubernetes.autoscale is None or model.kubernetes.autoscale.min > 0]
    last = target.record().last
    back = f"; back to deploy {last.number}: kivactl rollback" if last else ""
    yield from generated(deployment, awake, f"look why: kivactl logs; on from here: kivactl deploy{back}")

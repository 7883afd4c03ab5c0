"""Tries the backup of a platform in a cluster: what its spec and keys make is rendered and tried out on the API server, and no pod is started.

One machine has room for a second platform on other ports; a cluster that is as large as its platform has not. What a dry run cannot show:
that images and models can be fetched, that engines start, that the gateway answers.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from kivactl.errors import CheckError, PreconditionError
from kivactl.flows.cluster import target_of
from kivactl.flows.deploy.cluster import desired_for
from kivactl.flows.deployment import Deployment
from kivactl.flows.restore.building import build_state
from kivactl.flows.restore.cluster import record_in, starting_s
from kivactl.flows.restore.manifest import Manifest, read_manifest
from kivactl.flows.restore.places import LEFT_IN_CLUSTER, trial_of
from kivactl.flows.restore.trial import with_files_of
from kivactl.plan import Outcome, Status
from kivactl.spec.load import Loaded, load
from kivactl.spec.quantities import format_duration
from kivactl.stack import tokens
from kivactl.stack.certificates import new_key
from kivactl.stack.gateway.access import AUDIENCE
from kivactl.stack.layout import Layout
from kivactl.stack.metering import OPERATOR
from kivactl.targets.kubernetes.desired import GATEWAY, step_of
from kivactl.targets.kubernetes.trust import files_in, trust_in
from kivactl.targets.register import read_register

STARTED = "dry run"
"""What is noted of a backup that was tried so."""

UNKNOWN = "unknown"


def rehearse(deployment: Deployment, tree: Path) -> Iterator[Outcome]:
    """Try a fetched backup out on the API server, beside the platform, which is not touched.

    Args:
        deployment: The platform whose backup it is.
        tree: The fetched and examined backup.

    Yields:
        At last an outcome with `started`, `seconds`, and as `starting` the time that its pods took when they started last as result.

    Raises:
        PreconditionError: It cannot fit, or the backup is of a platform on one machine.
        CheckError: Its gateway would not accept the tokens of its own key, or accept others.
        KivaError: Helm does not render it, or the API server refuses an object.
    """
    started_s = deployment.clock.now_s()
    manifest = read_manifest(tree, deployment.platform.name)
    state = trial_of(deployment.layout) / "state"
    shutil.rmtree(state, ignore_errors=True)
    try:
        build_state(tree, manifest, state, state, LEFT_IN_CLUSTER)
        trying = _deployment_for(deployment, tree, manifest, state)
        desired = desired_for(trying, {})
        objects = 0
        for release, count in target_of(deployment).rehearse(desired):
            objects += count
            yield Outcome(f"trial: {step_of(release)}", Status.DONE, f"{count} objects, all of which the cluster would take")
        values = next(one.values for one in desired.releases if one.chart == GATEWAY)
        _present(trying, values)
        yield Outcome("trial: tokens", Status.DONE, "its gateway's keys accept a token of its signing key, and none of another")
    finally:
        shutil.rmtree(state, ignore_errors=True)
    took_s = starting_s(record_in(tree, manifest.platform), trying.platform)
    known = UNKNOWN if took_s is None else format_duration(took_s)
    seconds = round(deployment.clock.now_s() - started_s, 1)
    result = {"started": STARTED, "seconds": seconds, "starting": known}
    said = f"{objects} objects tried out, and they fit; nothing was started (its pods took {known} when they started last)"
    yield Outcome("trial", Status.DONE, said, seconds, {"result": result})


def clean(deployment: Deployment) -> Iterator[Outcome]:
    """Remove whatever a trial left, also one that was killed, and the backup that was fetched for it."""
    shutil.rmtree(trial_of(deployment.layout), ignore_errors=True)
    yield Outcome("trial", Status.DONE, "removed")


def _deployment_for(deployment: Deployment, tree: Path, manifest: Manifest, state: Path) -> Deployment:
    """By the spec in the backup, for the one outside may have gone on; in the cluster of the one outside, whose kubeconfig is here."""
    theirs = load(tree / manifest.spec, manifest.environment)
    here, there = deployment.platform.kubernetes, theirs.platform.kubernetes
    if there is None or here is None:
        raise PreconditionError("the backup is of a platform on one machine, which cannot be tried out in a cluster", "kivactl backup list")
    reached = there.model_copy(update={"context": here.context, "kubeconfig": here.kubeconfig, "namespace": here.namespace})
    platform = with_files_of(theirs.platform.model_copy(update={"kubernetes": reached}), tree, manifest)
    loaded = Loaded(platform, theirs.files, theirs.folder, theirs.digest)
    return replace(deployment, loaded=loaded, layout=Layout(state, deployment.layout.cache), reload=lambda: loaded)


def _present(trying: Deployment, values: Mapping[str, Any]) -> None:
    """What the gateway would be told: the keys accept a token of the restored key and none of a foreign one, and what was revoked is among it.

    Raises:
        CheckError: They do not.
    """
    trust = trust_in(files_in(values))
    if trust is None:
        raise CheckError("the gateway made of the backup has no keys to check tokens by")
    key = trying.layout.signing_key.read_bytes()
    if not _accepted(trying, key, trust[0]):
        raise CheckError("the gateway made of the backup would not accept a token of the backup's own key")
    if _accepted(trying, new_key(), trust[0]):
        raise CheckError("the gateway made of the backup would let in who has a token of a foreign key")
    now, keys = datetime.now(UTC), {str(one.get("kid")) for one in trust[0]["keys"]}
    revoked = {
        token.id
        for token in read_register(trying.layout).tokens
        if token.revoked_at is not None and token.key in keys and (token.expires_at is None or now < token.expires_at)
    }
    if missing := sorted(revoked - trust[1]):
        raise CheckError(f"the gateway made of the backup would let in who has a revoked token: {', '.join(missing[:5])}")


def _accepted(trying: Deployment, key: bytes, jwks: Mapping[str, Any]) -> bool:
    """As a gateway does it: the key by its id, then signature, issuer and audience."""
    import jwt

    name, now = trying.platform.name, datetime.now(UTC)
    token = tokens.issue(
        key, platform=name, tenant=OPERATOR, name="trial", token_id=secrets.token_hex(8), issued_at=now, lifetime=timedelta(minutes=5)
    ).reveal()
    kid = jwt.get_unverified_header(token)["kid"]
    found = next((one for one in jwks["keys"] if one.get("kid") == kid), None)
    if found is None:
        return False
    try:
        # A wall clock that was set back between signing and reading is none of the key's faults.
        jwt.decode(token, jwt.PyJWK(found).key, algorithms=[tokens.ALGORITHM], audience=AUDIENCE, issuer=f"kiva:{name}", options={"verify_iat": False})
    except jwt.PyJWTError:
        return False
    return True

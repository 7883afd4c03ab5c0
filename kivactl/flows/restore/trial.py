"""Tries a backup: builds a platform out of it in an empty place, starts it on free ports, asks it, and takes it away again.

Neither the running platform nor its files are touched; prepared models are shared with it, for an engine only reads them.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from kivactl.errors import CheckError, PreconditionError
from kivactl.flows.deploy import apply_deploy, plan_deploy
from kivactl.flows.deployment import Deployment
from kivactl.flows.restore.building import build_state
from kivactl.flows.restore.manifest import Manifest, read_manifest
from kivactl.flows.restore.places import trial_of
from kivactl.plan import Outcome, Status
from kivactl.spec.load import Loaded, load
from kivactl.spec.platform import Model, Platform
from kivactl.stack import tokens
from kivactl.stack.certificates import authority_for, new_key, server_certificate_for
from kivactl.stack.endpoint import Endpoint
from kivactl.stack.engine import replica_name
from kivactl.stack.layout import Layout
from kivactl.stack.metering import OPERATOR, SQLITE
from kivactl.targets.desired import endpoint_url
from kivactl.targets.local import LocalTarget
from kivactl.targets.pair import install_pair
from kivactl.targets.release import read_release, write_file, write_release
from kivactl.tools import machine
from kivactl.tools.ports import LOOPBACK, free_pair


class Engines(StrEnum):
    """Whether engines are started too."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


def trial(deployment: Deployment, tree: Path, engines: Engines = Engines.AUTO) -> Iterator[Outcome]:
    """Start a platform from a fetched backup in an empty place, ask it, stop it.

    Args:
        deployment: The platform whose backup it is.
        tree: The fetched and examined backup.
        engines: Whether engines are started too; by itself where they fit beside what runs, and not on GPUs.

    Yields:
        At last an outcome with `started` (`engines` or `gateway`) and `seconds` as result.

    Raises:
        KivaError: It does not start, does not answer, or does not add up.
    """
    started_s = deployment.clock.now_s()
    manifest = read_manifest(tree, deployment.platform.name)
    place = trial_of(deployment.layout)
    state = place / "state"
    _end(deployment)
    try:
        yield Outcome("trial", Status.STARTED, f"building a platform out of the backup in {place}")
        build_state(tree, manifest, state, state)
        trying = _deployment_for(deployment, tree, manifest, state)
        _issue_certificate(trying)
        billed = _billed(trying.layout)
        with_engines = _engines_fit(trying, engines)
        if not with_engines:
            _keep_engines_out(trying)
        yield from _within_trial(apply_deploy(trying, plan_deploy(trying)))
        _ask(trying)
        _refuse_forged(trying)
        if _billed(trying.layout) != billed:
            raise CheckError("the ledger adds up to something else once the meter has opened it")
        seconds = round(deployment.clock.now_s() - started_s, 1)
        what = "every model generated a token" if with_engines else "the gateway let in who has a token, and nobody else"
        result = {"started": "engines" if with_engines else "gateway", "seconds": seconds}
        yield Outcome("trial", Status.DONE, f"a platform started from it: {what}", seconds, {"result": result})
    finally:
        _end(deployment)


def clean(deployment: Deployment) -> Iterator[Outcome]:
    """End and remove whatever a trial left, also one that was killed, and the backup that was fetched for it."""
    _end(deployment)
    shutil.rmtree(trial_of(deployment.layout), ignore_errors=True)
    yield Outcome("trial", Status.DONE, "removed")


def trial_platform(platform: Platform, tree: Path, manifest: Manifest, port: int) -> Platform:
    """The spec for a trial: the same tenants, keys and models, on ports and with files of its own, and as small as it goes.

    Args:
        platform: The spec in the backup.
        tree: The fetched backup.
        manifest: What it says of itself.
        port: Free, and so is the next one.
    """
    content = {model.name: str(tree / model.at) for model in manifest.models if model.with_content and model.at}
    gateway = with_files_of(platform, tree, manifest).gateway
    changes: dict[str, Any] = {
        "address": LOOPBACK,
        "port": port,
        "tls": gateway.tls.model_copy(update={"certificate": None, "key": None, "names": ("localhost",)}),
        "metrics": gateway.metrics.model_copy(update={"address": LOOPBACK, "port": None}),
        "tracing": None,
    }
    return platform.model_copy(
        update={
            "gateway": gateway.model_copy(update=changes),
            "models": tuple(_small(model, content) for model in platform.models),
            "usage": platform.usage.model_copy(update={"ledger": "sqlite"}),
        }
    )


def with_files_of(platform: Platform, tree: Path, manifest: Manifest) -> Platform:
    """The spec with the files of the backup in the place of those elsewhere that it names."""
    files = {external.path: str(tree / external.at) for external in manifest.external}

    def of(name: str | None) -> str | None:
        return None if name is None else files.get(name, name)

    gateway = platform.gateway
    issuers = tuple(issuer.model_copy(update={"jwks": of(issuer.jwks), "ca": of(issuer.ca)}) for issuer in gateway.issuers)
    tls = gateway.tls.model_copy(update={"certificate": of(gateway.tls.certificate), "key": of(gateway.tls.key)})
    return platform.model_copy(update={"gateway": gateway.model_copy(update={"issuers": issuers, "tls": tls})})


def _small(model: Model, content: Mapping[str, str]) -> Model:
    changes: dict[str, Any] = {"replicas": 1, "concurrency": 1, "kv_cache": None}
    if model.name in content:
        changes["source"] = f"path:{content[model.name]}"
    return model.model_copy(update=changes)


def _deployment_for(deployment: Deployment, tree: Path, manifest: Manifest, state: Path) -> Deployment:
    """By the spec in the backup, for the one outside may have gone on; where it means files beside itself, they are those of the backup."""
    theirs = load(tree / manifest.spec, manifest.environment)
    ours = {model.name: model.source for model in deployment.platform.models}
    models = tuple(model.model_copy(update={"source": ours.get(model.name, model.source)}) for model in theirs.platform.models)
    platform = trial_platform(theirs.platform.model_copy(update={"models": models}), tree, manifest, free_pair())
    loaded = Loaded(platform, theirs.files, theirs.folder, theirs.digest)
    return replace(deployment, loaded=loaded, layout=Layout(state, deployment.layout.cache), reload=lambda: loaded)


def _issue_certificate(trying: Deployment) -> None:
    """A certificate for the trial's address by the restored authority; by one of its own where the platform has none."""
    layout, name, now = trying.layout, trying.platform.name, datetime.now(UTC)
    if not (layout.ca_key.exists() and layout.ca_certificate.exists()):
        key = new_key()
        write_file(layout.ca_key, key.decode())
        write_file(layout.ca_certificate, authority_for(key, platform=name, now=now).decode())
    key, authority, authority_key = new_key(), layout.ca_certificate.read_bytes(), layout.ca_key.read_bytes()
    names = [f"IP:{LOOPBACK}", "DNS:localhost"]
    install_pair(layout, key, server_certificate_for(key, platform=name, names=names, authority=authority, authority_key=authority_key, now=now))


def _engines_fit(trying: Deployment, engines: Engines) -> bool:
    """Whether engines are started; the decision looks, it starts nothing.

    Raises:
        PreconditionError: They are wanted and cannot be started.
    """
    if engines is Engines.NEVER or (engines is Engines.AUTO and machine.facts().gpus):
        return False
    try:
        plan_deploy(trying)
    except PreconditionError:
        if engines is Engines.ALWAYS:
            raise
        return False
    return True


def _keep_engines_out(trying: Deployment) -> None:
    """All replicas count as taken out: the deploy starts the gateway and the meter."""
    release = read_release(trying.layout.release)
    since = datetime.now(UTC).isoformat(timespec="seconds")
    release.maintenance = {replica_name(model.name, 0): since for model in trying.platform.models}
    release.replicas = {model.name: [replica_name(model.name, 0)] for model in trying.platform.models}
    write_release(trying.layout.release, release)


def _end(deployment: Deployment) -> None:
    state = trial_of(deployment.layout) / "state"
    if state.exists():
        for _ in LocalTarget(Layout(state, state), deployment.clock).stop():
            pass
        shutil.rmtree(state)


def _within_trial(outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
    for outcome in outcomes:
        yield replace(outcome, step=f"trial: {outcome.step}")


def _ask(trying: Deployment) -> None:
    """The gateway lists the models to someone with a token of the restored key."""
    from kivactl.tools.http import open_client

    with open_client(_endpoint(trying, trying.layout.signing_key.read_bytes())) as client:
        client.models()


def _refuse_forged(trying: Deployment) -> None:
    from kivactl.tools.http import open_client

    with open_client(_endpoint(trying, new_key())) as client:
        try:
            client.models()
        except PreconditionError:
            return
    raise CheckError("the restored gateway lets in who has a token of a foreign key")


def _endpoint(trying: Deployment, key: bytes) -> Endpoint:
    token = tokens.issue(
        key,
        platform=trying.platform.name,
        tenant=OPERATOR,
        name="trial",
        token_id=secrets.token_hex(8),
        issued_at=datetime.now(UTC),
        lifetime=timedelta(minutes=5),
    )
    return Endpoint(endpoint_url(trying.platform), token, trying.layout.ca_certificate, trying.platform.models[0].name)


def _billed(layout: Layout) -> list[Any]:
    """The sums of days but for what kivactl itself asked; nothing where nothing was metered yet."""
    from kivactl.usage.ledger import open_ledger

    if not layout.ledger.exists():
        return []
    with closing(open_ledger(f"{SQLITE}{layout.ledger}", "", read_only=True)) as ledger:
        return [(key, sums) for key, sums in ledger.days() if key.tenant != OPERATOR]

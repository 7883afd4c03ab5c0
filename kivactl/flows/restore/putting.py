"""Puts a fetched backup in the place of a platform's state, and takes that back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from kivactl import journal
from kivactl.errors import KivaError, PreconditionError, told
from kivactl.flows.deployment import Deployment
from kivactl.flows.restore import cluster
from kivactl.flows.restore.building import build_state, copy_file, keep_logs, whole_or_gone
from kivactl.flows.restore.exchange import before_of, give_up, go_back, note_before, place, prepare, read_exchange, settle, unsettled
from kivactl.flows.restore.losing import lost_of
from kivactl.flows.restore.manifest import File, Manifest, ModelEntry, read_manifest, sha256_of
from kivactl.flows.restore.places import KEPT, LEFT_IN_CLUSTER, places_for
from kivactl.plan import Outcome, Status
from kivactl.spec.platform import Model, Platform
from kivactl.stack.layout import Layout
from kivactl.targets.publication import key_id
from kivactl.targets.register import read_register, write_register
from kivactl.targets.rollout import STATE_VARIABLE
from kivactl.tools import leftovers
from kivactl.tools.models import hub_reference


def admit(deployment: Deployment, *, replace: bool) -> Iterator[Outcome]:
    """Say beforehand whether `clear` will go through: fetching a backup may take hours.

    Raises:
        PreconditionError: The platform runs, and may not be replaced.
    """
    running = _running(deployment)
    _refuse_running(deployment, running=running, replace=replace)
    if _on_cluster(deployment):
        said = "runs, and will be brought to what the backup's spec says while it serves" if running else "nothing runs"
    else:
        said = "runs, and will be replaced" if running else "nothing runs"
    yield Outcome("platform", Status.DONE, said)


def note(deployment: Deployment, run: str, *, replace: bool) -> Iterator[Outcome]:
    """Remember how a platform in a cluster is, for `as_before`; it goes on.

    Args:
        deployment: The platform.
        run: The run that restores.
        replace: Whether a running platform may be replaced.

    Raises:
        PreconditionError: It runs, and may not be replaced.
        KivaError: The cluster does not answer.
    """
    places = places_for(deployment.layout)
    known = before_of(places, run)
    if known is None:  # once this run has started it, it is no longer how it was
        known = cluster.noted(deployment)
        _refuse_running(deployment, running=known["running"], replace=replace)
        with told(places.folder):
            places.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            note_before(places, run, known)
    yield Outcome("platform", Status.DONE, f"deploy {known['deploy']} is the way back" if known["deploy"] is not None else "nothing is deployed")


def clear(deployment: Deployment, run: str, *, replace: bool) -> Iterator[Outcome]:
    """Stop what runs, where that is allowed; `as_before` starts it again.

    Args:
        deployment: The platform.
        run: The run that restores.
        replace: Whether a running platform may be replaced.

    Raises:
        PreconditionError: It runs, and may not be replaced.
    """
    running = _running(deployment)
    _refuse_running(deployment, running=running, replace=replace)
    places = places_for(deployment.layout)
    with told(places.folder):
        places.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        note_before(places, run, {"running": running})
    if running:
        yield from deployment.target.stop()
    yield Outcome("platform", Status.DONE, "stopped" if running else "nothing runs")


def as_before(deployment: Deployment, run: str) -> Iterator[Outcome]:
    """Start what ran before `clear`; in a cluster, bring it to the deploy that `note` noted."""
    before = before_of(places_for(deployment.layout), run)
    if before and _on_cluster(deployment):
        yield from cluster.as_before(deployment, before)
        return
    if before and before.get("running"):
        yield from deployment.target.start()
    else:
        yield Outcome("platform", Status.DONE, "nothing ran before")


def put_back(deployment: Deployment, run: str, snapshot: str) -> Iterator[Outcome]:
    """Put the fetched backup in place; the old state lies aside until `finish`. Cut off anywhere, it may be done again.

    Args:
        deployment: The platform; on one machine nothing of it runs, in a cluster only files of the operator are exchanged.
        run: The run that restores; noted in the restored journal.
        snapshot: Id of the fetched backup.

    Raises:
        PreconditionError: The platform runs, the backup is another platform's or of another format, or the disk is full.
        CheckError: A file of the backup is not what its manifest says.
    """
    layout, places = deployment.layout, places_for(deployment.layout)
    if not _on_cluster(deployment) and _running(deployment):
        raise PreconditionError(f"the platform '{deployment.platform.name}' is running", "kivactl runbook restore --replace")
    manifest = read_manifest(places.fetched, deployment.platform.name)
    exchange = read_exchange(places)
    if exchange is None or (exchange.run, exchange.snapshot) != (run, snapshot):
        undone = give_up(places, layout.state, run)
        if undone:
            yield Outcome("state", Status.DONE, f"as it was before the run {undone}, which did not come to its end")
        yield Outcome("state", Status.STARTED, "building it beside the old one")
        build_state(places.fetched, manifest, places.new, layout.state, LEFT_IN_CLUSTER if _on_cluster(deployment) else KEPT)
        with told(layout.state):
            _merge_runs(places.fetched, manifest, layout.state)
            kept = keep_logs(layout.state, places.new)
            yield from _keep_revocations(layout, Layout(places.new, layout.cache))
            if _on_cluster(deployment):
                yield from cluster.keep_revocations(deployment, Layout(places.new, layout.cache))
            facts = {"snapshot": snapshot, "made_at": manifest.made_at.isoformat()}
            journal.note(places.new / layout.journal.name, run, "restored", facts)
            exchange = prepare(places, layout.state, run, snapshot)
        yield Outcome("state", Status.PROGRESS, f"whole; {kept} logs of requests taken along")
    if not exchange.placed:
        with told(layout.state):
            place(places, layout.state, exchange)
    yield Outcome("state", Status.DONE, f"as of {manifest.made_at:%Y-%m-%d %H:%M:%S} UTC; the old one lies aside" if exchange.before else "in place")
    yield from put_files(deployment, places.fetched, manifest)
    if not _on_cluster(deployment):
        yield from _put_ledger(deployment, manifest)


def put_ledger(deployment: Deployment, run: str, began_at: datetime, *, replace: bool) -> Iterator[Outcome]:
    """Bring the ledger of the fetched backup into the gateway's volume of a platform in a cluster.

    Args:
        deployment: The platform; it serves.
        run: The run that restores.
        began_at: When that began.
        replace: Whether a ledger that is there already is replaced.

    Raises:
        KivaError: As `cluster.put_ledger`.
    """
    tree = places_for(deployment.layout).fetched
    yield from cluster.put_ledger(deployment, tree, read_manifest(tree, deployment.platform.name), run, began_at, replace=replace)


def take_back(deployment: Deployment, run: str) -> Iterator[Outcome]:
    """Put the state in place again that `put_back` replaced; where there was none, or it is given up already, the restored one stays."""
    places = places_for(deployment.layout)
    exchange = read_exchange(places)
    replaced = exchange is not None and exchange.run == run and bool(exchange.before)
    if replaced and not _on_cluster(deployment) and _running(deployment):
        yield from deployment.target.stop()
    done = go_back(places, deployment.layout.state, run)
    yield Outcome("state", Status.DONE, "the old one is in place again" if done else "nothing was replaced")


def finish(deployment: Deployment, run: str) -> Iterator[Outcome]:
    """Remove what the restore needed, the old state too: the platform answers from the new one.

    Args:
        deployment: The platform.
        run: The run that restores.

    Raises:
        PreconditionError: The restore is not done.
    """
    settle(places_for(deployment.layout))
    if _on_cluster(deployment):
        cluster.forget_ledger(deployment, run)
    yield Outcome("old state", Status.DONE, "removed")


def pending(deployment: Deployment, run: str) -> list[str]:
    """What other runs than this one have begun to replace and not settled, in sentences: a second one on top would leave no way back."""
    layout, exchange = deployment.layout, unsettled(places_for(deployment.layout))
    found = []
    if exchange is not None and exchange.run != run:
        found.append(f"the run {exchange.run} has put a backup in place: kivactl runbook resume {exchange.run}")
    if lost_of(layout).exists():
        found.append(f"a disaster drill has taken state away: it lies in {lost_of(layout)}")
    return found


def put_files(deployment: Deployment, tree: Path, manifest: Manifest) -> Iterator[Outcome]:
    """Put files outside of the state in place where they are missing: certificates of one's own, models. What is there stays.

    Raises:
        KivaError: The disk is full, or a folder may not be written.
    """
    named = _named_files(deployment.platform) | _hub_references(deployment, manifest)
    for external in manifest.external:
        if external.path not in named:
            yield Outcome(external.path, Status.SKIPPED, "the spec does not name it any more")
            continue
        yield from _put_file(tree / external.at, Path(external.path), manifest.files[external.at])
    models = {model.name: model for model in deployment.platform.models}
    for entry in manifest.models:
        if not entry.with_content or not entry.at:
            continue
        to = _model_folder(deployment.layout, entry, models.get(entry.name))
        if to is None:
            yield Outcome(f"model {entry.name}", Status.SKIPPED, "the spec does not name it any more")
            continue
        yield from _put_model(tree, manifest, entry.at, to)


def _put_ledger(deployment: Deployment, manifest: Manifest) -> Iterator[Outcome]:
    """A ledger on a server is filled where it is empty; one with entries has outlived the disaster."""
    from kivactl.usage.snapshot import fill

    platform, copy = deployment.platform, places_for(deployment.layout).fetched / "state" / "usage" / "ledger.db"
    if platform.usage.ledger != "sqlite" and manifest.ledger is not None:
        filled = fill(platform.usage.ledger, platform.name, copy)
        yield Outcome(
            "ledger", Status.DONE, f"{manifest.ledger.requests} requests put back" if filled else "on its server there are entries: it stays as it is"
        )


def _put_file(source: Path, to: Path, known: File) -> Iterator[Outcome]:
    if os.path.lexists(to):
        same = known.link is not None or (to.is_file() and sha256_of(to) == known.sha256)
        yield Outcome(str(to), Status.SKIPPED, "there already" if same else "there already, and not as it was backed up: it stays as it is")
        return
    with told(to):
        copy_file(source, to, known)
    yield Outcome(str(to), Status.DONE, "put in place")


def _put_model(tree: Path, manifest: Manifest, at: str, to: Path) -> Iterator[Outcome]:
    if os.path.lexists(to):
        yield Outcome(str(to), Status.SKIPPED, "there already")
        return
    beside = to.with_name(f".{to.name}.restoring")
    with whole_or_gone(beside):
        for name, known in manifest.files.items():
            if name.startswith(f"{at}/"):
                copy_file(tree / name, beside / name.removeprefix(f"{at}/"), known)
        beside.rename(to)
    yield Outcome(str(to), Status.DONE, "put in place")


def _named_files(platform: Platform) -> set[str]:
    """What the spec names outside of the state; nothing else is ever written there."""
    gateway = platform.gateway
    named = {gateway.tls.certificate, gateway.tls.key, *(issuer.ca for issuer in gateway.issuers), *(issuer.jwks for issuer in gateway.issuers)}
    return {name for name in named if name is not None}


def _hub_references(deployment: Deployment, manifest: Manifest) -> set[str]:
    """The files by which the hub's cache finds the models of the spec that the backup has."""
    models, found = {model.name: model for model in deployment.platform.models}, set()
    for entry in manifest.models:
        model = models.get(entry.name)
        to = _model_folder(deployment.layout, entry, model) if entry.with_content else None
        reference = hub_reference(model, to) if model is not None and to is not None else None
        if reference is not None:
            found.add(str(reference))
    return found


def _model_folder(layout: Layout, entry: ModelEntry, model: Model | None) -> Path | None:
    """Where a model belongs: converted ones into this platform's cache, folders where the spec has them, the hub's where they were.

    None when the spec does not name it: a backup does not say by itself where on the machine it is written.
    """
    was = Path(entry.path)
    if model is None:
        return None
    if model.source_kind == "path":
        return Path(model.source_name) if entry.source.startswith("path:") else None
    if model.source != entry.source:
        return None
    if model.source_kind == "package":
        return layout.cache / "models" / was.name if was.name else None
    return was if was.parts[-3:-1] == (f"models--{model.source.replace('/', '--')}", "snapshots") else None


def _merge_runs(tree: Path, manifest: Manifest, state: Path) -> None:
    """Runs of which nothing is here any more come back, with their evidence; those that are here stay as they are."""
    prefix = "state/runs/"
    wanted: dict[str, list[str]] = {}
    for name in manifest.files:
        if name.startswith(prefix) and "/" in name.removeprefix(prefix):
            wanted.setdefault(name.removeprefix(prefix).partition("/")[0], []).append(name)
    for run, names in wanted.items():
        if (state / "runs" / run).exists():
            continue
        beside = state / "runs" / f".{run}.restoring"
        with whole_or_gone(beside):
            for name in names:
                copy_file(tree / name, beside / name.removeprefix(f"{prefix}{run}/"), manifest.files[name])
            beside.rename(state / "runs" / run)


def _keep_revocations(old: Layout, new: Layout) -> Iterator[Outcome]:
    """A token that was revoked since the backup stays so, where there is still someone to tell of it. Damage of the old state is in nobody's way."""
    signing = key_id(new.signing_key.read_bytes())
    accepted = {signing, *(path.stem for path in new.retired_keys.glob("*.pem"))}
    before = _key_of(old)
    if before is not None and before not in accepted:
        said = "the signing key was rotated since the backup, and is the one of the backup again; if that was in wrong hands: kivactl token rotate-keys --now"
        yield Outcome("signing key", Status.DONE, said)
    try:
        later = read_register(old)
    except KivaError as error:
        yield Outcome("tokens", Status.DONE, f"{error.message}: what was revoked since the backup is not known; revoke it again: kivactl token revoke")
        return
    restored = read_register(new)
    merged = restored.with_history_of(later, frozenset(accepted), datetime.now(UTC))
    if merged != restored:
        write_register(new, merged)
        revoked = sum(token.revoked_at is not None for token in merged.tokens) - sum(token.revoked_at is not None for token in restored.tokens)
        said = f"{len(merged.tokens) - len(restored.tokens)} issued and {revoked} revoked since the backup are taken along"
        yield Outcome("tokens", Status.DONE, said)


def _key_of(layout: Layout) -> str | None:
    """The id of the key that signs; None where there is none, or it is damaged."""
    try:
        return key_id(layout.signing_key.read_bytes())
    except (OSError, KivaError):
        return None


def _refuse_running(deployment: Deployment, *, running: bool, replace: bool) -> None:
    if running and not replace:
        raise PreconditionError(f"the platform '{deployment.platform.name}' is running: a restore would replace it", "kivactl runbook restore --replace")


def _on_cluster(deployment: Deployment) -> bool:
    return deployment.platform.target == "kubernetes"


def _running(deployment: Deployment) -> bool:
    if _on_cluster(deployment):
        return cluster.running(deployment)
    return bool(deployment.target.alive() or leftovers.marked(STATE_VARIABLE, str(deployment.layout.state)))

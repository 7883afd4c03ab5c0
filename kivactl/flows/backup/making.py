"""Makes backups, and removes those that are too old."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from kivactl.errors import PreconditionError, told
from kivactl.flows.backup.stage import build_stage, size_of, stage_of
from kivactl.flows.backup.store import NoPassphrase, folder_of, made_passphrase, open_store, repository_of
from kivactl.flows.deployment import Deployment
from kivactl.flows.restore.fetching import OURS, VERIFIED
from kivactl.flows.restore.manifest import FORMAT
from kivactl.plan import Outcome, Status
from kivactl.spec.quantities import format_bytes
from kivactl.targets.lock import held
from kivactl.tools import machine
from kivactl.tools.restic import Snapshot


def make(deployment: Deployment) -> Iterator[Outcome]:
    """Back up all state; afterwards there is a backup of this moment, or everything is as before.

    Yields:
        At last an outcome with `snapshot` and `made_at` as result.

    Raises:
        PreconditionError: Nothing to back up, a wrong passphrase, no room.
        KivaError: The ledger or the repository cannot be read or written.
    """
    layout, clock = deployment.layout, deployment.clock
    layout.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with held(layout.lock, "backup"):
        started_s = clock.now_s()
        yield Outcome("state", Status.STARTED, "copying")
        with told(stage_of(layout)):
            manifest = build_stage(deployment)
        size = size_of(manifest)
        yield Outcome("state", Status.DONE, f"{len(manifest['files'])} files, {format_bytes(size)}", clock.now_s() - started_s)
        made = made_passphrase(deployment)
        store = open_store(deployment)
        try:
            first = not store.exists
        except BaseException:
            if made is not None:
                made.unlink()  # it opens nothing
            raise
        if made is not None:
            yield Outcome("passphrase", Status.DONE, f"made: {made}. Keep a copy of it elsewhere: without it no backup can be read")
        folder = folder_of(store.repository)
        if first:
            there = next((one for one in (folder, *folder.parents) if one.exists()), None) if folder else None
            if there is not None and machine.disk_free(there) < size:
                raise PreconditionError(
                    f"no room for a first backup of {format_bytes(size)} on the disk of {folder}: {format_bytes(machine.disk_free(there))} are free",
                    "free some space, or choose another `backup.repository` in kiva.yaml",
                )
            store.make()
            yield Outcome("repository", Status.DONE, f"made at {store.repository}")
        data: dict[str, object] = {}
        for outcome in store.backup(stage_of(layout), (OURS, f"platform={deployment.platform.name}", f"format={FORMAT}")):
            data = outcome.data or data
            yield outcome
        result = {"snapshot": data["snapshot"], "made_at": manifest["made_at"]}
        yield Outcome("result", Status.DONE, str(data["snapshot"])[:8], clock.now_s() - started_s, {"result": result, **data})


def prune(deployment: Deployment) -> Iterator[Outcome]:
    """Remove the backups that the spec's rules do not keep.

    Raises:
        KivaError: The repository cannot be read or written.
    """
    store, started_s = open_store(deployment), deployment.clock.now_s()
    yield Outcome("old backups", Status.STARTED, store.repository)
    removed = store.forget(deployment.platform.backup.keep.model_dump(), (OURS, f"platform={deployment.platform.name}"))
    yield Outcome("old backups", Status.DONE, f"{removed} removed", deployment.clock.now_s() - started_s, {"removed": removed})


def check(deployment: Deployment, *, read_data: bool = False) -> Iterator[Outcome]:
    """Look whether the repository is sound.

    Raises:
        CheckError: It is not.
        KivaError: It cannot be read.
    """
    store, started_s = open_store(deployment), deployment.clock.now_s()
    yield Outcome("repository", Status.STARTED, "reading all of it" if read_data else "looking at its structure")
    store.check(read_data=read_data)
    yield Outcome("repository", Status.DONE, "sound", deployment.clock.now_s() - started_s)


def backups(deployment: Deployment) -> list[Snapshot]:
    """The platform's backups, the oldest first; empty when there is no repository yet.

    Raises:
        KivaError: It cannot be read.
    """
    try:
        store = open_store(deployment)
        if not store.exists:
            return []
    except NoPassphrase:
        folder = folder_of(repository_of(deployment))
        if folder is not None and (folder / "config").exists():
            raise
        return []  # none was ever made
    mark = f"platform={deployment.platform.name}"
    return [one for one in store.snapshots() if OURS in one.tags and mark in one.tags]


def age_s(deployment: Deployment, *, verified: bool = False) -> float | None:
    """Seconds since the newest backup, or the newest that was tried; None when there is none."""
    found = [one.made_at for one in backups(deployment) if not verified or VERIFIED in one.tags]
    return max(0.0, (datetime.now(UTC) - max(found)).total_seconds()) if found else None

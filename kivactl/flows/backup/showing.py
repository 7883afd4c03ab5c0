"""What lies in a repository and what a backup holds, told without fetching it: two questions to the repository, whatever it weighs."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kivactl.errors import PreconditionError, UsageError
from kivactl.flows.backup.store import REPOSITORY_VARIABLE, folder_of, open_store, open_store_by_name, repository_of
from kivactl.flows.deployment import Deployment
from kivactl.flows.restore.fetching import OURS, VERIFIED, choose, format_of, missing, platform_of
from kivactl.flows.restore.manifest import FILE, Manifest, parse_manifest
from kivactl.flows.restore.places import verified_of
from kivactl.spec.quantities import format_duration
from kivactl.stack.layout import Layout
from kivactl.tools.restic import Restic, Snapshot

SHORT = 8
"""Characters of an id that people see."""


@dataclass(frozen=True, slots=True)
class Where:
    """A repository as the command line names it; what is absent comes from the environment and the spec.

    Attributes:
        repository: A folder, `s3:...` or `sftp:...`.
        password_file: File with the passphrase.
        credentials: File with the storage's credentials.
    """

    repository: str | None = None
    password_file: str | None = None
    credentials: str | None = None

    @classmethod
    def from_here(cls, repository: str | None, password_file: Path | None, credentials: Path | None) -> Where:
        """Typed by a person: relative paths count from the folder they are in, not from the spec's."""
        folder = folder_of(repository) if repository else None
        named = [None if path is None else str(path.expanduser().absolute()) for path in (folder, password_file, credentials)]
        return cls(named[0] or repository, named[1], named[2])

    def as_parameters(self) -> dict[str, str]:
        """What was named, as parameters of a runbook."""
        named = {"repository": self.repository, "password_file": self.password_file, "credentials": self.credentials}
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Tried:
    """How a backup was tried on this machine.

    Attributes:
        at: When; None when that was not noted.
        started: What was started from it: `engines` or `gateway`, or nothing: `dry run`; empty when that was not noted.
        seconds: How long that took; None when that was not noted.
    """

    at: datetime | None
    started: str
    seconds: float | None

    def as_dict(self) -> dict[str, Any]:
        return {"at": None if self.at is None else self.at.isoformat(), "started": self.started, "seconds": self.seconds}


@dataclass(frozen=True, slots=True)
class Listed:
    """A backup in a repository.

    Attributes:
        id: Its name, 64 hexadecimal characters.
        platform: Whose.
        made_at: When.
        format: Of its tree.
        verified: Whether it was tried, here or elsewhere.
        tried: How, where it was tried here.
    """

    id: str
    platform: str
    made_at: datetime
    format: int
    verified: bool
    tried: Tried | None = None

    def age_s(self, at: datetime) -> float:
        """Seconds until a moment."""
        return max(0.0, (at - self.made_at).total_seconds())

    def as_dict(self, at: datetime) -> dict[str, Any]:
        """JSON-ready, with its age at a moment."""
        return {
            "id": self.id,
            "platform": self.platform,
            "made_at": self.made_at.isoformat(timespec="seconds"),
            "age_s": round(self.age_s(at), 3),
            "format": self.format,
            "verified": self.verified,
            "tried": self.tried.as_dict() if self.tried else None,
        }


@dataclass(frozen=True, slots=True)
class Listing:
    """The backups in a repository.

    Attributes:
        repository: Where.
        platform: Whose are listed; None for everybody's.
        backups: The newest first.
        others: Other platforms that have backups there.
        gone: Ids of backups that were tried on this machine, are newer than all there are, and are there no more.
        every_s: How often there should be one; None where no spec says it.
    """

    repository: str
    platform: str | None
    backups: tuple[Listed, ...]
    others: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    every_s: float | None = None

    def warnings(self, at: datetime) -> Iterator[str]:
        """What an operator should care about at a moment, each with the next command."""
        if self.gone:
            yield f"backups that were tried are gone from the repository: {', '.join(one[:SHORT] for one in self.gone)}; somebody or something removed them"
        if not self.backups:
            return
        age_s = self.backups[0].age_s(at)
        if self.every_s is not None and age_s > self.every_s:
            yield f"the newest backup is {age_text(age_s)} old, and there should be one every {format_duration(self.every_s)}: kivactl runbook backup"
        if not any(one.verified for one in self.backups):
            yield "no backup was tried by a restore yet, so none of them counts as good: kivactl backup verify"

    def as_dict(self, at: datetime) -> dict[str, Any]:
        """JSON-ready, with the ages at a moment."""
        return {
            "repository": self.repository,
            "backups": [one.as_dict(at) for one in self.backups],
            "others": list(self.others),
            "gone": list(self.gone),
            "every_s": self.every_s,
        }


@dataclass(frozen=True, slots=True)
class Shown:
    """One backup and what it says of itself.

    Attributes:
        backup: As the repository knows it.
        manifest: As it was written into it.
    """

    backup: Listed
    manifest: Manifest

    @property
    def size_bytes(self) -> int:
        """Of all its files; the repository holds them compressed, and what backups have in common once."""
        return sum(file.bytes for file in self.manifest.files.values())

    def as_dict(self, at: datetime) -> dict[str, Any]:
        """JSON-ready, with its age at a moment; the files are counted, not listed."""
        return {
            **self.backup.as_dict(at),
            **self.manifest.model_dump(mode="json", exclude={"files", "made_at", "format", "platform"}),
            "files": len(self.manifest.files),
            "bytes": self.size_bytes,
        }


def listing(deployment: Deployment | None, where: Where) -> Listing:
    """The backups of a platform; everybody's where there is no spec.

    Raises:
        KivaError: The repository cannot be read, or one was named that is not there.
    """
    name, every_s = (None, None) if deployment is None else (deployment.platform.name, deployment.platform.backup.every)
    found = _snapshots(deployment, where)
    if found is None:
        assert deployment is not None  # without a spec a repository has to be named
        return Listing(repository_of(deployment), name, (), gone=tuple(missing((), deployment.layout)), every_s=every_s)
    repository, snapshots = found
    known = tried_of(deployment.layout) if deployment else {}
    ours = [one for one in snapshots if OURS in one.tags]
    listed = tuple(_listed(one, known) for one in reversed(ours) if name in {None, platform_of(one)})
    others = tuple(sorted({platform_of(one) for one in ours} - {name})) if name else ()
    gone = tuple(missing(snapshots, deployment.layout)) if deployment else ()
    return Listing(repository, name, listed, others, gone, every_s)


def shown(deployment: Deployment | None, where: Where, named: str) -> Shown:
    """What is in a backup, by its manifest.

    Args:
        deployment: The platform; None where there is no spec.
        where: The repository.
        named: Beginning of an id, or `latest`.

    Raises:
        UsageError: No backup, or more than one, begins so.
        KivaError: The repository cannot be read, or the backup is another platform's, of another format, or damaged.
    """
    platform = deployment.platform.name if deployment else None
    with _opened(deployment, where) as store:
        try:
            chosen = choose(store.snapshots(), platform, named)
        except UsageError as error:
            raise UsageError(error.message, "kivactl backup list") from None
        assert isinstance(chosen, Snapshot)
        manifest = parse_manifest(store.dump(chosen.id, f"/{FILE}"), platform)
    listed = _listed(chosen, tried_of(deployment.layout) if deployment else {})
    return Shown(replace(listed, made_at=manifest.made_at), manifest)  # what came after that moment is not in it


def tried_of(layout: Layout) -> dict[str, Tried]:
    """The backups that were tried on this machine, by their id; asks no repository."""
    try:
        known = json.loads(verified_of(layout).read_text())
    except (OSError, ValueError):
        return {}
    return {str(name): _tried(facts) for name, facts in known.items() if isinstance(facts, dict)} if isinstance(known, dict) else {}


def age_text(age_s: float) -> str:
    """For people: two units of it, such as `3d4h` or `12m5s`."""
    step_s = 3600 if age_s >= 86400 else 60 if age_s >= 3600 else 1
    return format_duration(max(1.0, age_s // step_s * step_s))


def _snapshots(deployment: Deployment | None, where: Where) -> tuple[str, Sequence[Snapshot]] | None:
    """Where and which; None where none was ever made. A repository that was named has to be there."""
    try:
        with _opened(deployment, where) as store:
            return store.repository, store.snapshots()
    except PreconditionError as error:
        if deployment is None or where.repository is not None:
            raise
        folder = folder_of(repository_of(deployment))
        if "there is no backup repository" in error.message or ("is not there" in error.message and folder is not None and not folder.exists()):
            return None
        raise


@contextmanager
def _opened(deployment: Deployment | None, where: Where) -> Iterator[Restic]:
    """The repository; without a spec nothing of what is read of it stays on this machine."""
    if deployment is not None:
        yield open_store(deployment, where.repository, where.password_file, where.credentials)
        return
    repository = where.repository or os.environ.get(REPOSITORY_VARIABLE)
    if not repository:
        raise UsageError("there is no kiva.yaml here, and no repository is named", "kivactl backup list --repository FOLDER|s3:...|sftp:...")
    with tempfile.TemporaryDirectory(prefix="kivactl-") as cache:
        yield open_store_by_name(repository, Path.cwd(), Path(cache), where.password_file, where.credentials)


def _listed(snapshot: Snapshot, known: dict[str, Tried]) -> Listed:
    tried = known.get(snapshot.id) or known.get(snapshot.original)
    verified = VERIFIED in snapshot.tags or tried is not None
    return Listed(snapshot.id, platform_of(snapshot), snapshot.made_at, format_of(snapshot), verified, tried)


def _tried(facts: dict[str, Any]) -> Tried:
    seconds = facts.get("seconds")
    return Tried(_time(facts.get("tried_at")), str(facts.get("started") or ""), float(seconds) if isinstance(seconds, int | float) else None)


def _time(text: object) -> datetime | None:
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return time.astimezone(UTC) if time.tzinfo else None

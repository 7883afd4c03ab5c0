"""Gets a backup out of its repository, after the whole repository was read and found sound."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from kivactl.errors import CheckError, PreconditionError, UsageError, told
from kivactl.flows.restore.building import whole_or_gone
from kivactl.flows.restore.manifest import FILE, FORMAT, Manifest, faults_of_files, read_manifest, refuse_format
from kivactl.flows.restore.places import verified_of
from kivactl.plan import Outcome, Status
from kivactl.stack.layout import Layout

OURS = "kivactl"
"""Tag of every backup that kivactl made."""

VERIFIED = "verified"
"""Tag of one that was tried."""

_SHOWN = 8

_SPEC_PART = (FILE, "spec")
_LONGEST_NUMBER = 9


class Kept(Protocol):
    """A backup in a repository."""

    @property
    def id(self) -> str: ...

    @property
    def original(self) -> str: ...

    @property
    def made_at(self) -> datetime: ...

    @property
    def tags(self) -> Sequence[str]: ...


class Repository(Protocol):
    """What a restore asks of the backup program."""

    def snapshots(self) -> Sequence[Kept]:
        """All there are, the oldest first."""

    def check(self, *, read_data: bool = False) -> None:
        """Raise a `KivaError` when anything is damaged."""

    def restore(self, snapshot: str, into: Path, only: Sequence[str] = ()) -> None:
        """Write a snapshot's tree into a folder; or only some of its entries, such as `spec`."""

    def tag(self, snapshot: str, tag: str) -> str:
        """Mark a snapshot; its new id."""


def choose(snapshots: Sequence[Kept], platform: str | None, named: str | None) -> Kept:
    """The backup to take.

    Args:
        snapshots: All there are, the oldest first.
        platform: Whose; anybody's when absent, if all are one platform's.
        named: Beginning of an id, or `latest`.

    Raises:
        PreconditionError: There is none, or it is another platform's or of another format.
        UsageError: No backup, or more than one, begins so.
    """
    ours = [one for one in snapshots if OURS in one.tags]
    if not ours:
        raise PreconditionError("the repository holds no backup of kivactl", "kivactl runbook backup; or name another repository")
    if named and named != "latest":
        found = [one for one in ours if one.id.startswith(named) or (one.original and one.original.startswith(named))]
        if len(found) != 1:
            raise UsageError(f"{len(found) or 'no'} backups begin with '{named}'", "kivactl backup list")
        chosen = found[0]
    else:
        platforms = sorted({platform_of(one) for one in ours})
        if platform is None and len(platforms) > 1:
            raise UsageError(f"the repository holds backups of {len(platforms)} platforms: {', '.join(platforms)}", "choose one: --set platform=NAME")
        theirs = [one for one in ours if platform is None or platform_of(one) == platform]
        if not theirs:
            raise PreconditionError(f"the repository holds no backup of '{platform}', but of: {', '.join(platforms)}", "name another repository")
        chosen = theirs[-1]
    if platform is not None and platform_of(chosen) != platform:
        raise PreconditionError(f"the backup {chosen.id[:_SHOWN]} is of the platform '{platform_of(chosen)}', not of '{platform}'", "kivactl backup list")
    refuse_format(format_of(chosen))
    return chosen


def platform_of(snapshot: Kept) -> str:
    """Whose it is; empty when it does not say."""
    return _tagged(snapshot, "platform")


def format_of(snapshot: Kept) -> int:
    """Its format, as far as its tags tell it: the manifest has the last word."""
    text = _tagged(snapshot, "format")
    return int(text) if text.isdecimal() and len(text) <= _LONGEST_NUMBER else FORMAT


def fetch(repository: Repository, layout: Layout, into: Path, *, platform: str | None, named: str | None) -> Iterator[Outcome]:
    """Read the whole repository, then write one backup into an empty folder and compare it with its manifest.

    Args:
        repository: Where backups are.
        layout: The platform's files.
        into: The folder, which is made anew; gone when anything is wrong.
        platform: Whose backup.
        named: Which; the newest when absent.

    Yields:
        At last an outcome with `snapshot`, `made_at`, `platform`, and what a restored platform is held against as result: the `requests` that its
        ledger has counted, and the id of the `key` that signs.

    Raises:
        KivaError: The passphrase is wrong, something is damaged, the disk is full, or there is no such backup.
    """
    yield Outcome("repository", Status.STARTED, "reading all of it")
    repository.check()  # tells in a moment what is missing; to look for it while reading takes a minute
    repository.check(read_data=True)
    snapshots = repository.snapshots()
    yield Outcome("repository", Status.DONE, f"sound; {len(snapshots)} backups")
    chosen = choose(snapshots, platform, named)
    theirs = [one for one in snapshots if OURS in one.tags and platform_of(one) == platform_of(chosen)]
    gone = missing(theirs, layout) if not named or named == "latest" else []
    if gone:
        yield Outcome("repository", Status.DONE, f"backups that were tried are gone since: {', '.join(one[:_SHOWN] for one in gone)}")
    with whole_or_gone(into):
        into.mkdir(mode=0o700, parents=True)
        yield Outcome("backup", Status.STARTED, f"fetching {chosen.id[:_SHOWN]}")
        _restored(repository, chosen.id, into)
        manifest = read_manifest(into, platform)
        _refuse_damaged(chosen, into, manifest)
    requests = int(manifest.ledger.sums.get("requests", 0)) if manifest.ledger else 0
    result = {"snapshot": chosen.id, "made_at": manifest.made_at.isoformat(), "platform": manifest.platform, "requests": requests, "key": manifest.keys.signing}
    said = f"{chosen.id[:_SHOWN]} of {manifest.made_at:%Y-%m-%d %H:%M:%S} UTC, {len(manifest.files)} files, every hash as it should be"
    yield Outcome("backup", Status.DONE, said, data={"result": result})


def fetch_spec(repository: Repository, into: Path, *, platform: str | None, named: str | None) -> Manifest:
    """Write the spec's part of a backup into an empty folder, without reading the rest: what a disaster costs most is time.

    Args:
        repository: Where backups are.
        into: The folder.
        platform: Whose backup; anybody's when absent.
        named: Which; the newest when absent.

    Returns:
        What the backup says of itself.

    Raises:
        KivaError: The passphrase is wrong, something of it is damaged, the disk is full, or there is no such backup.
    """
    chosen = choose(repository.snapshots(), platform, named)
    with whole_or_gone(into):
        into.mkdir(mode=0o700, parents=True)
        _restored(repository, chosen.id, into, _SPEC_PART)
        manifest = read_manifest(into, platform)
        part = {name: file for name, file in manifest.files.items() if name.partition("/")[0] in _SPEC_PART}
        _refuse_damaged(chosen, into, manifest.model_copy(update={"files": part}))
    return manifest


def mark(repository: Repository, name: str) -> str:
    """Mark a backup as tried; marked already, it stays as it is.

    Returns:
        Its id, which marking changes.

    Raises:
        KivaError: It is gone, or the repository cannot be written.
    """
    chosen = choose(repository.snapshots(), None, name)
    return chosen.id if VERIFIED in chosen.tags else repository.tag(chosen.id, VERIFIED)


def missing(snapshots: Sequence[Kept], layout: Layout) -> list[str]:
    """Backups that were tried on this machine, are newer than all there are, and are gone: a repository cannot tell that by itself.

    Args:
        snapshots: All that there are of the platform.
        layout: The platform's files.
    """
    try:
        known = json.loads(verified_of(layout).read_text())
    except (OSError, ValueError):
        return []
    there = [name for one in snapshots for name in (one.id, one.original)]
    newest = max((one.made_at for one in snapshots), default=None)
    gone = []
    for name, facts in known.items() if isinstance(known, Mapping) else ():
        try:
            made_at = datetime.fromisoformat(facts["made_at"])
        except (KeyError, TypeError, ValueError):
            continue
        made_at = made_at if made_at.tzinfo else made_at.replace(tzinfo=UTC)
        known_still = any(one.startswith(str(name)) for one in there)  # the backup program tells a new one's name in short
        if not known_still and (newest is None or made_at > newest):
            gone.append(str(name))
    return gone


def remember(layout: Layout, snapshot: str, facts: Mapping[str, object]) -> None:
    """Note that a backup was tried, and how.

    Raises:
        KivaError: The disk is full, or may not be written.
    """
    from kivactl.targets.release import write_json

    path = verified_of(layout)
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        known = {}
    with told(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_json(path, {**(known if isinstance(known, dict) else {}), snapshot: dict(facts)})


def _restored(repository: Repository, snapshot: str, into: Path, only: Sequence[str] = ()) -> None:
    """The backup program cannot tell which of two disks is full; fetching needs room only where it writes."""
    try:
        repository.restore(snapshot, into, only)
    except PreconditionError as error:
        if "no space left" not in error.message:
            raise
        raise PreconditionError(f"no space left on the disk that holds {into}", error.hint) from error


def _refuse_damaged(chosen: Kept, tree: Path, manifest: Manifest) -> None:
    faults = tuple(faults_of_files(tree, manifest))
    if faults:
        raise CheckError(f"the backup {chosen.id[:_SHOWN]} is damaged", "choose another: kivactl backup list", faults[:20])


def _tagged(snapshot: Kept, name: str) -> str:
    return next((tag.partition("=")[2] for tag in snapshot.tags if tag.startswith(f"{name}=")), "")

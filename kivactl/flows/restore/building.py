"""Builds a state folder out of a fetched backup: a copy of it, checked byte by byte while it is made."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kivactl.errors import CheckError, told
from kivactl.flows.restore.manifest import File, Manifest
from kivactl.flows.restore.places import KEPT
from kivactl.stack.layout import Layout
from kivactl.targets.release import read_release, write_release
from kivactl.tools.folders import make_private

_STATE = "state/"
_FOLDERS = ("gateway", "tls", "tokens", "logs", "usage")
"""What has to be there for a start, be it empty."""


def build_state(tree: Path, manifest: Manifest, into: Path, state: Path, without: frozenset[str] = KEPT) -> None:
    """Write the state of a backup into an empty folder; all of it is on disk afterwards, or the folder is gone.

    Args:
        tree: The fetched backup.
        manifest: What it says of itself.
        into: The folder, which is made anew.
        state: Where the state will lie in the end.
        without: Entries of the state that are left out.

    Raises:
        CheckError: A file is not what the manifest says.
        KivaError: The disk is full, or may not be written.
    """
    with whole_or_gone(into):
        into.mkdir(mode=0o700, parents=True)
        for name in _FOLDERS:
            (into / name).mkdir(mode=0o700)
        for name, known in sorted(manifest.files.items()):
            if name.startswith(_STATE) and name.split("/")[1] not in without:
                copy_file(tree / name, into / name.removeprefix(_STATE), known)
        if Path(manifest.state) != state:
            _forget_processes(into, state)


@contextmanager
def whole_or_gone(folder: Path) -> Iterator[None]:
    """Remove a folder first, and again when what is done meanwhile does not come to its end.

    Raises:
        KivaError: The disk is full, or may not be written.
    """
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with told(folder):
            yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def copy_file(source: Path, to: Path, known: File) -> None:
    """Copy a file of a backup, in one step, and hold its content against the manifest on the way.

    Raises:
        CheckError: It is not what the manifest says.
        OSError: The disk is full, or may not be written.
    """
    make_private(to.parent)
    if known.link is not None:
        to.symlink_to(known.link)
        return
    beside = to.with_name(f".{to.name}.{os.getpid()}")
    digest, written = hashlib.sha256(), 0
    try:
        with source.open("rb") as file, os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as copy:
            while block := file.read(1 << 20):
                digest.update(block)
                written += copy.write(block)
            copy.flush()
            os.fchmod(copy.fileno(), known.mode)
            os.fsync(copy.fileno())
        if (digest.hexdigest(), written) != (known.sha256, known.bytes):
            raise CheckError(f"the file {source} of the backup was changed: its hash is another", "fetch it again: kivactl runbook restore")
        beside.replace(to)
    except FileNotFoundError as error:
        raise CheckError(f"the file {error.filename} of the backup is missing", "fetch it again: kivactl runbook restore") from None
    finally:
        beside.unlink(missing_ok=True)


def keep_logs(old: Path, new: Path) -> int:
    """Take the logs of requests along: the restored ledger knows how far it has read them, so that the meter enters what came since.

    Args:
        old: The state folder as it is; its platform is stopped.
        new: The one that takes its place, on the same disk.

    Returns:
        How many files.
    """
    layout, count = Layout(old, old), 0
    for folder, pattern in ((layout.logs, "*"), (layout.usage, "*.jsonl*")):
        for path in sorted(folder.glob(pattern)) if folder.is_dir() else ():
            link = new / path.relative_to(old)
            if path.is_file() and not path.is_symlink() and not link.exists():
                os.link(path, link)
                count += 1
    return count


def _forget_processes(into: Path, state: Path) -> None:
    """A state in another place: the definitions of its processes lead to the old one, and must never be started."""
    path = Layout(into, state).release
    if path.exists():
        release = read_release(path)
        release.processes, release.spec_digest = {}, ""
        write_release(path, release)

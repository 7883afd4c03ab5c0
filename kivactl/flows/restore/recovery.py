"""Takes the spec out of a backup, where there is none any more: the first step of a disaster's end."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kivactl.errors import PreconditionError, UsageError, told
from kivactl.flows.restore.building import copy_file
from kivactl.flows.restore.fetching import Repository, fetch_spec
from kivactl.flows.restore.manifest import Manifest
from kivactl.targets.lock import held, holder_of

_PLACE = ".kiva-recover-"


def recover_spec(folder: Path, parameters: Mapping[str, Any], opened: Callable[..., Repository]) -> Path:
    """Write `kiva.yaml`, its overlays and the runbooks beside it, as they were backed up; what is there already stays.

    Args:
        folder: Where to.
        parameters: Of the runbook: `repository`, `password_file`, `credentials`, `snapshot`, `platform`; all may be absent.
        opened: Opens the repository: its name, the folder that relative paths count from, a folder for copies, passphrase, credentials.

    Returns:
        The path of the spec.

    Raises:
        KivaError: No repository is named, the passphrase is wrong, something is damaged, or there is no such backup.
    """
    repository = parameters.get("repository") or os.environ.get("KIVA_BACKUP_REPOSITORY")
    if not repository:
        raise UsageError("there is no kiva.yaml here, and no repository to take it from", "kivactl runbook restore --set repository=FOLDER|s3:...|sftp:...")
    if not folder.is_dir():
        raise PreconditionError(f"there is no folder {folder}", f"mkdir -p {folder}")
    with told(folder), _place_in(folder) as place:
        store = opened(str(repository), folder, place / "cache", parameters.get("password_file"), parameters.get("credentials"))
        tree = place / "tree"
        manifest = fetch_spec(store, tree, platform=parameters.get("platform"), named=parameters.get("snapshot"))
        return _written(tree, manifest, place / "ready", folder)


@contextmanager
def _place_in(folder: Path) -> Iterator[Path]:
    """A place of one's own beside the files that are to be written; what a killed recovery left goes, for it holds keys."""
    for left in folder.glob(f"{_PLACE}*"):
        if not holder_of(left / "lock"):
            shutil.rmtree(left, ignore_errors=True)
    place = Path(tempfile.mkdtemp(prefix=_PLACE, dir=folder))
    try:
        with held(place / "lock", "recovery"):
            yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _written(tree: Path, manifest: Manifest, ready: Path, folder: Path) -> Path:
    prefix = "spec/"
    names = [name for name in manifest.files if name.startswith(prefix)]
    if manifest.spec not in names:
        raise PreconditionError(f"the backup holds no {manifest.spec_files[0]}", "kivactl backup list")
    # The spec is the last: whoever is cut off before has none, and begins anew.
    for name in sorted(names, key=lambda name: name == manifest.spec):
        to = folder / name.removeprefix(prefix)
        if not os.path.lexists(to):
            copy_file(tree / name, ready, manifest.files[name])  # whoever is cut off leaves nothing beside the files
            to.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            ready.replace(to)
    return folder / manifest.spec_files[0]

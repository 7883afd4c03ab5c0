"""The tree that a backup holds, built beside the state: copies at one moment, with a manifest of every file.

What did not change keeps its time, so that the backup program reads nothing of it again.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kivactl import __version__
from kivactl.errors import PreconditionError
from kivactl.flows.backup import cluster
from kivactl.flows.deployment import Deployment
from kivactl.flows.restore.manifest import FILE, FORMAT
from kivactl.spec.load import Loaded, resolved
from kivactl.stack.layout import Layout
from kivactl.stack.metering import SQLITE
from kivactl.targets.publication import key_id
from kivactl.targets.register import read_register
from kivactl.targets.release import write_json
from kivactl.tools.folders import make_private, remove
from kivactl.tools.models import ModelStore, hub_reference
from kivactl.usage.snapshot import snapshot, sums_of

_STATE = ("tokens", "tls", "gateway", "evidence", "monitoring", "runs", "release.json", "journal.jsonl", "shares.json")
"""What of the state folder is worth keeping; the ledger is copied by itself, logs and sockets are not."""

_LEDGER = "state/usage/ledger.db"

_PASSING = re.compile(r"\..+\.\d+|lock|reserve|.*\.tmp")
"""Names of what is half-written, or of this process's life only."""


def stage_of(layout: Layout) -> Path:
    """Where the tree is built."""
    return layout.state / "backup" / "stage"


def build_stage(deployment: Deployment) -> dict[str, Any]:
    """Bring the tree up to date.

    Returns:
        The manifest.

    Raises:
        PreconditionError: There is nothing to back up yet, or the disk is full.
        KivaError: The ledger cannot be copied.
    """
    layout, stage = deployment.layout, stage_of(deployment.layout)
    if not layout.signing_key.exists():
        raise PreconditionError(f"this machine is not provisioned for '{deployment.platform.name}': there is nothing to back up", "kivactl provision")
    on_cluster = deployment.platform.target == "kubernetes"
    if on_cluster:
        cluster.refuse_content(deployment)
    make_private(stage)
    (stage / FILE).unlink(missing_ok=True)  # a tree without it is not whole
    wanted: dict[str, Path] = dict(_spec_files(deployment.loaded))
    external = _external_files(deployment)
    wanted.update({at: Path(path) for path, at in external})
    for name in _STATE:
        wanted.update({f"state/{path.relative_to(layout.state)}": path for path in _files(layout.state / name)})
    models = list(_models(deployment))
    for model in models:
        if model["with_content"]:
            wanted.update(_model_files(Path(model["path"]), model["at"]))
    told = cluster.written(deployment) if on_cluster else {}
    _swept(stage, {*wanted, *told, _LEDGER})  # first, for what was a file may be a folder now
    for name, path in wanted.items():
        _copied(path, stage / name, linked=name.startswith("models/"))
    for name, text in told.items():
        _written(text, stage / name)
    ledger = _ledger(deployment, stage / _LEDGER)
    if ledger is None:
        (stage / _LEDGER).unlink(missing_ok=True)
    kept = {*wanted, *told, *({_LEDGER} if ledger else ())}
    made_at = datetime.now(UTC)
    made_at = made_at.replace(microsecond=made_at.microsecond // 1000 * 1000)  # as it is written: whoever counts by it has to find the same
    manifest = {
        "format": FORMAT,
        "platform": deployment.platform.name,
        "made_at": made_at.isoformat(timespec="milliseconds"),
        "kivactl": __version__,
        "state": str(layout.state),
        "spec_folder": str(deployment.loaded.folder),
        "spec_files": [os.path.relpath(path, deployment.loaded.folder) for path in deployment.loaded.files],
        "environment": _environment_of(deployment.loaded),
        "files": {name: _described(stage / name) for name in sorted(kept) if os.path.lexists(stage / name)},
        "ledger": ledger,
        "keys": _keys(Layout(stage / "state", stage)),
        "tokens": _tokens(Layout(stage / "state", stage), made_at),
        "models": models,
        "external": [{"path": path, "at": at} for path, at in external],
    }
    write_json(stage / FILE, manifest)
    return manifest


def size_of(manifest: dict[str, Any]) -> int:
    """Bytes of all files of a tree."""
    return sum(int(file.get("bytes", 0)) for file in manifest["files"].values())


def _spec_files(loaded: Loaded) -> Iterator[tuple[str, Path]]:
    """The spec, its overlay, runbooks beside it, and whatever it names within its folder."""
    for path in loaded.files:
        yield f"spec/{os.path.relpath(path, loaded.folder)}", path
    for whole in (resolved(folder, loaded.folder) for folder in ("runbooks", *loaded.platform.runbooks.folders)):
        if whole.is_relative_to(loaded.folder):
            yield from ((f"spec/{path.relative_to(loaded.folder)}", path) for path in _files(whole) if path.suffix in {".yaml", ".yml"})
    for path in _named(loaded):
        if path.is_relative_to(loaded.folder):
            yield f"spec/{path.relative_to(loaded.folder)}", path


def _external_files(deployment: Deployment) -> list[tuple[str, str]]:
    """Files elsewhere that the spec names, and what leads from the name of a hub's model to its files: their path, and where they are in the tree."""
    loaded = deployment.loaded
    outside = sorted({path for path in _named(loaded) if not path.is_relative_to(loaded.folder)} | set(_hub_references(deployment)))
    return [(str(path), f"external/{number}/{path.name}") for number, path in enumerate(outside)]


def _named(loaded: Loaded) -> list[Path]:
    """Files that the spec names: certificates, keys, key sets."""
    gateway = loaded.platform.gateway
    named = [gateway.tls.certificate, gateway.tls.key]
    for issuer in gateway.issuers:
        named += [issuer.ca, issuer.jwks if "://" not in issuer.jwks else None]
    return [path for path in (loaded.folder / one for one in named if one) if path.is_file()]


def _hub_references(deployment: Deployment) -> Iterator[Path]:
    """The files in which the hub's cache says which commit a branch is. Source: the hub's documented cache layout."""
    if deployment.platform.backup.models != "content":
        return
    store = ModelStore(deployment.layout.cache)
    for model in deployment.platform.models:
        prepared = store.prepared(model, deployment.loaded.folder) if model.source_kind == "hub" else None
        reference = hub_reference(model, prepared.path) if prepared else None
        if reference is not None and reference.is_file():
            yield reference


def _model_files(folder: Path, at: str) -> Iterator[tuple[str, Path]]:
    """The files of a model as an engine sees them: the hub's cache has links in their place, and what they lead to lies outside of the folder."""
    whole = folder.resolve()
    for path in _files(whole):
        yield f"{at}/{path.relative_to(whole)}", path.resolve() if path.is_file() else path


def _models(deployment: Deployment) -> Iterator[dict[str, Any]]:
    store, content = ModelStore(deployment.layout.cache), deployment.platform.backup.models == "content"
    for model in deployment.platform.models:
        try:
            prepared = store.prepared(model, deployment.loaded.folder)
        except PreconditionError:
            if content:  # a backup without it would not be what was asked for
                raise
            prepared = None
        told: dict[str, Any] = {"name": model.name, "source": model.source, "revision": getattr(model, "revision", None) or ""}
        told |= {"identity": prepared.identity if prepared else "", "with_content": bool(content and prepared)}
        if content and prepared:
            mark = hashlib.sha256(prepared.identity.encode()).hexdigest()[:16]
            told |= {"path": str(prepared.path), "at": f"models/{mark}"}
        yield told


def _ledger(deployment: Deployment, into: Path) -> dict[str, Any] | None:
    layout, usage = deployment.layout, deployment.platform.usage
    sqlite = usage.ledger == "sqlite"
    if deployment.platform.target == "kubernetes":
        if not cluster.copy_ledger(deployment, into):
            return None
    elif sqlite and not layout.ledger.exists():
        return None
    else:
        make_private(into.parent)
        snapshot(f"{SQLITE}{layout.ledger}" if sqlite else usage.ledger, deployment.platform.name, into)
    sums = sums_of(into)
    return {"kind": "sqlite" if sqlite else "postgresql", "requests": sums["requests"], "sums": sums}


def _keys(layout: Layout) -> dict[str, Any]:
    retired = sorted(path.stem for path in layout.retired_keys.glob("*.pem")) if layout.retired_keys.is_dir() else []
    return {"signing": key_id(layout.signing_key.read_bytes()), "retired": retired}


def _tokens(layout: Layout, now: datetime) -> dict[str, int]:
    """As of the moment of the manifest: whoever reads it counts by its time."""
    register = read_register(layout)
    return {"live": sum(token.live(now) for token in register.tokens), "revoked": sum(token.revoked_at is not None for token in register.tokens)}


def _files(path: Path) -> Iterator[Path]:
    """A file, or everything below a folder but folders and what passes; links are not followed."""
    if path.is_symlink() or path.is_file():
        yield path
        return
    if not path.is_dir():
        return
    for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
        if _PASSING.fullmatch(entry.name):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path))
        elif entry.is_file(follow_symlinks=False) or entry.is_symlink():
            yield Path(entry.path)


def _copied(source: Path, to: Path, *, linked: bool) -> None:
    """Make a copy what its source is; an equal one is left alone. A source that has gone meanwhile is left out."""
    make_private(to.parent)
    try:
        if source.is_symlink():
            target = os.readlink(source)  # noqa: PTH115  (as it is written)
            if not (to.is_symlink() and os.readlink(to) == target):  # noqa: PTH115
                remove(to)
                to.symlink_to(target)
            return
        if linked:
            if not to.is_symlink() and to.exists() and (to.samefile(source) or _as_copied(source, to)):
                return
            remove(to)
            try:
                os.link(source, to)
            except OSError:  # another disk
                shutil.copy2(source, to)
            return
        content, mode = source.read_bytes(), source.stat().st_mode & 0o700
        _put(content, to)
        if to.stat().st_mode & 0o777 != mode:
            to.chmod(mode)
    except FileNotFoundError:
        remove(to)


def _written(text: str, to: Path) -> None:
    make_private(to.parent)
    _put(text.encode(), to)


def _put(content: bytes, to: Path) -> None:
    """Write a file that nobody else can read; an equal one is left alone."""
    if not (to.is_file() and not to.is_symlink() and to.read_bytes() == content):
        remove(to)
        descriptor = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)


def _as_copied(source: Path, to: Path) -> bool:
    """Whether a copy on another disk is still what its source is: models are too large to read them to find out."""
    one, other = source.stat(), to.stat()
    return (one.st_size, one.st_mtime_ns) == (other.st_size, other.st_mtime_ns)


def _swept(stage: Path, kept: set[str]) -> None:
    """Remove what no longer belongs into the tree."""
    for path in sorted(stage.rglob("*"), reverse=True):
        name = str(path.relative_to(stage))
        if path.is_dir() and not path.is_symlink():
            with suppress(OSError):
                path.rmdir()  # only an empty one goes
        elif name not in kept:
            path.unlink()


def _described(path: Path) -> dict[str, Any]:
    if path.is_symlink():
        return {"link": os.readlink(path)}  # noqa: PTH115
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    status = path.stat()
    return {"sha256": digest, "bytes": status.st_size, "mode": status.st_mode & 0o777}


def _environment_of(loaded: Loaded) -> str | None:
    """The overlay's name: `prod` of `kiva.prod.yaml`."""
    if len(loaded.files) < 2:
        return None
    base, overlay = loaded.files[0], loaded.files[1]
    return overlay.name.removeprefix(f"{base.stem}.").removesuffix(overlay.suffix)

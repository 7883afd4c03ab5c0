"""What a backup says of itself: its `manifest.json`, read strictly, for it may come from anywhere."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from kivactl.errors import CheckError, PreconditionError

FORMAT = 1
"""The one that this version writes and reads."""

FILE = "manifest.json"


_PARTED = frozenset({"external", "models"})
"""Folders of the tree whose own folders go to different places."""


def _inside(text: str) -> str:
    path = PurePosixPath(text)
    if not text or path.is_absolute() or ".." in path.parts or "\0" in text:
        msg = f"'{text}' leads out of the backup"
        raise ValueError(msg)
    return text


Inside = Annotated[str, AfterValidator(_inside)]
"""A path within the backup's tree."""


class _Read(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class File(_Read):
    """A file of the tree, or a link in it."""

    sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    bytes: int = Field(default=0, ge=0)
    mode: int = Field(default=0o600, ge=0, le=0o777)
    link: str | None = None


class Ledger(_Read):
    """What the ledger adds up to."""

    kind: str = "sqlite"
    requests: int = 0
    sums: dict[str, Any] = Field(default_factory=dict)


class Keys(_Read):
    """Ids of the keys for tokens."""

    signing: str
    retired: tuple[str, ...] = ()


class Tokens(_Read):
    """How many there are in the register."""

    live: int = 0
    revoked: int = 0


class ModelEntry(_Read):
    """A model that was deployed."""

    name: str
    source: str = ""
    identity: str = ""
    with_content: bool = False
    path: str = ""
    at: Inside | None = None


class External(_Read):
    """A file that the spec names outside of its folder."""

    path: str
    at: Inside


class Manifest(_Read):
    """All of it."""

    format: int
    platform: str = Field(min_length=1)
    made_at: AwareDatetime
    kivactl: str = ""
    state: str
    spec_folder: str = ""
    spec_files: tuple[Inside, ...] = Field(min_length=1)
    environment: str | None = None
    files: dict[Inside, File]
    ledger: Ledger | None = None
    keys: Keys
    tokens: Tokens = Tokens()
    models: tuple[ModelEntry, ...] = ()
    external: tuple[External, ...] = ()

    @model_validator(mode="after")
    def _whole(self) -> Self:
        """What it promises has to be among its files: nobody is to notice that once half of it is in place."""
        promised = [*((f"the file {one.path}", one.at in self.files) for one in self.external)]
        for model in self.models:
            there = model.at is not None and model.path != "" and any(name.startswith(f"{model.at}/") for name in self.files)
            promised.append((f"the content of the model {model.name}", there or not model.with_content))
        missing = [what for what, kept in promised if not kept]
        if missing:
            msg = f"{', '.join(missing)} is not in the backup"
            raise ValueError(msg)
        return self

    @property
    def spec(self) -> str:
        """The spec without its overlay, as it is called within the tree."""
        return f"spec/{self.spec_files[0]}"

    def age_s(self, at: datetime) -> float:
        """Seconds from the backup until a moment: what of the time before it is lost."""
        return max(0.0, (at - self.made_at).total_seconds())


def read_manifest(tree: Path, platform: str | None = None) -> Manifest:
    """The manifest of a fetched backup.

    Args:
        tree: Folder that was fetched.
        platform: Whose it has to be; anybody's when absent.

    Raises:
        PreconditionError: Another version of kivactl wrote it in another form, or it is another platform's.
        CheckError: It is missing or damaged.
    """
    path = tree / FILE
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise CheckError(f"the backup's {FILE} is damaged: no plain file", "choose another backup: kivactl backup list")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise CheckError(f"the backup has no {FILE}: kivactl did not make it, or it is damaged", "kivactl backup list") from None
    return parse_manifest(content, platform)


def parse_manifest(content: bytes, platform: str | None = None) -> Manifest:
    """What a manifest's file says.

    Args:
        content: Of the file.
        platform: Whose it has to be; anybody's when absent.

    Raises:
        PreconditionError: Another version of kivactl wrote it in another form, or it is another platform's.
        CheckError: It is damaged.
    """
    import json

    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        raise CheckError(f"the backup's {FILE} is damaged: not JSON", "choose another backup: kivactl backup list") from None
    refuse_format(data.get("format") if isinstance(data, dict) else None)
    try:
        manifest = Manifest.model_validate(data)
    except ValidationError as error:
        faults = tuple(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()[:10])
        raise CheckError(f"the backup's {FILE} is damaged", "choose another backup: kivactl backup list", faults) from None
    if platform is not None and manifest.platform != platform:
        raise PreconditionError(
            f"the backup is of the platform '{manifest.platform}', not of '{platform}'",
            f"name the right one: kivactl backup list; or `name: {manifest.platform}`",
        )
    return manifest


def refuse_format(number: object) -> None:
    """Refuse what this version cannot read.

    Raises:
        PreconditionError: It is older or newer.
        CheckError: It is no number at all.
    """
    if not isinstance(number, int) or isinstance(number, bool):
        raise CheckError(f"the backup's {FILE} is damaged: it names no format", "choose another backup: kivactl backup list")
    if number > FORMAT:
        raise PreconditionError(f"the backup was written by a newer kivactl (format {number}; this one reads {FORMAT})", "pip install --upgrade kivactl")
    if number < FORMAT:
        raise PreconditionError(
            f"the backup was written by an older kivactl (format {number}; this one reads {FORMAT})",
            "restore it with the version that wrote it, then back up anew",
        )


def faults_of_files(tree: Path, manifest: Manifest) -> Iterator[str]:
    """Every file of the tree that is not what the manifest says, and every one that it does not know, in a sentence."""
    there = {str(path.relative_to(tree)) for path in _files_below(tree)} - {FILE}
    for name in sorted(set(manifest.files) - there):
        yield f"{name} is missing"
    for name in sorted(there - set(manifest.files)):
        yield f"{name} is not in the manifest"
    for name in sorted(there & set(manifest.files)):
        fault = _fault_of(tree, name, manifest.files[name])
        if fault:
            yield f"{name} {fault}"


def sha256_of(path: Path) -> str:
    """Of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fault_of(tree: Path, name: str, known: File) -> str:
    path = tree / name
    if path.is_symlink() or known.link is not None:
        if not path.is_symlink() or known.link is None or str(path.readlink()) != known.link:
            return "is not the link that was backed up"
        return _fault_of_link(tree, name, known.link)
    if not path.is_file():
        return "is not a plain file"
    size = path.stat().st_size
    if size != known.bytes:
        return f"has {size} bytes instead of {known.bytes}"
    return "" if sha256_of(path) == known.sha256 else "was changed: its hash is another"


def _fault_of_link(tree: Path, name: str, link: str) -> str:
    """By where it truly leads, over other links too; the state goes to another place than the spec, so each has to do with itself."""
    first, *others = PurePosixPath(name).parts
    part = tree / first / others[0] if first in _PARTED and others else tree / first
    target = Path(os.path.realpath(tree / name))
    if Path(link).is_absolute() or not target.is_relative_to(os.path.realpath(part)):
        return "is a link that leads out of the backup"
    # Only within the state may a link lead to what was left out.
    return "" if first == "state" or target.exists() else "is a link to what was not backed up"


def _files_below(folder: Path) -> Iterator[Path]:
    """Everything but folders; links are not followed."""
    folders = [folder]
    while folders:
        for entry in os.scandir(folders.pop()):
            if entry.is_dir(follow_symlinks=False):
                folders.append(Path(entry.path))
            else:
                yield Path(entry.path)

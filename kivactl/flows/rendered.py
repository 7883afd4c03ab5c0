"""A rendered folder: what kivactl wrote there and how, what differs from what it would write now, and nothing of anybody else's.

`render.json` in the folder lists every file of kivactl's with its hash, and the options it was rendered with. Files that are not in it are
somebody else's: they are neither overwritten nor removed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kivactl.errors import PreconditionError, UsageError, told
from kivactl.plan import Change, Verb

INDEX = "render.json"

_FORMAT = 1
_HARMLESS = frozenset({".git", ".gitattributes", ".gitignore", ".gitkeep"})
"""What may lie in a folder that is empty otherwise."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """What a folder holds by its index.

    Attributes:
        options: What it was rendered with.
        files: Hash of every file by its path in the folder.
    """

    options: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)


def read_rendered(folder: Path) -> Rendered | None:
    """What a folder holds; None when it does not exist or is empty.

    Raises:
        UsageError: It is not a rendered one, or of another version of kivactl.
    """
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder", "kivactl render ANOTHER-FOLDER")
    index = folder / INDEX
    if not index.is_file():
        strange = sorted(path.name for path in folder.iterdir() if path.name not in _HARMLESS)
        if strange:
            raise UsageError(f"{folder} holds something that kivactl did not render: {', '.join(strange[:3])}", "kivactl render AN-EMPTY-FOLDER")
        return None
    try:
        data = json.loads(index.read_text())
        if data["format"] != _FORMAT:
            raise UsageError(f"{index} is of another version of kivactl", "render into an empty folder, then put it in place of this one")
        return Rendered(dict(data["options"]), dict(data["files"]))
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{index} is damaged", f"git checkout {index}, or render into an empty folder") from None


def edited(folder: Path, rendered: Rendered) -> list[str]:
    """The files of kivactl's that are not as it wrote them, or not there any more; by path."""
    texts = ((path, _read(folder / path)) for path in rendered.files)
    return sorted(path for path, text in texts if text is None or hash_of(text) != rendered.files[path])


def hash_of(text: str) -> str:
    """Of a file's content."""
    return hashlib.sha256(text.encode()).hexdigest()


def index_text(rendered: Rendered) -> str:
    """The content of the index."""
    return json.dumps({"format": _FORMAT, **asdict(rendered)}, indent=1, sort_keys=True) + "\n"


def differences(folder: Path, rendered: Rendered | None, files: Mapping[str, str], keep: Iterable[str] = ()) -> tuple[Change, ...]:
    """What writing would change in a folder, by path.

    Args:
        folder: The folder.
        rendered: What it holds.
        files: What it should hold, without the index.
        keep: Top folders whose files are not looked at.
    """
    known = rendered.files if rendered else {}
    kept = set(keep)
    changes = []
    for path in sorted({*files, *(path for path in known if path.partition("/")[0] not in kept)}):
        there = _read(folder / path)
        if path not in files:
            if there is not None:
                changes.append(Change(Verb.DELETE, path))
        elif there is None:
            changes.append(Change(Verb.CREATE, path))
        elif there != files[path]:
            changes.append(Change(Verb.UPDATE, path))
    return tuple(changes)


def write_rendered(folder: Path, before: Rendered | None, after: Rendered, files: Mapping[str, str], changes: Iterable[Change]) -> None:
    """Make a folder what it should be; interrupted at any moment, the next run goes on from there.

    Args:
        folder: The folder; made when it is not there.
        before: What it holds.
        after: What its index shall say.
        files: Content by path.
        changes: As from `differences`.

    Raises:
        PreconditionError: A file of somebody else lies where one is to be written, or a link leads elsewhere.
        KivaError: The disk is full, or there is no permission.
    """
    known = before.files if before else {}
    listed = list(changes)
    for change in listed:
        _refuse_foreign(folder, change, known)
    index = index_text(after)
    if not listed and _read(folder / INDEX) == index:
        return
    with told(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # First it claims both what was and what will be: what a killed run leaves behind is then still known as kivactl's.
        _write(folder / INDEX, index_text(Rendered(after.options, {**known, **after.files})))
        for change in listed:
            path = folder / change.subject
            if change.verb is Verb.DELETE:
                path.unlink()
                _remove_empty(path.parent, folder)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                _write(path, files[change.subject])
        _write(folder / INDEX, index)


def _refuse_foreign(folder: Path, change: Change, known: Mapping[str, str]) -> None:
    path = folder / change.subject
    if change.verb is Verb.UPDATE and change.subject not in known:
        raise PreconditionError(f"{path} is there and was not rendered by kivactl", f"mv {path} somewhere else, then render again")
    for part in (path, *path.parents):
        if part == folder:
            break
        if part.is_symlink():
            raise PreconditionError(f"{part} is a link, and kivactl writes no file through one", f"rm {part}")


def _write(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text)
    beside.replace(path)


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnicodeDecodeError:
        return ""


def _remove_empty(path: Path, top: Path) -> None:
    while path != top and not any(path.iterdir()):
        path.rmdir()
        path = path.parent

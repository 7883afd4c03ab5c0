"""Which runbooks there are: one's own beside the spec, those of the spec's `runbooks.folders`, those that come with kivactl."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kivactl import root
from kivactl.errors import UsageError
from kivactl.spec import document
from kivactl.spec.document import Node

if TYPE_CHECKING:
    from kivactl.spec.load import Loaded

RESERVED_NAMES = ("list", "show", "run", "check", "plan", "history", "resume", "report", "verify", "approve")
"""Words behind `kivactl runbook` that mean something else than a runbook."""

_TOP = re.compile(r"^(?=[A-Za-z_])", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Listed:
    """A runbook that was found.

    Attributes:
        name: Its file's name without the ending.
        path: Its file.
        shipped: Whether it came with kivactl.
        title: In the language asked for; empty when it cannot be read.
        purpose: The same.
        hides: The file of the same name that it hides; None when it hides none.
    """

    name: str
    path: Path
    shipped: bool
    title: str
    purpose: str
    hides: Path | None

    def as_dict(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return {**asdict(self), "path": str(self.path), "hides": None if self.hides is None else str(self.hides)}


def folders(loaded: Loaded | None) -> list[Path]:
    """Where runbooks are looked for, the first first; folders that are not there are left out."""
    from kivactl.spec.load import resolved

    own = [loaded.folder / "runbooks", *(resolved(folder, loaded.folder) for folder in loaded.platform.runbooks.folders)] if loaded else []
    found: list[Path] = []
    for folder in (*own, root.content("runbooks")):
        if folder.is_dir() and not any(folder.samefile(known) for known in found):
            found.append(folder)
    return found


def available(loaded: Loaded | None) -> dict[str, Path]:
    """Every runbook's file by its name; one's own hides a shipped one of the same name."""
    found: dict[str, Path] = {}
    for name, path in _files(loaded):
        found.setdefault(name, path)
    return found


def located(name: str, loaded: Loaded | None) -> Path:
    """The file of a runbook.

    Raises:
        UsageError: There is none of that name.
    """
    found = available(loaded)
    if name not in found:
        near = difflib.get_close_matches(name, [*found, *RESERVED_NAMES], n=1)
        raise UsageError(f"there is no runbook named '{name}'", f"kivactl runbook {near[0]}" if near else "kivactl runbook list")
    return found[name]


def listing(loaded: Loaded | None, language: str) -> list[Listed]:
    """Every runbook with what it is for. Reads no more of the files than that, so a list is quick and faults elsewhere do not matter."""
    shipped = root.content("runbooks")
    hidden: dict[str, Path] = {}
    first = available(loaded)
    for name, path in _files(loaded):
        if path != first[name]:
            hidden.setdefault(name, path)
    rows = []
    for name, path in sorted(first.items()):
        head = _head(path)
        rows.append(Listed(name, path, path.parent == shipped, _sentence(head, "title", language), _sentence(head, "purpose", language), hidden.get(name)))
    return rows


def _files(loaded: Loaded | None) -> Iterator[tuple[str, Path]]:
    for folder in folders(loaded):
        for path in sorted(folder.glob("*.yaml")):
            yield path.stem, path


def _head(path: Path) -> Node | None:
    """Title and purpose alone, when they stand at the top as usual; otherwise the whole file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None
    blocks = [block for block in _TOP.split(text) if block.startswith(("title:", "purpose:"))]
    tree, faults = document.parse("".join(blocks), path)
    return tree if not faults else None


def _sentence(head: Node | None, key: str, language: str) -> str:
    part = head.child(key) if head else None
    node = (part.child(language) or part.child("en")) if part else None
    return node.value if node is not None and isinstance(node.value, str) else ""

"""Folders that are this user's alone, and whatever is to go."""

from __future__ import annotations

import shutil
from pathlib import Path


def make_private(path: Path) -> None:
    """Make a folder and those above it for this user only: `mkdir(parents=True)` would open those above to others."""
    if not path.is_dir():
        make_private(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it; nothing is there afterwards."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

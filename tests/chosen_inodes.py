"""Inodes as a test wants them, so that one is used again for certain and at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from kivactl.usage import follow


class Inodes:
    """Has whoever follows logs see the inodes that were given to files, whatever the file system has given them."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._given: dict[int, int] = {}
        entries, inode = follow._entries, follow._inode
        patch.setattr(follow, "_entries", lambda folder: [(name, self._of(number)) for name, number in entries(folder)])
        patch.setattr(follow, "_inode", lambda file: self._of(inode(file)))

    def give(self, path: Path, inode: int) -> None:
        """Let a file have an inode."""
        self._given[path.stat().st_ino] = inode

    def give_smallest(self, path: Path, follower: follow.Follower) -> None:
        """Let a new file have the first inode that no other name in its folder and no open file has, as file systems do."""
        named = {self._of(other.stat().st_ino) for other in path.parent.iterdir() if other != path}
        held = {file.inode for file in follower._files.values() if file.descriptor >= 0}
        self.give(path, next(number for number in range(1, 1000) if number not in named | held))

    def _of(self, number: int) -> int:
        return self._given.get(number, number)

"""Finds the content folders: playbooks, terraform, helm, runbooks, loadtests.

In a checkout they stand beside the package; in an installed wheel they travel inside it, below `kivactl/content/`.
"""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def content(folder: str) -> Path:
    """The path of a content folder.

    Args:
        folder: `playbooks`, `terraform`, `helm`, `runbooks` or `loadtests`.

    Raises:
        ValueError: There is no such folder: a broken installation or a misspelt name.
    """
    for parent in (PACKAGE / "content", PACKAGE.parent):
        if (parent / folder).is_dir():
            return parent / folder
    msg = f"no content folder named {folder}"
    raise ValueError(msg)

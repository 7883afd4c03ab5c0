"""Reads a runbook and binds every action, probe, parameter and placeholder before anything runs; all faults are told at once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kivactl.errors import SpecError
from kivactl.runbooks.binder import Binder, faulty
from kivactl.runbooks.bound import Bound
from kivactl.spec import document
from kivactl.spec.document import Fault, Node, Place
from kivactl.spec.load import Loaded


def bind(name: str, loaded: Loaded | None = None, chosen: Mapping[str, Any] | None = None) -> Bound:
    """Read a runbook by its name.

    Args:
        name: Of a runbook in one of the folders.
        loaded: The spec whose folders are searched and whose names parameters may have; None without a spec.
        chosen: Values of the parameters, as text or as an earlier run kept them; None when none is chosen yet: then
            examples stand for those without a default, and sentences show `<name>`.

    Raises:
        UsageError: There is none of that name, or a parameter does not fit.
        SpecError: It has faults; all are told.
    """
    from kivactl.runbooks.listing import located

    return bind_file(located(name, loaded), loaded, chosen)


def bind_file(path: Path, loaded: Loaded | None = None, chosen: Mapping[str, Any] | None = None) -> Bound:
    """Read a runbook from its file; see `bind`.

    Raises:
        UsageError: A parameter does not fit.
        SpecError: It has faults; all are told.
    """
    tree, faults, text = _read(path)
    if tree is None:
        faults = faults or [Fault(Place(path, 1), "", "is empty")]
        raise faulty(path, faults)
    try:
        bound = Binder(path, tree, faults, loaded, chosen).bound(text, hashlib.sha256(text).hexdigest())
    except RecursionError:
        raise faulty(path, [Fault(Place(path, 1), "", "is nested too deeply")]) from None
    if bound is None:
        raise faulty(path, faults)
    return bound


def _read(path: Path) -> tuple[Node | None, list[Fault], bytes]:
    """The tree and the very bytes that it was read from."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise SpecError(f"{path} is not a regular file")
    text = document.content_of(path)
    tree, faults = document.parse_bytes(text, path)
    return tree, faults, text

"""`deploy --plan --rendered DIR`: what the spec would change against a rendered folder, as a plan against a cluster shows it; no cluster is asked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kivactl.errors import PreconditionError, UsageError
from kivactl.flows.render import Rendering, Wishes, plan_render
from kivactl.flows.rendered import INDEX, Rendered, edited, read_rendered
from kivactl.plan import Change, Plan, digest
from kivactl.stack.kubernetes.releases import ChartRelease
from kivactl.targets.kubernetes.folder import FolderRelease, course_between
from kivactl.targets.kubernetes.manifests import parse_documents
from kivactl.targets.kubernetes.plan import plan_of

_SHOWN = 5
"""Edited files that are named."""

UNSEEN = "whether it fits and how pods are exchanged, only the cluster knows: kivactl deploy --plan"


def plan_against(spec: Path, environment: str | None, folder: Path) -> Plan:
    """What the spec would change of the platform that a folder was rendered for; reads only, and asks no cluster.

    Args:
        spec: The base, such as `/srv/llm/kiva.yaml`.
        environment: One overlay; every one that there is when None, the base alone when there is none.
        folder: As `kivactl render` wrote it.

    Raises:
        SpecError: The spec has faults, or is not for Kubernetes.
        PreconditionError: The folder is not there, not rendered, or edited since; keys or helm are missing.
        ToolError: A chart cannot be rendered.
    """
    before = _read(folder)
    rendering = plan_render(spec, environment, folder, Wishes(), stored_keys=True)
    there = {path.partition("/")[0] for path in before.files if path.endswith("/release.json")}
    names = [*rendering.digests, *sorted(there - set(rendering.digests) if environment is None else ())]
    files = {path: (folder / path).read_text() for path in before.files if path.partition("/")[0] in names}
    changes: list[Change] = []
    basis = {}
    for name in names:
        found = plan_of(course_between(_releases(files, name), _releases(rendering.files, name)), name)
        changes += found.changes if len(names) == 1 else (replace(one, subject=f"{name}: {one.subject}") for one in found.changes)
        basis[name] = found.basis
    title = f"deploy {_platform(rendering)} on kubernetes, against {folder / names[0] if len(names) == 1 else folder}"
    return Plan(title, tuple(changes), tuple(_notes(rendering, changes, files)), digest([basis, dict(rendering.digests)]))


def _read(folder: Path) -> Rendered:
    """What a folder holds, as kivactl wrote it.

    Raises:
        PreconditionError: It is none, or not as it was written. Never a usage error: its exit code means that something would change.
    """
    try:
        before = read_rendered(folder)
    except UsageError as error:
        raise PreconditionError(error.message, error.hint, error.details) from None
    if before is None:
        raise PreconditionError(f"nothing has been rendered into {folder}: it holds no {INDEX}", f"kivactl render {folder}")
    changed = edited(folder, before)
    if changed:
        more = (f"and {len(changed) - _SHOWN} more",) if len(changed) > _SHOWN else ()
        raise PreconditionError(
            f"{folder} is not as kivactl rendered it: somebody changed {len(changed)} of its files",
            f"git checkout {folder}, or take the spec's state over: kivactl render {folder}",
            (*changed[:_SHOWN], *more),
        )
    return before


def _releases(files: Mapping[str, str], environment: str) -> dict[str, FolderRelease]:
    """The releases of an environment, by name."""
    about = json.loads(files.get(f"{environment}/release.json", "{}"))
    models = {str(one.get("release")): name for name, one in (about.get("models") or {}).items()}
    whole = any(path.startswith(f"{environment}/manifests/") for path in files)
    return {
        name: FolderRelease(
            ChartRelease(name, str(one["chart"]), "", _values(files, environment, name), 0, models.get(name, "")),
            _joined(text for path, text in sorted(files.items()) if path.startswith(f"{environment}/manifests/{name}/")) if whole else None,
        )
        for name, one in (about.get("releases") or {}).items()
    }


def _values(files: Mapping[str, str], environment: str, release: str) -> dict[str, Any]:
    documents = parse_documents(files.get(f"{environment}/values/{release}.yaml", ""))
    return dict(documents[0] or {}) if documents else {}


def _joined(texts: Iterable[str]) -> str:
    return "---\n".join(texts)


def _platform(rendering: Rendering) -> str:
    name = next(iter(rendering.digests))
    return str(json.loads(rendering.files[f"{name}/release.json"])["platform"])


def _notes(rendering: Rendering, changes: list[Change], files: Mapping[str, str]) -> Iterable[str]:
    yield from rendering.plan.notes
    if not any("/manifests/" in path for path in files):
        yield f"{rendering.folder} holds no manifests, so the values of the charts are compared (kivactl render {rendering.folder} --style all writes both)"
    stale = len(rendering.plan.changes)
    if changes:
        yield UNSEEN
    elif stale:
        files_are = "1 file is" if stale == 1 else f"{stale} files are"
        yield f"no object would change, but {files_are} older than the spec or this kivactl: kivactl render {rendering.folder}"

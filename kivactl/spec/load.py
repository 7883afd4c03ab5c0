"""Reads `kiva.yaml` and its overlay, and says everything that is wrong with them at once.

pydantic loads only inside `load`: `status` needs no more than the name and the state folder (`site`).
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kivactl.errors import SpecError
from kivactl.spec import document
from kivactl.spec.document import Fault, Node, Place

if TYPE_CHECKING:
    from kivactl.spec.gateway import Issuer
    from kivactl.spec.infrastructure import Infrastructure
    from kivactl.spec.platform import Platform

FILE = "kiva.yaml"
DEFAULT_STATE = ".kiva"
ENVIRONMENTS = ("dev", "prod", "init")
"""The environments for which `kivactl init` has an overlay; any other name is as good."""

_ENVIRONMENT = re.compile(r"[a-z0-9][a-z0-9-]*")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A spec as read.

    Attributes:
        platform: What it says; files it names (certificate, key, model folder) are absolute.
        files: What was read: the base, then the overlay if there is one.
        folder: Absolute folder of the base; relative paths in the spec count from it.
        digest: Hash of the merged data as written; blanks and comments do not count.
    """

    platform: Platform
    files: tuple[Path, ...]
    folder: Path
    digest: str


def find(start: Path | None) -> Path:
    """The spec to read: the given file or folder, `KIVACTL_SPEC`, or `kiva.yaml` here or in a folder above.

    Args:
        start: What the command line names; None when it names nothing.

    Returns:
        The absolute path of a file that exists.

    Raises:
        SpecError: There is none.
    """
    named = start or (Path(os.environ["KIVACTL_SPEC"]) if os.environ.get("KIVACTL_SPEC") else None)
    if named is not None:
        path = Path(os.path.abspath(named.expanduser()))  # noqa: PTH100  (a link keeps its own folder)
        path = path / FILE if path.is_dir() else path
        if not path.exists():
            raise SpecError(f"there is no file {path}", "kivactl init")
        return path
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / FILE).is_file():
            return folder / FILE
    raise SpecError(f"there is no {FILE} in {here} or a folder above", "kivactl init")


def load(path: Path, environment: str | None = None) -> Loaded:
    """Read a spec.

    Args:
        path: The base, such as `/srv/llm/kiva.yaml`.
        environment: Name of the overlay, such as `prod` for `kiva.prod.yaml` beside the base; None for none.

    Raises:
        SpecError: A file is missing or unreadable, or there are faults: all of them, one a line, with file and line.
    """
    tree, files, faults = _merged(path, environment)
    from kivactl.spec.faults import validated
    from kivactl.spec.platform import Platform

    platform, more = validated(Platform, tree)
    told = {fault.path for fault in faults if fault.path}
    faults += [fault for fault in more if fault.path not in told]
    if faults or platform is None:
        raise _spec_error(path, files, faults)
    folder = files[0].parent
    return Loaded(_with_absolute_paths(platform, folder), files, folder, _digest(tree.plain))


def merged(path: Path, environment: str | None = None) -> Node:
    """The base with its overlay, checked as YAML only.

    Raises:
        SpecError: As `load`, but for the meaning of the keys.
    """
    tree, files, faults = _merged(path, environment)
    if faults:
        raise _spec_error(path, files, faults)
    return tree


@dataclass(frozen=True, slots=True)
class Site:
    """What of a spec is needed to find a platform.

    Attributes:
        name: The platform's.
        state: Absolute folder of its state.
        on_cluster: Whether it runs on Kubernetes.
    """

    name: str
    state: Path
    on_cluster: bool = False


def site(path: Path, environment: str | None = None) -> Site:
    """The platform's name, state folder and kind of target, without checking the rest of the spec.

    Raises:
        SpecError: A file is missing, unreadable or not YAML, or one of the two is not text.
    """
    tree, files, faults = _merged(path, environment)
    if any(not fault.path for fault in faults):
        raise _spec_error(path, files, faults)
    name = tree.child("name")
    storage = tree.child("storage")
    state = storage.child("state") if storage else None
    for node, key in ((name, "name"), (state, "storage.state")):
        if node is not None and not isinstance(node.value, str):
            faults.append(Fault(node.place, key, f"must be text, not {document.shown(node.value)}"))
    if name is None:
        faults.append(Fault(tree.place, "name", "is missing"))
    if any(fault.path in {"name", "storage", "storage.state"} for fault in faults):
        raise _spec_error(path, files, faults)
    assert name is not None
    target = tree.child("target")
    on_cluster = target is not None and target.value == "kubernetes"
    return Site(name.value, resolved(state.value if state else DEFAULT_STATE, files[0].parent), on_cluster)


def paths(loaded: Loaded) -> tuple[Path, Path]:
    """The absolute state and cache folders."""
    storage = loaded.platform.storage
    return resolved(storage.state, loaded.folder), resolved(storage.cache, loaded.folder)


def resolved(text: str, folder: Path) -> Path:
    """A path as written in a spec, made absolute: `~` is the user's home, relative paths count from the spec's folder.

    Raises:
        SpecError: There is no such user, or this one has no home.
    """
    try:
        return Path(os.path.normpath(folder / Path(text).expanduser()))
    except RuntimeError:
        raise SpecError(f"the home folder in '{text}' cannot be found", "write an absolute path") from None


def overlay_path(path: Path, environment: str) -> Path:
    """Where the overlay of an environment lies: `kiva.prod.yaml` beside `kiva.yaml`.

    Raises:
        SpecError: The environment's name is no name.
    """
    if not _ENVIRONMENT.fullmatch(environment):
        raise SpecError(f"'{environment}' is not the name of an environment: write lower-case letters, digits and dashes, such as prod")
    return path.with_name(f"{path.stem}.{environment}{path.suffix}")


def environments(path: Path) -> list[str]:
    """The environments that have an overlay beside a base, sorted."""
    pattern = re.compile(rf"{re.escape(path.stem)}\.({_ENVIRONMENT.pattern}){re.escape(path.suffix)}")
    return sorted(match[1] for file in path.parent.iterdir() if (match := pattern.fullmatch(file.name)))


def _merged(path: Path, environment: str | None) -> tuple[Node, tuple[Path, ...], list[Fault]]:
    base = Path(os.path.abspath(path))  # noqa: PTH100  (a link keeps its own folder)
    files: tuple[Path, ...] = (base,)
    if environment is not None:
        files = (base, _existing_overlay(base, environment))
    tree: Node | None = None
    faults: list[Fault] = []
    broken = False
    for file in files:
        part, found = document.read(file)
        if part is None and not found and file == base:
            found.append(Fault(Place(file, 1), "", "is empty; `kivactl init --force` writes a commented one"))
        elif part is not None and not isinstance(part.value, dict):
            found.append(Fault(part.place, "", f"must be a mapping of keys such as 'name: kiva', not {document.shown(part.value)}"))
            part = None
        broken = broken or (part is None and bool(found))
        faults += found
        if part is not None:
            faults += document.same_names(part)
            tree = document.merge(tree, part) if tree else part
    if tree is None or broken:
        raise _spec_error(path, files, faults)
    return tree, files, faults


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _existing_overlay(base: Path, environment: str) -> Path:
    overlay = overlay_path(base, environment)
    if overlay.exists():
        return overlay
    found = environments(base) if base.exists() else []
    near = difflib.get_close_matches(environment, found, n=1)
    advice = f"kivactl init --env {environment}" if environment in ENVIRONMENTS else f"write {overlay} with what differs"
    raise SpecError(
        f"there is no overlay {overlay.name} for the environment '{environment}' beside {base.name}",
        f"did you mean --env {near[0]}?" if near else advice,
        tuple(f"found: {overlay_path(base, name).name}" for name in found),
    )


def _spec_error(path: Path, files: tuple[Path, ...], faults: list[Fault]) -> SpecError:
    ordered = sorted(set(faults), key=lambda fault: (files.index(fault.place.file), fault.place.line, fault.path, fault.message))
    count = "a fault" if len(ordered) == 1 else f"{len(ordered)} faults"
    return SpecError(f"{path} has {count}", "correct it, then: kivactl spec check", tuple(map(str, ordered)))


def _with_absolute_paths(platform: Platform, folder: Path) -> Platform:
    models = tuple(
        model.model_copy(update={"source": f"path:{resolved(model.source_name, folder)}"}) if model.source_kind == "path" else model
        for model in platform.models
    )
    tls = platform.gateway.tls
    files = {key: str(resolved(value, folder)) for key, value in (("certificate", tls.certificate), ("key", tls.key)) if value is not None}
    issuers = tuple(_with_absolute_files(issuer, folder) for issuer in platform.gateway.issuers)
    gateway = platform.gateway.model_copy(update={"tls": tls.model_copy(update=files), "issuers": issuers})
    kubernetes = platform.kubernetes
    if kubernetes is not None and kubernetes.kubeconfig is not None:
        kubernetes = kubernetes.model_copy(update={"kubeconfig": str(resolved(kubernetes.kubeconfig, folder))})
    machines = None if platform.infrastructure is None else _with_absolute_keys(platform.infrastructure, folder)
    return platform.model_copy(update={"models": models, "gateway": gateway, "kubernetes": kubernetes, "infrastructure": machines})


def _with_absolute_keys(machines: Infrastructure, folder: Path) -> Infrastructure:
    access, network, mirrors = machines.access, machines.network, machines.mirrors
    if access.key is not None:
        access = access.model_copy(update={"key": str(resolved(access.key, folder))})
    if network.vpn is not None and network.vpn.key_file is not None:
        network = network.model_copy(update={"vpn": network.vpn.model_copy(update={"key_file": str(resolved(network.vpn.key_file, folder))})})
    if mirrors.terraform is not None and not mirrors.terraform.startswith(("http://", "https://")):
        mirrors = mirrors.model_copy(update={"terraform": str(resolved(mirrors.terraform, folder))})
    return machines.model_copy(update={"access": access, "network": network, "mirrors": mirrors})


def _with_absolute_files(issuer: Issuer, folder: Path) -> Issuer:
    jwks = issuer.jwks if issuer.jwks.startswith(("http://", "https://")) else str(resolved(issuer.jwks, folder))
    return issuer.model_copy(update={"jwks": jwks, "ca": None if issuer.ca is None else str(resolved(issuer.ca, folder))})

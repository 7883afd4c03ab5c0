"""A whole platform on one machine without Kubernetes: its spec there, and what the role kiva_engine_host needs besides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kivactl.spec.gateway import Issuer
from kivactl.spec.platform import Platform
from kivactl.stack.engine import AFTER_DRAIN_S
from kivactl.stack.infrastructure.inventory import Inventory, Machine, infrastructure_of

STATE = "/var/lib/kiva-platform/state"
CACHE = "/var/lib/kiva-platform/cache"
SETTINGS = "/etc/kiva/platform"

_ENDING_S = 60.0
"""Seconds that gateway, meter and supervisor have after the engines."""


@dataclass(frozen=True, slots=True)
class Provided:
    """What the operator's machine gives along.

    Attributes:
        authority: Certificate (PEM) of the platform's own authority; empty when there is none.
        authority_file: The same as a file.
        authority_key: File of its key, which stays.
        keys: Public keys (PEM) by id whose tokens are good.
        register: The register of tokens as JSON; empty when no token was issued yet.
        requirements: Folder of the lock files.
        wheel: kivactl itself.
        wheel_hash: SHA-256 of it.
    """

    authority: str = ""
    authority_file: Path | None = None
    authority_key: Path | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    register: str = ""
    requirements: Path | None = None
    wheel: Path | None = None
    wheel_hash: str = ""


def host_variables_for(platform: Platform, inventory: Inventory, provided: Provided) -> dict[str, Any]:
    """The variables of the role kiva_engine_host.

    Args:
        platform: The spec, with its infrastructure.
        inventory: The machines.
        provided: What the operator's machine gives along.

    Raises:
        ValueError: The platform has no infrastructure.
    """
    infrastructure = infrastructure_of(platform)
    hosts = [machine for machine in inventory.machines if machine.role == "host"]
    drain_s = max(model.drain_within for model in platform.models)
    return {
        "kiva_engine_host_specs": {machine.name: host_spec_for(platform, machine) for machine in hosts},
        "kiva_engine_host_names": {machine.name: names_for(platform, machine) for machine in hosts},
        "kiva_engine_host_stop_within_s": round(2 * drain_s + AFTER_DRAIN_S + _ENDING_S),  # gateway first, then each engine
        "kiva_engine_host_files": [{"source": source, "name": name} for source, name in carried_files(platform).items()],
        "kiva_engine_host_authority": provided.authority,
        "kiva_engine_host_authority_file": str(provided.authority_file or ""),
        "kiva_engine_host_authority_key": str(provided.authority_key or ""),
        "kiva_engine_host_keys": dict(provided.keys),
        "kiva_engine_host_register": provided.register,
        "kiva_engine_host_requirements": str(provided.requirements or ""),
        "kiva_engine_host_wheel": str(provided.wheel or ""),
        "kiva_engine_host_wheel_hash": provided.wheel_hash,
        "kiva_engine_host_index": infrastructure.mirrors.python or "",
        "kiva_engine_host_python": f"{environment.rstrip('/')}/bin/python" if (environment := infrastructure.mirrors.environment) else "",
    }


def host_spec_for(platform: Platform, machine: Machine) -> dict[str, Any]:
    """The spec of the platform on one machine: the same models and tenants; address, names and folders are the machine's.

    What concerns the operator alone (machines, cluster, backup, runbooks of one's own) is left out.
    """
    spec = platform.model_dump(mode="json", exclude_defaults=True, exclude={"infrastructure", "kubernetes", "backup", "runbooks", "storage", "target"})
    for model in spec["models"]:
        model.pop("kubernetes", None)
    gateway, files = spec.setdefault("gateway", {}), carried_files(platform)
    gateway["address"] = machine.address
    tls = platform.gateway.tls
    if tls.certificate is not None and tls.key is not None:
        gateway["tls"] = {"certificate": f"{SETTINGS}/{files[tls.certificate]}", "key": f"{SETTINGS}/{files[tls.key]}"}
    else:
        gateway["tls"] = {"names": [name.partition(":")[2] for name in names_for(platform, machine)]}
    for shown, issuer in zip(gateway.get("issuers", ()), platform.gateway.issuers, strict=True):
        shown |= {key: f"{SETTINGS}/{files[path]}" for key, path in _files_of(issuer).items()}
    return {"name": platform.name, "target": "local", **spec, "storage": {"state": STATE, "cache": CACHE}}


def names_for(platform: Platform, machine: Machine) -> list[str]:
    """What the gateway of a machine is called, in openssl's form: `DNS:llm.example.org`, `IP:10.20.16.11`."""
    wanted = [machine.address, machine.name, *((machine.public_address,) if machine.public_address else ()), *platform.gateway.tls.names]
    return list(dict.fromkeys(f"IP:{name}" if _is_address(name) else f"DNS:{name}" for name in wanted))


def carried_files(platform: Platform) -> dict[str, str]:
    """Files here that the spec names, and what they are called on the machines."""
    tls, found = platform.gateway.tls, dict[str, str]()
    if tls.certificate is not None and tls.key is not None:
        found |= {tls.certificate: "gateway.pem", tls.key: "gateway.key"}
    for number, issuer in enumerate(platform.gateway.issuers):
        found |= {path: f"issuer-{number}-{key}" for key, path in _files_of(issuer).items()}
    return found


def _files_of(issuer: Issuer) -> dict[str, str]:
    named = {"jwks": issuer.jwks, "ca": issuer.ca}
    return {key: path for key, path in named.items() if path is not None and not path.startswith(("http://", "https://"))}


def _is_address(name: str) -> bool:
    import ipaddress

    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True

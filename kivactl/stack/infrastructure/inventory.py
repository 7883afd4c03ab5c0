"""The machines of a platform as Terraform or the spec names them, and as Ansible reads them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from kivactl.errors import ToolError
from kivactl.spec.infrastructure import Infrastructure, Role
from kivactl.spec.platform import Platform

GROUP_OF: Mapping[Role, str] = {"host": "hosts", "server": "servers", "engine": "engines", "gateway": "gateways", "storage": "storage"}
"""Ansible's group for each role."""


def infrastructure_of(platform: Platform) -> Infrastructure:
    """The spec's part on machines, for those who work on them.

    Raises:
        ValueError: There is none.
    """
    if platform.infrastructure is None:
        msg = "the platform has no infrastructure"
        raise ValueError(msg)
    return platform.infrastructure


class Machine(BaseModel):
    """A machine of a platform; lenient, for programs wrote it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    group: str
    role: Role
    address: str
    public_address: str | None = None
    zone: str | None = None
    gpus: int = 0
    gpu_type: str | None = None
    host_key: str | None = None


class Inventory(BaseModel):
    """All machines of a platform, and where clients reach its gateway."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    machines: tuple[Machine, ...]
    gateway_addresses: tuple[str, ...] = ()

    def machine(self, name: str) -> Machine | None:
        """The machine of a name, None when there is none."""
        return next((machine for machine in self.machines if machine.name == name), None)


def inventory_from(outputs: Mapping[str, Any]) -> Inventory:
    """What Terraform made.

    Args:
        outputs: Values of the root's outputs by name.

    Raises:
        ToolError: The outputs are not those of our roots: the state belongs to something else, or nothing was made yet.
    """
    try:
        return Inventory.model_validate({"machines": outputs["nodes"], "gateway_addresses": outputs.get("gateway_addresses", ())})
    except KeyError:
        raise ToolError("Terraform's state names no machines: nothing was made yet, or it belongs to something else", "kivactl provision --plan") from None
    except ValidationError as error:
        faults = tuple(f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in error.errors())
        raise ToolError("Terraform's outputs are not those of a platform's machines", "kivactl provision --plan", faults) from None


def static_inventory(infrastructure: Infrastructure) -> Inventory:
    """The machines that exist, as the spec names them."""
    machines = tuple(
        Machine(
            name=host.name,
            group=group.name,
            role=group.role,
            address=host.address,
            zone=group.zones[0] if group.zones else None,
            gpus=0 if group.gpu is None else group.gpu.count,
            gpu_type=None if group.gpu is None else group.gpu.type,
            host_key=host.host_key,
        )
        for group in infrastructure.groups
        for host in group.hosts
    )
    gateways = tuple(machine.address for machine in machines if machine.role in {"host", "gateway"})
    return Inventory(machines=machines, gateway_addresses=gateways)


def reached_at(infrastructure: Infrastructure, machine: Machine) -> str:
    """Where SSH goes for a machine: its public address, unless everybody comes through a VPN or another machine."""
    inside = infrastructure.network.vpn is not None or infrastructure.access.jump is not None
    return machine.address if inside or machine.public_address is None else machine.public_address


def jump_for(infrastructure: Infrastructure, machine: Machine, machines: Iterable[Machine]) -> str | None:
    """The machine to go through for SSH, as `USER@HOST:PORT`; None where the way is straight.

    Without a VPN only servers and gateways have public addresses: the others are reached through the first server.
    """
    access = infrastructure.access
    if access.jump is not None:
        return access.jump
    if infrastructure.provider == "static" or infrastructure.network.vpn is not None or machine.public_address is not None:
        return None
    through = next((other for other in machines if other.role == "server" and other.public_address), None)
    return None if through is None else f"{access.user}@{through.public_address}:{access.port}"


def inventory_for(infrastructure: Infrastructure, machines: Iterable[Machine], *, key: Path | None = None, known_hosts: Path | None = None) -> dict[str, Any]:
    """The machines in the form of Ansible's YAML inventories.

    Args:
        infrastructure: The spec's part on machines.
        machines: All of them.
        key: File of the private key, for the machine to go through; Ansible has its own way to name it for the others.
        known_hosts: File of the host keys, likewise.

    Returns:
        Groups `hosts`, `servers`, `engines`, `gateways`, `storage`; each is there, even if empty.
    """
    listed = tuple(machines)
    access = infrastructure.access
    groups: dict[str, dict[str, Any]] = {name: {"hosts": {}} for name in GROUP_OF.values()}
    for machine in listed:
        jump = jump_for(infrastructure, machine, listed)
        groups[GROUP_OF[machine.role]]["hosts"][machine.name] = {
            "ansible_host": reached_at(infrastructure, machine),
            **({} if jump is None else {"ansible_ssh_common_args": _through(jump, key, known_hosts)}),
            "kiva_group": machine.group,
            "kiva_address": machine.address,
            "kiva_gpus": machine.gpus,
            "kiva_zone": machine.zone or "",
        }
    return {"all": {"children": groups, "vars": {"ansible_user": access.user, "ansible_port": access.port}}}


def _through(jump: str, key: Path | None, known_hosts: Path | None) -> str:
    """ssh's option to go through a machine. ProxyJump would neither take our key nor our known hosts along."""
    host, _, port = jump.rpartition(":") if jump.rpartition(":")[2].isdigit() else (jump, "", "22")
    options = [
        "ssh",
        "-W",
        "%h:%p",
        "-p",
        port,
        *(("-i", str(key), "-o", "IdentitiesOnly=yes") if key else ()),
        *(("-o", f"UserKnownHostsFile={known_hosts}") if known_hosts else ()),
        "-o",
        "BatchMode=yes",
        host,
    ]
    return f"-o {shlex.quote('ProxyCommand=' + shlex.join(options))}"

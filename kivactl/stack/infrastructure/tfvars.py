"""The variables of Terraform's roots, out of the spec; the same for every cloud, and a few of its own."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kivactl.errors import SpecError
from kivactl.spec.infrastructure import Infrastructure, NodeGroup, Provider
from kivactl.spec.platform import Platform
from kivactl.stack.infrastructure.flavours import flavour_for

SECRET_VARIABLES = ("vpn_key",)
"""Variables of every root that are no part of `tfvars_for`: they go by the environment."""

CLOUDS: tuple[Provider, ...] = ("aws", "azure", "openstack", "stackit")
"""Providers that have a root."""

GIB = 2**30
_SMALLEST_DISK_GIB = 8
_LONGEST_SEGMENT = 25
_MOST_ZONES = 7


@dataclass(frozen=True, slots=True)
class Disk:
    """A data disk that exists."""

    zone: str
    size_gib: int


def tfvars_for(platform: Platform, *, public_key: str, kept_disks: Mapping[str, Disk] | None = None, ask_quotas: bool = True) -> dict[str, Any]:
    """The variables of the provider's root.

    Args:
        platform: The spec, with an infrastructure that a cloud makes.
        public_key: Public half of the SSH key, one line.
        kept_disks: Data disks that exist, by machine: those stay whose machines are no longer wanted.
        ask_quotas: Whether the plan asks the account's quotas, where the cloud's root can.

    Raises:
        SpecError: The cloud cannot have what the spec asks for.
        ValueError: There is no infrastructure, or no cloud makes it.
    """
    infrastructure = platform.infrastructure
    if infrastructure is None or infrastructure.provider not in CLOUDS:
        msg = "no cloud makes this platform's machines"
        raise ValueError(msg)
    _check(infrastructure)
    network, kubernetes = infrastructure.network, infrastructure.kubernetes
    groups = {group.name: _group(group, infrastructure) for group in infrastructure.groups}
    return {
        "name": platform.name,
        "region": infrastructure.region,
        "zones": list(zones_of(infrastructure)),
        "range": network.range,
        "segments": network.segments.all,
        "clients": list(network.clients),
        "operators": list(network.operators),
        "public_segments": public_segments(infrastructure),
        "internet": _reaches_the_internet(infrastructure),
        "gateway_port": platform.gateway.port,
        "ssh_port": infrastructure.access.port,
        "user": infrastructure.access.user,
        "public_key": " ".join(public_key.split()[:2]),  # the comment names people and machines
        "kubernetes": None if kubernetes is None else {"distribution": kubernetes.distribution, "cni": kubernetes.cni},
        "groups": groups,
        "kept_disks": {machine: {"zone": disk.zone, "size_gib": disk.size_gib} for machine, disk in sorted((kept_disks or {}).items())},
        "image": infrastructure.image,
        "vpn": None if network.vpn is None else {"peer": network.vpn.peer, "networks": list(network.vpn.networks)},
        **_own(infrastructure, ask_quotas),
    }


def whole_gib(size_bytes: int) -> int:
    """A disk's size as clouds make it: GiB, rounded up."""
    return math.ceil(size_bytes / GIB)


def zones_of(infrastructure: Infrastructure) -> tuple[str, ...]:
    """All zones in the order in which they number the subnets; a cloud's first when the spec names none."""
    named = [*infrastructure.zones, *(zone for group in infrastructure.groups for zone in group.zones)]
    first = {"aws": f"{infrastructure.region}a", "azure": "1", "openstack": "nova", "stackit": f"{infrastructure.region}-1"}
    return tuple(dict.fromkeys(named)) or (first[infrastructure.provider],)


def public_segments(infrastructure: Infrastructure) -> list[str]:
    """Segments whose machines get public addresses: none where everybody comes through the VPN."""
    network = infrastructure.network
    if network.vpn is None:
        return ["gateway", "management"]
    return ["gateway"] if any(ipaddress.ip_network(client).is_global for client in network.clients) else []


def machine_names(infrastructure: Infrastructure) -> dict[str, NodeGroup]:
    """The machines a cloud makes, each with its group."""
    return {f"{group.name}-{index + 1}": group for group in infrastructure.groups for index in range(group.count)}


def _group(group: NodeGroup, infrastructure: Infrastructure) -> dict[str, Any]:
    return {
        "role": group.role,
        "count": group.count,
        "flavour": flavour_for(infrastructure.provider, group),
        "gpus": 0 if group.gpu is None else group.gpu.count,
        "gpu_type": None if group.gpu is None else group.gpu.type,
        "zones": list(group.zones or infrastructure.zones or zones_of(infrastructure)[:1]),
        "disk_gib": max(_SMALLEST_DISK_GIB, whole_gib(group.disk)),
        "data_disk_gib": None if group.data_disk is None else whole_gib(group.data_disk),
        "protected": group.name in infrastructure.protect,
    }


def _own(infrastructure: Infrastructure, ask_quotas: bool) -> dict[str, Any]:
    match infrastructure.provider:
        case "aws":
            return {"ask_quotas": ask_quotas}
        case "openstack":
            return {"external_network": infrastructure.external_network}
        case "stackit" | "azure":
            return {"project": infrastructure.project}
        case _:
            return {}


def _reaches_the_internet(infrastructure: Infrastructure) -> bool:
    """Whether machines go there themselves: not through a proxy, and not where mirrors have all they need."""
    mirrors, proxy = infrastructure.mirrors, infrastructure.proxy
    everything = mirrors.apt and mirrors.images and mirrors.files and (mirrors.nvidia or all(group.gpu is None for group in infrastructure.groups))
    return not (proxy.http or proxy.https or everything)


def _check(infrastructure: Infrastructure) -> None:
    network = infrastructure.network
    vpn = () if network.vpn is None else network.vpn.networks
    for key, networks in (("range", (network.range,)), ("clients", network.clients), ("operators", network.operators), ("vpn.networks", vpn)):
        for text in networks:
            if ipaddress.ip_network(text).version != 4:
                raise SpecError(f"`network.{key}` names {text}: the networks that kivactl makes in a cloud are IPv4", "name an IPv4 network in kiva.yaml")
    for name, text in network.segments.all.items():
        if ipaddress.ip_network(text).prefixlen > _LONGEST_SEGMENT:
            raise SpecError(
                f"`network.segments.{name}` {text} is too small: each zone gets an eighth of it", f"give it a /{_LONGEST_SEGMENT} or larger in kiva.yaml"
            )
    if "0.0.0.0/0" in network.operators:  # SSH to everyone is never meant
        raise SpecError("`network.operators` is the whole internet: SSH and Kubernetes' API would be open to everyone", "name the networks you come from")
    if len(zones_of(infrastructure)) > _MOST_ZONES:
        raise SpecError(f"{len(zones_of(infrastructure))} zones are named, and {_MOST_ZONES} are the most", "name fewer in kiva.yaml")

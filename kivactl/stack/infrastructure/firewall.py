"""What may come in on which machines: the openings of the firewall, from the spec's segments and roles."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kivactl.spec.infrastructure import Infrastructure
from kivactl.spec.platform import Platform
from kivactl.stack.infrastructure.inventory import Inventory, infrastructure_of

NODE_EXPORTER_PORT = 9100
GPU_EXPORTER_PORT = 9400

_NODES = ("servers", "engines", "gateways", "storage")
"""Groups of the machines with Kubernetes."""

_EVERYWHERE = ("0.0.0.0/0", "::/0")


@dataclass(frozen=True, slots=True)
class Opening:
    """One thing that is let in.

    Attributes:
        name: What it is for.
        sources: Networks it is opened for; an opening without is none.
        ports: Ports and ranges; empty for a protocol without.
        groups: Ansible's groups of the machines it is opened on, all when empty.
        protocol: `tcp`, `udp`, `ipencap` or `esp`.
    """

    name: str
    sources: tuple[str, ...]
    ports: tuple[str, ...]
    groups: tuple[str, ...] = ()
    protocol: str = "tcp"

    def as_dict(self) -> dict[str, Any]:
        """As the role kiva_firewall reads it."""
        return {"name": self.name, "groups": [*self.groups], "sources": [*self.sources], "protocol": self.protocol, "ports": [*self.ports]}


def openings_for(platform: Platform, inventory: Inventory) -> tuple[Opening, ...]:
    """All openings; what none of them names is dropped.

    Raises:
        ValueError: The platform has no infrastructure.
    """
    infrastructure = infrastructure_of(platform)
    network = infrastructure.network
    behind = network.vpn.networks if network.vpn is not None else ()
    machines = _joined(machine.address for machine in inventory.machines)
    operators = _joined([*network.operators, *behind]) if network.operators else _EVERYWHERE
    management = _joined([network.segments.management, *network.operators])
    # Clients reach pods by what the pods' network lets through (LoadBalancer, hostPort); only a platform without Kubernetes listens itself.
    openings = [
        Opening("ssh", _joined([*operators, *machines]), (str(infrastructure.access.port),)),
        Opening("gateway", _joined([*network.clients, *behind]), (str(platform.gateway.port),), ("hosts",)),
        Opening("metrics of the machine", _joined([*management, *machines]), (str(NODE_EXPORTER_PORT),)),
    ]
    if any(machine.gpus for machine in inventory.machines):
        openings.append(Opening("metrics of the GPUs", _joined([*management, *machines]), (str(GPU_EXPORTER_PORT),)))
    if infrastructure.kubernetes is not None:
        openings += _of_kubernetes(infrastructure, platform, machines, operators)
    return tuple(opening for opening in openings if opening.sources)


def trusted_interfaces_for(infrastructure: Infrastructure) -> tuple[str, ...]:
    """Interfaces by which pods of a machine reach the machine itself."""
    if infrastructure.kubernetes is None:
        return ()
    return {"cilium": ("lxc*", "cilium_*"), "calico": ("cali*", "tunl0", "vxlan.calico")}[infrastructure.kubernetes.cni]


def restriction_notes(infrastructure: Infrastructure) -> tuple[str, ...]:
    """Sentences on what the spec leaves open or shut, worth reading before saying yes."""
    network, notes = infrastructure.network, []
    if not network.operators:
        notes.append("network.operators is empty: SSH (with a key) is let in from everywhere")
    if not network.clients and network.vpn is None:
        notes.append("network.clients is empty: no client reaches the gateway")
    return tuple(notes)


def _of_kubernetes(infrastructure: Infrastructure, platform: Platform, machines: tuple[str, ...], operators: tuple[str, ...]) -> list[Opening]:
    software = infrastructure.kubernetes
    assert software is not None
    servers, pods = ("servers",), (software.pods,)
    inside = _joined([*machines, *pods])
    overlay = {
        "cilium": [Opening("pods' network (VXLAN)", machines, ("8472",), _NODES, "udp"), Opening("health of Cilium", machines, ("4240",), _NODES)],
        "calico": [
            Opening("pods' network (VXLAN)", machines, ("4789",), _NODES, "udp"),
            Opening("pods' network (IP in IP)", machines, (), _NODES, "ipencap"),
            Opening("routes of Calico (BGP)", machines, ("179",), _NODES),
            Opening("Typha of Calico", machines, ("5473",), _NODES),
        ],
    }[software.cni]
    openings = [
        Opening("Kubernetes' API", _joined([*operators, *inside]), ("6443",), servers),
        Opening("etcd", machines, ("2379-2380",), servers),
        Opening("kubelet", inside, ("10250",), _NODES),
        *overlay,
    ]
    if software.distribution == "rke2":
        openings.append(Opening("joining RKE2", machines, ("9345",), servers))
    if platform.kubernetes is not None and platform.kubernetes.gateway.expose == "node-port":
        clients = _joined([*infrastructure.network.clients, *(infrastructure.network.vpn.networks if infrastructure.network.vpn else ())])
        openings.append(Opening("gateway (node port)", clients, ("30000-32767",), ("gateways",)))
    return openings


def _joined(networks: Iterable[str]) -> tuple[str, ...]:
    """Networks without those that lie in others: a set of nftables takes no overlaps."""
    parsed = [ipaddress.ip_network(text, strict=False) for text in networks]
    fours = ipaddress.collapse_addresses(network for network in parsed if isinstance(network, ipaddress.IPv4Network))
    sixes = ipaddress.collapse_addresses(network for network in parsed if isinstance(network, ipaddress.IPv6Network))
    return (*map(str, fours), *map(str, sixes))

"""What the parts of the infrastructure owe each other: roles that fit, groups that exist, what each provider needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kivactl.spec.infrastructure import Infrastructure, NodeGroup

_NEEDS: dict[str, tuple[str, ...]] = {
    "static": (),
    "openstack": ("region", "external_network", "image"),
    "stackit": ("region", "project"),
    "aws": ("region",),
    "azure": ("region", "project"),
}


def check(infrastructure: Infrastructure) -> None:
    """Refuse an infrastructure that cannot be made.

    Raises:
        ValueError: The first thing that is wrong, with what to write.
    """
    for key in _NEEDS[infrastructure.provider]:
        if getattr(infrastructure, key) is None:
            msg = f"`provider: {infrastructure.provider}` needs `{key}`"
            raise ValueError(msg)
    _check_names(infrastructure)
    for group in infrastructure.groups:
        _check_group(group, infrastructure)
    _check_roles(infrastructure)
    if infrastructure.provider != "static" and not infrastructure.network.operators:
        msg = "`network.operators` must name the networks you come from: without, nobody reaches the machines that are made"
        raise ValueError(msg)
    known = {group.name for group in infrastructure.groups}
    for name in infrastructure.protect:
        if name not in known:
            msg = f"`protect` names the group '{name}', which is none of: {', '.join(sorted(known))}"
            raise ValueError(msg)


def _check_names(infrastructure: Infrastructure) -> None:
    for what, names in (
        ("groups are named", [group.name for group in infrastructure.groups]),
        ("machines are named", [host.name for group in infrastructure.groups for host in group.hosts]),
        ("machines have the address", [host.address for group in infrastructure.groups for host in group.hosts]),
    ):
        for name in names:
            if names.count(name) > 1:
                msg = f"two {what} '{name}'"
                raise ValueError(msg)


def _check_group(group: NodeGroup, infrastructure: Infrastructure) -> None:
    static = infrastructure.provider == "static"
    if static and not group.hosts:
        msg = f"the group '{group.name}' needs `hosts`, each with `name` and `address`, with `provider: static`"
        raise ValueError(msg)
    if not static and group.hosts:
        msg = f"the group '{group.name}' names `hosts`, which only `provider: static` has: {infrastructure.provider} makes them (`count`)"
        raise ValueError(msg)
    if group.data_disk is not None and infrastructure.storage.kind == "nfs":
        msg = f"the group '{group.name}' has a `data_disk`, and `storage.kind: nfs` mounts a server where models lie: leave one of them away"
        raise ValueError(msg)
    if group.role == "host" and infrastructure.kubernetes is not None:
        msg = f"the group '{group.name}' has the role host, a platform without Kubernetes: leave `kubernetes` away or choose server, engine, gateway or storage"
        raise ValueError(msg)
    if group.role != "host" and infrastructure.kubernetes is None:
        msg = f"the group '{group.name}' has the role {group.role}, which needs `kubernetes` with at least `version` (or the role host)"
        raise ValueError(msg)


def _check_roles(infrastructure: Infrastructure) -> None:
    if infrastructure.kubernetes is None:
        return
    static = infrastructure.provider == "static"
    servers = sum(len(group.hosts) if static else group.count for group in infrastructure.groups if group.role == "server")
    if servers not in {1, 3, 5, 7}:
        msg = f"Kubernetes needs 1, 3, 5 or 7 machines with the role server, so that a majority is left when one is lost; there are {servers}"
        raise ValueError(msg)

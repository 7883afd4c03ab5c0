"""The variables of `playbooks/site.yml`: what the spec says, role by role."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kivactl.spec.infrastructure import Infrastructure, NodeGroup
from kivactl.spec.platform import Platform
from kivactl.stack.infrastructure.firewall import GPU_EXPORTER_PORT, NODE_EXPORTER_PORT, openings_for, trusted_interfaces_for
from kivactl.stack.infrastructure.gpus import gpu_of, slices_for
from kivactl.stack.infrastructure.inventory import Inventory, Machine, infrastructure_of
from kivactl.stack.infrastructure.tfvars import GIB, whole_gib
from kivactl.stack.infrastructure.verdicts import ports_for

LONGHORN = "/var/lib/longhorn"
"""Where Longhorn keeps its volumes."""

_SYSCTL: dict[str, int | str] = {
    "fs.inotify.max_user_instances": 8192,
    "fs.inotify.max_user_watches": 1048576,
    "net.core.netdev_max_backlog": 16384,
    "net.core.somaxconn": 16384,
    "net.ipv4.ip_local_port_range": "32768 60999",
    "net.ipv4.tcp_keepalive_intvl": 15,
    "net.ipv4.tcp_keepalive_probes": 4,
    "net.ipv4.tcp_keepalive_time": 60,
    "net.ipv4.tcp_max_syn_backlog": 16384,
    "net.ipv4.tcp_slow_start_after_idle": 0,  # a stream that paused while the engine thought goes on at full speed
    "vm.max_map_count": 1048576,
    "vm.swappiness": 1,
}
_SYSCTL_OF_KUBERNETES: dict[str, int | str] = {"kernel.panic": 10, "kernel.panic_on_oops": 1, "net.ipv4.ip_forward": 1, "vm.overcommit_memory": 1}


def variables_for(
    platform: Platform,
    inventory: Inventory,
    *,
    authority: str = "",
    authority_file: Path | None = None,
    authority_key: Path | None = None,
    token_file: Path | None = None,
    kubeconfig: Path | None = None,
) -> dict[str, Any]:
    """The extra variables of the playbook; each begins with the name of its role.

    Args:
        platform: The spec, with its infrastructure.
        inventory: The machines.
        authority: Certificate (PEM) of the platform's own authority; the machines get no certificates when empty.
        authority_file: The same as a file here.
        authority_key: File of its key here.
        token_file: File here with the token by which machines join Kubernetes.
        kubeconfig: File here to which access to Kubernetes is written.

    Raises:
        ValueError: The platform has no infrastructure.
    """
    infrastructure = infrastructure_of(platform)
    proxy, mirrors, storage = infrastructure.proxy, infrastructure.mirrors, infrastructure.storage
    exempt = exempt_from_proxy(infrastructure, inventory)
    return {
        "kiva_base_user": infrastructure.access.user,
        "kiva_base_hosts": [{"name": machine.name, "address": machine.address} for machine in inventory.machines],
        "kiva_base_dns": [*infrastructure.network.dns],
        "kiva_base_ntp": [*infrastructure.network.ntp],
        "kiva_base_proxy_http": proxy.http or "",
        "kiva_base_proxy_https": proxy.https or "",
        "kiva_base_proxy_exempt": exempt,
        "kiva_base_apt_mirror": (mirrors.apt or "").rstrip("/"),
        "kiva_base_sysctl": _SYSCTL | (_SYSCTL_OF_KUBERNETES if infrastructure.kubernetes is not None else {}),
        "kiva_firewall_openings": [opening.as_dict() for opening in openings_for(platform, inventory)],
        "kiva_firewall_trusted_interfaces": [*trusted_interfaces_for(infrastructure)],
        "kiva_firewall_forwarding": infrastructure.kubernetes is not None,
        "kiva_certificates_authority": authority,
        "kiva_certificates_authority_file": str(authority_file or ""),
        "kiva_certificates_authority_key": str(authority_key or ""),
        "kiva_containerd_mirror": mirrors.images or "",
        "kiva_containerd_proxy_http": proxy.http or "",
        "kiva_containerd_proxy_https": proxy.https or "",
        "kiva_containerd_proxy_exempt": exempt,
        "kiva_logs_server": infrastructure.logs.server or "",
        "kiva_logs_server_name": infrastructure.logs.name or "",
        "kiva_logs_port": infrastructure.logs.port,
        "kiva_node_exporter_port": NODE_EXPORTER_PORT,
        "kiva_storage_kind": storage.kind,
        "kiva_storage_server": storage.server or "",
        "kiva_storage_export": storage.export or "",
        "kiva_storage_path": storage.path,
        "kiva_storage_data_disks": _data_disks(infrastructure, inventory),
        "kiva_storage_data_path": LONGHORN if storage.kind == "longhorn" else storage.path,
        "kiva_verify_path": storage.path,
        "kiva_verify_ports": ports_for(platform),
        **_of_gpus(infrastructure, inventory, exempt),
        **_of_kubernetes(infrastructure, inventory, exempt, str(token_file or ""), str(kubeconfig or "")),
    }


def exempt_from_proxy(infrastructure: Infrastructure, inventory: Inventory) -> list[str]:
    """What is reached without the proxy: the platform's own machines and networks, its mirrors, and what the spec adds."""
    own = ["localhost", "127.0.0.1", "::1", infrastructure.network.range, *(machine.address for machine in inventory.machines)]
    if infrastructure.kubernetes is not None:
        own += [".svc", ".cluster.local", infrastructure.kubernetes.pods, infrastructure.kubernetes.services]
    mirrors = infrastructure.mirrors
    urls = (mirrors.apt, mirrors.nvidia, mirrors.python, mirrors.files, mirrors.images and f"https://{mirrors.images}")
    own += [host for url in urls if url and (host := urlsplit(url).hostname)]
    return list(dict.fromkeys([*own, *infrastructure.proxy.exempt]))


def _data_disks(infrastructure: Infrastructure, inventory: Inventory) -> dict[str, int]:
    """The size in bytes of each machine's further disk."""
    sizes = {group.name: whole_gib(group.data_disk) * GIB for group in infrastructure.groups if group.data_disk is not None}
    return {machine.name: sizes[machine.group] for machine in inventory.machines if machine.group in sizes}


def _of_gpus(infrastructure: Infrastructure, inventory: Inventory, exempt: list[str]) -> dict[str, Any]:
    kinds = {machine.name: gpu_of(machine.gpu_type) for machine in inventory.machines if machine.gpu_type is not None}
    if not kinds:
        return {}
    software, archive = infrastructure.gpu, infrastructure.mirrors.nvidia
    layouts = {name: [*slices_for(gpu, software.mig)] for name, gpu in kinds.items() if gpu is not None and software.mig is not None}
    return {
        "kiva_nvidia_branch": software.driver,
        "kiva_nvidia_open": all(gpu is None or gpu.open_modules for gpu in kinds.values()),
        **({} if archive is None else {"kiva_nvidia_archive": archive.rstrip("/")}),
        **_proxy("kiva_nvidia", infrastructure, exempt),
        "kiva_mig_layouts": {name: layout for name, layout in layouts.items() if layout},
        "kiva_dcgm_exporter_port": GPU_EXPORTER_PORT,
    }


def _of_kubernetes(infrastructure: Infrastructure, inventory: Inventory, exempt: list[str], token_file: str, kubeconfig: str) -> dict[str, Any]:
    software, mirrors = infrastructure.kubernetes, infrastructure.mirrors
    if software is None:
        return {}
    groups = {group.name: group for group in infrastructure.groups}
    nodes = {machine.name: _node(groups[machine.group], machine) for machine in inventory.machines if machine.group in groups}
    files = (mirrors.files or "").rstrip("/")
    role = f"kiva_{software.distribution}"
    public = [machine.public_address for machine in inventory.machines if machine.role == "server" and machine.public_address]
    return {
        "kiva_kubernetes_distribution": software.distribution,
        f"{role}_version": software.version,
        f"{role}_files": files,
        f"{role}_images": bool(files) and mirrors.images is None,
        f"{role}_token_file": token_file,
        f"{role}_endpoint": software.endpoint or "",
        f"{role}_names": public,
        f"{role}_cni": software.cni,
        f"{role}_pods": software.pods,
        f"{role}_services": software.services,
        f"{role}_mirror": mirrors.images or "",
        f"{role}_nodes": {name: node for name, node in nodes.items() if any(node.values())},
        f"{role}_kubeconfig": kubeconfig,
        **_proxy(role, infrastructure, exempt),
        "kiva_cni_kind": software.cni,
        "kiva_cni_distribution": software.distribution,
        "kiva_cni_files": files,
        "kiva_cni_pods": software.pods,
        "kiva_cni_mirror": mirrors.images or "",
        **_proxy("kiva_cni", infrastructure, exempt),
        **(_of_device_plugin(infrastructure, software.distribution, files, exempt) if any(machine.gpus for machine in inventory.machines) else {}),
    }


def _node(group: NodeGroup, machine: Machine) -> dict[str, list[str]]:
    """Labels and taints of a machine in Kubernetes; the device plugin runs where the label of the GPUs is."""
    labels = group.labels | ({"nvidia.com/gpu.present": "true"} if machine.gpus else {})
    return {"labels": [f"{key}={value}" for key, value in labels.items()], "taints": [*map(_taint, group.taints)]}


def _of_device_plugin(infrastructure: Infrastructure, distribution: str, files: str, exempt: list[str]) -> dict[str, Any]:
    return {
        "kiva_device_plugin_distribution": distribution,
        "kiva_device_plugin_files": files,
        "kiva_device_plugin_slices": infrastructure.gpu.mig is not None,
        "kiva_device_plugin_sharing": infrastructure.gpu.time_slicing,
        **_proxy("kiva_device_plugin", infrastructure, exempt),
    }


def _taint(text: str) -> str:
    """A taint with its effect, which the spec may leave out."""
    return text if ":" in text else f"{text}:NoSchedule"


def _proxy(role: str, infrastructure: Infrastructure, exempt: list[str]) -> dict[str, Any]:
    proxy = infrastructure.proxy
    return {f"{role}_proxy_http": proxy.http or "", f"{role}_proxy_https": proxy.https or "", f"{role}_proxy_exempt": exempt}

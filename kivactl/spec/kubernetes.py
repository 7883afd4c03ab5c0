"""The spec's part on Kubernetes: which cluster, which images, how the gateway is reached, where models lie, on which nodes."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from kivactl.spec.fields import Name, PositiveBytes, PositiveDuration, Strict, Url, form

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(?:\.{_LABEL})*"
_QUALIFIED = rf"(?:{_SUBDOMAIN}/)?[A-Za-z0-9](?:[A-Za-z0-9._-]{{0,61}}[A-Za-z0-9])?"
_LABEL_VALUE = r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?"
_PATH_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_DIGEST = r"@sha256:[0-9a-f]{64}"
_IMAGE = rf"(?:[A-Za-z0-9.-]+(?::[0-9]+)?/)?{_PATH_PART}(?:/{_PATH_PART})*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?(?:{_DIGEST})?"
_TOLERATION = rf"{_QUALIFIED}(?:={_LABEL_VALUE})?(?::(?:NoSchedule|PreferNoSchedule|NoExecute))?"


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        msg = f"must be a network such as 10.0.0.0/8, without bits of a host, not '{text}'"
        raise ValueError(msg) from None


def _above_zero(amount: float) -> float:
    if amount <= 0:
        msg = "must be more than 0"
        raise ValueError(msg)
    return amount


NamespaceName = Annotated[str, *form(_LABEL, "the name of a namespace (lower-case letters, digits and dashes)")]
ObjectName = Annotated[str, *form(rf"(?=.{{1,253}}$){_SUBDOMAIN}", "the name of a Kubernetes object (lower-case letters, digits, dashes and dots)")]
HostName = Annotated[str, *form(rf"(?=.{{1,253}}$){_SUBDOMAIN}", "a DNS name such as llm.example.org")]
LabelKey = Annotated[str, *form(_QUALIFIED, "a key of labels such as kiva/pool")]
LabelValue = Annotated[str, *form(_LABEL_VALUE, "a value of labels: at most 63 letters, digits, dashes, dots or underscores")]
Toleration = Annotated[str, *form(_TOLERATION, "a taint such as nvidia.com/gpu, dedicated=llm or dedicated=llm:NoSchedule")]
Resource = Annotated[
    str, *form(rf"{_SUBDOMAIN}/[A-Za-z0-9](?:[A-Za-z0-9._-]{{0,61}}[A-Za-z0-9])?", "a resource such as nvidia.com/gpu or nvidia.com/mig-3g.40gb")
]
Image = Annotated[str, *form(_IMAGE, "an image such as registry.example.org/kiva/engine@sha256: and 64 hexadecimal digits")]
Certificate = Annotated[
    str, *form(rf"own|(?:cert-manager|cluster-issuer|secret):{_SUBDOMAIN}", "own, cert-manager:ISSUER, cluster-issuer:ISSUER or secret:NAME")
]
SecretStore = Annotated[str, *form(rf"kubernetes|(?:external|cluster-external):{_SUBDOMAIN}", "kubernetes, external:STORE or cluster-external:STORE")]
GatewayClass = Annotated[
    str, *form(rf"{_QUALIFIED}|{_LABEL}/{_LABEL}/{_LABEL}", "an IngressClass, the Gateway as NAMESPACE/NAME(/LISTENER), or a load balancer's class")
]
Network = Annotated[str, AfterValidator(_network)]
Cpus = Annotated[float, Field(strict=True), AfterValidator(_above_zero), WithJsonSchema({"type": "number", "exclusiveMinimum": 0})]
"""CPU cores; 0.5 is half of one."""


def pinned(image: str) -> bool:
    """Whether an image is named by its digest, so that it is the same whenever it is pulled."""
    return re.search(f"{_DIGEST}$", image) is not None


class Images(Strict):
    """Container images, by digest: what was tested is what runs."""

    engine: Image = Field(description="vLLM and kivactl.")
    gateway: Image = Field(description="Envoy.")
    tools: Image | None = Field(default=None, description="kivactl alone, for the gateway's meter; the engine's image when absent.")
    unpinned: bool = Field(default=False, strict=True, description="Let images go by tag and hub models go without `revision`; for development only.")


class PodResources(Strict):
    """What a pod asks for."""

    cpu: Cpus = Field(default=2, description="CPU cores.")
    memory: PositiveBytes = Field(default=2**30, description="Memory, of which it never gets more.")


class Entrance(Strict):
    """How the gateway is reached. It ends TLS itself in every case."""

    replicas: int = Field(default=1, strict=True, ge=1, le=64, description="Pods of the gateway; more than one needs a PostgreSQL ledger (`usage.ledger`).")
    expose: Literal["load-balancer", "cluster-ip", "node-port", "ingress", "gateway-api"] = Field(
        default="cluster-ip", description="What leads to it; from inside the cluster only unless you open it."
    )
    host: HostName | None = Field(default=None, description="DNS name under which clients reach it; needed for ingress and gateway-api.")
    class_name: GatewayClass | None = Field(
        default=None, description="IngressClass, the Gateway as `NAMESPACE/NAME`, or the load balancer's class; the cluster's default when absent."
    )
    allowed: tuple[Network, ...] = Field(default=(), description="Networks that may reach it; everyone when empty. Not with ingress and gateway-api.")
    annotations: dict[LabelKey, str] = Field(default_factory=dict, description="Annotations of its Service, Ingress or route.")
    certificate: Certificate = Field(
        default="own",
        description="`own` (kivactl's CA signs it, or the files of gateway.tls), `cert-manager:ISSUER`, `cluster-issuer:ISSUER` or `secret:NAME`.",
    )
    resources: PodResources = PodResources()

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.expose in {"ingress", "gateway-api"} and self.host is None:
            msg = f"`expose: {self.expose}` needs `host`, the DNS name under which clients reach the gateway"
            raise ValueError(msg)
        if self.expose == "gateway-api" and "/" not in (self.class_name or ""):
            msg = "`expose: gateway-api` needs `class_name: NAMESPACE/NAME`, the Gateway that its route belongs to"
            raise ValueError(msg)
        if self.expose in {"ingress", "gateway-api"} and self.allowed:
            msg = f"`allowed` cannot be kept with `expose: {self.expose}`, behind which the gateway does not see where clients are: restrict them there"
            raise ValueError(msg)
        return self


class ModelStorage(Strict):
    """Where model files lie; an engine finds its model below /models. What belongs to another kind does not count: overlays change the kind only."""

    kind: Literal["claim", "host-path", "image"] = Field(
        default="claim", description="A volume claim, a folder of the nodes, or an OCI image for each model (its `model_image`)."
    )
    class_name: ObjectName | None = Field(default=None, description="Storage class of the claims; the cluster's default when absent.")
    size: PositiveBytes | None = Field(default=None, description="Of the claim of each model; derived from the model when absent and known.")
    access: Literal["read-write-many", "read-write-once", "read-only-many"] = Field(default="read-write-many", description="How pods share a claim.")
    claim: ObjectName | None = Field(
        default=None, description="A claim that is there, for all models, each in a folder of its own; made for each model when absent."
    )
    path: str | None = Field(default=None, pattern="^/", description="Folder of the nodes, for host-path.")
    preload: bool = Field(default=True, strict=True, description="A job fetches a model before its engine starts.")
    hub: Url | None = Field(default=None, description="Mirror of the Hugging Face hub (HF_ENDPOINT).")
    hub_secret: ObjectName | None = Field(default=None, description="Secret whose key `token` is let in there.")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.kind == "host-path" and self.path is None:
            msg = "`kind: host-path` needs `path`, a folder of the nodes"
            raise ValueError(msg)
        if self.kind == "claim" and self.access == "read-only-many" and (self.claim is None or self.preload):
            msg = "`access: read-only-many` needs a `claim` that is filled already, and `preload: false`"
            raise ValueError(msg)
        return self


class ClusterMonitoring(Strict):
    """Who reads the metrics."""

    style: Literal["prometheus", "operator", "none"] = Field(
        default="prometheus", description="Annotations for a plain Prometheus, or monitors and rules for the Prometheus operator."
    )
    namespace: NamespaceName | None = Field(default=None, description="Where Prometheus runs: network policies let it in.")
    dashboards: bool = Field(default=True, strict=True, description="Grafana dashboards as config maps.")
    prometheus: Url | None = Field(default=None, description="Prometheus' address, which KEDA asks.")


class NodePool(Strict):
    """Nodes that pods go to."""

    select: dict[LabelKey, LabelValue] = Field(default_factory=dict, description="Labels that the nodes have.")
    tolerate: tuple[Toleration, ...] = Field(default=(), description="Taints of theirs that do not matter: `KEY`, `KEY=VALUE` or `KEY=VALUE:EFFECT`.")
    priority_class: ObjectName | None = Field(default=None, description="Priority class of the pods.")


class Kubernetes(Strict):
    """The cluster, and how a platform lives in it."""

    context: str = Field(min_length=1, description="Context of the kubeconfig; never the one that happens to be current.")
    kubeconfig: str | None = Field(default=None, min_length=1, description="The kubeconfig; as kubectl finds it when absent.")
    namespace: NamespaceName = Field(default="kiva", description="Where everything is made.")
    images: Images
    pull_secrets: tuple[ObjectName, ...] = Field(default=(), description="Secrets that let in at the registry.")
    gateway: Entrance = Entrance()
    storage: ModelStorage = ModelStorage()
    secrets: SecretStore = Field(
        default="kubernetes", description="Where secrets come from: Kubernetes itself, or External Secrets' `external:STORE` or `cluster-external:STORE`."
    )
    ledger_secret: ObjectName | None = Field(default=None, description="Secret whose key `password` is the PostgreSQL ledger's password.")
    monitoring: ClusterMonitoring = ClusterMonitoring()
    network_policies: bool = Field(default=True, strict=True, description="Engines are reached from the gateway only.")
    nodes: dict[Name, NodePool] = Field(default_factory=dict, description="Pools of nodes by a name of yours.")
    gateway_nodes: Name | None = Field(default=None, description="The pool of the gateway; any node when absent.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.images.unpinned:
            for name in ("engine", "gateway", "tools"):
                image = getattr(self.images, name)
                if image is not None and not pinned(image):
                    msg = f"images.{name} must be named by digest: {unpinned(image)}"
                    raise ValueError(msg)
        if self.gateway_nodes is not None:
            known_pool("`gateway_nodes`", self.gateway_nodes, self.nodes)
        return self


class Gpus(Strict):
    """What of the GPUs a pod gets."""

    resource: Resource = Field(
        default="nvidia.com/gpu", description="The device plugin's name: nvidia.com/mig-3g.40gb for a MIG profile, nvidia.com/gpu.shared for time slices."
    )
    count: int = Field(default=1, strict=True, ge=0, le=64, description="How many; 0 for an engine on CPUs.")


class Autoscale(Strict):
    """More replicas while requests wait."""

    by: Literal["hpa", "keda"] = Field(default="hpa", description="The cluster's own autoscaler (with Prometheus' adapter), or KEDA.")
    min: int = Field(default=1, strict=True, ge=0, le=64, description="Fewest replicas; 0 only with KEDA.")
    max: int = Field(default=8, strict=True, ge=1, le=64, description="Most replicas.")
    waiting: int = Field(default=5, strict=True, ge=1, description="Waiting requests of a replica above which there shall be more.")
    cache_ratio: float = Field(default=0.8, strict=True, gt=0, le=1, description="Share of the KV cache in use above which there shall be more.")
    idle: PositiveDuration = Field(default=900.0, description="Time without requests after which the last replica ends, with `min: 0`.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min > self.max:
            msg = "`min` must not be more than `max`"
            raise ValueError(msg)
        if self.min == 0 and self.by != "keda":
            msg = "`min: 0` needs `by: keda`: the cluster's own autoscaler cannot wake a model that has no replica"
            raise ValueError(msg)
        return self


class ModelOnKubernetes(Strict):
    """How a model runs on Kubernetes."""

    nodes: Name | None = Field(default=None, description="A pool of kubernetes.nodes; any node when absent.")
    gpu: Gpus = Gpus()
    cpu: Cpus = Field(default=4, description="CPU cores of a pod.")
    memory: PositiveBytes | None = Field(default=None, description="Main memory of a pod; derived from the model when absent.")
    shared_memory: PositiveBytes = Field(default=2 * 2**30, description="Of it, what /dev/shm may take.")
    runtime_class: ObjectName | None = Field(default=None, description="Runtime class, such as nvidia.")
    strategy: Literal["auto", "rolling", "recreate", "blue-green"] = Field(
        default="auto", description="How a new version takes over; auto chooses by the GPUs that are free, and says the outage."
    )
    autoscale: Autoscale | None = Field(default=None, description="Replicas by load; `replicas` of them when absent.")
    pods_per_replica: int = Field(default=1, strict=True, ge=1, le=64, description="Pods, each on a node of its own, that one replica spans (LeaderWorkerSet).")
    image: Image | None = Field(default=None, description="Another engine image for this model.")
    model_image: Image | None = Field(default=None, description="The image with the model's files, for storage of kind image.")


def unpinned(image: str) -> str:
    """What to write instead of an image without a digest."""
    return f"'{image}' lacks @sha256: and 64 hexadecimal digits (or `kubernetes.images.unpinned: true`, for development)"


def known_pool(who: str, name: str, pools: dict[str, NodePool]) -> None:
    """Refuse a pool of nodes that nobody described.

    Raises:
        ValueError: There is none of that name.
    """
    if name not in pools:
        msg = f"{who} names the nodes '{name}', " + (f"which are none of: {', '.join(sorted(pools))}" if pools else "but `kubernetes.nodes` names none")
        raise ValueError(msg)

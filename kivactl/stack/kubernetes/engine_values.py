"""The values of the chart kiva-engine: one model on Kubernetes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, Literal
from urllib.parse import urlsplit

from kivactl.errors import PreconditionError
from kivactl.plan import digest
from kivactl.spec.kubernetes import Kubernetes
from kivactl.spec.platform import Model, Platform
from kivactl.stack.engine import GIB, MODULE, arguments_for, environment_for, kv_cache_arguments, probe_s
from kivactl.stack.kubernetes.names import ENGINE_PORT, cluster_of, gateway_release, preloads, release_for, weights_folder
from kivactl.stack.kubernetes.parts import cores, egress_to, placement_for, quantity, scrape_annotations, store_of
from kivactl.stack.sizing import fixed_bytes, startup_budget_s

Json = dict[str, Any]

Rollout = Literal["rolling", "in-turn", "recreate"]
"""A new pod before an old one goes; an old one goes before a new one (several replicas, no free GPU); all at once, with an outage."""

PYTHON = "python3"
"""The interpreter of our images."""

_SERVE = ("-m", "vllm.entrypoints.cli.main", "serve")
"""`vllm serve`: the module of engines that stand alone knows no workers, and would be an engine of its own. Source: vLLM 0.32."""

UNKNOWN_BUDGET_S = 1800.0
"""Seconds until the first token for a model whose size nobody knows: what the rule of sizing gives 80 GiB on a GPU."""

_SETTLE_S = 15
"""Seconds between a pod's end being decided and its engine being told: until then no gateway sends it anything new."""

_HUB = "https://huggingface.co"
_DOWNLOADING = {"cpu": "1", "memory": "2Gi", "tmp": "4Gi"}
_CONVERTING = {"cpu": "1", "memory": "6Gi", "tmp": "4Gi"}
"""What the job gets that fetches a model: a conversion holds one file of weights in memory, which has at most 4 GiB."""

_ACCESS = {"read-write-many": "ReadWriteMany", "read-write-once": "ReadWriteOnce", "read-only-many": "ReadOnlyMany"}
_STRATEGIES: dict[str, Json] = {
    "rolling": {"kind": "rolling", "maxSurge": 1, "maxUnavailable": 0},
    "in-turn": {"kind": "rolling", "maxSurge": 0, "maxUnavailable": 1},
    "recreate": {"kind": "recreate", "maxSurge": 0, "maxUnavailable": 1},
}
_VERSIONS_KEPT = 2
"""Versions of a model that a claim of its own has room for: the one that serves and the one that takes over."""

_GPU_HOST_BYTES, _PER_GPU_BYTES = 4 * GIB, 4 * GIB
"""Main memory of an engine on GPUs, and of each of its workers: libraries, CUDA, buffers for loading; weights are read in pieces."""


def engine_values_for(platform: Platform, model: Model, *, weights_bytes: int | None = None, rollout: Rollout | None = None) -> Json:
    """The values of one model's release.

    Args:
        platform: The spec, with `target: kubernetes`.
        model: One of its models.
        weights_bytes: Size of the weights, where known.
        rollout: How a new version takes over; what the spec says when absent, `rolling` for auto.

    Raises:
        PreconditionError: The size of the claim, or the memory of an engine on CPUs, is neither in the spec nor known.
    """
    cluster, here = cluster_of(platform), model.kubernetes
    image, command, environment = here.image or cluster.images.engine, _command(platform, model), _environment(platform, model)
    pool = cluster.nodes.get(here.nodes or "")
    return {
        "platform": platform.name,
        "model": {"name": model.name, "identity": identity_of(platform, model), "version": version_of(platform, model)},
        "image": {"reference": image, "pullPolicy": "IfNotPresent", "unpinned": cluster.images.unpinned},
        "pullSecrets": list(cluster.pull_secrets),
        "replicas": model.replicas,
        "command": command,
        "environment": environment,
        "secretEnvironment": {},
        "port": ENGINE_PORT,
        "resources": {
            "cpu": cores(here.cpu),
            "memory": quantity(here.memory or _memory_bytes(model, weights_bytes)),
            "gpu": {"resource": here.gpu.resource, "count": here.gpu.count},
            "sharedMemory": quantity(here.shared_memory),
        },
        "runtimeClass": here.runtime_class or _runtime_class(platform, model),
        "placement": placement_for(pool, spread="kubernetes.io/hostname"),
        "storage": _storage(platform, model, cluster, weights_bytes),
        "preload": _preload(platform, model, cluster),
        "externalSecrets": _external_secrets(platform, model, cluster),
        "strategy": dict(_STRATEGIES[rollout or ("recreate" if here.strategy == "recreate" else "rolling")]),
        "startup": {"budgetSeconds": math.ceil(startup_s(model, weights_bytes))},
        # The kubelet waits a little longer for an engine's proof of generation than the engine itself.
        "stalled": {"afterSeconds": math.ceil(model.stalled_after), "probeTimeoutSeconds": math.ceil(probe_s(model)) + 2},
        "drain": {"seconds": round(model.drain_within), "settleSeconds": _SETTLE_S},
        "disruptionBudget": {"enabled": True, "maxUnavailable": 1},
        "autoscaling": _autoscaling(model, cluster),
        "multiNode": {"pods": here.pods_per_replica, "workerCommand": _worker_command(platform, model)},
        "networkPolicy": {
            "enabled": cluster.network_policies,
            "gateway": {"app.kubernetes.io/name": "kiva-gateway", "app.kubernetes.io/instance": gateway_release(platform)},
            "monitoringNamespace": cluster.monitoring.namespace or "",
            "egress": egress_to([tracing.otlp] if (tracing := platform.gateway.tracing) else []),
        },
        "labels": {},
        "annotations": scrape_annotations(cluster, ENGINE_PORT, "/metrics"),
    }


def _runtime_class(platform: Platform, model: Model) -> str:
    """On the Kubernetes that `kivactl provision` sets up, NVIDIA's runtime is another one than the usual."""
    own = platform.infrastructure is not None and platform.infrastructure.kubernetes is not None
    return "nvidia" if own and model.kubernetes.gpu.count > 0 else ""


def identity_of(platform: Platform, model: Model) -> str:
    """Which weights a spec asks for, as far as it says so itself: nobody has looked at them yet."""
    if model.kubernetes.model_image is not None and cluster_of(platform).storage.kind == "image":
        return f"image:{model.kubernetes.model_image}"
    match model.source_kind:
        case "hub":
            return f"hub:{model.source}@{model.revision or 'main'}"
        case "package":
            return model.source
        case _:
            # Where it lay on the operator's machine is nobody's business here.
            return f"folder:{weights_folder(platform, model)}" + (f"@{model.revision}" if model.revision else "")


def version_of(platform: Platform, model: Model) -> str:
    """The version of a model as it is served: 16 hexadecimal digits of a hash over image, weights, arguments and environment."""
    image = model.kubernetes.image or cluster_of(platform).images.engine
    parts = [image, identity_of(platform, model), _command(platform, model), _worker_command(platform, model), _environment(platform, model)]
    return digest(parts)[:16]


def startup_s(model: Model, weights_bytes: int | None) -> float:
    """Seconds a replica has until its first token: as the spec says, else by the size of its weights.

    How many replicas there are does not count, or each change of their number would start all of them anew.
    """
    if model.ready_within is not None:
        return model.ready_within
    return UNKNOWN_BUDGET_S if weights_bytes is None else startup_budget_s(weights_bytes, gpu=model.kubernetes.gpu.count > 0, replicas=1)


def _command(platform: Platform, model: Model) -> list[str]:
    """The engine's argv; of a replica of several pods, the first one's."""
    command = [PYTHON, *MODULE, *_arguments(platform, model), "--host", "0.0.0.0", "--port", str(ENGINE_PORT)]  # noqa: S104  (a pod has its network policy)
    if model.kubernetes.gpu.count == 0 and model.kv_cache is not None:
        command += kv_cache_arguments(model.kv_cache)
    return command + _across_nodes(model, "0")


def _worker_command(platform: Platform, model: Model) -> list[str]:
    """The argv of the other pods of a replica, which take part in the computing and listen to no client."""
    if model.kubernetes.pods_per_replica == 1:
        return []
    return [PYTHON, *_SERVE, *_arguments(platform, model), *_across_nodes(model, "$(LWS_WORKER_INDEX)"), "--headless"]


def _arguments(platform: Platform, model: Model) -> Sequence[str]:
    tracing = platform.gateway.tracing
    return arguments_for(model, PurePosixPath(weights_folder(platform, model)), traces=tracing.otlp if tracing else None)


def _across_nodes(model: Model, rank: str) -> list[str]:
    """What the pods of one replica have to know of each other; LeaderWorkerSet's controller gives every container the variables."""
    pods = model.kubernetes.pods_per_replica
    if pods == 1:
        return []
    return ["--distributed-executor-backend", "mp", "--nnodes", str(pods), "--node-rank", rank, "--master-addr", "$(LWS_LEADER_ADDRESS)"]


def _environment(platform: Platform, model: Model) -> dict[str, str]:
    tracing = platform.gateway.tracing
    environment = environment_for(
        model,
        replica="$(KIVA_REPLICA)",  # the pod's name, which the chart puts there
        identity=identity_of(platform, model),
        usage_log=PurePosixPath("/usage/usage.jsonl"),
        traces=tracing.otlp if tracing else None,
    )
    del environment["KIVA_REPLICA"]
    # The image's user has no entry in its user database, which PyTorch's compiler would ask for a name.
    # What it counts, gateways fetch: nobody shares a folder with it.
    environment |= {"HOME": "/cache", "USER": "kiva", "VLLM_CACHE_ROOT": "/cache/vllm", "KIVA_USAGE_SERVED": "1"}
    if model.kubernetes.gpu.count == 0:
        # The node's other cores can be seen and not be had: threads on all of them would wait for each other.
        environment |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(max(1, int(model.kubernetes.cpu)))}
    return dict(sorted(environment.items()))


def _memory_bytes(model: Model, weights_bytes: int | None) -> int:
    here = model.kubernetes
    if here.gpu.count:
        return _GPU_HOST_BYTES + here.gpu.count * _PER_GPU_BYTES + here.shared_memory
    if weights_bytes is None:
        raise _unknown(model, "memory", "kubernetes: {memory: 16GiB}")
    return _whole_mib(fixed_bytes(weights_bytes) + (model.kv_cache or 0) + here.shared_memory)


def _storage(platform: Platform, model: Model, cluster: Kubernetes, weights_bytes: int | None) -> Json:
    storage = cluster.storage
    makes_claim = storage.kind == "claim" and storage.claim is None
    size_bytes = storage.size
    if makes_claim and size_bytes is None:
        if weights_bytes is None:
            raise _unknown(model, "storage", "`kubernetes.storage.size: 200GiB`")
        size_bytes = -(-int(weights_bytes * 1.1) * _VERSIONS_KEPT // GIB) * GIB
    return {
        "kind": storage.kind,
        "claim": storage.claim or f"{release_for(platform, model.name)}-models" if storage.kind == "claim" else "",
        "create": makes_claim,
        "class": storage.class_name or "" if storage.kind == "claim" else "",
        "access": _ACCESS[storage.access],
        "size": quantity(size_bytes) if makes_claim and size_bytes else "",
        "hostPath": storage.path or "" if storage.kind == "host-path" else "",
        "image": model.kubernetes.model_image or "" if storage.kind == "image" else "",
        "subPath": "",
    }


def _preload(platform: Platform, model: Model, cluster: Kubernetes) -> Json:
    if not preloads(platform, model):
        return {"enabled": False}
    command = [PYTHON, "-m", "kivactl.tools.preload", "--source", model.source]
    command += ["--revision", model.revision] if model.revision is not None else []
    command += ["--without-weights"] if model.dummy_weights else []
    command += ["--into", weights_folder(platform, model)]
    environment = {"HOME": "/tmp", "HF_HOME": "/tmp/huggingface", "DO_NOT_TRACK": "1"}  # noqa: S108  (the pod's own)
    if model.source_kind == "package":  # comes with the image, and is converted
        return {"enabled": True, "command": command, "environment": environment, "secretEnvironment": {}, "resources": _CONVERTING, "egress": []}
    hub = cluster.storage.hub or _HUB
    secret = _hub_secret(platform, model, cluster)
    return {
        "enabled": True,
        "command": command,
        "environment": {**environment, "HF_ENDPOINT": hub},
        "secretEnvironment": {"HF_TOKEN": {"secret": secret, "key": "token"}} if secret else {},
        "resources": _DOWNLOADING,
        # By port only: the hub sends its clients on to hosts that only it knows.
        "egress": [{"ports": [{"protocol": "TCP", "port": urlsplit(hub).port or (443 if hub.startswith("https:") else 80)}]}],
    }


def _hub_secret(platform: Platform, model: Model, cluster: Kubernetes) -> str:
    """The Secret with the token for the hub; one from a store outside is made for each release, which cannot share objects."""
    if cluster.storage.hub_secret is None:
        return ""
    return f"{release_for(platform, model.name)}-hub" if store_of(cluster) else cluster.storage.hub_secret


def _external_secrets(platform: Platform, model: Model, cluster: Kubernetes) -> Json:
    store, secret = store_of(cluster), _hub_secret(platform, model, cluster)
    if not store or not secret or not preloads(platform, model) or model.source_kind != "hub":
        return {}
    return {secret: {**store, "data": {"token": {"key": cluster.storage.hub_secret, "property": "token"}}}}


def _autoscaling(model: Model, cluster: Kubernetes) -> Json:
    scale = model.kubernetes.autoscale
    if scale is None:
        return {"kind": "none", "min": model.replicas, "max": model.replicas, "waiting": 5, "cacheRatio": 0.8, "idleSeconds": 900, "prometheus": ""}
    return {
        "kind": scale.by,
        "min": scale.min,
        "max": scale.max,
        "waiting": scale.waiting,
        "cacheRatio": scale.cache_ratio,
        "idleSeconds": math.ceil(scale.idle),
        "prometheus": cluster.monitoring.prometheus or "",
    }


def _unknown(model: Model, what: str, remedy: str) -> PreconditionError:
    return PreconditionError(
        f"the {what} that '{model.name}' needs cannot be derived: the size of its weights is not known here", f"write {remedy} in kiva.yaml"
    )


def _whole_mib(size_bytes: int) -> int:
    return -(-size_bytes // 2**20) * 2**20

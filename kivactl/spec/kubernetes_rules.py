"""What the parts of a spec owe each other on Kubernetes: pinned versions, pools that exist, as many GPUs as the engine uses."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from kivactl.spec.kubernetes import Kubernetes, known_pool, pinned, unpinned

if TYPE_CHECKING:
    from kivactl.spec.platform import Model, Platform


def check(platform: Platform) -> None:
    """Refuse a spec that cannot run on Kubernetes.

    Raises:
        ValueError: The first thing that is wrong, with what to write.
    """
    kubernetes = platform.kubernetes
    if kubernetes is None:
        msg = "`target: kubernetes` needs `kubernetes` with at least `context` and `images`"
        raise ValueError(msg)
    if platform.usage.ledger != "sqlite" and kubernetes.ledger_secret is None:
        msg = "a PostgreSQL ledger needs `kubernetes.ledger_secret`, a Secret whose key `password` is its password"
        raise ValueError(msg)
    if platform.usage.ledger == "sqlite" and kubernetes.gateway.replicas > 1:
        msg = (
            f"{kubernetes.gateway.replicas} gateways cannot share a ledger in a file: "
            "set `usage.ledger` to postgresql://USER@HOST/DATABASE, or `kubernetes.gateway.replicas: 1`"
        )
        raise ValueError(msg)
    for issuer in platform.gateway.issuers:
        if issuer.ca is not None or not issuer.jwks.startswith(("http://", "https://")):
            msg = f"the issuer {issuer.issuer} names a file, which pods do not have: `jwks` must be a URL whose certificate everyone trusts"
            raise ValueError(msg)
    for model in platform.models:
        _check_version(model, kubernetes)
        _check_pods(model, kubernetes)


def _check_version(model: Model, kubernetes: Kubernetes) -> None:
    here = model.kubernetes
    if not kubernetes.images.unpinned:
        for key in ("image", "model_image"):
            image = getattr(here, key)
            if image is not None and not pinned(image):
                msg = f"the model '{model.name}': kubernetes.{key} must be named by digest: {unpinned(image)}"
                raise ValueError(msg)
        if model.source_kind == "hub" and model.revision is None and kubernetes.storage.kind != "image":
            msg = f"the model '{model.name}' needs `revision`, the commit that pins what is served (or `kubernetes.images.unpinned: true`, for development)"
            raise ValueError(msg)
    if kubernetes.storage.kind == "image" and here.model_image is None:
        msg = f"the model '{model.name}' needs `kubernetes.model_image`, for `kubernetes.storage.kind` is image"
        raise ValueError(msg)


def _check_pods(model: Model, kubernetes: Kubernetes) -> None:
    here = model.kubernetes
    if here.nodes is not None:
        known_pool(f"the model '{model.name}'", here.nodes, kubernetes.nodes)
    if here.gpu.count == 0 and model.kv_cache is None:
        msg = f"the model '{model.name}' runs on CPUs (`gpu.count: 0`) and needs `kv_cache`, such as 4GiB: nobody measures the node beforehand"
        raise ValueError(msg)
    gpus, spread = here.gpu.count * here.pods_per_replica, parallel(model)
    if here.gpu.count and gpus != spread:
        have = f"{gpus} GPU{'s' if gpus > 1 else ''}"
        msg = (
            f"a replica of '{model.name}' gets {have} and its engine uses {spread}: "
            "`kubernetes.gpu.count` times `kubernetes.pods_per_replica` must equal tensor-parallel-size times pipeline-parallel-size in `engine`"
        )
        raise ValueError(msg)
    if here.pods_per_replica > 1 and here.gpu.count == 0:
        msg = f"the model '{model.name}': `pods_per_replica` above 1 needs GPUs"
        raise ValueError(msg)
    if here.pods_per_replica > 1 and kubernetes.storage.kind == "claim" and kubernetes.storage.access == "read-write-once":
        msg = f"a replica of '{model.name}' spans {here.pods_per_replica} nodes, which `kubernetes.storage.access: read-write-once` does not let share a claim"
        raise ValueError(msg)
    if here.autoscale is not None and here.autoscale.by == "keda" and kubernetes.monitoring.prometheus is None:
        msg = f"the model '{model.name}' is scaled by KEDA, which needs `kubernetes.monitoring.prometheus`, the address to ask"
        raise ValueError(msg)


def parallel(model: Model) -> int:
    """How many GPUs one replica's engine spreads itself over.

    Raises:
        ValueError: The engine is told no whole number.
    """
    options = {name.replace("_", "-"): value for name, value in model.engine.items()}
    sizes = [options.get(f"{kind}-parallel-size", 1) for kind in ("tensor", "pipeline", "data")]
    if not all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in sizes):
        msg = f"the model '{model.name}': tensor-, pipeline- and data-parallel-size in `engine` must be whole numbers above 0"
        raise ValueError(msg)
    return math.prod(int(size) for size in sizes)

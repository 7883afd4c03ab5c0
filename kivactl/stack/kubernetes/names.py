"""What things are called on Kubernetes: names from the spec as labels that every kind of object accepts."""

from __future__ import annotations

import hashlib
import re

from kivactl.plan import digest
from kivactl.spec.kubernetes import Kubernetes
from kivactl.spec.platform import Model, Platform

MODELS = "/models"
"""Where pods find model files."""

ENGINE_PORT = 8000

_LONGEST_LABEL = 40
_LONGEST_RELEASE = 45
"""Helm allows 53; what a rollout appends (`-canary`), and what LeaderWorkerSet appends to a name of 53, must fit too."""

_RESERVED = re.compile(r"gateway|monitoring|.*-(?:all|blue|green|canary)")
"""What releases and Services of the platform itself are called, or end with."""


def label_for(name: str) -> str:
    """A name of the spec as an RFC 1123 label of at most 40 characters.

    Whenever the name itself is none, or means something else already, six digits of its hash keep it apart from others.
    """
    label = re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")
    if label == name and len(label) <= _LONGEST_LABEL and not _RESERVED.fullmatch(label):
        return label
    return _hashed(label, name, _LONGEST_LABEL)


def release_for(platform: Platform, model: str) -> str:
    """Name of a model's Helm release, which is also its Service's."""
    return _release(platform.name, label_for(model))


def gateway_release(platform: Platform) -> str:
    """Name of the gateway's Helm release."""
    return _release(platform.name, "gateway")


def monitoring_release(platform: Platform) -> str:
    """Name of the Helm release of the monitoring."""
    return _release(platform.name, "monitoring")


def service_host(platform: Platform, model: str) -> str:
    """DNS name of the ready replicas of a model.

    Raises:
        ValueError: The spec names no cluster.
    """
    return f"{release_for(platform, model)}.{namespace_of(platform)}.svc.cluster.local"


def all_replicas_host(platform: Platform, model: str) -> str:
    """DNS name of all replicas of a model, ready or not: whoever counted something is asked for it.

    Raises:
        ValueError: The spec names no cluster.
    """
    return f"{release_for(platform, model)}-all.{namespace_of(platform)}.svc.cluster.local"


def gateway_names(platform: Platform) -> tuple[str, ...]:
    """DNS names under which the gateway is reached: as the spec says, and as pods of the cluster call its Service."""
    service, cluster = gateway_release(platform), cluster_of(platform)
    inside = [service, f"{service}.{cluster.namespace}", f"{service}.{cluster.namespace}.svc", f"{service}.{cluster.namespace}.svc.cluster.local"]
    outside = [cluster.gateway.host] if cluster.gateway.host else []
    return tuple(dict.fromkeys([*outside, *platform.gateway.tls.names, *inside]))


def tls_secret(platform: Platform) -> str:
    """Name of the Secret with the gateway's certificate."""
    kind, _, name = cluster_of(platform).gateway.certificate.partition(":")
    return name if kind == "secret" else f"{gateway_release(platform)}-tls"


def namespace_of(platform: Platform) -> str:
    """The namespace of everything.

    Raises:
        ValueError: The spec names no cluster.
    """
    return cluster_of(platform).namespace


def cluster_of(platform: Platform) -> Kubernetes:
    """The spec's part on the cluster.

    Raises:
        ValueError: There is none.
    """
    if platform.kubernetes is None:
        msg = "a spec without `kubernetes` names no cluster"
        raise ValueError(msg)
    return platform.kubernetes


def preloads(platform: Platform, model: Model) -> bool:
    """Whether a job fetches a model: not what people put there themselves, and not what comes as an image."""
    storage = cluster_of(platform).storage
    return storage.preload and storage.kind != "image" and model.source_kind != "path"


def weights_folder(platform: Platform, model: Model) -> str:
    """Where a pod finds the files of a model.

    What is preloaded has a folder for each revision, so that a new version never changes the files under one that serves, and
    the way back needs no second download.
    """
    if cluster_of(platform).storage.kind == "image":
        return MODELS
    folder = f"{MODELS}/{label_for(model.name)}"
    return f"{folder}/{digest([model.source, model.revision, model.dummy_weights])[:12]}" if preloads(platform, model) else folder


def _release(platform: str, part: str) -> str:
    """Both joined, within Helm's limit; a Service's name must begin with a letter."""
    label = re.sub(r"[^a-z0-9-]+", "-", platform)
    name = f"{label}-{part}" if label[0].isalpha() else f"kiva-{label}-{part}"
    if label == platform and name.startswith(label) and len(name) <= _LONGEST_RELEASE:
        return name
    return _hashed(name, f"{platform}/{part}", _LONGEST_RELEASE)


def _hashed(label: str, name: str, longest: int) -> str:
    suffix = hashlib.sha256(name.encode()).hexdigest()[:6]
    return f"{label[: longest - 7].rstrip('-')}-{suffix}".lstrip("-")

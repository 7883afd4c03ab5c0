"""Manifests against Kubernetes' own schemas, strictly: unknown fields are faults.

The package `kubernetes-validate` brings the schemas; the validators are kept, because reading them anew for each manifest takes most of the time.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import jsonschema
from kubernetes_validate import utils
from referencing import Registry, Resource

Json = dict[str, Any]

CUSTOM = frozenset(
    {
        ("cert-manager.io/v1", "Certificate"),
        ("external-secrets.io/v1", "ExternalSecret"),
        ("gateway.networking.k8s.io/v1", "TLSRoute"),
        ("gateway.networking.k8s.io/v1alpha3", "TLSRoute"),
        ("keda.sh/v1alpha1", "ScaledObject"),
        ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet"),
        ("monitoring.coreos.com/v1", "PodMonitor"),
        ("monitoring.coreos.com/v1", "PrometheusRule"),
        ("monitoring.coreos.com/v1", "ServiceMonitor"),
    }
)
"""Custom resources that the charts may make: Kubernetes has no schema for them, only the pods in them are checked."""


@cache
def _registry(version: str) -> Registry[Any]:
    folder = _folder(version)
    return Resource.from_contents(utils.schema_contents(f"{folder}/_definitions.json", version)) @ Registry()


def _folder(version: str) -> str:
    (newest,) = [known for known in utils.all_versions() if known.startswith(f"{version}.") and not known.endswith("strict")][-1:]
    return f"kubernetes-json-schema/v{newest}-local-strict"


@cache
def _validator(kind: str, api_version: str, version: str) -> jsonschema.Draft202012Validator:
    group, slash, rest = api_version.partition("/")
    file = f"{kind.lower()}-{group.split('.')[0]}{'-' if slash else ''}{rest}"
    schema = utils.schema_contents(f"{_folder(version)}/{file}.json", version)
    return jsonschema.Draft202012Validator(schema, registry=_registry(version))


def schema_faults(manifest: Json, version: str) -> list[str]:
    """What Kubernetes would not accept or not know in a manifest, one sentence each.

    Args:
        manifest: Parsed.
        version: Kubernetes minor version, such as 1.37.
    """
    if (manifest["apiVersion"], manifest["kind"]) in CUSTOM:
        return [fault for template in _pod_templates(manifest) for fault in _faults({"apiVersion": "v1", "kind": "PodTemplate", "template": template}, version)]
    return _faults(manifest, version)


def _pod_templates(manifest: Json) -> list[Json]:
    if manifest["kind"] != "LeaderWorkerSet":
        return []
    group = manifest["spec"]["leaderWorkerTemplate"]
    return [group[part] for part in ("leaderTemplate", "workerTemplate") if part in group]


def _faults(manifest: Json, version: str) -> list[str]:
    try:
        validator = _validator(manifest["kind"], manifest["apiVersion"], version)
    except FileNotFoundError:
        return [f"Kubernetes {version} knows no {manifest['kind']} in {manifest['apiVersion']}"]
    name = manifest.get("metadata", {}).get("name", "")
    return [f"{manifest['kind']} {name}: {'.'.join(map(str, fault.absolute_path))}: {fault.message[:300]}" for fault in validator.iter_errors(manifest)]

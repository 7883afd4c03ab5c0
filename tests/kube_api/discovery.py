"""What the API says of itself: its version, groups and kinds (both forms), and OpenAPI as far as helm and kubectl read it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import Any

from kube_api.kinds import Kind, Kinds
from kube_api.schemas import VERSION, definitions, name_of

Json = dict[str, Any]

NOTHING_IN_OPENAPI_2 = "\x0a\x032.0\x12\x00\x42\x00\x4a\x00"
"""The older document, in protobuf, without any content: who finds nothing in it lets the server check fields."""

AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


def version() -> Json:
    major, minor = VERSION.split(".")
    return {"major": major, "minor": minor, "gitVersion": f"v{VERSION}.1", "gitTreeState": "clean", "goVersion": "go1.26.0", "platform": "linux/amd64"}


def aggregated(kinds: Kinds, *, core: bool) -> Json:
    """`/api` or `/apis` in one answer."""
    groups = []
    for group, versions in kinds.groups().items():
        if (group == "") == core:
            listed = [
                {"version": name, "freshness": "Current", "resources": [_aggregated_resource(one) for one in served]} for name, served in versions.items()
            ]
            groups.append({"metadata": {"name": group} if group else {}, "versions": listed})
    return {"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": groups}


def _aggregated_resource(kind: Kind) -> Json:
    meant = {"group": kind.group, "version": kind.version, "kind": kind.kind}
    found: Json = {
        "resource": kind.plural,
        "responseKind": meant,
        "scope": "Namespaced" if kind.namespaced else "Cluster",
        "singularResource": kind.singular,
        "verbs": list(kind.verbs),
    }
    if kind.short:
        found["shortNames"] = list(kind.short)
    if kind.categories:
        found["categories"] = kind.categories
    if kind.subresources:
        found["subresources"] = [{"subresource": one, "responseKind": _kind_of(kind, one), "verbs": _verbs(one)} for one in kind.subresources]
    return found


def _kind_of(kind: Kind, subresource: str) -> Json:
    special = {"scale": ("autoscaling", "v1", "Scale"), "eviction": ("policy", "v1", "Eviction"), "token": ("authentication.k8s.io", "v1", "TokenRequest")}
    group, version_name, name = special.get(subresource, (kind.group, kind.version, kind.kind))
    return {"group": group, "version": version_name, "kind": name}


def _verbs(subresource: str) -> list[str]:
    special = {"log": ["get"], "eviction": ["create"], "binding": ["create"], "token": ["create"], "portforward": ["create", "get"], "finalize": ["update"]}
    return special.get(subresource, ["get", "patch", "update"])


def core_versions() -> Json:
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}


def group_list(kinds: Kinds) -> Json:
    groups = [group(kinds, name) for name in kinds.groups() if name]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def group(kinds: Kinds, name: str) -> Json:
    versions = [{"groupVersion": f"{name}/{one}", "version": one} for one in kinds.groups()[name]]
    return {"kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": versions, "preferredVersion": versions[0]}


def resources(kinds: Kinds, group_name: str, version_name: str) -> Json | None:
    """The kinds of one version of a group, None when it is not served."""
    served = kinds.groups().get(group_name, {}).get(version_name)
    if served is None:
        return None
    listed: list[Json] = []
    for kind in served:
        listed.append(
            {
                "name": kind.plural,
                "singularName": kind.singular,
                "namespaced": kind.namespaced,
                "kind": kind.kind,
                "verbs": list(kind.verbs),
                **({"shortNames": list(kind.short)} if kind.short else {}),
                **({"categories": kind.categories} if kind.categories else {}),
            }
        )
        for one in kind.subresources:
            meant = _kind_of(kind, one)
            listed.append({"name": f"{kind.plural}/{one}", "singularName": "", "namespaced": kind.namespaced, **meant, "verbs": _verbs(one)})
    api_version = f"{group_name}/{version_name}" if group_name else version_name
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": listed}


def openapi_index(kinds: Kinds) -> Json:
    """`/openapi/v3`."""
    paths = {}
    for name, versions in kinds.groups().items():
        for one in versions:
            path = f"apis/{name}/{one}" if name else f"api/{one}"
            paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash=1"}
    return {"paths": paths}


def openapi(kinds: Kinds, group_name: str, version_name: str) -> Json | None:
    """`/openapi/v3/...`: the schemas of one version of a group, and that it checks fields itself."""
    served = kinds.groups().get(group_name, {}).get(version_name)
    if served is None:
        return None
    paths: Json = {}
    wanted: set[str] = set()
    for kind in served:
        base = f"/apis/{group_name}/{version_name}" if group_name else f"/api/{version_name}"
        place = f"{base}/namespaces/{{namespace}}/{kind.plural}/{{name}}" if kind.namespaced else f"{base}/{kind.plural}/{{name}}"
        names = ("dryRun", "fieldManager", "fieldValidation", "force")
        parameters = [{"name": one, "in": "query", "schema": {"type": "string", "uniqueItems": True}} for one in names]
        meant = {"group": kind.group, "version": kind.version, "kind": kind.kind}
        operation = {"operationId": f"patch{kind.kind}", "x-kubernetes-action": "patch", "x-kubernetes-group-version-kind": meant, "responses": {}}
        paths[place] = {"patch": {**operation, "parameters": parameters}}
        if name := name_of(kind.group, kind.version, kind.kind):
            wanted.add(name)
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": f"v{VERSION}.1"},
        "paths": paths,
        "components": {"schemas": _schemas(frozenset(wanted)) | {_custom_name(one): _custom_schema(one) for one in served if one.custom}},
    }


def _custom_name(kind: Kind) -> str:
    return ".".join([*reversed(kind.group.split(".")), kind.version, kind.kind])


def _custom_schema(kind: Kind) -> Json:
    meant = {"group": kind.group, "version": kind.version, "kind": kind.kind}
    return {"type": "object", "x-kubernetes-preserve-unknown-fields": True, "x-kubernetes-group-version-kind": [meant]}


@cache
def _schemas(wanted: frozenset[str]) -> Json:
    """Schemas with all that they name, in the words of OpenAPI."""
    found: Json = {}
    open_names = list(wanted)
    while open_names:
        name = open_names.pop()
        if name not in found:
            found[name] = _plain(definitions()[name])
            open_names += set(_references(found[name]))
    return found


def _references(value: Any) -> Iterable[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"].rsplit("/", 1)[-1]
        for one in value.values():
            yield from _references(one)
    elif isinstance(value, list):
        for one in value:
            yield from _references(one)


def _plain(value: Any) -> Any:
    """A schema without descriptions and `null`, with references as OpenAPI 3 has them."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if not isinstance(value, dict):
        return value
    result: Json = {}
    for key, one in value.items():
        if key == "description" and isinstance(one, str):
            continue
        if key == "type" and isinstance(one, list):
            result[key] = next(name for name in one if name != "null")
        elif key == "$ref":
            result[key] = re.sub(r"^#/\$defs/", "#/components/schemas/", one)
        elif key == "enum" and isinstance(one, list):
            continue
        else:
            result[key] = _plain(one)
    return result

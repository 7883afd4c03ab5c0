"""Bodies in Kubernetes' protobuf, as typed clients of Go send them: helm's own storage, namespaces, deletions, evictions, reviews.

Source: https://github.com/kubernetes/api/blob/master/core/v1/generated.proto and its siblings.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

Json = dict[str, Any]

MAGIC = b"k8s\x00"

_META = {
    1: ("name", "text"),
    2: ("generateName", "text"),
    3: ("namespace", "text"),
    5: ("uid", "text"),
    6: ("resourceVersion", "text"),
    7: ("generation", "number"),
    8: ("creationTimestamp", "time"),
    9: ("deletionTimestamp", "time"),
    10: ("deletionGracePeriodSeconds", "number"),
    11: ("labels", "texts"),
    12: ("annotations", "texts"),
    13: ("ownerReferences", ["OwnerReference"]),
    14: ("finalizers", ["text"]),
    17: ("managedFields", ["ManagedFields"]),
}
_MESSAGES: dict[str, dict[int, tuple[str, Any]]] = {
    "ObjectMeta": _META,
    "OwnerReference": {
        1: ("kind", "text"),
        3: ("name", "text"),
        4: ("uid", "text"),
        5: ("apiVersion", "text"),
        6: ("controller", "truth"),
        7: ("blockOwnerDeletion", "truth"),
    },
    "ManagedFields": {
        1: ("manager", "text"),
        2: ("operation", "text"),
        3: ("apiVersion", "text"),
        4: ("time", "time"),
        6: ("fieldsType", "text"),
        7: ("fieldsV1", "raw"),
        8: ("subresource", "text"),
    },
    "Secret": {1: ("metadata", "ObjectMeta"), 2: ("data", "bytes"), 3: ("type", "text"), 4: ("stringData", "texts"), 5: ("immutable", "truth")},
    "ConfigMap": {1: ("metadata", "ObjectMeta"), 2: ("data", "texts"), 3: ("binaryData", "bytes"), 4: ("immutable", "truth")},
    "Namespace": {1: ("metadata", "ObjectMeta"), 2: ("spec", "NamespaceSpec"), 3: ("status", "NamespaceStatus")},
    "NamespaceSpec": {1: ("finalizers", ["text"])},
    "NamespaceStatus": {1: ("phase", "text")},
    "ServiceAccount": {1: ("metadata", "ObjectMeta"), 4: ("automountServiceAccountToken", "truth")},
    "DeleteOptions": {
        1: ("gracePeriodSeconds", "number"),
        2: ("preconditions", "Preconditions"),
        3: ("orphanDependents", "truth"),
        4: ("propagationPolicy", "text"),
        5: ("dryRun", ["text"]),
    },
    "Preconditions": {1: ("uid", "text"), 2: ("resourceVersion", "text")},
    "Eviction": {1: ("metadata", "ObjectMeta"), 2: ("deleteOptions", "DeleteOptions")},
    "SelfSubjectAccessReview": {1: ("metadata", "ObjectMeta"), 2: ("spec", "AccessSpec")},
    "AccessSpec": {1: ("resourceAttributes", "ResourceAttributes"), 2: ("nonResourceAttributes", "PathAttributes")},
    "ResourceAttributes": {
        1: ("namespace", "text"),
        2: ("verb", "text"),
        3: ("group", "text"),
        4: ("version", "text"),
        5: ("resource", "text"),
        6: ("subresource", "text"),
        7: ("name", "text"),
    },
    "PathAttributes": {1: ("path", "text"), 2: ("verb", "text")},
}


def decode(data: bytes) -> Json:
    """The object in a body.

    Raises:
        ValueError: It is not protobuf, or of a kind that is not known here.
    """
    if not data.startswith(MAGIC):
        msg = "no protobuf of Kubernetes"
        raise ValueError(msg)
    envelope = dict(_fields(data[len(MAGIC) :]))
    meant = dict(_fields(_bytes(envelope[1])))
    kind = _bytes(meant[2]).decode()
    if kind not in _MESSAGES:
        msg = f"protobuf of {kind} is not known here"
        raise ValueError(msg)
    found = {"apiVersion": _bytes(meant[1]).decode(), "kind": kind, **_message(kind, _bytes(envelope.get(2, b"")))}
    if kind != "DeleteOptions":
        found.setdefault("metadata", {})
    return found


def _message(name: str, data: bytes) -> Json:
    found: Json = {}
    for number, raw in _fields(data):
        if number not in _MESSAGES[name]:
            continue
        key, shape = _MESSAGES[name][number]
        if isinstance(shape, list):
            found.setdefault(key, []).append(_value(shape[0], raw))
        elif shape in {"texts", "bytes"}:
            pair = dict(_fields(_bytes(raw)))
            value = _bytes(pair.get(2, b""))
            found.setdefault(key, {})[_bytes(pair.get(1, b"")).decode()] = value.decode() if shape == "texts" else base64.b64encode(value).decode()
        elif (value := _value(shape, raw)) not in ("", {}, None):
            found[key] = value
    return found


def _value(shape: str, raw: int | bytes) -> Any:
    match shape:
        case "text":
            return _bytes(raw).decode()
        case "number":
            return raw
        case "truth":
            return bool(raw)
        case "time":
            seconds = dict(_fields(_bytes(raw))).get(1)
            return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if isinstance(seconds, int) and 0 < seconds < 1 << 40 else None
        case "raw":
            return json.loads(_bytes(dict(_fields(_bytes(raw)))[1]))
        case _:
            return _message(shape, _bytes(raw))


def _bytes(raw: int | bytes) -> bytes:
    if not isinstance(raw, bytes):
        msg = "a number where a text should be"
        raise ValueError(msg)
    return raw


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        if tag & 7 == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
        elif tag & 7 == 2:
            size, at = _varint(data, at)
            yield tag >> 3, data[at : at + size]
            at += size
        else:
            msg = f"a field of wire type {tag & 7}"
            raise ValueError(msg)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if not byte & 128:
            return value, at

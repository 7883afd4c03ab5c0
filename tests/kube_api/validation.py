"""What the real server refuses in an object: unknown and wrong fields, missing ones, names, and changes of what must stay."""

from __future__ import annotations

import re
from typing import Any

from kube_api.answers import Refusal, invalid
from kube_api.kinds import Kind
from kube_api.schemas import faults_of, missing_in, schema_of
from kube_api.selectors import matches

Json = dict[str, Any]
Faults = list[tuple[str, str, str]]

_LABEL = re.compile(r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")
_DNS_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
_ONE_LABEL = {"Service", "Namespace"}
_GO = {"string": "string", "integer": "int32", "number": "float64", "boolean": "bool", "array": "[]", "object": "map"}
_EXPECTED = {"string": "string", "integer": "numeric (int or float)", "number": "numeric (int or float)"}
_EXPECTED |= {"boolean": "boolean", "array": "list", "object": "map"}
_GOT = {str: "string", bool: "bool", int: "number", float: "number", list: "array", dict: "object"}
_MEBIBYTE = 1 << 20


def check_shape(kind: Kind, value: Json, validation: str) -> list[str]:
    """Refuse what cannot be read as its kind.

    Args:
        kind: Of the object.
        value: The object.
        validation: `Strict`, `Warn` or `Ignore`: what becomes of fields that nobody knows.

    Returns:
        Warnings.
    """
    unknown, wrong = faults_of(value, schema_of(kind.group, kind.version, kind.kind))
    said = f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}'
    if wrong:
        path, expected = wrong[0]
        got = _GOT[type(_at(value, path))]
        details = {"path": path, "expected": f"{_EXPECTED[expected]}, got {got}"}
        raise Refusal(400, f"{said}: json: cannot unmarshal {got} into Go struct field {kind.kind}.{path} of type {_GO[expected]}", details=details)
    unknown = [path for path in unknown if not path.startswith("status")]
    sentences = [f'unknown field "{path}"' for path in unknown]
    if unknown and validation == "Strict":
        raise Refusal(400, f"{said}: strict decoding error: {', '.join(sentences)}", details={"path": unknown[0]})
    return sentences if validation == "Warn" else []


def check_required(kind: Kind, value: Json) -> None:
    """Refuse what has not got what its kind needs; also gives it a `spec` to look into."""
    schema = schema_of(kind.group, kind.version, kind.kind)
    if schema is not None and "spec" in (schema.get("properties") or {}):
        value.setdefault("spec", {})
    missing = missing_in(value, schema)
    if kind.group in {"apps", "batch"} and "template" in (value.get("spec") or {}) and not (value["spec"]["template"].get("spec") or {}).get("containers"):
        missing.append("spec.template.spec.containers")
    if kind.kind == "Pod" and not value["spec"].get("containers"):
        missing.append("spec.containers")
    if missing:
        faults = [(path, "FieldValueRequired", "Required value") for path in dict.fromkeys(missing)]
        raise invalid(kind.kind, kind.group, value["metadata"].get("name", ""), faults)


def check(kind: Kind, value: Json, before: Json | None) -> None:
    """Refuse what no object of its kind may be, or become."""
    name = value["metadata"].get("name", "")
    faults: Faults = []
    _names(kind, value, faults)
    if before is None:
        _workload(kind, value, faults)
        _sizes(kind, value, faults)
    else:
        _workload(kind, value, faults)
        _sizes(kind, value, faults)
        _fixed(kind, value, before, faults)
    if faults:
        raise invalid(kind.kind, kind.group, name, faults)


def _names(kind: Kind, value: Json, faults: Faults) -> None:
    meta = value["metadata"]
    name = meta.get("name", "")
    pattern = _DNS_LABEL if kind.kind in _ONE_LABEL else _NAME
    if not kind.group.startswith("rbac.") and not pattern.fullmatch(name):
        rule = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.'"
        rule += ", and must start and end with an alphanumeric character"
        faults.append(("metadata.name", "FieldValueInvalid", f'Invalid value: "{name}": {rule}'))
    for key, label in (meta.get("labels") or {}).items():
        if not _LABEL.fullmatch(label if isinstance(label, str) else ""):
            text = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.'"
            text = "must be no more than 63 characters" if len(label) > 63 else text
            faults.append(("metadata.labels", "FieldValueInvalid", f'Invalid value: "{label}": {text}'))
        if len(key.rsplit("/", 1)[-1]) > 63:
            faults.append(("metadata.labels", "FieldValueInvalid", f'Invalid value: "{key}": name part must be no more than 63 characters'))
    if sum(len(key) + len(text) for key, text in (meta.get("annotations") or {}).items()) > _MEBIBYTE // 4:
        faults.append(("metadata.annotations", "FieldValueTooLong", "Too long: may not be more than 262144 bytes"))


def _workload(kind: Kind, value: Json, faults: Faults) -> None:
    spec = value.get("spec") or {}
    if kind.kind in {"Deployment", "ReplicaSet", "StatefulSet", "DaemonSet"}:
        labels = ((spec.get("template") or {}).get("metadata") or {}).get("labels") or {}
        if not matches(spec.get("selector"), labels):
            faults.append(("spec.template.metadata.labels", "FieldValueInvalid", f"Invalid value: {labels}: `selector` does not match template `labels`"))
    pods = {"Pod": (spec, "spec"), "CronJob": (((spec.get("jobTemplate") or {}).get("spec") or {}).get("template", {}).get("spec") or {}, "spec.jobTemplate")}
    pod, path = pods.get(kind.kind, ((spec.get("template") or {}).get("spec") or {} if isinstance(spec, dict) else {}, "spec.template.spec"))
    if kind.custom or "containers" not in pod:
        return
    if kind.kind == "Job" and pod.get("restartPolicy", "Always") == "Always":
        faults.append((f"{path}.restartPolicy", "FieldValueNotSupported", 'Unsupported value: "Always": supported values: "OnFailure", "Never"'))
    volumes = {one.get("name") for one in pod.get("volumes") or ()}
    seen: set[str] = set()
    for where in ("initContainers", "containers"):
        for number, container in enumerate(pod.get(where) or ()):
            here = f"{path}.{where}[{number}]"
            if container.get("name") in seen:
                faults.append((f"{here}.name", "FieldValueDuplicate", f'Duplicate value: "{container["name"]}"'))
            seen.add(container.get("name"))
            if not container.get("image"):
                faults.append((f"{here}.image", "FieldValueRequired", "Required value"))
            _container(container, here, volumes | {one.get("metadata", {}).get("name") for one in spec.get("volumeClaimTemplates") or ()}, faults)


def _container(container: Json, here: str, volumes: set[str], faults: Faults) -> None:
    mounts: set[str] = set()
    for number, mount in enumerate(container.get("volumeMounts") or ()):
        if mount.get("name") not in volumes:
            faults.append((f"{here}.volumeMounts[{number}].name", "FieldValueNotFound", f'Not found: "{mount.get("name")}"'))
        if mount.get("mountPath") in mounts:
            faults.append((f"{here}.volumeMounts[{number}].mountPath", "FieldValueInvalid", f'Invalid value: "{mount["mountPath"]}": must be unique'))
        mounts.add(mount.get("mountPath"))
    resources = container.get("resources") or {}
    for name, amount in (resources.get("limits") or {}).items():
        asked = (resources.get("requests") or {}).get(name)
        if "/" in name and asked is not None and str(asked) != str(amount):
            faults.append((f"{here}.resources.requests", "FieldValueInvalid", f'Invalid value: "{asked}": must be equal to {name} limit of {amount}'))
    for probe in ("livenessProbe", "startupProbe"):
        if (container.get(probe) or {}).get("successThreshold", 1) != 1:
            faults.append((f"{here}.{probe}.successThreshold", "FieldValueInvalid", "Invalid value: must be 1"))


def _sizes(kind: Kind, value: Json, faults: Faults) -> None:
    if kind.kind in {"ConfigMap", "Secret"}:
        parts = [*(value.get("data") or {}).items(), *(value.get("binaryData") or {}).items()]
        if sum(len(text.encode()) * (3 / 4 if kind.kind == "Secret" else 1) for _, text in parts) > _MEBIBYTE:
            faults.append(("", "FieldValueTooLong", f"Too long: may not be more than {_MEBIBYTE} bytes") if kind.kind == "ConfigMap" else _too_long_secret())
        for key, _ in parts:
            if not re.fullmatch(r"[-._a-zA-Z0-9]+", key):
                faults.append((f"data[{key}]", "FieldValueInvalid", f'Invalid value: "{key}": a valid config key must consist of alphanumeric characters'))
    if kind.kind == "Secret" and value.get("type") == "kubernetes.io/tls":
        for key in ("tls.crt", "tls.key"):
            if key not in (value.get("data") or {}):
                faults.append((f"data[{key}]", "FieldValueRequired", "Required value"))


def _too_long_secret() -> tuple[str, str, str]:
    return ("data", "FieldValueTooLong", f"Too long: may not be more than {_MEBIBYTE} bytes")


_STAYS = {
    "Deployment": ("spec.selector",),
    "ReplicaSet": ("spec.selector",),
    "DaemonSet": ("spec.selector",),
    "Job": ("spec.selector", "spec.template", "spec.completions", "spec.completionMode"),
    "Service": ("spec.clusterIP",),
    "Secret": ("type",),
    "RoleBinding": ("roleRef",),
    "ClusterRoleBinding": ("roleRef",),
    "StorageClass": ("provisioner", "parameters", "reclaimPolicy", "volumeBindingMode"),
}
_MAY_CHANGE = {
    "StatefulSet": {
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    },
    "PersistentVolumeClaim": {"volumeName", "volumeAttributesClassName"},
    "Pod": {"activeDeadlineSeconds", "terminationGracePeriodSeconds", "tolerations", "nodeName"},
}
_RULES = {
    "StatefulSet": "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit',"
    " 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
    "PersistentVolumeClaim": "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
    "Pod": "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,"
    "`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
}


def _fixed(kind: Kind, value: Json, before: Json, faults: Faults) -> None:
    for path in _STAYS.get(kind.kind, ()):
        old, new = _at(before, path), _at(value, path)
        if old != new and old is not None:
            faults.append((path, "FieldValueInvalid", f"Invalid value: {new}: field is immutable"))
    if before.get("immutable") and (before.get("data") != value.get("data") or not value.get("immutable")):
        faults.append(("data", "FieldValueForbidden", "Forbidden: field is immutable when `immutable` is set"))
    if kind.kind in _MAY_CHANGE:
        old, new = dict(before.get("spec") or {}), dict(value.get("spec") or {})
        for key in _MAY_CHANGE[kind.kind]:
            old.pop(key, None)
            new.pop(key, None)
        if kind.kind == "PersistentVolumeClaim":
            old["resources"] = new["resources"] = None
        if kind.kind == "Pod":
            old, new = _without_images(old), _without_images(new)
        if old != new:
            faults.append(("spec", "FieldValueForbidden", f"Forbidden: {_RULES[kind.kind]}"))


def _without_images(spec: Json) -> Json:
    return {**spec, **{where: [{**one, "image": ""} for one in spec[where]] for where in ("containers", "initContainers") if spec.get(where)}}


def _at(value: Any, path: str) -> Any:
    for part in re.findall(r"[^.\[\]]+", path):
        if isinstance(value, list):
            value = value[int(part)]
        elif isinstance(value, dict):
            rest = path[path.index(part) :]
            value = value.get(part, value.get(rest))
        else:
            return None
    return value

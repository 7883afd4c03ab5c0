"""What may be done to objects, as the API server does it: create, update, patch, apply, delete, with all its checks."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from kube_api import defaults, merge, ownership, validation
from kube_api.admission import Admission, charged, check_pod_security, check_quota
from kube_api.answers import Refusal, already_exists, conflict, forbidden, invalid, not_found
from kube_api.kinds import Kind, Kinds, kinds_of
from kube_api.schemas import schema_of, without_unknown
from kube_api.store import Store, moment

Json = dict[str, Any]

_FIXED_META = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "namespace", "name", "generation", "generateName")


@dataclass(frozen=True)
class Asked:
    """How a write is meant.

    Attributes:
        manager: Who owns the fields.
        dry_run: Whether nothing is written.
        field_validation: `Strict`, `Warn` or `Ignore`.
        force: Whether an apply takes fields of others.
        subresource: Such as `status`, or empty.
    """

    manager: str = "test"
    dry_run: bool = False
    field_validation: str = "Warn"
    force: bool = False
    subresource: str = ""


class Objects:
    """The objects of a cluster, with everything that guards them."""

    def __init__(self) -> None:
        self.store = Store()
        self.kinds = Kinds()
        self.admission = Admission()
        self.graceful = False
        """Whether deleted pods that run somewhere stay until a kubelet has ended them."""
        self._numbers: dict[str, int] = {}
        for name in ("default", "kube-system", "kube-public"):
            self.create(self.kinds.named("Namespace"), "", {"metadata": {"name": name}}, Asked("kube-apiserver"))

    # Reading

    def get(self, kind: Kind, namespace: str, name: str) -> Json:
        """One object in the version asked for.

        Raises:
            Refusal: It is not there.
        """
        found = self.store.get(kind, namespace, name)
        if found is None:
            raise not_found(kind.plural, kind.group, name)
        return _as(kind, found)

    def list(self, kind: Kind | str, namespace: str = "") -> list[Json]:
        """All objects of a kind, of one namespace unless empty."""
        kind = self.kinds.named(kind) if isinstance(kind, str) else kind
        return [_as(kind, one) for one in self.store.list(kind, namespace)]

    # Writing

    def create(self, kind: Kind, namespace: str, value: Json, asked: Asked, warnings: list[str] | None = None) -> Json:
        """Make an object; what the server has to say besides is added to `warnings`."""
        with self.store.changed:
            value = self._readable(kind, namespace, value, asked, warnings)
            meta = value["metadata"]
            if not meta.get("name") and meta.get("generateName"):
                meta["name"] = meta["generateName"] + self._suffix(meta["generateName"])
            if not meta.get("name"):
                raise invalid(kind.kind, kind.group, "", [("metadata.name", "FieldValueRequired", "Required value: name or generateName is required")])
            if meta.get("resourceVersion"):
                raise Refusal(400, "resourceVersion should not be set on objects to be created")
            self._namespace_open(kind, namespace, meta["name"])
            if self.store.get(kind, namespace, meta["name"]) is not None:
                raise already_exists(kind.plural, kind.group, meta["name"])
            if "status" in kind.subresources:
                value.pop("status", None)
            value = self._completed(kind, namespace, value, None, warnings)
            value = ownership.updated(None, value, schema_of(kind.group, kind.version, kind.kind), asked.manager, moment())
            return self._written(kind, value, None, asked)

    def update(self, kind: Kind, namespace: str, name: str, value: Json, asked: Asked, warnings: list[str] | None = None) -> Json:
        """Replace an object, or its status."""
        with self.store.changed:
            before = self.get(kind, namespace, name)
            value = self._readable(kind, namespace, value, asked, warnings)
            if value["metadata"].get("name", name) != name:
                raise Refusal(400, f"the name of the object ({value['metadata']['name']}) does not match the name on the URL ({name})")
            version = value["metadata"].get("resourceVersion")
            if version and version != before["metadata"]["resourceVersion"]:
                raise conflict(kind.plural, kind.group, name)
            uid = value["metadata"].get("uid")
            if uid and uid != before["metadata"]["uid"]:
                why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {before['metadata']['uid']}"
                raise Refusal(409, f'Operation cannot be fulfilled on {kind.plural} "{name}": {why}')
            return self._replaced(kind, namespace, before, value, asked, warnings)

    def patch(self, kind: Kind, namespace: str, name: str, patch: Any, how: str, asked: Asked, warnings: list[str] | None = None) -> Json:
        """Change an object by a patch; `how` is `json`, `merge` or `strategic`."""
        with self.store.changed:
            before = self.get(kind, namespace, name)
            schema = schema_of(kind.group, kind.version, kind.kind)
            if how == "strategic" and kind.custom:
                accepted = "application/json-patch+json, application/merge-patch+json"
                raise Refusal(415, f"the body of the request was in an unknown format - accepted media types include: {accepted}")
            if how == "json":
                value = merge.json_patch(before, patch)
            elif how == "merge":
                value = merge.merge_patch(before, patch)
            else:
                value = merge.strategic_merge(before, patch, schema)
            return self.update(kind, namespace, name, value, asked, warnings)

    def apply(self, kind: Kind, namespace: str, name: str, applied: Json, asked: Asked, warnings: list[str] | None = None) -> Json:
        """Server-side apply."""
        with self.store.changed:
            before = self.store.get(kind, namespace, name)
            before = None if before is None else _as(kind, before)
            schema = schema_of(kind.group, kind.version, kind.kind)
            applied = {"apiVersion": kind.api_version, "kind": kind.kind, **applied, "metadata": {**(applied.get("metadata") or {}), "name": name}}
            if kind.namespaced:
                applied["metadata"]["namespace"] = namespace
            if applied["metadata"].get("managedFields"):
                raise Refusal(400, "metadata.managedFields must be nil")
            self._typed(kind, namespace, name, applied)
            self._readable(kind, namespace, applied, Asked(field_validation="Ignore"), None)
            if before is None:
                if applied["metadata"].get("uid"):
                    raise Refusal(409, f"uid mismatch: the provided object specified uid {applied['metadata']['uid']}, and no existing object was found")
                self._namespace_open(kind, namespace, name)
            version = applied["metadata"].get("resourceVersion")
            if version and (before is None or version != before["metadata"]["resourceVersion"]):
                raise conflict(kind.plural, kind.group, name)
            value = ownership.applied_to(before, applied, schema, asked.manager, moment(), force=asked.force, subresource=asked.subresource)
            if before is None:
                if "status" in kind.subresources:
                    value.pop("status", None)
                return self._written(kind, self._completed(kind, namespace, value, None, warnings), None, asked)
            value = self._kept(kind, before, value, asked)
            return self._written(kind, self._completed(kind, namespace, value, before, warnings), before, asked)

    def delete(self, kind: Kind, namespace: str, name: str, options: Json | None = None, *, dry_run: bool = False) -> Json | None:
        """Take an object away, with what belongs to it.

        Returns:
            The object while it stays until somebody has finished with it, None when it is gone.
        """
        options = options or {}
        with self.store.changed:
            before = self.get(kind, namespace, name)
            wanted = options.get("preconditions") or {}
            if wanted.get("uid", before["metadata"]["uid"]) != before["metadata"]["uid"] or (
                wanted.get("resourceVersion", before["metadata"]["resourceVersion"]) != before["metadata"]["resourceVersion"]
            ):
                raise conflict(kind.plural, kind.group, name)
            if dry_run:
                return None
            policy = options.get("propagationPolicy") or "Background"
            grace = options.get("gracePeriodSeconds")
            running = kind.kind == "Pod" and self.graceful and before["spec"].get("nodeName") and grace != 0
            if before["metadata"].get("finalizers") or running:
                if "deletionTimestamp" in before["metadata"]:
                    return before
                seconds = grace if grace is not None else (before["spec"].get("terminationGracePeriodSeconds", 30) if running else 0)
                meta = {**before["metadata"], "deletionTimestamp": moment(), "deletionGracePeriodSeconds": seconds}
                return self.store.put(kind.store_key, {**before, "metadata": meta})
            self._gone(kind, before, orphan=policy == "Orphan")
            return None

    def purge(self, kind: Kind, value: Json) -> None:
        """Take away what nobody has to finish with any more."""
        with self.store.changed:
            self._gone(kind, value, orphan=False)

    def put_status(self, kind: Kind, value: Json, status: Json) -> Json:
        """Write what a controller saw, unless it is the same."""
        with self.store.changed:
            live = self.store.get(kind, value["metadata"].get("namespace", ""), value["metadata"]["name"])
            if live is None or live.get("status") == status:
                return live or value
            return self.store.put(kind.store_key, {**live, "status": status})

    def used(self, namespace: str, resource: str) -> Decimal:
        """How much of a resource of quotas the objects of a namespace use."""
        total = Decimal(0)
        for key, one in self.store.everything():
            if one["metadata"].get("namespace", "") == namespace:
                kind = self.kinds.of(one["apiVersion"], one["kind"])
                if kind is not None and kind.store_key == key:
                    total += charged(kind, one).get(resource, Decimal(0))
        return total

    # How

    def _readable(self, kind: Kind, namespace: str, value: Json, asked: Asked, warnings: list[str] | None) -> Json:
        if not isinstance(value, dict):
            raise Refusal(400, "the object provided is unrecognized (must be of type Object)")
        if value.get("kind", kind.kind) != kind.kind or value.get("apiVersion", kind.api_version) != kind.api_version:
            got = f"{value.get('apiVersion')}, Kind={value.get('kind')}"
            raise Refusal(400, f"the object provided ({got}) does not match the endpoint ({kind.api_version}, Kind={kind.kind})")
        value = {"apiVersion": kind.api_version, "kind": kind.kind, **value, "metadata": dict(value.get("metadata") or {})}
        if kind.namespaced:
            if value["metadata"].get("namespace") not in (None, "", namespace):
                said = "the namespace of the provided object does not match the namespace sent on the request"
                raise Refusal(400, said)
            value["metadata"]["namespace"] = namespace
        else:
            value["metadata"].pop("namespace", None)
        said_too = validation.check_shape(kind, value, asked.field_validation)
        if warnings is not None:
            warnings += said_too
        known: Json = without_unknown(value, schema_of(kind.group, kind.version, kind.kind))
        return known

    def _typed(self, kind: Kind, namespace: str, name: str, applied: Json) -> None:
        """What an apply cannot make sense of; the real server answers 500 without a reason."""
        try:
            validation.check_shape(kind, applied, "Strict")
        except Refusal as refusal:
            path = refusal.details.get("path", "")
            why = f".{path}: field not declared in schema" if "unknown field" in refusal.message else f".{path}: expected {refusal.details.get('expected')}"
            said = f"failed to create typed patch object ({namespace}/{name}; {kind.api_version}, Kind={kind.kind}): {why}"
            raise Refusal(500, said, "") from None

    def _namespace_open(self, kind: Kind, namespace: str, name: str) -> None:
        if not kind.namespaced:
            return
        found = self.store.get(self.kinds.named("Namespace"), "", namespace)
        if found is None:
            raise not_found("namespaces", "", namespace)
        if found["metadata"].get("deletionTimestamp"):
            raise forbidden(kind.plural, kind.group, name, f"unable to create new content in namespace {namespace} because it is being terminated")

    def _kept(self, kind: Kind, before: Json, value: Json, asked: Asked) -> Json:
        """The value with what a write of this kind cannot change."""
        meta = {**value["metadata"], **{key: before["metadata"][key] for key in _FIXED_META if key in before["metadata"]}}
        for key in _FIXED_META:
            if key not in before["metadata"]:
                meta.pop(key, None)
        value = {**value, "metadata": {**meta, "resourceVersion": before["metadata"]["resourceVersion"]}}
        if asked.subresource == "status":
            managed = value["metadata"].get("managedFields")
            value = {**before, "status": value.get("status")}
            if managed:
                value["metadata"] = {**before["metadata"], "managedFields": managed}
            return {key: one for key, one in value.items() if one is not None}
        if "status" in kind.subresources:
            value = {key: one for key, one in value.items() if key != "status"} | ({"status": before["status"]} if "status" in before else {})
        return value

    def _replaced(self, kind: Kind, namespace: str, before: Json, value: Json, asked: Asked, warnings: list[str] | None) -> Json:
        value = self._completed(kind, namespace, self._kept(kind, before, value, asked), before, warnings)
        schema = schema_of(kind.group, kind.version, kind.kind)
        return self._written(kind, ownership.updated(before, value, schema, asked.manager, moment(), asked.subresource), before, asked)

    def _completed(self, kind: Kind, namespace: str, value: Json, before: Json | None, warnings: list[str] | None) -> Json:
        validation.check_required(kind, value)
        meta = value["metadata"]
        if before is None:
            uid = meta.pop("uid", None) or hashlib.sha256(f"{kind.plural}/{namespace}/{meta['name']}/{self.store.revision}".encode()).hexdigest()
            meta["uid"] = f"{uid[:8]}-{uid[8:12]}-4{uid[13:16]}-a{uid[17:20]}-{uid[20:32]}" if "-" not in uid else uid
            meta["creationTimestamp"] = moment()
        value = defaults.defaulted(value)
        if kind.kind == "Service":
            self._addresses(value, before)
        if kind.kind == "PersistentVolumeClaim" and "storageClassName" not in value["spec"] and (name := self._default_class()):
            value["spec"]["storageClassName"] = name
        if kind.kind == "CustomResourceDefinition" and before is None:
            now = moment()
            value["status"] = {"conditions": [{"type": one, "status": "True", "lastTransitionTime": now} for one in ("NamesAccepted", "Established")]}
            value["status"] |= {"acceptedNames": value["spec"]["names"], "storedVersions": [value["spec"]["versions"][0]["name"]]}
        self.admission.check(kind, value)
        said = check_pod_security(self.store.get(self.kinds.named("Namespace"), "", namespace), kind, value)
        if warnings is not None:
            warnings += said
        validation.check(kind, value, before)
        if before is None and namespace:
            quotas = self.store.list(self.kinds.named("ResourceQuota"), namespace)
            check_quota(quotas, kind, value, lambda name: self.used(namespace, name))
        return value

    def _written(self, kind: Kind, value: Json, before: Json | None, asked: Asked) -> Json:
        if before is not None and _same(before, value):
            return before
        meta = dict(value["metadata"])
        if before is None:
            if "spec" in value:
                meta["generation"] = 1
        elif "generation" in before["metadata"]:
            changed = any(before.get(key) != value.get(key) for key in {*before, *value} - {"metadata", "status"})
            meta["generation"] = before["metadata"]["generation"] + (1 if changed else 0)
        value = {**value, "metadata": meta}
        if asked.dry_run:
            if before is None:
                meta["resourceVersion"] = ""
            return value
        if before is not None and meta.get("deletionTimestamp") and not meta.get("finalizers") and kind.kind != "Pod":
            self._gone(kind, value, orphan=False)
            return value
        written = _as(kind, self.store.put(kind.store_key, value))
        self._react(kind, written, before)
        return written

    def _react(self, kind: Kind, value: Json, before: Json | None) -> None:
        """What follows at once from a write."""
        if kind.kind == "CustomResourceDefinition":
            self.kinds.remove(value["spec"]["group"], value["spec"]["names"]["plural"])
            for one in kinds_of(value):
                self.kinds.add(one)
        if kind.kind == "Namespace" and before is None:
            name = value["metadata"]["name"]
            asked = Asked("kube-controller-manager")
            self.create(self.kinds.named("ServiceAccount"), name, {"metadata": {"name": "default"}}, asked)
            self.create(self.kinds.named("ConfigMap"), name, {"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": "none"}}, asked)

    def _gone(self, kind: Kind, value: Json, *, orphan: bool) -> None:
        meta = value["metadata"]
        if kind.kind == "Namespace":
            for key, one in self.store.everything():
                if one["metadata"].get("namespace") == meta["name"]:
                    self.store.remove(key, meta["name"], one["metadata"]["name"])
        self.store.remove(kind.store_key, meta.get("namespace", ""), meta["name"])
        if kind.kind == "CustomResourceDefinition":
            self.kinds.remove(value["spec"]["group"], value["spec"]["names"]["plural"])
        if orphan:
            return
        for _, one in self.store.owned(meta["uid"]):
            below = self.kinds.of(one["apiVersion"], one["kind"])
            if below is not None and self.store.get(below, one["metadata"].get("namespace", ""), one["metadata"]["name"]) is not None:
                self.delete(below, one["metadata"].get("namespace", ""), one["metadata"]["name"])

    def _addresses(self, value: Json, before: Json | None) -> None:
        spec = value["spec"]
        if spec["type"] == "ExternalName":
            return
        if before is not None:
            for key in ("clusterIP", "clusterIPs"):
                if not spec.get(key) and before["spec"].get(key):
                    spec[key] = before["spec"][key]
            ports = {(one.get("port"), one.get("protocol")): one.get("nodePort") for one in before["spec"].get("ports") or ()}
            for port in spec.get("ports") or ():
                if spec["type"] in {"NodePort", "LoadBalancer"} and not port.get("nodePort") and ports.get((port["port"], port["protocol"])):
                    port["nodePort"] = ports[(port["port"], port["protocol"])]
        if not spec.get("clusterIP"):
            number = self._next("address")
            spec["clusterIP"] = f"10.96.{number // 250}.{number % 250 + 1}"
        spec.setdefault("clusterIPs", [spec["clusterIP"]])
        for port in spec.get("ports") or ():
            if spec["type"] in {"NodePort", "LoadBalancer"} and not port.get("nodePort"):
                port["nodePort"] = 30000 + self._next("port")

    def _default_class(self) -> str:
        mark = "storageclass.kubernetes.io/is-default-class"
        classes = self.store.list(self.kinds.named("StorageClass"))
        return next((one["metadata"]["name"] for one in classes if (one["metadata"].get("annotations") or {}).get(mark) == "true"), "")

    def _next(self, what: str) -> int:
        self._numbers[what] = self._numbers.get(what, 0) + 1
        return self._numbers[what]

    def _suffix(self, name: str) -> str:
        digest = hashlib.sha256(f"{name}{self._next('suffix')}".encode()).digest()
        return "".join("bcdfghjklmnpqrstvwxz2456789"[byte % 27] for byte in digest[:5])


def _as(kind: Kind, value: Json) -> Json:
    """The object in the version asked for; versions differ by their name only."""
    return value if value.get("apiVersion") == kind.api_version else {**value, "apiVersion": kind.api_version}


def _same(before: Json, after: Json) -> bool:
    """Whether nothing but the times of owners differs."""

    def bare(value: Json) -> Json:
        managed = [{key: one for key, one in entry.items() if key != "time"} for entry in value["metadata"].get("managedFields") or ()]
        return {**value, "metadata": {**value["metadata"], "managedFields": managed, "generation": 0}}

    return bare(before) == bare(after)

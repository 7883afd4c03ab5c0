"""What the API answers to a request of a kind."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

from kube_api.answers import Refusal
from kube_api.objects import Asked, Objects
from kube_api.quantities import number
from kube_api.requests import Request
from kube_api.selectors import matches, selector
from kube_api.store import Change, moment

Json = dict[str, Any]

_PATCHES = {"application/json-patch+json": "json", "application/merge-patch+json": "merge", "application/strategic-merge-patch+json": "strategic"}


def answer(objects: Objects, request: Request, logs: Callable[[Request], str]) -> tuple[int, Json | str]:
    """Code and body for any request but a watch.

    Args:
        objects: Of the cluster.
        request: What is asked.
        logs: Gives what a container printed.
    """
    kind = request.kind
    assert kind is not None
    if kind.plural.startswith("selfsubject"):
        return 201, _about_oneself(objects, request)
    objects.admission.check_permission(request.verb, kind, request.namespace, request.name, request.subresource)
    if request.subresource == "log":
        return 200, logs(request)
    if request.subresource in {"scale", "eviction", "token"}:
        return {"scale": _scale, "eviction": _evict, "token": _token}[request.subresource](objects, request)
    return _VERBS[request.verb](objects, request)


def _asked(request: Request) -> Asked:
    validation = request.query.get("fieldValidation") or "Warn"
    return Asked(request.manager, request.dry_run, validation, request.query.get("force") == "true", request.subresource)


def _get(objects: Objects, request: Request) -> tuple[int, Json]:
    assert request.kind is not None
    return 200, objects.get(request.kind, request.namespace, request.name)


def _list(objects: Objects, request: Request) -> tuple[int, Json]:
    kind = request.kind
    assert kind is not None
    fits = selector(request.query.get("labelSelector", ""), request.query.get("fieldSelector", ""))
    with objects.store.changed:
        found = [one for one in objects.list(kind, request.namespace) if fits(one)]
        meta: Json = {"resourceVersion": str(objects.store.revision)}
        start = 0
        if token := request.query.get("continue"):
            told = json.loads(base64.b64decode(token))
            if told["revision"] < objects.store.oldest:
                said = "The provided continue parameter is too old to display a consistent list result. You must start a new list without the continue."
                raise Refusal(410, said)
            meta["resourceVersion"] = str(told["revision"])
            start = next((index for index, one in enumerate(found) if _place(one) > tuple(told["after"])), len(found))
        limit = int(request.query.get("limit") or 0)
        rest = found[start:]
        if limit and len(rest) > limit:
            token = json.dumps({"revision": int(meta["resourceVersion"]), "after": _place(rest[limit - 1])})
            meta |= {"continue": base64.b64encode(token.encode()).decode(), "remainingItemCount": len(rest) - limit}
            rest = rest[:limit]
    return 200, {"kind": f"{kind.kind}List", "apiVersion": kind.api_version, "metadata": meta, "items": rest}


def _place(one: Json) -> tuple[str, str]:
    return (one["metadata"].get("namespace", ""), one["metadata"]["name"])


def _create(objects: Objects, request: Request) -> tuple[int, Json]:
    assert request.kind is not None
    value = request.value()
    namespace = request.namespace
    if request.kind.namespaced and not namespace:
        raise Refusal(405, "the server does not allow this method on the requested resource")
    return 201, objects.create(request.kind, namespace, value, _asked(request), request.warnings)


def _update(objects: Objects, request: Request) -> tuple[int, Json]:
    assert request.kind is not None
    return 200, objects.update(request.kind, request.namespace, request.name, request.value(), _asked(request), request.warnings)


def _patch(objects: Objects, request: Request) -> tuple[int, Json]:
    kind = request.kind
    assert kind is not None
    content_type = request.content_type.split(";")[0].strip()
    if content_type in {"application/apply-patch+yaml", "application/apply-patch+cbor"}:
        if not request.query.get("fieldManager"):
            raise Refusal(422, 'PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch')
        value = request.value()
        if not isinstance(value, dict) or value.get("apiVersion") is None or value.get("kind") is None:
            raise Refusal(400, "apiVersion and kind must be set in an apply patch")
        fresh = objects.store.get(kind, request.namespace, request.name) is None
        if fresh and request.subresource:
            objects.get(kind, request.namespace, request.name)
        done = objects.apply(kind, request.namespace, request.name, value, _asked(request), request.warnings)
        return (201 if fresh else 200), done
    if content_type not in _PATCHES:
        raise Refusal(415, f"the body of the request was in an unknown format - accepted media types include: {', '.join(_PATCHES)}")
    return 200, objects.patch(kind, request.namespace, request.name, request.value(), _PATCHES[content_type], _asked(request), request.warnings)


def _delete(objects: Objects, request: Request) -> tuple[int, Json]:
    kind = request.kind
    assert kind is not None
    options = request.value() | {key: value for key, value in request.query.items() if key == "propagationPolicy"}
    if seconds := request.query.get("gracePeriodSeconds"):
        options["gracePeriodSeconds"] = int(seconds)
    before = objects.get(kind, request.namespace, request.name)
    staying = objects.delete(kind, request.namespace, request.name, options, dry_run=request.dry_run or options.get("dryRun") == ["All"])
    if staying is not None:
        return 200, staying
    details = {"name": request.name, "kind": kind.plural, "uid": before["metadata"]["uid"], **({"group": kind.group} if kind.group else {})}
    return 200, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}


def _delete_many(objects: Objects, request: Request) -> tuple[int, Json]:
    kind = request.kind
    assert kind is not None
    _, found = _list(objects, request)
    for one in found["items"]:
        objects.delete(kind, one["metadata"].get("namespace", ""), one["metadata"]["name"], request.value(), dry_run=request.dry_run)
    return 200, found


_VERBS = {"get": _get, "list": _list, "create": _create, "update": _update, "patch": _patch, "delete": _delete, "deletecollection": _delete_many}


def _scale(objects: Objects, request: Request) -> tuple[int, Json]:
    kind = request.kind
    assert kind is not None
    one = objects.get(kind, request.namespace, request.name)
    if request.verb in {"update", "patch"}:
        replicas = ((request.value() or {}).get("spec") or {}).get("replicas")
        asked = _asked(request)
        asked = Asked(asked.manager, asked.dry_run, "Ignore", False, "")
        one = objects.patch(kind, request.namespace, request.name, {"spec": {"replicas": replicas}}, "merge", asked)
    elif request.verb != "get":
        raise Refusal(405, "the server does not allow this method on the requested resource")
    labels = (one["spec"].get("selector") or {}).get("matchLabels") or {}
    meta = {key: one["metadata"][key] for key in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")}
    status = {"replicas": (one.get("status") or {}).get("replicas", 0), "selector": ",".join(f"{key}={value}" for key, value in labels.items())}
    return 200, {"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": meta, "spec": {"replicas": one["spec"].get("replicas", 0)}, "status": status}


def _evict(objects: Objects, request: Request) -> tuple[int, Json]:
    assert request.kind is not None
    with objects.store.changed:
        pod = objects.get(request.kind, request.namespace, request.name)
        done = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
        if (pod.get("status") or {}).get("phase") in {"Succeeded", "Failed", "Pending"} or "deletionTimestamp" in pod["metadata"]:
            budgets = []
        else:
            budgets = [one for one in objects.list("PodDisruptionBudget", request.namespace) if matches(one["spec"].get("selector"), _labels(pod))]
        if len(budgets) > 1:
            raise Refusal(500, "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.")
        for budget in budgets:
            _spend(objects, budget, pod, dry_run=request.dry_run)
        if not request.dry_run:
            objects.delete(request.kind, request.namespace, request.name, (request.value() or {}).get("deleteOptions"))
    return 201, done


def _labels(pod: Json) -> Json:
    return pod["metadata"].get("labels") or {}


def _spend(objects: Objects, budget: Json, pod: Json, *, dry_run: bool) -> None:
    """As the API server: one disruption less until the controller has counted again."""
    status = budget.get("status") or {}
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in (pod.get("status") or {}).get("conditions") or ())
    if not ready and budget["spec"].get("unhealthyPodEvictionPolicy") == "AlwaysAllow":
        return
    allowed = status.get("disruptionsAllowed", 0)
    if allowed < 1:
        name, healthy = budget["metadata"]["name"], status.get("currentHealthy", 0)
        said = f"The disruption budget {name} needs {status.get('desiredHealthy', 0)} healthy pods and has {healthy} currently"
        details = {"causes": [{"reason": "DisruptionBudget", "message": said}]}
        raise Refusal(429, "Cannot evict pod as it would violate the pod's disruption budget.", details=details)
    if not dry_run:
        kind = objects.kinds.named("PodDisruptionBudget")
        objects.put_status(kind, budget, {**status, "disruptionsAllowed": allowed - 1})


def _token(objects: Objects, request: Request) -> tuple[int, Json]:
    assert request.kind is not None
    objects.get(request.kind, request.namespace, request.name)
    status = {"token": f"token-of-{request.name}", "expirationTimestamp": moment()}
    return 201, {"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "metadata": {}, "spec": request.value().get("spec", {}), "status": status}


def _about_oneself(objects: Objects, request: Request) -> Json:
    value: Json = request.value()
    assert request.kind is not None
    value |= {"apiVersion": request.kind.api_version, "kind": request.kind.kind}
    spec = value.get("spec") or {}
    if request.kind.kind == "SelfSubjectAccessReview":
        asked = spec.get("resourceAttributes") or {}
        plural = asked.get("resource", "") + (f"/{asked['subresource']}" if asked.get("subresource") else "")
        allowed = objects.admission.may(asked.get("verb", ""), plural)
        return {**value, "status": {"allowed": allowed}}
    if request.kind.kind == "SelfSubjectReview":
        return {**value, "status": {"userInfo": {"username": objects.admission.user, "groups": ["system:authenticated"]}}}
    rules = [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]
    return {**value, "status": {"resourceRules": rules, "nonResourceRules": [], "incomplete": False}}


class Watch:
    """The events of one watch, in order.

    Args:
        objects: Of the cluster.
        request: What is watched.

    Raises:
        Refusal: The selectors cannot be read.
    """

    def __init__(self, objects: Objects, request: Request) -> None:
        assert request.kind is not None
        self._objects, self._kind, self._namespace = objects, request.kind, request.namespace
        fields = request.query.get("fieldSelector", "")
        if request.name:
            fields = f"{fields},metadata.name={request.name}".strip(",")
        self._fits = selector(request.query.get("labelSelector", ""), fields)
        self._bookmarks = request.query.get("allowWatchBookmarks") in {"true", "1"}
        self._initial = request.query.get("sendInitialEvents") in {"true", "1"}
        version = request.query.get("resourceVersion", "")
        self._seen = int(version) if version.isdigit() else 0
        self._from_now = version in {"", "0"}
        self._told = self._seen

    def first(self) -> Iterator[Json]:
        """What is there at the beginning; an error when the changes since then are forgotten."""
        store = self._objects.store
        with store.changed:
            if not self._from_now and not self._initial and self._seen < store.oldest:
                yield {"type": "ERROR", "object": Refusal(410, f"too old resource version: {self._seen} ({store.oldest})").status()}
                self._seen = -1
                return
            if self._from_now or self._initial:
                self._seen = store.revision
                for one in self._objects.list(self._kind, self._namespace):
                    if self._fits(one):
                        yield {"type": "ADDED", "object": one}
        if self._initial and self._bookmarks:
            yield self._bookmark({"annotations": {"k8s.io/initial-events-end": "true"}})
        self._told = self._seen

    @property
    def ended(self) -> bool:
        return self._seen < 0

    def next(self) -> list[Json]:
        """Events since the last call; the caller holds the store."""
        store = self._objects.store
        if self._seen < store.oldest and not self._caught_up():
            self._seen = -1
            return [{"type": "ERROR", "object": Refusal(410, "The resourceVersion for the provided watch is too old.").status()}]
        found = store.since(self._seen, self._kind.store_key)
        self._seen = store.revision
        events = [event for change in found if (event := self._event(change)) is not None]
        if events:
            self._told = self._seen
        return events

    def bookmark(self) -> Json | None:
        """A sign of how far the watch has come, when one is wanted and there is something to say."""
        if not self._bookmarks or self._told == self._seen:
            return None
        self._told = self._seen
        return self._bookmark({})

    def _caught_up(self) -> bool:
        return self._seen >= self._objects.store.oldest or self._seen == self._objects.store.revision

    def _bookmark(self, extra: Json) -> Json:
        meta = {"resourceVersion": str(self._seen), **extra}
        return {"type": "BOOKMARK", "object": {"kind": self._kind.kind, "apiVersion": self._kind.api_version, "metadata": meta}}

    def _event(self, change: Change) -> Json | None:
        if self._namespace and change.value["metadata"].get("namespace") != self._namespace:
            return None
        fits = self._fits(change.value)
        fitted = change.before is not None and self._fits(change.before)
        value = {**change.value, "apiVersion": self._kind.api_version}
        if change.type == "DELETED":
            return {"type": "DELETED", "object": value} if fits or fitted else None
        if fits:
            return {"type": "MODIFIED" if fitted else "ADDED", "object": value}
        return {"type": "DELETED", "object": value} if fitted else None


def used_in(objects: Objects, namespace: str, hard: Json) -> Json:
    """What the status of a ResourceQuota says."""
    from kube_api.quantities import text

    return {"hard": hard, "used": {name: text(objects.used(namespace, name)) for name in hard if number(hard[name]) >= 0}}

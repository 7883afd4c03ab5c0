"""An in-memory Kubernetes API that the real helm and kubectl work with, for tests.

It is a real HTTP server in a thread of the test's own process, so tests script it and look into it as an object.
What lies in it is gone with it.

    with KubeApi() as api:
        config = api.kubeconfig(tmp_path / "kubeconfig")
        api.faults.add("patch", "Deployment", answer=409)
        helm(...)
        assert [one.name for one in api.writes("Secret")] == [...]

Why not kmock: it answers scripted requests, but has no server-side apply, no OpenAPI and no dry runs, which helm 4 cannot do without.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kube_api import discovery
from kube_api.admission import Admission
from kube_api.answering import Watch, answer
from kube_api.answers import Refusal
from kube_api.authority import Authority
from kube_api.faults import Faults
from kube_api.kinds import CUSTOM, Kind, definition
from kube_api.objects import Asked, Objects
from kube_api.requests import Request
from kube_api.serving import Server

Json = dict[str, Any]


class KubeApi:
    """The API server.

    Args:
        custom: Plural names out of `kinds.CUSTOM` whose definitions are there from the start.
        tls: Whether it speaks HTTPS, with an authority of its own.
        token: What callers must show; nothing when empty.
    """

    def __init__(self, *, custom: Iterable[str] = tuple(CUSTOM), tls: bool = False, token: str = "") -> None:
        self.objects = Objects()
        self.faults = Faults()
        self.requests: list[Request] = []
        self.crashes: list[Exception] = []
        """Faults of this server itself; whoever tests with it should see that there are none."""
        self.logs: Callable[[str, str, str, bool], list[str] | Refusal] = lambda _namespace, _pod, _container, _previous: []
        self.ports: dict[int, tuple[str, int]] = {}
        """Who answers on a port of the pods, when it is forwarded."""
        self.programs: Callable[[Json, str, list[str]], tuple[int, str, str] | None] = lambda _pod, _container, _words: None
        """What a program in a container does: its exit code, stdout and stderr; None when the container has no such program."""
        self.token = token
        self._authority = Authority() if tls else None
        self._server: Server | None = None
        self._port = 0
        for plural in custom:
            self.objects.create(self.kind("CustomResourceDefinition"), "", definition(plural), Asked("test"))

    # Being there

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Listen; after a stop on the same port, with everything that was in it."""
        self._server = Server(self, self._port, self._authority)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True, name="kube-api").start()

    def stop(self) -> None:
        """Be gone: no connection stays, new ones are refused."""
        if self._server is not None:
            self._server.end()
            self._server = None

    @property
    def url(self) -> str:
        return f"{'https' if self._authority else 'http'}://127.0.0.1:{self._port}"

    def kubeconfig(self, path: Path, context: str = "kiva-test", namespace: str = "default") -> Path:
        """Write a kubeconfig with one context; the current one is another that leads nowhere."""
        cluster: Json = {"server": self.url}
        if self._authority:
            cluster["certificate-authority-data"] = base64.b64encode(self._authority.certificate).decode()
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "kube-api", "cluster": cluster}, {"name": "nowhere", "cluster": {"server": "http://127.0.0.1:9"}}],
            "users": [{"name": "user", "user": {"token": self.token or "none"}}],
            "contexts": [
                {"name": context, "context": {"cluster": "kube-api", "user": "user", "namespace": namespace}},
                {"name": "nowhere", "context": {"cluster": "nowhere", "user": "user"}},
            ],
            "current-context": "nowhere",
        }
        path.write_text(json.dumps(content))
        path.chmod(0o600)
        return path

    # Looking into it

    @property
    def admission(self) -> Admission:
        return self.objects.admission

    def kind(self, name: str) -> Kind:
        """A kind by its name."""
        return self.objects.kinds.named(name)

    def get(self, kind: str, name: str, namespace: str = "default") -> Json | None:
        """An object as it lies there, None when it does not; change nothing in it."""
        found = self.kind(kind)
        return self.objects.store.get(found, namespace if found.namespaced else "", name)

    def list(self, kind: str, namespace: str = "") -> list[Json]:
        """All objects of a kind."""
        return self.objects.list(kind, namespace)

    def add(self, value: Json, namespace: str = "default", manager: str = "somebody") -> Json:
        """Make an object, by way of another program."""
        kind = self.objects.kinds.of(value["apiVersion"], value["kind"])
        assert kind is not None, f"{value['apiVersion']} {value['kind']} is not served"
        place = value.get("metadata", {}).get("namespace", namespace) if kind.namespaced else ""
        return self.objects.create(kind, place, value, Asked(manager))

    def change(self, kind: str, name: str, patch: Json, namespace: str = "default", manager: str = "somebody", subresource: str = "") -> Json:
        """Change an object by a merge patch, by way of another program."""
        found = self.kind(kind)
        asked = Asked(manager, subresource=subresource)
        return self.objects.patch(found, namespace if found.namespaced else "", name, patch, "merge", asked)

    def remove(self, kind: str, name: str, namespace: str = "default") -> None:
        """Take an object away, by way of another program."""
        found = self.kind(kind)
        self.objects.delete(found, namespace if found.namespaced else "", name)

    def namespace(self, name: str, **labels: str) -> None:
        """Make a namespace; labels with a slash in their name go by `**{"a/b": "c"}`."""
        self.add({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})

    def writes(self, kind: str = "") -> list[Request]:
        """The requests that changed something, of one kind unless empty, whoever made them; dry runs are none."""
        return [one for one in list(self.requests) if one.writes and one.code < 400 and kind in {"", one.kind_name}]

    def compact(self) -> None:
        """Forget all changes: watches from before end with 410."""
        self.objects.store.compact()

    def drop_watches(self) -> None:
        """End all open watches in the middle, without a word."""
        if self._server is not None:
            self._server.drop_watches()

    def drop_connections(self) -> None:
        """Cut everything that is open, also what answers slowly."""
        if self._server is not None:
            self._server.drop_connections()

    # Answering

    def answer(self, request: Request) -> tuple[int, Json | str | Watch]:
        """Code and body of a request."""
        if self.token and request.query.get("authorization") != f"Bearer {self.token}":
            raise Refusal(401, "Unauthorized")
        if request.kind is None:
            return 200, self._about(request)
        if request.verb == "watch":
            self.admission.check_permission("watch", request.kind, request.namespace, request.name)
            return 200, Watch(self.objects, request)
        return answer(self.objects, request, self._log)

    def forwarded(self, request: Request, port: int) -> tuple[str, int] | None:
        """Who answers on a port of a pod; None when nobody does.

        Raises:
            Refusal: There is no such pod, it does not run, or it is not allowed.
        """
        assert request.kind is not None
        self.admission.check_permission("create", request.kind, request.namespace, request.name, "portforward")
        pod = self.objects.get(request.kind, request.namespace, request.name)
        if (phase := (pod.get("status") or {}).get("phase", "Pending")) != "Running":
            raise Refusal(500, f"unable to forward port because pod is not running. Current status={phase}")
        return self.ports.get(port)

    def program(self, request: Request, words: list[str]) -> Callable[[], tuple[int, str, str]]:
        """What a program in a container of a pod does.

        Raises:
            Refusal: There is no such pod or container, it does not run, or it is not allowed.
        """
        assert request.kind is not None
        self.admission.check_permission("create", request.kind, request.namespace, request.name, "exec")
        pod = self.objects.get(request.kind, request.namespace, request.name)
        container = request.query.get("container", "")
        statuses = [*((pod.get("status") or {}).get("containerStatuses") or ()), *((pod.get("status") or {}).get("initContainerStatuses") or ())]
        found = next((one for one in statuses if one["name"] == container), None)
        if found is None:
            raise Refusal(400, f"container {container} is not valid for pod {request.name}")
        if "running" not in found["state"]:
            raise Refusal(500, f'unable to upgrade connection: container not found ("{container}")')

        def run() -> tuple[int, str, str]:
            return self.programs(pod, container, words) or (127, "", f"{words[0]}: not found")

        return run

    def _log(self, request: Request) -> str:
        pod = self.objects.get(self.kind("Pod"), request.namespace, request.name)
        names = [one["name"] for one in pod["spec"]["containers"]] + [one["name"] for one in pod["spec"].get("initContainers") or ()]
        container = request.query.get("container") or (names[0] if len(pod["spec"]["containers"]) == 1 else "")
        if not container:
            raise Refusal(400, f"a container name must be specified for pod {request.name}, choose one of: {names}")
        if container not in names:
            raise Refusal(400, f"container {container} is not valid for pod {request.name}")
        lines = self.logs(request.namespace, request.name, container, request.query.get("previous") == "true")
        if isinstance(lines, Refusal):
            raise lines
        if tail := request.query.get("tailLines"):
            lines = lines[-int(tail) :] if int(tail) else []
        return "".join(f"{line}\n" for line in lines)

    def _about(self, request: Request) -> Json | str:
        kinds = self.objects.kinds
        parts = [part for part in request.path.split("/") if part]
        found: Json | str | None = None
        match parts:
            case ["healthz" | "livez" | "readyz", *_]:
                found = "ok"
            case ["version"]:
                found = discovery.version()
            case ["api"] | ["apis"] if "as=APIGroupDiscoveryList" in request.accept:
                found = discovery.aggregated(kinds, core=parts == ["api"])
            case ["api"]:
                found = discovery.core_versions()
            case ["apis"]:
                found = discovery.group_list(kinds)
            case ["api", version]:
                found = discovery.resources(kinds, "", version)
            case ["apis", group] if group in kinds.groups():
                found = discovery.group(kinds, group)
            case ["apis", group, version]:
                found = discovery.resources(kinds, group, version)
            case ["openapi", "v2"]:
                found = discovery.NOTHING_IN_OPENAPI_2
            case ["openapi", "v3"]:
                found = discovery.openapi_index(kinds)
            case ["openapi", "v3", "api", version]:
                found = discovery.openapi(kinds, "", version)
            case ["openapi", "v3", "apis", group, version]:
                found = discovery.openapi(kinds, group, version)
        if found is None:
            raise Refusal(404, "the server could not find the requested resource")
        return found

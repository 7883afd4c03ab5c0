"""A platform in a cluster as its operator has it: a folder with kiva.yaml, keys and a kubeconfig; an API server in memory with pods by script; the real Helm
with the real charts; and a gateway that answers where the pods' port is forwarded to."""

from __future__ import annotations

import json
import os
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cluster_site import QuickClock
from cluster_specs import ENGINE, GATEWAY, model
from helm.charts import binary
from kube_api.kubelet import Kubelet
from kube_api.server import KubeApi

from kivactl.flows.deploy import apply_deploy, plan_deploy
from kivactl.flows.deployment import Deployment
from kivactl.flows.provision import names_for
from kivactl.plan import Outcome
from kivactl.spec.load import load
from kivactl.spec.platform import Platform
from kivactl.stack.certificates import authority_for, new_key, server_certificate_for
from kivactl.stack.layout import Layout
from kivactl.targets.kubernetes.record import Record, parse_record
from kivactl.tools.clock import Clock

CONTEXT, NAMESPACE, PORT = "prod", "kiva", 4000


class Gateway(ThreadingHTTPServer):
    """Answers as the platform's gateway does, with its certificate.

    Attributes:
        answer: Status and body of the next answers, None for a generated token.
        asked: Models that were asked, and whether with a token.
    """

    daemon_threads = True

    def __init__(self, layout: Layout) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(layout.certificate, layout.certificate_key)
        self.answer: tuple[int, dict[str, Any]] | None = None
        self.asked: list[tuple[str, bool]] = []
        self._tls = context

    def show(self, layout: Layout) -> None:
        """Show new clients the certificate that a platform has now."""
        self._tls.load_cert_chain(layout.certificate, layout.certificate_key)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In the connection's thread."""
        super().finish_request(self._tls.wrap_socket(request, server_side=True), client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are nothing to speak of."""


def answer_json(handler: BaseHTTPRequestHandler, code: int, content: Any) -> None:
    """Answer a request with JSON."""
    data = json.dumps(content).encode()
    handler.send_response(code)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


class _Handler(BaseHTTPRequestHandler):
    server: Gateway

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((body["model"], self.headers.get("Authorization", "").startswith("Bearer ")))
        done = {"choices": [{"text": "x"}], "usage": {"completion_tokens": 1}}
        code, content = self.server.answer or (200, done)
        answer_json(self, code, content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the method that it replaces
        """Say nothing."""


class Operator:
    """One who runs kivactl in a folder.

    Args:
        folder: Theirs; gets `kiva.yaml` and `.kiva`.
        kubeconfig: The file.
        context: In it.
        namespace: Of the cluster.
    """

    def __init__(self, folder: Path, kubeconfig: Path, context: str = CONTEXT, namespace: str = NAMESPACE) -> None:
        self.folder = folder
        self.layout = Layout(folder / ".kiva", folder / ".kiva")
        self._cluster = {"context": context, "kubeconfig": str(kubeconfig), "namespace": namespace}

    def spec(self, *models: dict[str, Any], name: str = "kiva", gateway: dict[str, Any] | None = None, **cluster: Any) -> None:
        """Write kiva.yaml, which is JSON as well; one model with one replica when none is given."""
        here = {
            **self._cluster,
            "images": {"engine": ENGINE, "gateway": GATEWAY},
            "storage": {"size": "20GiB"},
            **cluster,
        }
        spec = {"name": name, "target": "kubernetes", "kubernetes": here, "models": list(models) or [model()], **({"gateway": gateway} if gateway else {})}
        (self.folder / "kiva.yaml").write_text(json.dumps(spec, indent=1))

    def provision(self) -> None:
        """Keys and certificates, as `kivactl provision` makes them."""
        provision(load(self.folder / "kiva.yaml").platform, self.layout)


def provision(platform: Platform, layout: Layout) -> None:
    """Keys and certificates of a platform, as `kivactl provision` makes them."""
    for path in (layout.gateway, layout.logs, layout.tls, layout.signing_key.parent):
        path.mkdir(parents=True, exist_ok=True)
    now, authority_key, key = datetime.now(UTC), new_key(), new_key()
    authority = authority_for(authority_key, platform=platform.name, now=now)
    certificate = server_certificate_for(key, platform=platform.name, names=names_for(platform), authority=authority, authority_key=authority_key, now=now)
    files = {layout.ca_certificate: authority, layout.ca_key: authority_key, layout.certificate: certificate, layout.certificate_key: key}
    for path, content in {**files, layout.signing_key: new_key()}.items():
        path.write_bytes(content)
        path.chmod(0o600)


@contextmanager
def gateway_of(operator: Operator, api: KubeApi) -> Iterator[Gateway]:
    """The gateway of a provisioned platform, behind the forwarded port of its pods."""
    server = Gateway(operator.layout)
    api.ports[PORT] = ("127.0.0.1", server.server_address[1])
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def cluster() -> Iterator[tuple[KubeApi, Kubelet]]:
    """A cluster with a node of four GPUs, a storage class and a namespace."""
    with KubeApi() as api:
        kubelet = Kubelet(api)
        kubelet.node("gpu-1", gpus=4)
        kubelet.storage_class("disk", default=True)
        api.namespace(NAMESPACE)
        yield api, kubelet
        assert api.crashes == []


@dataclass(frozen=True)
class Site:
    """Everything of a platform in a cluster."""

    operator: Operator
    api: KubeApi
    kubelet: Kubelet
    gateway: Gateway

    @property
    def deployment(self) -> Deployment:
        """As the command line makes it of the folder."""
        path = self.operator.folder / "kiva.yaml"
        loaded = load(path)
        return Deployment(loaded, self.operator.layout, lambda: load(path))

    def deploy(self, *models: dict[str, Any]) -> list[Outcome]:
        """Make it what a spec with these models says."""
        self.operator.spec(*models)
        deployment = self.deployment
        return list(apply_deploy(deployment, plan_deploy(deployment)))

    def record(self) -> Record:
        """What the cluster says of deploys."""
        found = self.api.get("ConfigMap", "kiva-kivactl", NAMESPACE) or {}
        return parse_record((found.get("data") or {}).get("record.json", ""), "kiva")

    def command_of(self, model_name: str = "qwen") -> list[str]:
        """What the engine of a model is started with."""
        found = self.api.get("Deployment", f"kiva-{model_name}", NAMESPACE)
        assert found is not None
        words: list[str] = found["spec"]["template"]["spec"]["containers"][0]["command"]
        return words


def helm_on_path(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """The newest of the tests' Helm binaries as the program `helm`."""
    programs = folder / "bin"
    programs.mkdir()
    (programs / "helm").symlink_to(binary("helm"))
    patch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    for what in ("CACHE", "CONFIG", "DATA"):
        patch.setenv(f"HELM_{what}_HOME", str(folder / f"helm-{what.lower()}"))


def waiting_takes_no_time(patch: pytest.MonkeyPatch) -> None:
    """Whoever makes himself a clock gets a quick one."""
    clock = QuickClock()
    patch.setattr(Clock.__init__, "__defaults__", (clock.now_s, clock.sleep))


@contextmanager
def site(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A provisioned platform, nothing of it deployed yet; pods come up by themselves, and waiting takes no time."""
    helm_on_path(folder, patch)
    waiting_takes_no_time(patch)
    with cluster() as (api, kubelet):
        operator = Operator(folder, api.kubeconfig(folder / "kubeconfig", CONTEXT))
        operator.spec()
        operator.provision()
        with gateway_of(operator, api) as gateway, kubelet.running():
            yield Site(operator, api, kubelet, gateway)

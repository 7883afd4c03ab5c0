"""The desk of one who operates a platform in the tests' cluster, with all that a disaster takes: files here, a namespace there, and a ledger in a volume.

The gateway behind the pods' port lets in who has a token that the keys and revocations in the cluster accept, and the meter beside it enters who was.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from uuid import uuid4

import jwt
import pytest
from backed_up import Folders, snapshot, tree_of
from cluster_platform import CONTEXT, NAMESPACE, Gateway, Operator, answer_json, cluster, gateway_of, helm_on_path, waiting_takes_no_time
from cluster_specs import ENGINE, GATEWAY, model
from kube_api.kubelet import Kubelet
from kube_api.server import KubeApi
from told_gateway import Pods
from usage_lines import access_line, append, count_line

from kivactl.flows import tokens
from kivactl.flows.deploy import apply_deploy, plan_deploy
from kivactl.flows.deployment import Deployment
from kivactl.flows.provision import names_for
from kivactl.plan import Outcome
from kivactl.runbooks import engine, runs
from kivactl.runbooks.binding import bind
from kivactl.runbooks.record import Person, Record
from kivactl.runbooks.steps import Order
from kivactl.spec.load import load
from kivactl.stack.certificates import new_key, server_certificate_for
from kivactl.stack.gateway.access import AUDIENCE
from kivactl.stack.layout import Layout
from kivactl.stack.metering import orders_for
from kivactl.targets.kubernetes.trust import trust_in
from kivactl.tools.kube import Cluster
from kivactl.tools.kube_objects import Ran
from kivactl.usage import asked, handing, taking
from kivactl.usage.meter import Meter, World

ADA = Person("Ada", "ada", "host")
_MAIN = {"asked": asked.main, "handing": handing.main, "taking": taking.main}
_GONE = ("Deployment", "Pod", "ConfigMap", "Secret", "PersistentVolumeClaim", "Service", "Job", "Lease")


class Desk:
    """Everything of a platform in a cluster.

    Attributes:
        api: The cluster's API server.
        kubelet: Its nodes.
        folder: The operator's.
        volume: What the gateway's pod has: the ledger, and what was logged.
        repository: The backups.
        ran: Programs that were run beside the meter.
        broken: What one of them says instead, by its words.
        outcomes: Of the last run.
        gateway: Behind the pods' port, while it runs.
    """

    def __init__(self, folder: Path, api: KubeApi, kubelet: Kubelet, monkeypatch: pytest.MonkeyPatch) -> None:
        self.api, self.kubelet, self.folder, self.volume = api, kubelet, folder / "desk", Layout(folder / "pod", folder / "pod")
        self.folder.mkdir()
        self.operator = Operator(self.folder, api.kubeconfig(folder / "kubeconfig", CONTEXT))
        self.repository, self.ran, self.outcomes = Folders(), [], []
        self.broken: Callable[[list[str]], Ran | None] = lambda _: None
        self._pods = Pods(api)
        self.gateway: Gateway | None = None
        self._kubeconfig = folder / "kubeconfig"
        self._number = 0
        monkeypatch.setattr(Cluster, "run_in", self._run)

    @property
    def layout(self) -> Layout:
        return self.operator.layout

    @property
    def deployment(self) -> Deployment:
        """As the command line makes it of the folder."""
        path = self.folder / "kiva.yaml"
        return Deployment(load(path), self.layout, lambda: load(path))

    def write(self, *models: dict[str, Any], cluster: dict[str, Any] | None = None, **more: Any) -> None:
        """Write kiva.yaml."""
        here = {
            **(cluster or {}),
            "context": CONTEXT,
            "kubeconfig": str(self._kubeconfig),
            "namespace": NAMESPACE,
            "images": {"engine": ENGINE, "gateway": GATEWAY},
        }
        spec = {"name": "kiva", "target": "kubernetes", "kubernetes": {**here, "storage": {"size": "20GiB"}}, "models": list(models) or [model()]}
        (self.folder / "kiva.yaml").write_text(json.dumps({**spec, "gateway": {"tenants": [{"name": "police"}, {"name": "tax"}]}, **more}, indent=1))

    def deploy(self) -> None:
        """Make it what the spec says."""
        deployment = self.deployment
        for _ in apply_deploy(deployment, plan_deploy(deployment)):
            pass

    def issue(self, tenant: str = "police") -> str:
        """A token that somebody has from now on."""
        return tokens.issue(self.deployment, tenant, name="client", lifetime=timedelta(days=1))[0].reveal()

    def renew_certificate(self) -> bytes:
        """Another certificate of the same authority, here, in the cluster and at the gateway."""
        platform, layout, key = self.deployment.platform, self.layout, new_key()
        authority, authority_key = layout.ca_certificate.read_bytes(), layout.ca_key.read_bytes()
        made = server_certificate_for(
            key, platform=platform.name, names=names_for(platform), authority=authority, authority_key=authority_key, now=datetime.now(UTC)
        )
        layout.certificate.write_bytes(made)
        layout.certificate_key.write_bytes(key)
        self.deploy()
        assert self.gateway is not None
        self.gateway.show(layout)
        return made

    def revoke(self, token: str) -> None:
        """Nobody gets in with it any more."""
        chosen = frozenset({str(jwt.decode(token, options={"verify_signature": False})["jti"])})
        for _ in tokens.apply_revoke(self.deployment, chosen):
            pass

    def use(self, count: int, at_s: float | None = None) -> None:
        """Requests of a tenant, metered."""
        for _ in range(count):
            self.entered(at_s)
        self.meter()

    def entered(self, at_s: float | None = None) -> None:
        """A request, as gateway and engine log it."""
        name, moment = str(uuid4()), time.time() if at_s is None else at_s
        self.volume.access_log.parent.mkdir(parents=True, exist_ok=True)
        self.volume.usage.mkdir(parents=True, exist_ok=True)
        append(self.volume.access_log, access_line(name, at_s=moment, tenant="police", version="qwen", model="qwen"))
        append(self.volume.usage / "m-0.jsonl", count_line(name, at_s=moment, model="qwen"))

    def meter(self) -> None:
        """One look of the meter at its logs."""
        self._orders()
        one = Meter(self.volume.meter_orders, World(say=lambda _: None, reopen_logs=lambda _: True))
        one.run_pass()
        one.close()

    def counted(self) -> int:
        """Requests in the ledger of the volume."""
        (count,) = asked.answer(asked.read_orders(self.volume.meter_orders), {"counted": True}).values()
        return int(count)

    def back_up(self, mark: str = "aa", days: float = 0) -> Path:
        """A backup; the tree that it holds."""
        tree = tree_of(self.deployment, self.folder.parent / f"tree-{mark}")
        self.repository.put(snapshot(mark, days=days), tree)
        return tree

    def lose_desk(self) -> None:
        """The operator's machine is gone."""
        shutil.rmtree(self.folder)
        self.folder.mkdir()

    def lose_state(self) -> None:
        """Only what the spec does not say is gone."""
        shutil.rmtree(self.layout.state)

    def lose_namespace(self) -> None:
        """Somebody emptied it, volumes and all."""
        for _ in range(2):  # a controller may have made something again meanwhile
            for kind in _GONE:
                for one in self.api.list(kind, NAMESPACE):
                    self.api.remove(kind, one["metadata"]["name"], NAMESPACE)
            while self.api.list("Pod", NAMESPACE):
                self.deployment.clock.sleep(0.1)
        shutil.rmtree(self.volume.state)

    def objects(self) -> dict[str, Any]:
        """What is in the namespace, but for what changes by itself."""
        found = {}
        for kind in ("Deployment", "ConfigMap", "Secret", "PersistentVolumeClaim", "Service"):
            for one in self.api.list(kind, NAMESPACE):
                found[f"{kind} {one['metadata']['name']}"] = {key: value for key, value in one.items() if key not in {"metadata", "status"}}
        found.pop("ConfigMap kube-root-ca.crt", None)  # the cluster's own
        return found

    def run(self, name: str = "restore", **given: str) -> Record:
        """Run a runbook; where there is no spec it comes out of the backup."""
        from kivactl.flows.restore import recover_spec

        if not (self.folder / "kiva.yaml").exists():
            recover_spec(self.folder, {"repository": "folders"}, lambda *_: self.repository)
        deployment = self.deployment
        return self._follow(engine.run_runbook(bind(name, deployment.loaded, given), deployment, Order(ADA), engine.Rooms()))

    def resume(self) -> Record:
        """Go on with the last run."""
        deployment, record = self.deployment, self.record
        bound = bind(record.runbook, deployment.loaded, {name: str(value) for name, value in record.parameters.items() if value not in {None, False}})
        folder = runs.runs_folder(self.layout) / record.run
        return self._follow(engine.resume_runbook(folder, bound, deployment, Order(ADA), engine.Rooms()))

    @property
    def record(self) -> Record:
        return runs.record_of(runs.runs_folder(self.layout) / runs.history(self.layout)[0].run)

    def said(self, step: str) -> list[str]:
        """What the last run said in a step."""
        return [one.message for one in self.outcomes if one.step == step]

    def lets_in(self, token: str) -> bool:
        """Whether the keys and revocations in the cluster accept a token."""
        found = trust_in(self._pods.files())
        if found is None:
            return False
        jwks, revoked = found
        try:
            kid = jwt.get_unverified_header(token)["kid"]
            key = next(one for one in jwks["keys"] if one["kid"] == kid)
            claims = jwt.decode(token, jwt.PyJWK(key).key, algorithms=["ES256"], audience=AUDIENCE, issuer="kiva:kiva", options={"verify_iat": False})
        except (StopIteration, jwt.PyJWTError):
            return False
        return claims["jti"] not in revoked

    def _follow(self, outcomes: Iterator[Outcome]) -> Record:
        self.outcomes = []
        for outcome in outcomes:
            self.outcomes.append(outcome)
        return self.record

    def _orders(self) -> None:
        if not self.volume.meter_orders.exists():
            self.volume.usage.mkdir(parents=True, exist_ok=True)
            self.volume.access_log.parent.mkdir(parents=True, exist_ok=True)
            self.volume.meter_orders.parent.mkdir(parents=True, exist_ok=True)
            self.volume.meter_orders.write_text(json.dumps(orders_for(self.deployment.platform, self.volume)))

    def _run(self, pod: str, container: str, argv: list[str], *, stdin: str | None = None, **_options: Any) -> Ran:
        """In place of `Cluster.run_in`: the programs in this process, with the volume that the pod has."""
        if argv[1] == "-c":
            return self._pods.run_in(pod, container, argv)
        assert (argv[:2], container) == (["python3", "-m"], "meter")
        self.ran.append(argv[2:])
        if (said := self.broken(argv)) is not None:
            return said
        self.meter()
        out, err, before = io.StringIO(), io.StringIO(), sys.stdin
        sys.stdin = io.StringIO(stdin or "")
        words = [str(self.volume.meter_orders) if word == "/etc/kiva/meter/meter.json" else word for word in argv[3:]]
        try:
            with redirect_stdout(out), redirect_stderr(err):
                code = _MAIN[argv[2].removeprefix("kivactl.usage.")](words)
        finally:
            sys.stdin = before
        return Ran(code, out.getvalue(), err.getvalue())


class _Door(BaseHTTPRequestHandler):
    """Lets in who has a good token, and logs who asked."""

    desk: Desk

    def do_GET(self) -> None:
        if self._admitted():
            answer_json(self, 200, {"object": "list", "data": [{"id": "qwen", "object": "model"}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if self._admitted():
            self.desk.entered()
            answer_json(self, 200, {"choices": [{"text": "x"}], "usage": {"completion_tokens": 1}})

    def _admitted(self) -> bool:
        if self.desk.lets_in(self.headers.get("Authorization", "").removeprefix("Bearer ")):
            return True
        answer_json(self, 401, {"error": {"message": "no good token"}})
        return False

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the method that it replaces
        """Say nothing."""


@contextmanager
def desk(folder: Path, monkeypatch: pytest.MonkeyPatch, **more: Any) -> Iterator[Desk]:
    """A provisioned platform that is deployed, with three requests of the day before in its ledger.

    Args:
        folder: For everything.
        monkeypatch: For the doors to the pods and the repository.
        more: Of the spec; one that names a `backup` has a repository of its own instead of `Folders`.
    """
    helm_on_path(folder, monkeypatch)
    waiting_takes_no_time(monkeypatch)
    with cluster() as (api, kubelet):
        one = Desk(folder, api, kubelet, monkeypatch)
        if "backup" not in more:
            monkeypatch.setattr("kivactl.flows.backup.open_store", lambda *_: one.repository)
        one.write(**more)
        one.operator.provision()
        with gateway_of(one.operator, api) as gateway, kubelet.running():
            one.gateway = gateway
            gateway.RequestHandlerClass = type("Door", (_Door,), {"desk": one})
            one.deploy()
            one.use(3, time.time() - 86_400)
            yield one

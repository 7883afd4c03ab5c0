"""A platform of stand-in engines on this machine: the real supervisor, the real gateway, so that every failure takes seconds."""

import http.client
import json
import shutil
import ssl
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kivactl.spec.gateway import Gateway
from kivactl.spec.platform import Alias, Model, Platform
from kivactl.stack import tokens
from kivactl.stack.engine import GIB, Share, launcher
from kivactl.stack.layout import Layout
from kivactl.targets.desired import Weights, desired_for
from kivactl.targets.local import LocalTarget
from kivactl.targets.rollout import STATE_VARIABLE
from kivactl.targets.status import GATEWAY, METER, status_of
from kivactl.tools import envoy, leftovers

STAND_IN = Path(__file__).parent / "targets" / "stand_in_engine.py"


class Site:
    """A platform of stand-ins on this machine."""

    def __init__(self, folder: Path, port: int, certificate: tuple[Path, Path], signing_key: bytes) -> None:
        self.layout = Layout(folder / "state", folder / "cache")
        for path in (self.layout.state, self.layout.run, self.layout.gateway, self.layout.tls, self.layout.logs, self.layout.signing_key.parent):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for source, target in zip(certificate, (self.layout.certificate, self.layout.certificate_key), strict=True):
            shutil.copy(source, target)
        self.layout.signing_key.write_bytes(signing_key)
        self.port = port
        self.target = LocalTarget(self.layout)
        self.jwks = tokens.jwks_for([signing_key])
        self.token = tokens.issue(
            signing_key, platform="kiva", tenant="default", name="test", token_id="1", issued_at=datetime.now(UTC), lifetime=timedelta(hours=1)
        ).reveal()

    def platform(self, replicas=2, versions=(), shares=None):
        names = ("m", *versions)
        models = tuple(Model(name=name, source="x", replicas=replicas if name == "m" else 1, drain_within="10s") for name in names)
        aliases = (Alias(name="chat", models=shares),) if shares else ()
        return Platform(name="kiva", models=models, aliases=aliases, gateway=Gateway(port=self.port))

    def desired(self, replicas=2, *extra, ready_within_s=60.0, versions=(), shares=None):
        platform = self.platform(replicas, versions, shares)
        what = desired_for(
            platform,
            self.layout,
            weights={model.name: Weights(Path("/w"), "w1", ready_within_s) for model in platform.models},
            shares={model.name: [Share((0,), GIB)] * model.replicas for model in platform.models},
            jwks=self.jwks,
            python=Path(sys.executable),
            envoy=envoy.find_envoy(),
            gateway_workers=1,
        )
        for name, engine in what.processes.items():
            if name not in {GATEWAY, METER}:
                argv = (
                    *launcher(Path(sys.executable), self.layout.engine_socket(name)),
                    sys.executable,
                    str(STAND_IN),
                    "--uds",
                    str(self.layout.engine_socket(name)),
                    "--served-model-name",
                    name.rpartition("-")[0],
                    *extra,
                )
                what.processes[name] = replace(engine, argv=argv, stop_within_s=10, settles_within_s=1)
        return what

    def deploy(self, what):
        outcomes = list(self.target.apply(what))
        self.target.finish("digest", "now")
        return outcomes

    def ask(self, timeout_s=60, model="m"):
        context = ssl.create_default_context(cafile=self.layout.certificate)
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=context, timeout=timeout_s)
        try:
            headers = {"authorization": f"Bearer {self.token}", "content-type": "application/json"}
            connection.request("POST", "/v1/completions", json.dumps({"model": model, "prompt": "x"}), headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def pid(self, name):
        return next(component.pid for component in status_of(self.layout, "kiva").components if component.name == name)

    def until(self, health, unlike=-1):
        """Wait for a health, and for another process of the first replica than the one given."""
        for _ in range(1000):
            if status_of(self.layout, "kiva").health is health and self.pid("m-0") not in {0, unlike}:
                return
            time.sleep(0.1)
        pytest.fail(f"never {health}: {status_of(self.layout, 'kiva')}")

    def children(self):
        return [pid for pid in self.leftovers() if b"time.sleep(600)" in command_line(pid)]

    def leftovers(self):
        return leftovers.marked(STATE_VARIABLE, str(self.layout.state))


def command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


class Load:
    """Requests in a closed loop from several threads, until the end of the block."""

    def __init__(self, site: Site, streams: int = 4) -> None:
        self.site, self.statuses, self.stop = site, [], threading.Event()
        self.threads = [threading.Thread(target=self.run) for _ in range(streams)]

    def run(self):
        while not self.stop.is_set():
            try:
                self.statuses.append(self.site.ask()[0])
            except OSError as error:
                self.statuses.append(repr(error))

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join()

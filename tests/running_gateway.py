"""A real gateway without supervisor and engines: Envoy on the files that a deploy would write, before stand-in engines that record what reaches them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from wire import Answer, Connection, Headers

from kivactl.spec.platform import Platform
from kivactl.stack import tokens
from kivactl.stack.engine import GIB, Process, Share
from kivactl.stack.gateway.files import Files, endpoints_file
from kivactl.stack.gateway.quota import quota_for
from kivactl.stack.layout import Layout
from kivactl.targets.desired import Weights, desired_for, endpoints, gateway_files
from kivactl.targets.release import write_file
from kivactl.targets.status import GATEWAY
from kivactl.tools import envoy

RECORDING_ENGINE = Path(__file__).parent / "gateway" / "recording_engine.py"
PATIENCE_S = 60.0
CHAT = "/v1/chat/completions"


def gateway_files_of(platform: Platform, layout: Layout, jwks: Mapping[str, Any]) -> tuple[dict[Path, Any], Process]:
    """What a deploy of this spec writes for the gateway, and how it starts it; the one place here that knows how to ask for that."""
    desired = desired_for(
        platform,
        layout,
        weights={model.name: Weights(Path("/weights"), "identity", 10.0) for model in platform.models},
        shares={model.name: [Share((0,), GIB)] * model.replicas for model in platform.models},
        jwks=jwks,
        python=Path(sys.executable),
        envoy=envoy.find_envoy(),
        gateway_workers=1,
    )
    # The log is awaited by many a test: what takes up to 250 ms takes 20 here.
    command = desired.processes[GATEWAY]
    interval = command.argv.index("--file-flush-interval-msec") + 1
    quick = replace(command, argv=(*command.argv[:interval], "20", *command.argv[interval + 1 :]))
    replicas = {endpoints_file(layout.gateway, model): endpoints(model, layout, names) for model, names in desired.replicas.items()}
    return {**replicas, **desired.first, **desired.files}, quick


def until(condition: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
    """Wait for something true and return it."""
    end_s = time.monotonic() + patience_s
    while time.monotonic() < end_s:
        if value := condition():
            return value
        time.sleep(0.02)
    return pytest.fail(f"not within {patience_s:g} s")


def whole_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file that a process writes, without one that it is just writing; none before there is a file."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


class Engine:
    """A stand-in engine in a process of its own."""

    def __init__(self, name: str, address: Path | tuple[str, int], record: Path) -> None:
        self.name, self.address, self.record = name, address, record
        record.touch()
        self.start()

    def start(self) -> None:
        if isinstance(self.address, Path):
            self.address.unlink(missing_ok=True)
        place = str(self.address) if isinstance(self.address, Path) else ":".join(map(str, self.address))
        self.process = subprocess.Popen([sys.executable, str(RECORDING_ENGINE), place, str(self.record)])
        until(self._listens)

    def _listens(self) -> bool:
        if isinstance(self.address, Path):
            return self.address.exists()
        with socket.socket() as probe:
            return probe.connect_ex(self.address) == 0

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        if number == signal.SIGKILL:
            self.process.wait()

    @property
    def received(self) -> list[dict[str, Any]]:
        """Every request so far, without the gateway's own checks."""
        return whole_lines(self.record)


class Gateway:
    """A gateway that runs, as clients and tests meet it.

    Attributes:
        platform: Its spec.
        trust: The certificate that clients trust.
        access_log: What it writes.
        engines: The stand-ins by name.
    """

    platform: Platform
    signing_key: bytes
    trust: Path
    access_log: Path
    admin: envoy.Admin
    process: subprocess.Popen[bytes]
    output: BinaryIO
    engines: dict[str, Engine]

    def token(self, tenant: str = "police", *, key: Any = None, algorithm: str = "ES256", header: Mapping[str, Any] | None = None, **claims: Any) -> str:
        """A token as the platform issues it, or with other claims (None leaves one out), key, algorithm or header."""
        import jwt

        issued = tokens.issue(
            self.signing_key,
            platform=self.platform.name,
            tenant=tenant,
            name="test",
            token_id=f"token-of-{tenant}",
            issued_at=datetime.now(UTC),
            lifetime=timedelta(hours=1),
        ).reveal()
        if key is None and not claims and not header and algorithm == "ES256":
            return issued
        whole = {**jwt.decode(issued, options={"verify_signature": False}), **claims}
        return jwt.encode(
            {name: value for name, value in whole.items() if value is not None},
            self.signing_key if key is None else key,
            algorithm=algorithm,
            headers={"kid": jwt.get_unverified_header(issued)["kid"], **(header or {})},
        )

    @property
    def port(self) -> int:
        return self.platform.gateway.port

    def connect(self, *, tls: bool = True, protocols: tuple[str, ...] = ("http/1.1",), timeout_s: float = PATIENCE_S) -> Connection:
        """A new connection."""
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not tls:
            return Connection(plain)
        context = ssl.create_default_context(cafile=str(self.trust))
        context.set_alpn_protocols(list(protocols))
        return Connection(context.wrap_socket(plain, server_hostname="localhost"))

    def head(self, method: str = "POST", target: str = CHAT, headers: Headers = (), *, tenant: str | None = "police") -> bytes:
        """A request's head, byte for byte as given, with host and (unless there is no tenant) token."""
        own = [("host", "localhost"), *([("authorization", f"Bearer {self.token(tenant)}")] if tenant else [])]
        lines = "".join(f"{name}: {value}\r\n" for name, value in (*own, *headers))
        return f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")

    def ask(
        self,
        body: Any = None,
        *,
        method: str = "POST",
        target: str = CHAT,
        headers: Headers = (),
        tenant: str | None = "police",
        media: str | None = "application/json",
        timeout_s: float = PATIENCE_S,
    ) -> Answer:
        """One request on a connection of its own; a body that is no bytes is sent as JSON."""
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        kind = [("content-type", media)] if media else []
        length = [("content-length", str(len(content)))] if content or method == "POST" else []
        with self.connect(timeout_s=timeout_s) as connection:
            connection.send(self.head(method, target, [*kind, *length, *headers], tenant=tenant) + content)
            answer = connection.answer()
        assert answer is not None, "no answer"
        return answer

    def until(self, condition: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
        """Wait for something true and return it."""
        return until(condition, patience_s)

    def serves(self, tenant: str = "police", model: str = "m") -> bool:
        """Whether a good request is answered."""
        return self.ask({"model": model, "messages": []}, tenant=tenant).status == 200

    @property
    def received(self) -> list[dict[str, Any]]:
        """What reached any engine."""
        return [entry for engine in self.engines.values() for entry in engine.received]

    @property
    def log(self) -> list[dict[str, Any]]:
        """The access log so far."""
        return whole_lines(self.access_log)

    def logged(self, request_id: str) -> dict[str, Any]:
        """The access record of a request, as soon as it is written."""
        return until(lambda: next((entry for entry in self.log if entry["request_id"] == request_id), None))

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for engine in self.engines.values():
            engine.kill()
        self.output.close()


class RunningGateway(Gateway):
    """A gateway for a spec, with one stand-in for each replica."""

    def __init__(self, folder: Path, platform: Platform, certificate: tuple[Path, Path], signing_key: bytes) -> None:
        self.layout, self.platform, self.signing_key = Layout(folder / "state", folder / "cache"), platform, signing_key
        self.asked: list[str] = []
        layout = self.layout
        self.trust, self.access_log = layout.certificate, layout.access_log
        for path in (layout.state, layout.run, layout.tls, layout.logs, layout.usage):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for source, target in zip(certificate, (layout.certificate, layout.certificate_key), strict=True):
            shutil.copy(source, target)
        self.replace(self.files.quota, quota_for({}))
        command = self.apply(platform)
        names = [f"{model.name}-{index}" for model in platform.models for index in range(model.replicas)]
        self.engines = {name: Engine(name, layout.engine_socket(name), folder / f"{name}.record") for name in names}
        self.admin = envoy.Admin(layout.gateway_admin_socket)
        self.output = (folder / "gateway.out").open("wb")
        self.process = subprocess.Popen(command.argv, env={**os.environ, **command.environment}, stdout=self.output, stderr=subprocess.STDOUT)
        try:
            until(self._serves)
        except BaseException:
            self.stop()
            raise

    def apply(self, platform: Platform, keys: list[bytes] | None = None) -> Process:
        """Write the files of a spec as a deploy does, while the gateway runs or before it starts."""
        self.platform = platform
        files, command = gateway_files_of(platform, self.layout, tokens.jwks_for(keys or [self.signing_key]))
        for path, content in files.items():
            self.replace(path, content)
        return command

    def replace(self, path: Path, content: Any) -> None:
        """Replace one of the gateway's files at once, as it watches for."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_file(path, json.dumps(content))

    def client(self, tenant: str = "police", *, token: str | None = None, retries: int = 0, timeout_s: float = 20) -> Any:
        """The official client; what it asks for is noted in `asked`, each try by itself."""
        import httpx
        import openai

        context = ssl.create_default_context(cafile=str(self.layout.certificate))
        return openai.OpenAI(
            base_url=f"https://127.0.0.1:{self.port}/v1",
            api_key=self.token(tenant) if token is None else token,
            http_client=httpx.Client(verify=context, event_hooks={"request": [lambda request: self.asked.append(request.url.path)]}),
            max_retries=retries,
            timeout=timeout_s,
        )

    @property
    def files(self) -> Files:
        """Where the gateway has its files."""
        return gateway_files(self.layout, self.platform)

    def stop(self) -> None:
        super().stop()
        shutil.rmtree(self.layout.run, ignore_errors=True)

    def _serves(self) -> bool:
        assert self.process.poll() is None, Path(self.output.name).read_text()
        healthy = {upstream.address for upstream in self.admin.upstreams() if upstream.healthy and upstream.cluster.startswith("engine-")}
        return self.admin.ready() and healthy >= {str(engine.address) for engine in self.engines.values()}

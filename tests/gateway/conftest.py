"""Gateways for the tests of a module: real ones, before stand-in engines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from free_ports import free_ports
from running_gateway import RunningGateway

from kivactl.spec.gateway import Gateway, Tenant
from kivactl.spec.platform import Alias, Model, Platform


@pytest.fixture(scope="module")
def free_port() -> int:
    """A port that nobody listens on."""
    return free_ports(1)[0]


@pytest.fixture(scope="module")
def start_gateway(tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path], signing_key: bytes) -> Iterator[Callable[..., RunningGateway]]:
    """Start a gateway for a spec: (models, aliases, and what stands below `gateway`); all end with the module."""
    running = []

    def start(*, models: tuple[Model, ...] = (Model(name="m", source="x"),), aliases: tuple[Alias, ...] = (), **values: Any) -> RunningGateway:
        port, metrics = free_ports(2)
        values.setdefault("tenants", (Tenant(name="police"), Tenant(name="tax")))
        platform = Platform(name="kiva", models=models, aliases=aliases, gateway=Gateway(port=port, metrics={"port": metrics}, **values))
        running.append(RunningGateway(tmp_path_factory.mktemp("gateway"), platform, certificate, signing_key))
        return running[-1]

    yield start
    for gateway in running:
        gateway.stop()


@pytest.fixture
def fresh_gateway(start_gateway: Callable[..., RunningGateway]) -> Iterator[Callable[..., RunningGateway]]:
    """The same for gateways that end with the test: each takes a dozen of the machine's inotify instances, of which there are 128."""
    started = []

    def start(**values: Any) -> RunningGateway:
        started.append(start_gateway(**values))
        return started[-1]

    yield start
    for gateway in started:
        gateway.stop()


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., RunningGateway]) -> Iterator[RunningGateway]:
    """The gateway that a module of hostile clients attacks."""
    gateway = start_gateway(
        models=(Model(name="m", source="x"), Model(name="secret", source="x")),
        tenants=(Tenant(name="police", models=("m",)), Tenant(name="tax")),
        request_size="1MiB",
        request_timeout="3s",
        wait="0s",
    )
    yield gateway
    gateway.stop()


@pytest.fixture
def unharmed(gateway: RunningGateway) -> Iterator[RunningGateway]:
    """After the test: the gateway is still the same process, and serves."""
    yield gateway
    assert gateway.process.poll() is None, Path(gateway.output.name).read_text()[-3000:]
    assert gateway.serves()


@pytest.fixture
def untouched(unharmed: RunningGateway) -> Iterator[RunningGateway]:
    """After the test: also, nothing has reached an engine."""
    before = len(unharmed.received)
    yield unharmed
    assert unharmed.received[before:] == []

"""What is compared: nothing at all, kivactl's gateway, LiteLLM, vllm-router; each before the same mock engine."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import our_gateway
import psutil
from measure import Target, body_for
from programs import build_mock, find, free_pairs, running, until_answers

CORES = 2
NAMES = ("direct", "gateway-2", "gateway-1", "gateway-2-unmetered", "vllm-router", "litellm")
REMARKS = {
    "direct": "the mock engine over TCP, without TLS or tokens",
    "gateway-2": "kivactl's gateway with everything on, two workers, its meter at work",
    "gateway-1": "the same with one worker",
    "gateway-2-unmetered": "two workers, the meter not running; engines still count",
    "vllm-router": "without TLS, tokens, limits or log; its default policy",
    "litellm": "proxy with a master key, two workers, without a database, TLS or limits",
}


@dataclass(frozen=True)
class Contender:
    """One way to the mock engine.

    Attributes:
        target: Where clients send their requests.
        pids: Leaders of its processes; without the mock engine.
        access_log: What its gateway wrote down, if it is one of ours.
        usage_folder: What its engines counted.
        meter: Process id of the meter.
    """

    target: Target
    pids: list[int] = field(default_factory=list)
    access_log: Path | None = None
    usage_folder: Path | None = None
    meter: int | None = None


@contextmanager
def all_running(names: tuple[str, ...], folder: Path) -> Iterator[tuple[dict[str, Contender], int]]:
    """All contenders at once, each ready; idle ones cost nothing worth mentioning. And the mock engine's process id."""
    with ExitStack() as stack:
        ports = free_pairs(4 + len(names))
        engines, ports = ports[:2], ports[2:]
        started: dict[str, Contender] = {}
        gateways = {}
        words = [word for port in engines for word in ("--listen", f"tcp:{port}")]
        for name in (name for name in names if name.startswith("gateway")):
            place = folder / name
            place.mkdir()
            gateways[name] = our_gateway.prepare(place, ports.pop(), int(name.split("-")[1]))
            words += gateways[name][0].mock_arguments()
        mock = stack.enter_context(running([build_mock(folder), *words], folder / "mock.log"))
        for name, (gateway, command, meter) in gateways.items():
            metered = not name.endswith("unmetered")
            pids = stack.enter_context(our_gateway.serving(command, meter if metered else None, folder / name))
            target = Target(gateway.platform.gateway.port, tls=True, token=gateway.token)
            started[name] = Contender(target, pids, gateway.layout.access_log, gateway.layout.usage, pids[1] if metered else None)
            log = folder / name / "gateway.log"
            until_answers(target.port, True, target.token, json.dumps(body_for()).encode(), log, 60, alive=lambda pid=pids[0]: psutil.pid_exists(pid))
        others: dict[str, Callable[..., Contender]] = {"litellm": _litellm, "vllm-router": _router}
        for name in names:
            if name == "direct":
                started[name] = Contender(Target(engines[0], tls=False, token="none"))
            elif name in others:
                started[name] = others[name](stack, folder, ports.pop(), engines)
        yield {name: started[name] for name in names}, mock.pid


def _litellm(stack: ExitStack, folder: Path, port: int, engines: list[int]) -> Contender:
    key = "sk-benchmark"
    config = folder / "litellm.json"  # YAML is a superset
    deployments = [
        {"model_name": "demo", "litellm_params": {"model": "hosted_vllm/demo", "api_base": f"http://127.0.0.1:{engine}/v1", "api_key": "none"}}
        for engine in engines
    ]
    config.write_text(json.dumps({"model_list": deployments, "general_settings": {"master_key": key}, "litellm_settings": {"request_timeout": 60}}))
    # As its documentation says for production; the price list comes from its package instead of the network.
    environment = {"LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONWARNINGS": "ignore"}
    log = folder / "litellm.log"
    argv = [find("litellm"), "--config", config, "--host", "127.0.0.1", "--port", str(port), "--num_workers", str(CORES), "--telemetry", "False"]
    child = stack.enter_context(running(argv, log, environment, folder))
    contender = Contender(Target(port, tls=False, token=key), [child.pid])
    until_answers(port, False, key, json.dumps(body_for()).encode(), log, 180, alive=lambda: child.poll() is None)
    return contender


def _router(stack: ExitStack, folder: Path, port: int, engines: list[int]) -> Contender:
    log = folder / "vllm-router.log"
    urls = [f"http://127.0.0.1:{engine}" for engine in engines]
    argv = [
        find("vllm-router"),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--prometheus-port",
        str(port + 1),
        "--log-level",
        "warning",
        "--worker-urls",
        *urls,
    ]
    child = stack.enter_context(running(argv, log, {"PYTHONWARNINGS": "ignore", "HOME": os.environ.get("HOME", "/")}, folder))
    until_answers(port, False, "none", json.dumps(body_for()).encode(), log, 60, alive=lambda: child.poll() is None)
    return Contender(Target(port, tls=False, token="none"), [child.pid])

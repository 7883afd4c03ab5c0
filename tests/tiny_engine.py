"""One real engine on the tiny model for all tests of a run that only talk to it; starts on first use, ends with the run."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import httpx
import psutil
import pytest

ENVIRONMENT = {
    "KIVA_REPLICA": "tiny-0",
    "KIVA_MODEL": "tiny",
    "KIVA_PROOF_S": "2",
    "KIVA_PROBE_S": "4",
    "VLLM_CPU_OMP_THREADS_BIND": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_LOGGING_COLOR": "0",
}
ARGUMENTS = (
    *("--served-model-name", "tiny"),
    *("--load-format", "dummy", "--enforce-eager"),
    *("--max-model-len", "2048", "--max-num-seqs", "8", "--max-num-batched-tokens", "2048"),
    *("--kv-cache-memory-bytes", str(64 * 2**20)),
    *("--middleware", "kivactl.stack.inside.Inside", "--middleware", "kivactl.usage.count.CountUsage"),
    *("--scheduling-policy", "priority"),
    "--enable-prompt-tokens-details",
    "--enable-request-id-headers",
    "--disable-uvicorn-access-log",
)


class Engine:
    """A running engine.

    Attributes:
        socket: What it listens on, unless it is a port.
        port: TCP port it listens on; None for the socket.
        usage_log: What it counted.
    """

    def __init__(
        self, folder: Path, model: Path, *, port: int | None = None, arguments: Sequence[str] = (), environment: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.folder, self.socket, self.usage_log, self.port = folder, folder / "e.sock", folder / "usage.jsonl", port
        places = {"KIVA_USAGE_LOG": str(self.usage_log), "TMPDIR": str(folder), "VLLM_CACHE_ROOT": str(folder / "cache")}
        listen = ("--uds", str(self.socket)) if port is None else ("--host", "127.0.0.1", "--port", str(port))
        argv = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), *listen, *ARGUMENTS, *arguments]
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                argv, env={**os.environ, **ENVIRONMENT, **places, **environment}, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def client(self, **options) -> httpx.Client:
        if self.port is not None:
            return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=120, **options)
        return httpx.Client(transport=httpx.HTTPTransport(uds=str(self.socket)), base_url="http://engine", timeout=120, **options)

    def async_client(self, **options) -> httpx.AsyncClient:
        # A new connection for each request: the engine closes idle ones, maybe just when they are taken again.
        transport = httpx.AsyncHTTPTransport(uds=str(self.socket), limits=httpx.Limits(max_connections=None, max_keepalive_connections=0))
        return httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=120, **options)

    def until_generating(self) -> None:
        until = time.monotonic() + 240
        while time.monotonic() < until:
            assert self.process.poll() is None, (self.folder / "log").read_text()[-4000:]
            try:
                with self.client() as client:
                    if client.get("/kiva/generating").status_code == 200:
                        return
            except httpx.HTTPError:
                pass
            time.sleep(0.5)
        pytest.fail((self.folder / "log").read_text()[-4000:])

    def core(self) -> psutil.Process:
        """The process that computes."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return next(child for child in children if "EngineCore" in child.name() or any("EngineCore" in word for word in child.cmdline()))

    def records(self) -> list[dict]:
        return [json.loads(line) for line in self.usage_log.read_text().splitlines()] if self.usage_log.exists() else []

    def counters(self) -> tuple[int, int]:
        """Prompt and generated tokens since the start, as vLLM counts them."""
        prompt, generation = self._figures("prompt_tokens_total", "generation_tokens_total")
        return prompt, generation

    def running(self) -> int:
        """Requests that are being computed."""
        return self._figures("num_requests_running")[0]

    def _figures(self, *names: str) -> tuple[int, ...]:
        with self.client() as client:
            text = client.get("/metrics").text
        return tuple(round(float(re.search(rf"^vllm:{name}{{.*}} (\S+)$", text, re.MULTILINE)[1])) for name in names)  # type: ignore[index]

    def end(self) -> None:
        with_all = psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for child in with_all:
            if child.is_running():
                child.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


_running: list[Engine] = []


def engine(config: pytest.Config, build_model) -> Engine:
    """The engine of this run.

    Args:
        config: Of pytest; ends the engine.
        build_model: Makes the model in a folder.
    """
    if not _running:
        folder = Path(tempfile.mkdtemp(prefix="tiny-engine-"))  # a short path: the sockets of an engine have little room
        _running.append(Engine(folder, build_model(folder / "model")))
        config.add_cleanup(_running[0].end)
        _running[0].until_generating()
    return _running[0]

"""Real platforms: real vLLM on a tiny model, real Envoy, driven by the command line as an operator does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kivactl.spec.load import load, paths
from kivactl.stack.layout import Layout
from kivactl.targets.rollout import STATE_VARIABLE
from kivactl.tools import leftovers
from kivactl.tools.ports import free_pair

SPEC = """
name: test
models:
  - name: tiny
    source: path:{model}
    replicas: {replicas}
    max_length: {max_length}
    concurrency: 16
    drain_within: 30s
    engine: {{load-format: dummy, enforce-eager: true{engine}}}
gateway: {{port: {port}{gateway}}}
service_levels: {{ttft_p95: 60s, tpot_p95: 60s, error_ratio: 0}}
storage: {{cache: {cache}}}
"""


class Operator:
    """Someone with a shell in the platform's folder."""

    def __init__(self, folder: Path, model: Path, cache: Path) -> None:
        self.folder, self.model, self.cache = folder, model, cache
        self.port = free_pair()

    def write(self, *, replicas=2, max_length=512, engine="", gateway="", extra=""):
        text = SPEC.format(model=self.model, replicas=replicas, max_length=max_length, engine=engine, port=self.port, gateway=gateway, cache=self.cache)
        (self.folder / "kiva.yaml").write_text(text + extra)

    def start(self, *words):
        return subprocess.Popen(
            [sys.executable, "-m", "kivactl", *words], cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, *words, code=0):
        child = self.start(*words)
        out, err = child.communicate(timeout=550)
        assert code is None or child.returncode == code, f"kivactl {' '.join(words)}: exit code {child.returncode}\n{out}\n{err}"
        return out, err

    @property
    def layout(self):
        return Layout(*paths(load(self.folder / "kiva.yaml")))

    @property
    def status(self):
        child = self.start("status", "--output", "json")
        return json.loads(child.communicate(timeout=60)[0])

    def until(self, condition):
        end_s = time.monotonic() + 300
        while time.monotonic() < end_s:
            if condition():
                return
            time.sleep(0.1)
        pytest.fail(f"not within 300 s: {self.status}")

    def until_serving(self):
        self.until(lambda: self.status["health"] == "serving")

    def until_locked(self):
        self.until(lambda: self.layout.lock.exists() and self.layout.lock.read_text())

    def token(self, tenant="default"):
        return self.run("token", "issue", tenant)[0].strip()

    def pids(self):
        return leftovers.marked(STATE_VARIABLE, str(self.layout.state))

    def _load_tests(self) -> set[Path]:
        folder = self.layout.state / "loadtests"
        return set(folder.iterdir()) if folder.exists() else set()

    def _answered(self, before: set[Path]) -> bool:
        """Whether a load test that was not there before has answers."""
        return any((folder / "records.jsonl").exists() and (folder / "records.jsonl").stat().st_size for folder in self._load_tests() - before)

    @contextmanager
    def load(self, rate=4) -> Iterator[dict]:
        """So many requests a second during the block; afterwards the summary is in the dictionary."""
        summary: dict = {}
        before = self._load_tests()
        child = self.start("loadtest", "smoke", "--duration", "500s", "--rate", str(rate), "--max-tokens", "16", "--output", "json")
        try:
            self.until(lambda: child.poll() is not None or self._answered(before))
            assert child.poll() is None, child.communicate()
            yield summary
        finally:
            os.kill(child.pid, signal.SIGINT)
            out, err = child.communicate(timeout=120)
        assert child.returncode == 130, f"{out}\n{err}"
        folder = max((self.layout.state / "loadtests").iterdir(), key=lambda path: path.stat().st_mtime)
        summary.update(json.loads((folder / "summary.json").read_text()))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """These come last: their platform stays up until the end, and other tests want the machine for themselves."""
    items.sort(key=lambda item: item.path.parent == Path(__file__).parent)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    import importlib.util

    spec = importlib.util.spec_from_file_location("tiny_model", Path(__file__).parents[1] / "tiny_model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.build(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def engine_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@contextmanager
def a_platform(folder: Path, model: Path, cache: Path) -> Iterator[Operator]:
    """Provisioned, not yet deployed; at the end nothing of it may be left."""
    operator = Operator(folder, model, cache)
    operator.write()
    operator.run("provision", "--yes")
    yield operator
    operator.run("down", "--yes")
    assert operator.pids() == []


@pytest.fixture(scope="session")
def operator(tmp_path_factory, tiny_model, engine_cache):
    """Of one platform for all modules, for engines take long to start: each module writes the spec it needs, and deploys."""
    with a_platform(tmp_path_factory.mktemp("platform"), tiny_model, engine_cache) as operator:
        yield operator


@pytest.fixture(scope="module")
def lone_operator(tmp_path_factory, tiny_model, engine_cache):
    """Of a platform that may be destroyed."""
    with a_platform(tmp_path_factory.mktemp("lone"), tiny_model, engine_cache) as operator:
        yield operator

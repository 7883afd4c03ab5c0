"""Asks the engines how they are, once a second, while something else loads them; what they say lies on disk as it comes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from kivactl.errors import KivaError
from kivactl.flows.deployment import Deployment
from kivactl.loadtest.engine_samples import METRICS, EngineSample
from kivactl.stack.endpoint import authority_of
from kivactl.stack.monitoring import engine_metrics
from kivactl.targets.release import read_release
from kivactl.tools.prometheus import parse_totals, scrape

_EVERY_S = 1.0
_PATIENCE_S = 2.0

Ask = Callable[[], Sequence[EngineSample]]


class EngineWatch:
    """A thread that asks from the beginning of a `with` to its end. Nothing that goes wrong in it is worth a load test.

    Args:
        ask: What the engines say now.
        file: Where it is written; readable by its owner only.
    """

    def __init__(self, ask: Ask, file: Path) -> None:
        self._ask, self._file = ask, file
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="engine watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._is_over.set()
        self._thread.join(_PATIENCE_S + _EVERY_S)

    def _watch(self) -> None:
        while True:
            lines = "".join(sample.to_json() + "\n" for sample in self._ask())
            if lines:
                try:
                    with os.fdopen(os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w") as samples:
                        samples.write(lines)
                except OSError:
                    return  # a full disk is told by the records
            if self._is_over.wait(_EVERY_S):
                return


def sample_of(text: str, replica: str, at_ns: int) -> EngineSample:
    """What a replica's metrics say.

    Args:
        text: As it offers them.
        replica: Its name.
        at_ns: When, by the monotonic clock.
    """
    totals = parse_totals(text, frozenset(METRICS.values()))
    return EngineSample(at_ns, replica, **{name: totals.get(metric) for name, metric in METRICS.items()})


def asking(deployment: Deployment, models: Sequence[str]) -> Ask:
    """How the replicas of some models are asked: through the gateway's own metrics port, the one way in there is.

    Args:
        deployment: A platform on this machine. In a cluster its engines are not to be reached from here: nothing is said.
        models: Whose replicas.
    """
    platform = deployment.platform
    authority = authority_of(platform.gateway.metrics.address, platform.gateway.metrics_port)

    def ask() -> Sequence[EngineSample]:
        if platform.kubernetes is not None:
            return ()
        release = read_release(deployment.layout.release)
        found = []
        for replica in (replica for model in models for replica in release.replicas.get(model, ())):
            try:
                text = scrape(authority, engine_metrics(replica), _PATIENCE_S)
            except KivaError:
                continue  # it is down, which the records tell better
            found.append(sample_of(text, replica, time.perf_counter_ns()))
        return found

    return ask

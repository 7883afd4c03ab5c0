"""Watches one version of a model under real requests and holds it against the service levels: the gate of a rollout.

How long answers took comes from the engines' own histograms, how they ended from the gateway's access log, which has
nothing of the probes by which a replica proves to itself that it generates. Where too few requests came, a short load test
of this version alone makes up for them.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kivactl.errors import CheckError, InvalidMeasurementError, PreconditionError, ToolError
from kivactl.flows.chat import known
from kivactl.flows.deployment import Deployment, endpoint_for
from kivactl.flows.health import status_now
from kivactl.flows.loadtest import Bench, run_loadtest
from kivactl.flows.scaling import scaled_by_load
from kivactl.loadtest.catalogue import Changes, load_scenario
from kivactl.plan import Outcome, Status
from kivactl.spec.platform import ServiceLevels
from kivactl.spec.quantities import write_duration
from kivactl.stack.endpoint import authority_of
from kivactl.stack.metering import OPERATOR
from kivactl.stack.monitoring import engine_metrics
from kivactl.targets.release import read_release
from kivactl.targets.status import Component, Health, status_of
from kivactl.tools.prometheus import Histogram, parse_histogram, scrape
from kivactl.usage.records import Access, parse_access

TTFT, TPOT = "vllm:time_to_first_token_seconds", "vllm:request_time_per_output_token_seconds"
"""The engines' histograms. Source: vLLM's metrics, vllm/v1/metrics/loggers.py."""

_CUT = frozenset({"UC", "UR", "LR", "UT", "UPE", "SI", "DPE", "UMSDR"})
"""Envoy's flags of an answer that began and did not come to its end, other than by the client."""

_ASKED_EVERY_S = 5.0
_MISSING_WITHIN_S = 5.0
"""Seconds without requests that a replica is forgiven: the gateway leaves one alone for a moment after a broken connection."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What was seen of a version. Times are None where there was nothing to measure.

    Attributes:
        requests: That it answered or failed to answer.
        failed: That it failed to answer, or broke off.
        ttft_p95_s: Time to the first token.
        tpot_p95_s: Time per further token.
    """

    requests: int
    failed: int
    ttft_p95_s: float | None
    tpot_p95_s: float | None

    @property
    def error_ratio(self) -> float:
        return self.failed / self.requests if self.requests else 0.0

    def missed(self, levels: ServiceLevels) -> tuple[str, ...]:
        """The service levels that are not met, as sentences."""
        found = []
        for name, value, limit in (("ttft_p95", self.ttft_p95_s, levels.ttft_p95), ("tpot_p95", self.tpot_p95_s, levels.tpot_p95)):
            if value is not None and value > limit:
                found.append(f"{name}: {_milliseconds(value)}, promised {_milliseconds(limit)}")
        if self.error_ratio > levels.error_ratio:
            found.append(f"error_ratio: {self.error_ratio:.2%} ({self.failed} of {self.requests}), promised {levels.error_ratio:.2%}")
        return tuple(found)

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON-ready data."""
        times = {"ttft_p95_s": self.ttft_p95_s, "tpot_p95_s": self.tpot_p95_s}
        return {
            "requests": self.requests,
            "failed": self.failed,
            "error_ratio": round(self.error_ratio, 6),
            **{name: None if value is None or math.isinf(value) else round(value, 6) for name, value in times.items()},
        }


def observe(deployment: Deployment, model: str, *, for_s: float, min_requests: int, load_s: float, folder: Path) -> Iterator[Outcome]:
    """Watch a version, and judge it.

    Args:
        deployment: The platform.
        model: The version.
        for_s: How long.
        min_requests: Below that many real requests a load test makes up for them.
        load_s: How long that lasts.
        folder: For the load test's records; made when it is needed.

    Yields:
        The last outcome has the figures as `result`.

    Raises:
        CheckError: A service level is missed, or a replica of the version died or does not serve.
        InvalidMeasurementError: Nothing that could be relied on was measured.
        PreconditionError: No replica of it is deployed.
    """
    known("model", model, [one.name for one in deployment.platform.models])
    levels, clock = deployment.platform.service_levels, deployment.clock
    watch = _Watch(deployment, model) if deployment.platform.target == "local" else _WatchOfPods(deployment, model)
    step = f"observation {model}"
    began_s = clock.now_s()
    yield Outcome(step, Status.STARTED, f"for {write_duration(for_s)}")
    for elapsed_s in clock.ticks(for_s, every_s=1.0):
        watch.look(clock.now_s())
        yield Outcome(step, Status.PROGRESS, f"{watch.requests} requests, {watch.failed} failed", elapsed_s)
        if watch.requests >= min_requests and watch.failed > levels.error_ratio * watch.requests:
            break  # it will not get better for those who wait for answers
    figures = watch.figures()
    if figures.requests < min_requests and not figures.missed(levels):
        yield Outcome(step, Status.PROGRESS, f"only {figures.requests} requests: a load test makes up for the others", clock.now_s() - began_s)
        tested = yield from _tested(deployment, model, load_s, folder)
        figures = replace(tested, requests=tested.requests + figures.requests, failed=tested.failed + figures.failed)
        if figures.requests < min_requests:
            raise InvalidMeasurementError(
                f"'{model}' answered {figures.requests} requests only: too few to judge it", "observe it for longer, or load it for longer"
            )
    missed = figures.missed(levels)
    if missed:
        raise CheckError(f"'{model}' misses the platform's service levels", "kivactl logs", missed)
    data = {"result": figures.as_dict(), "measured": {"error_ratio": round(figures.error_ratio, 6)}}
    yield Outcome(step, Status.DONE, f"{figures.requests} requests within the service levels", clock.now_s() - began_s, data)


class _Watch:
    """Sees what becomes of a version's requests from the moment it is made."""

    def __init__(self, deployment: Deployment, model: str) -> None:
        self._deployment, self._model = deployment, model
        release = read_release(deployment.layout.release)
        self._replicas = [name for name in release.replicas.get(model, []) if name not in release.maintenance]
        if not self._replicas:
            raise PreconditionError(f"no replica of '{model}' is deployed and in service", "kivactl status")
        self._pids = {component.name: component.pid for component in self._components()}
        self._missing_since_s: dict[str, float] = {}
        self._before = {name: self._read(name) for name in self._replicas}
        self._log = _Tail(deployment.layout.access_log)
        self.requests = self.failed = self._finished = 0

    def look(self, now_s: float) -> None:
        """Take in what happened since the last look.

        Raises:
            CheckError: A replica died, or does not serve for a while.
        """
        for component in self._components():
            if component.pid != self._pids[component.name]:
                raise CheckError(f"{component.name} died while it was observed", f"kivactl logs {component.name}")
            if component.health is Health.SERVING:
                self._missing_since_s.pop(component.name, None)
            elif now_s - self._missing_since_s.setdefault(component.name, now_s) >= _MISSING_WITHIN_S:
                raise CheckError(f"{component.name} does not serve", f"kivactl logs {component.name}")
        for line in self._log.lines():
            access = parse_access(line)
            if access is not None and access.version == self._model:
                self._count(access)

    def figures(self) -> Figures:
        """Of all that was seen."""
        ttft, tpot = (self._observed(number) for number in (0, 1))
        return Figures(self.requests, self.failed, ttft.quantile(0.95), tpot.quantile(0.95))

    def _count(self, access: Access) -> None:
        flags = set((access.flags or "").split(","))
        if access.status == 0 or (access.status < 500 and "DC" in flags):
            return  # the client went away: that says nothing
        self.requests += 1
        if access.status >= 500 or flags & _CUT:
            self.failed += 1
        elif access.status == 200:
            self._finished += 1

    def _observed(self, number: int) -> Histogram:
        """What the engines noted since the beginning, without their probes of themselves: one short prompt, one token, so the fastest."""
        whole: Histogram | None = None
        for name in self._replicas:
            part = self._read(name)[number].since(self._before[name][number])
            whole = part if whole is None else whole.with_those_of(part)
        assert whole is not None
        return whole.without_smallest(max(0.0, whole.count - self._finished))

    def _read(self, replica: str) -> tuple[Histogram, Histogram]:
        gateway = self._deployment.platform.gateway
        text = scrape(authority_of(gateway.metrics.address, gateway.metrics_port), engine_metrics(replica))
        found = parse_histogram(text, TTFT), parse_histogram(text, TPOT)
        if found[0] is None or found[1] is None:
            raise ToolError(f"the metrics of {replica} lack {TTFT if found[0] is None else TPOT}", f"kivactl logs {replica}")
        return found[0], found[1]

    def _components(self) -> list[Component]:
        components = status_of(self._deployment.layout, self._deployment.platform.name).components
        return [component for component in components if component.name in self._replicas]


class _WatchOfPods:
    """Sees whether a version's pods go on serving. What becomes of clients' requests nobody tells from outside of a cluster: a load test judges."""

    requests = failed = 0

    def __init__(self, deployment: Deployment, model: str) -> None:
        self._deployment, self._model = deployment, model
        self._pods = {pod.name for pod in self._components() if pod.health is Health.SERVING}
        if not self._pods:
            raise PreconditionError(f"no replica of '{model}' is deployed and in service", "kivactl status")
        self._by_load = bool(scaled_by_load(deployment.platform, model))
        self._missing_since_s: dict[str, float] = {}
        self._next_s = 0.0

    def look(self, now_s: float) -> None:
        """Take in how the pods are; the API server is asked every few seconds.

        Raises:
            CheckError: A pod is gone, or does not serve for a while.
        """
        if now_s < self._next_s:
            return
        self._next_s = now_s + _ASKED_EVERY_S
        found = {pod.name: pod for pod in self._components()}
        for name in sorted(self._pods):
            if name not in found:
                if self._by_load:
                    continue
                raise CheckError(f"{name} went away while it was observed", "kivactl status")
            if found[name].health is Health.SERVING:
                self._missing_since_s.pop(name, None)
            elif now_s - self._missing_since_s.setdefault(name, now_s) >= _MISSING_WITHIN_S:
                raise CheckError(f"{name} does not serve{f': {found[name].reason}' if found[name].reason else ''}", f"kivactl logs {name}")

    def figures(self) -> Figures:
        """None of clients' requests."""
        return Figures(0, 0, None, None)

    def _components(self) -> list[Component]:
        return [one for one in status_now(self._deployment).components if one.model == self._model]


class _Tail:
    """What is appended to a log from now on, also when it is set aside under another name meanwhile."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode, self._offset = self._end()
        self._rest = b""

    def lines(self) -> list[str]:
        """Whole lines that have come since the last time."""
        inode, _ = self._end()
        parts = []
        if inode != self._inode:
            aside = next((path for path in self._path.parent.glob(f"{self._path.name}.*") if path.stat().st_ino == self._inode), None)
            if aside is not None:
                parts.append(self._read(aside))
            self._inode, self._offset = inode, 0
        parts.append(self._read(self._path))
        *lines, self._rest = (self._rest + b"".join(parts)).split(b"\n")
        return [line.decode(errors="replace") for line in lines]

    def _read(self, path: Path) -> bytes:
        try:
            with path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return b""
        self._offset += len(data)
        return data

    def _end(self) -> tuple[int, int]:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return 0, 0
        return status.st_ino, status.st_size


def _tested(deployment: Deployment, model: str, load_s: float, folder: Path) -> Generator[Outcome, None, Figures]:
    """A short load test of one version, whatever its share."""
    scenario = load_scenario("smoke", Changes(duration=write_duration(load_s)))
    endpoint = replace(endpoint_for(deployment, tenant=OPERATOR), model=model)
    summary: dict[str, Any] = {}
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    bench = Bench(endpoint, deployment.platform.service_levels, deployment.clock, with_page=False)
    with closing(run_loadtest(bench, scenario, folder)) as outcomes:  # type: ignore[type-var]  # a generator
        for outcome in outcomes:
            summary = outcome.data or summary
            yield outcome
    if summary["interrupted"]:
        raise KeyboardInterrupt
    if summary["invalid"]:
        raise InvalidMeasurementError(f"the load test of '{model}' measured nothing to rely on: {summary['invalid']}", f"see {summary['report']}")
    measured = {level["name"]: level["measured"] for level in summary["service_levels"]}
    return Figures(summary["requests"], summary["requests"] - summary["succeeded"], measured["ttft_p95"], measured["tpot_p95"])


def _milliseconds(value_s: float) -> str:
    return "more than the engine can tell" if math.isinf(value_s) else f"{value_s * 1e3:.0f} ms"

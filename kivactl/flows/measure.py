"""`loadtest` against the platform of a spec: its endpoint, a token of its first tenant, its service levels."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from kivactl.flows.deployment import Deployment, endpoint_for
from kivactl.flows.loadtest import run_loadtest
from kivactl.journal import run_name
from kivactl.loadtest.scenario import load_scenario
from kivactl.plan import Outcome


def measure(
    deployment: Deployment,
    scenario: str,
    *,
    duration: str | None = None,
    concurrency: int | None = None,
    max_tokens: int | None = None,
    folder: Path | None = None,
) -> Iterator[Outcome]:
    """Load the platform; the last outcome's data is the summary.

    Args:
        deployment: The platform.
        scenario: Name of a scenario, or a file.
        duration: Instead of the scenario's, with unit.
        concurrency: Users, instead of the scenario's.
        max_tokens: Tokens per answer, instead of the scenario's.
        folder: For records and report; a new one in the state folder when absent.

    Raises:
        KivaError: As `load_scenario` and `run_loadtest`.
    """
    chosen = load_scenario(scenario, duration=duration, concurrency=concurrency, max_tokens=max_tokens)
    endpoint = endpoint_for(deployment.platform, deployment.layout, lifetime=timedelta(days=1), name="kivactl-loadtest")
    where = folder or deployment.layout.state / "loadtests" / run_name(chosen.name)
    yield from run_loadtest(endpoint, chosen, deployment.platform.service_levels, where, deployment.clock)

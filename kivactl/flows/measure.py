"""`loadtest` against the platform of a spec (its endpoint, tokens of its tenants, its service levels) or against any other endpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from kivactl.errors import Interrupted, UsageError
from kivactl.flows.deployment import Deployment, endpoint_for
from kivactl.flows.engine_watch import asking
from kivactl.flows.loadtest import Bench, run_loadtest
from kivactl.flows.search import loads_of, run_search
from kivactl.flows.surroundings import machinery, surroundings_of
from kivactl.journal import run_name
from kivactl.loadtest.assignment import Assignment
from kivactl.loadtest.catalogue import Changes, load_scenario
from kivactl.loadtest.processes import beyond, events_per_s, staffed
from kivactl.loadtest.scenario import Scenario, assignment_for
from kivactl.plan import Outcome
from kivactl.spec.platform import ServiceLevels
from kivactl.stack.endpoint import Endpoint
from kivactl.stack.secret import Secret
from kivactl.tools.clock import Clock
from kivactl.tools.machine import usable_processors
from kivactl.tools.ports import LOOPBACK
from kivactl.tools.ssh_session import Remote, parse_remote

_NAME = "kivactl-loadtest"


@dataclass(frozen=True, slots=True)
class Foreign:
    """An endpoint that no spec describes.

    Attributes:
        url: Base URL that ends in `/v1`.
        model: What is asked.
        ca: PEM file with the authority to trust; None for the system's.
        token_file: Holds the bearer token; None where none is asked for.
        tenant_tokens: `NAME=FILE` for tenants that a scenario names.
    """

    url: str
    model: str | None
    ca: Path | None
    token_file: Path | None
    tenant_tokens: tuple[str, ...] = ()


def measure(
    platform: Deployment | Foreign | None, scenario: str, changes: Changes | None = None, *, folder: Path | None = None, page_port: int | None = None,
    model: str | None = None, remotes: tuple[Remote, ...] = (), own: Path | None = None,
) -> Iterator[Outcome]:  # fmt: skip
    """Load an endpoint; the last outcome's data is the summary.

    Args:
        platform: Whom.
        scenario: Name of a scenario, or a file.
        changes: What is said instead of the scenario.
        folder: For records and report; a new one in the state folder when absent.
        page_port: Where Locust's own page is served meanwhile.
        model: What is asked, instead of the platform's first model.
        remotes: Machines that generate the load; this one does where there are none.
        own: Folder of scenarios of one's own.

    Raises:
        Interrupted: Before the load, or once more while its results are written.
        KivaError: As `load_scenario` and `run_loadtest`.
    """
    chosen = load_scenario(scenario, changes or Changes(), own)
    assert platform is not None
    if isinstance(platform, Foreign):
        bench, below = _foreign(platform), Path(".kiva", "loadtests")
        chosen = chosen.spread_over(list(bench.tenants))
    else:
        chosen = chosen.spread_over([tenant.name for tenant in platform.platform.gateway.tenants])
        bench, below = _own(platform, chosen, model), platform.layout.loadtests
    run = run_search if chosen.capacity or chosen.sweep else run_loadtest
    environment = {**bench.environment, **({"generators": {remote.name: {} for remote in remotes}} if remotes else {})}
    place = folder or below / run_name(chosen.name)
    try:
        yield from run(replace(bench, page_port=page_port, remotes=remotes, environment=environment), chosen, place)
    except KeyboardInterrupt:  # the first one ends the load; this is one before it, or one more
        if not (place.is_dir() and any(place.iterdir())):  # a folder that was named may be there, and empty
            raise Interrupted(f"the load test '{chosen.name}' was left before it began") from None
        hint = f"what was measured is in {place}, without a report"
        raise Interrupted(f"the load test '{chosen.name}' was left before its results were written", hint) from None


def remotes_from(texts: Sequence[str], ssh_config: Path | None = None) -> tuple[Remote, ...]:
    """The machines that a command line names as `[USER@]HOST[:PORT]`.

    Raises:
        UsageError: One is none, or is named twice; or there is no such file for ssh.
    """
    twice = next((text for text in texts if texts.count(text) > 1), None)
    if twice is not None:
        raise UsageError(f"the machine '{twice}' is named twice", "--processes says how many processes each machine has")
    if ssh_config is not None and not ssh_config.is_file():
        raise UsageError(f"there is no configuration of ssh in {ssh_config}", "--ssh-config FILE")
    return tuple(parse_remote(text, ssh_config.absolute() if ssh_config else None) for text in texts)


def plan_measure(scenario: str, changes: Changes, url: str | None = None, remotes: tuple[Remote, ...] = (), own: Path | None = None) -> dict[str, Any]:
    """What a load test would send, JSON-ready: its load, how many requests that are, and how many processes would send them.

    Args:
        scenario: Name of a scenario, or a file.
        changes: What is said instead of the scenario.
        url: Of an endpoint that no spec describes; else the platform is taken to be on this machine.
        remotes: The machines that would send them, each with as many processes.
        own: Folder of scenarios of one's own.
    """
    chosen = load_scenario(scenario, changes, own)
    work = assignment_for(chosen, Endpoint(url or f"http://{LOOPBACK}/v1", Secret(""), None, ""))
    loads, unit = loads_of(chosen) if chosen.sweep else ((), "")
    runs = [work.with_load(load, unit, work.seed) for load in loads] or [work]
    staff = [staffed(run, chosen.processes, usable_processors(), [remote.name for remote in remotes]) for run in runs]
    work = max(staff, key=events_per_s)
    return {
        "scenario": work.name,
        "load": _words(chosen, work, loads, unit),
        "warm_up_s": work.warm_up_s,
        "duration_s": None if work.requests and not work.is_open else work.duration_s,
        "requests": None if chosen.capacity else sum(_requests(run) for run in runs) or None,
        "runs": None if chosen.capacity else len(runs),
        "machines": list(work.machines),
        "processes": work.processes // max(1, len(work.machines)),
        "warning": beyond(work) or None,
        "kinds": [
            {
                "name": kind.name,
                "share": kind.share,
                "tenant": kind.tenant,
                "prompt_tokens": kind.prompt.mean if kind.prompt else None,
                "output_tokens": kind.output.longest,
            }
            for kind in work.kinds
        ],
    }


def _requests(run: Assignment) -> int:
    """How many requests are measured; 0 where that follows from the platform."""
    return run.requests or (run.due_within(run.duration_s) if run.is_open else 0)


def _words(scenario: Scenario, work: Assignment, loads: Sequence[float], unit: str) -> str:
    """The load in words, also where there are several runs: of a search `work` is the first, of a sweep there are the loads."""
    if scenario.capacity is not None:
        return f"{work.words}, then ever closer to the highest rate that keeps the service levels, up to {scenario.capacity.limit:g} requests/s"
    return f"{', '.join(f'{load:g}' for load in loads)} {unit}, one run each" if loads else work.words


def _own(deployment: Deployment, scenario: Scenario, model: str | None) -> Bench:
    """The platform of a spec."""
    platform = deployment.platform
    known = [served.name for served in platform.models] + [alias.name for alias in platform.aliases]
    if model is not None and model not in known:
        raise UsageError(f"the platform has no model named '{model}'", f"it has: {', '.join(known)}")
    lifetime = timedelta(days=1)
    endpoint = endpoint_for(deployment, lifetime=lifetime, name=_NAME)
    endpoint = replace(endpoint, model=model or endpoint.model)
    tenants = {tenant.name for tenant in platform.gateway.tenants}
    unknown = next((tenant for tenant in scenario.named_tenants if tenant not in tenants), None)
    if unknown is not None:
        raise UsageError(
            f"the load test '{scenario.name}' names the tenant '{unknown}', which the platform does not have", f"it has: {', '.join(sorted(tenants))}"
        )
    tokens = {tenant: endpoint_for(deployment, tenant=tenant, lifetime=lifetime, name=_NAME).token for tenant in scenario.named_tenants}
    models = [part.model or endpoint.model for part in scenario.mix] or [endpoint.model]
    surroundings = surroundings_of(deployment, deployment.loaded.digest)
    return Bench(endpoint, platform.service_levels, deployment.clock, tokens, asking(deployment, models), surroundings)


def _foreign(foreign: Foreign) -> Bench:
    """Any other endpoint: what is promised is the scenario's, or what specs promise by default."""
    if foreign.model is None:
        raise UsageError("an endpoint that no kiva.yaml describes needs the name of a model", "--model NAME")
    if not foreign.url.startswith(("http://", "https://")):
        raise UsageError(f"'{foreign.url}' is no URL", "--url https://HOST:PORT/v1")
    token = _secret(foreign.token_file) if foreign.token_file else Secret("none")
    tokens = {}
    for given in foreign.tenant_tokens:
        name, sign, file = given.partition("=")
        if not sign:
            raise UsageError(f"'{given}' is no tenant with a file", "--tenant-token NAME=FILE")
        tokens[name] = _secret(Path(file))
    return Bench(
        Endpoint(foreign.url.rstrip("/"), token, foreign.ca, foreign.model, is_foreign=True), ServiceLevels(), Clock(), tokens, environment=machinery()
    )


def _secret(file: Path) -> Secret:
    try:
        text = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"the token in {file} cannot be read: {error.strerror if isinstance(error, OSError) else 'it is no text'}", "--token-file FILE"
        ) from None
    if not text or any(character.isspace() for character in text):
        raise UsageError(f"{file} does not hold a token, which is one word", "--token-file FILE")
    return Secret(text)

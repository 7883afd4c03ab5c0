"""`loadtest`: from a scenario to figures that say whether the service levels hold, or that nothing can be said."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kivactl import errors
from kivactl.errors import CheckError, Interrupted, InvalidMeasurementError, KivaError, PreconditionError, ToolError, UsageError
from kivactl.flows.engine_watch import Ask, EngineWatch
from kivactl.flows.load_machines import LoadMachines
from kivactl.flows.load_worker import USER_FILE
from kivactl.loadtest.arrivals import Profile
from kivactl.loadtest.assignment import FOLDER_VARIABLE, TOKENS_VARIABLE, Assignment, Folder
from kivactl.loadtest.bottleneck import bottleneck_of
from kivactl.loadtest.engine_samples import read_samples
from kivactl.loadtest.levels import Level
from kivactl.loadtest.material import Material
from kivactl.loadtest.metrics import Conditions, Window, summary_for
from kivactl.loadtest.processes import beyond, staffed
from kivactl.loadtest.prompts import Prompts, Text
from kivactl.loadtest.record import read_records
from kivactl.loadtest.results import write_results
from kivactl.loadtest.scenario import Scenario, assignment_for, levels_for
from kivactl.loadtest.wording import level_text, measured_text
from kivactl.plan import Outcome, Status
from kivactl.spec.platform import ServiceLevels
from kivactl.stack.endpoint import Endpoint
from kivactl.stack.secret import Secret
from kivactl.tools import locust
from kivactl.tools.clock import Clock
from kivactl.tools.machine import usable_processors
from kivactl.tools.ssh_session import Remote

if TYPE_CHECKING:
    from kivactl.tools.http import GatewayClient

_GRACE_S = 30.0
"""Time for Locust to start and end, beside the phases."""
_LONGEST_S = 86400.0
"""For a run that ends with a number of requests, whose time nobody knows beforehand."""
_LENGTHS = (20, 120, 60, 40)
"""Words of prompts whose tokens the engine counts. Two say how many tokens a word is, and how many it puts around a prompt; 120 may be too many for it."""

PREFLIGHT = "preflight"
MACHINES = "machines"
"""Steps."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What all runs on a platform share.

    Attributes:
        endpoint: Whom to load.
        levels: What the platform promises; a scenario may say otherwise.
        clock: Time.
        tenants: Tokens of the tenants that a scenario names.
        ask: Asks the engines how they are.
        environment: What it all runs on.
        page_port: Where Locust's own page is served meanwhile, on the loopback interface; None without.
        with_page: Whether each run gets a page of its own, whose pictures take some seconds.
        remotes: Machines that generate the load; this one does where there are none.
    """

    endpoint: Endpoint
    levels: ServiceLevels
    clock: Clock
    tenants: Mapping[str, Secret] = field(default_factory=dict)
    ask: Ask = field(default=tuple)
    environment: Mapping[str, Any] = field(default_factory=dict)
    page_port: int | None = None
    with_page: bool = True
    remotes: tuple[Remote, ...] = ()

    @property
    def machines(self) -> tuple[str, ...]:
        """The names of those that generate the load instead of this one."""
        return tuple(remote.name for remote in self.remotes)


def run_loadtest(bench: Bench, scenario: Scenario, folder: Path) -> Iterator[Outcome]:
    """Put a platform under load and judge it.

    Args:
        bench: Whom, and what is shared.
        scenario: How.
        folder: New or empty folder for all that is measured; readable by its owner only.

    Yields:
        The steps `preflight` and `load test NAME`; the latter once a second, and at last DONE with the summary as its
        data and the report's path under `report`. Pass that data to `verdict`. Ctrl-C ends the load early with a summary of what was
        measured. Close the iterator when you leave it early: then, too, the load ends and the report is written.

    Raises:
        KivaError: The preflight request is refused, or Locust does not start.
        UsageError: The folder holds another run, or a tenant has no token.
    """
    assignment = yield from preflight(bench, scenario)
    yield from run_assignment(bench, assignment, levels_for(scenario, bench.levels), folder)


def preflight(bench: Bench, scenario: Scenario) -> Generator[Outcome, None, Assignment]:
    """One request like those to come, so that a refusal is one sentence and not a thousand failures; and how long words are."""
    from kivactl.tools.http import open_client

    locust.require()
    endpoint, clock = bench.endpoint, bench.clock
    missing = [tenant for tenant in scenario.named_tenants if tenant not in bench.tenants]
    if missing:
        raise UsageError(f"the load test '{scenario.name}' needs a token of the tenant '{missing[0]}'", f"--tenant-token {missing[0]}=FILE")
    assignment = staffed(assignment_for(scenario, endpoint), scenario.processes, usable_processors(), bench.machines)
    began_s = clock.now_s()
    yield Outcome(PREFLIGHT, Status.STARTED, endpoint.url)
    with open_client(endpoint, timeout_s=assignment.timeout_s) as client:
        served = client.models()
        unknown = next((kind.model for kind in assignment.kinds if kind.model not in served), None)
        if unknown is not None:
            raise UsageError(f"{endpoint.url} serves no model named '{unknown}'", f"it serves: {', '.join(served)}" if served else "kivactl deploy")
        if any(kind.prompt for kind in assignment.kinds):
            assignment = _calibrated(assignment, _counted(client, assignment))
        prompts = Prompts(assignment)
        kind, source = assignment.kinds[0], prompts.source(-1)
        text = str(prompts.messages(kind, -1, source)[-1]["content"])
        for _ in client.chat(text, max_tokens=kind.output.draw(source), temperature=kind.temperature, within_s=assignment.timeout_s):
            pass
    yield Outcome(PREFLIGHT, Status.DONE, f"'{endpoint.model}' answers", clock.now_s() - began_s)
    return assignment


def run_assignment(
    bench: Bench,
    assignment: Assignment,
    levels: tuple[Level, ...],
    folder: Path,
    *,
    is_hopeless: Callable[[Mapping[str, Any]], bool] = lambda _: False,
    series: Mapping[str, Any] | None = None,
) -> Generator[Outcome, None, Material]:
    """The same for what a scenario has become.

    Args:
        bench: Whom, and what is shared.
        assignment: What the generator is told.
        levels: What it is held against.
        folder: New or empty folder.
        is_hopeless: Looks at what each second brings, and says when going on would be of no use.
        series: Of several runs which one it is, for who watches; JSON-ready.

    Returns:
        The data of the last outcome as its summary, and what it was made of, so that nobody needs to read the records again.
    """
    clock = bench.clock
    assignment = replace(assignment, has_page=bench.page_port is not None)
    files = _prepared(folder, assignment)
    tokens = {"": bench.endpoint.token, **bench.tenants}
    run = _Run(bench, assignment, levels, files, tokens, LoadMachines(bench.remotes, assignment, tokens, files))
    run.write_environment()
    step = f"load test {assignment.name}"
    began_s = clock.now_s()
    try:
        # Closed before the records are read: leaving early must have ended the child by then, and the machines have sent them.
        with run.machines as machines, EngineWatch(bench.ask, files.samples), closing(run.watch()) as events:
            if bench.remotes:
                yield Outcome(MACHINES, Status.STARTED, ", ".join(assignment.machines))
                machines.connect()
                run.write_environment()
                yield Outcome(MACHINES, Status.DONE, f"{len(assignment.machines)} ready, {assignment.processes} processes", clock.now_s() - began_s)
                began_s = clock.now_s()
            begins = "; ".join(filter(None, (f"{assignment.words} on '{assignment.model}'", beyond(assignment))))
            yield Outcome(step, Status.STARTED, begins, data=_outlook(assignment, levels, series))
            for event in events:
                progress = run.take(event)
                if bench.remotes and run.broken and not run.has_spawned:  # the master waits on for processes that will not come
                    raise ToolError(run.broken)
                if progress is not None:
                    message, facts = progress
                    yield Outcome(step, Status.PROGRESS, message, clock.now_s() - began_s, facts)
                    if is_hopeless(facts):
                        files.end.touch(mode=0o600)
    except KeyboardInterrupt:
        run.is_interrupted = True
    except GeneratorExit:
        run.is_interrupted = True
        run.conclude()
        raise
    except ToolError as error:
        if not run.has_spawned:
            raise ToolError(run.broken or error.message, error.hint, error.details) from None
        run.broken = run.broken or f"the load generator did not finish: {error.message}"
    material = run.conclude()
    told = dict(material.summary)
    message = f"{told['requests']} requests, {told['requests'] - told['succeeded']} failed, {told['output_tokens_per_s']:.1f} tokens/s"
    yield Outcome(step, Status.DONE, message, clock.now_s() - began_s, told)
    return material


def verdict(summary: Mapping[str, Any]) -> None:
    """Let a result decide how the command ends; returns when all service levels are met.

    Args:
        summary: The data of the last outcome of `run_loadtest`.

    Raises:
        PreconditionError: The figures could not be written down.
        Interrupted: The user ended it early.
        InvalidMeasurementError: The figures cannot be believed.
        CheckError: A service level was missed.
    """
    hint = f"see {summary['report']}" if summary.get("report") else ""
    if summary.get("unwritten"):
        raise PreconditionError(f"the results of the load test '{summary['scenario']}' could not be written: {summary['unwritten']}", "free some space")
    if summary["interrupted"]:
        measured = summary.get("measured", summary["requests"])  # in all runs of a search
        raise Interrupted(f"the load test was interrupted; {measured} requests were measured until then", hint)
    if summary["invalid"]:
        raise InvalidMeasurementError(f"the load test '{summary['scenario']}' measured nothing to rely on: {summary['invalid']}", hint)
    missed = [level for level in summary["service_levels"] if not level["met"]]
    if missed:
        details = tuple(_missed(level) for level in missed)
        raise CheckError(f"the platform missed its service levels under the load test '{summary['scenario']}'", hint, details)


@dataclass(slots=True)
class _Run:
    """A run under way: what its events have said so far."""

    bench: Bench
    assignment: Assignment
    levels: tuple[Level, ...]
    files: Folder
    tokens: Mapping[str, Secret]
    machines: LoadMachines
    planned: Window | None = None
    lag_p99_ms: float | None = None
    has_spawned: bool = False
    is_complete: bool = False
    is_interrupted: bool = False
    broken: str = ""

    def watch(self) -> Generator[dict[str, Any], None, None]:
        """Start the child and pass its events on."""
        work, page_port, master_port = self.assignment, self.bench.page_port, self.machines.port
        command = locust.command_for(USER_FILE, users=work.users, processes=work.processes, page_port=page_port, master_port=master_port)
        env = {FOLDER_VARIABLE: str(self.files.path), TOKENS_VARIABLE: json.dumps({name: token.reveal() for name, token in self.tokens.items()})}
        timeout_s = _LONGEST_S if work.requests else work.warm_up_s + work.duration_s + work.timeout_s + _GRACE_S
        return locust.watch(command, cwd=self.files.path, env=env, timeout_s=timeout_s)

    def take(self, event: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
        """Note an event; returns message and data where it is worth showing."""
        match event["event"]:
            case "clocks":
                self.machines.note_clocks(event["workers"])
            case "spawned":
                self.has_spawned = True
            case "measuring":
                end_ns = event["end_ns"] or event["start_ns"] + round(_LONGEST_S * 1e9)
                self.planned = Window(event["start_ns"], end_ns)
            case "failed":
                self.broken = str(event["reason"])
            case "ended":
                self.is_complete = bool(event["is_complete"])
                self.lag_p99_ms = event["generator_lag_p99_ms"]
            case "progress":
                self.lag_p99_ms = event["generator_lag_p99_ms"]
                facts = {key: value for key, value in event.items() if key != "event"}
                facts["due_rps"] = Profile(self.assignment.pieces).rate_rps(facts["elapsed_s"]) if self.assignment.pieces else None
                return _progress(facts), facts
        return None

    def write_environment(self) -> dict[str, Any]:
        """Write down what it runs on, as far as it is known; returns it."""
        machines = {machine.name: asdict(machine) for machine in self.machines.machines}
        environment = {**self.bench.environment, **({"generators": machines} if machines else {})}
        self.files.environment.write_text(json.dumps(environment, indent=2) + "\n")
        return environment

    def conclude(self) -> Material:
        """Read the records, judge them, and write all results; the summary handed back says where the report is."""
        records = read_records(*self.files.spools)
        self.broken = self.broken or self.machines.fault
        window = self.planned
        if not self.is_complete:
            if not self.is_interrupted:
                self.broken = self.broken or "the load generator was stopped before the end"
            last_ns = max((record.end_ns for record in records), default=0)
            window = Window(window.start_ns, max(window.start_ns, min(window.end_ns, last_ns))) if window else None
        elif window is not None and self.assignment.requests:
            # The run is over when the last of them is, not when the generator's processes have told each other.
            last_ns = max((record.end_ns for record in records if window.holds(record.moment_ns)), default=window.end_ns)
            window = Window(window.start_ns, min(window.end_ns, last_ns + 1))
        work = self.assignment
        conditions = Conditions(
            work.name,
            work.model,
            work.users,
            work.words,
            work.due_within(window.duration_s) if window and work.is_open else None,
            self.lag_p99_ms,
            work.processes,
            work.seed,
            self.is_interrupted,
            self.broken,
            tuple(asdict(machine) for machine in self.machines.machines),
            work.warm_up_s if work.is_open and not work.trace else None,
            work.is_calibrated,
        )
        summary = summary_for(records, window, self.levels, conditions)
        samples = read_samples(self.files.samples)
        found = bottleneck_of(summary, samples, window)
        told = {**summary.as_dict(), "bottleneck": found.as_dict() if found else None}
        material = Material(told, records, window, self.write_environment(), tuple(samples))
        try:
            with errors.told(self.files.path):
                write_results(self.files, summary, material, with_page=self.bench.with_page)
        except PreconditionError as error:
            # Of hours of load the figures at least are shown.
            return replace(material, summary={**told, "report": "", "unwritten": error.message})
        return replace(material, summary={**told, "report": str(self.files.page if self.bench.with_page else self.files.report)})


def _outlook(assignment: Assignment, levels: tuple[Level, ...], series: Mapping[str, Any] | None) -> dict[str, Any]:
    """What whoever watches the run measures its progress by."""
    return {
        "kind": "load",
        "warm_up_s": assignment.warm_up_s,
        "duration_s": assignment.duration_s,
        "requests": assignment.requests,
        "is_streamed": any(kind.is_streamed for kind in assignment.kinds),
        "levels": {level.name: level.limit for level in levels},
        "series": dict(series) if series else None,
    }


def _progress(facts: Mapping[str, Any]) -> str:
    """How it goes, in one line."""
    parts = [f"{facts['requests']} requests"]
    if facts["failures"]:
        parts.append(f"{facts['failures']} failed")
    parts += [f"{facts['under_way']} under way", f"{facts['tokens_per_s']:g} tokens/s"]
    if facts["ttft_p95_ms"] is not None:
        parts.append(f"TTFT {facts['ttft_p50_ms']:.0f}/{facts['ttft_p95_ms']:.0f} ms")
    if facts["itl_p95_ms"] is not None:
        parts.append(f"ITL {facts['itl_p50_ms']:.0f}/{facts['itl_p95_ms']:.0f} ms (p50/p95)")
    if facts["generator_lag_p99_ms"] is not None:
        parts.append(f"lag {facts['generator_lag_p99_ms']:.1f} ms")
    return f"{facts['phase']}: {', '.join(parts)}"


def _counted(client: GatewayClient, assignment: Assignment) -> dict[int, int]:
    """How many tokens two prompts are, by their words; fewer where the engine does not say."""
    text, source = Text(assignment.seed), Prompts(assignment).source(-2)
    counted: dict[int, int] = {}
    for words in _LENGTHS:
        with suppress(KivaError):  # what stands in the way of all requests, the first real one tells
            tokens = client.prompt_tokens(text.words(words, source))
            if tokens is not None:
                counted[words] = tokens
        if len(counted) != 1:  # both are known; or the first is not, and so no other will be
            break
    return counted


def _calibrated(assignment: Assignment, counted: Mapping[int, int]) -> Assignment:
    """With the length of words as the engine counts; it has the tokenizer, the generator needs none."""
    if len(counted) < 2:
        return assignment
    (few, fewest_tokens), (many, most_tokens) = sorted(counted.items())
    if most_tokens <= fewest_tokens:
        return assignment
    per_word = (most_tokens - fewest_tokens) / (many - few)
    return replace(assignment, tokens_per_word=per_word, overhead_tokens=max(0, round(fewest_tokens - few * per_word)))


def _prepared(folder: Path, assignment: Assignment) -> Folder:
    folder = folder.absolute()
    files = Folder(folder)
    if files.spools or files.packed.exists():
        raise UsageError(f"{folder} holds the records of another load test", "choose another folder")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    files.scenario.write_text(assignment.to_json() + "\n")
    return files


def _missed(level: Mapping[str, Any]) -> str:
    name, measured, limit = level["name"], level["measured"], level["limit"]
    return f"{name}: {'nothing to measure' if measured is None else measured_text(name, measured, limit)}, promised {level_text(name, limit)}"

"""`loadtest`: from a scenario to figures that say whether the service levels hold, or that nothing can be said."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kivactl.errors import CheckError, Interrupted, InvalidMeasurementError, ToolError, UsageError
from kivactl.loadtest.assignment import FOLDER_VARIABLE, TOKEN_VARIABLE, Assignment, Folder
from kivactl.loadtest.metrics import Conditions, Summary, Window, summary_for
from kivactl.loadtest.record import read_records
from kivactl.loadtest.report import report_for
from kivactl.loadtest.scenario import Scenario, assignment_for
from kivactl.plan import Outcome, Status
from kivactl.root import PACKAGE
from kivactl.spec.platform import ServiceLevels
from kivactl.stack.endpoint import Endpoint
from kivactl.tools import locust
from kivactl.tools.clock import Clock

_USER_FILE = PACKAGE / "loadtest" / "user.py"
_GRACE_S = 30.0
"""Time for Locust to start and end, beside the phases."""

PREFLIGHT = "preflight"


def run_loadtest(endpoint: Endpoint, scenario: Scenario, service_levels: ServiceLevels, folder: Path, clock: Clock) -> Iterator[Outcome]:
    """Put a platform under load and judge it.

    Args:
        endpoint: Whom to load.
        scenario: How.
        service_levels: What it is held against.
        folder: New or empty folder for scenario.json, records.jsonl, summary.json and report.md; readable by its owner only.
        clock: Time.

    Yields:
        The steps `preflight` and `load test NAME`; the latter once a second, and at last DONE with the summary as its
        data and the report's path under `report`. Pass that data to `verdict`. Ctrl-C ends the load early with a summary of what was
        measured. Close the iterator when you leave it early: then, too, the load ends and the report is written.

    Raises:
        KivaError: The preflight request is refused, or Locust does not start.
        UsageError: The folder holds another run.
    """
    locust.require()
    yield from _preflight(endpoint, assignment := assignment_for(scenario, endpoint), clock)
    files = _prepared(folder, assignment)
    run = _Run(assignment, service_levels, files)
    step = f"load test {scenario.name}"
    began_s = clock.now_s()
    yield Outcome(step, Status.STARTED, f"{scenario.concurrency} users on '{endpoint.model}'")
    try:
        # Closed before the records are read: leaving early must have ended the child by then.
        with closing(run.watch(endpoint)) as events:
            for event in events:
                progress = run.take(event)
                if progress is not None:
                    message, facts = progress
                    yield Outcome(step, Status.PROGRESS, message, clock.now_s() - began_s, facts)
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
    summary = run.conclude()
    message = f"{summary.requests} requests, {summary.requests - summary.succeeded} failed, {summary.output_tokens_per_s:.1f} tokens/s"
    yield Outcome(step, Status.DONE, message, clock.now_s() - began_s, {**summary.as_dict(), "report": str(files.report)})


def verdict(summary: Mapping[str, Any]) -> None:
    """Let a result decide how the command ends; returns when all service levels are met.

    Args:
        summary: The data of the last outcome of `run_loadtest`.

    Raises:
        Interrupted: The user ended it early.
        InvalidMeasurementError: The figures cannot be believed.
        CheckError: A service level was missed.
    """
    hint = f"see {summary['report']}" if summary.get("report") else ""
    if summary["interrupted"]:
        raise Interrupted(f"the load test was interrupted; {summary['requests']} requests were measured until then", hint)
    if summary["invalid"]:
        raise InvalidMeasurementError(f"the load test '{summary['scenario']}' measured nothing to rely on: {summary['invalid']}", hint)
    missed = [level for level in summary["service_levels"] if not level["met"]]
    if missed:
        details = tuple(_missed(level) for level in missed)
        raise CheckError(f"the platform missed its service levels under the load test '{summary['scenario']}'", hint, details)


@dataclass(slots=True)
class _Run:
    """A run under way: what its events have said so far."""

    assignment: Assignment
    levels: ServiceLevels
    files: Folder
    planned: Window | None = None
    lag_p99_ms: float | None = None
    has_spawned: bool = False
    is_complete: bool = False
    is_interrupted: bool = False
    broken: str = ""

    def watch(self, endpoint: Endpoint) -> Generator[dict[str, Any], None, None]:
        """Start the child and pass its events on."""
        work = self.assignment
        command = locust.command_for(_USER_FILE, users=work.concurrency)
        env = {FOLDER_VARIABLE: str(self.files.path), TOKEN_VARIABLE: endpoint.token.reveal()}
        timeout_s = work.warm_up_s + work.duration_s + work.timeout_s + _GRACE_S
        return locust.watch(command, cwd=self.files.path, env=env, timeout_s=timeout_s)

    def take(self, event: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
        """Note an event; returns message and data where it is worth showing."""
        match event["event"]:
            case "spawned":
                self.has_spawned = True
            case "measuring":
                self.planned = Window(event["start_ns"], event["end_ns"])
            case "failed":
                self.broken = str(event["reason"])
            case "ended":
                self.is_complete = bool(event["is_complete"])
                self.lag_p99_ms = event["generator_lag_p99_ms"]
            case "progress":
                self.lag_p99_ms = event["generator_lag_p99_ms"]
                facts = {key: event[key] for key in ("phase", "elapsed_s", "requests", "failures", "tokens_per_s")}
                failures = f", {facts['failures']} failed" if facts["failures"] else ""
                return f"{facts['phase']}: {facts['requests']} requests{failures}, {facts['tokens_per_s']:g} tokens/s", facts
        return None

    def conclude(self) -> Summary:
        """Read the records, judge them, and write summary and report."""
        records = read_records(self.files.records)
        window = self.planned
        if not self.is_complete:
            if not self.is_interrupted:
                self.broken = self.broken or "the load generator was stopped before the end"
            last_ns = max((record.end_ns for record in records), default=0)
            window = Window(window.start_ns, max(window.start_ns, min(window.end_ns, last_ns))) if window else None
        conditions = Conditions(self.assignment.name, self.assignment.model, self.assignment.concurrency, self.lag_p99_ms, self.is_interrupted, self.broken)
        summary = summary_for(records, window, self.levels, conditions)
        self.files.summary.write_text(json.dumps(summary.as_dict(), indent=2) + "\n")
        self.files.report.write_text(report_for(summary))
        return summary


def _preflight(endpoint: Endpoint, assignment: Assignment, clock: Clock) -> Iterator[Outcome]:
    """One request like those to come, so that a refusal is one sentence and not a thousand failures."""
    from kivactl.tools.http import open_client

    began_s = clock.now_s()
    yield Outcome(PREFLIGHT, Status.STARTED, endpoint.url)
    with open_client(endpoint, timeout_s=assignment.timeout_s) as client:
        served = client.models()
        if endpoint.model not in served:
            raise UsageError(f"{endpoint.url} serves no model named '{endpoint.model}'", f"it serves: {', '.join(served)}" if served else "kivactl deploy")
        answer = client.chat(assignment.prompt(-1), max_tokens=assignment.max_tokens, temperature=assignment.temperature)
        for _ in answer:
            pass
    yield Outcome(PREFLIGHT, Status.DONE, f"'{endpoint.model}' answers", clock.now_s() - began_s)


def _prepared(folder: Path, assignment: Assignment) -> Folder:
    folder = folder.absolute()
    files = Folder(folder)
    if files.records.exists():
        raise UsageError(f"{folder} holds the records of another load test", "choose another folder")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    files.scenario.write_text(assignment.to_json() + "\n")
    return files


def _missed(level: Mapping[str, Any]) -> str:
    if level["measured"] is None:
        return f"{level['name']}: nothing to measure, promised {_shown(level['name'], level['limit'])}"
    return f"{level['name']}: {_shown(level['name'], level['measured'])}, promised {_shown(level['name'], level['limit'])}"


def _shown(name: str, value: float) -> str:
    return f"{value * 100:.2f} %" if name.endswith("_ratio") else f"{value * 1e3:.0f} ms"

"""Brings a machine from what runs to what should run, one replica of a model at a time, without losing a request.

Replicas that do not run start together; running ones are replaced in turn: marked as draining at the gateway, stopped
when their last request is answered, started anew, and given requests again once they generated a token. The record is
written after each, so that the next deploy goes on where a killed one stopped.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kivactl.errors import KivaError, NotReadyError, ToolError
from kivactl.plan import Outcome, Status
from kivactl.stack.engine import Process, parse_failure, parse_phase
from kivactl.stack.gateway.files import endpoints_file
from kivactl.stack.layout import Layout
from kivactl.stack.supervision import supervisor_for
from kivactl.targets.desired import Desired, definition, endpoints, file_hashes, process_from
from kivactl.targets.release import Release, write_file, write_json, write_release
from kivactl.targets.status import GATEWAY, METER
from kivactl.tools import leftovers
from kivactl.tools.clock import Clock
from kivactl.tools.envoy import Admin
from kivactl.tools.supervisor import Supervisor, start_supervisor

STATE_VARIABLE = "KIVA_STATE"
"""In the environment of every process of a platform; its value is the state folder."""


@dataclass(slots=True)
class Rollout:
    """One rollout on one machine.

    Attributes:
        layout: Where files lie.
        desired: What should run.
        release: What is recorded; changed and written as the rollout goes on.
        environment: What every process needs of ours.
        python: Interpreter for the reaper.
        user: Who runs it all.
        generates: Whether a replica generates tokens, asked over its socket.
        clock: Time.
    """

    layout: Layout
    desired: Desired
    release: Release
    environment: Mapping[str, str]
    python: Path
    user: str
    generates: Callable[[Path], bool]
    clock: Clock = field(default_factory=Clock)

    def run(self) -> Iterator[Outcome]:
        """Do it all; yields what happens.

        Raises:
            ToolError: A process dies at its start; its last lines are the details.
            NotReadyError: A replica generates no token within its budget.
        """
        unfinished = not self.release.spec_digest
        supervisor = yield from self._supervisor()
        yield from self._gateway_files()
        yield from self._gateway(supervisor)
        yield from self._meter(supervisor)
        yield from self._start_missing(supervisor, unfinished=unfinished)
        yield from self._replace_changed(supervisor)
        yield from self._remove_extra(supervisor)

    def drain_all(self) -> None:
        """Mark every replica as draining: the gateway refuses what is new and finishes what it has."""
        for model, replicas in self.desired.replicas.items():
            self._write_endpoints(model, replicas, draining=frozenset(replicas), waiting=False)

    def _supervisor(self) -> Generator[Outcome, None, Supervisor]:
        supervisor = Supervisor(self.layout.supervisor_socket)
        self.layout.run.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.layout.tmp.mkdir(mode=0o700, exist_ok=True)
        if not supervisor.alive():
            yield Outcome("supervisor", Status.STARTED)
            # A supervisor that was killed leaves its processes behind, with the port and the memory.
            leftovers.end_marked(STATE_VARIABLE, str(self.layout.state))
            self._write_supervisor_config()
            supervisor = start_supervisor(self.layout.supervisor_config, self.layout.supervisor_socket, self.environment, self.clock)
            yield Outcome("supervisor", Status.DONE, "running")
        return supervisor

    def _gateway_files(self) -> Iterator[Outcome]:
        """Write what the gateway reads; a running one takes it over at once, clusters before the routes that name them."""
        for model, replicas in self.desired.replicas.items():
            self._write_endpoints(model, self._known(model, replicas))
        for path, content in self.desired.first.items():
            if not path.exists():
                write_json(path, content)
        for path in self.desired.files:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        changed = [path.name for path, content in self.desired.files.items() if write_json(path, content)]
        self.release.spec_digest = ""  # until this rollout is finished
        if self.desired.files:
            self.release.gateway = file_hashes(self.desired)
        self.release.endpoint = self.desired.endpoint
        self._record()
        if changed:
            yield Outcome("gateway", Status.DONE, f"configuration written: {', '.join(sorted(changed))}")

    def _gateway(self, supervisor: Supervisor) -> Iterator[Outcome]:
        process = self.desired.processes[GATEWAY]
        state = supervisor.states().get(GATEWAY)
        if state and state.alive and self.release.processes.get(GATEWAY) == definition(process):
            return
        yield Outcome("gateway", Status.STARTED, "starting")
        started_s = self.clock.now_s()
        self._exchange(supervisor, process)
        admin = Admin(self.layout.gateway_admin_socket)
        for _ in self.clock.ticks(process.ready_within_s):
            if admin.ready():
                yield Outcome("gateway", Status.DONE, f"listens on {self.desired.endpoint}", self.clock.now_s() - started_s)
                return
            self._fail_if_dead(supervisor, process)
        raise NotReadyError(f"the gateway does not listen within {process.ready_within_s:g} s", "kivactl logs gateway", self._last_lines(GATEWAY))

    def _meter(self, supervisor: Supervisor) -> Iterator[Outcome]:
        process = self.desired.processes[METER]
        state = supervisor.states().get(METER)
        if state and state.alive and self.release.processes.get(METER) == definition(process):
            return
        self._exchange(supervisor, process)
        yield Outcome(METER, Status.DONE, "counts")

    def _start_missing(self, supervisor: Supervisor, *, unfinished: bool) -> Iterator[Outcome]:
        """Start all replicas that do not run, at once; wait also for those that an unfinished deploy has started."""
        waiting: list[str] = []
        before = dict(self.release.processes)
        states = supervisor.states()
        for model, replicas in self.desired.replicas.items():
            for name in replicas:
                state = states.get(name)
                if state and state.alive and name in self.release.processes:
                    if unfinished and self.release.processes[name] == definition(self.desired.processes[name]):
                        waiting.append(name)
                    continue
                self._exchange(supervisor, self.desired.processes[name])
                self._write_endpoints(model, self._known(model, replicas))
                waiting.append(name)
                yield Outcome(f"engine {name}", Status.STARTED, "starting")
        try:
            yield from self._until_ready(supervisor, waiting)
        except KivaError as error:
            self._go_back(supervisor, {name: before[name] for name in waiting if name in before}, error)
            raise
        for name in waiting:
            yield from self._until_routed(f"engine {name}", name)

    def _replace_changed(self, supervisor: Supervisor) -> Iterator[Outcome]:
        for model, replicas in self.desired.replicas.items():
            for name in replicas:
                process = self.desired.processes[name]
                before = self.release.processes.get(name)
                if before == definition(process):
                    continue
                yield from self._replace(supervisor, model, process, before)

    def _replace(self, supervisor: Supervisor, model: str, process: Process, before: dict[str, Any] | None) -> Iterator[Outcome]:
        step = f"engine {process.name}"
        yield Outcome(step, Status.STARTED, "draining")
        yield from self._drain(step, model, process.name, process.stop_within_s)
        yield Outcome(step, Status.PROGRESS, "stopping")
        self._exchange(supervisor, process)
        try:
            yield from self._until_ready(supervisor, [process.name])
        except KivaError as error:
            if before is None:
                raise
            self._go_back(supervisor, {process.name: before}, error)
            self._write_endpoints(model, self._known(model, self.desired.replicas[model]))
            raise
        self._write_endpoints(model, self._known(model, self.desired.replicas[model]))
        yield from self._until_routed(step, process.name)

    def _remove_extra(self, supervisor: Supervisor) -> Iterator[Outcome]:
        gone = [name for name in self.release.processes if name not in self.desired.processes]
        for name in gone:
            step = f"engine {name}"
            yield Outcome(step, Status.STARTED, "draining")
            model = next((model for model, replicas in self.release.replicas.items() if name in replicas), "")
            patience_s = float(self.release.processes[name].get("stop_within_s", 60))
            if model in self.desired.replicas:
                yield from self._drain(step, model, name, patience_s)
            supervisor.stop(name)
            supervisor.remove(name)
            self.layout.engine_socket(name).unlink(missing_ok=True)
            del self.release.processes[name]
            if model in self.desired.replicas:
                self._write_endpoints(model, self.desired.replicas[model])
            yield Outcome(step, Status.DONE, "removed")
        for model in [model for model in self.release.replicas if model not in self.desired.replicas]:
            endpoints_file(self.layout.gateway, model).unlink(missing_ok=True)
        self.release.replicas = {model: list(replicas) for model, replicas in self.desired.replicas.items()}
        self._write_supervisor_config()
        self._record()

    def _drain(self, step: str, model: str, name: str, patience_s: float) -> Iterator[Outcome]:
        """Let a replica finish: nothing new for it, and wait until the gateway sees no request on it."""
        self._write_endpoints(model, self._known(model, self.desired.replicas[model]), draining=frozenset({name}))
        admin = Admin(self.layout.gateway_admin_socket)
        address = str(self.layout.engine_socket(name))
        for elapsed_s in self.clock.ticks(patience_s, every_s=0.1):
            upstream = next((upstream for upstream in admin.upstreams() if upstream.address == address), None)
            if upstream is None or (upstream.draining and upstream.active == 0):
                return
            yield Outcome(step, Status.PROGRESS, f"draining, {upstream.active} requests left", elapsed_s)

    def _until_ready(self, supervisor: Supervisor, names: list[str]) -> Iterator[Outcome]:
        """Wait until every replica generated a token; a replica that dies or is late ends the wait for all."""
        if not names:
            return
        waiting = list(names)
        within_s = max(self.desired.processes[name].ready_within_s for name in waiting)
        for elapsed_s in self.clock.ticks(within_s, every_s=0.5):
            for name in list(waiting):
                step = f"engine {name}"
                self._fail_if_dead(supervisor, self.desired.processes[name])
                if self.layout.engine_socket(name).exists() and self.generates(self.layout.engine_socket(name)):
                    waiting.remove(name)
                    yield Outcome(step, Status.DONE, "generates tokens", elapsed_s)
                else:
                    yield Outcome(step, Status.PROGRESS, parse_phase(self._log_since_start(name)), elapsed_s)
            if not waiting:
                return
        for name in waiting:
            supervisor.stop(name)
        late = ", ".join(sorted(waiting))
        raise NotReadyError(
            f"engine {late} generated no token within {within_s:g} s",
            f"kivactl logs {next(iter(waiting))}; raise `ready_within` of the model if it only needs longer",
            self._last_lines(next(iter(waiting))),
        )

    def _until_routed(self, step: str, name: str) -> Iterator[Outcome]:
        """Wait until the gateway gives a replica requests again, so that the next one may drain."""
        address = str(self.layout.engine_socket(name))
        admin = Admin(self.layout.gateway_admin_socket)
        for elapsed_s in self.clock.ticks(60, every_s=0.1):
            if any(upstream.address == address and upstream.healthy for upstream in admin.upstreams()):
                return
            yield Outcome(step, Status.PROGRESS, "waiting for the gateway", elapsed_s)
        raise NotReadyError(f"the gateway gives {name} no requests, though it generates tokens", "kivactl logs gateway")

    def _exchange(self, supervisor: Supervisor, process: Process) -> None:
        """Put a process in the place of the one with its name, and start it."""
        supervisor.stop(process.name)
        supervisor.remove(process.name)
        if process.name not in {GATEWAY, METER}:
            self.layout.engine_socket(process.name).unlink(missing_ok=True)
        # The log begins anew, so that what it says is about this start; supervisor keeps the older ones.
        log = self.layout.log(process.name)
        if log.exists():
            shutil.move(log, log.with_suffix(".log.1"))
        self.release.processes[process.name] = definition(process)
        self._write_supervisor_config()
        self._record()
        supervisor.reload()
        supervisor.add(process.name)
        supervisor.start(process.name)

    def _go_back(self, supervisor: Supervisor, before: Mapping[str, dict[str, Any]], error: KivaError) -> None:
        """Put back what was deployed before, where it differs; the error's hint says so."""
        changed = {name: entry for name, entry in before.items() if self.release.processes.get(name) != entry}
        for entry in changed.values():
            self._exchange(supervisor, process_from(entry))
        if changed:
            error.hint = f"{' and '.join(sorted(changed))} went back to what ran before{'; ' if error.hint else ''}{error.hint}"

    def _fail_if_dead(self, supervisor: Supervisor, process: Process) -> None:
        state = supervisor.states().get(process.name)
        if state is None or state.alive:
            return
        supervisor.stop(process.name)
        what = "the gateway" if process.name == GATEWAY else f"engine {process.name}"
        raise ToolError(
            f"{what} dies at its start: {parse_failure(self._log_since_start(process.name))}",
            f"kivactl logs {process.name}",
            self._last_lines(process.name),
        )

    def _known(self, model: str, replicas: list[str]) -> list[str]:
        """The replicas to tell the gateway: those wanted, and those still running that are not."""
        extra = [name for name in self.release.replicas.get(model, []) if name not in replicas and name in self.release.processes]
        return [*replicas, *extra]

    def _write_endpoints(self, model: str, replicas: list[str], draining: frozenset[str] = frozenset(), *, waiting: bool = True) -> None:
        content = endpoints(model, self.layout, replicas, draining, waiting=waiting)
        write_json(endpoints_file(self.layout.gateway, model), content)

    def _write_supervisor_config(self) -> None:
        processes = [process_from(entry) for entry in self.release.processes.values()]
        text = supervisor_for(self.layout, processes, python=self.python, user=self.user, environment=self.environment)
        write_file(self.layout.supervisor_config, text)

    def _record(self) -> None:
        write_release(self.layout.release, self.release)

    def _log_since_start(self, name: str) -> str:
        with suppress(OSError):
            return self.layout.log(name).read_text(errors="replace")[-200_000:]
        return ""

    def _last_lines(self, name: str) -> tuple[str, ...]:
        return tuple(self._log_since_start(name).splitlines()[-15:])

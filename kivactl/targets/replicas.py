"""The replicas of this machine and what the gateway knows of them: the moves of which rollouts and maintenance are made.

A replica is marked as draining at the gateway, stopped when its last request is answered, started, and given requests
again once it generated a token. What runs is recorded before it starts, so that whoever is killed in between, or another
after him, finds where to go on. A replica in maintenance is draining for the gateway as long as the record says so.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kivactl.errors import KivaError, NotReadyError, ToolError
from kivactl.plan import Outcome, Status
from kivactl.stack.engine import Process, last_words, parse_failure, parse_phase
from kivactl.stack.gateway.files import endpoints_file
from kivactl.stack.layout import Layout
from kivactl.stack.supervision import supervisor_for
from kivactl.targets.desired import definition, endpoints_as_known, process_from
from kivactl.targets.release import Release, write_file, write_json, write_release
from kivactl.targets.status import GATEWAY, METER
from kivactl.tools.clock import Clock
from kivactl.tools.envoy import Admin
from kivactl.tools.supervisor import Supervisor

_ROUTED_WITHIN_S = 60.0


@dataclass(slots=True)
class Replicas:
    """The replicas of one machine.

    Attributes:
        layout: Where files lie.
        release: What is recorded; changed and written with every move.
        wanted: Names of the replicas of every model that should be.
        environment: What every process needs of ours.
        python: Interpreter for the reaper.
        user: Who runs it all.
        generates: Whether a replica generates tokens, asked over its socket.
        clock: Time.
    """

    layout: Layout
    release: Release
    wanted: Mapping[str, list[str]]
    environment: Mapping[str, str]
    python: Path
    user: str
    generates: Callable[[Path], bool]
    clock: Clock = field(default_factory=Clock)

    def tell_gateway(self, model: str, draining: Iterable[str] = (), *, waiting: bool = True) -> None:
        """Write a model's endpoints: those wanted, and those still running that are not; some get nothing new.

        Args:
            model: Its name.
            draining: Besides those in maintenance.
            waiting: Whether requests may wait for a replica.
        """
        content = endpoints_as_known(model, self.layout, self.release, list(self.wanted[model]), frozenset(draining), waiting=waiting)
        write_json(endpoints_file(self.layout.gateway, model), content)

    def drain(self, step: str, model: str, name: str, patience_s: float) -> Iterator[Outcome]:
        """Let a replica finish: nothing new for it, and wait until the gateway sees no request on it."""
        self.tell_gateway(model, [name])
        admin = Admin(self.layout.gateway_admin_socket)
        address = str(self.layout.engine_socket(name))
        for elapsed_s in self.clock.ticks(patience_s, every_s=0.1):
            upstream = next((upstream for upstream in admin.upstreams() if upstream.address == address), None)
            if upstream is None or (upstream.draining and upstream.active == 0):
                return
            yield Outcome(step, Status.PROGRESS, f"draining, {upstream.active} requests left", elapsed_s)

    def replace(self, supervisor: Supervisor, model: str, process: Process, before: dict[str, Any] | None) -> Iterator[Outcome]:
        """Put a process in the place of a replica, without losing a request.

        Args:
            supervisor: Who runs it.
            model: What it serves.
            process: What is to run.
            before: What to put back when that fails; None to leave it as it is.
        """
        step = f"engine {process.name}"
        yield Outcome(step, Status.STARTED, "draining")
        yield from self.drain(step, model, process.name, process.stop_within_s)
        yield Outcome(step, Status.PROGRESS, "stopping")
        self.exchange(supervisor, process)
        try:
            yield from self.until_ready(supervisor, [process])
        except KivaError as error:
            if before is None:
                raise
            self.go_back(supervisor, {process.name: before}, error)
            self.tell_gateway(model)
            raise
        self.tell_gateway(model)
        yield from self.until_routed(step, process.name)

    def exchange(self, supervisor: Supervisor, process: Process) -> None:
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
        self.write_supervisor_config()
        self.record()
        supervisor.reload()
        supervisor.add(process.name)
        supervisor.start(process.name)

    def go_back(self, supervisor: Supervisor, before: Mapping[str, dict[str, Any]], error: KivaError) -> None:
        """Put back what was deployed before, where it differs; the error's hint says so."""
        changed = {name: entry for name, entry in before.items() if self.release.processes.get(name) != entry}
        for entry in changed.values():
            self.exchange(supervisor, process_from(entry))
        if changed:
            error.hint = f"{' and '.join(sorted(changed))} went back to what ran before{'; ' if error.hint else ''}{error.hint}"

    def until_ready(self, supervisor: Supervisor, processes: Iterable[Process]) -> Iterator[Outcome]:
        """Wait until every replica generated a token; one that dies or is late ends the wait for all.

        Raises:
            ToolError: A process dies before its first token; its last lines are the details.
            NotReadyError: A replica generates no token within its budget; it is stopped.
        """
        waiting = {process.name: process for process in processes}
        if not waiting:
            return
        pids = dict.fromkeys(waiting, 0)
        within_s = max(process.ready_within_s for process in waiting.values())
        for elapsed_s in self.clock.ticks(within_s, every_s=0.5):
            for name, process in list(waiting.items()):
                step = f"engine {name}"
                pids[name] = self.fail_if_dead(supervisor, process, pids[name])
                if self.layout.engine_socket(name).exists() and self.generates(self.layout.engine_socket(name)):
                    del waiting[name]
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
            self.last_lines(next(iter(waiting))),
        )

    def until_routed(self, step: str, name: str) -> Iterator[Outcome]:
        """Wait until the gateway gives a replica requests again, so that the next one may drain.

        Raises:
            NotReadyError: It does not in time.
        """
        address = str(self.layout.engine_socket(name))
        admin = Admin(self.layout.gateway_admin_socket)
        for elapsed_s in self.clock.ticks(_ROUTED_WITHIN_S, every_s=0.1):
            if any(upstream.address == address and upstream.healthy for upstream in admin.upstreams()):
                return
            yield Outcome(step, Status.PROGRESS, "waiting for the gateway", elapsed_s)
        raise NotReadyError(f"the gateway gives {name} no requests, though it generates tokens", "kivactl logs gateway")

    def fail_if_dead(self, supervisor: Supervisor, process: Process, pid: int = 0) -> int:
        """Raise when a process died at its start.

        Args:
            supervisor: Who runs it.
            process: What was started.
            pid: As it was before; with another one it has died meanwhile, and the supervisor was quick to start it anew. 0: not known.

        Returns:
            Its pid, or that of before while the supervisor does not know of it.

        Raises:
            ToolError: It did; its last words are the details.
        """
        state = supervisor.states().get(process.name)
        if state is None or (state.alive and pid in {0, state.pid}):
            return state.pid if state else pid
        supervisor.stop(process.name)
        what = "the gateway" if process.name == GATEWAY else f"engine {process.name}"
        log = self._log_since_start(process.name)
        raise ToolError(f"{what} dies at its start: {parse_failure(log)}", f"kivactl logs {process.name}", last_words(log))

    def write_supervisor_config(self) -> None:
        """Tell the supervisor of every recorded process; it reads the file when it is told to."""
        processes = [process_from(entry) for entry in self.release.processes.values()]
        text = supervisor_for(self.layout, processes, python=self.python, user=self.user, environment=self.environment)
        write_file(self.layout.supervisor_config, text)

    def record(self) -> None:
        """Write the record."""
        write_release(self.layout.release, self.release)

    def last_lines(self, name: str) -> tuple[str, ...]:
        """The last lines of a process' log."""
        return tuple(self._log_since_start(name).splitlines()[-15:])

    def _log_since_start(self, name: str) -> str:
        with suppress(OSError):
            return self.layout.log(name).read_text(errors="replace")[-200_000:]
        return ""

"""Brings a machine from what runs to what should run, one replica of a model at a time, without losing a request.

Replicas that do not run start together; running ones are replaced in turn: marked as draining at the gateway, stopped
when their last request is answered, started anew, and given requests again once they generated a token. The record is
written after each, so that the next deploy goes on where a killed one stopped. Replicas in maintenance stay stopped.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass

from kivactl.errors import KivaError, NotReadyError
from kivactl.plan import Outcome, Status
from kivactl.stack.gateway.files import endpoints_file
from kivactl.targets.desired import Desired, definition, file_hashes
from kivactl.targets.release import write_json
from kivactl.targets.replicas import Replicas
from kivactl.targets.status import GATEWAY, METER
from kivactl.tools import leftovers
from kivactl.tools.envoy import Admin
from kivactl.tools.supervisor import Supervisor, start_supervisor

STATE_VARIABLE = "KIVA_STATE"
"""In the environment of every process of a platform; its value is the state folder."""


@dataclass(slots=True)
class Rollout:
    """One rollout on one machine.

    Attributes:
        desired: What should run.
        replicas: What runs, with the record of it.
    """

    desired: Desired
    replicas: Replicas

    def run(self) -> Iterator[Outcome]:
        """Do it all; yields what happens.

        Raises:
            ToolError: A process dies at its start; its last lines are the details.
            NotReadyError: A replica generates no token within its budget.
        """
        unfinished = not self.replicas.release.spec_digest
        supervisor = yield from self._supervisor()
        yield from self._gateway_files()
        yield from self._gateway(supervisor)
        yield from self._meter(supervisor)
        yield from self._keep_out(supervisor)
        yield from self._start_missing(supervisor, unfinished=unfinished)
        yield from self._replace_changed(supervisor)
        yield from self._remove_extra(supervisor)

    def drain_all(self) -> None:
        """Mark every replica as draining: the gateway refuses what is new and finishes what it has."""
        for model, names in self.desired.replicas.items():
            self.replicas.tell_gateway(model, names, waiting=False)

    def _supervisor(self) -> Generator[Outcome, None, Supervisor]:
        layout = self.replicas.layout
        supervisor = Supervisor(layout.supervisor_socket)
        layout.run.mkdir(mode=0o700, parents=True, exist_ok=True)
        layout.tmp.mkdir(mode=0o700, exist_ok=True)
        if not supervisor.alive():
            yield Outcome("supervisor", Status.STARTED)
            # A supervisor that was killed leaves its processes behind, with the port and the memory.
            leftovers.end_marked(STATE_VARIABLE, str(layout.state))
            self.replicas.write_supervisor_config()
            supervisor = start_supervisor(layout.supervisor_config, layout.supervisor_socket, self.replicas.environment, self.replicas.clock)
            yield Outcome("supervisor", Status.DONE, "running")
        return supervisor

    def _gateway_files(self) -> Iterator[Outcome]:
        """Write what the gateway reads; a running one takes it over at once, clusters before the routes that name them."""
        release = self.replicas.release
        for model in self.desired.replicas:
            self.replicas.tell_gateway(model)
        for path, content in self.desired.first.items():
            if not path.exists():
                write_json(path, content)
        for path in self.desired.files:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        changed = [path.name for path, content in self.desired.files.items() if write_json(path, content)]
        release.spec_digest = ""  # until this rollout is finished
        if self.desired.files:
            release.gateway = file_hashes(self.desired)
        release.endpoint = self.desired.endpoint
        self.replicas.record()
        if changed:
            yield Outcome("gateway", Status.DONE, f"configuration written: {', '.join(sorted(changed))}")

    def _gateway(self, supervisor: Supervisor) -> Iterator[Outcome]:
        process, clock = self.desired.processes[GATEWAY], self.replicas.clock
        state = supervisor.states().get(GATEWAY)
        if state and state.alive and self.replicas.release.processes.get(GATEWAY) == definition(process):
            return
        yield Outcome("gateway", Status.STARTED, "starting")
        started_s = clock.now_s()
        self.replicas.exchange(supervisor, process)
        admin = Admin(self.replicas.layout.gateway_admin_socket)
        pid = 0
        for _ in clock.ticks(process.ready_within_s):
            if admin.ready():
                yield Outcome("gateway", Status.DONE, f"listens on {self.desired.endpoint}", clock.now_s() - started_s)
                return
            pid = self.replicas.fail_if_dead(supervisor, process, pid)
        raise NotReadyError(f"the gateway does not listen within {process.ready_within_s:g} s", "kivactl logs gateway", self.replicas.last_lines(GATEWAY))

    def _meter(self, supervisor: Supervisor) -> Iterator[Outcome]:
        process = self.desired.processes[METER]
        state = supervisor.states().get(METER)
        if state and state.alive and self.replicas.release.processes.get(METER) == definition(process):
            return
        self.replicas.exchange(supervisor, process)
        yield Outcome(METER, Status.DONE, "counts")

    def _keep_out(self, supervisor: Supervisor) -> Iterator[Outcome]:
        """What is in maintenance does not run; its record follows the spec, so that it comes back as it should be."""
        release = self.replicas.release
        for model, name in [(model, name) for model, names in self.desired.replicas.items() for name in names if name in release.maintenance]:
            release.processes[name] = definition(self.desired.processes[name])
            state = supervisor.states().get(name)
            if state is None or state.gone:
                continue
            step = f"engine {name}"
            yield Outcome(step, Status.STARTED, "draining")
            yield from self.replicas.drain(step, model, name, self.desired.processes[name].stop_within_s)
            supervisor.stop(name)
            yield Outcome(step, Status.DONE, "in maintenance")
        self.replicas.record()

    def _start_missing(self, supervisor: Supervisor, *, unfinished: bool) -> Iterator[Outcome]:
        """Start all replicas that do not run, at once; wait also for those that an unfinished deploy has started."""
        release = self.replicas.release
        waiting: list[str] = []
        before = dict(release.processes)
        states = supervisor.states()
        for model, name in self._served():
            state = states.get(name)
            if state and state.alive and name in release.processes:
                if unfinished and release.processes[name] == definition(self.desired.processes[name]):
                    waiting.append(name)
                continue
            self.replicas.exchange(supervisor, self.desired.processes[name])
            self.replicas.tell_gateway(model)
            waiting.append(name)
            yield Outcome(f"engine {name}", Status.STARTED, "starting")
        try:
            yield from self.replicas.until_ready(supervisor, [self.desired.processes[name] for name in waiting])
        except KivaError as error:
            self.replicas.go_back(supervisor, {name: before[name] for name in waiting if name in before}, error)
            raise
        for name in waiting:
            yield from self.replicas.until_routed(f"engine {name}", name)

    def _replace_changed(self, supervisor: Supervisor) -> Iterator[Outcome]:
        for model, name in self._served():
            process = self.desired.processes[name]
            before = self.replicas.release.processes.get(name)
            if before != definition(process):
                yield from self.replicas.replace(supervisor, model, process, before)

    def _remove_extra(self, supervisor: Supervisor) -> Iterator[Outcome]:
        layout, release = self.replicas.layout, self.replicas.release
        gone = [name for name in release.processes if name not in self.desired.processes]
        for name in gone:
            step = f"engine {name}"
            yield Outcome(step, Status.STARTED, "draining")
            model = next((model for model, names in release.replicas.items() if name in names), "")
            patience_s = float(release.processes[name].get("stop_within_s", 60))
            if model in self.desired.replicas:
                yield from self.replicas.drain(step, model, name, patience_s)
            supervisor.stop(name)
            supervisor.remove(name)
            layout.engine_socket(name).unlink(missing_ok=True)
            del release.processes[name]
            if model in self.desired.replicas:
                self.replicas.tell_gateway(model)
            yield Outcome(step, Status.DONE, "removed")
        for model in [model for model in release.replicas if model not in self.desired.replicas]:
            endpoints_file(layout.gateway, model).unlink(missing_ok=True)
        release.replicas = {model: list(names) for model, names in self.desired.replicas.items()}
        release.maintenance = {name: since for name, since in release.maintenance.items() if name in self.desired.processes}
        self.replicas.write_supervisor_config()
        self.replicas.record()

    def _served(self) -> list[tuple[str, str]]:
        """Model and name of every replica that should run."""
        out = self.replicas.release.maintenance
        return [(model, name) for model, names in self.desired.replicas.items() for name in names if name not in out]

"""The target `local`: engine replicas and gateway as supervised processes on this machine."""

from __future__ import annotations

import getpass
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from kivactl.errors import PreconditionError
from kivactl.plan import Change, Difference, Outcome, Plan, Status, Verb, digest
from kivactl.stack.gateway.files import endpoints_file
from kivactl.stack.layout import Layout
from kivactl.targets import maintenance
from kivactl.targets.desired import Desired, changes_between, desired_from, endpoints_as_known
from kivactl.targets.gateway import LocalGateway
from kivactl.targets.lock import held
from kivactl.targets.processes import Processes
from kivactl.targets.reaper import end_group
from kivactl.targets.release import Release, differs, read_release, write_release
from kivactl.targets.replicas import Replicas
from kivactl.targets.rollout import STATE_VARIABLE, Rollout
from kivactl.targets.status import GATEWAY, METER
from kivactl.tools import leftovers, vllm
from kivactl.tools.clock import Clock
from kivactl.tools.envoy import Admin
from kivactl.tools.supervisor import Supervisor, until_gone

REAPER = "reaper"
"""The supervisor's event listener; not one of the platform's processes."""

_PASSED_ON = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "HF_HOME", "TZ")
"""Variables that supervised processes get from the one who deploys; everything else stays outside."""


@dataclass(frozen=True, slots=True)
class LocalTarget:
    """A platform on this machine.

    Attributes:
        layout: Where its files lie.
        clock: Time.
        stop_within_s: Seconds an engine without requests has to end by itself.
    """

    layout: Layout
    clock: Clock = field(default_factory=Clock)
    stop_within_s: float = 20.0

    def locked(self, verb: str) -> AbstractContextManager[None]:
        """Hold the platform's lock; who is second is told who holds it."""
        return held(self.layout.lock, verb)

    def alive(self) -> frozenset[str]:
        """Names of the processes that run."""
        states = Supervisor(self.layout.supervisor_socket).states()
        return frozenset(name for name, state in states.items() if state.alive and name != REAPER)

    def memory_bytes(self) -> int:
        """Memory that our processes hold now."""
        return leftovers.memory_bytes(STATE_VARIABLE, str(self.layout.state))

    def plan(self, desired: Desired, title: str) -> Plan:
        """What `apply` would change; reads only."""
        release = read_release(self.layout.release)
        alive = self.alive()
        changes = changes_between(release, alive, desired)
        if not any(change.subject == GATEWAY for change in changes):
            changes = [*self._stray_endpoints(release, desired), *changes]
        unfinished = bool(release.processes) and not release.spec_digest
        notes = ["an earlier deploy did not finish: this one goes on from there"] if unfinished else []
        notes += [f"{name} is in maintenance since {since} and stays stopped" for name, since in release.maintenance.items() if name in desired.processes]
        if unfinished and not changes:
            changes = [Change(Verb.UPDATE, "verification")]
        basis = digest({"deployed": dict(sorted(release.processes.items())), "alive": sorted(alive), "maintenance": sorted(release.maintenance)})
        return Plan(title, tuple(changes), tuple(notes), basis)

    def apply(self, desired: Desired) -> Iterator[Outcome]:
        """Bring the machine to what is desired; yields what happens."""
        yield from self._rollout(desired, read_release(self.layout.release)).run()

    def finish(self, spec_digest: str, deployed_at: str) -> None:
        """Record that a deploy is done and verified."""
        release = read_release(self.layout.release)
        release.spec_digest, release.deployed_at = spec_digest, deployed_at
        write_release(self.layout.release, release)

    def start(self) -> Iterator[Outcome]:
        """Start what was deployed, as it was deployed; what runs stays untouched."""
        release = self._deployed()
        finished = (release.spec_digest, release.deployed_at)
        yield from self._rollout(desired_from(release), release).run()
        self.finish(*finished)

    def stop(self) -> Iterator[Outcome]:
        """Stop everything: new requests are refused, those in work are finished, then the processes end.

        Nothing of ours stays: no process, no socket, no temporary file, no shared memory. What is deployed stays recorded.
        """
        supervisor = Supervisor(self.layout.supervisor_socket)
        segments = leftovers.segments_of(leftovers.marked(STATE_VARIABLE, str(self.layout.state)))
        if supervisor.alive():
            yield from self._drain_all()
            yield from self._shut_down(supervisor)
        ended = leftovers.end_marked(STATE_VARIABLE, str(self.layout.state), self.clock)
        if ended:
            yield Outcome("leftovers", Status.DONE, f"ended {ended} processes that had lost their supervisor")
        for segment in segments:
            segment.unlink(missing_ok=True)
        shutil.rmtree(self.layout.run, ignore_errors=True)

    def restart(self, replicas: Sequence[str]) -> Iterator[Outcome]:
        """Start replicas anew as they were deployed, one after the other, without losing a request."""
        yield from maintenance.restart(self._deployed_replicas(), replicas)

    def take_out(self, replicas: Sequence[str]) -> Iterator[Outcome]:
        """Let replicas finish their requests and stop them; they stay stopped until they are brought back."""
        yield from maintenance.take_out(self._deployed_replicas(), replicas)

    def bring_back(self, replicas: Sequence[str]) -> Iterator[Outcome]:
        """Start replicas that were taken out, and give them requests again."""
        yield from maintenance.bring_back(self._deployed_replicas(), replicas)

    @property
    def gateway(self) -> LocalGateway:
        """The deployed gateway, to be told something between two deploys."""
        return LocalGateway(self.layout, self.clock)

    @property
    def breaking(self) -> Processes:
        """What runs, to be broken on purpose and mended."""
        return Processes(self.layout, self.clock)

    def _stray_endpoints(self, release: Release, desired: Desired) -> list[Change]:
        """What a command that was cut off left in the gateway's files, such as a replica that still counts as draining."""
        strays = [
            endpoints_file(self.layout.gateway, model)
            for model, names in desired.replicas.items()
            if model in release.replicas and differs(endpoints_file(self.layout.gateway, model), endpoints_as_known(model, self.layout, release, names))
        ]
        return [Change(Verb.UPDATE, GATEWAY, tuple(Difference(path.name, "deployed", "changed") for path in strays))] if strays else []

    def _drain_all(self) -> Iterator[Outcome]:
        release = read_release(self.layout.release)
        rollout = self._rollout(desired_from(release), release)
        patience_s = max((float(entry.get("stop_within_s", 0)) for entry in release.processes.values()), default=0.0)
        yield Outcome("requests", Status.STARTED, "no new ones")
        rollout.drain_all()
        admin = Admin(self.layout.gateway_admin_socket)
        left = 0
        for elapsed_s in self.clock.ticks(patience_s, every_s=0.1):
            left = sum(upstream.active for upstream in admin.upstreams())
            if left == 0:
                break
            yield Outcome("requests", Status.PROGRESS, f"{left} to finish", elapsed_s)
        yield Outcome("requests", Status.DONE, f"{left} cut off after {patience_s:g} s" if left else "all finished")

    def _shut_down(self, supervisor: Supervisor) -> Iterator[Outcome]:
        names = sorted(name for name, state in supervisor.states().items() if not state.gone and name != REAPER)
        engines = {name for name in names if name not in {GATEWAY, METER}}
        started_s = self.clock.now_s()
        for name in sorted(engines):
            yield Outcome(_subject(name), Status.STARTED, "stopping")
            supervisor.stop(name, wait=False)
        while engines:
            states, elapsed_s = supervisor.states(), self.clock.now_s() - started_s
            for name in sorted(name for name in engines if name not in states or states[name].gone):
                engines.remove(name)
                yield Outcome(_subject(name), Status.DONE, "stopped" if elapsed_s < self.stop_within_s else "killed: it did not stop by itself", elapsed_s)
            if elapsed_s >= self.stop_within_s:
                # Its requests are finished; one that still loads its model would not listen for a minute.
                for name in engines:
                    end_group(states[name].pid)
            self.clock.sleep(0.1)
        supervisor.stop(GATEWAY)
        supervisor.stop(METER)  # the last, so that it counts what ended with the gateway
        supervisor.shutdown()
        until_gone(supervisor, self.clock, within_s=30)
        yield Outcome("supervisor", Status.DONE, "stopped")

    def _deployed(self) -> Release:
        release = read_release(self.layout.release)
        if not release.processes:
            raise PreconditionError("nothing is deployed here", "kivactl deploy")
        return release

    def _deployed_replicas(self) -> Replicas:
        release = self._deployed()
        return self._replicas(release, release.replicas)

    def _rollout(self, desired: Desired, release: Release) -> Rollout:
        return Rollout(desired, self._replicas(release, desired.replicas))

    def _replicas(self, release: Release, wanted: Mapping[str, list[str]]) -> Replicas:
        return Replicas(
            layout=self.layout,
            release=release,
            wanted=wanted,
            environment=self._environment(),
            python=Path(sys.executable),
            user=getpass.getuser(),
            generates=vllm.generates,
            clock=self.clock,
        )

    def _environment(self) -> dict[str, str]:
        passed = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        cache = self.layout.cache / "engine"
        return {
            **passed,
            STATE_VARIABLE: str(self.layout.state),
            "TMPDIR": str(self.layout.tmp),
            "VLLM_CACHE_ROOT": str(cache),
            "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
            "PYTHONDONTWRITEBYTECODE": "1",
            # Or vLLM's engine cores would overwrite all of this with their title, and not be found any more.
            **leftovers.KEEPS_ENVIRONMENT,
        }


def _subject(name: str) -> str:
    return name if name in {GATEWAY, METER} else f"engine {name}"

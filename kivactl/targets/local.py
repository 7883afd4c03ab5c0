"""The target `local`: engine replicas and gateway as supervised processes on this machine."""

from __future__ import annotations

import getpass
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kivactl.errors import PreconditionError
from kivactl.plan import Change, Outcome, Plan, Status, Verb, digest
from kivactl.stack.layout import Layout
from kivactl.targets.desired import Desired, changes_between, desired_from
from kivactl.targets.reaper import end_group
from kivactl.targets.release import Release, read_release, write_release
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
        unfinished = bool(release.processes) and not release.spec_digest
        notes = ["an earlier deploy did not finish: this one goes on from there"] if unfinished else []
        if unfinished and not changes:
            changes = [Change(Verb.UPDATE, "verification")]
        basis = digest({"deployed": dict(sorted(release.processes.items())), "alive": sorted(alive)})
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

    def _rollout(self, desired: Desired, release: Release) -> Rollout:
        return Rollout(
            layout=self.layout,
            desired=desired,
            release=release,
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
        }


def _subject(name: str) -> str:
    return name if name in {GATEWAY, METER} else f"engine {name}"

"""Trouble with engines: what ended a replica and what helps, GPUs that fail, and the emergency stop."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from kivactl.errors import NotReadyError, PreconditionError
from kivactl.flows import faults, pod_troubles
from kivactl.flows.deployment import Deployment
from kivactl.flows.diagnosis import Cause, Diagnosis, said_in
from kivactl.plan import Outcome, Status
from kivactl.stack.engine import parse_failure
from kivactl.stack.layout import Layout
from kivactl.targets.local import REAPER
from kivactl.targets.processes import known_replica
from kivactl.targets.release import read_release
from kivactl.targets.rollout import STATE_VARIABLE
from kivactl.tools import gpu, kernel, leftovers
from kivactl.tools.gpu import Condition, Remedy
from kivactl.tools.kernel import Kill
from kivactl.tools.supervisor import Supervisor

_TAIL_BYTES = 512 * 2**10
_GONE_WITHIN_S = 10.0
_LEADER_FOLLOWS_S = 60.0
"""Seconds after the death of an engine's child within which its leader has ended too."""

_EVENT = re.compile(r"^(?P<at>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(?P<ms>\d{3}) \w+ (?P<what>.*)$")
_SPAWNED = re.compile(r"spawned: '(?P<name>[^']+)' with pid (?P<pid>\d+)")
_EXITED = re.compile(r"exited: (?P<name>\S+) \((?P<how>.*)\)")


@dataclass(frozen=True, slots=True)
class Start:
    """A start of a supervised process: when (seconds since 1970) and as which process."""

    at_s: float
    pid: int


@dataclass(frozen=True, slots=True)
class End:
    """An end of a supervised process: when (seconds since 1970) and how, in the supervisor's words."""

    at_s: float
    how: str


def parse_starts(text: str, name: str) -> list[Start]:
    """Every start of a process, from the supervisor's log; its times are local."""
    return [Start(at_s, int(match["pid"])) for at_s, what in _events(text) if (match := _SPAWNED.match(what)) and match["name"] == name]


def parse_ends(text: str, name: str) -> list[End]:
    """Every end of a process that nobody asked for, from the supervisor's log."""
    return [End(at_s, match["how"]) for at_s, what in _events(text) if (match := _EXITED.match(what)) and match["name"] == name]


def cause_of(
    name: str, log: str, starts: Sequence[Start], ends: Sequence[End], reaper: str, kills: Sequence[tuple[float, Kill]] | None, counted: int | None
) -> Diagnosis:
    """What ended a replica last. Pure.

    Args:
        name: The replica.
        log: The end of its log.
        starts: In order.
        ends: Those that nobody asked for, in order.
        reaper: The end of the reaper's log.
        kills: Whom the kernel killed, each with its time in seconds since 1970; None when its log may not be read.
        counted: How often it killed in our control group; None when nothing counts it.
    """
    if not ends:
        return Diagnosis(Cause.NONE)
    last = ends[-1]
    told = f"supervisor: {last.how}"
    pids = {start.pid for start in starts}
    for at_s, kill in reversed(kills or ()):
        if kill.pid in pids or (-_LEADER_FOLLOWS_S <= at_s - last.at_s <= 5 and re.match(r"VLLM|python", kill.name)):
            where = "its control group" if kill.in_group else "the machine"
            return Diagnosis(Cause.KERNEL, (f"kernel: killed {kill.name} (pid {kill.pid}), {where} was out of memory", told))
    if found := said_in(log):
        return Diagnosis(found[0], (f"log: {parse_failure(found[1])[:300]}", told))
    if "SIGBUS" in last.how:
        return Diagnosis(Cause.SHARED_MEMORY, (told,))
    if "SIGKILL" in last.how:
        stalled = [line for line in reaper.splitlines() if f" {name} generates nothing" in line]
        if stalled:
            return Diagnosis(Cause.STALLED, (f"reaper: {stalled[-1]}", told))
        if counted:
            return Diagnosis(Cause.KERNEL, (f"control group: {counted} processes killed for want of memory", told))
        return Diagnosis(Cause.KILLED, (told, "kernel: its log may not be read" if kills is None else "kernel: it killed nobody of ours"))
    return Diagnosis(Cause.OTHER, (f"log: {parse_failure(log)[:300]}", told))


def diagnose(deployment: Deployment, replica: str) -> Iterator[Outcome]:
    """Find out what ended a replica last.

    Yields:
        At last an outcome with `cause`, `evidence` and `advice`.

    Raises:
        UsageError: Nothing of that name is deployed.
        PreconditionError: Nothing is deployed.
    """
    if deployment.platform.target == "kubernetes":
        yield from pod_troubles.diagnose(deployment, replica)
        return
    known_replica(deployment.layout, replica)
    yield Outcome(f"engine {replica}", Status.STARTED, "looking at logs, supervisor and kernel")
    layout, lines = deployment.layout, kernel.log()
    booted_s = time.time() - kernel.up_s()
    found = cause_of(
        replica,
        _tail(layout.log(replica)),
        starts_of(layout, replica),
        parse_ends(_supervisor_log(layout), replica),
        _tail(layout.log(REAPER)),
        None if lines is None else [(booted_s + kill.up_s, kill) for kill in kernel.parse_kills(lines)],
        kernel.kills_counted(),
    )
    facts = {"cause": found.cause.value, "evidence": list(found.evidence), "advice": found.advice}
    yield Outcome(f"engine {replica}", Status.DONE, f"{found.cause.value}; {'; '.join((*found.evidence, found.advice))}", data=facts)


def starts_of(layout: Layout, name: str) -> list[Start]:
    """Every start of a process that the supervisor's log still has, in order."""
    return parse_starts(_supervisor_log(layout), name)


def uptime_s(deployment: Deployment, replica: str) -> float:
    """Seconds since a replica's last start; 0 when it does not run. In a cluster since it serves: the pod, or what took its place.

    Raises:
        UsageError: Nothing of that name is deployed on this machine.
        PreconditionError: Nothing is deployed.
        KivaError: The cluster does not answer.
    """
    if deployment.platform.target == "kubernetes":
        return faults.uptime_s(deployment, replica)
    known_replica(deployment.layout, replica)
    process = Supervisor(deployment.layout.supervisor_socket).states().get(replica)
    return process.uptime_s if process is not None and process.alive else 0.0


def gpus_of(layout: Layout, replica: str) -> tuple[int, ...]:
    """The numbers of the GPUs that a replica computes on; empty on a machine without."""
    known_replica(layout, replica)
    visible = read_release(layout.release).processes.get(replica, {}).get("environment", {}).get("CUDA_VISIBLE_DEVICES", "")
    return tuple(int(word) for word in visible.split(",") if word.strip().isdigit())


def gpu_count(deployment: Deployment, replica: str) -> int:
    """How many GPUs a replica computes on.

    Raises:
        UsageError: There is no such replica.
        PreconditionError: Nothing is deployed.
    """
    if deployment.platform.target == "kubernetes":
        return pod_troubles.gpu_count(deployment, replica)
    return len(gpus_of(deployment.layout, replica))


def gpu_faults(layout: Layout, replica: str | None, found: Iterable[Condition]) -> list[tuple[Condition, gpu.Fault]]:
    """What is wrong with GPUs, those of a replica or all.

    A GPU that is lost has no number any more, and those after it may have moved up: it counts for every replica.

    Raises:
        UsageError: There is no such replica.
    """
    wanted = None if replica is None else gpus_of(layout, replica)
    seen = list(found)
    faults = [(one, fault) for one in seen if wanted is None or one.index in wanted or (wanted and one.index < 0) for fault in one.faults]
    for index in sorted(set(wanted or ()) - {one.index for one in seen}):
        gone = Condition(index, "", "", "", (gpu.Fault("lost", f"there is no GPU {index} any more", Remedy.REBOOT),))
        faults.append((gone, gone.faults[0]))
    return faults


def faults_now(deployment: Deployment, replica: str | None) -> list[str]:
    """What is wrong with GPUs now, those of a replica or all; empty where there are none.

    Raises:
        UsageError: There is no such replica.
        ToolError: The driver does not answer.
    """
    if deployment.platform.target == "kubernetes" and replica is not None:
        return pod_troubles.faults_now(deployment, replica)
    return [_told(one, fault) for one, fault in gpu_faults(deployment.layout, replica, gpu.conditions(kernel.log() or ()))]


def diagnose_gpus(deployment: Deployment, replica: str) -> Iterator[Outcome]:
    """Look at the GPUs of a replica.

    Yields:
        At last an outcome with `gpus`, `faults`, `remedy` (`none`, `reset`, `reboot`, `exchange`), and in a cluster the `node`.

    Raises:
        UsageError: There is no such replica.
        PreconditionError: It computes on the processor.
        ToolError: The driver does not answer.
    """
    if deployment.platform.target == "kubernetes":
        yield from pod_troubles.diagnose_gpus(deployment, replica)
        return
    numbers = gpus_of(deployment.layout, replica)
    if not numbers:
        raise PreconditionError(f"the replica '{replica}' uses no GPU", "kivactl runbook engine-out-of-memory")
    found = gpu_faults(deployment.layout, replica, gpu.conditions(kernel.log() or ()))
    remedy = max((fault.remedy for _, fault in found), key=lambda one: one.weight, default=Remedy.NONE)
    lines = [_told(one, fault) for one, fault in found]
    facts = {"gpus": ", ".join(map(str, numbers)), "faults": "; ".join(lines) or "none", "remedy": remedy.value, "node": ""}
    yield Outcome(f"GPUs of {replica}", Status.DONE, f"{'; '.join(lines) or 'well'}; remedy: {remedy.value}", data=facts)


def kill(deployment: Deployment) -> Iterator[Outcome]:
    """End everything of the platform at once: requests are cut off, nothing is waited for. Keys, tokens and records stay.

    Raises:
        NotReadyError: A process does not end, as one does that waits for a broken disk.
    """
    if deployment.platform.target == "kubernetes":
        from kivactl.flows import cluster

        yield from cluster.target_of(deployment).kill()
        return
    layout, clock = deployment.layout, deployment.clock
    mark = (STATE_VARIABLE, str(layout.state))
    started_s = clock.now_s()
    yield Outcome("platform", Status.STARTED, "ending everything")
    segments = leftovers.segments_of(leftovers.marked(*mark))
    # The supervisor first: it would start anew what ends before it.
    with suppress(OSError, ValueError, ProcessLookupError):
        pid = int((layout.run / "supervisor.pid").read_text())
        if pid in leftovers.marked(*mark):
            os.kill(pid, signal.SIGKILL)
    ended: set[int] = set()
    for elapsed_s in clock.ticks(_GONE_WITHIN_S, every_s=0.05):
        left = leftovers.marked(*mark)
        if not left:
            break
        if elapsed_s >= _GONE_WITHIN_S:
            raise NotReadyError(f"processes do not end: {', '.join(map(str, left))}", "restart the machine")
        for pid in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        ended.update(left)
    for segment in segments:
        segment.unlink(missing_ok=True)
    shutil.rmtree(layout.run, ignore_errors=True)
    yield Outcome("platform", Status.DONE, f"{len(ended)} processes ended", clock.now_s() - started_s, {"processes": len(ended)})


def _told(one: Condition, fault: gpu.Fault) -> str:
    name = f"GPU {one.index}" if one.index >= 0 else "a lost GPU"
    return f"{name}{f' ({one.bus})' if one.bus else ''}: {fault.message}"


def _events(text: str) -> Iterator[tuple[float, str]]:
    for line in text.splitlines():
        match = _EVENT.match(line)
        if match:
            yield datetime.fromisoformat(match["at"]).astimezone().timestamp() + int(match["ms"]) / 1000, match["what"]


def _supervisor_log(layout: Layout) -> str:
    path = layout.log("supervisor")
    return "".join(_tail(one) for one in (path.with_name(f"{path.name}.1"), path))


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""

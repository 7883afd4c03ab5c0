"""Replicas restarted in turn, taken out and brought back, without losing a request. Each can be done again after it was cut off anywhere.

A replica in maintenance is stopped and stays so, whatever is deployed, started or crashes, until it is brought back: the
record says it before anything happens to the replica, and forgets it when the replica has generated a token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from difflib import get_close_matches

from kivactl.errors import PreconditionError
from kivactl.plan import Outcome, Status
from kivactl.targets.desired import process_from
from kivactl.targets.release import Release
from kivactl.targets.replicas import Replicas
from kivactl.tools.supervisor import Supervisor


def restart(replicas: Replicas, names: Sequence[str]) -> Iterator[Outcome]:
    """Start replicas anew as they were deployed, one after the other; those in maintenance are left as they are.

    Raises:
        PreconditionError: The platform does not run, or there is no such replica.
        ToolError: A replica dies at its start; the others go on.
        NotReadyError: A replica generates no token within its budget.
    """
    release = replicas.release
    supervisor = _running(replicas)
    for name in names:
        model = model_of(release, name)
        if name in release.maintenance:
            yield Outcome(f"engine {name}", Status.SKIPPED, "in maintenance")
            continue
        entry = release.processes[name]
        yield from replicas.replace(supervisor, model, process_from(entry), entry)


def take_out(replicas: Replicas, names: Sequence[str]) -> Iterator[Outcome]:
    """Let replicas finish their requests and stop them; they stay stopped until they are brought back.

    Raises:
        PreconditionError: There is no such replica.
    """
    release, supervisor = replicas.release, Supervisor(replicas.layout.supervisor_socket)
    models = {name: model_of(release, name) for name in names}
    runs = supervisor.alive()
    for name, model in models.items():
        step = f"engine {name}"
        yield Outcome(step, Status.STARTED, "draining")
        release.maintenance.setdefault(name, datetime.now(UTC).isoformat(timespec="seconds"))
        replicas.record()
        if runs:
            yield from replicas.drain(step, model, name, process_from(release.processes[name]).stop_within_s)
            supervisor.stop(name)
        yield Outcome(step, Status.DONE, "in maintenance")


def bring_back(replicas: Replicas, names: Sequence[str]) -> Iterator[Outcome]:
    """Start replicas that were taken out, and give them requests again; others are left as they are.

    Raises:
        PreconditionError: There is no such replica.
        ToolError: A replica dies at its start; it stays in maintenance.
        NotReadyError: A replica generates no token within its budget; it stays in maintenance.
    """
    release, supervisor = replicas.release, Supervisor(replicas.layout.supervisor_socket)
    models = {name: model_of(release, name) for name in names}
    runs = supervisor.alive()
    out = [name for name in names if name in release.maintenance]
    for name in [name for name in names if name not in out]:
        yield Outcome(f"engine {name}", Status.SKIPPED, "not in maintenance")
    if runs:
        for name in out:
            yield Outcome(f"engine {name}", Status.STARTED, "starting")
            state = supervisor.states().get(name)
            if state is None or not state.alive:
                replicas.exchange(supervisor, process_from(release.processes[name]))
        yield from replicas.until_ready(supervisor, [process_from(release.processes[name]) for name in out])
    for name in out:
        del release.maintenance[name]
        replicas.record()
        replicas.tell_gateway(models[name])
    for name in names if runs else ():
        # Also those that a call before this one brought back and was cut off.
        yield from replicas.until_routed(f"engine {name}", name)
    for name in out:
        yield Outcome(f"engine {name}", Status.DONE, "back" if runs else "starts with the platform")


def model_of(release: Release, replica: str) -> str:
    """The model that a deployed replica serves.

    Raises:
        PreconditionError: No such replica is deployed.
    """
    for model, names in release.replicas.items():
        if replica in names and replica in release.processes:
            return model
    known = [name for names in release.replicas.values() for name in names]
    near = get_close_matches(replica, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"deployed are: {', '.join(known)}" if known else "kivactl deploy"
    raise PreconditionError(f"no replica named '{replica}' is deployed", hint)


def _running(replicas: Replicas) -> Supervisor:
    supervisor = Supervisor(replicas.layout.supervisor_socket)
    if not supervisor.alive():
        raise PreconditionError("the platform does not run", "kivactl runbook start")
    return supervisor

"""How a platform is, one fact at a time: what checks of its state and a handover ask for. Reads only."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from kivactl.errors import KivaError, PreconditionError
from kivactl.flows.deployment import Deployment
from kivactl.flows.doctor import examine
from kivactl.flows.findings import State as Needed
from kivactl.flows.tokens import State, listing
from kivactl.plan import Outcome, Status
from kivactl.spec.quantities import format_duration
from kivactl.stack.layout import Layout
from kivactl.stack.metering import SQLITE, Orders, read_orders
from kivactl.targets.register import read_register
from kivactl.targets.release import read_release
from kivactl.targets.status import Health, status_of
from kivactl.targets.status import Status as PlatformStatus
from kivactl.tools import machine
from kivactl.usage.asked import counted_in, database_of, failures_since, faults_in
from kivactl.usage.database import Database
from kivactl.usage.ledger import open_ledger


def status_now(deployment: Deployment) -> PlatformStatus:
    """How the platform is, wherever it runs.

    Raises:
        PreconditionError: The record of what is deployed is unreadable.
        KivaError: The cluster does not answer.
    """
    if _on_cluster(deployment):
        from kivactl.flows import cluster

        return cluster.status_of(deployment)
    return status_of(deployment.layout, deployment.platform.name)


def faults_of_components(deployment: Deployment) -> list[str]:
    """What does not serve, with the reason; empty when all does.

    Raises:
        PreconditionError: The record of what is deployed is unreadable.
    """
    status = status_now(deployment)
    if status.health is Health.ABSENT:
        return ["nothing is deployed"]
    asleep = {model.name for model in deployment.platform.models if model.kubernetes.autoscale is not None and model.kubernetes.autoscale.min == 0}
    faulty = [component for component in status.components if component.health is not Health.SERVING]
    if status.health is not Health.STOPPED:
        faulty = [one for one in faulty if one.health is not Health.STOPPED or one.model not in asleep]  # it wakes when it is asked
    return [f"{component.name}: {component.health}{f' ({component.reason})' if component.reason else ''}" for component in faulty]


def told(deployment: Deployment) -> Iterator[Outcome]:
    """How each component is, as outcomes.

    Raises:
        PreconditionError: The record of what is deployed is unreadable.
    """
    status = status_now(deployment)
    for component in status.components:
        facts = {"health": component.health.value, "uptime_s": component.uptime_s, "active": component.active}
        since = f", up for {format_duration(component.uptime_s)}" if component.uptime_s >= 1 else ""
        reason = f": {component.reason}" if component.reason else ""
        yield Outcome(component.name, Status.DONE, f"{component.health}{since}{reason}", data=facts)
    yield Outcome("platform", Status.DONE, f"{status.health}{f' at {status.endpoint}' if status.endpoint else ''}", data={"health": status.health.value})


def is_as_written(deployment: Deployment) -> bool:
    """Whether the last deploy finished, and was of the spec as it is now.

    Raises:
        PreconditionError: The record of what is deployed is unreadable.
    """
    if _on_cluster(deployment):
        from kivactl.flows import cluster

        return cluster.is_deployed(deployment)
    return read_release(deployment.layout.release).spec_digest == deployment.loaded.digest


def doctor_findings(deployment: Deployment, *, warnings: bool) -> list[str]:
    """What the doctor misses, with the remedy.

    Args:
        deployment: The platform.
        warnings: Whether what does not keep a platform from running counts too.
    """
    wanted = {Needed.MISSING, Needed.WARNING} if warnings else {Needed.MISSING}
    findings = [finding for finding in examine(deployment.platform, deployment.layout) if finding.state in wanted]
    return [f"{finding.name}: {finding.found}{f'; {finding.remedy}' if finding.remedy else ''}" for finding in findings]


def disk_of(deployment: Deployment, name: str) -> Path | None:
    """A path on one of the platform's disks: `state`, `cache` or `backup`; None when it is not of this machine."""
    layout = deployment.layout
    match name:
        case "state":
            return layout.state
        case "cache":
            return layout.cache
        case _:
            repository = deployment.platform.backup.repository
            elsewhere = repository.partition(":")[0] in {"s3", "sftp"} and ":" in repository
            return None if elsewhere else deployment.loaded.folder / Path(repository).expanduser()


def disk_free_bytes(deployment: Deployment, name: str) -> int | None:
    """What is free on a disk of the platform, or with `all` on the fullest one; None when it is not of this machine.

    Of a platform in a cluster this machine has the keys and records and perhaps the backups, but no models.
    """
    every = ("state", "backup") if _on_cluster(deployment) else ("state", "cache", "backup")
    disks = [disk_of(deployment, one) for one in (every if name == "all" else (name,))]
    return min((machine.disk_free(disk) for disk in disks if disk is not None), default=None)


def faults_of_records(deployment: Deployment) -> list[str]:
    """What of the records is damaged: the register of tokens, what is deployed, the ledger.

    A ledger in a file is read as a whole; for one on a server its own tools are to be asked, here it only has to answer.
    """
    layout, faults = deployment.layout, []
    for read in (lambda: read_register(layout), lambda: read_release(layout.release), lambda: _check_ledger(deployment)):
        try:
            read()
        except KivaError as error:
            faults.append(error.message)
    return faults


def error_ratio(deployment: Deployment, within_s: float, now_s: float | None = None) -> float:
    """Share of the requests that the platform failed (status 500 and above), of those the ledger has.

    Args:
        deployment: The platform.
        within_s: Only requests that ended since so many seconds.
        now_s: Seconds since 1970; the present when absent.

    Returns:
        0..1; 0 when there were no requests.

    Raises:
        PreconditionError: There is no ledger yet.
        LedgerUnavailable: It cannot be read just now.
    """
    since_ms = round(((time.time() if now_s is None else now_s) - within_s) * 1000)
    if _on_cluster(deployment):
        from kivactl.flows import ledger

        requests, failed = ledger.failures_since(deployment, since_ms)
    else:
        with closing(_database(deployment.layout)) as database:
            requests, failed = failures_since(database, since_ms)
    return failed / requests if requests else 0.0


def counted_requests(deployment: Deployment) -> int:
    """How many requests the ledger has counted, of all days; those whose entries are gone count too.

    Raises:
        PreconditionError: There is no ledger yet.
        LedgerUnavailable: It cannot be read just now.
    """
    if _on_cluster(deployment):
        from kivactl.flows import ledger

        return ledger.counted_requests(deployment)
    with closing(_database(deployment.layout)) as database:
        return counted_in(database)


def ending_tokens(deployment: Deployment, within_s: float, now: datetime | None = None) -> list[str]:
    """Tokens that are valid now and end soon: tenant, name and end, the first to end first.

    Raises:
        PreconditionError: The register is damaged.
    """
    moment = now or datetime.now(UTC)
    soon = [
        (token.ends_at, token.entry)
        for token in listing(deployment, now=moment)
        if token.state is State.VALID and token.ends_at is not None and token.ends_at - moment < timedelta(seconds=within_s)
    ]
    return [f"'{entry.name}' of '{entry.tenant}' ends on {end:%Y-%m-%d}" for end, entry in sorted(soon, key=lambda one: one[0])]


def _check_ledger(deployment: Deployment) -> None:
    if _on_cluster(deployment):
        from kivactl.flows import ledger

        ledger.check(deployment)
        return
    orders = _orders(deployment.layout)
    open_ledger(orders.ledger, orders.platform, read_only=True).close()
    with closing(_database(deployment.layout)) as database:
        if faults := faults_in(database):
            raise PreconditionError(f"the ledger {orders.ledger.removeprefix(SQLITE)} is damaged: {'; '.join(faults)}")


def _database(layout: Layout) -> Database:
    orders = _orders(layout)
    return database_of(orders.ledger, orders.platform)


def _on_cluster(deployment: Deployment) -> bool:
    return deployment.platform.target == "kubernetes"


def _orders(layout: Layout) -> Orders:
    try:
        return read_orders(layout.meter_orders)
    except (OSError, ValueError) as error:
        raise PreconditionError(f"the meter's orders {layout.meter_orders} cannot be read: {error}", "kivactl deploy") from None

"""The ledger of a platform in a cluster: on a PostgreSQL server it is asked directly, in the gateway's volume by the meter beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from kivactl.errors import CheckError, KivaError, NotReadyError, PreconditionError, ToolError
from kivactl.flows.cluster import target_of
from kivactl.flows.deployment import Deployment
from kivactl.stack.kubernetes.gateway_files import METER_ORDERS
from kivactl.stack.kubernetes.names import gateway_release
from kivactl.stack.metering import SQLITE, Orders, orders_from
from kivactl.targets.kubernetes.status import COMPONENT, PLATFORM
from kivactl.tools.kube import Cluster
from kivactl.usage import asked, pieces, taking
from kivactl.usage.asked import Book
from kivactl.usage.ledger import open_ledger
from kivactl.usage.refilling import Refilled

Json = dict[str, Any]

_METER = "meter"
"""The container of the gateway's pod that can read the ledger's volume."""

_ASKED_WITHIN_S = 120.0
_COPIED_WITHIN_S = 1800.0
_ABSENT_MODULE = "No module named"


def orders_of(deployment: Deployment) -> Orders:
    """The orders of the deployed meter.

    Raises:
        PreconditionError: Nothing is deployed, or they cannot be read.
        KivaError: The cluster does not answer.
    """
    cluster, name = target_of(deployment).cluster, f"{gateway_release(deployment.platform)}-meter"
    found = cluster.get("ConfigMap", name)
    if found is None:
        raise PreconditionError(f"nothing has been metered for '{deployment.platform.name}' yet: no meter is deployed", "kivactl deploy")
    try:
        return orders_from(json.loads((found.get("data") or {}).get(METER_ORDERS.name, "")))
    except ValueError as error:
        raise PreconditionError(f"the meter's orders in the ConfigMap {name} cannot be read: {error}", "kivactl deploy") from None


def on_server(orders: Orders) -> bool:
    """Whether the ledger lies on a database server, which this machine asks itself."""
    return not orders.ledger.startswith(SQLITE)


@contextmanager
def opened(deployment: Deployment, month: str | None) -> Iterator[tuple[Book, Orders]]:
    """What a report of a month (or of all months) reads, with the deployed orders.

    Raises:
        PreconditionError: There is no ledger yet, or nobody is there who can read it.
        LedgerUnavailable: It cannot be read just now.
    """
    orders = orders_of(deployment)
    if on_server(orders):
        with closing(open_ledger(orders.ledger, orders.platform, read_only=True)) as ledger:
            yield ledger, orders
        return
    yield asked.parse_book(_told(deployment, {"book": month})), orders


def failures_since(deployment: Deployment, since_ms: int) -> tuple[int, int]:
    """How many requests have ended since a moment (milliseconds since 1970), and how many of them the platform failed.

    Raises:
        KivaError: As `opened`.
    """
    told = _asked(deployment, {"failures_since_ms": since_ms})
    return int(told["requests"]), int(told["failed"])


def counted_requests(deployment: Deployment) -> int:
    """How many requests the ledger has counted, of all days.

    Raises:
        KivaError: As `opened`.
    """
    return int(_asked(deployment, {"counted": True})["counted"])


def check(deployment: Deployment) -> None:
    """Read a ledger in a file as a whole; one on a server only has to answer.

    Raises:
        KivaError: As `opened`; or it is damaged.
    """
    faults = _asked(deployment, {"faults": True})["faults"]
    if faults:
        raise PreconditionError(f"the ledger of '{deployment.platform.name}' is damaged: {'; '.join(map(str, faults))}", "kivactl backup list")


def copy(deployment: Deployment, into: Path) -> bool:
    """Fetch a copy of the ledger in the gateway's volume, as it is at one moment; the meter goes on writing.

    Args:
        deployment: The platform.
        into: The file, which is replaced in one step.

    Returns:
        False when there is none yet: nothing was ever deployed.

    Raises:
        PreconditionError: Nobody is there who can read it, or there is no room beside it.
        CheckError: What came is not what was sent.
        KivaError: The cluster does not answer.
    """
    target = target_of(deployment)
    if target.record().last is None and target.cluster.get("ConfigMap", f"{gateway_release(deployment.platform)}-meter") is None:
        return False
    pod = _meter(deployment, target.cluster)
    made = _answered(target.cluster, pod, "handing", ["make", str(METER_ORDERS)], _COPIED_WITHIN_S)
    try:
        name, size = str(made["name"]), int(made["bytes"])
        digest, beside = hashlib.sha256(), into.with_name(f".{into.name}.fetched")
        try:
            with beside.open("wb") as file:
                beside.chmod(0o600)
                while file.tell() < size:
                    text = _run(target.cluster, pod, "handing", ["read", str(METER_ORDERS), name, str(file.tell())], _ASKED_WITHIN_S)
                    piece = _piece(text)
                    digest.update(piece)
                    file.write(piece)
            if (beside.stat().st_size, digest.hexdigest()) != (size, str(made["sha256"])):
                raise CheckError(f"the copy of the ledger from pod {pod} came damaged", "make the backup again: kivactl runbook backup")
            beside.replace(into)
        finally:
            beside.unlink(missing_ok=True)
    finally:
        with suppress(KivaError):  # the next one clears it away
            _run(target.cluster, pod, "handing", ["drop", str(METER_ORDERS), str(made.get("name"))], _ASKED_WITHIN_S)
    return True


def put(deployment: Deployment, source: Path, run: str, since_ms: int, *, replace: bool) -> Refilled:
    """Bring a copy of the ledger into the one in the gateway's volume, beside the meter, which goes on writing.

    Args:
        deployment: The platform; its gateway runs.
        source: The copy.
        run: The run that restores; a second time for the same run changes nothing.
        since_ms: When that run began, milliseconds since 1970: a ledger in which everything is from after that has none of what was.
        replace: Whether one that has something is replaced.

    Raises:
        PreconditionError: Nobody is there who can write it, or there is no room beside it.
        CheckError: What came is not what was sent.
        KivaError: The cluster does not answer.
    """
    cluster = target_of(deployment).cluster
    pod, offset = _meter(deployment, cluster), 0
    with source.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        name = taking.name_of(sha256)
        file.seek(0)
        while piece := file.read(taking.PIECE_BYTES):
            text = pieces.piece_text(piece)
            _answered(cluster, pod, "taking", ["write", str(METER_ORDERS), name, str(offset), str(len(text))], _ASKED_WITHIN_S, text)
            offset += len(piece)
    words = ["fill", str(METER_ORDERS), name, sha256, run, str(since_ms), *(["replace"] if replace else [])]
    return Refilled(_answered(cluster, pod, "taking", words, _COPIED_WITHIN_S)["did"])


def put_back(deployment: Deployment, run: str) -> bool:
    """Give the ledger in the gateway's volume back what `put` replaced; whether it had replaced anything.

    Raises:
        KivaError: As `put`.
    """
    cluster = target_of(deployment).cluster
    return bool(_answered(cluster, _meter(deployment, cluster), "taking", ["back", str(METER_ORDERS), run], _COPIED_WITHIN_S)["did"])


def forget_replaced(deployment: Deployment, run: str) -> None:
    """Remove the copy of what `put` replaced.

    Raises:
        KivaError: As `put`.
    """
    cluster = target_of(deployment).cluster
    _answered(cluster, _meter(deployment, cluster), "taking", ["forget", str(METER_ORDERS), run], _ASKED_WITHIN_S)


def _asked(deployment: Deployment, question: Json) -> Json:
    orders = orders_of(deployment)
    return asked.answer(orders, question) if on_server(orders) else _told(deployment, question)


def _told(deployment: Deployment, question: Json) -> Json:
    cluster = target_of(deployment).cluster
    return _answered(cluster, _meter(deployment, cluster), "asked", [str(METER_ORDERS), json.dumps(question)], _ASKED_WITHIN_S)


def _meter(deployment: Deployment, cluster: Cluster) -> str:
    """A pod whose meter runs."""
    pods = cluster.list("Pod", f"{PLATFORM}={deployment.platform.name},{COMPONENT}=gateway").items
    for pod in sorted(pods, key=lambda one: bool(one["metadata"].get("deletionTimestamp"))):
        status = pod.get("status") or {}
        containers = (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ()))
        if any(one.get("name") == _METER and "running" in (one.get("state") or {}) for one in containers):
            return str(pod["metadata"]["name"])
    raise NotReadyError(
        "the ledger lies in the volume of the gateway, and no meter runs there that could read it",
        "kivactl runbook start; a ledger on PostgreSQL (`usage.ledger`) can be read at any time",
    )


def _answered(cluster: Cluster, pod: str, module: str, arguments: list[str], timeout_s: float, stdin: str | None = None) -> Json:
    text = _run(cluster, pod, module, arguments, timeout_s, stdin)
    try:
        data = json.loads(text)
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise ToolError(f"the meter in pod {pod} answered something else than what it was asked for", f"kivactl logs {pod}")
    return data


def _run(cluster: Cluster, pod: str, module: str, arguments: list[str], timeout_s: float, stdin: str | None = None) -> str:
    ran = cluster.run_in(pod, _METER, ["python3", "-m", f"kivactl.usage.{module}", *arguments], stdin=stdin, timeout_s=timeout_s)
    if ran.code == 0:
        return ran.stdout
    said = next((line for line in reversed(ran.stderr.splitlines()) if line.strip()), f"exit code {ran.code}")
    if ran.code == asked.REFUSED:
        raise PreconditionError(said, f"kivactl logs {pod}")
    if _ABSENT_MODULE in said:
        raise PreconditionError(
            f"the meter in pod {pod} is of an older kivactl, which cannot be asked for its ledger", "deploy newer images: `kubernetes.images` in kiva.yaml"
        )
    raise ToolError(f"the meter in pod {pod} could not be asked for its ledger: {said}", f"kivactl logs {pod}")


def _piece(text: str) -> bytes:
    try:
        piece = pieces.piece_of(text)
    except ValueError:
        piece = b""
    if not piece:
        raise CheckError("the copy of the ledger broke off", "make the backup again: kivactl runbook backup")
    return piece

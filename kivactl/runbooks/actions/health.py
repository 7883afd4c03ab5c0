"""How the platform is: one probe for each question of a check or a handover. Nothing here changes anything."""

from __future__ import annotations

from collections.abc import Mapping

from kivactl.flows import health, operate, reclaim
from kivactl.runbooks.actions.action import ANYWHERE, CLUSTER, Action, Kind, NoParams, Params, Probe, Site
from kivactl.runbooks.record import Record, State
from kivactl.spec.fields import PositiveDuration
from kivactl.tools import machine


class WithinParams(Params):
    """How far to look, back or ahead."""

    within: PositiveDuration


class DoctorParams(Params):
    """Whether what does not keep a platform from running counts too."""

    warnings: bool = False


def _unfinished(site: Site, _: NoParams) -> list[str]:
    from kivactl.runbooks import runs  # which knows of actions itself

    newest: dict[str, Record] = {}
    for record in runs.history(site.deployment.layout):
        # What a later run of the same runbook took up again does not count: it could never be cleared away.
        newest.setdefault(record.runbook, record)
    return [record.run for record in newest.values() if record.state is not State.DONE and record.run != site.run]


def _answers(site: Site, _: NoParams) -> bool:
    for _outcome in operate.answer(site.deployment, "Hello", 1):
        pass  # an error says why it does not
    return True


def _drift(site: Site, _: NoParams) -> list[str]:
    from kivactl.flows import cluster  # whose target one machine does not need

    return [f"{one.subject}{f' by {one.by}' if one.by else ''}" for one in cluster.drift(site.deployment)]


ACTIONS: Mapping[str, Action] = {
    "platform.status": Action(
        NoParams, lambda site, _: health.told(site.deployment), "Tells how each component is; never fails because one is not well.", targets=ANYWHERE
    ),
}
PROBES: Mapping[str, Probe] = {
    "cluster.drift": Probe(NoParams, _drift, Kind.LIST, "What of a platform in a cluster somebody else changed since it was deployed.", targets=CLUSTER),
    "components.faults": Probe(
        NoParams,
        lambda site, _: health.faults_of_components(site.deployment),
        Kind.LIST,
        "What of gateway, meter and replicas does not serve.",
        targets=ANYWHERE,
    ),
    "doctor.findings": Probe(
        DoctorParams,
        lambda site, params: health.doctor_findings(site.deployment, warnings=params.warnings),
        Kind.LIST,
        "What the doctor misses on this machine.",
        targets=ANYWHERE,
    ),
    "memory.available": Probe(NoParams, lambda _site, _: machine.facts().memory_available_bytes, Kind.BYTES, "Memory that can be had without swapping."),
    "meter.behind": Probe(NoParams, lambda site, _: reclaim.unread_bytes(site.deployment.layout), Kind.BYTES, "What is logged and not yet in the ledger."),
    "platform.answers": Probe(NoParams, _answers, Kind.FLAG, "Whether a token can be generated through the gateway, as a client does it.", targets=ANYWHERE),
    "platform.health": Probe(
        NoParams,
        lambda site, _: health.status_now(site.deployment).health.value,
        Kind.TEXT,
        "How the platform is, as `kivactl status` says.",
        targets=ANYWHERE,
    ),
    "records.faults": Probe(
        NoParams,
        lambda site, _: health.faults_of_records(site.deployment),
        Kind.LIST,
        "Damage in ledger, register of tokens and the record of what is deployed.",
        targets=ANYWHERE,
    ),
    "requests.error-ratio": Probe(
        WithinParams,
        lambda site, params: health.error_ratio(site.deployment, params.within),
        Kind.NUMBER,
        "Share of the requests of late that the platform failed.",
        targets=ANYWHERE,
    ),
    "runs.unfinished": Probe(NoParams, _unfinished, Kind.LIST, "The last run of each runbook, if it waits, was interrupted or failed.", targets=ANYWHERE),
    "spec.deployed": Probe(
        NoParams, lambda site, _: health.is_as_written(site.deployment), Kind.FLAG, "Whether what is deployed is what the spec says.", targets=ANYWHERE
    ),
    "tokens.ending": Probe(
        WithinParams, lambda site, params: health.ending_tokens(site.deployment, params.within), Kind.LIST, "Valid tokens that end soon.", targets=ANYWHERE
    ),
}

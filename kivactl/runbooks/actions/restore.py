"""Taking backups out again: fetch, examine, try in an empty place, put back; and the disaster that a drill makes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum

from pydantic import AwareDatetime, Field

from kivactl.errors import PreconditionError
from kivactl.flows import backup, health
from kivactl.flows.restore import cluster, examination, fetching, losing, putting, rehearsal
from kivactl.flows.restore import trial as trying
from kivactl.flows.restore.places import fetched_of
from kivactl.flows.restore.trial import Engines
from kivactl.plan import Outcome, Status
from kivactl.runbooks.actions.action import ANYWHERE, CLUSTER, Action, Kind, NoParams, Params, Probe, Site
from kivactl.runbooks.moments import Entry, begin_of, elapsed_s, time_of
from kivactl.spec.quantities import format_duration, parse_duration
from kivactl.tools.restic import Restic


class Place(StrEnum):
    """What a backup is fetched for."""

    RESTORE = "restore"
    TRIAL = "trial"


class StoreParams(Params):
    """Where the backups are, and who may read them; as the environment or the spec says when absent."""

    repository: str | None = Field(default=None, description="A folder, `s3:...` or `sftp:...`.")
    password_file: str | None = Field(default=None, description="File with the passphrase.")
    credentials: str | None = Field(default=None, description="File with the storage's credentials.")


class FetchParams(StoreParams):
    """Which backup, and what for."""

    snapshot: str | None = Field(default=None, description="Beginning of an id, or `latest`.")
    platform: str | None = Field(default=None, description="Whose backup it has to be; the spec's platform anyway.")
    place: Place = Field(default=Place.RESTORE, description="To put it back (`restore`), or to try it (`trial`).")


class PlaceParams(Params):
    """Which of the fetched backups."""

    place: Place = Place.RESTORE


class TryParams(Params):
    """How far a trial goes."""

    engines: Engines = Field(default=Engines.AUTO, description="Whether engines are started too; by itself where they fit beside what runs, not on GPUs.")


class MarkParams(StoreParams):
    """Which backup was tried, and how far."""

    snapshot: str = Field(min_length=1)
    made_at: str
    started: str


class ReplaceParams(Params):
    """Whether a running platform may be replaced."""

    replace: bool = False


class LedgerParams(Params):
    """Whether a ledger that is there may be replaced."""

    replace: bool = Field(default=False, description="Also one that has requests from before; without, it stays.")


class SnapshotParams(Params):
    """Which backup is put back: the one that was fetched."""

    snapshot: str = Field(min_length=1)


class MeasureParams(Params):
    """From when recovery counts, and what was restored."""

    made_at: AwareDatetime
    since: str | None = Field(default=None, description="The step that broke the platform; the begin of the run when absent.")
    starting: str | None = Field(default=None, description="What is added for pods that were not started: what they took last, or `unknown`: then no RTO.")


def _store(site: Site, params: StoreParams) -> Restic:
    return backup.open_store(site.deployment, params.repository, params.password_file, params.credentials)


def _fetch(site: Site, params: FetchParams) -> Iterator[Outcome]:
    deployment, name = site.deployment, site.deployment.platform.name
    if params.platform not in {None, name}:
        raise PreconditionError(f"the platform '{params.platform}' was asked for, but the spec here is of '{name}'", "run it in a folder without a kiva.yaml")
    into = fetched_of(deployment.layout, params.place)
    return fetching.fetch(_store(site, params), deployment.layout, into, platform=name, named=params.snapshot)


def _examine(site: Site, params: PlaceParams) -> Iterator[Outcome]:
    return examination.examine(site.deployment, fetched_of(site.deployment.layout, params.place))


def _try(site: Site, params: TryParams) -> Iterator[Outcome]:
    return trying.trial(site.deployment, fetched_of(site.deployment.layout, Place.TRIAL), params.engines)


def _mark(site: Site, params: MarkParams) -> Iterator[Outcome]:
    marked = fetching.mark(_store(site, params), params.snapshot)
    tried_at = datetime.now(UTC).isoformat(timespec="seconds")
    fetching.remember(site.deployment.layout, marked, {"made_at": params.made_at, "tried_at": tried_at, "started": params.started, "run": site.run})
    yield Outcome("backup", Status.DONE, f"{marked[:8]} counts as good", data={"result": {"snapshot": marked}})


def _put_ledger(site: Site, params: LedgerParams) -> Iterator[Outcome]:
    return putting.put_ledger(site.deployment, site.run, time_of(_begun(site, None)), replace=params.replace)


def _clean(site: Site, _: NoParams) -> Iterator[Outcome]:
    return (rehearsal.clean if site.deployment.platform.target == "kubernetes" else trying.clean)(site.deployment)


def _measure(site: Site, params: MeasureParams) -> Iterator[Outcome]:
    from kivactl.runbooks import chain

    began = _begun(site, params.since)
    rto_s, rpo_s = elapsed_s(began, chain.now_fields()), max(0.0, (time_of(began) - params.made_at).total_seconds())
    measured = {"rto": round(rto_s, 3), "rpo": round(rpo_s, 3)}
    if params.starting == rehearsal.UNKNOWN:
        del measured["rto"]
        said = f"tried after {format_duration(rto_s)}; how long its pods take to start is not known, and with that no RTO"
    elif params.starting is not None:
        measured["rto"] = round(rto_s + parse_duration(params.starting), 3)
        said = f"tried after {format_duration(rto_s)}; with the {params.starting} that its pods took when they started last, that makes "
        said += f"{format_duration(measured['rto'])} (RTO, not measured to its end)"
    else:
        said = f"answers again after {format_duration(rto_s)} (RTO)"
    yield Outcome("recovery", Status.DONE, f"{said}; the backup was {format_duration(rpo_s)} old (RPO)", data={"measured": measured})


def _begun(site: Site, since: str | None) -> Entry:
    from kivactl.runbooks import chain, runs  # which know of actions themselves

    began = begin_of(chain.entries_of((site.folder / runs.JOURNAL).read_bytes()), since)
    if began is None:
        raise PreconditionError(f"the step '{since}' was not done in this run: there is nothing to measure from", "begin a run without --from")
    return began


ACTIONS: Mapping[str, Action] = {
    "backup.fetch": Action(
        FetchParams,
        _fetch,
        "Reads the whole repository, and writes one backup out of it beside the state; every hash is compared.",
        results={"snapshot": "0" * 64, "made_at": "2026-01-01T12:00:00.000+00:00", "platform": "kiva", "requests": 1, "key": "4f2c"},
        targets=ANYWHERE,
    ),
    "backup.examine": Action(
        PlaceParams,
        _examine,
        "Examines a fetched backup: files, spec, keys that sign and verify, tokens, the ledger's sums; touches nothing else.",
        targets=ANYWHERE,
    ),
    "backup.try": Action(
        TryParams,
        _try,
        "Starts a platform from the fetched backup in an empty place, asks it, and takes it away again.",
        results={"started": "engines", "seconds": 1.0},
    ),
    "backup.rehearse": Action(
        NoParams,
        lambda site, _: rehearsal.rehearse(site.deployment, fetched_of(site.deployment.layout, Place.TRIAL)),
        "Renders what the fetched backup makes and tries it out on the API server, keys too; starts nothing.",
        results={"started": rehearsal.STARTED, "seconds": 1.0, "starting": "2m30s"},
        targets=CLUSTER,
    ),
    "backup.mark": Action(
        MarkParams,
        _mark,
        "Marks a backup as good: it was tried.",
        results={"snapshot": "0" * 64},
        targets=ANYWHERE,
    ),
    "backup.clean": Action(
        NoParams,
        _clean,
        "Ends and removes what a trial left.",
        targets=ANYWHERE,
    ),
    "restore.admit": Action(
        ReplaceParams,
        lambda site, params: putting.admit(site.deployment, replace=params.replace),
        "Refuses where the platform runs and may not be replaced; changes nothing.",
        targets=ANYWHERE,
    ),
    "restore.note": Action(
        ReplaceParams,
        lambda site, params: putting.note(site.deployment, site.run, replace=params.replace),
        "Notes what is deployed, for the way back; refuses where it runs and may not be replaced.",
        targets=CLUSTER,
    ),
    "restore.clear": Action(
        ReplaceParams,
        lambda site, params: putting.clear(site.deployment, site.run, replace=params.replace),
        "Stops the platform, where it runs and may be replaced.",
        destructive=True,
    ),
    "restore.as-before": Action(
        NoParams,
        lambda site, _: putting.as_before(site.deployment, site.run),
        "Starts what `restore.clear` stopped; in a cluster, brings it back to the deploy that `restore.note` noted.",
        targets=ANYWHERE,
    ),
    "restore.put-back": Action(
        SnapshotParams,
        lambda site, params: putting.put_back(site.deployment, site.run, params.snapshot),
        "Puts the fetched backup in the place of the state; the old one lies aside.",
        destructive=True,
        targets=ANYWHERE,
    ),
    "restore.take-back": Action(
        NoParams,
        lambda site, _: putting.take_back(site.deployment, site.run),
        "Puts the state in place again that was replaced.",
        targets=ANYWHERE,
    ),
    "restore.put-ledger": Action(
        LedgerParams,
        _put_ledger,
        "Brings the backup's ledger into the gateway's volume where there is none from before; one on PostgreSQL is not touched.",
        destructive=True,
        targets=CLUSTER,
    ),
    "restore.take-ledger-back": Action(
        NoParams,
        lambda site, _: cluster.take_ledger_back(site.deployment, site.run),
        "Gives the ledger in the gateway's volume back what was replaced.",
        targets=CLUSTER,
    ),
    "restore.finish": Action(
        NoParams,
        lambda site, _: putting.finish(site.deployment, site.run),
        "Removes the fetched backup and the state that was replaced.",
        targets=ANYWHERE,
    ),
    "recovery.measure": Action(MeasureParams, _measure, "Measures how long it took (RTO) and how old the backup was (RPO).", targets=ANYWHERE),
    "disaster.strike": Action(
        NoParams, lambda site, _: losing.strike(site.deployment), "Kills every process and takes all state away, for a drill.", destructive=True
    ),
    "disaster.undo": Action(NoParams, lambda site, _: losing.undo(site.deployment), "Puts the state in place again that a drill took, and starts it."),
    "disaster.forget": Action(NoParams, lambda site, _: losing.forget(site.deployment), "Removes the state that a drill took."),
}
PROBES: Mapping[str, Probe] = {
    "restore.pending": Probe(
        NoParams,
        lambda site, _: putting.pending(site.deployment, site.run),
        Kind.LIST,
        "Restores and drills of other runs that did not come to their end.",
        targets=ANYWHERE,
    ),
    "ledger.requests": Probe(
        NoParams,
        lambda site, _: health.counted_requests(site.deployment),
        Kind.NUMBER,
        "How many requests the ledger has counted, of all days.",
        targets=ANYWHERE,
    ),
}

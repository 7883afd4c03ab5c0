"""Making and keeping backups."""

from __future__ import annotations

from collections.abc import Mapping

from kivactl.flows import backup
from kivactl.flows.backup.store import folder_of, repository_of
from kivactl.runbooks.actions.action import ANYWHERE, Action, Kind, NoParams, Params, Probe, Site
from kivactl.tools import machine


class CheckParams(Params):
    """How closely to look."""

    read_data: bool = False


def _free(site: Site, _: NoParams) -> int | None:
    folder = folder_of(repository_of(site.deployment))
    there = next((one for one in (folder, *folder.parents) if one.exists()), None) if folder else None
    return machine.disk_free(there) if there else None


ACTIONS: Mapping[str, Action] = {
    "backup.make": Action(
        NoParams,
        lambda site, _: backup.make(site.deployment),
        "Backs up spec, keys, tokens, ledger, gateway and run records, encrypted and incremental.",
        results={"snapshot": "0" * 64, "made_at": "2026-01-01T12:00:00.000+00:00"},
        targets=ANYWHERE,
    ),
    "backup.prune": Action(NoParams, lambda site, _: backup.prune(site.deployment), "Removes the backups that `backup.keep` does not keep.", targets=ANYWHERE),
    "backup.check": Action(
        CheckParams,
        lambda site, params: backup.check(site.deployment, read_data=params.read_data),
        "Checks that the repository of the backups is sound.",
        targets=ANYWHERE,
    ),
}
PROBES: Mapping[str, Probe] = {
    "backup.age": Probe(NoParams, lambda site, _: backup.age_s(site.deployment), Kind.SECONDS, "Time since the newest backup.", targets=ANYWHERE),
    "backup.verified-age": Probe(
        NoParams,
        lambda site, _: backup.age_s(site.deployment, verified=True),
        Kind.SECONDS,
        "Time since the newest backup that was tried by a restore.",
        targets=ANYWHERE,
    ),
    "backup.free": Probe(NoParams, _free, Kind.BYTES, "Free room on the disk of the repository; nothing for one elsewhere.", targets=ANYWHERE),
}

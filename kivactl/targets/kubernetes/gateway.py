"""The gateway in a cluster, between two deploys: told by a further revision of its release in which nothing but files differs.

Whoever writes that release holds a lease of its own for the moment of writing, a deploy as well. So a token is revoked while a deploy of an
hour runs, and neither takes back what the other wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kivactl import __version__
from kivactl.errors import PreconditionError
from kivactl.plan import digest
from kivactl.stack.certificates import parse
from kivactl.stack.gateway import access
from kivactl.stack.gateway.files import Json
from kivactl.stack.kubernetes.parts import certificate_secret
from kivactl.stack.kubernetes.releases import ChartRelease
from kivactl.targets.kubernetes.course import fingerprint, history_label
from kivactl.targets.kubernetes.desired import ENGINE, GATEWAY
from kivactl.targets.kubernetes.gateway_parts import weights_in
from kivactl.targets.kubernetes.lock import writing
from kivactl.targets.kubernetes.manifests import parse_manifests, workloads
from kivactl.targets.kubernetes.record import Record, change_record, read_record
from kivactl.targets.kubernetes.recovery import recover
from kivactl.targets.kubernetes.seen import Deployed, deployed_releases, stored_chart
from kivactl.targets.kubernetes.takeover import Sign, running, shown_by, until_taken_over, witness_of
from kivactl.targets.kubernetes.trust import AUTHENTICATION, REVOCATION, ROUTES, changes_for, files_in, trust_in, with_files
from kivactl.targets.steering import Shares, Told
from kivactl.tools import tls
from kivactl.tools.helm import Helm
from kivactl.tools.helm_output import StoredRelease
from kivactl.tools.kube import Cluster

Wanted = Callable[[Mapping[str, Json]], dict[str, Json]]
"""The files to exchange, for those that are there; none when they are as they should be."""

_HTTPS, _METRICS = 4000, 4001
"""Ports of the chart."""


@dataclass(frozen=True, slots=True)
class ClusterGateway:
    """The gateway of a platform in a cluster.

    Attributes:
        platform: Its name.
        cluster: The cluster.
        helm: Helm, for the same.
        charts: Folder of the charts.
    """

    platform: str
    cluster: Cluster
    helm: Helm
    charts: Path

    def announce(self, jwks: Mapping[str, Any], revoked: Sequence[str], *, look: bool) -> Told:
        """Tell it keys and revoked tokens.

        Raises:
            PreconditionError: Its files are of another version, or someone else writes its release.
            NotReadyError: A pod does not take it over.
            KivaError: Helm or the cluster refuses, or does not answer.
        """
        return self._tell("other keys or revoked tokens", lambda files: changes_for(files, jwks, revoked), _trust_sign, look=look)

    def routes(self) -> Json | None:
        """The routes that it has; None when nothing is deployed."""
        deployed = self._deployed()
        return None if deployed is None else files_in(deployed[1].values).get(ROUTES)

    def route(self, routes: Json) -> Told:
        """Exchange its routes.

        Raises:
            PreconditionError: No gateway is deployed, or someone else writes its release.
            KivaError: As `announce`.
        """
        if self._deployed() is None:
            raise PreconditionError("no gateway is deployed here", "kivactl deploy")
        return self._tell("other routes", lambda files: {} if files.get(ROUTES) == routes else {ROUTES: routes}, _route_sign, look=True)

    def held_shares(self) -> Shares:
        """The shares that rollouts under way hold against the spec; every operator finds them in the cluster."""
        return {alias: dict(weights) for alias, weights in read_record(self.cluster, self.platform).shares.items()}

    def hold_shares(self, shares: Shares) -> None:
        """Replace them."""
        change_record(self.cluster, self.platform, lambda record: replace(record, shares=shares))

    def refuse_unserved(self, models: Sequence[str]) -> None:
        """Refuse to give requests to models that have no release."""
        there = {str((one.newest.values.get("model") or {}).get("name")) for one in self._releases().values() if one.chart == ENGINE and one.good}
        for model in models:
            if model not in there:
                raise PreconditionError(f"'{model}' is not deployed: it cannot answer", "kivactl deploy")

    def follow_spec(self, before: str, after: str) -> None:
        """Note that what is deployed is what the changed spec says."""

        def followed(record: Record) -> Record:
            last = record.last
            return record if last is None or last.spec != before else replace(record, deploys=(*record.deploys[:-1], replace(last, spec=after)))

        if self._deployed() is not None:
            change_record(self.cluster, self.platform, followed)

    def holds(self, certificate: bytes) -> bool:
        """Whether a certificate is in the gateway's Secret; True as well when there is none, for a deploy makes it."""
        from base64 import b64encode

        deployed = self._deployed()
        secret = None if deployed is None else self.cluster.get("Secret", _secret_name(*deployed))
        return secret is None or (secret.get("data") or {}).get("tls.crt") == b64encode(certificate).decode()

    def show(self, key: bytes, certificate: bytes, at: tuple[str, int]) -> Told:  # noqa: ARG002  (its address is the cluster's)
        """Write a certificate into the gateway's Secret, and wait until its pods show it.

        Raises:
            KivaError: The cluster refuses, or does not answer.
        """
        deployed = self._deployed()
        if deployed is None:
            return Told()
        name, values = deployed[0], deployed[1].values
        with writing(self.cluster, self.platform, "certs"):
            self.cluster.apply(certificate_secret(_secret_name(*deployed), certificate, key), force=True)
        mark = parse(certificate)[0].fingerprint
        with shown_by(self.cluster, name, _port(values, "https", _HTTPS), mark) as witness:
            return replace(until_taken_over(self.cluster, name, mark[:16], witness), changed=True)

    def shown(self, at: tuple[str, int]) -> str | None:  # noqa: ARG002  (its address is the cluster's)
        """SHA-256 of the certificate that a pod of it shows now; None when none runs."""
        deployed = self._deployed()
        pods = running(self.cluster, deployed[0]) if deployed is not None else []
        if deployed is None or not pods:
            return None
        forward = self.cluster.forward(pods[0][0], _port(deployed[1].values, "https", _HTTPS))
        try:
            return tls.shown_fingerprint("127.0.0.1", forward.port)
        finally:
            forward.close()

    def _releases(self) -> dict[str, Deployed]:
        return deployed_releases(self.cluster, self.platform)

    def _deployed(self) -> tuple[str, StoredRelease, StoredRelease] | None:
        """Name of the gateway's release, the revision that counts, and the newest one."""
        found = next(((name, one) for name, one in self._releases().items() if one.chart == GATEWAY), None)
        return None if found is None or found[1].good is None else (found[0], found[1].good, found[1].newest)

    def _tell(self, what: str, wanted: Wanted, sign: Callable[[Mapping[str, Json], Mapping[str, Json]], Sign], *, look: bool) -> Told:
        deployed = self._deployed()
        if deployed is None:
            return Told()
        name, good, newest = deployed
        # A revision that failed half-way may have written anything.
        needed = bool(wanted(files_in(good.values)) or wanted(files_in(newest.values)))
        if not needed and not look:
            return Told()
        there = files_in(good.values)
        files = {**there, **wanted(there)}
        with witness_of(self.cluster, name, sign(there, files), _port(good.values, "metrics", _METRICS), before=needed) as witness:
            if needed:
                self._write(what, wanted)
            told = until_taken_over(self.cluster, name, digest(files)[:16], witness)
        return replace(told, changed=needed)

    def _write(self, what: str, wanted: Wanted) -> None:
        """A further revision with the chart and the values of the one that counts, but for some files."""
        with writing(self.cluster, self.platform, what) as lease:
            deployed = self._deployed()
            if deployed is not None and deployed[2].state.pending:
                for _ in recover(self.cluster, self.helm, self.platform, self.cluster.clock, deployed[0]):
                    lease.check()
                deployed = self._deployed()
            if deployed is None:
                raise PreconditionError("the gateway was removed meanwhile", "kivactl deploy")
            name, good, _ = deployed
            values = with_files(good.values, wanted(files_in(good.values)))
            lease.check()
            write_with_own_chart(self.cluster, self.helm, good, values, f"{self._label(good, values)}, {what}")
            self._note(name, good.state.revision)

    def _label(self, good: StoredRelease, values: Mapping[str, Any]) -> str:
        """What the revision is made of, so that the next deploy knows it, where its chart is the one at hand."""
        before, after = (ChartRelease(good.state.name, GATEWAY, good.namespace, dict(one), 1) for one in (good.values, values))
        same = fingerprint(before, self.charts) in good.state.description
        return history_label(after, self.charts, __version__) if same else f"kivactl {__version__}"

    def _note(self, name: str, before: int) -> None:
        """The last deploy is what it was with this in it: who goes back to it goes back to this revision. Who was stopped stays stopped.

        The revision of before is dropped where no deploy needs it, for Helm keeps ten, and those of earlier deploys are the way back.
        """
        deployed = self._deployed()
        if deployed is None:
            return
        newest = deployed[1].state.revision

        def noted(record: Record) -> Record:
            last = record.last
            if last is None or last.releases.get(name) != before:
                return record
            return replace(record, deploys=(*record.deploys[:-1], replace(last, releases={**last.releases, name: newest})))

        record = change_record(self.cluster, self.platform, noted)
        if newest > before and all(before != deploy.releases.get(name) for deploy in record.deploys) and record.unfinished is None:
            self.cluster.delete("Secret", f"sh.helm.release.v1.{name}.v{before}")
        if record.stopped_at:
            for key in workloads(parse_manifests(deployed[1].manifest)):
                self.cluster.patch(key[0], key[1], {"spec": {"replicas": 0}}, subresource="scale")


def write_with_own_chart(cluster: Cluster, helm: Helm, stored: StoredRelease, values: Mapping[str, Any], description: str) -> str:
    """Write a release anew with the chart of one of its revisions, whatever charts are at hand; gives the manifests.

    Raises:
        PreconditionError: Helm no longer keeps the revision.
        KivaError: Helm or the cluster refuses.
    """
    name, revision = stored.state.name, stored.state.revision
    chart = stored_chart(cluster, name, revision)
    if chart is None:
        raise PreconditionError(f"Helm no longer keeps revision {revision} of {name}", "kivactl deploy")
    with TemporaryDirectory(prefix="kivactl-") as folder:
        for path, content in chart.items():
            (Path(folder) / path).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / path).write_bytes(content)
        return helm.install_or_upgrade(name, Path(folder), values, description=description, force_conflicts=True).manifest


def _trust_sign(before: Mapping[str, Json], files: Mapping[str, Json]) -> Sign:
    wanted = trust_in(files)
    changed = [name for name, file in ((access.AUTHENTICATION, AUTHENTICATION), (access.REVOCATION, REVOCATION)) if before[file] != files[file]]

    def seen(dump: Json) -> bool:
        filters = {one["ecds_filter"]["name"]: {"resources": [one["ecds_filter"]]} for one in dump.get("configs", ())}
        return trust_in({AUTHENTICATION: filters.get(access.AUTHENTICATION, {}), REVOCATION: filters.get(access.REVOCATION, {})}) == wanted

    counters = tuple(f"envoy_extension_config_discovery_http_filter_{name.replace('.', '_')}_config_reload" for name in changed)
    return Sign("/config_dump?resource=ecds_filters&name_regex=kiva.(authentication|revocation)", seen, counters)


def _route_sign(_: Mapping[str, Json], files: Mapping[str, Json]) -> Sign:
    wanted = weights_in(files[ROUTES])

    def seen(dump: Json) -> bool:
        return weights_in({"resources": [one.get("route_config") or {} for one in dump.get("configs", ())]}) == wanted

    return Sign("/config_dump?resource=dynamic_route_configs", seen, ("envoy_http_rds_config_reload",))


def _secret_name(name: str, good: StoredRelease, _: StoredRelease) -> str:
    return str((good.values.get("tls") or {}).get("secret") or f"{name}-tls")


def _port(values: Mapping[str, Any], name: str, default: int) -> int:
    return int((values.get("ports") or {}).get(name) or default)

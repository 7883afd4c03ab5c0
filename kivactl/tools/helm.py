"""The program helm, version 3.17 or newer and 4: charts rendered, releases written, looked at and taken back.

Values go to it on its standard input, so no file of them is ever left behind. It never waits for pods and never
rolls back by itself: both also wait and can also fail, and `targets.kubernetes` does them where people can watch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from kivactl.errors import KivaError, PreconditionError
from kivactl.tools import process
from kivactl.tools.helm_failure import BrokenOff, FieldConflict, NoRelease, PendingRelease, Place, UnreachableCluster, failure_of
from kivactl.tools.helm_output import (
    OLDEST,
    Finding,
    ReleaseState,
    StoredRelease,
    Written,
    parse_findings,
    parse_history,
    parse_releases,
    parse_stored,
    parse_values,
    parse_version,
    parse_written,
)
from kivactl.tools.version import Version

__all__ = [
    "BrokenOff",
    "FieldConflict",
    "Finding",
    "Helm",
    "NoRelease",
    "PendingRelease",
    "ReleaseState",
    "StoredRelease",
    "UnreachableCluster",
    "Version",
    "Written",
    "parse_stored",
]

PROGRAM = "helm"
INSTALL = "install Helm 3.17 or newer: https://helm.sh/docs/intro/install"

KEPT = 10
"""Revisions of a release that stay in the cluster."""

PATIENCE_S = 20.0
"""How long an interrupted helm may go on by itself: what it has begun to write is better written, and `rollback` does not heed SIGINT."""

_MISLEADING = (
    "HELM_NAMESPACE",
    "HELM_KUBECONTEXT",
    "HELM_KUBEAPISERVER",
    "HELM_KUBETOKEN",
    "HELM_KUBEASUSER",
    "HELM_KUBEASGROUPS",
    "HELM_KUBECAFILE",
    "HELM_KUBEINSECURE_SKIP_TLS_VERIFY",
    "HELM_KUBETLS_SERVER_NAME",
    "HELM_DRIVER",
    "HELM_DEBUG",
    "HELM_MAX_HISTORY",
)
"""Variables of whoever calls that would lead helm to another cluster, namespace or storage."""

_ENVIRONMENT = {**dict.fromkeys(_MISLEADING, ""), "GOGC": "off", "GOMEMLIMIT": "512MiB"}
"""Of every helm: collecting garbage is a third of the time of a process that lives for a moment and needs little memory."""


class Helm:
    """Helm for one namespace of one cluster.

    Args:
        kubeconfig: The file with the context; where kubectl looks when None.
        context: Name of the context, never "the current one".
        namespace: Where releases lie.
    """

    def __init__(self, kubeconfig: Path | None, context: str, namespace: str) -> None:
        self._cluster = ("--kube-context", context, "--namespace", namespace, *(("--kubeconfig", str(kubeconfig)) if kubeconfig else ()))
        self._context = context
        self._kubeconfig = str(kubeconfig or "")
        self._namespace = namespace

    @property
    def version(self) -> Version:
        """Of the program; asked once.

        Raises:
            PreconditionError: There is no helm, or it is too old.
        """
        return _version(self._program())

    def template(self, release: str, chart: Path, values: Mapping[str, Any], *, kubernetes: str = "", apis: Sequence[str] = ()) -> str:
        """The manifests of a chart, rendered without asking any cluster.

        Args:
            release: Name of the release.
            chart: Folder of the chart.
            values: Laid over the chart's own.
            kubernetes: Version to render for, such as `1.37.0`; the one Helm was built with when empty.
            apis: What else the cluster knows, such as `monitoring.coreos.com/v1/ServiceMonitor`.

        Raises:
            KivaError: The values do not fit the chart's schema, or a template fails.
        """
        return self._run(template_words(release, chart, self._namespace, kubernetes, apis), values, release=release)

    def lint(self, chart: Path, values: Mapping[str, Any]) -> tuple[Finding, ...]:
        """What Helm finds wrong with a chart and these values."""
        completed = self._completed(["lint", str(chart), "--namespace", self._namespace, "--values", "-"], json.dumps(values), 120.0)
        found = parse_findings(completed.stdout)
        if completed.code != 0 and not any(one.severity == "ERROR" for one in found):
            raise self._failure(completed, chart.name)
        return found

    def install_or_upgrade(
        self,
        release: str,
        chart: Path,
        values: Mapping[str, Any],
        *,
        dry_run: bool = False,
        description: str = "",
        force_conflicts: bool = False,
        timeout_s: float = 300.0,
    ) -> Written:
        """Write a release; it does not wait until its pods are ready, only for hooks.

        Args:
            release: Its name.
            chart: Folder of the chart.
            values: Laid over the chart's own; those of earlier revisions do not count.
            dry_run: Let the API server say what it would do, and write nothing.
            description: One sentence that its history keeps.
            force_conflicts: Take fields that another program owns (Helm 4; Helm 3 always does).
            timeout_s: Seconds for each of its hooks.

        Raises:
            KivaError: Helm or the cluster refused; what was written before stays, as a revision that `failed`.
        """
        words = upgrade_words(release, chart, self.version, dry_run=dry_run, description=description, force_conflicts=force_conflicts, timeout_s=timeout_s)
        return parse_written(self._run([*words, *self._cluster], values, timeout_s=timeout_s + 60, release=release))

    def releases(self, selector: str = "") -> tuple[ReleaseState, ...]:
        """The newest revision of every release in the namespace, whatever its status.

        Args:
            selector: Labels of Helm's own storage, such as `owner=helm`; all releases when empty.
        """
        return parse_releases(self._run([*list_words(self.version, selector), *self._cluster]))

    def status(self, release: str) -> ReleaseState | None:
        """The newest revision of a release, None when there is none."""
        revisions = self.history(release, newest=1)
        return revisions[-1] if revisions else None

    def history(self, release: str, newest: int = 256) -> tuple[ReleaseState, ...]:
        """The revisions of a release that Helm kept, the oldest first; none when there is no such release."""
        try:
            return parse_history(release, self._run(["history", release, "--output", "json", "--max", str(newest), *self._cluster], release=release))
        except NoRelease:
            return ()

    def values(self, release: str, revision: int | None = None) -> dict[str, Any]:
        """The values that a revision was made with, the newest when None; without the chart's own.

        Raises:
            NoRelease: There is no such revision.
        """
        return parse_values(self._run(["get", "values", release, "--output", "json", *_of(revision), *self._cluster], release=release))

    def manifest(self, release: str, revision: int | None = None) -> str:
        """The manifests of a revision as they were written, the newest when None.

        Raises:
            NoRelease: There is no such revision.
        """
        return self._run(["get", "manifest", release, *_of(revision), *self._cluster], release=release)

    def rollback(self, release: str, revision: int, *, force_conflicts: bool = False, timeout_s: float = 300.0) -> None:
        """Write an earlier revision again, as a new one; it does not wait for pods.

        Args:
            release: Its name.
            revision: Which one.
            force_conflicts: Take fields that another program owns (Helm 4; Helm 3 always does).
            timeout_s: Seconds for each of its hooks.

        Raises:
            KivaError: There is no such revision, or the cluster refused.
        """
        words = rollback_words(release, revision, self.version, force_conflicts=force_conflicts, timeout_s=timeout_s)
        self._run([*words, *self._cluster], timeout_s=timeout_s + 60, release=release)

    def uninstall(self, release: str, *, timeout_s: float = 300.0) -> bool:
        """Remove a release with its history.

        Returns:
            Whether there was one.
        """
        try:
            self._run(["uninstall", release, "--timeout", f"{timeout_s:g}s", *self._cluster], timeout_s=timeout_s + 60, release=release)
        except NoRelease:
            return False
        return True

    def _run(self, words: Sequence[str], values: Mapping[str, Any] | None = None, *, timeout_s: float = 120.0, release: str = "") -> str:
        completed = self._completed(words, None if values is None else json.dumps(values), timeout_s)
        if completed.code != 0:
            raise self._failure(completed, release)
        return completed.stdout

    def _completed(self, words: Sequence[str], stdin: str | None, timeout_s: float) -> process.Completed:
        program = self._program()
        _version(program)
        return process.run([program, *words], env=_ENVIRONMENT, stdin=stdin, timeout_s=timeout_s, patience_s=PATIENCE_S, check=False)

    def _failure(self, completed: process.Completed, release: str) -> KivaError:
        if completed.code < 0:
            return process.failure(completed)
        return failure_of(completed.stderr.strip() or completed.stdout, Place(self._context, self._namespace, release, self._kubeconfig))

    @staticmethod
    def _program() -> Path:
        return process.find(PROGRAM, INSTALL)


def template_words(release: str, chart: Path, namespace: str, kubernetes: str, apis: Sequence[str]) -> list[str]:
    """The arguments of `helm template`."""
    optional = (*(("--kube-version", kubernetes) if kubernetes else ()), *(word for api in apis for word in ("--api-versions", api)))
    return ["template", release, str(chart), "--namespace", namespace, "--values", "-", *optional]


def upgrade_words(release: str, chart: Path, version: Version, *, dry_run: bool, description: str, force_conflicts: bool, timeout_s: float) -> list[str]:
    """The arguments of `helm upgrade --install`."""
    optional = [
        *(("--dry-run=server", "--hide-secret") if dry_run else ()),
        *(("--description", description) if description else ()),
        *(("--force-conflicts",) if force_conflicts and version.major >= 4 else ()),
    ]
    words = ["upgrade", "--install", release, str(chart), "--values", "-", "--reset-values", "--output", "json"]
    return [*words, "--history-max", str(KEPT), "--timeout", f"{timeout_s:g}s", *optional]


def rollback_words(release: str, revision: int, version: Version, *, force_conflicts: bool, timeout_s: float) -> list[str]:
    """The arguments of `helm rollback`."""
    forced = ("--force-conflicts",) if force_conflicts and version.major >= 4 else ()
    return ["rollback", release, str(revision), "--history-max", str(KEPT), "--timeout", f"{timeout_s:g}s", *forced]


def list_words(version: Version, selector: str) -> list[str]:
    """The arguments of `helm list`; Helm 4 lists releases of every status by itself."""
    every = () if version.major >= 4 else ("--all",)
    return ["list", *every, "--output", "json", "--max", "0", *(("--selector", selector) if selector else ())]


def _of(revision: int | None) -> tuple[str, ...]:
    return () if revision is None else ("--revision", str(revision))


@cache
def _version(program: Path) -> Version:
    version = parse_version(process.run([program, "version", "--short"], env=_ENVIRONMENT, timeout_s=30).stdout)
    if version < OLDEST:
        raise PreconditionError(f"helm on this machine is {version}, and kivactl needs {OLDEST.major}.{OLDEST.minor} or newer", INSTALL)
    return version

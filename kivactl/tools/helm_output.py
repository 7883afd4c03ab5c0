"""What Helm prints and stores, and what it means: releases and lint findings. Pure."""

from __future__ import annotations

import base64
import binascii
import gzip
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from kivactl.errors import ToolError
from kivactl.tools.version import Version

OLDEST = Version(3, 17)
"""What kivactl works with, together with Helm 4."""


@dataclass(frozen=True, slots=True)
class ReleaseState:
    """One revision of a release.

    Attributes:
        name: Of the release.
        revision: Counts from 1.
        status: As Helm says it: `deployed`, `failed`, `superseded`, `pending-install`, `pending-upgrade`, `pending-rollback`, `uninstalling`, `uninstalled`.
        chart: Name and version, such as `kiva-engine-0.1.0`.
        updated_at: When it was written; aware.
        description: Helm's own sentence, or the one it was given; empty in a listing of all releases.
    """

    name: str
    revision: int
    status: str
    chart: str
    updated_at: datetime
    description: str = ""

    @property
    def pending(self) -> bool:
        """Whether Helm was writing it, and perhaps still is."""
        return self.status.startswith("pending-") or self.status == "uninstalling"


@dataclass(frozen=True, slots=True)
class Written:
    """What Helm wrote, or in a dry run would write."""

    state: ReleaseState
    manifest: str
    notes: str = ""


@dataclass(frozen=True, slots=True)
class StoredRelease:
    """A revision as it lies in the cluster, with all that made it."""

    state: ReleaseState
    namespace: str
    manifest: str
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finding:
    """What `helm lint` says of a chart. `severity` is `INFO`, `WARNING` or `ERROR`; `where` a file of the chart or a folder of it."""

    severity: str
    where: str
    text: str


def parse_version(text: str) -> Version:
    """The version out of what `helm version --short` prints: `v3.17.3+ge4da497`.

    Raises:
        ToolError: There is no version in it.
    """
    match = re.search(r"v?(\d+)\.(\d+)\.(\d+)", text)
    if match is None:
        raise ToolError("helm does not say its version", "helm version", tuple(text.splitlines()[-5:]))
    return Version(int(match[1]), int(match[2]), int(match[3]))


def parse_moment(text: str) -> datetime:
    """A moment as Helm writes it: RFC 3339 with up to nine decimals, or Go's `2026-11-29 15:04:05.123456789 +0000 UTC`."""
    match = re.match(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))? ?(Z|[+-]\d\d:?\d\d)", text)
    if match is None:
        return datetime.fromtimestamp(0, UTC)
    day, clock, fraction, zone = match.groups()
    return datetime.fromisoformat(f"{day}T{clock}.{(fraction or '0')[:6]:0<6}{'+00:00' if zone == 'Z' else zone}").astimezone(UTC)


def parse_history(name: str, text: str) -> tuple[ReleaseState, ...]:
    """The revisions out of `helm history -o json`, the oldest first."""
    revisions = [
        ReleaseState(name, int(one["revision"]), one["status"], one["chart"], parse_moment(one["updated"]), one.get("description") or "") for one in _json(text)
    ]
    return tuple(sorted(revisions, key=lambda one: one.revision))


def parse_releases(text: str) -> tuple[ReleaseState, ...]:
    """The releases out of `helm list -o json`, by name."""
    releases = [ReleaseState(one["name"], int(one["revision"]), one["status"], one["chart"], parse_moment(one["updated"])) for one in _json(text)]
    return tuple(sorted(releases, key=lambda one: one.name))


def parse_written(text: str) -> Written:
    """The release out of what `helm upgrade -o json` prints; lines before it are Helm's warnings."""
    data = _json(text)
    return Written(_state(data), data.get("manifest", ""), data["info"].get("notes", ""))


def parse_values(text: str) -> dict[str, Any]:
    """The values out of `helm get values -o json`; `null` means none."""
    return _json(text) or {}


def parse_stored(text: str) -> StoredRelease:
    """A revision out of the field `release` of a Secret of Helm's, as the API gives it (base64 of base64 of gzip of JSON).

    Raises:
        ToolError: It is not a release.
    """
    try:
        data = _stored(text)
        return StoredRelease(_state(data), data["namespace"], data.get("manifest", ""), data.get("config") or {})
    except (binascii.Error, OSError, EOFError, ValueError, KeyError, TypeError):
        raise ToolError("a Secret of Helm's in the cluster holds no release that can be read", "helm list --all") from None


def parse_chart(text: str) -> dict[str, bytes]:
    """The chart that a revision was made with, out of the same field as for `parse_stored`: files by their path in the chart's folder.

    Raises:
        ToolError: It is not a release.
    """
    try:
        chart = _stored(text)["chart"]
        parts = [*(chart.get("templates") or ()), *(chart.get("files") or ())]
        found = {str(part["name"]): base64.b64decode(part.get("data") or "") for part in parts}
        found["Chart.yaml"] = json.dumps(chart["metadata"]).encode()  # JSON is YAML
        found["values.yaml"] = json.dumps(chart.get("values") or {}).encode()
        if chart.get("schema"):
            found["values.schema.json"] = base64.b64decode(chart["schema"])
    except (binascii.Error, OSError, EOFError, ValueError, KeyError, TypeError, AttributeError):
        raise ToolError("a Secret of Helm's in the cluster holds no chart that can be read", "kivactl deploy") from None
    return {path: content for path, content in found.items() if not path.startswith("/") and ".." not in path.split("/")}


def parse_findings(text: str) -> tuple[Finding, ...]:
    """What `helm lint` found: `[ERROR] templates/x.yaml: what`, followed perhaps by lines that belong to it."""
    found: list[Finding] = []
    for line in map(str.strip, text.splitlines()):
        if match := re.match(r"\[(INFO|WARNING|ERROR)\] ([^ ]+?): (.*)", line):
            found.append(Finding(match[1], match[2], match[3]))
        elif found and line and not line.startswith(("==>", "Error:")) and not re.match(r"\d+ chart\(s\) linted", line):
            found[-1] = replace(found[-1], text=f"{found[-1].text}\n{line}")
    return tuple(found)


def _stored(text: str) -> dict[str, Any]:
    raw = base64.b64decode(base64.b64decode(text, validate=True), validate=True)
    data: dict[str, Any] = json.loads(gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw)
    return data


def _state(data: Mapping[str, Any]) -> ReleaseState:
    info = data["info"]
    about = (data.get("chart") or {}).get("metadata") or {}
    chart = f"{about['name']}-{about['version']}" if about else ""
    return ReleaseState(data["name"], int(data["version"]), info["status"], chart, parse_moment(info["last_deployed"]), info.get("description", ""))


def _json(text: str) -> Any:
    """The JSON in what helm printed. Helm 3 warns on the same stream before it."""
    start = min((index for index in (text.find("{"), text.find("["), text.find("null")) if index >= 0), default=-1)
    try:
        if start < 0:
            raise ValueError
        return json.JSONDecoder().raw_decode(text, start)[0]
    except ValueError:
        raise ToolError("helm did not print what it was asked for", "helm version", tuple(text.splitlines()[-5:])) from None

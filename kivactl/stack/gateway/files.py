"""The files that Envoy reads, and what they have in common."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Json = dict[str, Any]

ENGINE = "engine-"
"""How the names of clusters begin that serve requests; others lead to the same sockets for metrics."""


@dataclass(frozen=True, slots=True)
class Files:
    """Where the gateway finds its files, as absolute paths on the machine it runs on.

    Attributes:
        folder: The configuration, a file for each part.
        run: Sockets.
        certificate: PEM chain.
        certificate_key: PEM key.
        access_log: Where the gateway writes a JSON line for each request.
        quota_folder: Folder of the file that the meter writes; the configuration's when None.
        mounted: Whether the folders are mounts that change as a whole, by a renamed link in them, as Kubernetes does it; else each file is
            renamed into place.
        waiting_port: Loopback port of the waiting room; a socket in `run` when None.
        operations_port: Loopback port on which the gateway is drained; none when None.
    """

    folder: Path
    run: Path
    certificate: Path
    certificate_key: Path
    access_log: Path
    quota_folder: Path | None = None
    mounted: bool = False
    waiting_port: int | None = None
    operations_port: int | None = None

    @property
    def admin_socket(self) -> Path:
        return self.run / "gateway-admin.sock"

    @property
    def waiting_room(self) -> Json:
        """Address on which the gateway takes requests of its own that wait for a replica."""
        return {"pipe": {"path": str(self.run / "waiting.sock")}} if self.waiting_port is None else loopback(self.waiting_port)

    @property
    def bootstrap(self) -> Path:
        """What Envoy starts with; a change restarts it."""
        return self.folder / "bootstrap.json"

    @property
    def listeners(self) -> Path:
        return self.folder / "listeners.json"

    @property
    def routes(self) -> Path:
        return self.folder / "routes.json"

    @property
    def clusters(self) -> Path:
        return self.folder / "clusters.json"

    @property
    def certificate_secret(self) -> Path:
        return self.folder / "certificate.json"

    @property
    def authentication(self) -> Path:
        """Which tokens are genuine."""
        return self.folder / "authentication.json"

    @property
    def revoked(self) -> Path:
        """Which genuine tokens are no longer good."""
        return self.folder / "revoked.json"

    @property
    def admission(self) -> Path:
        """Which tenant may use which model."""
        return self.folder / "admission.json"

    @property
    def limits(self) -> Path:
        """How often."""
        return self.folder / "limits.json"

    @property
    def quota(self) -> Path:
        """Who has used up tokens or money; the meter writes it."""
        return (self.quota_folder or self.folder) / "quota.json"

    def endpoints(self, model: str) -> Path:
        """The replicas of a model."""
        return endpoints_file(self.folder, model)

    def watched(self, path: Path) -> Json:
        """A source of configuration that Envoy reads again whenever the file of this path changes."""
        directory = {"watched_directory": {"path": str(path.parent)}} if self.mounted else {}
        return {"resource_api_version": "V3", "path_config_source": {"path": str(path), **directory}}

    def discovered(self, name: str, path: Path, kind: str) -> Json:
        """A filter whose configuration lies in a file of its own.

        Args:
            name: Of the filter; the file's resource has the same.
            path: The file.
            kind: Envoy's type of the configuration.
        """
        return {"name": name, "config_discovery": {"config_source": self.watched(path), "type_urls": [type_url(kind)]}}


def endpoints_file(folder: Path, model: str) -> Path:
    """The file with the replicas of a model, in the gateway's folder."""
    return folder / f"endpoints-{model}.json"


def type_url(name: str) -> str:
    """The name of one of Envoy's types in a configuration."""
    return f"type.googleapis.com/envoy.{name}"


def resources(entries: Iterable[Json]) -> Json:
    """The content of a watched file."""
    return {"resources": list(entries)}


def loopback(port: int) -> Json:
    """An address that only the machine itself, or the pod itself, reaches."""
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def discoverable(name: str, kind: str, config: Json) -> Json:
    """The content of such a filter's file."""
    typed = {"@type": type_url(kind), **config}
    return resources([{"@type": type_url("config.core.v3.TypedExtensionConfig"), "name": name, "typed_config": typed}])


def seconds(duration_s: float) -> str:
    """A duration as Envoy reads it."""
    return f"{duration_s:.9f}".rstrip("0").rstrip(".") + "s"

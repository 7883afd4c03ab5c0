"""The real gateway as it runs in a pod: mounted folders that change by a renamed link, engines behind names, an admin socket."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from free_ports import free_ports
from name_server import NameServer
from running_gateway import Engine, Gateway, until

from kivactl.spec.platform import Platform
from kivactl.stack import tokens
from kivactl.stack.gateway.bootstrap import command_for
from kivactl.stack.gateway.clusters import Service
from kivactl.stack.kubernetes.gateway_files import POD_FILES, pod_files_for
from kivactl.tools import envoy


class Mount:
    """A folder as the kubelet mounts ConfigMaps and Secrets: links through `..data`, which alone is renamed when something changes."""

    def __init__(self, folder: Path, content: Mapping[str, str]) -> None:
        self.folder, self._versions = folder, itertools.count()
        folder.mkdir(parents=True)
        self.swap(content)
        for name in content:
            (folder / name).symlink_to(Path("..data") / name)

    def swap(self, content: Mapping[str, str]) -> None:
        """Show other contents of the same files, all at once."""
        version, before = f"..version_{next(self._versions)}", os.path.realpath(self.folder / "..data")
        (self.folder / version).mkdir()
        for name, text in content.items():
            (self.folder / version / name).write_text(text)
        (self.folder / "..data_tmp").symlink_to(version)
        (self.folder / "..data_tmp").rename(self.folder / "..data")
        if Path(before).name.startswith("..version_"):
            shutil.rmtree(before)


class PodGateway(Gateway):
    """A gateway in a pod, with stand-in engines on loopback addresses of their own behind names.

    Args:
        folder: For everything of it.
        platform: Its spec; its ports are free ones.
        replicas: How many stand-ins each model has at first.
        certificate: Chain and key.
        signing_key: Of tokens.
    """

    def __init__(self, folder: Path, platform: Platform, replicas: Mapping[str, int], certificate: tuple[Path, Path], signing_key: bytes) -> None:
        self.platform, self.signing_key, self.trust, self._folder = platform, signing_key, certificate[0], folder
        waiting, operations, self.engine_port = free_ports(3)
        etc, run, tls = folder / "etc", folder / "run", folder / "tls"
        self.files = replace(
            POD_FILES,
            folder=etc,
            run=run,
            certificate=tls / "tls.crt",
            certificate_key=tls / "tls.key",
            access_log=folder / "log/access.log",
            quota_folder=folder / "quota",
            waiting_port=waiting,
            operations_port=operations,
        )
        self.access_log, self.names = self.files.access_log, NameServer()
        for path in (run, self.access_log.parent, self.files.quota.parent):
            path.mkdir(parents=True)
        self.secret = Mount(tls, {"tls.crt": certificate[0].read_text(), "tls.key": certificate[1].read_text()})
        addresses = (f"127.0.0.{number}" for number in itertools.count(2))
        self.engines = {}
        for model, count in replicas.items():
            for index in range(count):
                name = f"{model}-{index}"
                self.engines[name] = Engine(name, (next(addresses), self.engine_port), folder / f"{name}.record")
            self.show(model, [f"{model}-{index}" for index in range(count)])
        content = self._content(platform, ())
        self.config = Mount(etc, content)
        # As the pod's first container does.
        self.files.quota.write_text(content["quota.json"])
        self.admin = envoy.Admin(self.files.admin_socket)
        command = command_for(envoy.find_envoy(), self.files, workers=1, drain_s=60)
        self.output = (folder / "gateway.out").open("wb")
        self.process = subprocess.Popen(command, stdout=self.output, stderr=subprocess.STDOUT)
        try:
            until(lambda: self._serves({f"127.0.0.{number}" for number in range(2, 2 + len(self.engines))}))
        except BaseException:
            self.stop()
            raise

    def apply(self, platform: Platform, revoked: Iterable[str] = ()) -> None:
        """Swap the configuration for that of another spec."""
        self.platform = platform
        self.config.swap(self._content(platform, revoked))

    def show(self, model: str, engines: Iterable[str] | None) -> None:
        """Let a model's name lead to these engines; None lets it not exist."""
        if engines is None:
            self.names.addresses.pop(self._host(model), None)
        else:
            self.names.addresses[self._host(model)] = [self.engines[name].address[0] for name in engines]

    def seen(self, model: str) -> set[str]:
        """Names of the engines that the gateway gives requests for a model to."""
        addresses = {f"{engine.address[0]}:{engine.address[1]}": name for name, engine in self.engines.items()}
        return {
            addresses[upstream.address]
            for upstream in self.admin.upstreams()
            if upstream.cluster == f"engine-{model}" and upstream.healthy and not upstream.waiting
        }

    def stop(self) -> None:
        super().stop()
        self.names.stop()

    def _host(self, model: str) -> str:
        return f"kiva-{model}.kiva.svc.cluster.local"

    def _content(self, platform: Platform, revoked: Iterable[str]) -> dict[str, str]:
        services = {model.name: Service(self._host(model.name), self.engine_port, 4) for model in platform.models}
        content = pod_files_for(platform, services, tokens.jwks_for([self.signing_key]), revoked, self.files)
        for cluster in content["clusters.json"]["resources"]:
            if "typed_dns_resolver_config" in cluster:
                asked: dict[str, Any] = cluster["typed_dns_resolver_config"]["typed_config"]
                asked["resolvers"] = [{"socket_address": {"address": "127.0.0.1", "port_value": self.names.port}}]
        return {name: json.dumps(value) for name, value in content.items()}

    def _serves(self, addresses: set[str]) -> bool:
        assert self.process.poll() is None, Path(self.output.name).read_text()
        return self.admin.ready() and addresses <= {upstream.address.split(":")[0] for upstream in self.admin.upstreams() if upstream.healthy}

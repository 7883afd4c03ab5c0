"""Where a local platform keeps its files: names only, nothing is read or made here."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

_LONGEST_RUN_FOLDER = 60
"""Linux allows 107 bytes for a socket's path; engines add `/tmp/` and a UUID of 36 to the folder's."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The files of one platform.

    Attributes:
        state: Absolute path of the state folder, mode 0700.
        cache: Absolute path of the folder with prepared models.
    """

    state: Path
    cache: Path

    @property
    def run(self) -> Path:
        """Folder of the sockets; in the temporary folder when the state folder's path is too long for a socket."""
        beside = self.state / "run"
        if len(str(beside)) <= _LONGEST_RUN_FOLDER:
            return beside
        return Path(tempfile.gettempdir()) / f"kiva-{hashlib.sha256(str(self.state).encode()).hexdigest()[:16]}"

    @property
    def supervisor_socket(self) -> Path:
        return self.run / "supervisor.sock"

    @property
    def supervisor_config(self) -> Path:
        return self.state / "supervisor.conf"

    @property
    def gateway_admin_socket(self) -> Path:
        return self.run / "gateway-admin.sock"

    def engine_socket(self, replica: str) -> Path:
        """The socket of a replica; named by a short hash, for model names may be long."""
        return self.run / f"{hashlib.sha256(replica.encode()).hexdigest()[:12]}.sock"

    @property
    def tmp(self) -> Path:
        """Temporary files of the engines; gone with the sockets when the platform goes down."""
        return self.run / "tmp"

    @property
    def gateway(self) -> Path:
        """Folder of the gateway's configuration files."""
        return self.state / "gateway"

    @property
    def quota(self) -> Path:
        """Who is above a limit, as the meter tells the gateway."""
        return self.gateway / "quota.json"

    @property
    def tls(self) -> Path:
        return self.state / "tls"

    @property
    def ca_certificate(self) -> Path:
        return self.tls / "ca.pem"

    @property
    def ca_key(self) -> Path:
        return self.tls / "ca.key"

    @property
    def certificate(self) -> Path:
        return self.tls / "gateway.pem"

    @property
    def certificate_key(self) -> Path:
        return self.tls / "gateway.key"

    @property
    def signing_key(self) -> Path:
        """Private key (PEM, ES256) that signs tokens."""
        return self.state / "tokens" / "signing.key"

    @property
    def infrastructure(self) -> Path:
        """Folder of what provisioning knows of the machines: all of it is this user's alone."""
        return self.state / "infrastructure"

    @property
    def inventory(self) -> Path:
        """The machines, as JSON."""
        return self.infrastructure / "inventory.json"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def access_log(self) -> Path:
        """The gateway's access log: a JSON line for each request."""
        return self.log("access")

    @property
    def usage(self) -> Path:
        """Folder of the metering: what engines counted, the meter's orders, the ledger."""
        return self.state / "usage"

    def usage_log(self, replica: str) -> Path:
        """What a replica counted: a JSON line for each request."""
        return self.usage / f"{replica}.jsonl"

    @property
    def meter_orders(self) -> Path:
        """What the meter has to know of the spec: limits, budgets, prices."""
        return self.usage / "meter.json"

    @property
    def ledger(self) -> Path:
        """The SQLite ledger."""
        return self.usage / "ledger.db"

    @property
    def loadtests(self) -> Path:
        """A folder for each load test."""
        return self.state / "loadtests"

    @property
    def token_register(self) -> Path:
        """Which tokens were issued and revoked: ids, tenants, names, times; never a token."""
        return self.state / "tokens" / "register.json"

    @property
    def retired_keys(self) -> Path:
        """Folder of public keys (PEM) whose tokens are still valid after a rotation."""
        return self.state / "tokens" / "retired"

    @property
    def scrape_targets(self) -> Path:
        """Prometheus' list of what to scrape (`file_sd_configs`)."""
        return self.state / "monitoring" / "targets.json"

    @property
    def levels_rules(self) -> Path:
        """A rule file for Prometheus: what is promised, as series that the alert rules compare with."""
        return self.state / "monitoring" / "levels.rules.json"

    @property
    def release(self) -> Path:
        """What is deployed, as JSON."""
        return self.state / "release.json"

    @property
    def journal(self) -> Path:
        return self.state / "journal.jsonl"

    @property
    def lock(self) -> Path:
        return self.state / "lock"

    def log(self, process: str) -> Path:
        """The log of a supervised process."""
        return self.logs / f"{process}.log"

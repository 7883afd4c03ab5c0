"""Where a cluster is and as whom it is asked: kubeconfig files and credentials.

The package's own loader goes on without credentials when a credential plugin fails; so the files are read here.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from kivactl.errors import KivaError, PreconditionError
from kivactl.stack.secret import Secret
from kivactl.tools import process
from kivactl.tools.kube_objects import Json

_PLUGIN_S = 60.0
_EARLY = timedelta(seconds=60)
"""Credentials that end so soon are renewed before they are used."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A named entry of a kubeconfig file, with the file that relative paths in it count from."""

    content: Json
    file: Path


@dataclass(frozen=True, slots=True)
class Kubeconfig:
    """All files as one: the first that names an entry counts.

    Attributes:
        files: What was read.
        contexts: By name, in the order of the files; so are the others.
    """

    files: tuple[Path, ...]
    contexts: Mapping[str, Entry]
    clusters: Mapping[str, Entry]
    users: Mapping[str, Entry]


@dataclass(frozen=True, slots=True)
class Certificate:
    """A client certificate and its key, in PEM."""

    certificate: str
    key: Secret


@dataclass(slots=True)
class Credentials:
    """Who we are. `token` and `certificate` may be renewed while they are used."""

    user: Json
    file: Path
    server: Json
    context: str
    token: Secret | None = None
    certificate: Certificate | None = None
    ends_at: datetime | None = None
    guard: threading.Lock = field(default_factory=threading.Lock)

    def headers(self, now: datetime | None = None) -> dict[str, str]:
        """What says who we are, renewed when it is about to end.

        Raises:
            PreconditionError: It cannot be had.
        """
        with self.guard:
            if self.ends_at is not None and self.ends_at - _EARLY <= (now or datetime.now(UTC)):
                self._load()
            found = {"Authorization": f"Bearer {self.token.reveal()}"} if self.token else {}
        if self.user.get("username") and not self.token:
            pair = f"{self.user['username']}:{self.user.get('password') or ''}"
            found = {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
        if self.user.get("as"):
            found["Impersonate-User"] = str(self.user["as"])
        return found

    @property
    def renewable(self) -> bool:
        """Whether they can be had anew when the server does not accept them any more."""
        return bool(self.user.get("exec") or self.user.get("tokenFile"))

    def renew(self) -> None:
        """Get them anew.

        Raises:
            PreconditionError: They cannot be had.
        """
        with self.guard:
            self._load()

    def _load(self) -> None:
        user = self.user
        if user.get("auth-provider"):
            raise PreconditionError(
                f"the user of context '{self.context}' has an `auth-provider` in {self.file}, which Kubernetes gave up with version 1.26",
                "write the user anew with a credential plugin (`exec`)",
            )
        self.certificate = self._own_certificate()
        if user.get("token"):
            self.token = _token(str(user["token"]), self.context)
        elif user.get("tokenFile"):
            self.token = _token(_text(self.file, user["tokenFile"], "`tokenFile`"), self.context)
        elif user.get("exec"):
            self._ask_plugin(user["exec"])

    def _own_certificate(self) -> Certificate | None:
        certificate = pem(self.user, "client-certificate", self.file)
        key = pem(self.user, "client-key", self.file)
        return Certificate(certificate, Secret(key)) if certificate and key else None

    def _ask_plugin(self, plugin: Json) -> None:
        answer = plugin_answer(plugin, self.file, self.server if plugin.get("provideClusterInfo") else None, self.context)
        self.token = _token(answer["token"], self.context) if answer.get("token") else None
        if answer.get("clientCertificateData") and answer.get("clientKeyData"):
            self.certificate = Certificate(answer["clientCertificateData"], Secret(answer["clientKeyData"]))
        self.ends_at = _moment(answer.get("expirationTimestamp"))


@dataclass(frozen=True, slots=True)
class Access:
    """All that is needed to speak to a cluster.

    Attributes:
        context: Its name in the kubeconfig.
        server: URL without a slash at its end.
        authority: PEM of who vouches for the server; the system's authorities when empty.
        verified: Whether the server's certificate is looked at.
        server_name: The name it must have; the URL's when empty.
        proxy: URL of a proxy; those of the environment when empty.
        credentials: Who we are.
        kubeconfig: The file that was named; empty where none was.
    """

    context: str
    server: str
    authority: str
    verified: bool
    server_name: str
    proxy: str
    credentials: Credentials
    kubeconfig: str = ""


def kubeconfig_files(named: Path | None) -> tuple[Path, ...]:
    """The files to read: the one that is named, those of `KUBECONFIG`, or `~/.kube/config`."""
    if named is not None:
        return (named,)
    listed = [Path(part).expanduser() for part in os.environ.get("KUBECONFIG", "").split(os.pathsep) if part]
    return tuple(listed) or (Path("~/.kube/config").expanduser(),)


def read_kubeconfig(files: Sequence[Path]) -> Kubeconfig:
    """Read the files that are there, as one.

    Raises:
        PreconditionError: None of them is there, or one cannot be read.
    """
    there = [path for path in files if path.exists()]
    if not there:
        raise PreconditionError(f"there is no kubeconfig at {' or '.join(map(str, files))}", "KUBECONFIG=FILE, or fetch the cluster's file to ~/.kube/config")
    tables: dict[str, dict[str, Entry]] = {"contexts": {}, "clusters": {}, "users": {}}
    for path in there:
        content = _yaml(path)
        for part, table in tables.items():
            for one in content.get(part) or []:
                if not isinstance(one, dict) or not isinstance(one.get(part[:-1]), dict | None) or "name" not in one:
                    raise PreconditionError(f"{path} is no kubeconfig: an entry of `{part}` has no name or no `{part[:-1]}`")
                table.setdefault(str(one["name"]), Entry(one.get(part[:-1]) or {}, path))
    return Kubeconfig(tuple(there), tables["contexts"], tables["clusters"], tables["users"])


def access_for(kubeconfig: Kubeconfig, context: str) -> Access:
    """The way into the cluster of a context. A credential plugin is run.

    Raises:
        PreconditionError: There is no such context, it is not whole, or credentials cannot be had.
    """
    names = ", ".join(kubeconfig.contexts) or "none"
    where = ", ".join(map(str, kubeconfig.files))
    entry = kubeconfig.contexts.get(context)
    if entry is None:
        raise PreconditionError(f"there is no context '{context}' in {where}", f"name one of these with `kubernetes.context` in kiva.yaml: {names}")
    cluster = kubeconfig.clusters.get(str(entry.content.get("cluster") or ""))
    server = str(cluster.content.get("server") or "").rstrip("/") if cluster else ""
    if cluster is None or not server.startswith(("https://", "http://")):
        raise PreconditionError(f"the context '{context}' in {entry.file} names no cluster with a server", f"kubectl config view --context {context}")
    user = kubeconfig.users.get(str(entry.content.get("user") or ""))
    if user is None and entry.content.get("user"):
        raise PreconditionError(f"the context '{context}' in {entry.file} names a user that is not there", f"kubectl config view --context {context}")
    authority = pem(cluster.content, "certificate-authority", cluster.file)
    verified = not cluster.content.get("insecure-skip-tls-verify", False)
    credentials = Credentials(user.content if user else {}, user.file if user else entry.file, {**cluster.content, "server": server}, context)
    credentials.renew()
    name, proxy = (str(cluster.content.get(key) or "") for key in ("tls-server-name", "proxy-url"))
    return Access(context, server, authority, verified, name, proxy, credentials)


def pem(entry: Json, key: str, file: Path) -> str:
    """A text that stands in an entry as base64 (`KEY-data`) or in a file that it names (`KEY`); empty when neither.

    Raises:
        PreconditionError: It cannot be read.
    """
    data = entry.get(f"{key}-data")
    if data:
        try:
            return base64.b64decode(str(data), validate=False).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise PreconditionError(f"`{key}-data` in {file} is not base64 of a PEM text") from None
    return _text(file, entry[key], f"`{key}`") if entry.get(key) else ""


def plugin_answer(plugin: Json, file: Path, cluster: Json | None, context: str) -> dict[str, Any]:
    """What a credential plugin gives: `token`, or `clientCertificateData` with `clientKeyData`; `expirationTimestamp` perhaps.

    Raises:
        PreconditionError: It is not there, fails, or gives nothing.
    """
    name = str(plugin.get("command") or "")
    version = str(plugin.get("apiVersion") or "client.authentication.k8s.io/v1")
    program = str(file.parent / name) if "/" in name and not Path(name).is_absolute() else name
    spec: Json = {"interactive": False, **({"cluster": _cluster_info(cluster)} if cluster else {})}
    wanted = json.dumps({"apiVersion": version, "kind": "ExecCredential", "spec": spec})
    environment = {**{str(one["name"]): str(one["value"]) for one in plugin.get("env") or []}, "KUBERNETES_EXEC_INFO": wanted}
    said = f"the credential plugin '{name}' of context '{context}'"
    try:
        if not name:
            raise PreconditionError(f"the `exec` of the user of context '{context}' in {file} names no command")
        path = process.find(program)
        done = process.run([path, *(plugin.get("args") or [])], env=environment, timeout_s=_PLUGIN_S)
    except PreconditionError as error:
        hint = str(plugin.get("installHint") or "").strip().splitlines()
        raise PreconditionError(f"{said} is not on PATH" if name else error.message, hint[0] if hint else f"install it, or ask who made {file}") from None
    except KivaError as error:
        raise PreconditionError(f"{said} gives no credentials: {error.message}", f"run it by hand to see why, or log in again: {name}", error.details) from None
    try:
        answer = json.loads(done.stdout)
        status = answer["status"]
        if answer.get("kind") != "ExecCredential" or not (status.get("token") or status.get("clientCertificateData")):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise PreconditionError(
            f"{said} gives no credentials: what it prints is no ExecCredential", f"log in again, or install another version of {name}"
        ) from None
    return {key: str(value) for key, value in status.items() if value}


def _moment(text: str | None) -> datetime | None:
    """None when there is none; what cannot be read never ends: the server says when it does."""
    try:
        moment = datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment


def _token(text: str, context: str) -> Secret:
    text = text.strip()
    if not text.isascii() or not text.isprintable() or " " in text:  # no header takes it, and the complaint would show it
        raise PreconditionError(f"the token of context '{context}' holds blanks, line ends or special characters", "log in again, or write the token anew")
    return Secret(text)


def _cluster_info(cluster: Json) -> Json:
    """As a plugin reads it (`ExecCredential.spec.cluster`)."""
    info = {"server": cluster.get("server"), "tls-server-name": cluster.get("tls-server-name"), "proxy-url": cluster.get("proxy-url")}
    info |= {"certificate-authority-data": cluster.get("certificate-authority-data"), "insecure-skip-tls-verify": cluster.get("insecure-skip-tls-verify")}
    config = next((one.get("extension") for one in cluster.get("extensions") or [] if one.get("name") == "client.authentication.k8s.io/exec"), None)
    return {key: value for key, value in {**info, "config": config}.items() if value}


def _yaml(path: Path) -> Json:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        content = YAML(typ="safe").load(path.read_text())
    except OSError as error:
        raise PreconditionError(f"the kubeconfig {path} cannot be read: {(error.strerror or str(error)).lower()}", "check its owner") from None
    except (YAMLError, UnicodeDecodeError):  # its text is not shown: it holds credentials
        raise PreconditionError(f"the kubeconfig {path} is no YAML", f"KUBECONFIG={path} kubectl config view") from None
    if content is not None and not isinstance(content, dict):
        raise PreconditionError(f"the kubeconfig {path} is no kubeconfig")
    return content or {}


def _text(file: Path, name: str, what: str) -> str:
    path = file.parent / Path(str(name)).expanduser()
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = (error.strerror or str(error)).lower() if isinstance(error, OSError) else "it is no text"
        raise PreconditionError(f"{what} in {file} names {path}, which cannot be read: {why}") from None

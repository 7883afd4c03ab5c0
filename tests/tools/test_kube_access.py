"""Which cluster, and as whom: kubeconfig files, credentials, credential plugins, TLS."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from scripted_api import Reply, Waits, in_turn, scripted

from kivactl.errors import PreconditionError
from kivactl.tools.kube import contexts, open_cluster
from kivactl.tools.kube_access import access_for, kubeconfig_files, read_kubeconfig
from kivactl.tools.kube_errors import Unreachable, Untrusted

POD = Reply(200, {"kind": "Pod"})
VERSION = Reply(200, {"major": "1", "minor": "36+", "gitVersion": "v1.36.2+k3s1"})


def config(path, *, server="https://10.0.0.1:6443", cluster=None, user=None, context="prod", named=None):
    """A kubeconfig with one context."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "never",
        "clusters": [{"name": "c", "cluster": {"server": server, **(cluster or {})}}],
        "users": [{"name": "u", "user": user or {}}],
        "contexts": [{"name": context, "context": {"cluster": "c", "user": "u", "namespace": "elsewhere", **(named or {})}}],
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))  # which is YAML
    return path


def opened(path, context="prod"):
    return access_for(read_kubeconfig([path]), context)


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Makes a credential plugin of a shell script; each of its calls is a line of the file `calls`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def make(script, name="kube-login"):
        path = folder / name
        path.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n{script}\n')
        path.chmod(stat.S_IRWXU)
        return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": name, "args": ["get-token", "--server-id", "x"]}}

    return make


def credential(**status):
    return "cat <<'END'\n" + json.dumps({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}) + "\nEND"


def test_several_files_are_one_and_the_first_counts(tmp_path, monkeypatch):
    first = config(tmp_path / "a" / "config", server="https://one:6443", user={"token": "first"})
    second = config(tmp_path / "b" / "config", server="https://two:6443", user={"token": "second"}, context="test")
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path}/missing{os.pathsep}{first}{os.pathsep}{second}{os.pathsep}")
    assert contexts() == ("prod", "test")
    access = access_for(read_kubeconfig(kubeconfig_files(None)), "test")
    assert access.server == "https://one:6443"  # both files call their cluster `c`
    assert access.credentials.headers() == {"Authorization": "Bearer first"}


def test_without_a_variable_it_is_the_file_at_home(tmp_path, monkeypatch):
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(PreconditionError, match=f"there is no kubeconfig at {tmp_path}/.kube/config"):
        contexts()
    config(tmp_path / ".kube" / "config")
    assert contexts() == ("prod",)


def test_a_file_that_is_named_is_the_only_one(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(config(tmp_path / "one", context="one")))
    assert contexts(config(tmp_path / "two", context="two")) == ("two",)


def test_a_context_that_is_missing_names_those_that_exist(tmp_path):
    path = config(tmp_path / "config")
    with pytest.raises(PreconditionError) as caught:
        open_cluster("production", "kiva", path)
    assert caught.value.message == f"there is no context 'production' in {path}"
    assert caught.value.hint == "name one of these with `kubernetes.context` in kiva.yaml: prod"


def test_the_namespace_is_ours_and_not_the_contexts(tmp_path):
    cluster = open_cluster("prod", "kiva", config(tmp_path / "config"))
    assert (cluster.context, cluster.namespace, cluster.server) == ("prod", "kiva", "https://10.0.0.1:6443")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("contexts: [", "is no YAML"),
        ("- 1", "is no kubeconfig"),
        ("contexts: [3]", "an entry of `contexts` has no name"),
        ("users: [{name: u, user: 3}]", "an entry of `users` has no name or no `user`"),
        ("contexts: [{name: prod, context: {cluster: c}}]", "names no cluster with a server"),
        ("contexts: [{name: prod, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {server: 'https://x'}}]", "names a user that is not there"),
        ("contexts: [{name: prod, context: {cluster: c}}]\nclusters: [{name: c, cluster: {server: 'ftp://x'}}]", "names no cluster with a server"),
        ("contexts: [{name: prod}]", "names no cluster with a server"),
        ("", "there is no context 'prod'"),
    ],
)
def test_a_file_that_is_not_whole(tmp_path, content, said):
    path = tmp_path / "config"
    path.write_text(content)
    with pytest.raises(PreconditionError) as caught:
        opened(path)
    assert said in caught.value.message
    assert str(path) in caught.value.message


@pytest.mark.parametrize(
    ("user", "headers"),
    [
        ({}, {}),
        ({"token": "abc"}, {"Authorization": "Bearer abc"}),
        ({"token": "abc", "as": "root"}, {"Authorization": "Bearer abc", "Impersonate-User": "root"}),
        ({"username": "u", "password": "p"}, {"Authorization": "Basic dTpw"}),
    ],
)
def test_credentials_in_the_file(tmp_path, user, headers):
    assert opened(config(tmp_path / "config", user=user)).credentials.headers() == headers


def test_a_token_in_a_file_beside_the_kubeconfig(tmp_path):
    (tmp_path / "token").write_text("abc\n")
    path = config(tmp_path / "config", user={"tokenFile": "token"})
    assert opened(path).credentials.headers() == {"Authorization": "Bearer abc"}
    (tmp_path / "token").unlink()
    with pytest.raises(PreconditionError, match=r"`tokenFile` in .* which cannot be read: no such file"):
        opened(path)


@pytest.mark.parametrize(
    ("user", "said"),
    [
        ({"token": "hunter2 hunter2"}, "holds blanks"),
        ({"token": "hunter2\nhunter2"}, "holds blanks"),
        ({"auth-provider": {"name": "oidc", "config": {"id-token": "hunter2"}}}, "`auth-provider`"),
        ({"client-certificate-data": "aHVudGVyMg==", "client-key-data": "/w=="}, "`client-key-data` in .* is not base64 of a PEM text"),
    ],
)
def test_credentials_that_are_none(tmp_path, user, said):
    with pytest.raises(PreconditionError, match=said) as caught:
        opened(config(tmp_path / "config", user=user))
    assert "hunter2" not in caught.value.message


def test_a_plugin_gives_a_token_until_it_ends(tmp_path, plugin):
    soon, later = (datetime.now(UTC) + timedelta(seconds=seconds) for seconds in (30, 3600))
    user = plugin(
        f"if test $(wc -l < {tmp_path}/calls) = 1; then\n{credential(token='first', expirationTimestamp=soon.isoformat())}\nelse\n"
        f"{credential(token='second', expirationTimestamp=later.isoformat().replace('+00:00', 'Z'))}\nfi"
    )
    credentials = opened(config(tmp_path / "config", user=user)).credentials
    assert (tmp_path / "calls").read_text() == "get-token --server-id x\n"
    assert credentials.headers() == {"Authorization": "Bearer second"}
    assert credentials.headers() == {"Authorization": "Bearer second"}
    assert (tmp_path / "calls").read_text().count("\n") == 2
    assert credentials.headers(later) == {"Authorization": "Bearer second"}
    assert (tmp_path / "calls").read_text().count("\n") == 3


def test_a_plugin_is_told_what_it_asks_for(tmp_path, plugin):
    user = plugin(f'echo "$KUBERNETES_EXEC_INFO" > {tmp_path}/info; echo "$REGION" > {tmp_path}/region\n{credential(token="t")}')
    user["exec"] |= {"env": [{"name": "REGION", "value": "eu"}], "provideClusterInfo": True}
    extensions = [{"name": "client.authentication.k8s.io/exec", "extension": {"audience": "x"}}]
    opened(config(tmp_path / "config", user=user, cluster={"extensions": extensions}))
    info = json.loads((tmp_path / "info").read_text())
    assert info["spec"] == {"interactive": False, "cluster": {"server": "https://10.0.0.1:6443", "config": {"audience": "x"}}}
    assert (tmp_path / "region").read_text() == "eu\n"


def test_a_plugin_beside_the_kubeconfig(tmp_path, plugin):
    plugin(credential(token="t"))
    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "./bin/kube-login", "args": None}}
    assert opened(config(tmp_path / "config", user=user)).credentials.headers() == {"Authorization": "Bearer t"}


def test_a_plugin_that_is_missing(tmp_path):
    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "no-such-login", "installHint": "Install it:\n  see there"}}
    with pytest.raises(PreconditionError) as caught:
        opened(config(tmp_path / "config", user=user))
    assert caught.value.message == "the credential plugin 'no-such-login' of context 'prod' is not on PATH"
    assert caught.value.hint == "Install it:"


@pytest.mark.parametrize(
    ("script", "said", "details"),
    [
        ("echo 'AADSTS70043: the refresh token has expired' >&2; exit 3", "gives no credentials: 'kube-login' failed with exit code 3", "AADSTS70043"),
        ("echo hello", "gives no credentials: what it prints is no ExecCredential", ""),
        ("echo '[]'", "gives no credentials: what it prints is no ExecCredential", ""),
        ('echo \'{"kind": "ExecCredential", "status": {}}\'', "gives no credentials: what it prints is no ExecCredential", ""),
        (credential(token="hunter2 hunter2"), "the token of context 'prod' holds blanks", ""),
    ],
)
def test_a_plugin_that_gives_nothing(tmp_path, plugin, script, said, details):
    with pytest.raises(PreconditionError) as caught:
        opened(config(tmp_path / "config", user=plugin(script)))
    assert said in caught.value.message
    assert details in "".join(caught.value.details)
    assert caught.value.hint
    assert "hunter2" not in caught.value.message


@pytest.fixture(scope="session")
def client_certificate(tmp_path_factory):
    """A client's certificate that is its own authority, and its key."""
    folder = tmp_path_factory.mktemp("client")
    certificate, key = folder / "client.pem", folder / "client.key"
    words = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=anna", "-days", "2", "-keyout", key, "-out", certificate]
    subprocess.run(["openssl", "req", "-x509", *words], check=True, capture_output=True)
    return certificate, key


def encoded(path):
    return base64.b64encode(path.read_bytes()).decode()


def test_a_server_is_trusted_by_the_authority_in_the_file(tmp_path, certificate):
    with scripted(in_turn(VERSION), certificate) as api:
        for cluster in (
            {"certificate-authority": str(certificate[0])},
            {"certificate-authority-data": encoded(certificate[0])},
            {"insecure-skip-tls-verify": True},
        ):
            found = open_cluster("prod", "kiva", config(tmp_path / "config", server=api.url, cluster=cluster)).version()
            assert (found.major, found.minor, found.text) == (1, 36, "v1.36.2+k3s1")


def test_a_server_that_nobody_vouches_for(tmp_path, certificate, client_certificate):
    waits = Waits()
    named = {"certificate-authority": str(certificate[0]), "tls-server-name": "other.example.org"}
    cases = [({}, "self-signed"), ({"certificate-authority": str(client_certificate[0])}, "self-signed"), (named, r"other\.example\.org")]
    with scripted(in_turn(VERSION), certificate) as api:
        for cluster, why in cases:
            with pytest.raises(Untrusted, match=f"is not vouched for by the authority in the kubeconfig: .*{why}"):
                open_cluster("prod", "kiva", config(tmp_path / "config", server=api.url, cluster=cluster), clock=waits.clock).version()
        assert not api.requests
    assert not waits.waits


def test_the_name_of_a_server_may_be_another_than_its_address(tmp_path, certificate):
    with scripted(in_turn(VERSION), certificate) as api:
        cluster = {"certificate-authority": str(certificate[0]), "tls-server-name": "localhost"}
        assert open_cluster("prod", "kiva", config(tmp_path / "config", server=api.url, cluster=cluster)).version().minor == 36


def test_a_client_certificate_is_shown_and_its_key_left_nowhere(tmp_path, certificate, client_certificate, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    certificate_path, key = client_certificate
    user = {"client-certificate-data": encoded(certificate_path), "client-key-data": encoded(key)}
    with scripted(in_turn(VERSION), certificate, certificate_path) as api:
        cluster = {"certificate-authority": str(certificate[0])}
        assert open_cluster("prod", "kiva", config(tmp_path / "config", server=api.url, cluster=cluster, user=user)).version().minor == 36
        with pytest.raises(Unreachable):
            open_cluster("prod", "kiva", config(tmp_path / "config", server=api.url, cluster=cluster), clock=Waits().clock).version()
    assert not list(Path(tempfile.gettempdir()).rglob("*"))


@pytest.mark.parametrize(
    ("cluster", "user", "said"),
    [
        ({"certificate-authority-data": "aGVsbG8="}, {}, "the `certificate-authority` of the cluster of context 'prod' holds no certificate"),
        ({"certificate-authority": "missing.pem"}, {}, "which cannot be read: no such file"),
        ({}, {"client-certificate-data": "aGVsbG8=", "client-key-data": "aGVsbG8="}, "the client certificate of context 'prod' and its key do not go together"),
    ],
)
def test_certificates_that_are_none(tmp_path, cluster, user, said):
    with pytest.raises(PreconditionError, match=said):
        open_cluster("prod", "kiva", config(tmp_path / "config", cluster=cluster, user=user))


def test_a_name_that_nobody_knows(tmp_path):
    waits = Waits()
    with pytest.raises(Unreachable, match=r"the name of the API server of cluster 'prod' \(https://kiva.invalid:6443\) is not known"):
        open_cluster("prod", "kiva", config(tmp_path / "config", server="https://kiva.invalid:6443"), clock=waits.clock).version()
    assert sum(waits.waits) < 6


def test_a_server_without_tls_is_asked_without(tmp_path):
    with scripted(in_turn(VERSION)) as api:
        assert open_cluster("prod", "kiva", config(tmp_path / "config", server=api.url, user={"token": "t"})).version().minor == 36
        assert api.requests[0].headers["authorization"] == "Bearer t"


def test_a_proxy_is_asked_where_the_file_names_one(tmp_path):
    with scripted(in_turn(VERSION)) as proxy:
        path = config(tmp_path / "config", server="http://k8s.invalid:8080", cluster={"proxy-url": proxy.url})
        assert open_cluster("prod", "kiva", path).version().minor == 36
        assert proxy.requests[0].headers["host"] == "k8s.invalid:8080"

"""Connections to an API server: which proxy, whose name, how many; what the package would do is the measure."""

from __future__ import annotations

import ssl
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubernetes.client.rest import RESTClientObject, should_bypass_proxies
from scripted_api import Reply, in_turn, scripted
from urllib3 import PoolManager, ProxyManager

from kivactl.tools.kube_access import Access, Credentials
from kivactl.tools.kube_connections import CONNECTIONS, configuration_for, pool_for, proxy_for, spared

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")

HOSTS = st.sampled_from(["k8s.example.com", "K8S.example.com", "example.com", "notexample.com", "10.0.0.1", "10.1.0.1", "[fd00::1]", "localhost"])
RULES = st.sampled_from(
    ["", " ", "*", "example.com", ".example.com", "EXAMPLE.com", "k8s.example.com:6443", "10.0.0.1", "10.0.0.0/16", "10.0.0.1/16", "fd00::/8", "10.0.0.", "::1"]
)


def access(server="https://k8s.example.com:6443", *, proxy="", name="", verified=True):
    return Access("prod", server, "", verified, name, proxy, Credentials({}, None, {}, "prod"))


@pytest.fixture
def environment(monkeypatch):
    """Sets the variables of proxies; those of whoever runs the tests do not count."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return lambda **values: [monkeypatch.setenv(name, value) for name, value in values.items()]


@given(host=HOSTS, port=st.sampled_from(["", ":6443", ":443"]), rules=st.lists(RULES, max_size=4))
def test_no_proxy_is_read_as_the_package_reads_it(host, port, rules):
    server, text = f"https://{host}{port}", ",".join(rules)
    assert spared(server, text) == should_bypass_proxies(server, text)


@pytest.mark.parametrize(
    ("server", "named", "variables", "expected"),
    [
        ("https://k8s.example.com", "", {}, ""),
        ("https://k8s.example.com", "", {"HTTPS_PROXY": "http://proxy:3128"}, "http://proxy:3128"),
        ("https://k8s.example.com", "", {"HTTP_PROXY": "http://proxy:3128"}, ""),
        ("http://k8s.example.com", "", {"HTTP_PROXY": "http://proxy:3128"}, "http://proxy:3128"),
        ("https://k8s.example.com", "", {"ALL_PROXY": "http://proxy:3128"}, "http://proxy:3128"),
        ("https://k8s.example.com", "http://own:1", {"HTTPS_PROXY": "http://proxy:3128"}, "http://own:1"),
        ("https://k8s.example.com", "http://own:1", {"NO_PROXY": ".example.com"}, ""),
        ("https://10.0.0.1:6443", "", {"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "10.0.0.0/8"}, ""),
    ],
)
def test_which_proxy(environment, server, named, variables, expected):
    environment(**variables)
    assert proxy_for(access(server, proxy=named)) == expected
    theirs = RESTClientObject(configuration_for(access(server, proxy=named))).pool_manager
    assert isinstance(theirs, ProxyManager) == bool(expected), "the package does otherwise"
    pool = pool_for(access(server, proxy=named))
    assert type(pool) is (ProxyManager if expected else PoolManager)


@pytest.mark.parametrize("verified", [True, False])
def test_the_connections_are_those_of_the_package_with_our_tls(environment, verified):
    environment()
    asked = access(name="other.example.com", verified=verified)
    ours, theirs = pool_for(asked).connection_pool_kw, RESTClientObject(configuration_for(asked)).pool_manager.connection_pool_kw
    context = ours.pop("ssl_context")
    assert context.verify_mode == (ssl.CERT_REQUIRED if verified else ssl.CERT_NONE)
    assert ours == {key: value for key, value in theirs.items() if value is not None}
    assert ours["maxsize"] == CONNECTIONS


def test_the_package_is_not_loaded_to_ask_a_cluster(tmp_path):
    with scripted(in_turn(Reply(200, {"major": "1", "minor": "36", "gitVersion": "v1.36.2"}))) as api:
        config = tmp_path / "config"
        config.write_text(
            f"{{clusters: [{{name: c, cluster: {{server: '{api.url}'}}}}], users: [], contexts: [{{name: prod, context: {{cluster: c}}}}]}}",
        )
        script = (
            "import sys; from pathlib import Path; from kivactl.tools.kube import open_cluster\n"
            "print(open_cluster('prod', 'kiva', Path(sys.argv[1])).version().minor, 'kubernetes' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", script, str(config)], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["36", "False"], done.stderr

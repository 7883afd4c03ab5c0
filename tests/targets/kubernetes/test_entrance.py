"""How the gateway is reached from here."""

from __future__ import annotations

import re

import pytest
from cluster_specs import platform_on_cluster

from kivactl.errors import NotReadyError, PreconditionError
from kivactl.targets.kubernetes.entrance import url_for


def gateway_pod(name="kiva-gateway-a"):
    labels = {"app.kubernetes.io/instance": "kiva-gateway"}
    spec = {"containers": [{"name": "envoy", "image": "x"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}


def platform(**gateway):
    return platform_on_cluster(cluster_values={"gateway": gateway})


@pytest.mark.parametrize(
    ("gateway", "url"),
    [
        ({"expose": "load-balancer", "host": "llm.example.org"}, "https://llm.example.org:4000/v1"),
        ({"expose": "node-port", "host": "localhost"}, "https://localhost:4000/v1"),
        ({"expose": "ingress", "host": "llm.example.org", "class_name": "nginx"}, "https://llm.example.org/v1"),
    ],
)
def test_a_gateway_with_a_name_is_asked_by_it(site, gateway, url):
    before = len(site.api.requests)
    assert url_for(platform(**gateway), site.target.cluster) == url
    assert len(site.api.requests) == before


@pytest.mark.parametrize("gateway", [{}, {"host": "llm.example.org"}, {"expose": "load-balancer"}])
def test_one_that_nothing_outside_leads_to_is_asked_through_the_api_server(site, gateway):
    site.api.add(gateway_pod(), "kiva")
    site.kubelet.tick(3)
    assert re.fullmatch(r"https://127\.0\.0\.1:\d+/v1", url_for(platform(**gateway), site.target.cluster))
    assert any(one.path.endswith("/pods/kiva-gateway-a/portforward") for one in site.api.requests)


def test_with_somebody_elses_certificate_a_forwarded_port_is_no_way(site):
    with pytest.raises(PreconditionError) as failure:
        url_for(platform(certificate="cluster-issuer:letsencrypt"), site.target.cluster)
    assert failure.value.message == "the gateway's certificate is somebody else's, so it is only good under the gateway's own name"
    assert failure.value.hint.startswith("set `kubernetes.gateway.host`")


def test_without_a_ready_pod_there_is_no_way(site):
    with pytest.raises(NotReadyError) as failure:
        url_for(platform(), site.target.cluster)
    assert (failure.value.message, failure.value.hint) == ("there is no pod of the gateway", "kivactl status")
    site.kubelet.script(pods="kiva-gateway-*", trouble="NotReady")
    site.api.add(gateway_pod(), "kiva")
    with pytest.raises(NotReadyError, match="no pod of the gateway is ready"):
        url_for(platform(), site.target.cluster)

"""Names on Kubernetes: valid, short, and never the same for two things."""

from __future__ import annotations

import re

import pytest
from cluster_specs import model, platform_on_cluster
from hypothesis import given
from hypothesis import strategies as st

from kivactl.spec.fields import NAME
from kivactl.stack.kubernetes.names import (
    gateway_names,
    gateway_release,
    label_for,
    monitoring_release,
    release_for,
    service_host,
    tls_secret,
    weights_folder,
)

LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
SERVICE = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
NAMES = st.from_regex(NAME, fullmatch=True)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("smollm2-135m-instruct", "smollm2-135m-instruct"),
        ("7b", "7b"),
        ("qwen2.5-7b", "qwen2-5-7b-5f5e97"),
        ("a" * 41, "a" * 33 + "-c0f8bd"),
        ("gateway", "gateway-4ea5ee"),
        ("m-all", "m-all-c3f0b9"),
        ("m-green", "m-green-4b74e3"),
    ],
)
def test_a_name_stays_unless_it_is_none(name, label):
    assert label_for(name) == label


@given(NAMES, NAMES)
def test_labels_are_valid_and_tell_names_apart(one, other):
    assert LABEL.fullmatch(label_for(one))
    assert len(label_for(one)) <= 40
    assert (label_for(one) == label_for(other)) == (one == other)


@given(NAMES, NAMES)
def test_releases_are_names_of_services_with_room_for_what_is_appended(name, one):
    spec = platform_on_cluster(model(one), name=name)
    releases = {gateway_release(spec), monitoring_release(spec), release_for(spec, one)}
    assert len(releases) == 3
    assert all(SERVICE.fullmatch(f"{release}-all") and len(release) <= 45 for release in releases)


def test_what_a_name_becomes_is_for_ever():
    """Another rule would be another release, and an outage: these stay."""
    spec = platform_on_cluster(model("qwen2.5-7b"))
    assert release_for(spec, "smollm2") == "kiva-smollm2"
    assert release_for(spec, "qwen2.5-7b") == "kiva-qwen2-5-7b-5f5e97"
    assert gateway_release(spec) == "kiva-gateway"
    assert service_host(spec, "smollm2") == "kiva-smollm2.kiva.svc.cluster.local"


def test_two_versions_of_a_model_never_share_a_folder():
    spec = platform_on_cluster()
    (one,) = spec.models
    other = one.model_copy(update={"revision": "main"})
    assert re.fullmatch(r"/models/qwen/[0-9a-f]{12}", weights_folder(spec, one))
    assert weights_folder(spec, one) != weights_folder(spec, other)


@pytest.mark.parametrize(("source", "values"), [("path:/srv/m", {}), ("a/b", {"storage": {"size": "1GiB", "preload": False}})])
def test_what_people_put_there_has_a_folder_that_they_can_name(source, values):
    spec = platform_on_cluster(model(source=source), cluster_values=values)
    assert weights_folder(spec, spec.models[0]) == "/models/qwen"


def test_the_gateways_names_are_those_outside_and_inside():
    spec = platform_on_cluster(cluster_values={"gateway": {"host": "llm.example.org"}, "namespace": "llm"})
    assert gateway_names(spec) == (
        "llm.example.org",
        "localhost",
        "kiva-gateway",
        "kiva-gateway.llm",
        "kiva-gateway.llm.svc",
        "kiva-gateway.llm.svc.cluster.local",
    )


@pytest.mark.parametrize(("certificate", "secret"), [("own", "kiva-gateway-tls"), ("cert-manager:letsencrypt", "kiva-gateway-tls"), ("secret:mine", "mine")])
def test_the_certificates_secret(certificate, secret):
    assert tls_secret(platform_on_cluster(cluster_values={"gateway": {"certificate": certificate}})) == secret

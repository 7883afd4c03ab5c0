"""The gateway's configuration: what the spec says is what Envoy gets, and Envoy accepts it."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kivactl.spec.gateway import Gateway, Tenant
from kivactl.spec.platform import Model, Platform
from kivactl.stack import gateway, refusals
from kivactl.tools import envoy

JWKS = {
    "keys": [
        {
            "kty": "EC",
            "crv": "P-256",
            "kid": "k1",
            "alg": "ES256",
            "use": "sig",
            "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        }
    ]
}


def files(folder: Path) -> gateway.Files:
    return gateway.Files(folder, folder / "admin.sock", folder / "gateway.pem", folder / "gateway.key")


def platform(*models: str, **gateway_values: object) -> Platform:
    return Platform(name="kiva", models=tuple(Model(name=name, source="x") for name in models), gateway=Gateway(**gateway_values))


def manager(listeners: dict) -> dict:
    return listeners["resources"][0]["filter_chains"][0]["filters"][0]["typed_config"]


def test_only_tls_1_3_is_spoken(tmp_path):
    context = gateway.listeners_for(platform("m"), files(tmp_path), JWKS)["resources"][0]["filter_chains"][0]["transport_socket"]["typed_config"]
    assert context["common_tls_context"]["tls_params"] == {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"}


def test_listens_on_loopback_unless_told_otherwise(tmp_path):
    listener = gateway.listeners_for(platform("m"), files(tmp_path), JWKS)["resources"][0]
    assert listener["address"]["socket_address"] == {"address": "127.0.0.1", "port_value": 4000}


def test_the_token_is_checked_first_and_never_forwarded(tmp_path):
    filters = manager(gateway.listeners_for(platform("m"), files(tmp_path), JWKS))["http_filters"]
    assert [entry["name"].rsplit(".", 1)[-1] for entry in filters] == ["jwt_authn", "rbac", "buffer", "json_to_metadata", "router"]
    provider = filters[0]["typed_config"]["providers"]["kiva"]
    assert provider["forward"] is False
    assert provider["issuer"] == "kiva:kiva"


def test_only_tenants_of_the_spec_are_let_in(tmp_path):
    listeners = gateway.listeners_for(platform("m", tenants=(Tenant(name="police"), Tenant(name="tax"))), files(tmp_path), JWKS)
    principals = manager(listeners)["http_filters"][1]["typed_config"]["rules"]["policies"]["tenants"]["principals"]
    assert [principal["sourced_metadata"]["metadata_matcher"]["value"]["string_match"]["exact"] for principal in principals] == ["police", "tax"]


def test_every_model_has_a_route_and_a_cluster(tmp_path):
    spec = platform("a", "b")
    routes = [route for route in gateway.routes_for(spec) if "route" in route]
    assert [route["route"]["cluster"] for route in routes] == ["engine-a", "engine-b"]
    assert [cluster["name"] for cluster in gateway.clusters_for(spec, files(tmp_path))["resources"]] == ["engine-a", "engine-b"]


def test_the_list_of_models_is_answered_by_the_gateway_itself():
    body = json.loads(gateway.routes_for(platform("a", "b"))[0]["direct_response"]["body"]["inline_string"])
    assert [model["id"] for model in body["data"]] == ["a", "b"]


def test_a_draining_replica_is_marked():
    replicas = [gateway.Replica("a", Path("/run/a.sock")), gateway.Replica("b", Path("/run/b.sock"), draining=True)]
    endpoints = gateway.endpoints_for("m", replicas)["resources"][0]["endpoints"][0]["lb_endpoints"]
    assert [endpoint["health_status"] for endpoint in endpoints] == ["UNKNOWN", "DRAINING"]


@pytest.mark.parametrize("mapper", refusals.local_replies()["mappers"])
def test_every_refusal_is_openai_shaped(mapper):
    error = mapper["body_format_override"]["json_format"]["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"].endswith(".")


def test_refusals_worth_repeating_say_when():
    after = {
        mapper["filter"]["and_filter"]["filters"][0]["status_code_filter"]["comparison"]["value"]["default_value"]: mapper["headers_to_add"]
        for mapper in refusals.local_replies()["mappers"]
    }
    assert all(after[status] for status in (429, 502, 503, 504))
    assert not after[401]


names = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?", fullmatch=True)


@pytest.mark.real
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    models=st.lists(names, min_size=1, max_size=5, unique=True),
    tenants=st.lists(names, min_size=1, max_size=5, unique=True),
    request_size=st.integers(1024, 2**30),
    port=st.integers(1, 65535),
)
def test_envoy_accepts_whatever_the_spec_allows(tmp_path, models, tenants, request_size, port, certificate):
    spec = platform(*models, tenants=tuple(Tenant(name=name) for name in tenants), port=port)
    spec = spec.model_copy(update={"gateway": spec.gateway.model_copy(update={"request_size": request_size})})
    where = gateway.Files(tmp_path, tmp_path / "admin.sock", *certificate)
    whole = gateway.validation_for(
        gateway.bootstrap_for(spec, where), gateway.listeners_for(spec, where, JWKS), gateway.clusters_for(spec, where), gateway.certificate_for(where)
    )
    config = tmp_path / "whole.json"
    config.write_text(json.dumps(whole))
    envoy.validate(envoy.find_envoy(), config)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    from kivactl.tools import process

    folder = tmp_path_factory.mktemp("certificate")
    process.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            "/CN=localhost",
            "-days",
            "2",
            "-keyout",
            folder / "key.pem",
            "-out",
            folder / "certificate.pem",
        ]
    )
    return folder / "certificate.pem", folder / "key.pem"

"""The whole configuration: what every request passes, and that Envoy accepts whatever the spec allows."""

import json
import re
from pathlib import Path

import pytest
from gateway_specs import JWKS, files, platform, platforms, replicas
from generated import examples
from hypothesis import given

from kivactl.stack.engine import GIB, Share
from kivactl.stack.gateway import access, listener, quota
from kivactl.stack.gateway.bootstrap import validation_for
from kivactl.stack.layout import Layout
from kivactl.stack.monitoring import scrape_targets_for
from kivactl.targets.desired import Weights, desired_for, gateway_files
from kivactl.tools import envoy


def gateway_listener(spec, tmp_path):
    return listener.listeners_for(spec, files(tmp_path), replicas(spec))["resources"][0]


def manager(spec, tmp_path):
    return gateway_listener(spec, tmp_path)["filter_chains"][0]["filters"][0]["typed_config"]


def test_only_tls_1_3_is_spoken(tmp_path):
    context = gateway_listener(platform("m"), tmp_path)["filter_chains"][0]["transport_socket"]["typed_config"]
    assert context["common_tls_context"]["tls_params"] == {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"}


def test_everything_listens_on_loopback_unless_told_otherwise(tmp_path):
    listeners = listener.listeners_for(platform("m"), files(tmp_path), {})["resources"]
    addresses = [entry["address"]["socket_address"] for entry in listeners if "socket_address" in entry["address"]]
    assert addresses == [{"address": "127.0.0.1", "port_value": 4000}, {"address": "127.0.0.1", "port_value": 4001}]


def test_the_order_of_the_filters(tmp_path):
    names = [entry["name"].rsplit(".", 1)[-1] for entry in manager(platform("m"), tmp_path)["http_filters"]]
    assert names == ["authentication", "revocation", "buffer", "json_to_metadata", "model_from_path", "admission", "quota", "limits", "router"]


def test_scripts_run_only_where_the_spec_needs_them(tmp_path):
    spec = platform("m", issuers=[{"issuer": "https://sso.example", "audience": "a", "jwks": "/keys"}])
    assert "kiva.claims" in [entry["name"] for entry in manager(spec, tmp_path)["http_filters"]]


def test_who_may_ask_seldom_is_told_to_wait_longer(tmp_path):
    spec = platform("m", tenants=[{"name": "t", "requests_per_minute": 5}, {"name": "u", "requests_per_minute": 600}])
    first = manager(spec, tmp_path)["local_reply_config"]["mappers"][0]
    assert first["headers_to_add"][0]["header"] == {"key": "retry-after", "value": "12"}
    assert "'t'" in json.dumps(first["filter"])
    assert "'u'" not in json.dumps(first["filter"])


@pytest.mark.parametrize(
    ("name", "dropped"),
    [
        *((name, True) for name in ("x-kiva-tenant", "X-Kiva-Token", "x-kiva-priority", "x-kiva-cluster", "x-kiva-pause", "x-request-id")),
        *((name, True) for name in ("x-envoy-retry-on", "x-vllm-priority", "x-forwarded-for", "cookie", "te", "proxy-authorization")),
        *((name, False) for name in ("x-kiva-version", "authorization", "content-type", "traceparent", "user-agent", "x-stainless-lang", "accept")),
    ],
)
def test_what_clients_have_no_say_in_is_dropped(tmp_path, name, dropped):
    [mutation] = manager(platform("m"), tmp_path)["early_header_mutation_extensions"][0]["typed_config"]["mutations"]
    assert bool(re.fullmatch(mutation["remove_on_match"]["key_matcher"]["safe_regex"]["regex"], name)) == dropped


def test_the_access_log_has_no_text_and_no_token(tmp_path):
    log = json.dumps(listener.access_log(files(tmp_path)))
    assert "AUTHORIZATION" not in log.upper()
    assert "BODY" not in log.upper()


def test_the_metrics_port_gives_metrics_only(tmp_path):
    spec = platform("m")
    metrics = listener.listeners_for(spec, files(tmp_path), replicas(spec))["resources"][2]["filter_chains"][0]["filters"][0]["typed_config"]
    routes = metrics["route_config"]["virtual_hosts"][0]["routes"]
    assert [(route["match"]["path"], route["route"]["regex_rewrite"]["substitution"]) for route in routes] == [
        ("/metrics/gateway", "/stats/prometheus?usedonly"),
        ("/metrics/engines/m-0", "/metrics"),
    ]


def test_prometheus_gets_one_list_of_all_targets():
    spec = platform("m", metrics={"address": "0.0.0.0", "port": 9000})
    assert [(entry["targets"], entry["labels"]["__metrics_path__"]) for entry in scrape_targets_for(spec, {"m": ["m-0", "m-1"]})] == [
        (["127.0.0.1:9000"], "/metrics/gateway"),
        (["127.0.0.1:9000"], "/metrics/engines/m-0"),
        (["127.0.0.1:9000"], "/metrics/engines/m-1"),
    ]


@pytest.mark.real
@examples(0.25)
@given(spec=platforms())
def test_envoy_accepts_whatever_the_spec_allows(tmp_path_factory, certificate, spec):
    tls = spec.gateway.tls.model_copy(update={"certificate": str(certificate[0]), "key": str(certificate[1])})
    spec = spec.model_copy(update={"gateway": spec.gateway.model_copy(update={"tls": tls})})
    folder = tmp_path_factory.mktemp("gateway")
    layout = Layout(folder, folder)
    desired = desired_for(
        spec,
        layout,
        weights={model.name: Weights(Path("/w"), "w", 10) for model in spec.models},
        shares={model.name: [Share((0,), GIB)] * model.replicas for model in spec.models},
        jwks=JWKS,
        python=Path("/py"),
        envoy=Path("/envoy"),
        gateway_workers=1,
    )
    where = gateway_files(layout, spec)
    layout.logs.mkdir()
    exceeded = {tenant.name: {quota.EVERY_MODEL: quota.Reason.BUDGET} for tenant in spec.gateway.tenants[:1]}
    exceeded |= {tenant.name: dict.fromkeys(spec.names_for(tenant), quota.Reason.TOKENS) for tenant in spec.gateway.tenants[1:]}
    config = folder / "whole.json"
    config.write_text(
        json.dumps(
            validation_for({**desired.files, **desired.first, where.revoked: access.revocation_for(["a", "b"]), where.quota: quota.quota_for(exceeded)}, where)
        )
    )
    envoy.validate(envoy.find_envoy(), config)


def test_statistics_have_the_whole_name_of_a_model_with_dots(tmp_path):
    from kivactl.stack.gateway.clusters import clusters_for

    spec = platform("qwen-2.5", "m")
    named = {entry["name"]: entry.get("alt_stat_name") for entry in clusters_for(spec, files(tmp_path), replicas(spec))["resources"]}
    assert (named["engine-qwen-2.5"], named["engine-m"]) == ("engine-qwen-2_5", None)
    assert all("." not in (other or name) for name, other in named.items())

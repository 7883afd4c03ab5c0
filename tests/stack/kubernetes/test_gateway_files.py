"""The gateway's configuration in pods: the same as on one machine but for where things are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gateway_specs import JWKS, everything, files, platform, platforms
from generated import examples
from hypothesis import given

from kivactl.stack.gateway import access, routes
from kivactl.stack.gateway.bootstrap import validation_for
from kivactl.stack.gateway.clusters import Service, clusters_for
from kivactl.stack.gateway.listener import http_filters, listeners_for
from kivactl.stack.kubernetes.gateway_files import POD_FILES, gateway_command_for, pod_files_for
from kivactl.tools import envoy


def services(spec) -> dict[str, Service]:
    return {model.name: Service(f"kiva-{model.name.replace('.', '-')}.kiva.svc.cluster.local", 8000, 3) for model in spec.models}


def in_pods(spec, revoked=()) -> dict[str, Any]:
    return pod_files_for(spec, services(spec), JWKS, revoked)


def inside(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key of a configuration with its value, however deep."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield key, entry
            yield from inside(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from inside(entry)


@given(spec=platforms())
def test_who_is_let_in_and_who_answers_is_the_same_as_on_one_machine(spec):
    there = in_pods(spec, ["a", "b"])
    assert there["routes.json"] == routes.routes_for(spec)
    assert there["limits.json"] == access.limits_for(spec)
    assert there["admission.json"] == access.admission_for(spec)
    assert there["authentication.json"] == access.authentication_for(spec, JWKS)
    assert there["revoked.json"] == access.revocation_for(["a", "b"])


def _unwatched(value: Any) -> Any:
    """Without what says how a file changes, and with the names of files only."""
    if isinstance(value, list):
        return [_unwatched(entry) for entry in value]
    if isinstance(value, dict):
        return {
            key: Path(entry).name if key == "path" and str(entry).startswith("/") else _unwatched(entry)
            for key, entry in value.items()
            if key != "watched_directory"
        }
    return value


def test_what_a_request_passes_is_the_same_as_on_one_machine():
    spec = everything()
    assert _unwatched(http_filters(spec, POD_FILES)) == _unwatched(http_filters(spec, files(Path("/srv"))))
    here, there = (_unwatched(listeners_for(spec, where, {})["resources"][0]) for where in (files(Path("/srv")), POD_FILES))
    assert here == there


def test_what_a_model_can_take_is_the_same_as_on_one_machine():
    spec = platform("m", "n")
    names = {model.name: Service(f"{model.name}.kiva.svc", 8000, model.replicas) for model in spec.models}
    here = clusters_for(spec, files(Path("/srv")), {})["resources"]
    there = pod_files_for(spec, names, JWKS, ())["clusters.json"]["resources"]
    found = {"type", "eds_cluster_config", "typed_dns_resolver_config", "dns_lookup_family", "dns_refresh_rate", "respect_dns_ttl", "dns_failure_refresh_rate"}
    for one, other in zip(here[:2], there[:2], strict=True):
        assert {key: one[key] for key in one.keys() - found} == {key: other[key] for key in other.keys() - found - {"load_assignment"}}


def test_every_file_is_watched_by_the_folder_in_which_a_link_is_renamed():
    sources = [value for content in in_pods(everything()).values() for key, value in inside(content) if key == "path_config_source"]
    assert {source["path"] for source in sources} == {
        *(f"/etc/kiva/gateway/{name}.json" for name in ("listeners", "clusters", "routes", "certificate", "authentication", "revoked", "admission", "limits")),
        "/var/kiva/quota/quota.json",
    }
    assert all(source["watched_directory"] == {"path": str(Path(source["path"]).parent)} for source in sources)
    [certificate] = in_pods(platform("m"))["certificate.json"]["resources"]
    assert certificate["tls_certificate"]["watched_directory"] == {"path": "/etc/kiva/tls"}
    assert certificate["tls_certificate"]["private_key"] == {"filename": "/etc/kiva/tls/tls.key"}


def test_the_names_of_the_files_are_those_that_the_gateway_reads():
    assert set(in_pods(platform("m"))) == {
        *(f"{name}.json" for name in ("bootstrap", "listeners", "clusters", "routes", "certificate")),
        *(f"{name}.json" for name in ("authentication", "revoked", "admission", "limits", "quota")),
    }
    command = gateway_command_for(platform("m"), 2)
    assert command[:3] == ("/usr/local/bin/envoy", "--config-path", "/etc/kiva/gateway/bootstrap.json")


def test_replicas_are_found_by_name_every_second_and_the_waiting_room_is_the_last_choice():
    cluster = in_pods(platform("b.1"))["clusters.json"]["resources"][0]
    assert (cluster["name"], cluster["type"], cluster["dns_refresh_rate"], cluster["respect_dns_ttl"]) == ("engine-b.1", "STRICT_DNS", "1s", False)
    own, waiting = cluster["load_assignment"]["endpoints"]
    assert own["lb_endpoints"][0]["endpoint"]["address"]["socket_address"] == {"address": "kiva-b-1.kiva.svc.cluster.local", "port_value": 8000}
    assert waiting["priority"] == 1
    assert waiting["lb_endpoints"][0]["endpoint"]["address"] == {"socket_address": {"address": "127.0.0.1", "port_value": 4010}}
    assert cluster["circuit_breakers"]["thresholds"][0]["max_requests"] == 3 * (16 + 256), "room for the most replicas there will be"


def test_only_a_pods_own_commands_reach_the_waiting_room_and_the_drain():
    listeners = {entry["name"]: entry for entry in in_pods(platform("m"))["listeners.json"]["resources"]}
    assert {name: tuple(entry["address"]["socket_address"].values()) for name, entry in listeners.items()} == {
        "gateway": ("0.0.0.0", 4000),
        "waiting": ("127.0.0.1", 4010),
        "metrics": ("0.0.0.0", 4001),
        "operations": ("127.0.0.1", 4011),
    }


def test_a_spec_for_ipv6_listens_there():
    listeners = in_pods(platform("m", address="::1"))["listeners.json"]["resources"]
    assert listeners[0]["address"]["socket_address"]["address"] == "::"


def test_the_metrics_port_tells_the_kubelet_and_prometheus_and_nobody_else():
    metrics = in_pods(platform("m"))["listeners.json"]["resources"][2]
    [host] = metrics["filter_chains"][0]["filters"][0]["typed_config"]["route_config"]["virtual_hosts"]
    assert [route["match"]["path"] for route in host["routes"]] == ["/metrics/gateway", "/ready", "/live"]
    assert {route["match"]["headers"][0]["string_match"]["exact"] for route in host["routes"]} == {"GET"}


@pytest.mark.real
@examples(0.15)
@given(spec=platforms())
def test_envoy_accepts_it_whatever_the_spec_allows(tmp_path_factory, certificate, spec):
    from dataclasses import replace

    folder = tmp_path_factory.mktemp("pod")
    where = replace(POD_FILES, run=folder, certificate=certificate[0], certificate_key=certificate[1], access_log=folder / "access.log")
    content = pod_files_for(spec, services(spec), JWKS, ["a"], where)
    paths = (*(where.folder / name for name in content if name != "quota.json"), where.quota)
    config = folder / "whole.json"
    config.write_text(json.dumps(validation_for({path: content[path.name] for path in paths}, where)))
    envoy.validate(envoy.find_envoy(), config)

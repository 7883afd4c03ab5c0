"""Which cluster answers what, and how replicas are chosen and watched."""

import json
import re
from pathlib import Path

import pytest
from gateway_specs import files, platform, replicas

from kivactl.spec.platform import Model, Platform
from kivactl.stack.gateway.clusters import Replica, clusters_for, endpoints_for
from kivactl.stack.gateway.routes import routes_for


def routes(spec):
    return routes_for(spec)["resources"][0]["virtual_hosts"][0]["routes"]


def forwarding(spec):
    return [route for route in routes(spec) if "route" in route]


def clusters(spec, tmp_path):
    return {cluster["name"]: cluster for cluster in clusters_for(spec, files(tmp_path), replicas(spec))["resources"]}


def test_every_model_is_reached_by_body_and_by_path(tmp_path):
    spec = platform("a", "b.1")
    assert [route["route"]["cluster"] for route in forwarding(spec)] == ["engine-a", "engine-a", "engine-b.1", "engine-b.1"]
    by_path = forwarding(spec)[3]
    assert re.fullmatch(by_path["match"]["safe_regex"]["regex"], "/models/b.1/v1/chat/completions")
    assert not re.fullmatch(by_path["match"]["safe_regex"]["regex"], "/models/bx1/v1/chat/completions")
    assert {"engine-a", "engine-b.1", "admin", "metrics-a-0"} <= clusters(spec, tmp_path).keys()


@pytest.mark.parametrize("path", ["/v1/load_lora_adapter", "/metrics", "/v1/chat/completions/x", "/sleep", "/kiva/generating", "/v1/models/../metrics"])
def test_nothing_else_of_an_engine_is_reached(path):
    for route in forwarding(platform("m")):
        assert not re.fullmatch(route["match"]["safe_regex"]["regex"], path)


def test_the_list_of_models_is_answered_by_the_gateway_for_each_tenant():
    spec = platform("a", "b", tenants=[{"name": "t"}, {"name": "u", "models": ["b"]}, {"name": "v", "models": ["b"]}])
    lists = [route for route in routes(spec) if route["match"].get("path") == "/v1/models"]
    assert [[entry["id"] for entry in json.loads(route["direct_response"]["body"]["inline_string"])["data"]] for route in lists] == [["a", "b"], ["b"]]
    assert lists[1]["match"]["headers"][1]["string_match"]["safe_regex"]["regex"] == "u|v"


def test_an_alias_shares_out_by_weight_and_can_be_pinned():
    spec = platform("v1", "v2", aliases={"chat": {"v1": 90, "v2": 10}})
    of_alias = [route for route in forwarding(spec) if "chat" in json.dumps(route["match"].get("dynamic_metadata", ""))]
    *pinned, shared = of_alias
    assert [route["route"]["cluster"] for route in pinned] == ["engine-v1", "engine-v2"]
    assert [(cluster["name"], cluster["weight"]) for cluster in shared["route"]["weighted_clusters"]["clusters"]] == [("engine-v1", 90), ("engine-v2", 10)]


def test_a_version_without_weight_gets_nothing_but_can_be_pinned():
    spec = platform("blue", "green", aliases={"chat": {"blue": 0, "green": 1}})
    *pinned, shared = [route for route in forwarding(spec) if "chat" in json.dumps(route["match"].get("dynamic_metadata", ""))]
    assert shared["route"]["cluster"] == "engine-green"
    assert len(pinned) == 2


def test_who_goes_first_is_the_tenants_priority():
    spec = platform("m", tenants=[{"name": "a"}, {"name": "b"}, {"name": "rescue", "priority": "high"}])
    first, _, second, _ = forwarding(spec)
    assert first["route"]["priority"] == "HIGH"
    assert first["match"]["headers"][1]["string_match"]["safe_regex"]["regex"] == "rescue"
    assert second["route"]["priority"] == "DEFAULT"
    assert len(second["match"]["headers"]) == 1
    numbers = [int(route["request_headers_to_add"][0]["header"]["value"]) for route in (first, second)]
    assert numbers == sorted(numbers), "the lower number goes first"


def test_a_draining_replica_is_marked_and_the_waiting_room_is_the_last_choice(tmp_path):
    both = [Replica("a", Path("/run/a.sock")), Replica("b", Path("/run/b.sock"), draining=True)]
    own, waiting = endpoints_for("m", files(tmp_path), both)["resources"][0]["endpoints"]
    assert [endpoint["health_status"] for endpoint in own["lb_endpoints"]] == ["UNKNOWN", "DRAINING"]
    assert waiting["priority"] == 1
    assert len(endpoints_for("m", files(tmp_path), both, waiting=False)["resources"][0]["endpoints"]) == 1


def test_a_model_takes_as_many_requests_as_its_replicas_and_queues(tmp_path):
    spec = Platform(name="kiva", models=(Model(name="m", source="x", replicas=2, concurrency=8, queue=2),))
    normal, high = clusters(spec, tmp_path)["engine-m"]["circuit_breakers"]["thresholds"]
    assert normal["max_requests"] == 20
    assert high["max_requests"] > 20


def test_replicas_are_chosen_by_load_or_by_prefix(tmp_path):
    spec = Platform(name="kiva", models=(Model(name="m", source="x", replicas=2), Model(name="p", source="x", replicas=2, balance="prefix")))
    found = clusters(spec, tmp_path)
    assert found["engine-m"]["lb_policy"] == "LEAST_REQUEST"
    assert found["engine-p"]["lb_policy"] == "RING_HASH"
    assert found["engine-p"]["common_lb_config"]["consistent_hashing_lb_config"]["hash_balance_factor"] == 125


def test_health_is_a_generated_token(tmp_path):
    [check] = clusters(platform("m"), tmp_path)["engine-m"]["health_checks"]
    assert check["http_health_check"]["path"] == "/kiva/generating"


def test_a_foreign_identity_provider_is_reached_by_verified_tls(tmp_path):
    spec = platform("m", issuers=[{"issuer": "https://sso.example", "audience": "k", "jwks": "https://sso.example/keys", "ca": "/ca.pem"}])
    cluster = clusters(spec, tmp_path)["issuer-0"]
    validation = cluster["transport_socket"]["typed_config"]["common_tls_context"]["validation_context"]
    assert validation["trusted_ca"] == {"filename": "/ca.pem"}
    assert validation["match_typed_subject_alt_names"][0]["matcher"] == {"exact": "sso.example"}

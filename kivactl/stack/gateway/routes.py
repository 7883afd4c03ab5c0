"""Which cluster answers what: by the model in the body or in the path, by weight between versions, by a pinned version."""

from __future__ import annotations

import json
from collections.abc import Mapping

from kivactl.spec.gateway import Tenant
from kivactl.spec.platform import Platform
from kivactl.stack.gateway import refusals
from kivactl.stack.gateway.access import TENANT
from kivactl.stack.gateway.affinity import AFFINITY
from kivactl.stack.gateway.files import ENGINE, Json, resources, seconds, type_url
from kivactl.stack.gateway.matching import METADATA, metadata_match

ROUTES = "gateway"

API_PATHS = ("chat/completions", "completions", "embeddings", "responses", "rerank", "score", "pooling", "classify")
"""What clients may ask of an engine, below `/v1/`. All else of an engine (metrics, LoRA loading, sleep) is unreachable."""

VERSION, CLUSTER, PRIORITY = "x-kiva-version", "x-kiva-cluster", "x-kiva-priority"
"""Headers: which version of an alias a client wants; which cluster the waiting room tries again; who goes first (for the engine)."""

_PRIORITIES = {"high": -10, "normal": 0, "low": 10}
"""What vLLM's priority scheduling takes: the lower number goes first."""

MODEL_FROM_PATH = "kiva.model_from_path"
"""Name of the filter that takes the model from the path where a route says so."""

_API = f"({'|'.join(API_PATHS)})"


def cluster_name(model: str) -> str:
    """Name of a model's cluster in Envoy's configuration and statistics."""
    return f"{ENGINE}{model}"


def routes_for(platform: Platform) -> Json:
    """The content of the routes file."""
    host = {"name": ROUTES, "domains": ["*"], "routes": [_two_hosts(), *_lists(platform), *_to_models(platform), *_refusals()]}
    return resources(
        [
            {
                "@type": type_url("config.route.v3.RouteConfiguration"),
                "name": ROUTES,
                "virtual_hosts": [host],
                "request_headers_to_remove": ["authorization", "x-envoy-internal", "x-envoy-external-address", VERSION],
            }
        ]
    )


def _two_hosts() -> Json:
    """RFC 9112, 3.2: a request with two Host headers, which Envoy joins by a comma, is malformed."""
    return refusals.route({"prefix": "/", "headers": [{"name": ":authority", "string_match": {"contains": ","}}]}, refusals.TWO_HOSTS)


def _lists(platform: Platform) -> list[Json]:
    """`GET /v1/models` and `GET /v1/models/NAME`: what the tenant may use, answered by the gateway itself."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for tenant in platform.gateway.tenants:
        groups.setdefault(platform.names_for(tenant), []).append(tenant.name)
    routes = []
    for names, tenants in groups.items():
        entries = {name: {"id": name, "object": "model", "created": 0, "owned_by": platform.name} for name in names}
        condition = _of_tenants(tenants, len(platform.gateway.tenants))
        routes.append(_answer({"path": "/v1/models", "headers": [*_method("GET"), *condition]}, {"object": "list", "data": list(entries.values())}))
        routes += [_answer({"path": f"/v1/models/{name}", "headers": [*_method("GET"), *condition]}, entry) for name, entry in entries.items()]
    routes.append(refusals.route({"prefix": "/v1/models/", "headers": _method("GET")}, refusals.UNKNOWN_MODEL))
    return routes


def _to_models(platform: Platform) -> list[Json]:
    """For each public name and priority: by the body's `model`, and by the path `/models/NAME/v1/...`; pinned versions first."""
    routes = []
    for name, shares in _shares(platform).items():
        by_body = {
            "safe_regex": {"regex": f"/v1/{_API}"},
            "dynamic_metadata": [metadata_match("model", {"string_match": {"exact": name}})],
        }
        by_path = {"safe_regex": {"regex": f"/models/{_escaped(name)}/v1/{_API}"}}
        for priority, condition in _by_priority(platform):
            for model in shares if len(shares) > 1 else ():
                pinned = [*_method("POST"), *condition, {"name": VERSION, "string_match": {"exact": model}}]
                forward = _forward(platform, {model: 1}, priority)
                routes += [{"match": {**by_body, "headers": pinned}, **forward}, _by_path(name, {**by_path, "headers": pinned}, forward)]
            anyone = [*_method("POST"), *condition]
            forward = _forward(platform, shares, priority)
            routes += [{"match": {**by_body, "headers": anyone}, **forward}, _by_path(name, {**by_path, "headers": anyone}, forward)]
    return routes


def _refusals() -> list[Json]:
    api = {"safe_regex": {"regex": f"/v1/{_API}"}}
    post = {"headers": _method("POST")}
    return [
        refusals.route({**api, **post, "dynamic_metadata": [metadata_match("model", {"present_match": True})]}, refusals.UNKNOWN_MODEL),
        refusals.route({**api, **post}, refusals.NO_MODEL),
        refusals.route(api, refusals.WRONG_METHOD),
        refusals.route({"safe_regex": {"regex": f"/models/[^/]+/v1/{_API}"}}, refusals.UNKNOWN_MODEL),
        refusals.route({"prefix": "/"}, refusals.UNKNOWN_PATH),
    ]


def _shares(platform: Platform) -> dict[str, Mapping[str, int]]:
    """The models behind each public name, with their weights."""
    return {**{model.name: {model.name: 1} for model in platform.models}, **{alias.name: alias.models for alias in platform.aliases}}


def _forward(platform: Platform, shares: Mapping[str, int], priority: str) -> Json:
    """To one cluster, or to several by weight; each request carries where it goes, for the waiting room and the engine."""
    weighted = [(model, weight) for model, weight in shares.items() if weight > 0] or [(model, 1) for model in shares]
    towards = {cluster_name(model): weight for model, weight in weighted}
    clusters = [{"name": name, "weight": weight, "request_headers_to_add": [_header(CLUSTER, name)]} for name, weight in towards.items()]
    only = next(iter(towards))
    return {
        "route": {
            **({"weighted_clusters": {"clusters": clusters}} if len(clusters) > 1 else {"cluster": only}),
            "timeout": seconds(platform.gateway.request_timeout),
            "host_rewrite_literal": "engine",
            "retry_policy": retries(),
            "priority": "HIGH" if priority == "high" else "DEFAULT",
            "hash_policy": [{"header": {"header_name": AFFINITY}, "terminal": True}],
        },
        "request_headers_to_add": [
            _header(PRIORITY, str(_PRIORITIES[priority])),
            *([_header(CLUSTER, only)] if len(clusters) == 1 else []),
        ],
    }


def retries(most: int = 4) -> Json:
    """Try again elsewhere as long as the client has seen nothing: never on a replica that was tried, with growing pauses."""
    return {
        "retry_on": "connect-failure,refused-stream,reset,reset-before-request",
        "num_retries": most,
        "retry_host_predicate": [
            {"name": "previous_hosts", "typed_config": {"@type": type_url("extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate")}}
        ],
        "host_selection_retry_max_attempts": 20,
        "retry_back_off": {"base_interval": "0.1s", "max_interval": "2s"},
    }


def _by_priority(platform: Platform) -> list[tuple[str, list[Json]]]:
    """The priorities that tenants have, with the condition for each; the most frequent comes last and needs none."""
    tenants: dict[str, list[Tenant]] = {}
    for tenant in platform.gateway.tenants:
        tenants.setdefault(tenant.priority, []).append(tenant)
    ordered = sorted(tenants, key=lambda priority: len(tenants[priority]))
    return [
        (priority, _of_tenants([tenant.name for tenant in tenants[priority]], 0 if number < len(ordered) else len(tenants[priority])))
        for number, priority in enumerate(ordered, 1)
    ]


def _of_tenants(names: list[str], of_all: int) -> list[Json]:
    """A route's condition that one of these tenants asks; none when these are all."""
    if len(names) == of_all:
        return []
    return [{"name": TENANT, "string_match": {"safe_regex": {"regex": "|".join(map(_escaped, names))}}}]


def _by_path(name: str, match: Json, forward: Json) -> Json:
    """A route whose path names the model: the rules and the log learn it as from a body, the engine gets the usual path."""
    rule = {"header": ":path", "on_header_present": {"metadata_namespace": METADATA, "key": "model", "value": name}}
    config = {"@type": type_url("extensions.filters.http.header_to_metadata.v3.Config"), "request_rules": [rule]}
    rewrite = {"pattern": {"regex": "^/models/[^/]+/v1/"}, "substitution": "/v1/"}
    return {"match": match, **forward, "route": {**forward["route"], "regex_rewrite": rewrite}, "typed_per_filter_config": {MODEL_FROM_PATH: config}}


def _answer(match: Json, body: Json) -> Json:
    return {
        "match": match,
        "direct_response": {"status": 200, "body": {"inline_string": json.dumps(body)}},
        "response_headers_to_add": [_header("content-type", "application/json")],
    }


def _method(name: str) -> list[Json]:
    return [{"name": ":method", "string_match": {"exact": name}}]


def _header(key: str, value: str) -> Json:
    return {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _escaped(name: str) -> str:
    """A name in a regular expression: of its characters only the dot means something there."""
    return name.replace(".", "\\.")

"""Rules about who may do what, as Envoy's RBAC filter reads them: a hash map on a header, a short list on metadata."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kivactl.stack.gateway.files import Json, type_url

RBAC = "extensions.filters.http.rbac.v3.RBAC"

METADATA = "kiva.request"
"""Namespace of what the filters find out about a request, for rules, routes and the access log."""


def allow() -> Json:
    """Let the request pass."""
    return _action("allowed", "ALLOW")


def deny(name: str) -> Json:
    """Refuse the request; the gateway's answer is worded by the name."""
    return _action(name, "DENY")


def by_header(header: str, branches: Mapping[str, Json], *, otherwise: Json) -> Json:
    """A rule by the exact value of a header.

    Args:
        header: Its name.
        branches: By value, `{"action": ...}` or `{"matcher": ...}`.
        otherwise: Action for every other value, and when the header is missing.
    """
    if not branches:  # Envoy wants at least one entry
        return {"on_no_match": {"action": otherwise}}
    attribute = {"name": header, "typed_config": {"@type": type_url("type.matcher.v3.HttpRequestHeaderMatchInput"), "header_name": header}}
    return {"matcher_tree": {"input": attribute, "exact_match_map": {"map": dict(branches)}}, "on_no_match": {"action": otherwise}}


def by_metadata(key: str, branches: Iterable[tuple[Iterable[str], Json]], *, otherwise: Json) -> Json:
    """A rule by what the filters found out.

    Args:
        key: Of the finding.
        branches: Values and the action for them.
        otherwise: Action for every other value, and when there is none.
    """
    matchers = [
        {"predicate": _any([_finding(key, {"string_match": {"exact": value}}) for value in values]), "on_match": {"action": action}}
        for values, action in branches
    ]
    return {"matcher_list": {"matchers": matchers}, "on_no_match": {"action": otherwise}}


def by_presence(key: str, action: Json, *, otherwise: Json) -> Json:
    """A rule by whether the filters found something out."""
    found = {"predicate": _finding(key, {"present_match": True}), "on_match": {"action": action}}
    return {"matcher_list": {"matchers": [found]}, "on_no_match": {"action": otherwise}}


def metadata_match(key: str, value: Json) -> Json:
    """A route's condition on what the filters found out."""
    return {"filter": METADATA, "path": [{"key": key}], "value": value}


def _any(predicates: list[Json]) -> Json:
    return predicates[0] if len(predicates) == 1 else {"or_matcher": {"predicate": predicates}}


def _finding(key: str, value: Json) -> Json:
    return {
        "single_predicate": {
            "input": {
                "name": "finding",
                "typed_config": {
                    "@type": type_url("extensions.matching.common_inputs.network.v3.DynamicMetadataInput"),
                    "filter": METADATA,
                    "path": [{"key": key}],
                },
            },
            "custom_match": {
                "name": "value",
                "typed_config": {
                    "@type": type_url("extensions.matching.input_matchers.metadata.v3.Metadata"),
                    "value": value,
                },
            },
        }
    }


def _action(name: str, action: str) -> Json:
    return {"name": name, "typed_config": {"@type": type_url("config.rbac.v3.Action"), "name": name, "action": action}}

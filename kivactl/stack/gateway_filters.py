"""What the gateway does with every request before it is routed, and what it writes down of it.

Part of `gateway`: token, tenant, size, model, in this order; each a filter of Envoy's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from kivactl.spec.platform import Platform

METADATA = "kiva.request"
"""Namespace of what the filters find out about a request, for routes and the access log."""

AUDIENCE = "kiva"

Json = dict[str, Any]


def http_filters(platform: Platform, jwks: Mapping[str, Any]) -> list[Json]:
    """The filters in the order a request passes them, the router last.

    Args:
        platform: The spec.
        jwks: Public keys that sign tokens, as a JSON Web Key Set.
    """
    return [
        *_authentication(platform, jwks),
        _body_limit(platform.gateway.request_size),
        _model_from_body(),
        {"name": "router", "typed_config": {"@type": type_url("extensions.filters.http.router.v3.Router"), "suppress_envoy_headers": True}},
    ]


def access_log() -> Json:
    """One JSON line a request, on standard output; no prompt, no answer, no token."""
    return {
        "name": "stdout",
        "typed_config": {
            "@type": type_url("extensions.access_loggers.stream.v3.StdoutAccessLog"),
            "log_format": {
                "json_format": {
                    "at": "%START_TIME%",
                    "request_id": "%REQ(X-REQUEST-ID)%",
                    "tenant": "%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:token:sub)%",
                    "token_id": "%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:token:jti)%",
                    "model": f"%DYNAMIC_METADATA({METADATA}:model)%",
                    "method": "%REQ(:METHOD)%",
                    "path": "%PATH(NQ:PATH)%",
                    "status": "%RESPONSE_CODE%",
                    "details": "%RESPONSE_CODE_DETAILS%",
                    "flags": "%RESPONSE_FLAGS%",
                    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
                    "first_byte_ms": "%RESPONSE_DURATION%",
                    "duration_ms": "%DURATION%",
                    "received_bytes": "%BYTES_RECEIVED%",
                    "sent_bytes": "%BYTES_SENT%",
                    "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
                    "replica": "%UPSTREAM_HOST%",
                }
            },
        },
    }


def metadata_match(key: str, value: Json) -> Json:
    """A route's condition on what the filters found out."""
    return {"filter": METADATA, "path": [{"key": key}], "value": value}


def type_url(name: str) -> str:
    """The name of one of Envoy's types in a configuration."""
    return f"type.googleapis.com/envoy.{name}"


def _authentication(platform: Platform, jwks: Mapping[str, Any]) -> list[Json]:
    """A token of this platform, of a tenant that the spec names; the engine never sees it."""
    provider = {
        "issuer": f"kiva:{platform.name}",
        "audiences": [AUDIENCE],
        "local_jwks": {"inline_string": json.dumps(jwks, sort_keys=True)},
        "forward": False,
        "payload_in_metadata": "token",
        "require_expiration": False,
        "jwt_cache_config": {"jwt_cache_size": 1000},
    }
    principals = [_subject(tenant.name) for tenant in platform.gateway.tenants]
    return [
        {
            "name": "envoy.filters.http.jwt_authn",
            "typed_config": {
                "@type": type_url("extensions.filters.http.jwt_authn.v3.JwtAuthentication"),
                "providers": {"kiva": provider},
                "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "kiva"}}],
            },
        },
        {
            "name": "envoy.filters.http.rbac",
            "typed_config": {
                "@type": type_url("extensions.filters.http.rbac.v3.RBAC"),
                "rules": {"action": "ALLOW", "policies": {"tenants": {"permissions": [{"any": True}], "principals": principals}}},
            },
        },
    ]


def _subject(tenant: str) -> Json:
    path = [{"key": "token"}, {"key": "sub"}]
    matcher = {"filter": "envoy.filters.http.jwt_authn", "path": path, "value": {"string_match": {"exact": tenant}}}
    return {"sourced_metadata": {"metadata_matcher": matcher}}


def _body_limit(size_bytes: int) -> Json:
    """Hold the body until it is whole: it is needed to choose the model and to try again on another replica."""
    return {
        "name": "envoy.filters.http.buffer",
        "typed_config": {"@type": type_url("extensions.filters.http.buffer.v3.Buffer"), "max_request_bytes": size_bytes},
    }


def _model_from_body() -> Json:
    """Read `model` from the JSON body, for the routes; requests of another content type name no model."""
    return {
        "name": "envoy.filters.http.json_to_metadata",
        "typed_config": {
            "@type": type_url("extensions.filters.http.json_to_metadata.v3.JsonToMetadata"),
            "request_rules": {
                "rules": [
                    {
                        "selectors": [{"key": "model"}],
                        "on_present": {"metadata_namespace": METADATA, "key": "model", "type": "STRING"},
                    }
                ]
            },
        },
    }

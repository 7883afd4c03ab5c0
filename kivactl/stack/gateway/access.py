"""Who is let in: which tokens are genuine, which are revoked, which tenant may use which model, and how often.

Each is a filter whose configuration is a file of its own, so that all of it changes while streams go on.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kivactl.spec.gateway import Issuer
from kivactl.spec.platform import Platform
from kivactl.stack.gateway.files import Files, Json, discoverable
from kivactl.stack.gateway.matching import METADATA, RBAC, allow, by_header, by_metadata, deny
from kivactl.stack.metering import OPERATOR

AUDIENCE = "kiva"

TENANT = "x-kiva-tenant"
TOKEN_ID = "x-kiva-token"  # noqa: S105  (the name of a header)
TOKEN_NAME = "x-kiva-token-name"  # noqa: S105  (the name of a header)
"""Headers that only the gateway sets: what clients send under these names is dropped."""

AUTHENTICATION, REVOCATION, ADMISSION, LIMITS = "kiva.authentication", "kiva.revocation", "kiva.admission", "kiva.limits"
"""Names of the filters."""

JWT_METADATA, CLAIMS = "envoy.filters.http.jwt_authn", "token"
"""Namespace and key under which the filter leaves the claims."""

_JWT = "extensions.filters.http.jwt_authn.v3.JwtAuthentication"
_LOCAL_LIMIT = "extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
_KEYS_FETCHED_EVERY = "15s"
"""A token signed by a key the gateway does not know yet is refused until the next fetch."""


def authentication_filter(files: Files) -> Json:
    """The filter that checks tokens."""
    return files.discovered(AUTHENTICATION, files.authentication, _JWT)


def revocation_filter(files: Files) -> Json:
    """The filter that refuses revoked tokens."""
    return files.discovered(REVOCATION, files.revoked, RBAC)


def admission_filter(files: Files) -> Json:
    """The filter that knows tenants and the models they may use."""
    return files.discovered(ADMISSION, files.admission, RBAC)


def limits_filter(files: Files) -> Json:
    """The filter that counts requests."""
    return files.discovered(LIMITS, files.limits, _LOCAL_LIMIT)


def authentication_for(platform: Platform, jwks: Mapping[str, Any]) -> Json:
    """The content of the authentication file: the platform's own keys and the identity providers of the spec.

    Args:
        platform: The spec.
        jwks: Public keys that sign the platform's tokens, as a JSON Web Key Set.
    """
    own = {
        **_provider(f"kiva:{platform.name}", AUDIENCE),
        "local_jwks": {"inline_string": json.dumps(jwks, sort_keys=True)},
        "require_expiration": False,
        "claim_to_headers": [{"claim_name": claim, "header_name": header} for claim, header in (("sub", TENANT), ("jti", TOKEN_ID), ("name", TOKEN_NAME))],
        "jwt_cache_config": {"jwt_cache_size": 1000},
    }
    others = {issuer_name(number): _foreign(number, issuer) for number, issuer in enumerate(platform.gateway.issuers)}
    names = ["kiva", *others]
    requires: Json = {"provider_name": "kiva"} if not others else {"requires_any": {"requirements": [{"provider_name": name} for name in names]}}
    return discoverable(AUTHENTICATION, _JWT, {"providers": {"kiva": own, **others}, "rules": [{"match": {"prefix": "/"}, "requires": requires}]})


def revocation_for(token_ids: Iterable[str]) -> Json:
    """The content of the revocation file.

    Args:
        token_ids: The `jti` of every token that is no longer good.
    """
    revoked = {token_id: {"action": deny("revoked")} for token_id in token_ids}
    return discoverable(REVOCATION, RBAC, {"matcher": by_header(TOKEN_ID, revoked, otherwise=allow())})


def keys_in(authentication: Mapping[str, Any]) -> Json | None:
    """The platform's own keys (a JSON Web Key Set) that a content of the authentication file has; None when it is not one of this version."""
    try:
        keys = json.loads(_own(authentication)["local_jwks"]["inline_string"])
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    return keys if isinstance(keys, dict) else None


def with_keys(authentication: Mapping[str, Any], jwks: Mapping[str, Any]) -> Json:
    """The same content with other keys of the platform's own; identity providers stay as they are.

    Raises:
        ValueError: It is not one of this version.
    """
    changed = copy.deepcopy(dict(authentication))
    try:
        _own(changed)["local_jwks"] = {"inline_string": json.dumps(jwks, sort_keys=True)}
    except (KeyError, IndexError, TypeError):
        msg = "not an authentication file of this version"
        raise ValueError(msg) from None
    return changed


def revoked_in(revocation: Mapping[str, Any]) -> frozenset[str] | None:
    """The ids of revoked tokens that a content of the revocation file has; None when it is not one of this version."""
    try:
        matcher = revocation["resources"][0]["typed_config"]["matcher"]
        return frozenset(matcher["matcher_tree"]["exact_match_map"]["map"] if "matcher_tree" in matcher else ())
    except (KeyError, IndexError, TypeError):
        return None


def admission_for(platform: Platform) -> Json:
    """The content of the admission file.

    A tenant of the spec may use its models; a request that names no model, or one the platform has not, goes on to the
    routes, which say so.
    """
    public = platform.public_names
    branches: dict[str, Json] = {OPERATOR: {"action": allow()}}
    for tenant in platform.gateway.tenants:
        forbidden = [name for name in public if name not in platform.names_for(tenant)]
        branches[tenant.name] = {"matcher": by_metadata("model", [(forbidden, deny("model"))], otherwise=allow())} if forbidden else {"action": allow()}
    return discoverable(ADMISSION, RBAC, {"matcher": by_header(TENANT, branches, otherwise=deny("tenant"))})


def limits_for(platform: Platform) -> Json:
    """The content of the limits file: requests per minute of a tenant for a model, a token bucket each, full at first."""
    descriptors = [
        {
            "entries": [{"key": "tenant", "value": tenant.name}, {"key": "model", "value": name}],
            "token_bucket": {"max_tokens": limit, "tokens_per_fill": limit, "fill_interval": "60s"},
        }
        for tenant in platform.gateway.tenants
        for name in platform.names_for(tenant)
        if (limit := tenant.limits_for(name).requests_per_minute) is not None
    ]
    whole = {"default_value": {"numerator": 100}}
    return discoverable(
        LIMITS,
        _LOCAL_LIMIT,
        {
            "stat_prefix": "limits",
            "filter_enabled": {**whole, "runtime_key": "kiva.limits.enabled"},
            "filter_enforced": {**whole, "runtime_key": "kiva.limits.enforced"},
            "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
            "descriptors": descriptors,
            "rate_limits": [
                {
                    "actions": [
                        {"request_headers": {"header_name": TENANT, "descriptor_key": "tenant"}},
                        {
                            "metadata": {
                                "descriptor_key": "model",
                                "metadata_key": {"key": METADATA, "path": [{"key": "model"}]},
                                "source": "DYNAMIC",
                            }
                        },
                    ]
                }
            ],
        },
    )


def issuer_name(number: int) -> str:
    """Name of an identity provider in Envoy's configuration, also of the cluster that fetches its keys."""
    return f"issuer-{number}"


def _own(authentication: Mapping[str, Any]) -> Json:
    """The platform's own provider in a content of the authentication file."""
    provider: Json = authentication["resources"][0]["typed_config"]["providers"]["kiva"]
    return provider


def _provider(issuer: str, audience: str) -> Json:
    """What all providers have in common: the token goes no further than the gateway."""
    return {
        "issuer": issuer,
        "audiences": [audience],
        "forward": False,
        "clear_route_cache": True,
        "from_headers": [{"name": "authorization", "value_prefix": "Bearer "}],
    }


def _foreign(number: int, issuer: Issuer) -> Json:
    # The whole payload costs time: only where a claim has to be found in it.
    provider = {**_provider(issuer.issuer, issuer.audience), "require_expiration": True, "clock_skew_seconds": 30, "payload_in_metadata": CLAIMS}
    if urlsplit(issuer.jwks).scheme not in {"http", "https"}:
        return {**provider, "local_jwks": {"filename": str(Path(issuer.jwks))}}
    fetch = {
        "http_uri": {"uri": issuer.jwks, "cluster": issuer_name(number), "timeout": "5s"},
        "cache_duration": _KEYS_FETCHED_EVERY,
        # Fetched in the background: a provider that is down delays neither the start nor a request.
        "async_fetch": {"fast_listener": True, "failed_refetch_duration": "2s"},
    }
    return {**provider, "remote_jwks": fetch}

"""The gateway's own answers, in OpenAI's error form, so that the official clients raise the right exception."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from kivactl.stack.gateway.files import Json, type_url


@dataclass(frozen=True, slots=True)
class Refusal:
    """One way to say no.

    Attributes:
        status: HTTP status.
        code: OpenAI's `error.code`.
        message: One sentence for the person who reads the client's exception.
        retry_after_s: Seconds after which trying again makes sense; None when it does not.
        retry: Whether a client should try again by itself.
    """

    status: int
    code: str
    message: str
    retry_after_s: int | None = None
    retry: bool = True

    @property
    def body(self) -> dict[str, Any]:
        """The answer's JSON."""
        return {"error": {"message": self.message, "type": self._kind, "param": None, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """Headers that say when to try again; `x-should-retry` is what OpenAI's clients obey."""
        after = {} if self.retry_after_s is None else {"retry-after": str(self.retry_after_s)}
        return after if self.retry else {**after, "x-should-retry": "false"}

    @property
    def _kind(self) -> str:
        kinds = {401: "authentication_error", 403: "permission_error", 429: "insufficient_quota" if not self.retry else "rate_limit_error"}
        return kinds.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")


UNKNOWN_MODEL = Refusal(404, "model_not_found", "This platform has no such model; GET /v1/models lists those your token may use.")
TWO_HOSTS = Refusal(400, "bad_request", "The request names two hosts.")
UNKNOWN_PATH = Refusal(404, "unknown_url", "This platform has no such path.")
NO_MODEL = Refusal(400, "missing_model", "The request needs a JSON body (content-type: application/json) that names a 'model'.")
WRONG_METHOD = Refusal(405, "method_not_allowed", "This path takes POST only.")
NO_REPLICA = Refusal(503, "unavailable", "No engine can take the request at the moment.", retry_after_s=5)

_BY_RULE = {
    "revoked": Refusal(401, "invalid_api_key", "This token has been revoked."),
    "tenant": Refusal(403, "unknown_tenant", "This token's tenant is not one of this platform's."),
    "model": Refusal(403, "model_not_allowed", "Your tenant may not use this model; GET /v1/models lists those it may."),
    "tokens": Refusal(429, "rate_limit_exceeded", "Your tenant has used up its tokens per minute.", retry_after_s=10),
    "budget": Refusal(429, "insufficient_quota", "Your tenant has used up its budget of this month.", retry_after_s=3600, retry=False),
}
"""By the name of the rule that refused; see `access` and `quota`."""

_NOT_OURS = "response.code_details != 'direct_response'"
_TOO_OFTEN = Refusal(429, "rate_limit_exceeded", "Your tenant has used up its requests per minute.", retry_after_s=1)
_BAD_TOKEN = Refusal(401, "invalid_api_key", "The token is missing, expired or not one of this platform's; send it as 'Authorization: Bearer TOKEN'.")

_BY_STATUS = (
    Refusal(400, "bad_request", "The request is malformed."),
    _BAD_TOKEN,
    Refusal(403, "forbidden", "This token's tenant may not do that."),
    UNKNOWN_PATH,
    WRONG_METHOD,
    Refusal(408, "request_timeout", "The request was not received in time."),
    Refusal(413, "request_too_large", "The request body is larger than this platform accepts."),
    Refusal(426, "upgrade_required", "The gateway speaks HTTP/1.1 and HTTP/2."),
    _TOO_OFTEN,
    Refusal(431, "headers_too_large", "The request headers are larger than this platform accepts."),
    Refusal(500, "internal_error", "The gateway failed."),
    Refusal(501, "not_implemented", "The gateway does not know this transfer coding or method."),
    Refusal(502, "bad_gateway", "The engine ended the request without an answer.", retry_after_s=1),
    NO_REPLICA,
    Refusal(504, "timeout", "The engine did not answer in time.", retry_after_s=5),
)

_OVERLOADED = Refusal(503, "overloaded", "Too many requests wait for this model.", retry_after_s=2)


def local_replies(slow_refills: Mapping[int, list[str]] | None = None) -> Json:
    """Envoy's `local_reply_config`: what it answers by itself; the first that fits, the most special first.

    Args:
        slow_refills: Tenants by the seconds until their limit lets one more request through.
    """
    slow = [
        _mapper(replace(_TOO_OFTEN, retry_after_s=wait_s), f"response.code_details == 'local_rate_limited' && request.headers['x-kiva-tenant'] in {tenants}")
        for wait_s, tenants in (slow_refills or {}).items()
    ]
    return {
        "mappers": [
            *slow,
            *(_mapper(refusal, f"response.code_details == 'rbac_access_denied_matched_policy[{rule}]'", instead_of=403) for rule, refusal in _BY_RULE.items()),
            # A token for somebody else (`aud`): Envoy says 403, but it is as good as none.
            _mapper(_BAD_TOKEN, "response.code_details.startsWith('jwt_authn_access_denied')", instead_of=403),
            _mapper(_OVERLOADED, "response.code_details.startsWith('upstream_reset_before_response_started{overflow')"),
            *(_mapper(refusal, _NOT_OURS) for refusal in _BY_STATUS),
        ]
    }


def route(match: Json, refusal: Refusal) -> Json:
    """A route that answers with a refusal."""
    headers = {"content-type": "application/json", **refusal.headers}
    return {
        "match": match,
        "direct_response": {"status": refusal.status, "body": {"inline_string": json.dumps(refusal.body)}},
        "response_headers_to_add": [_header(key, value) for key, value in headers.items()],
    }


def _mapper(refusal: Refusal, condition: str, *, instead_of: int | None = None) -> Json:
    """What to make of Envoy's own answer.

    Args:
        refusal: The answer instead.
        condition: CEL expression; the routes' refusals (`direct_response`) carry a text of their own.
        instead_of: Envoy's own status, where it differs from the refusal's.
    """
    status = instead_of or refusal.status
    by_status = {"status_code_filter": {"comparison": {"op": "EQ", "value": {"default_value": status, "runtime_key": "kiva.refusal"}}}}
    by_details = {
        "extension_filter": {
            "name": "cel",
            "typed_config": {"@type": type_url("extensions.access_loggers.filters.cel.v3.ExpressionFilter"), "expression": condition},
        }
    }
    return {
        "filter": {"and_filter": {"filters": [by_status, by_details]}},
        "status_code": refusal.status,
        "headers_to_add": [_header(key, value) for key, value in refusal.headers.items()],
        "body_format_override": {"json_format": refusal.body},
    }


def _header(key: str, value: str) -> Json:
    return {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}

"""The gateway's own answers, in OpenAI's error form, so that the official clients raise the right exception."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Refusal:
    """One way to say no.

    Attributes:
        status: HTTP status.
        code: OpenAI's `error.code`.
        message: One sentence for the person who reads the client's exception.
        retry_after_s: Seconds after which trying again makes sense; None when it does not.
    """

    status: int
    code: str
    message: str
    retry_after_s: int | None = None

    @property
    def body(self) -> dict[str, Any]:
        """The answer's JSON."""
        kind = "server_error" if self.status >= 500 else "authentication_error" if self.status == 401 else "invalid_request_error"
        return {"error": {"message": self.message, "type": kind, "param": None, "code": self.code}}


UNKNOWN_MODEL = Refusal(404, "model_not_found", "This platform has no such model; GET /v1/models lists those it has.")
UNKNOWN_PATH = Refusal(404, "unknown_url", "This platform has no such path.")
NO_MODEL = Refusal(400, "missing_model", "The request needs a JSON body (content-type: application/json) that names a 'model'.")

_BY_STATUS = (
    Refusal(400, "bad_request", "The request is malformed."),
    Refusal(401, "invalid_api_key", "The token is missing, expired or not one of this platform's; send it as 'Authorization: Bearer TOKEN'."),
    Refusal(403, "forbidden", "This token's tenant may not do that."),
    Refusal(404, "unknown_url", "This platform has no such path."),
    Refusal(408, "request_timeout", "The request was not received in time."),
    Refusal(413, "request_too_large", "The request body is larger than this platform accepts."),
    Refusal(429, "rate_limit_exceeded", "Too many requests.", retry_after_s=1),
    Refusal(431, "headers_too_large", "The request headers are larger than this platform accepts."),
    Refusal(500, "internal_error", "The gateway failed."),
    Refusal(502, "bad_gateway", "The engine ended the request without an answer.", retry_after_s=1),
    Refusal(503, "unavailable", "No engine can take the request at the moment.", retry_after_s=5),
    Refusal(504, "timeout", "The engine did not answer in time.", retry_after_s=5),
)


def local_replies() -> dict[str, Any]:
    """Envoy's `local_reply_config`: what it answers by itself, by status."""
    return {"mappers": [_mapper(refusal) for refusal in _BY_STATUS]}


def route(match: dict[str, Any], refusal: Refusal) -> dict[str, Any]:
    """A route that answers with a refusal."""
    return {
        "match": match,
        "direct_response": {"status": refusal.status, "body": {"inline_string": json.dumps(refusal.body)}},
        "response_headers_to_add": [{"header": {"key": "content-type", "value": "application/json"}}],
    }


def _mapper(refusal: Refusal) -> dict[str, Any]:
    headers = [{"header": {"key": "retry-after", "value": str(refusal.retry_after_s)}}] if refusal.retry_after_s else []
    return {
        "filter": {
            "and_filter": {
                "filters": [
                    {"status_code_filter": {"comparison": {"op": "EQ", "value": {"default_value": refusal.status, "runtime_key": "kiva.refusal"}}}},
                    # The routes' refusals carry a text of their own.
                    {
                        "extension_filter": {
                            "name": "cel",
                            "typed_config": {
                                "@type": "type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
                                "expression": "response.code_details != 'direct_response'",
                            },
                        }
                    },
                ]
            }
        },
        "headers_to_add": headers,
        "body_format_override": {"json_format": refusal.body},
    }

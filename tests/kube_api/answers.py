"""What the API says no with: a code, a reason and a sentence, as the real server words them."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    410: "Expired",
    413: "RequestEntityTooLarge",
    415: "UnsupportedMediaType",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


class Refusal(Exception):
    """The server does not do it.

    Args:
        code: Of HTTP.
        message: The sentence.
        reason: Of the API, by the code when None.
        details: Causes and the object meant.
        retry_after_s: Sent as `Retry-After`.
    """

    def __init__(self, code: int, message: str, reason: str | None = None, details: Json | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.retry_after_s = code, message, retry_after_s
        self.reason = REASONS.get(code, "") if reason is None else reason
        self.details = details or {}

    def status(self) -> Json:
        """The answer's body."""
        details = {**self.details, **({"retryAfterSeconds": self.retry_after_s} if self.retry_after_s is not None else {})}
        body: Json = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": self.message, "code": self.code}
        if self.reason:
            body["reason"] = self.reason
        if details:
            body["details"] = details
        return body


def resource_name(plural: str, group: str) -> str:
    """As sentences name a resource: `deployments.apps`, `pods`."""
    return f"{plural}.{group}" if group else plural


def not_found(plural: str, group: str, name: str) -> Refusal:
    return Refusal(404, f'{resource_name(plural, group)} "{name}" not found', details={"name": name, **_of(plural, group)})


def already_exists(plural: str, group: str, name: str) -> Refusal:
    return Refusal(409, f'{resource_name(plural, group)} "{name}" already exists', "AlreadyExists", {"name": name, **_of(plural, group)})


def conflict(plural: str, group: str, name: str) -> Refusal:
    why = "the object has been modified; please apply your changes to the latest version and try again"
    return Refusal(409, f'Operation cannot be fulfilled on {resource_name(plural, group)} "{name}": {why}', details={"name": name, **_of(plural, group)})


def invalid(kind: str, group: str, name: str, faults: list[tuple[str, str, str]]) -> Refusal:
    """Args: `faults` are (field, reason of the cause, sentence)."""
    causes = [{"field": field, "reason": reason, "message": sentence} for field, reason, sentence in faults]
    said = [f"{field}: {sentence}" for field, _, sentence in faults]
    text = said[0] if len(said) == 1 else f"[{', '.join(said)}]"
    named = f"{kind}.{group}" if group else kind
    return Refusal(422, f'{named} "{name}" is invalid: {text}', details={"name": name, "group": group, "kind": kind, "causes": causes})


def forbidden(plural: str, group: str, name: str, why: str) -> Refusal:
    return Refusal(403, f'{resource_name(plural, group)} "{name}" is forbidden: {why}', details={"name": name, **_of(plural, group)})


def _of(plural: str, group: str) -> Json:
    return {"group": group, "kind": plural} if group else {"kind": plural}

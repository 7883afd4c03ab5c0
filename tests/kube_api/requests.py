"""One request: what it asks for, read out of its address."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from kube_api import protobuf
from kube_api.answers import Refusal
from kube_api.kinds import Kind, Kinds

Json = dict[str, Any]

LARGEST = 3 * 1024 * 1024
"""Bytes of a body."""


@dataclass
class Request:
    """As it came in, and the code that answered it (0: no answer was sent).

    Attributes:
        method: Of HTTP.
        path: Without the query.
        query: Of each name the last value.
        verb: As the API calls it: `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; empty for what is of no kind.
        kind: Of what it asks for, None for discovery and the like.
        body: As sent.
        agent: What the program calls itself.
        content_type: Of the body.
        accept: What it wants.
        code: Of the answer.
    """

    method: str
    path: str
    query: dict[str, str]
    body: bytes = b""
    agent: str = ""
    content_type: str = ""
    accept: str = ""
    verb: str = ""
    kind: Kind | None = None
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    code: int = 0
    warnings: list[str] = field(default_factory=list)

    @property
    def kind_name(self) -> str:
        return self.kind.kind if self.kind else ""

    @property
    def dry_run(self) -> bool:
        return self.query.get("dryRun") == "All"

    @property
    def writes(self) -> bool:
        """Whether it is one that changes something."""
        return self.verb in {"create", "update", "patch", "delete", "deletecollection"} and not self.dry_run

    @property
    def manager(self) -> str:
        return self.query.get("fieldManager") or self.agent.split("/")[0] or "unknown"

    def value(self) -> Any:
        """The body, read.

        Raises:
            Refusal: It cannot be.
        """
        if not self.body:
            return {}
        if "protobuf" in self.content_type:
            try:
                return protobuf.decode(self.body)
            except (ValueError, KeyError, IndexError) as error:
                raise Refusal(415, f"the body of the request was in an unknown format - {error}") from None
        try:
            return json.loads(self.body)
        except ValueError:
            pass
        try:
            return yaml.load(self.body, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        except yaml.YAMLError as error:
            raise Refusal(400, f"error parsing the body: {error}") from None


def read(method: str, target: str, body: bytes, headers: Any) -> Request:
    """A request out of what HTTP has of it."""
    split = urlsplit(target)
    query = {key: values[-1] for key, values in parse_qs(split.query, keep_blank_values=True).items()}
    return Request(
        method,
        unquote(split.path),
        query,
        body,
        headers.get("User-Agent", ""),
        headers.get("Content-Type", ""),
        headers.get("Accept", ""),
    )


def locate(request: Request, kinds: Kinds) -> bool:
    """Find out what a request is of; whether it is of a kind at all.

    Raises:
        Refusal: There is no such kind.
    """
    parts = [part for part in request.path.split("/") if part]
    if parts[:1] == ["api"] and len(parts) > 2:
        group, version, rest = "", parts[1], parts[2:]
    elif parts[:1] == ["apis"] and len(parts) > 3:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return False
    if rest[:1] == ["namespaces"] and len(rest) > 2 and not (len(rest) == 3 and rest[2] in {"status", "finalize"}):
        request.namespace, rest = rest[1], rest[2:]
    kind = kinds.at(group, version, rest[0])
    if kind is None or len(rest) > 3:
        raise Refusal(404, "the server could not find the requested resource", details={})
    request.kind = kind
    request.name, request.subresource = [*rest[1:], "", ""][:2]
    if request.subresource and request.subresource not in kind.subresources:
        raise Refusal(404, "the server could not find the requested resource")
    watching = request.query.get("watch") in {"true", "1"}
    single = {"GET": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete", "POST": "create"}
    many = {"GET": "watch" if watching else "list", "POST": "create", "DELETE": "deletecollection"}
    request.verb = (single if request.name else many).get(request.method, "")
    if not request.verb:
        raise Refusal(405, "the server does not allow this method on the requested resource")
    return True

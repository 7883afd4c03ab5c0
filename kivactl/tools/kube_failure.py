"""The ways in which a cluster refuses or fails, each as one sentence. Pure.

Texts of the server are cut and stripped of what looks like a secret: admission webhooks and validation like to repeat what they were sent.
"""

from __future__ import annotations

import json
import re
import shlex
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus

from kivactl.errors import KivaError, ToolError
from kivactl.stack.redaction import redacted
from kivactl.tools.kube_errors import (
    AlreadyThere,
    Changed,
    Conflict,
    Denied,
    Expired,
    Guarded,
    Invalid,
    Missing,
    QuotaExceeded,
    Refused,
    Unauthenticated,
    Unreachable,
    Untrusted,
)
from kivactl.tools.kube_kinds import Kind
from kivactl.tools.kube_objects import Json, Owner

_LONGEST = 300
"""Characters of a text of the server that are shown."""

_DATA = re.compile(r"(?i)((?:invalid value|unsupported value|duplicate value): )(\"(?:[^\"\\]|\\.)*\"|\{.*\}|\[.*\])", re.DOTALL)
"""Validation repeats the value that it does not like, which in a Secret is the secret."""

_USER = re.compile(r'User "([^"]*)" cannot (\S+) resource "([^"]*)"')
_WEBHOOK = re.compile(r'admission webhook "([^"]+)" denied the request(?: without explanation)?:?\s*(.*)', re.DOTALL)
_UNREACHED = re.compile(r'failed calling webhook "([^"]+)":\s*(.*)', re.DOTALL)
_POLICY = re.compile(r"ValidatingAdmissionPolicy '([^']+)'(?: with binding '[^']+')? denied request: (.*)", re.DOTALL)
_SECURITY = re.compile(r'violates PodSecurity "([^"]+)": (.*)', re.DOTALL)
_QUOTA = re.compile(r"(exceeded quota: .*|failed quota: .*|maximum \w+ usage per .*|minimum \w+ usage per .*)", re.DOTALL)
_OWNER = re.compile(r'conflict with "([^"]+)"')


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked of which cluster, for the sentence about its answer.

    Attributes:
        context: Name of the cluster in the kubeconfig.
        server: Its URL.
        verb: As permissions name it: `get`, `patch`.
        kind: None where it is about no kind.
        name: Of the object; empty where it is about all.
        namespace: Empty for all, and for kinds without.
        subresource: Such as `log`.
        kubeconfig: The file that was named, for the commands that are recommended; empty for where kubectl looks by itself.
    """

    context: str
    server: str
    verb: str
    kind: Kind | None = None
    name: str = ""
    namespace: str = ""
    subresource: str = ""
    kubeconfig: str = ""

    @property
    def flags(self) -> str:
        """What leads kubectl to the cluster."""
        return flags_for(self.context, self.kubeconfig)

    @property
    def resource(self) -> str:
        """As permissions name it, such as `pods/log`."""
        return "/".join(part for part in (self.kind.resource if self.kind else "the API", self.subresource) if part)

    @property
    def place(self) -> str:
        """Where it is, such as `namespace kiva of cluster 'prod'`."""
        inside = f"namespace {self.namespace} of " if self.namespace and (self.kind is None or self.kind.namespaced) else ""
        return f"{inside}cluster '{self.context}'"

    @property
    def subject(self) -> str:
        """What it is about, such as `Deployment kiva-qwen`."""
        return " ".join(part for part in (self.kind.name if self.kind else "the API", self.name) if part)

    @property
    def can_i(self) -> str:
        """The command that shows whether a permission is there."""
        inside = f" -n {self.namespace}" if self.namespace and (self.kind is None or self.kind.namespaced) else ""
        return f"kubectl auth can-i {self.verb} {self.resource}{inside} {self.flags}"


def flags_for(context: str, kubeconfig: str) -> str:
    """What leads kubectl to a cluster: the context, and the file where one was named."""
    return f"--context {context}" + (f" --kubeconfig {shlex.quote(kubeconfig)}" if kubeconfig else "")


def told(text: str) -> str:
    """A text of the server as it may be shown: on one line, without secrets, not too long."""
    line = redacted(_DATA.sub(r"\1***", " ".join(text.split()))).rstrip(".")
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def _said(question: Question, text: str) -> str:
    """What the server says about an object; nothing that it may have read in a Secret."""
    if question.kind is not None and question.kind.name == "Secret":
        return "its words are kept back, they may hold what is secret"
    return told(text) or "it gives no reason"


def parse_status(body: bytes) -> Json | None:
    """The Status object in an answer; None when it is something else, which is nobody's to see."""
    try:
        status = json.loads(body)
    except ValueError:
        return None
    return status if isinstance(status, dict) and status.get("kind") == "Status" else None


def refusal_for(question: Question, code: int, body: bytes) -> KivaError:
    """The error for an answer of 400 and above.

    Args:
        question: What was asked.
        code: The HTTP status.
        body: As it came.
    """
    status = parse_status(body)
    if status is None:
        return _without_status(question, code)
    message = str(status.get("message") or "")
    reason = str(status.get("reason") or "")
    refused = _admission(question, message)
    if refused is not None:
        return refused
    match code:
        case HTTPStatus.UNAUTHORIZED:
            return _unauthenticated(question)
        case HTTPStatus.FORBIDDEN:
            return _forbidden(question, message)
        case HTTPStatus.NOT_FOUND:
            return _not_found(question, status)
        case HTTPStatus.CONFLICT:
            return _conflict(question, status, reason, message)
        case HTTPStatus.GONE:
            return Expired(f"cluster '{question.context}' has forgotten the history of {question.resource}")
        case HTTPStatus.UNPROCESSABLE_ENTITY | HTTPStatus.BAD_REQUEST:
            return _invalid(question, status, message)
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return Invalid(f"{question.subject} is larger than the API server of cluster '{question.context}' takes")
        case HTTPStatus.TOO_MANY_REQUESTS if budget := _budget_in(status):
            return Guarded(f"{question.subject} may not go now: {told(budget)}", f"kubectl {question.flags} -n {question.namespace} get poddisruptionbudgets")
        case HTTPStatus.TOO_MANY_REQUESTS:
            return Unreachable(f"the API server of cluster '{question.context}' is too busy: {told(message) or 'it says no more'}", "try again later")
        case HTTPStatus.INTERNAL_SERVER_ERROR if message.startswith("failed to create typed"):
            return _invalid(question, status, message)  # a field that the schema does not know, found by server-side apply
        case _ if code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return _failed(question, code, message)
        case _:
            return ToolError(f"cluster '{question.context}' refuses to {question.verb} {question.subject} with status {code}: {_said(question, message)}")


def fault_for(question: Question, error: BaseException) -> KivaError:
    """The error for an API server that gives no whole answer.

    Args:
        question: What was asked.
        error: What the connection said.
    """
    server = f"the API server of cluster '{question.context}' ({question.server})"
    causes = list(_causes(error))
    hint = f"kubectl {question.flags} version"
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Untrusted(
                f"the certificate of {server} is not vouched for by the authority in the kubeconfig: {cause.verify_message}",
                "fetch the cluster's kubeconfig anew, or set `certificate-authority-data` in it",
            )
    for cause in causes:
        match cause:
            case socket.gaierror():
                return Unreachable(f"the name of {server} is not known: {(cause.strerror or str(cause)).lower()}", hint)
            case ssl.SSLError():
                return Unreachable(f"{server} does not speak TLS as expected: {told(str(getattr(cause, 'reason', '') or cause))}", hint)
            case ConnectionRefusedError():
                return Unreachable(f"nothing answers at {server}: connection refused", hint)
            case ConnectionResetError() | BrokenPipeError():
                return Unreachable(f"{server} broke off the connection", hint)
            case TimeoutError():
                return Unreachable(f"{server} does not answer in time", hint)
            case OSError() if cause.strerror:
                return Unreachable(f"{server} cannot be reached: {cause.strerror.lower()}", hint)
    if any("timed out" in str(cause).lower() for cause in causes):
        return Unreachable(f"{server} does not answer in time", hint)
    return Unreachable(f"{server} broke off the connection: {told(str(causes[-1]) or type(causes[-1]).__name__)}", hint)


def unknown_kind(question: Question) -> Missing:
    """The error for a kind that the cluster does not serve."""
    assert question.kind is not None
    return Missing(
        f"cluster '{question.context}' knows no {question.kind.name} of {question.kind.api_version}",
        f"install what defines it, then look: kubectl api-resources {question.flags}",
    )


def _admission(question: Question, message: str) -> KivaError | None:
    """Admission says no with any status; what it says tells who it is."""
    if found := _UNREACHED.search(message):
        return _unreached(question, found[1], found[2])
    for pattern, name in ((_WEBHOOK, "the admission webhook {}"), (_POLICY, "the policy {}"), (_SECURITY, "the Pod Security level '{}'")):
        if found := pattern.search(message):
            who = name.format(found[1])
            error = Refused(
                f"{who} of cluster '{question.context}' refuses {question.subject}: {_said(question, found[2])}",
                "change the spec so that it is allowed, or ask whoever keeps the policy for an exception",
            )
            error.policy = found[1]
            return error
    return None


def _unreached(question: Question, webhook: str, why: str) -> Unreachable:
    return Unreachable(
        f"the admission webhook {webhook} of cluster '{question.context}', without which nothing is taken, gives no answer: {told(why.rpartition(': ')[2])}",
        f"look whether its pods run: kubectl get validatingwebhookconfigurations,mutatingwebhookconfigurations {question.flags}",
    )


def _unauthenticated(question: Question) -> Unauthenticated:
    return Unauthenticated(
        f"cluster '{question.context}' does not accept the credentials in the kubeconfig: they are wrong or have expired",
        f"log in again, then try: kubectl auth whoami {question.flags}",
    )


def _forbidden(question: Question, message: str) -> KivaError:
    if found := _USER.search(message):
        if found[1] == "system:anonymous":
            return Unauthenticated(f"cluster '{question.context}' got no credentials it knows", f"log in again: kubectl auth whoami {question.flags}")
        where = "" if not question.namespace or (question.kind and not question.kind.namespaced) else f" in namespace {question.namespace}"
        return Denied(
            f"the account {found[1]} lacks the permission to {found[2]} {question.resource}{where} of cluster '{question.context}'",
            f"ask for it, then check: {question.can_i}",
        )
    if found := _QUOTA.search(message):
        return QuotaExceeded(
            f"{question.place} has no room for {question.subject}: {told(found[1])}",
            f"kubectl describe resourcequota,limitrange -n {question.namespace} {question.flags}",
        )
    if "is being terminated" in message:
        return Missing(f"namespace {question.namespace} of cluster '{question.context}' is being deleted", "wait until it is gone, and make it anew")
    said = _said(question, message.partition("is forbidden: ")[2] or message)
    return Refused(f"cluster '{question.context}' forbids to {question.verb} {question.subject}: {said}", question.can_i)


def _not_found(question: Question, status: Json) -> Missing:
    details, _ = _details(status)
    if details.get("kind") == "namespaces" and question.namespace and (question.kind is None or question.kind.namespaced):
        return Missing(
            f"there is no namespace {question.namespace} in cluster '{question.context}'",
            f"kubectl create namespace {question.namespace} {question.flags}",
        )
    if question.subresource and question.kind and not details.get("name"):
        return Missing(
            f"{question.subject} in {question.place} cannot be asked for its {question.subresource}: {_said(question, str(status.get('message') or ''))}",
            f"kubectl get {question.kind.resource} {question.name} -n {question.namespace} {question.flags}",
        )
    if details.get("name") or not question.kind:
        error = Missing(f"there is no {question.subject} in {question.place}")
        error.object_only = True
        return error
    return unknown_kind(question)


def _conflict(question: Question, status: Json, reason: str, message: str) -> KivaError:
    causes = [one for one in _details(status)[1] if one.get("reason") == "FieldManagerConflict"]
    if causes:
        found = [(_OWNER.search(str(one.get("message") or "")), str(one.get("field") or "")) for one in causes]
        owners = tuple(Owner(match[1] if match else "someone", field) for match, field in found)
        first, more = owners[0], f" and {len(owners) - 1} more" if len(owners) > 1 else ""
        error = Conflict(
            f"{question.subject} in {question.place} was changed by '{first.manager}': {first.field}{more}",
            "see what differs: kivactl drift",
            tuple(f"{owner.field} is set by '{owner.manager}'" for owner in owners) if more else (),
        )
        error.owners = owners
        return error
    if reason == "AlreadyExists":
        being_deleted = "object is being deleted" in message
        return AlreadyThere(f"{question.subject} is already in {question.place}{', and being deleted' if being_deleted else ''}")
    return Changed(
        f"{question.subject} in {question.place} is being changed by someone else at the same time",
        "wait until they have finished, then run the same command again",
    )


def _invalid(question: Question, status: Json, message: str) -> KivaError:
    causes = _details(status)[1]
    lines = tuple(f"{one.get('field') or 'the object'}: {_said(question, str(one.get('message') or ''))}" for one in causes)
    said = lines[0] if len(lines) == 1 else f"{len(lines)} fields are wrong" if lines else _said(question, message)
    return Invalid(f"cluster '{question.context}' does not take {question.subject}: {said}", details=lines if len(lines) > 1 else ())


def _budget_in(status: Json) -> str:
    """What a PodDisruptionBudget says against an eviction; empty when it is about something else."""
    return next((str(one.get("message") or "") for one in _details(status)[1] if one.get("reason") == "DisruptionBudget"), "")


def _details(status: Json) -> tuple[Json, list[Json]]:
    """The details of a Status, and the causes in them; empty where it has none, or none of the form."""
    details = status.get("details")
    causes = details.get("causes") if isinstance(details, dict) else None
    return details if isinstance(details, dict) else {}, [one for one in causes if isinstance(one, dict)] if isinstance(causes, list) else []


def _failed(question: Question, code: int, message: str) -> Unreachable:
    return Unreachable(f"the API server of cluster '{question.context}' fails with status {code}: {told(message) or 'it says no more'}", "try again later")


def _without_status(question: Question, code: int) -> KivaError:
    match code:
        case HTTPStatus.UNAUTHORIZED:
            return _unauthenticated(question)
        case HTTPStatus.TOO_MANY_REQUESTS:
            return Unreachable(f"the API server of cluster '{question.context}' is too busy", "try again later")
        case _ if code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return Unreachable(f"{question.server} (cluster '{question.context}') answers with status {code}, and not as an API server does", "try again later")
        case _:
            return ToolError(
                f"{question.server} (cluster '{question.context}') answers with status {code}, and not as an API server does",
                "is `server` in the kubeconfig right, and no proxy in between?",
            )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what caused it; urllib3 keeps the cause as an argument or as `reason`."""
    seen: list[BaseException] = []
    todo: list[BaseException | None] = [error]
    while todo:
        cause = todo.pop(0)
        if cause is None or cause in seen:
            continue
        seen.append(cause)
        yield cause
        todo += [cause.__cause__, cause.__context__, *(one for one in (getattr(cause, "reason", None), *cause.args) if isinstance(one, BaseException))]

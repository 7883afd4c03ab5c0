"""Why Helm failed, in one sentence each, out of what it printed. Pure."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from kivactl.errors import KivaError, PreconditionError, ToolError
from kivactl.tools.kube_failure import flags_for


class NoRelease(PreconditionError):
    """The cluster answers, and there is no such release, or no such revision of it."""


class PendingRelease(PreconditionError):
    """Another helm is writing the release, or was killed while it did."""


class FieldConflict(PreconditionError):
    """A field that the release sets belongs to another program (Helm 4)."""


class UnreachableCluster(PreconditionError):
    """Nothing was asked of the cluster yet: it does not answer."""


class BrokenOff(ToolError):
    """The cluster was lost, or had no time, in the middle: some objects are written and some are not. The same again goes on from there."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where Helm worked, for sentences and hints.

    Attributes:
        context: Of the kubeconfig.
        namespace: In the cluster.
        release: Its name; empty when it was about all of them.
        kubeconfig: The file that was named; empty where none was.
    """

    context: str
    namespace: str
    release: str = ""
    kubeconfig: str = ""

    @property
    def flags(self) -> str:
        """What leads kubectl to the cluster."""
        return flags_for(self.context, self.kubeconfig)

    @property
    def helm(self) -> str:
        """The beginning of a command of Helm's that looks into it."""
        file = f" --kubeconfig {shlex.quote(self.kubeconfig)}" if self.kubeconfig else ""
        return f"helm --kube-context {self.context}{file} --namespace {self.namespace}"

    @property
    def kubectl(self) -> str:
        """The beginning of a command that looks into it."""
        return f"kubectl {self.flags} --namespace {self.namespace}"


@dataclass(frozen=True, slots=True)
class _Reason:
    pattern: re.Pattern[str]
    kind: type[KivaError]
    message: str
    hint: str


def _reason(pattern: str, kind: type[KivaError], message: str, hint: str) -> _Reason:
    return _Reason(re.compile(pattern, re.DOTALL), kind, message, hint)


_AGAIN = "run the same command again: it goes on from there"
_BROKEN = (
    r"(?P<why>\bEOF\b|connection reset by peer|connection refused|broken pipe|i/o timeout|TLS handshake timeout|http2: [^\n]*|no route to host|no such host"
    r"|network is unreachable|use of closed network connection|context deadline exceeded|Client\.Timeout exceeded[^\n]*)"
)
_HOOK = r"(?:failed (?P<what>(?:pre|post)-\w+)(?: hooks)?|(?P<other>(?:pre|post)-\w+) hooks failed): "

_REASONS = (
    _reason(
        r"context \"(?P<what>[^\"]+)\" does not exist",
        PreconditionError,
        "the kubeconfig has no context '{what}'",
        "kubectl config get-contexts; then `kubernetes.context` in kiva.yaml",
    ),
    _reason(
        r"luster unreachable: (?:stat|open) (?P<what>[^\n]+): no such file or directory",
        PreconditionError,
        "there is no kubeconfig {what}",
        "set KUBECONFIG to the file with the context '{context}'",
    ),
    _reason(
        r"has asked for the client to provide credentials|\bUnauthorized\b|getting credentials: (?P<why>[^\n]*)",
        PreconditionError,
        "the cluster of the context '{context}' refuses the credentials",
        "log in anew, then try: {kubectl} get pods",
    ),
    _reason(
        r"luster unreachable: (?:(?:Get|Post) \"[^\"]*\": )?(?P<why>[^\n]*)",
        UnreachableCluster,
        "the cluster of the context '{context}' cannot be reached: {why}",
        "is it up, and this machine's network the right one? Then run the same command again",
    ),
    _reason(
        r"another operation \(install/upgrade/rollback\) is in progress",
        PendingRelease,
        "another helm is writing the release {release}, or was killed while it did",
        "{helm} history {release}",
    ),
    _reason(
        r"release has no (?P<what>\d+) version",
        NoRelease,
        "the release {release} has no revision {what}",
        "{helm} history {release}",
    ),
    _reason(
        r"release: not found",
        NoRelease,
        "there is no release {release} in the namespace {namespace}, or not the revision asked for",
        "{helm} list",
    ),
    _reason(
        r"cannot re-?use a name that is still in use",
        PreconditionError,
        "there is a release {release} in the namespace {namespace} already",
        "{helm} history {release}",
    ),
    _reason(
        r"(?P<kind>\w+) \"(?P<what>[^\"]+)\" in namespace \"(?P<where>[^\"]*)\" exists and cannot be imported into the current release",
        PreconditionError,
        "there is a {kind} {what} in the namespace {where} already, and the release {release} did not make it",
        "{kubectl} describe {kind} {what}; remove it, or give the platform another name",
    ),
    _reason(
        r"(?:admission webhook \"(?P<who>[^\"]+)\" denied the request|[Vv]alidatingAdmissionPolicy '(?P<policy>[^']+)'[^:]*denied request): (?P<why>[^\n]*)",
        PreconditionError,
        "a policy of the cluster ({who}{policy}) refuses the release {release}: {why}",
        "change what it names in kiva.yaml, or ask whoever runs the cluster",
    ),
    _reason(
        r"violates PodSecurity \"(?P<who>[^\"]+)\": (?P<why>[^\n]*)",
        PreconditionError,
        "the namespace {namespace} asks for Pod Security {who}, which the release {release} violates: {why}",
        "change what it names in kiva.yaml, or ask whoever runs the cluster",
    ),
    _reason(
        r"exceeded quota: (?P<who>[^,]+), (?P<why>requested: [^\n]*)",
        PreconditionError,
        "the quota {who} of the namespace {namespace} does not allow the release {release}: {why}",
        "{kubectl} describe resourcequota {who}",
    ),
    _reason(
        r"User \"(?P<who>[^\"]+)\" cannot (?P<verb>\w+) resource \"(?P<what>[^\"]+)\" in API group \"(?P<group>[^\"]*)\"",
        PreconditionError,
        "the user {who} of the context '{context}' may not {verb} {what} in the namespace {namespace}",
        "{kubectl} auth can-i {verb} {what}",
    ),
    _reason(
        r"is forbidden: (?P<why>[^\n]*)",
        PreconditionError,
        "the cluster forbids what the release {release} needs: {why}",
        "{kubectl} auth can-i --list",
    ),
    _reason(
        r"namespaces \"(?P<what>[^\"]+)\" not found",
        PreconditionError,
        "there is no namespace {what} in the cluster",
        "kubectl {flags} create namespace {what}",
    ),
    _reason(
        r"no matches for kind \"(?P<kind>[^\"]+)\" in version \"(?P<what>[^\"]+)\"",
        PreconditionError,
        "the cluster does not know {kind} of {what}, which the release {release} needs",
        "install what brings it, or do without it in kiva.yaml",
    ),
    _reason(
        r"applying object (?P<what>[^\n]*?): Apply failed with \d+ conflicts?: conflicts? with \"(?P<who>[^\"]+)\"[^:\n]*: (?:\n- )?(?P<field>[^\n]*)",
        FieldConflict,
        "{field} of {what} belongs to '{who}', which gave it another value than the release {release}",
        "kivactl drift",
    ),
    _reason(
        r"Operation cannot be fulfilled on (?P<what>[^:\n]*): the object has been modified",
        BrokenOff,
        "somebody else changed {what} in the same moment",
        _AGAIN,
    ),
    _reason(r"too many requests|please try again later", BrokenOff, "the cluster of the context '{context}' has too much to do", _AGAIN),
    _reason(
        r"values don't meet the specifications of the schema\(s\)",
        ToolError,
        "the values of the release {release} do not fit its chart",
        "the lines above name the fields of the chart; kivactl spec check",
    ),
    _reason(
        r"execution error at \((?P<where>[^)]+)\): (?P<why>[^\n]*)",
        ToolError,
        "the chart of {release} refuses its values ({where}): {why}",
        "kivactl spec check",
    ),
    _reason(
        rf"{_HOOK}.*?(?:timed out waiting for the condition|context deadline exceeded)",
        ToolError,
        "the {what}{other} hook of the release {release} did not end in time{job}",
        "{kubectl} {look}",
    ),
    _reason(_HOOK, ToolError, "the {what}{other} hook of the release {release} failed{job}", "{kubectl} {look}"),
    _reason(
        r"(?P<what>(?:Secret|ConfigMap) \"[^\"]+\") is invalid: [^\n]*Too long|Request entity too large",
        ToolError,
        "the release {release} is larger than the 1 MiB that the cluster keeps in one object",
        "fewer models or tenants in one platform",
    ),
    _reason(
        r"(?P<what>[\w.]+ \"[^\"]+\") is invalid: (?P<why>[^\n]*field is immutable[^\n]*|[^\n]*updates to statefulset spec[^\n]*)",
        ToolError,
        "the cluster does not let {what} be changed so: {why}",
        "remove it, then run the same command again: it is made anew",
    ),
    _reason(r"(?P<what>[\w.]+ \"[^\"]+\") is invalid: (?P<why>[^\n]*)", ToolError, "the cluster refuses {what}: {why}", "{kubectl} version"),
    _reason(
        r"failed to create typed patch object \([^;]*; (?P<what>[^)]*)\): (?P<why>[^\n]*)"
        r"|cannot be handled as a (?P<kind>\w+): (?P<more>[^\n]*)",
        ToolError,
        "the cluster does not understand a field of the release {release}: {why}{more}",
        "is the cluster one of the three newest versions of Kubernetes? {kubectl} version",
    ),
    _reason(r"Internal error occurred: (?P<why>[^\n]*)", BrokenOff, "the cluster of the context '{context}' failed: {why}", _AGAIN),
    _reason(
        r"the server is currently unable to handle the request|etcdserver: (?P<why>[^\n]*)",
        BrokenOff,
        "the cluster of the context '{context}' cannot answer now",
        _AGAIN,
    ),
    _reason(_BROKEN, BrokenOff, "the connection to the cluster of the context '{context}' broke off: {why}", _AGAIN),
    _reason(r"path \"(?P<what>[^\"]+)\" not found", ToolError, "there is no chart {what}", "install kivactl anew"),
)
"""The first that fits counts."""

_JOBS = (
    re.compile(r"job (?P<name>\S+) failed: (?P<why>[^\n]*)"),
    re.compile(r"resource Job/[^/]+/(?P<name>\S+) not ready\. status: \w+, message: (?P<why>[^\n]*)"),
)


def failure_of(said: str, place: Place) -> KivaError:
    """The error for what Helm printed when it failed.

    Args:
        said: Its standard error.
        place: Where it worked.
    """
    lines = said_in(said)
    text = "\n".join(lines)
    for reason in _REASONS:
        if match := reason.pattern.search(text):
            facts = {name: (value or "").strip() for name, value in match.groupdict().items()}
            facts |= {
                "context": place.context,
                "namespace": place.namespace,
                "release": place.release,
                "kubectl": place.kubectl,
                "helm": place.helm,
                "flags": place.flags,
                **_job(text),
            }
            return reason.kind(" ".join(reason.message.format(**facts).split()), reason.hint.format(**facts), lines if len(lines) > 1 else ())
    return ToolError(f"helm failed with the release {place.release}" if place.release else "helm failed", "kivactl doctor", lines)


def said_in(said: str) -> tuple[str, ...]:
    """The lines that say something, at most twenty: Helm 4 logs the same sentence as a warning before, client-go adds warnings of its own."""
    lines = [line.rstrip() for line in said.splitlines() if line.strip()]
    plain = [line for line in lines if not re.match(r"level=\w+ |[IWE]\d{4} \d\d:\d\d:\d\d|WARNING: ", line)]
    return tuple(re.sub(r"^Error: (?:(?:UPGRADE|INSTALLATION) FAILED: )?", "", line) for line in (plain or lines)[-20:])


def _job(text: str) -> dict[str, str]:
    """Which job a hook was, and how to look at it."""
    for pattern in _JOBS:
        if match := pattern.search(text):
            return {"job": f": job {match['name']}, {match['why']}", "look": f"logs job/{match['name']}"}
    return {"job": "", "look": "get events"}

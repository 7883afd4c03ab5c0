"""Why Terraform failed, in one sentence each, out of what it said. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kivactl.errors import KivaError, NotReadyError, PreconditionError, SpecError, ToolError
from kivactl.spec.infrastructure import Provider
from kivactl.stack.infrastructure.flavours import nearest
from kivactl.tools.terraform_output import Diagnostic


class LockedState(PreconditionError):
    """Another Terraform works on the state, or died while it did."""


class StalePlan(PreconditionError):
    """The state changed since the plan was made."""


class MissingProvider(PreconditionError):
    """The provider is neither in the mirror nor to be fetched."""


class ProtectedResource(PreconditionError):
    """The plan would take away what must stay."""


class SmallQuota(PreconditionError):
    """The account may not have as much as the plan needs."""


class UnansweredQuota(PreconditionError):
    """The cloud does not tell the account's quotas, and nothing else stands in the plan's way."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where Terraform worked, for sentences and hints.

    Attributes:
        program: `terraform` or `tofu`.
        root: Folder of the root.
        provider: The cloud.
        mirror: Where providers come from; empty for the registry.
        backend: File with the settings of the state's place.
    """

    program: str
    root: Path
    provider: Provider
    mirror: str = ""
    backend: str = ""


_AGAIN = "kivactl provision"
_CREDENTIALS = {
    "aws": "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "azure": "az login, or set ARM_CLIENT_ID, ARM_CLIENT_SECRET and ARM_TENANT_ID",
    "openstack": "set OS_CLOUD to a cloud of clouds.yaml, or source its openrc file",
    "stackit": "set STACKIT_SERVICE_ACCOUNT_KEY_PATH to the key file of a service account",
    "static": "",
}
_QUOTAS = {
    "aws": "ask for more under Service Quotas, or make the groups smaller",
    "azure": "ask for more under Usage + quotas, or make the groups smaller",
    "openstack": "openstack quota show, then ask your cloud for more, or make the groups smaller",
    "stackit": "ask for more in the STACKIT Portal, or make the groups smaller",
    "static": "",
}

_TOO_SMALL = re.compile(
    r"the quota of \w+ for '(?P<name>[^']+)' in (?P<region>\S+) is (?P<allowed>[\d.]+(?: vCPUs)?), and this platform alone needs (?P<needed>\d+)"
    r" \((?P<code>[\w-]+)\)"
)
"""What the module `aws/machines` says of a quota."""

_QUESTION = re.compile(r"\.data\.aws_(?:servicequotas_service_quota|ec2_instance_type)\.")
"""Addresses at which a plan asks only for the quotas' sake."""

Sentence = Callable[[re.Match[str], Diagnostic, Place], KivaError]


def failure_of(errors: Sequence[Diagnostic], lines: Sequence[str], operation: str, place: Place) -> KivaError:
    """The error to show.

    Args:
        errors: What Terraform said, in order.
        lines: Its last other lines.
        operation: What it was doing: `init`, `plan`, `apply`, ...
        place: Where.
    """
    said = list(errors) or [Diagnostic("error", lines[-1] if lines else "")]
    if protected := [one for one in said if one.summary == "Instance cannot be destroyed"]:
        return _protected(protected)
    if small := [found for one in said if (found := _TOO_SMALL.search(one.text))]:
        return _small_quota(small)
    unanswered = [one for one in said if _QUESTION.search(one.address) and not _NO_FLAVOUR.search(one.text)]
    if said == unanswered:
        return UnansweredQuota(f"{place.provider} does not tell its quotas", _AGAIN, tuple(sorted({_why_unanswered(one) for one in unanswered})))
    said = [one for one in said if one not in unanswered]  # a plan could do without them
    for pattern, sentence in _REASONS:
        for one in said:
            if found := pattern.search(one.text):
                return sentence(found, one, place)
    summary = said[0].summary or "it says nothing"
    details = tuple(line for one in errors for line in one.text.splitlines()[:10]) or tuple(lines)
    return ToolError(f"Terraform's {operation} failed{f' at {said[0].address}' if said[0].address else ''}: {_short(summary)}", _AGAIN, details[:20])


def _protected(errors: Sequence[Diagnostic]) -> KivaError:
    disks: list[str] = []
    machines: list[str] = []
    for one in errors:
        found = re.search(r"Resource (?P<address>\S+?)\[\"(?P<name>[^\"]+)\"\] has lifecycle", one.detail)
        if found is not None:
            (machines if "terraform_data.protected" in found["address"] else disks).append(found["name"])
    disks.sort()  # Terraform tells them as it comes to them
    machines.sort()
    if machines:
        return ProtectedResource(
            f"the plan would take away or make anew {', '.join(machines)}, whose groups are in `infrastructure.protect`",
            "undo the change in kiva.yaml, or take the group out of `protect` first",
            tuple(f"the data disk of {name} would go too" for name in disks),
        )
    return ProtectedResource(
        f"the plan would take away or make anew the data disk{'s' if len(disks) > 1 else ''} of {', '.join(disks)}",
        "undo the change in kiva.yaml (its zone, most likely): data disks always stay",
    )


def _small_quota(found: list[re.Match[str]]) -> KivaError:
    found.sort(key=lambda one: one[0])  # Terraform tells them as it comes to them
    sentences = [f"the quota of aws for '{one['name']}' in {one['region']} is {one['allowed']}, and this platform alone needs {one['needed']}" for one in found]
    ask = "aws service-quotas request-service-quota-increase --region {region} --service-code ec2 --quota-code {code} --desired-value {needed}"
    commands = [ask.format(**one.groupdict()) for one in found]
    return SmallQuota(
        sentences[0],
        f"make the groups smaller, or ask for more, since what else runs in the account counts too: {commands[0]}",
        tuple(f"{sentence}: {command}" for sentence, command in zip(sentences[1:], commands[1:], strict=True)),
    )


def _why_unanswered(one: Diagnostic) -> str:
    """In a few words, and the same ones each time: no numbers of requests."""
    if lacking := re.search(r"not authorized to perform: (?P<action>[\w:]+)", one.text):
        return f"these credentials lack the permission {lacking['action']}"
    return _short(re.sub(r".*\bRequestID: [^,]*, (?:api error |request send failed, )?", "", " ".join(one.text.split())))


def _locked(_: re.Match[str], one: Diagnostic, place: Place) -> KivaError:
    facts = {key: value.strip() for key, value in re.findall(r"^\s*(ID|Who|Operation|Created):(.*)$", one.detail, re.MULTILINE)}
    if not facts:
        return LockedState("Terraform's state is locked, and its lock does not say by whom", "wait until it has finished, then run the same command again")
    what = facts.get("Operation", "").removeprefix("OperationType").lower()
    since = re.sub(r"(\d\d:\d\d:\d\d)\.\d+ \+0000 UTC", r"\1 UTC", facts.get("Created", ""))
    return LockedState(
        f"Terraform's state is locked by {facts.get('Who', 'somebody')} ({what}, since {since})",
        f"wait until it has finished, then run the same command again; if it died: {place.program} -chdir={place.root} force-unlock {facts.get('ID', 'ID')}",
    )


def _stale(*_: object) -> KivaError:
    return StalePlan("the machines changed since the plan was made", _AGAIN)


def _missing_provider(found: re.Match[str], _: Diagnostic, place: Place) -> KivaError:
    name = found["name"] or f"for {place.provider}"
    if place.mirror:
        return MissingProvider(
            f"Terraform's provider {name} is not in the mirror {place.mirror}, or not in the version that is needed",
            f"put it there ({place.program} providers mirror FOLDER), or name another with `mirrors.terraform` in kiva.yaml",
        )
    return MissingProvider(
        f"Terraform's provider {name} cannot be fetched from its registry",
        "name a folder or URL that has it with `mirrors.terraform` in kiva.yaml, or with KIVA_TERRAFORM_PROVIDERS",
    )


def _no_credentials(_: re.Match[str], one: Diagnostic, place: Place) -> KivaError:
    return PreconditionError(f"no credentials for {place.provider}", _CREDENTIALS[place.provider], (_short(one.summary),))


def _refused(_: re.Match[str], one: Diagnostic, place: Place) -> KivaError:
    return PreconditionError(f"{place.provider} refuses these credentials", _CREDENTIALS[place.provider], (_short(one.summary),))


def _not_allowed(found: re.Match[str], one: Diagnostic, place: Place) -> KivaError:
    what = f" at {one.address}" if one.address else ""
    return PreconditionError(
        f"these credentials lack a permission of {place.provider}{what}", "ask for it: the details name it", (_short(one.text[found.start() :], 300),)
    )


def _quota(found: re.Match[str], one: Diagnostic, place: Place) -> KivaError:
    where = f" for {one.address}" if one.address else ""
    return PreconditionError(f"the quota of {place.provider} is too small{where}", _QUOTAS[place.provider], (_short(one.text[found.start() :], 300),))


def _no_capacity(found: re.Match[str], one: Diagnostic, place: Place) -> KivaError:
    where = f" for {one.address}" if one.address else ""
    return PreconditionError(
        f"{place.provider} has no such machine free just now{where}",
        f"another zone or flavour in kiva.yaml, or later: {_AGAIN}",
        (_short(one.text[found.start() :], 300),),
    )


def _flavour(found: re.Match[str], _: Diagnostic, place: Place) -> KivaError:
    name, zone = found["name"], found.groupdict().get("zone")
    near = nearest(place.provider, name)
    where = f" in the zone {zone}" if zone else ""
    return SpecError(
        f"{place.provider} has no flavour '{name}'{where}", f"did you mean {' or '.join(near)}?" if near else "write another `flavour` in kiva.yaml"
    )


def _image(found: re.Match[str], _: Diagnostic, place: Place) -> KivaError:
    return SpecError(f"{place.provider} has no such machine image", "write another `infrastructure.image` in kiva.yaml", (_short(found[0], 300),))


def _backend_changed(_: re.Match[str], __: Diagnostic, place: Place) -> KivaError:
    return PreconditionError(
        "the place where Terraform keeps its state is another one than before",
        f"undo the change of `infrastructure.terraform`, or move the state: {place.program} -chdir={place.root} init -migrate-state "
        f"-backend-config={place.backend}",
    )


def _newer_state(found: re.Match[str], _: Diagnostic, place: Place) -> KivaError:
    return PreconditionError(f"the state was written by a newer {place.program}{found['version'] or ''}", f"install that {place.program}, or a newer one")


def _bad_value(found: re.Match[str], one: Diagnostic, _: Place) -> KivaError:
    return SpecError(f"Terraform refuses a value of the spec: {_short(one.detail or found[0])}", "correct `infrastructure` in kiva.yaml")


def _no_space(*_: object) -> KivaError:
    return PreconditionError("no space left on the disk that holds Terraform's files", f"free some space, then: {_AGAIN}")


def _unreachable(found: re.Match[str], one: Diagnostic, place: Place) -> KivaError:
    return NotReadyError(f"{place.provider} does not answer: {found['why']}", f"check the network and the proxy, then: {_AGAIN}", (_short(one.text, 300),))


def _halted(*_: object) -> KivaError:
    return ToolError("Terraform was interrupted", f"{_AGAIN}: it goes on from there, and tells what the cloud may have made nevertheless")


def _reasons(*pairs: tuple[str, Sentence]) -> tuple[tuple[re.Pattern[str], Sentence], ...]:
    return tuple((re.compile(pattern, re.DOTALL), sentence) for pattern, sentence in pairs)


_NO_FLAVOUR = re.compile(r"supplied instance types do not exist: \[(?P<name>[^\]]+)\]")

_REASONS = _reasons(
    (r"Error acquiring the state lock", _locked),
    (r"Saved plan is stale|Saved plan does not match the given state", _stale),
    (r"no space left on device", _no_space),
    (r"Backend configuration changed|Backend type changed|Backend initialization required", _backend_changed),
    (
        r"(?:Failed to query available provider packages|Failed to install provider|Inconsistent dependency lock file)"
        r"(?:.*?provider\s+(?:registry\.\S+?/)?(?P<name>[a-z0-9-]+/[a-z0-9-]+))?",
        _missing_provider,
    ),
    (r"state snapshot was created by \S+(?P<version> v[0-9.]+)?,? which is newer|unsupported state file format(?P<v>)", _newer_state),
    (
        r"No valid credential sources found|no EC2 IMDS role found|One of 'auth_url' or 'cloud'|One of .{0,20}auth_url.{0,80} must be specified"
        r"|could not configure AzureCli Authorizer|unable to build authorizer|no credentials (?:were )?(?:set|found)|setting up authentication",
        _no_credentials,
    ),
    (
        r"AuthFailure|InvalidClientTokenId|ExpiredToken|SignatureDoesNotMatch|IncompleteSignature|Authentication failed|AADSTS\d+"
        r"|status code 401|StatusCode: 401",
        _refused,
    ),
    (r"UnauthorizedOperation|AccessDenied|AuthorizationFailed|status code 403|Policy doesn't allow", _not_allowed),
    (
        r"VcpuLimitExceeded|InstanceLimitExceeded|VolumeLimitExceeded|AddressLimitExceeded|VpcLimitExceeded|RulesPerSecurityGroupLimitExceeded|\w*LimitExceeded"
        r"|[Qq]uota ?[Ee]xceeded|exceed\w* (?:approved )?[^\n]{0,60}[Qq]uota|OverLimit",
        _quota,
    ),
    (
        r"InsufficientInstanceCapacity|InsufficientCapacity|SkuNotAvailable|AllocationFailed|No valid host was found|Unsupported: Your requested instance type",
        _no_capacity,
    ),
    (r"the flavour (?P<name>\S+) is not offered in the zone (?P<zone>\S+)", _flavour),
    (_NO_FLAVOUR.pattern, _flavour),
    (r"[Uu]nable to find flavor with name (?P<name>\S+)", _flavour),
    (r"The value (?P<name>\S+) provided for the VM size is not valid", _flavour),
    (r"Your query returned no results|InvalidAMIID\.\w+|No (?:suitable )?images? (?:was |were )?found|PlatformImageNotFound", _image),
    (r"Invalid value for variable|Invalid value for input variable", _bad_value),
    (
        r"(?P<why>connection refused|connection reset by peer|i/o timeout|TLS handshake timeout|no such host|no route to host|network is unreachable"
        r"|context deadline exceeded|Temporary failure in name resolution)",
        _unreachable,
    ),
    (r"[Ee]xecution halted|[Oo]peration (?:was )?cancel|context canceled", _halted),
)


def _short(text: str, most: int = 200) -> str:
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= most else f"{one_line[: most - 3]}..."

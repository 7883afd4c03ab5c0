"""Why a pod does not start or does not stay, in one sentence with the next command. Pure.

Read from the pod, from what was said about it, and from its container's last lines. The first cause found counts, those that
explain the others first: a pod that was evicted also has containers that do not run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from kivactl.stack.engine import parse_failure
from kivactl.targets.kubernetes import scheduling
from kivactl.tools.kube_objects import Event

Json = Mapping[str, Any]


class Cause(StrEnum):
    """What keeps a pod from its work; the values are what records keep."""

    IMAGE_MISSING = "image missing"
    IMAGE_DENIED = "image denied"
    REGISTRY = "registry unreachable"
    GPU = "no GPU free"
    CPU = "no processor free"
    MEMORY = "no memory free"
    NODES = "no node allowed"
    VOLUME = "volume"
    ADMISSION = "admission denied"
    QUOTA = "quota exceeded"
    OUT_OF_MEMORY = "out of memory"
    CRASH = "crash"
    CONFIGURATION = "configuration"
    PROGRAM = "program missing"
    STARTUP = "startup budget over"
    STALLED = "stalled"
    NODE = "node not ready"
    EVICTED = "evicted"
    PRELOAD = "preload failed"
    SANDBOX = "pod sandbox"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is wrong.

    Attributes:
        cause: What kind of trouble.
        subject: Whose, such as `pod kiva-smollm2-7d9f`.
        sentence: For people; without a trailing full stop.
        hint: The next command, or what to change.
        hopeless: Whether waiting will not mend it.
        details: Lines that say so, such as the engine's last ones.
    """

    cause: Cause
    subject: str
    sentence: str
    hint: str
    hopeless: bool = False
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Where:
    """Context and namespace, for the commands that are recommended."""

    context: str
    namespace: str

    def command(self, words: str) -> str:
        """A kubectl command there."""
        return f"kubectl --context {self.context} -n {self.namespace} {words}"


@dataclass(frozen=True, slots=True)
class Logs:
    """A container's last lines: of the one that runs, and of the one before."""

    now: tuple[str, ...] = ()
    before: tuple[str, ...] = ()


_IMAGE = (
    (
        Cause.IMAGE_DENIED,
        re.compile(r"unauthorized|authentication required|access denied|403 Forbidden|401 Unauthorized|no basic auth|insufficient_scope|denied:", re.IGNORECASE),
        "the registry does not let it have the image {image}",
        "name a Secret that may pull it in `kubernetes.pull_secrets`: {secrets}",
        True,
    ),
    (
        Cause.REGISTRY,
        re.compile(r"x509|certificate|tls: ", re.IGNORECASE),
        "the node does not trust the certificate of the registry of {image}",
        "give the nodes the registry's CA, then delete the pod: {delete}",
        True,
    ),
    (
        Cause.REGISTRY,
        re.compile(r"no such host|i/o timeout|connection refused|connection reset|no route to host|TLS handshake timeout|context deadline exceeded|EOF", re.IGNORECASE),
        "the node cannot reach the registry of {image}: {why}",
        "check name resolution, proxy and mirrors of the node: {describe}",
        False,
    ),
    (
        Cause.REGISTRY,
        re.compile(r"toomanyrequests|429|rate limit", re.IGNORECASE),
        "the registry of {image} lets it pull no more for now: too many requests",
        "wait, or use a mirror in `kubernetes.images`: {describe}",
        False,
    ),
    (
        Cause.IMAGE_MISSING,
        re.compile(r"manifest unknown|not found|does not exist|manifest for|no such image|not present with pull policy|InvalidImageName|couldn't parse image", re.IGNORECASE),
        "there is no image {image}",
        "push it, or correct `kubernetes.images` in kiva.yaml: {describe}",
        True,
    ),
    (
        Cause.EVICTED,
        re.compile(r"no space left on device", re.IGNORECASE),
        "the node's disk is too full for the image {image}",
        "free space on the node, or add disk: {describe}",
        False,
    ),
)
_IMAGE_REASONS = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable", "ImageInspectError"})
_KILLED, _KILLED_FOR_MEMORY, _NO_PROGRAM = 137, "OOMKilled", frozenset({126, 127})


def trouble_of(pod: Json, events: Sequence[Event], where: Where, logs: Mapping[str, Logs] | None = None) -> Trouble | None:
    """What is wrong with a pod; None when nothing is, or it is only starting.

    Args:
        pod: As the API has it.
        events: What was said about it, the newest last.
        where: For the commands.
        logs: By container, as far as they were read.
    """
    seen = _Seen(pod, events, where, logs or {})
    return next((found for look in (_lost, _scheduled, _mounted, _pulled, _configured, _preloaded, _ended, _slow) if (found := look(seen)) is not None), None)


def trouble_of_workload(workload: Json, events: Sequence[Event], where: Where) -> Trouble | None:
    """Why a Deployment, ReplicaSet or Job makes no pods: admission, quota, a missing account; None when it does.

    Args:
        workload: As the API has it.
        events: About it and its ReplicaSets, the newest last.
        where: For the commands.
    """
    name = str((workload.get("metadata") or {}).get("name", ""))
    kind = str(workload.get("kind", "Deployment"))
    said = next((event.message for event in reversed(events) if event.reason in {"FailedCreate", "ReplicaSetCreateError"}), "")
    for condition in (workload.get("status") or {}).get("conditions") or ():
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            said = str(condition.get("message") or said)
    if not said:
        return None
    why, subject = _tail(said), f"{kind} {name}"
    if quota := re.search(r"exceeded quota: ([^,]+), requested: (.+?), used: (.+?), limited: (.+)", said):
        sentence = f"no pod of {name} is made: the quota '{quota[1]}' is used up (asked for {quota[2]}, used {quota[3]}, allowed {quota[4]})"
        return Trouble(Cause.QUOTA, subject, sentence, where.command(f"describe resourcequota {quota[1]}"))
    if found := re.search(r'violates PodSecurity "([^"]+)": (.+)', said):
        return Trouble(Cause.ADMISSION, subject, f"no pod of {name} is made: Pod Security '{found[1]}' forbids it: {found[2]}", where.command(f"get namespace {where.namespace} -o yaml"), True)
    if found := re.search(r'serviceaccount "([^"]+)" not found', said):
        return Trouble(Cause.CONFIGURATION, subject, f"no pod of {name} is made: there is no service account '{found[1]}'", where.command("get serviceaccounts"))
    if found := re.search(r'admission webhook "([^"]+)" denied the request: (.+)', said):
        return Trouble(Cause.ADMISSION, subject, f"no pod of {name} is made: the admission webhook {found[1]} denies it: {found[2]}", where.command(f"describe {kind.lower()} {name}"), True)
    if found := re.search(r"no PriorityClass with name (\S+) was found", said):
        return Trouble(Cause.CONFIGURATION, subject, f"no pod of {name} is made: there is no priority class {found[1]}", where.command("get priorityclasses"), True)
    if found := re.search(r'RuntimeClass "?([^" ]+)"? not found', said):
        return Trouble(Cause.CONFIGURATION, subject, f"no pod of {name} is made: there is no runtime class {found[1]}", where.command("get runtimeclasses"), True)
    return Trouble(Cause.ADMISSION, subject, f"no pod of {name} is made: {why}", where.command(f"describe {kind.lower()} {name}"))


class _Seen:
    """A pod with what is known of it, in the form that the questions below want."""

    def __init__(self, pod: Json, events: Sequence[Event], where: Where, logs: Mapping[str, Logs]) -> None:
        self.pod, self.events, self.where, self.logs = pod, events, where, logs
        self.name = str((pod.get("metadata") or {}).get("name", ""))
        self.status: Json = pod.get("status") or {}
        self.spec: Json = pod.get("spec") or {}
        self.node = str(self.spec.get("nodeName") or "")
        self.conditions = {str(one.get("type")): one for one in self.status.get("conditions") or ()}

    def trouble(self, cause: Cause, sentence: str, hint: str, *, hopeless: bool = False, details: tuple[str, ...] = ()) -> Trouble:
        return Trouble(cause, f"pod {self.name}", f"pod {self.name}: {sentence}", hint, hopeless, details)

    def containers(self) -> Iterator[tuple[bool, Json]]:
        """Whether it is an init container, and its status."""
        yield from ((True, one) for one in self.status.get("initContainerStatuses") or ())
        yield from ((False, one) for one in self.status.get("containerStatuses") or ())

    def said(self, *reasons: str) -> str:
        """The newest event with one of some reasons."""
        return next((event.message for event in reversed(self.events) if event.reason in reasons), "")

    def command(self, words: str) -> str:
        return self.where.command(words)

    @property
    def describe(self) -> str:
        return self.command(f"describe pod {self.name}")

    @property
    def scheduled(self) -> bool:
        return bool(self.node) or self.conditions.get("PodScheduled", {}).get("status") == "True"


def _lost(seen: _Seen) -> Trouble | None:
    reason, message = str(seen.status.get("reason") or ""), str(seen.status.get("message") or "")
    if reason == "Evicted":
        what = re.search(r"low on resource: (\S+?)\.", message)
        limit = re.search(r"(?:local ephemeral storage|Usage of EmptyDir volume|ephemeral-storage).*exceeds", message)
        why = f"the node {seen.node} is low on {what[1]}" if what else _sentence(message)
        hint = "raise the limit of its emptyDir, or write less: " if limit else "free the node's disk or memory: "
        return seen.trouble(Cause.EVICTED, f"evicted: {why}", hint + seen.command(f"describe node {seen.node}"))
    if reason == "NodeLost" or seen.said("NodeNotReady") and seen.conditions.get("Ready", {}).get("status") != "True":
        return seen.trouble(Cause.NODE, f"its node {seen.node} is not ready", seen.command(f"describe node {seen.node}"))
    if reason in {"NodeShutdown", "Terminated"} or "node is shutting down" in message.lower():
        return seen.trouble(Cause.NODE, f"its node {seen.node} shut down", seen.command(f"describe node {seen.node}"))
    if reason in {"UnexpectedAdmissionError", "OutOfcpu", "OutOfmemory", "OutOfpods"} or reason.startswith(("OutOf", "NodeAffinity", "UnexpectedAdmission")):
        devices = "gpu" in (reason + message).lower() or "device" in message.lower()
        return seen.trouble(Cause.GPU if devices else Cause.CPU, f"the node {seen.node} turned it away: {_sentence(message) or reason}", seen.command(f"describe node {seen.node}"))
    return None


def _scheduled(seen: _Seen) -> Trouble | None:
    if seen.scheduled:
        return None
    message = str(seen.conditions.get("PodScheduled", {}).get("message") or "") or seen.said("FailedScheduling")
    if not message:
        return None
    found = scheduling.explain(message, seen.spec)
    hint = seen.command(found.words) if found.words else seen.describe
    return seen.trouble(Cause(found.cause), found.sentence, hint)


def _mounted(seen: _Seen) -> Trouble | None:
    message = seen.said("FailedAttachVolume", "FailedMount")
    if not message or _running(seen):
        return None
    if "Multi-Attach" in message:
        volume = re.search(r'volume "([^"]+)"', message)
        others = re.search(r"used by pod\(s\) (.+)$", message)
        by = f" (by {others[1].strip()})" if others else ", and another node still has it"
        sentence = f"its volume {volume[1] if volume else ''} may be mounted by one node at a time{by}"
        return seen.trouble(Cause.VOLUME, sentence, "set `strategy: recreate` for the model, or storage with `access: read-write-many`: " + seen.describe)
    if found := re.search(r'(secret|configmap) "([^"]+)" not found', message):
        kind = {"secret": "Secret", "configmap": "ConfigMap"}[found[1]]
        return seen.trouble(Cause.CONFIGURATION, f"there is no {kind} '{found[2]}' for it to mount", seen.command(f"get {found[1]}s"))
    if found := re.search(r"references non-existent (secret|config) key: (\S+)", message):
        return seen.trouble(Cause.CONFIGURATION, f"the {'Secret' if found[1] == 'secret' else 'ConfigMap'} it mounts has no key '{found[2]}'", seen.describe)
    if found := re.search(r"hostPath type check failed: (\S+) is not a (\w+)", message):
        return seen.trouble(Cause.VOLUME, f"the node {seen.node} has no {found[2]} {found[1]}", "put the model's files there on every node, or change `kubernetes.storage`", hopeless=True)
    return seen.trouble(Cause.VOLUME, f"a volume cannot be mounted: {_sentence(_tail(message))}", seen.describe)


def _pulled(seen: _Seen) -> Trouble | None:
    for _, container in seen.containers():
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") not in _IMAGE_REASONS:
            continue
        image = str(container.get("image") or "")
        # The newest event may only say that it waits for the next try.
        said = [str(waiting.get("message") or ""), *(event.message for event in reversed(seen.events) if event.reason in {"Failed", "InspectFailed"} and image in event.message)]
        text = " ".join([*said, str(waiting.get("reason"))])
        words = {
            "image": image,
            "why": _network_word(text),
            "describe": seen.describe,
            "delete": seen.command(f"delete pod {seen.name}"),
            "secrets": seen.command("get secrets"),
        }
        for cause, pattern, sentence, hint, hopeless in _IMAGE:
            if pattern.search(text):
                return seen.trouble(cause, sentence.format(**words), hint.format(**words), hopeless=hopeless)
        return seen.trouble(Cause.IMAGE_MISSING, f"the image {image} cannot be pulled: {_sentence(_tail(text))}", seen.describe)
    return None


def _configured(seen: _Seen) -> Trouble | None:
    for _, container in seen.containers():
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason, message = str(waiting.get("reason") or ""), str(waiting.get("message") or "")
        if reason in {"CreateContainerConfigError", "CreateContainerError"}:
            if found := re.search(r'(secret|configmap) "([^"]+)" not found', message):
                kind = {"secret": "Secret", "configmap": "ConfigMap"}[found[1]]
                return seen.trouble(Cause.CONFIGURATION, f"there is no {kind} '{found[2]}', which its environment needs", seen.command(f"get {found[1]}s"))
            if found := re.search(r"couldn't find key (\S+) in (Secret|ConfigMap) (\S+)", message):
                return seen.trouble(Cause.CONFIGURATION, f"the {found[2]} '{found[3].rpartition('/')[2]}' has no key '{found[1]}'", seen.command(f"describe {found[2].lower()} {found[3].rpartition('/')[2]}"))
            if "runAsNonRoot" in message or "non-numeric user" in message:
                return seen.trouble(Cause.CONFIGURATION, "its image would run as root, which is not allowed here", "use an image built from images/, whose user is 1000: " + seen.describe, hopeless=True)
            return seen.trouble(Cause.CONFIGURATION, f"its container cannot be made: {_sentence(_tail(message)) or reason}", seen.describe)
        if reason == "RunContainerError" or "executable file not found" in message or "no such file or directory: unknown" in message:
            return seen.trouble(Cause.PROGRAM, f"its program cannot be run: {_sentence(_tail(message)) or reason}", seen.describe, hopeless=True)
    sandbox = seen.said("FailedCreatePodSandBox")
    if sandbox and not _running(seen):
        return seen.trouble(Cause.SANDBOX, f"the node {seen.node} cannot make its network or sandbox: {_sentence(_tail(sandbox))}", seen.command(f"describe node {seen.node}"))
    return None


def _preloaded(seen: _Seen) -> Trouble | None:
    for init, container in seen.containers():
        ended = _last_end(container)
        if init and ended is not None and ended.get("exitCode") not in {0, None} and not container.get("ready"):
            name = str(container.get("name") or "")
            lines = _lines(seen, name)
            why = parse_failure("\n".join(lines)) if lines else _how(ended)
            what = "fetching the model failed" if "preload" in name else f"its init container {name} failed"
            return seen.trouble(Cause.PRELOAD, f"{what}: {why}", seen.command(f"logs {seen.name} -c {name}"), details=lines[-10:])
    return None


def _ended(seen: _Seen) -> Trouble | None:
    for init, container in seen.containers():
        ended = _last_end(container)
        if init or ended is None or (container.get("ready") and (container.get("state") or {}).get("running")):
            continue
        name, lines = str(container.get("name") or ""), _lines(seen, str(container.get("name") or ""))
        restarts = int(container.get("restartCount") or 0)
        logs = seen.command(f"logs {seen.name} -c {name} --previous" if restarts else f"logs {seen.name} -c {name}")
        if ended.get("reason") == _KILLED_FOR_MEMORY:
            return _out_of_memory(seen, name, lines, logs)
        if killed := seen.said("Killing"):
            if "failed startup probe" in killed:
                return _startup(seen, name, lines)
            if "failed liveness probe" in killed:
                return seen.trouble(Cause.STALLED, f"{name} generated nothing any more and was started anew ({_times(restarts)})", logs, details=lines[-10:])
        code = ended.get("exitCode")
        if code in _NO_PROGRAM and not lines:
            return seen.trouble(Cause.PROGRAM, f"{name} cannot run its program: {_how(ended)}", seen.describe, hopeless=True)
        waiting = ((container.get("state") or {}).get("waiting") or {}).get("reason")
        if code == 0 and waiting != "CrashLoopBackOff":
            continue
        why = parse_failure("\n".join(lines)) if lines else _how(ended)
        again = f" ({_times(restarts)} started anew)" if restarts else ""
        return seen.trouble(Cause.CRASH, f"{name} ends at its start{again}: {why}", logs, hopeless=restarts >= 3, details=lines[-10:])
    return None


def _slow(seen: _Seen) -> Trouble | None:
    """A startup probe that is over while the container is being ended or has just been started anew."""
    killed = seen.said("Killing")
    if "failed startup probe" in killed and not all(container.get("ready") for _, container in seen.containers()):
        name = next((str(container.get("name") or "") for init, container in seen.containers() if not init), "engine")
        return _startup(seen, name, _lines(seen, name))
    return None


def _startup(seen: _Seen, name: str, lines: tuple[str, ...]) -> Trouble:
    from kivactl.stack.engine import parse_phase

    phase = parse_phase("\n".join(lines)) if lines else ""
    at = f"; it was {phase}" if phase else ""
    sentence = f"{name} generated no token within its startup budget{at}"
    return seen.trouble(Cause.STARTUP, sentence, "raise `ready_within` of the model, or see what takes so long: " + seen.command(f"logs {seen.name} -c {name} --previous"), details=lines[-10:])


def _out_of_memory(seen: _Seen, name: str, lines: tuple[str, ...], logs: str) -> Trouble:
    limit = next((((one.get("resources") or {}).get("limits") or {}).get("memory") for one in seen.spec.get("containers") or () if one.get("name") == name), None)
    of = f" of {limit}" if limit else ""
    served = any("Application startup complete" in line for line in lines)
    when = "while it served" if served else "at its start"
    hint = "raise `memory` of the model" if served else "raise `memory` of the model, or lower its `kv_cache` or `max_length`"
    return seen.trouble(Cause.OUT_OF_MEMORY, f"{name} needed more than its memory limit{of} {when} and was killed", f"{hint}; {logs}", hopeless=not served, details=lines[-10:])


def _running(seen: _Seen) -> bool:
    return any((container.get("state") or {}).get("running") for _, container in seen.containers())


def _last_end(container: Json) -> Json | None:
    """How a container ended last; None when it has not."""
    return (container.get("state") or {}).get("terminated") or (container.get("lastState") or {}).get("terminated")


def _lines(seen: _Seen, container: str) -> tuple[str, ...]:
    """The lines of the container that ended: the one before, unless nothing was started since."""
    logs = seen.logs.get(container, Logs())
    return logs.before or logs.now


def _how(ended: Json) -> str:
    code, reason = ended.get("exitCode"), str(ended.get("reason") or "")
    message = _sentence(_tail(str(ended.get("message") or "")))
    if message:
        return message
    if code == _KILLED:
        return "killed (SIGKILL), by whom is not said"
    return f"exit code {code}" + (f" ({reason})" if reason not in {"", "Error"} else "")


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _network_word(text: str) -> str:
    found = re.search(r"no such host|i/o timeout|connection refused|connection reset|no route to host|TLS handshake timeout|context deadline exceeded|EOF", text, re.IGNORECASE)
    return found[0] if found else "it does not answer"


def _tail(text: str) -> str:
    """What an error is about in the end: `rpc error: code = X desc = failed to ...: a: b` has it behind the description."""
    return text.rpartition(" desc = ")[2] or text


def _sentence(text: str) -> str:
    line = " ".join(text.split()).rstrip(".")
    return line if len(line) <= 300 else f"{line[:299]}…"

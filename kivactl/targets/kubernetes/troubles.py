"""Why a pod does not start or does not stay, in one sentence with the next command. Pure.

Read from the pod, from what was said about it, and from its container's last lines. The first cause found counts, those that
explain the others first: a pod that was evicted also has containers that do not run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kivactl.stack.engine import parse_failure
from kivactl.targets.kubernetes import scheduling
from kivactl.targets.kubernetes.pulling import IMAGE_REASONS, why_not_pulled
from kivactl.targets.kubernetes.trouble import Cause, Logs, Trouble, Where, one_line, tail
from kivactl.tools.kube_objects import Event

Json = Mapping[str, Any]


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
        why = f"the node {seen.node} is low on {what[1]}" if what else one_line(message)
        hint = "raise the limit of its emptyDir, or write less: " if limit else "free the node's disk or memory: "
        return seen.trouble(Cause.EVICTED, f"evicted: {why}", hint + seen.command(f"describe node {seen.node}"))
    if reason == "NodeLost" or (seen.said("NodeNotReady") and seen.conditions.get("Ready", {}).get("status") != "True"):
        return seen.trouble(Cause.NODE, f"its node {seen.node} is not ready", seen.command(f"describe node {seen.node}"))
    if reason in {"NodeShutdown", "Terminated"} or "node is shutting down" in message.lower():
        return seen.trouble(Cause.NODE, f"its node {seen.node} shut down", seen.command(f"describe node {seen.node}"))
    if reason in {"UnexpectedAdmissionError", "OutOfcpu", "OutOfmemory", "OutOfpods"} or reason.startswith(("OutOf", "NodeAffinity", "UnexpectedAdmission")):
        devices = "gpu" in (reason + message).lower() or "device" in message.lower()
        return seen.trouble(
            Cause.GPU if devices else Cause.CPU,
            f"the node {seen.node} turned it away: {one_line(message) or reason}",
            seen.command(f"describe node {seen.node}"),
        )
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
        return seen.trouble(
            Cause.VOLUME,
            f"the node {seen.node} has no {found[2]} {found[1]}",
            "put the model's files there on every node, or change `kubernetes.storage`",
            hopeless=True,
        )
    return seen.trouble(Cause.VOLUME, f"a volume cannot be mounted: {one_line(tail(message))}", seen.describe)


def _pulled(seen: _Seen) -> Trouble | None:
    for _, container in seen.containers():
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") not in IMAGE_REASONS:
            continue
        image = str(container.get("image") or "")
        # The newest event may only say that it waits for the next try.
        events = [event.message for event in reversed(seen.events) if event.reason in {"Failed", "InspectFailed"} and image in event.message]
        text = " ".join([str(waiting.get("message") or ""), *events, str(waiting["reason"])])
        commands = {"describe": seen.describe, "delete": seen.command(f"delete pod {seen.name}"), "secrets": seen.command("get secrets")}
        why = why_not_pulled(image, text, commands)
        return seen.trouble(why.cause, why.sentence, why.hint, hopeless=why.hopeless)
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
                return seen.trouble(
                    Cause.CONFIGURATION,
                    f"the {found[2]} '{found[3].rpartition('/')[2]}' has no key '{found[1]}'",
                    seen.command(f"describe {found[2].lower()} {found[3].rpartition('/')[2]}"),
                )
            if "runAsNonRoot" in message or "non-numeric user" in message:
                return seen.trouble(
                    Cause.CONFIGURATION,
                    "its image would run as root, which is not allowed here",
                    "use an image built from images/, whose user is 1000: " + seen.describe,
                    hopeless=True,
                )
            return seen.trouble(Cause.CONFIGURATION, f"its container cannot be made: {one_line(tail(message)) or reason}", seen.describe)
        if reason == "RunContainerError" or "executable file not found" in message or "no such file or directory: unknown" in message:
            return seen.trouble(Cause.PROGRAM, f"its program cannot be run: {one_line(tail(message)) or reason}", seen.describe, hopeless=True)
    sandbox = seen.said("FailedCreatePodSandBox")
    if sandbox and not _running(seen):
        return seen.trouble(
            Cause.SANDBOX, f"the node {seen.node} cannot make its network or sandbox: {one_line(tail(sandbox))}", seen.command(f"describe node {seen.node}")
        )
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
    return seen.trouble(
        Cause.STARTUP,
        sentence,
        "raise `ready_within` of the model, or see what takes so long: " + seen.command(f"logs {seen.name} -c {name} --previous"),
        details=lines[-10:],
    )


def _out_of_memory(seen: _Seen, name: str, lines: tuple[str, ...], logs: str) -> Trouble:
    limit = next(
        (((one.get("resources") or {}).get("limits") or {}).get("memory") for one in seen.spec.get("containers") or () if one.get("name") == name), None
    )
    of = f" of {limit}" if limit else ""
    served = any("Application startup complete" in line for line in lines)
    when = "while it served" if served else "at its start"
    hint = "raise `memory` of the model" if served else "raise `memory` of the model, or lower its `kv_cache` or `max_length`"
    return seen.trouble(
        Cause.OUT_OF_MEMORY, f"{name} needed more than its memory limit{of} {when} and was killed", f"{hint}; {logs}", hopeless=not served, details=lines[-10:]
    )


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
    message = one_line(tail(str(ended.get("message") or "")))
    if message:
        return message
    if code == _KILLED:
        return "killed (SIGKILL), by whom is not said"
    return f"exit code {code}" + (f" ({reason})" if reason not in {"", "Error"} else "")


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"

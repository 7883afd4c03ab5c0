"""How a scripted pod behaves, and what its containers' states and events say in each trouble, in the words of the real kubelet."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

from kube_api.store import moment

Json = dict[str, Any]

TROUBLES = ("ImagePullBackOff", "CrashLoopBackOff", "OOMKilled", "CreateContainerConfigError", "RunContainerError", "NotReady", "Pending")


@dataclass(frozen=True)
class Behaviour:
    """What pods do that fit.

    Attributes:
        pods: Pattern of their names, such as `kiva-smollm2-*`.
        ready_after: Ticks from being placed on a node until they are ready, or until a Job's container ends.
        trouble: One of `TROUBLES`; none when empty.
        container: Which of their containers has it, also an init container; the first when empty.
        message: What the kubelet or scheduler says of it; what the real one says when empty.
        log: Lines of the container.
        exit_code: Of a Job's container.
        image: Pattern of the image of its first container; so a new image may fail where the old one ran.
        ends_after: Ticks from its deletion until a pod is gone.
        noticed_after: Ticks from a signal until the kubelet sees that the container ended, or that its check fails.
        restarted_after: Ticks from a failing check until the container is started anew; never when 0.
    """

    pods: str = "*"
    ready_after: int = 1
    trouble: str = ""
    container: str = ""
    message: str = ""
    log: tuple[str, ...] = ()
    exit_code: int = 0
    image: str = "*"
    ends_after: int = 1
    noticed_after: int = 1
    restarted_after: int = 5

    def fits(self, pod: Json) -> bool:
        """Whether a pod is meant."""
        return fnmatch(pod["metadata"]["name"], self.pods) and fnmatch(pod["spec"]["containers"][0].get("image", ""), self.image)


@dataclass
class Course:
    """How far a pod has come.

    Attributes:
        ticks: Since it was placed, or its container was started anew.
        restarts: Of its container.
        ending: Ticks since its deletion.
        said: What it was told of already.
        stopped: Ticks since its processes were stopped; None while they run.
        killed: Ticks since they were killed; None while they live.
        last: How its container ended last.
    """

    ticks: int = 0
    restarts: int = 0
    ending: int = 0
    said: set[str] = field(default_factory=set)
    stopped: int | None = None
    killed: int | None = None
    last: Json | None = None


def container_status(container: Json, state: Json, *, ready: bool = False, restarts: int = 0, last: Json | None = None) -> Json:
    """One entry of `containerStatuses`."""
    image = container.get("image", "")
    running = "running" in state
    return {
        "name": container["name"],
        "image": image,
        "imageID": image if running else "",
        "ready": ready,
        "started": running,
        "restartCount": restarts,
        "state": state,
        "lastState": last or {},
        **({"containerID": f"containerd://{container['name']}"} if running else {}),
    }


def running() -> Json:
    return {"running": {"startedAt": moment()}}


def waiting(reason: str, message: str = "") -> Json:
    return {"waiting": {"reason": reason, **({"message": message} if message else {})}}


def terminated(reason: str, code: int, message: str = "") -> Json:
    now = moment()
    return {"terminated": {"reason": reason, "exitCode": code, "startedAt": now, "finishedAt": now, **({"message": message} if message else {})}}


def troubled(pod: Json, container: Json, behaviour: Behaviour, course: Course) -> tuple[Json, Json | None, list[tuple[str, str]]]:
    """State, last state and events (reason, message) of a container in trouble."""
    name, image, meta = container["name"], container.get("image", ""), pod["metadata"]
    where = f"{meta['name']}_{meta.get('namespace', '')}({meta['uid']})"
    match behaviour.trouble:
        case "ImagePullBackOff":
            why = behaviour.message or f'failed to pull and unpack image "{image}": failed to resolve reference "{image}": {image}: not found'
            events = [("Pulling", f'Pulling image "{image}"'), ("Failed", f'Failed to pull image "{image}": {why}'), ("Failed", "Error: ErrImagePull")]
            if course.ticks % 2:
                return waiting("ErrImagePull", why), None, events
            return (
                waiting("ImagePullBackOff", f'Back-off pulling image "{image}": ErrImagePull: {why}'),
                None,
                [("BackOff", f'Back-off pulling image "{image}"')],
            )
        case "CreateContainerConfigError" | "RunContainerError":
            why = behaviour.message or 'secret "missing" not found'
            return waiting(behaviour.trouble, why), None, [("Failed", f"Error: {why}")]
        case "OOMKilled" | "CrashLoopBackOff":
            code, reason = (137, "OOMKilled") if behaviour.trouble == "OOMKilled" else (behaviour.exit_code or 1, "Error")
            end = terminated(reason, code, behaviour.message)
            back_off = f"back-off 10s restarting failed container={name} pod={where}"
            events = [("BackOff", f"Back-off restarting failed container {name} in pod {where}")]
            if course.ticks % 3 == 1:
                return running(), end if course.restarts else None, []
            if course.ticks % 3 == 2:
                course.restarts += 1
                return end, None, []
            return waiting("CrashLoopBackOff", back_off), end, events
        case _:
            said = behaviour.message or "Readiness probe failed: HTTP probe failed with statuscode: 503"
            return running(), None, [("Unhealthy", said)]

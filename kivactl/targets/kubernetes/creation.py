"""Why no pods are made at all: admission, quota, a missing account. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from kivactl.targets.kubernetes.trouble import Cause, Trouble, Where, tail
from kivactl.tools.kube_objects import Event

Json = Mapping[str, Any]


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
    why, subject = tail(said), f"{kind} {name}"
    if quota := re.search(r"exceeded quota: ([^,]+), requested: (.+?), used: (.+?), limited: (.+)", said):
        sentence = f"no pod of {name} is made: the quota '{quota[1]}' is used up (asked for {quota[2]}, used {quota[3]}, allowed {quota[4]})"
        return Trouble(Cause.QUOTA, subject, sentence, where.command(f"describe resourcequota {quota[1]}"))
    if found := re.search(r'violates PodSecurity "([^"]+)": (.+)', said):
        return Trouble(
            Cause.ADMISSION,
            subject,
            f"no pod of {name} is made: Pod Security '{found[1]}' forbids it: {found[2]}",
            where.command(f"get namespace {where.namespace} -o yaml"),
            True,
        )
    if found := re.search(r'serviceaccount "([^"]+)" not found', said):
        return Trouble(
            Cause.CONFIGURATION, subject, f"no pod of {name} is made: there is no service account '{found[1]}'", where.command("get serviceaccounts")
        )
    if found := re.search(r'admission webhook "([^"]+)" denied the request: (.+)', said):
        return Trouble(
            Cause.ADMISSION,
            subject,
            f"no pod of {name} is made: the admission webhook {found[1]} denies it: {found[2]}",
            where.command(f"describe {kind.lower()} {name}"),
            True,
        )
    if found := re.search(r"no PriorityClass with name (\S+) was found", said):
        return Trouble(
            Cause.CONFIGURATION, subject, f"no pod of {name} is made: there is no priority class {found[1]}", where.command("get priorityclasses"), True
        )
    if found := re.search(r'RuntimeClass "?([^" ]+)"? not found', said):
        return Trouble(
            Cause.CONFIGURATION, subject, f"no pod of {name} is made: there is no runtime class {found[1]}", where.command("get runtimeclasses"), True
        )
    return Trouble(Cause.ADMISSION, subject, f"no pod of {name} is made: {why}", where.command(f"describe {kind.lower()} {name}"))

"""What may be written by whom: rules of webhooks and policies, Pod Security, quotas, permissions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from kube_api.answers import Refusal, forbidden, resource_name
from kube_api.kinds import Kind
from kube_api.quantities import number, requested, text

Json = dict[str, Any]


@dataclass(frozen=True)
class Rule:
    """What is denied by an admission webhook, as long as it is there."""

    kind: str
    message: str
    webhook: str
    code: int
    when: Callable[[Json], bool]


class Admission:
    """All rules; tests add to them."""

    def __init__(self) -> None:
        self.rules: list[Rule] = []
        self.refused: set[tuple[str, str]] = set()
        self.user = "kiva"

    def deny(self, kind: str, message: str, *, webhook: str = "policy.example.org", code: int = 403, when: Callable[[Json], bool] = lambda _: True) -> Rule:
        """Deny what is written of a kind.

        Args:
            kind: Such as `Deployment`, or `*`.
            message: What the webhook says.
            webhook: Its name.
            code: Of its answer.
            when: Whether an object is meant.
        """
        rule = Rule(kind, message, webhook, code, when)
        self.rules.append(rule)
        return rule

    def forbid(self, verb: str, plural: str) -> None:
        """Take a permission away from whoever calls; `*` stands for all verbs, and for all resources."""
        self.refused.add((verb, plural))

    def clear(self) -> None:
        """Allow everything again."""
        self.rules.clear()
        self.refused.clear()

    def may(self, verb: str, plural: str) -> bool:
        return not any((one, other) in self.refused for one in (verb, "*") for other in (plural, "*"))

    def check_permission(self, verb: str, kind: Kind, namespace: str, name: str, subresource: str = "") -> None:
        """As RBAC."""
        plural = f"{kind.plural}/{subresource}" if subresource else kind.plural
        if self.may(verb, plural):
            return
        where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
        why = f'User "{self.user}" cannot {verb} resource "{plural}" in API group "{kind.group}" {where}'
        if name:
            raise forbidden(kind.plural, kind.group, name, why)
        raise Refusal(403, f"{resource_name(kind.plural, kind.group)} is forbidden: {why}", details={"group": kind.group, "kind": kind.plural})

    def check(self, kind: Kind, value: Json) -> None:
        """As admission webhooks."""
        for rule in self.rules:
            if rule.kind in {"*", kind.kind} and rule.when(value):
                said = f'admission webhook "{rule.webhook}" denied the request: {rule.message}'
                raise Refusal(rule.code, said, "Forbidden" if rule.code == 403 else "")


def restricted_faults(spec: Json) -> list[str]:
    """What keeps a pod from the Pod Security Standard `restricted`, in the words of the real server."""
    pod = spec.get("securityContext") or {}
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    contexts = [(one["name"], one.get("securityContext") or {}) for one in containers]

    def named(bad: list[str]) -> str:
        return f"container{'s' if len(bad) > 1 else ''} " + ", ".join(f'"{name}"' for name in bad)

    found = [f"host namespaces ({key}=true)" for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key)]
    if bad := [one["name"] for one in spec.get("volumes") or () if "hostPath" in one]:
        found.append(f'restricted volume types (volume{"s" if len(bad) > 1 else ""} {", ".join(map(repr, bad))} uses restricted volume type "hostPath")')
    if bad := [name for name, one in contexts if one.get("privileged")]:
        found.append(f"privileged ({named(bad)} must not set securityContext.privileged=true)")
    if bad := [name for name, one in contexts if one.get("allowPrivilegeEscalation") is not False]:
        found.append(f"allowPrivilegeEscalation != false ({named(bad)} must set securityContext.allowPrivilegeEscalation=false)")
    if bad := [name for name, one in contexts if "ALL" not in ((one.get("capabilities") or {}).get("drop") or ())]:
        found.append(f'unrestricted capabilities ({named(bad)} must set securityContext.capabilities.drop=["ALL"])')
    if bad := [name for name, one in contexts if (one.get("runAsNonRoot", pod.get("runAsNonRoot"))) is not True]:
        found.append(f"runAsNonRoot != true (pod or {named(bad)} must set securityContext.runAsNonRoot=true)")
    allowed = {"RuntimeDefault", "Localhost"}
    if bad := [name for name, one in contexts if ((one.get("seccompProfile") or pod.get("seccompProfile") or {}).get("type")) not in allowed]:
        found.append(f'seccompProfile (pod or {named(bad)} must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")')
    return found


def check_pod_security(namespace: Json | None, kind: Kind, value: Json) -> list[str]:
    """As Pod Security admission: pods are refused where the namespace says `enforce`, workloads warned of.

    Returns:
        Warnings.
    """
    labels = ((namespace or {}).get("metadata") or {}).get("labels") or {}
    spec = value.get("spec") or {}
    pod = spec if kind.kind == "Pod" else (spec.get("template") or {}).get("spec") if isinstance(spec, dict) else None
    if not pod or kind.custom or "containers" not in pod:
        return []
    for mode in ("enforce", "warn"):
        if labels.get(f"pod-security.kubernetes.io/{mode}") == "restricted" and (faults := restricted_faults(pod)):
            said = f'violates PodSecurity "restricted:latest": {", ".join(faults)}'
            if mode == "enforce" and kind.kind == "Pod":
                raise forbidden("pods", "", value["metadata"].get("name", ""), said)
            return [f"would {said.replace('violates', 'violate', 1)}"]
    return []


def check_quota(quotas: list[Json], kind: Kind, value: Json, used: Callable[[str], Decimal]) -> None:
    """Refuse what goes beyond a ResourceQuota of the namespace.

    Args:
        quotas: Of the namespace.
        kind: Of the object.
        value: The object that is to be made.
        used: How much of a resource of quotas is used now.
    """
    wanted = charged(kind, value)
    for quota in quotas:
        hard = (quota.get("spec") or {}).get("hard") or {}
        over = [name for name, amount in wanted.items() if name in hard and used(name) + amount > number(hard[name])]
        if over:
            asked = ",".join(f"{name}={text(wanted[name])}" for name in sorted(over))
            taken = ",".join(f"{name}={text(used(name))}" for name in sorted(over))
            limit = ",".join(f"{name}={hard[name]}" for name in sorted(over))
            name = quota["metadata"]["name"]
            why = f"exceeded quota: {name}, requested: {asked}, used: {taken}, limited: {limit}"
            raise forbidden(kind.plural, kind.group, value["metadata"].get("name", ""), why)


def charged(kind: Kind, value: Json) -> dict[str, Decimal]:
    """What an object counts for in quotas."""
    one = Decimal(1)
    counted = {f"count/{resource_name(kind.plural, kind.group)}": one, **({kind.plural: one} if not kind.group else {})}
    if kind.kind == "Pod" and (value.get("status") or {}).get("phase") not in {"Succeeded", "Failed"}:
        for which in ("requests", "limits"):
            counted |= {f"{which}.{name}": amount for name, amount in requested(value["spec"], which).items()}
        counted |= {name: counted[f"requests.{name}"] for name in ("cpu", "memory") if f"requests.{name}" in counted}
    if kind.kind == "PersistentVolumeClaim":
        counted["requests.storage"] = number(value["spec"]["resources"]["requests"]["storage"])
    return counted

"""The ways in which a cluster refuses or fails, each a class of its own. Pure."""

from __future__ import annotations

from kivactl.errors import NotReadyError, PreconditionError, ToolError
from kivactl.tools.kube_objects import Owner


class Unreachable(NotReadyError):
    """The API server gives no answer, or none but failures, for as long as we try."""


class Untrusted(PreconditionError):
    """The API server's certificate is not vouched for by the authority in the kubeconfig."""


class Unauthenticated(PreconditionError):
    """The API server does not know who we are: credentials that are missing, wrong or expired."""


class Denied(PreconditionError):
    """We may not do this: the account lacks a permission (RBAC)."""


class QuotaExceeded(PreconditionError):
    """A ResourceQuota or LimitRange of the namespace leaves no room."""


class Refused(PreconditionError):
    """An admission controller or policy says no. `policy` names it, as far as it names itself."""

    policy: str = ""


class Guarded(PreconditionError):
    """A PodDisruptionBudget does not let a pod go now; when others are ready it may. Waiting within one request is no use."""


class Invalid(ToolError):
    """The object is not one that the API server takes; `details` has one line for each field."""


class Conflict(PreconditionError):
    """Someone else set fields that we would change; `owners` says who and which."""

    owners: tuple[Owner, ...] = ()


class Changed(ToolError):
    """An object was changed by someone else again and again while we tried to change it."""


class AlreadyThere(ToolError):
    """An object of this name exists. `perhaps_ours` when an earlier try, whose answer was lost, may have made it."""

    perhaps_ours: bool = False


class Expired(ToolError):
    """The server no longer has the history that was asked for (410)."""


class Missing(PreconditionError):
    """What must be there first is not: the object, its namespace, or its kind.

    `perhaps_ours` when an earlier try, whose answer was lost, may have deleted it; `object_only` when nothing but the object is missing.
    """

    perhaps_ours: bool = False
    object_only: bool = False

"""`provision`: makes machines ready for a platform.

Belongs here: one module per stage, each with its plan and its apply. Does not: what a cloud or a playbook is called with
(`kivactl.stack.infrastructure`), how their programs are run (`kivactl.tools`).
"""

from kivactl.flows.provision.infrastructure import (
    Provisioning,
    apply_infrastructure,
    apply_removal,
    plan_infrastructure,
    plan_removal,
    verify_infrastructure,
)
from kivactl.flows.provision.this_machine import apply_provision, changes_from, error_for, names_for, plan_provision, provisioned, variables_for

__all__ = [
    "Provisioning",
    "apply_infrastructure",
    "apply_provision",
    "apply_removal",
    "changes_from",
    "error_for",
    "names_for",
    "plan_infrastructure",
    "plan_provision",
    "plan_removal",
    "provisioned",
    "variables_for",
    "verify_infrastructure",
]

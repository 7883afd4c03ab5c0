"""What steps can do (actions) and look at (probes), by name. A new procedure needs no new code, a new action does.

One module for each subject; what belongs to a verb of kivactl is a thin call of its flow.
"""

from __future__ import annotations

from kivactl.runbooks.actions import backup, command, faults, health, model, platform, restore, troubles, trust
from kivactl.runbooks.actions.action import Action, Probe

_SUBJECTS = (platform, trust, troubles, health, model, command, faults, backup, restore)

ACTIONS: dict[str, Action] = {name: action for subject in _SUBJECTS for name, action in subject.ACTIONS.items()}
"""Every action by the name that runbooks use."""

PROBES: dict[str, Probe] = {name: probe for subject in _SUBJECTS for name, probe in subject.PROBES.items()}
"""Every probe by the name that runbooks use."""

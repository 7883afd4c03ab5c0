"""The commands: one module each, and one line here.

A module has a function `command` (its signature is the command's, its docstring the help), or an `app` from
`cli.group.group` when it has subcommands. A command parses, makes one call, and hands the result to the sink.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Entry:
    """A registered command; the module has the command's name.

    Attributes:
        name: As typed.
        section: Heading in the help.
        summary: One sentence for the overview, which loads no module.
    """

    name: str
    section: str
    summary: str

    @property
    def module(self) -> str:
        return self.name.replace("-", "_")


_BEGIN, _RUN, _CARE = "Begin", "Run", "Care"

REGISTRY = (
    Entry("init", _BEGIN, "Write a commented kiva.yaml."),
    Entry("spec", _BEGIN, "Check and show what the platform should be."),
    Entry("doctor", _BEGIN, "Say what is here, what is missing and how to get it."),
    Entry("provision", _BEGIN, "Prepare this machine: folders, certificates, tuning."),
    Entry("up", _RUN, "Everything from nothing to a first answer."),
    Entry("deploy", _RUN, "Make the platform what the spec says."),
    Entry("render", _RUN, "Write the platform as files for GitOps."),
    Entry("status", _RUN, "Show how the platform is."),
    Entry("logs", _RUN, "Show the logs of the platform's processes."),
    Entry("chat", _RUN, "Ask a model one question."),
    Entry("tenant", _RUN, "Show the tenants: what they may, what they have used."),
    Entry("token", _RUN, "Issue, list and revoke the tokens of tenants."),
    Entry("down", _RUN, "Stop the platform and leave nothing behind."),
    Entry("usage", _CARE, "Show who used what, what it costs, and how budgets stand."),
    Entry("loadtest", _CARE, "Measure latency and throughput under load."),
    Entry("certs", _CARE, "Show and renew the certificates."),
    Entry("runbook", _CARE, "Run a written procedure."),
    Entry("backup", _CARE, "List, show and verify the backups."),
)


def registered() -> tuple[Entry, ...]:
    """The commands whose module is there, in the order of the help."""
    folder = Path(__file__).parent
    return tuple(entry for entry in REGISTRY if (folder / f"{entry.module}.py").is_file())

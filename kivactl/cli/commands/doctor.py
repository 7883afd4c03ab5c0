"""`kivactl doctor`."""

from __future__ import annotations

import typer

from kivactl.cli.options import Common, common

_STYLES = {"ok": "green", "warning": "yellow", "missing": "red"}


def command(context: typer.Context) -> None:
    """Say what is here, what is missing and how to get it. Changes nothing. Exit code 3 when something is missing."""
    from kivactl.flows.doctor import examine
    from kivactl.flows.findings import State

    options = common(context)
    findings = examine(*_platform(options))
    rows = [(finding.name, finding.state.value, finding.found, finding.needed_for) for finding in findings]
    options.sink.result(
        [finding.as_dict() for finding in findings],
        lambda: options.sink.table(("WHAT", "STATE", "FOUND", "NEEDED FOR"), rows, _STYLES),
    )
    for finding in findings:
        if finding.remedy and finding.state is not State.OK:
            options.sink.note(f"{finding.name}: {finding.remedy}")
    raise typer.Exit(3 if any(finding.state is State.MISSING for finding in findings) else 0)


def _platform(options: Common):  # type: ignore[no-untyped-def]  # noqa: ANN202  (the types would load before they are needed)
    """The platform of the spec, if there is one: a doctor is also asked before the first `init`."""
    from kivactl.cli.site import deployment_of
    from kivactl.errors import SpecError

    try:
        deployment = deployment_of(options)
    except SpecError as error:
        if options.spec is not None or error.details:
            options.sink.warn(error.message)
        return None, None
    return deployment.platform, deployment.layout

"""`kivactl status`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from kivactl.cli.options import Common, common
from kivactl.cli.site import deployment_of, layout_in, site_of

if TYPE_CHECKING:
    from kivactl.spec.load import Site
    from kivactl.targets.status import Status

_STYLES = {"serving": "green", "starting": "yellow", "draining": "yellow", "degraded": "yellow", "restarting": "red", "stopped": "red"}


def command(
    context: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it again every second until Ctrl-C.")] = False,
) -> None:
    """Show how the platform is: health, processes, requests in work. Exit code 6 when it does not serve."""
    from kivactl.targets.status import Health

    options = common(context)
    site = site_of(options)
    look = _look_of(options, site)
    while True:
        status = look()
        if watch and options.sink.coloured:
            options.sink.text("\x1b[H\x1b[2J", end="")
        options.sink.result(status.as_dict(), lambda: _show(options.sink, status, pods=site.on_cluster))  # noqa: B023  (called at once)
        if not watch:
            break
        time.sleep(1)
    raise typer.Exit(0 if status.health is Health.SERVING else 6)


def _look_of(options: Common, site: Site) -> Callable[[], Status]:
    """What says how the platform is: on one machine without reading more of the spec than its name, for it has to be quick."""
    if site.on_cluster:
        from kivactl.flows.cluster import status_of as status_in_cluster

        deployment = deployment_of(options)
        return lambda: status_in_cluster(deployment)
    from kivactl.targets.status import status_of

    layout = layout_in(site)
    return lambda: status_of(layout, site.name)


def _show(sink, status, *, pods: bool) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001  (types would load what must stay unloaded)
    from kivactl.spec.quantities import format_duration

    where = f" at {status.endpoint}" if status.endpoint else ""
    sink.text(f"{status.platform}: {status.health.value}{where}")
    if pods and status.components:
        seen = [(one.name, one.health.value, format_duration(one.uptime_s) if one.uptime_s >= 1 else "", one.reason) for one in status.components]
        sink.table(("POD", "HEALTH", "UP", ""), seen, _STYLES)
    elif status.components:
        rows = [
            (
                component.name,
                component.health.value,
                component.active,
                component.pid or "",
                format_duration(component.uptime_s) if component.pid else "",
                component.reason,
            )
            for component in status.components
        ]
        sink.table(("PROCESS", "HEALTH", "REQUESTS", "PID", "UP", ""), rows, _STYLES)
    else:
        sink.note("next: kivactl deploy")

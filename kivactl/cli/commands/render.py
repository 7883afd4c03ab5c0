"""`kivactl render`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kivactl.cli.options import common


class Style(StrEnum):
    """The values of `flows.render.Style`, which loads only when something is rendered."""

    ARGOCD = "argocd"
    FLUX = "flux"
    HELMFILE = "helmfile"
    MANIFESTS = "manifests"
    ALL = "all"


def command(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to: an empty folder, or a former render.", file_okay=False)],
    style: Annotated[Style | None, typer.Option("--style", help="For whom; all when absent.")] = None,
    kubernetes: Annotated[str | None, typer.Option("--kube-version", metavar="VERSION", help="Kubernetes to render for; 1.35.0 when absent.")] = None,
    repository: Annotated[str | None, typer.Option("--repository", metavar="URL", help="The Git repository that DIR is committed to.")] = None,
    revision: Annotated[str | None, typer.Option("--revision", metavar="BRANCH", help="Its branch; main when absent.")] = None,
    path: Annotated[str | None, typer.Option("--path", metavar="PATH", help="DIR in it; found by its .git when absent.")] = None,
    charts: Annotated[str | None, typer.Option("--charts", metavar="URL", help="oci://... with the charts; copied into DIR when absent.")] = None,
    secret: Annotated[str | None, typer.Option("--repository-secret", metavar="NAME", help="Flux' Secret for the repository.")] = None,
    destination: Annotated[
        str | None, typer.Option("--destination", metavar="CLUSTER", help="Argo CD's URL or name of the cluster; its own when absent.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit code 2 when DIR is stale.")] = False,
) -> None:
    """Write values, manifests and the objects of Argo CD, Flux and helmfile for each environment.

    What an option says once is kept in DIR for the next time. The same spec gives the same bytes; no secret is written.
    """
    from kivactl.flows.render import Style as RenderStyle
    from kivactl.flows.render import Wishes, apply_render, plan_render

    options = common(context)
    wishes = Wishes(RenderStyle(style.value) if style else None, kubernetes, repository, revision, path, charts, secret, destination)
    rendering = plan_render(options.path, options.environment, folder, wishes, stored_keys=check)
    if check:
        options.sink.plan(rendering.plan, result=True)
        raise typer.Exit(0 if rendering.plan.empty else 2)
    apply_render(rendering)
    for note in rendering.plan.notes:
        options.sink.note(note)
    options.sink.result(rendering.as_dict(), rendering.summary)

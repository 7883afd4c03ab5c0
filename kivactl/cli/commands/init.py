"""`kivactl init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kivactl.cli.options import common


def command(
    context: typer.Context,
    name: Annotated[str | None, typer.Option("--name", help="What the platform is called; the folder's name when absent.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
) -> None:
    """Write a commented kiva.yaml.

    With --env dev, prod or init also the overlay of that environment; a kiva.yaml that is there then stays as it is.
    """
    from kivactl.spec.template import starters, write

    options = common(context)
    texts = starters(options.spec or Path(), name, options.environment, force=force)
    for path, text in texts.items():
        write(path, text, force=force)
    files = [str(path) for path in texts]
    options.sink.result({"written": files}, "\n".join(f"wrote {file}" for file in files))
    options.sink.note("next: kivactl spec check")

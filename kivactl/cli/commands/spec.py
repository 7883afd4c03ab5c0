"""`kivactl spec check`, `show` and `schema`."""

from __future__ import annotations

import json

import typer

from kivactl.cli.group import group
from kivactl.cli.options import common

app = group("Check and show what the platform should be.")


@app.command()
def check(context: typer.Context) -> None:
    """Say everything that is wrong with the spec; touches nothing."""
    options = common(context)
    loaded = options.load()
    platform = loaded.platform
    files = [str(path) for path in loaded.files]
    replicas = sum(model.replicas for model in platform.models)
    options.sink.result(
        {"name": platform.name, "files": files, "digest": loaded.digest},
        f"{' + '.join(files)}: no faults ('{platform.name}' on {platform.target}, models: {len(platform.models)}, replicas: {replicas})",
    )


@app.command()
def show(context: typer.Context) -> None:
    """Show the whole spec: overlay merged, defaults filled in."""
    from kivactl.spec.document import write_yaml

    options = common(context)
    data = options.load().platform.model_dump(mode="json")
    options.sink.result(data, write_yaml(data).rstrip())


@app.command()
def schema(context: typer.Context) -> None:
    """Show the JSON Schema of kiva.yaml, for editors."""
    from kivactl.spec.schema import schema

    data = schema()
    common(context).sink.result(data, json.dumps(data, indent=2))

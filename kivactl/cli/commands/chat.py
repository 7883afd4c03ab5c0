"""`kivactl chat`."""

from __future__ import annotations

from typing import Annotated

import typer

from kivactl.cli.options import common
from kivactl.cli.site import deployment_of


def command(
    context: typer.Context,
    prompt: Annotated[str, typer.Argument(help="What to ask.")],
    model: Annotated[str | None, typer.Option("--model", help="Which model; the spec's first when absent.")] = None,
    tenant: Annotated[str | None, typer.Option("--tenant", help="On whose behalf; the spec's first when absent.")] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Longest answer.")] = 256,
) -> None:
    """Ask a model one question, as a client would: TLS, a token, the gateway. The answer is streamed."""
    from kivactl.flows.chat import ask

    options = common(context)
    pieces = []
    for piece in ask(deployment_of(options), prompt, model=model, tenant=tenant, max_tokens=max_tokens):
        pieces.append(piece)
        options.sink.text(piece, end="")
    options.sink.text("")
    options.sink.result({"answer": "".join(pieces)})

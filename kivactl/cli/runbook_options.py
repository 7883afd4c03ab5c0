"""What the commands of `kivactl runbook` share: options, and the spec they may do without."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from kivactl.cli.completion import run_names
from kivactl.cli.options import Common
from kivactl.errors import SpecError

if TYPE_CHECKING:
    from kivactl.spec.load import Loaded


class Language(StrEnum):
    """In which language titles, questions and reports are."""

    EN = "en"
    DE = "de"


class Form(StrEnum):
    """How a report is written."""

    MD = "md"
    HTML = "html"


Lang = Annotated[Language, typer.Option("--lang", help="en or de.")]
OwnLang = Annotated[Language | None, typer.Option("--lang", help="en or de; the run's own when absent.")]
As = Annotated[str | None, typer.Option("--as", metavar="NAME", help="Who you are; the user of the system when absent.")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's name, its beginning, or `latest`.", autocompletion=run_names)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask whether to begin; questions of the runbook stay.")]
Answers = Annotated[list[str] | None, typer.Option("--answer", metavar="STEP=yes", help="Answer the question of a step; yes or no.")]


def spec_if_any(options: Common) -> Loaded | None:
    """The spec; None where there is none and none was named.

    Raises:
        SpecError: It has faults, or the one that was named is not there.
    """
    try:
        path = options.path
    except SpecError:
        if options.spec is not None or os.environ.get("KIVACTL_SPEC"):
            raise
        return None
    from kivactl.spec.load import load

    return load(path, options.environment)


def spec_for_reading(options: Common) -> Loaded | None:
    """As `spec_if_any`; whoever only wants to read a runbook gets it also where the spec has faults."""
    try:
        return spec_if_any(options)
    except SpecError as error:
        options.sink.warn(f"{error.message}: shown are only the runbooks that come with kivactl; {error.hint}")
        return None


def contacts_of(loaded: Loaded | None) -> dict[str, str]:
    """Who fills the roles."""
    return dict(loaded.platform.runbooks.contacts) if loaded else {}

"""From the common options to a platform: its spec, and where its files lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kivactl.cli.options import Common

if TYPE_CHECKING:
    from kivactl.flows.deployment import Deployment
    from kivactl.stack.layout import Layout


def deployment_of(options: Common) -> Deployment:
    """The platform that a command line means.

    Raises:
        SpecError: Its spec has faults.
    """
    from kivactl.flows.deployment import Deployment
    from kivactl.spec.load import load, paths
    from kivactl.stack.layout import Layout

    path = options.path
    loaded = load(path, options.environment)
    return Deployment(loaded, Layout(*paths(loaded)), lambda: load(path, options.environment))


def layout_of(options: Common) -> tuple[str, Layout]:
    """The platform's name and files, without checking the rest of its spec: for what must answer at once.

    Raises:
        SpecError: The spec cannot be read.
    """
    from kivactl.spec.load import site
    from kivactl.stack.layout import Layout

    name, state = site(options.path, options.environment)
    return name, Layout(state, state)

"""From the common options to a platform: its spec, and where its files lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kivactl.cli.options import Common
from kivactl.errors import KivaError

if TYPE_CHECKING:
    from pathlib import Path

    from kivactl.flows.deployment import Deployment
    from kivactl.spec.load import Site
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


def site_of(options: Common) -> Site:
    """The platform's name, state folder and kind of target, without checking the rest of its spec: for what must answer at once.

    Raises:
        SpecError: The spec cannot be read.
    """
    from kivactl.spec.load import site

    return site(options.path, options.environment)


def layout_of(options: Common) -> tuple[str, Layout]:
    """The platform's name and files, as `site_of` finds them.

    Raises:
        SpecError: The spec cannot be read.
    """
    found = site_of(options)
    return found.name, layout_in(found)


def loadtests_of(options: Common) -> Path:
    """Where the platform's load tests lie; without a spec, those of the folder one is in."""
    from pathlib import Path

    try:
        _, layout = layout_of(options)
    except KivaError:
        return Path(".kiva", "loadtests")
    return layout.loadtests


def own_scenarios(options: Common) -> Path:
    """Where load tests of one's own lie: beside the spec, or in the folder one is in. The folder need not be there."""
    from pathlib import Path

    from kivactl.loadtest.catalogue import OWN

    try:
        return options.path.parent / OWN
    except KivaError:
        return Path(OWN)


def layout_in(site: Site) -> Layout:
    """The files of a platform whose spec was not read further."""
    from kivactl.stack.layout import Layout

    return Layout(site.state, site.state)

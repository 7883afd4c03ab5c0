"""What the values of a gateway's release say of tokens: keys and revocations, which no deploy and no way back may take from it. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from kivactl.errors import PreconditionError
from kivactl.stack.gateway import access
from kivactl.stack.gateway.files import Json
from kivactl.stack.kubernetes.gateway_files import POD_FILES
from kivactl.stack.kubernetes.gateway_values import written

AUTHENTICATION, REVOCATION, ROUTES = POD_FILES.authentication.name, POD_FILES.revoked.name, POD_FILES.routes.name
"""Names of the files."""

Trust = tuple[Json, frozenset[str]]
"""The platform's own keys, and the ids of revoked tokens."""


def files_in(values: Mapping[str, Any]) -> dict[str, Json]:
    """The gateway's files by name, out of its release's values; what is no JSON object is left out."""
    found = {}
    for name, text in (values.get("files") or {}).items():
        try:
            content = json.loads(text)
        except (TypeError, ValueError):
            continue
        if isinstance(content, dict):
            found[str(name)] = content
    return found


def with_files(values: Mapping[str, Any], changes: Mapping[str, Json]) -> dict[str, Any]:
    """The values with other contents of some files."""
    return {**values, "files": {**(values.get("files") or {}), **{name: written(content) for name, content in changes.items()}}}


def trust_in(files: Mapping[str, Json]) -> Trust | None:
    """Keys and revocations in a gateway's files; None where they are not of this version."""
    keys, revoked = access.keys_in(files.get(AUTHENTICATION, {})), access.revoked_in(files.get(REVOCATION, {}))
    return None if keys is None or revoked is None else (keys, revoked)


def changes_for(files: Mapping[str, Json], jwks: Mapping[str, Any], revoked: Sequence[str]) -> dict[str, Json]:
    """The files that have to be other ones, by name, so that a gateway goes by these keys and refuses these tokens.

    A line for a token that has ended meanwhile is no reason to change anything; it goes with the next change.

    Raises:
        PreconditionError: The files are not of this version.
    """
    there = trust_in(files)
    if there is None:
        raise PreconditionError("the files of the gateway in the cluster are not of this version of kivactl", "kivactl deploy")
    if there[0] == jwks and there[1] >= set(revoked):
        return {}
    return {AUTHENTICATION: access.with_keys(files[AUTHENTICATION], jwks), REVOCATION: access.revocation_for(revoked)}


def with_trust_of(values: Mapping[str, Any], newest: Mapping[str, Any]) -> dict[str, Any]:
    """Values with the keys and revocations of other, newer ones: what was revoked stays revoked whatever else is taken back."""
    files, theirs = files_in(values), files_in(newest)
    ours, trust = trust_in(files), trust_in(theirs)
    if ours is None or trust is None or ours == trust:
        return dict(values)
    return with_files(values, {AUTHENTICATION: access.with_keys(files[AUTHENTICATION], trust[0]), REVOCATION: theirs[REVOCATION]})

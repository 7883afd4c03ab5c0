"""Which model answers what share of an alias' requests, changed at a running gateway.

`STATE/shares.json` ({alias: {model: weight}}) is what a rollout of a model that is under way says instead of the spec. A deploy
respects it, so that neither undoes the other.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path

from kivactl.errors import NotReadyError, PreconditionError, ToolError
from kivactl.plan import digest
from kivactl.spec.platform import Platform
from kivactl.stack.gateway.files import Json
from kivactl.stack.gateway.matching import metadata_match
from kivactl.stack.gateway.routes import CLUSTER, ROUTES, VERSION, routes_for
from kivactl.stack.layout import Layout
from kivactl.targets.desired import files_of
from kivactl.targets.release import read_release, write_json, write_release
from kivactl.targets.steering import Shares
from kivactl.tools.clock import Clock
from kivactl.tools.envoy import Admin

_TAKEN_OVER_WITHIN_S = 10.0
_TARGETS = ("cluster", "weighted_clusters")
_COUNTERS = f"http.gateway.rds.{ROUTES}."


def shares_file(layout: Layout) -> Path:
    """Where the shares lie that a rollout under way holds."""
    return layout.state / "shares.json"


def read_shares(layout: Layout) -> Shares:
    """The shares that rollouts under way hold, by alias; empty when none is.

    Raises:
        PreconditionError: The file is there and cannot be read.
    """
    path = shares_file(layout)
    try:
        data = json.loads(path.read_text())
        return {str(alias): {str(model): _weight(weight) for model, weight in shares.items()} for alias, shares in data.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError):
        raise PreconditionError(f"the shares that a rollout holds are unreadable: {path}", f"rm {path} && kivactl deploy    # the spec holds again") from None


def write_shares(layout: Layout, shares: Shares) -> None:
    """Replace them in one step; without any the file goes."""
    if shares:
        write_json(shares_file(layout), shares)
    else:
        shares_file(layout).unlink(missing_ok=True)


def with_shares(platform: Platform, held: Shares) -> Platform:
    """The spec as the gateway is to see it. What is held for an alias or a model that the spec no longer has does not count."""
    models = {model.name for model in platform.models}
    aliases = tuple(
        alias.model_copy(update={"models": in_order(alias.models, held[alias.name])}) if counts(held.get(alias.name), models) else alias
        for alias in platform.aliases
    )
    return platform.model_copy(update={"aliases": aliases})


def counts(shares: Mapping[str, int] | None, models: set[str]) -> bool:
    """Whether held shares mean anything: they name models of the spec, one at least with a weight."""
    return bool(shares) and shares.keys() <= models and sum(shares.values()) > 0  # type: ignore[union-attr]  # bool() has excluded None


def in_order(spec: Mapping[str, int], shares: Mapping[str, int]) -> dict[str, int]:
    """The shares in the spec's order, further models at the end; those left out have none."""
    return {**{model: shares.get(model, 0) for model in spec}, **{model: weight for model, weight in shares.items() if model not in spec}}


def deployed_routes(layout: Layout) -> Json | None:
    """The routes that the gateway has; None when nothing is deployed."""
    try:
        content = json.loads(files_of(layout).routes.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def routes_with(deployed: Json, platform: Platform, held: Shares, alias: str) -> Json | None:
    """The routes in which an alias has the shares that are held for it, else the spec's.

    What else the spec changed since the last deploy does not become effective by this.

    Args:
        deployed: The routes that the gateway has.
        platform: The spec.
        held: Shares that rollouts hold, by alias.
        alias: Of the spec.

    Returns:
        None when the deployed routes do not know the alias.
    """
    wanted: Json = json.loads(json.dumps(routes_for(with_shares(platform, held))))
    if _without_shares(deployed) == _without_shares(wanted):
        return wanted
    patched = copy.deepcopy(deployed)
    towards = next(iter(_unpinned(wanted, alias)))
    own = _unpinned(patched, alias)
    for route in own:
        kept = {key: value for key, value in route["route"].items() if key not in _TARGETS}
        route["route"] = {**{key: value for key, value in towards["route"].items() if key in _TARGETS}, **kept}
        headers = [header for header in route["request_headers_to_add"] if header["header"]["key"] != CLUSTER]
        route["request_headers_to_add"] = [*headers, *(header for header in towards["request_headers_to_add"] if header["header"]["key"] == CLUSTER)]
    return patched if own else None


def publish_routes(layout: Layout, routes: Json, clock: Clock) -> bool:
    """Exchange the routes of what is deployed, and wait until a running gateway has them.

    Returns:
        Whether anything changed.

    Raises:
        ToolError: The gateway refuses them.
        NotReadyError: It does not take them over in time.
    """
    path = files_of(layout).routes
    before = _reloads(layout)
    changed = write_json(path, routes)
    release = read_release(layout.release)
    if release.gateway.get(path.name) != digest(routes):
        release.gateway[path.name] = digest(routes)
        write_release(layout.release, release)
    if not changed or before is None:
        return changed
    for _ in clock.ticks(_TAKEN_OVER_WITHIN_S, every_s=0.02):
        now = _reloads(layout)
        if now is None:  # it stopped; it reads the file when it starts again
            return True
        if now[1] > before[1]:
            raise ToolError("the gateway refuses the new shares", "kivactl logs gateway")
        if now[0] > before[0]:
            return True
    raise NotReadyError(f"the gateway did not take over the shares within {_TAKEN_OVER_WITHIN_S:g} s", "kivactl status; then the same command again")


def _weight(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError
    return value


def _reloads(layout: Layout) -> tuple[int, int] | None:
    """How often the gateway took routes over, and how often it refused them; None when it does not run."""
    counters = Admin(layout.gateway_admin_socket, timeout_s=2).counters(_COUNTERS)
    good, bad = counters.get(f"{_COUNTERS}config_reload"), counters.get(f"{_COUNTERS}update_rejected")
    return None if good is None or bad is None else (good, bad)


def _without_shares(routes: Json) -> list[Json]:
    """The routes without where they lead; those for pinned versions come and go with the shares."""
    return [
        {
            "match": route["match"],
            "route": {key: value for key, value in route.get("route", {}).items() if key not in _TARGETS},
            "answer": route.get("direct_response"),
        }
        for route in _table(routes)
        if not _pinned(route)
    ]


def _unpinned(routes: Json, alias: str) -> list[Json]:
    """The routes of an alias by which its requests are shared out: by the body's model and by the path."""
    by_body = metadata_match("model", {"string_match": {"exact": alias}})
    by_path = "/models/" + alias.replace(".", "\\.") + "/v1/"
    return [
        route
        for route in _table(routes)
        if "route" in route
        and not _pinned(route)
        and (by_body in route["match"].get("dynamic_metadata", ()) or route["match"].get("safe_regex", {}).get("regex", "").startswith(by_path))
    ]


def _pinned(route: Json) -> bool:
    return any(header.get("name") == VERSION for header in route["match"].get("headers", ()))


def _table(routes: Json) -> list[Json]:
    try:
        return list(routes["resources"][0]["virtual_hosts"][0]["routes"])
    except (KeyError, IndexError, TypeError):
        return []

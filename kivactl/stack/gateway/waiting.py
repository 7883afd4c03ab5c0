"""The waiting room: where requests stay for some seconds while no replica of their model is healthy.

When the last replica restarts, an error would be the client's to handle. Instead each model has a second choice behind
its replicas: this listener of the gateway's own, on a Unix socket or, in a pod, on a loopback port. It holds a request for a moment and then tries the
model again, with growing pauses; when the time is over it refuses. The request carries the number of its next pause.
"""

from __future__ import annotations

from kivactl.spec.platform import Platform
from kivactl.stack.gateway import refusals
from kivactl.stack.gateway.files import Files, Json, seconds, type_url
from kivactl.stack.gateway.routes import CLUSTER, retries

PAUSE = "x-kiva-pause"
"""Header: the number of the pause that comes next; what clients send under this name is dropped."""

_PAUSES = 12
_GROWTH = 1.3
_TRIES = 8
"""A restarting replica that seems to be back and is not may fail some times in one pause."""


def pauses_for(wait_s: float) -> list[float]:
    """The pauses in seconds: each 1.3 times the one before, together the whole wait; none for no wait."""
    first_s = wait_s * (_GROWTH - 1) / (_GROWTH**_PAUSES - 1)
    return [first_s * _GROWTH**number for number in range(_PAUSES)] if wait_s > 0 else []


def waiting_room_for(platform: Platform, files: Files) -> Json:
    """The listener."""
    pauses = pauses_for(platform.gateway.wait)
    manager = {
        "@type": type_url("extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "waiting",
        "generate_request_id": False,
        "preserve_external_request_id": True,
        "use_remote_address": False,
        "skip_xff_append": True,
        "stream_idle_timeout": seconds(platform.gateway.request_timeout),
        "local_reply_config": refusals.local_replies(),
        "http_filters": [
            {"name": "fault", "typed_config": {"@type": type_url("extensions.filters.http.fault.v3.HTTPFault")}},
            {"name": "router", "typed_config": {"@type": type_url("extensions.filters.http.router.v3.Router"), "suppress_envoy_headers": True}},
        ],
        "route_config": {
            "name": "waiting",
            "virtual_hosts": [{"name": "waiting", "domains": ["*"], "routes": _routes(pauses, platform.gateway.request_timeout)}],
        },
    }
    return {
        "@type": type_url("config.listener.v3.Listener"),
        "name": "waiting",
        "address": _private(files.waiting_room),
        "per_connection_buffer_limit_bytes": platform.gateway.request_size,
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


def waiting_endpoint(files: Files) -> Json:
    """The waiting room as the last choice among a model's replicas."""
    return {
        "priority": 1,
        "lb_endpoints": [
            {
                "endpoint": {
                    "address": files.waiting_room,
                    "hostname": "waiting",
                    "health_check_config": {"disable_active_health_check": True},
                }
            }
        ],
    }


def _private(address: Json) -> Json:
    """The address to listen on; a socket in a folder only for the gateway's user."""
    return {"pipe": {**address["pipe"], "mode": 0o600}} if "pipe" in address else address


def _routes(pauses: list[float], timeout_s: float) -> list[Json]:
    routes = []
    for number, pause_s in enumerate(pauses):
        here = [{"name": PAUSE, "present_match": False}] if number == 0 else [{"name": PAUSE, "string_match": {"exact": str(number)}}]
        delay = {"percentage": {"numerator": 100}, "fixed_delay": seconds(pause_s)}
        following = {"header": {"key": PAUSE, "value": str(number + 1)}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
        routes.append(
            {
                "match": {"prefix": "/", "headers": here},
                "route": {"cluster_header": CLUSTER, "timeout": seconds(timeout_s), "retry_policy": retries(_TRIES)},
                "request_headers_to_add": [following],
                "typed_per_filter_config": {"fault": {"@type": type_url("extensions.filters.http.fault.v3.HTTPFault"), "delay": delay}},
            }
        )
    return [*routes, refusals.route({"prefix": "/"}, refusals.NO_REPLICA)]

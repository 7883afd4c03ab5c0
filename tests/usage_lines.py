"""Lines as the gateway and the engines write them, and a platform's files for the meter."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

NOON_S = datetime(2026, 11, 23, 12, 0, tzinfo=UTC).timestamp()


def stamp(at_s: float = NOON_S) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def access_line(request_id: str | None = "r1", at_s: float = NOON_S, **changes: Any) -> str:
    row = {
        "at": stamp(at_s),
        "request_id": request_id,
        "tenant": "lab",
        "token_id": "0011223344556677",
        "token_name": "ci",
        "issuer": "kiva",
        "model": "chat",
        "version": "m",
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": 200,
        "details": "via_upstream",
        "flags": "-",
        "attempts": 1,
        "first_byte_ms": 40,
        "duration_ms": 500,
        "received_bytes": 300,
        "sent_bytes": 2400,
        "client": "10.0.0.7",
        "replica": "/run/m-0.sock",
        "trace_id": None,
    }
    return json.dumps(row | changes) + "\n"


def refused_line(request_id: str = "r1", status: int = 429, **changes: Any) -> str:
    nothing = {"version": None, "replica": None, "attempts": 0, "first_byte_ms": None, "duration_ms": 1, "sent_bytes": 120}
    return access_line(request_id, status=status, **(nothing | changes))


def count_line(request_id: str = "r1", at_s: float = NOON_S, **changes: Any) -> str:
    row = {
        "at": datetime.fromtimestamp(at_s, UTC).isoformat(),
        "request_id": request_id,
        "replica": "m-0",
        "model": "m",
        "prompt_tokens": 100,
        "cached_tokens": 20,
        "completion_tokens": 10,
        "finished": True,
    }
    return json.dumps(row | changes) + "\n"


def orders(folder: Path, **changes: Any) -> dict[str, Any]:
    """Orders of a platform whose files lie in a folder, which is made."""
    for name in ("logs", "usage", "gateway"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    tenants = {
        "lab": {"cost_centre": "4711", "contact": None, "limits": {"chat": None, "m": None}, "monthly_budget": None},
        "hall": {"cost_centre": None, "contact": None, "limits": {"chat": None, "m": None}, "monthly_budget": None},
    }
    prices = {"m": {"input": "1000", "cached": "100", "output": "2000", "flat": "0", "free_tokens": 0}}
    return {
        "platform": "kiva",
        "access_log": str(folder / "logs/access.log"),
        "usage_folder": str(folder / "usage"),
        "admin_socket": str(folder / "admin.sock"),
        "quota": str(folder / "gateway/quota.json"),
        "ledger": f"sqlite:{folder}/usage/ledger.db",
        "currency": "EUR",
        "keep_s": 400 * 86400.0,
        "tenants": tenants,
        "prices": prices,
    } | changes


def append(path: Path, *lines: str) -> None:
    with path.open("a") as file:
        file.write("".join(lines))


def until(holds: Callable[[], Any], within_s: float) -> Any:
    """Wait for something that another process does."""
    end_s = time.monotonic() + within_s
    while not (found := holds()):
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.05)
    return found
